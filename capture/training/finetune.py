"""Fine-tune an encoder on multiple-choice questions, through transformers' Trainer.

The result is a model folder, and a run in the warehouse with loss and accuracy by step, which is the parent of the captures made from
the model.

The epoch to keep is not chosen on the split that is reported: a tenth of the training questions is set aside and not trained on, and
the epoch that answers most of them right is kept, the first among equals. Where that tenth would be fewer than 20 questions, or there
is only one epoch, all are trained on and the last epoch is kept.

Meanwhile `OUT/checkpoints` holds two checkpoints, the last epoch's, to resume from, and the best one's. In the end OUT has the weights
of the epoch kept, and the checkpoints are gone. `questions` reads the data, `trainer` trains, `checkpoints` looks after the folder.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from capture.data.example import Source
from capture.jobs.job import resolve_max_len
from capture.jobs.run_manifest import default_name
from capture.jobs.versions import versions
from capture.model import loading
from capture.model.anatomy import Anatomy
from capture.model.examine import examine
from capture.model.failures import explain_memory_errors
from capture.model.hashes import weights_hash
from capture.model.model_info import model_info
from capture.sequences.question_pairs import PairMaker
from capture.training.checkpoints import prepare_folder
from capture.training.options import Options, Report
from capture.training.questions import Questions, choose_set_aside, load_questions
from capture.training.trainer import train_model
from warehouse.catalog.publish import publish
from warehouse.errors import TracesError, UncertainResultWarning, UsageError
from warehouse.storage import run_list
from warehouse.storage.files import delete, write_atomically
from warehouse.storage.manifest import Counts, DataInfo, Manifest, StagedRun
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter

KIND = "finetune"
_CHECKPOINTS = "checkpoints"
SET_ASIDE = "set aside"
"""What the table `training` calls the split of the questions set aside."""


def finetune(
    loaded: loading.Loaded,
    train: Source,
    held_out: Source,
    options: Options,
    *,
    out: Path,
    root: AnyPath,
    run_id: str | None = None,
    report: Report = lambda _: None,
) -> Manifest:
    """Fine-tune a model, leave the epoch kept in a folder, and publish the training as a run.

    The same call resumes where an earlier one was interrupted. The manifest's options say how many questions were `set_aside`, and
    which `kept_step` was kept. Warns (UncertainResultWarning) where held-out questions are also training questions.

    Args:
        loaded: An encoder with a multiple-choice head; it is changed.
        train: The split to train on.
        held_out: The split that every epoch is measured on; it chooses nothing.
        options: How to train.
        out: The new model's folder.
        root: The warehouse's folder.
        run_id: The new run's name; None: one made from model and data.
        report: Called after every step.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: The model is not an encoder, the data has no questions with answers, both splits are one, or `out` holds
            something else.
        RunExistsError: The new run exists already.
        TracesError: The training diverged.
    """
    anatomy = examine(loaded.model)
    if anatomy.body.encoder_decoder or anatomy.body.side != "enc":
        raise UsageError(f"{loaded.name} is no encoder: finetune mcq trains encoders on pairs of question and choice.")
    pairing = PairMaker(loaded.tokenizer, loaded.name, resolve_max_len(loaded, options.max_len))
    if (train.dataset, train.config, train.split) == (held_out.dataset, held_out.config, held_out.split):
        raise UsageError(
            f"The model would be evaluated on {held_out.split}, the split that it is trained on. Choose another --eval-split."
        )
    questions = load_questions(train, pairing, options.limit, loaded)
    held = load_questions(held_out, pairing, None, loaded)
    aside = choose_set_aside(questions.answers, options)
    base = weights_hash(loaded.model)
    facts = {"model": base, "data": [questions.hash, held.hash], "options": asdict(options)}
    identity = RunIdentity(KIND, facts)
    run_id = run_id or default_name(f"{loaded.name}-finetune", train, identity)
    run_list.check_free(root, run_id)
    checkpoints = out / _CHECKPOINTS
    remedy = f"Lower --batch-size (now {options.batch_size}) or --max-len, or add --gradient-checkpointing."
    with (
        explain_memory_errors(f"train {loaded.name}", remedy),
        RunWriter(root, run_id, identity.to_dict()) as writer,
        prepare_folder(out, checkpoints, identity.to_dict()),
    ):
        history, kept = train_model(loaded, questions, aside, held, options, checkpoints, report)
        model = loaded.model.eval().requires_grad_(False)
        losses = [v for entry in history for name, v in entry.items() if name.endswith("_loss")]
        if not all(map(math.isfinite, losses)) or not _is_finite(model):
            raise TracesError(
                f"The training of {loaded.name} diverged: its loss or its weights are no longer numbers. Delete {out}, and train "
                f"with a smaller --lr than {options.lr:g}."
            )
        result = weights_hash(model)
        _save(out, loaded, model, loading.Finetuned(run_id, result))
        rows = _training_rows(history, held_out.split or "held out")
        chosen = {"held_out": len(held), "set_aside": len(aside), "kept_step": kept}
        if not writer.done:
            writer.begin_shard({}, {})
            writer.put(RecordedBatch([], {}, {}, {"training": to_table("training", rows)}))
            writer.end_shard(result)

        def manifest(published: StagedRun) -> Manifest:
            trained = loading.Loaded(model, loaded.tokenizer, str(out), None, loaded.device, loaded.trust_remote_code)
            return _make_manifest(
                trained, anatomy, train, questions, chosen, options, base, loaded.name, run_id or "", published
            )

        published_manifest = publish(writer, manifest)
    delete(checkpoints)
    shared = len(set(held.texts) & set(questions.texts))
    if shared:
        warnings.warn(
            f"{run_id}: {shared:,} of {len(held):,} questions of {held_out.split} are training questions too, so that its accuracy is "
            "not that of questions the model has not seen.",
            UncertainResultWarning,
            stacklevel=2,
        )
    return published_manifest


def _is_finite(model: torch.nn.Module) -> bool:
    return all(bool(w.isfinite().all()) for w in model.state_dict().values())


def _save(out: Path, loaded: loading.Loaded, model: Any, finetuned: loading.Finetuned) -> None:
    model.save_pretrained(out)
    loaded.tokenizer.save_pretrained(out)
    write_atomically(out / loading.FINETUNED, json.dumps(asdict(finetuned), indent=1).encode())


def _training_rows(history: list[dict[str, float]], split: str) -> dict[str, list[Any]]:
    """Turn the Trainer's history into columns of the table `training`."""
    rows = []
    names = {"held": f"{split} (judged)" if split in ("train", SET_ASIDE) else split, "aside": SET_ASIDE}
    for entry in history:
        at = {"step": int(entry["step"]), "epoch": entry["epoch"]}
        measured = next((name for name in names if f"eval_{name}_loss" in entry), None)
        if measured:
            values = {
                "split": names[measured],
                "loss": entry[f"eval_{measured}_loss"],
                "accuracy": entry[f"eval_{measured}_accuracy"],
                "learning_rate": None,
            }
        elif "loss" in entry and "accuracy" in entry:
            values = {k: entry[k] for k in ("loss", "accuracy", "learning_rate")} | {"split": "train"}
        else:  # the summary at the end
            continue
        rows.append(at | values)
    if not rows:
        raise TracesError("The training left no measurements.")
    return {name: [row[name] for row in rows] for name in rows[0]}


def _make_manifest(
    trained: loading.Loaded,
    anatomy: Anatomy,
    train: Source,
    questions: Questions,
    chosen: dict[str, int],
    options: Options,
    base: str,
    base_name: str,
    run_id: str,
    published: StagedRun,
) -> Manifest:
    return Manifest(
        run_id=run_id,
        kind=KIND,
        created_at=published.created_at,
        seconds=published.seconds,
        model=model_info(trained, anatomy),
        data=DataInfo(
            dataset=train.dataset, config=train.config, split=train.split, source=train.origin, hash=questions.hash
        ),
        options={"model": base_name, "model_weights_hash": base, **asdict(options), **chosen},
        store_dtype="F32",
        counts=Counts(
            examples=len(questions),
            sequences=sum(map(len, questions.pairs)),
            tokens=questions.tokens,
            predictions=0,
            truncated=questions.truncated,
            rows=published.rows,
        ),
        bytes=sum(f.bytes for f in published.files),
        files=published.files,
        versions=versions(),
    )
