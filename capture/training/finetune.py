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
from capture.model.anatomy import Anatomy, examine
from capture.model.failures import explain_memory_errors
from capture.model.hashes import weights_hash
from capture.model.model_info import model_info
from capture.sequences.question_pairs import PairMaker
from capture.training.checkpoints import prepare_folder
from capture.training.options import Options, Report
from capture.training.questions import Questions, choose_set_aside, load_questions
from capture.training.trainer import train_model
from warehouse.catalog.publish import publish
from warehouse.errors import RunExistsError, TracesError, UncertainResultWarning, UsageError
from warehouse.schema.tables import SCHEMA_VERSION
from warehouse.storage import paths
from warehouse.storage.files import delete, write_atomically
from warehouse.storage.manifest import Counts, DataInfo, Manifest, StagedRun
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_writer import RunWriter

KIND = "finetune"
_CHECKPOINTS = "checkpoints"
SET_ASIDE = "set aside"
"""What the table `training` calls those questions."""


def finetune(
    loaded: loading.Loaded,
    train: Source,
    held_out: Source,
    options: Options,
    *,
    out: Path,
    root: Path,
    run_id: str | None = None,
    report: Report = lambda _: None,
) -> Manifest:
    """Trains `loaded`, a model with a multiple-choice head, and leaves the epoch kept in `out`, or goes on with it where it was
    interrupted. The manifest's options tell how many questions were `set_aside`, and which `kept_step` that was.

    Raises UsageError where `out` holds something else, where the data is not of questions with answers, where both splits are
    one, or for a model that is no encoder. Warns (UncertainResultWarning) of held-out questions that are training questions too.
    """
    anatomy = examine(loaded.model)
    if anatomy.body.encoder_decoder or anatomy.body.side != "enc":
        raise UsageError(f"{loaded.name} is no encoder: finetune mcq trains encoders on pairs of question and choice.")
    pairing = PairMaker(loaded.tokenizer, loaded.name, resolve_max_len(loaded, options.max_len))
    if (train.dataset, train.config, train.split) == (held_out.dataset, held_out.config, held_out.split):
        raise UsageError(
            f"The model would be judged on {held_out.split}, the split that it is trained on. Choose another --eval-split."
        )
    questions = load_questions(train, pairing, options.limit, loaded)
    held = load_questions(held_out, pairing, None, loaded)
    aside = choose_set_aside(questions.answers, options)
    base = weights_hash(loaded.model)
    identity = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "model": base,
        "data": [questions.hash, held.hash],
        "options": asdict(options),
    }
    run_id = run_id or default_name(f"{loaded.name}-finetune", train, identity)
    if paths.run_dir(root, paths.check_run_name(run_id)).exists():
        raise RunExistsError(run_id)
    checkpoints = out / _CHECKPOINTS
    less = f"Lower --batch-size (now {options.batch_size}) or --max-len, or add --gradient-checkpointing."
    with (
        explain_memory_errors(f"train {loaded.name}", less),
        RunWriter(root, run_id, identity) as writer,
        prepare_folder(out, checkpoints, identity),
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
            made = loading.Loaded(model, loaded.tokenizer, str(out), None, loaded.device, loaded.trust_remote_code)
            return _make_manifest(
                made, anatomy, train, questions, chosen, options, base, loaded.name, run_id or "", published
            )

        found = publish(writer, manifest)
    delete(checkpoints)
    known = len(set(held.texts) & set(questions.texts))
    if known:
        warnings.warn(
            f"{run_id}: {known:,} of {len(held):,} questions of {held_out.split} are training questions too, so that its accuracy is "
            "not that of questions the model has not seen.",
            UncertainResultWarning,
            stacklevel=2,
        )
    return found


def _is_finite(model: torch.nn.Module) -> bool:
    return all(bool(w.isfinite().all()) for w in model.state_dict().values())


def _save(out: Path, loaded: loading.Loaded, model: Any, made: loading.Finetuned) -> None:
    model.save_pretrained(out)
    loaded.tokenizer.save_pretrained(out)
    write_atomically(out / loading.FINETUNED, json.dumps(asdict(made), indent=1).encode())


def _training_rows(history: list[dict[str, float]], split: str) -> dict[str, list[Any]]:
    """The Trainer's history as rows of `training`."""
    rows = []
    names = {"held": f"{split} (judged)" if split in ("train", SET_ASIDE) else split, "aside": SET_ASIDE}
    for entry in history:
        at = {"step": int(entry["step"]), "epoch": entry["epoch"]}
        judged = next((name for name in names if f"eval_{name}_loss" in entry), None)
        if judged:
            told = {
                "split": names[judged],
                "loss": entry[f"eval_{judged}_loss"],
                "accuracy": entry[f"eval_{judged}_accuracy"],
                "learning_rate": None,
            }
        elif "loss" in entry and "accuracy" in entry:
            told = {k: entry[k] for k in ("loss", "accuracy", "learning_rate")} | {"split": "train"}
        else:  # the summary at the end
            continue
        rows.append(at | told)
    if not rows:
        raise TracesError("The training left no measurements.")
    return {name: [row[name] for row in rows] for name in rows[0]}


def _make_manifest(
    made: loading.Loaded,
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
        model=model_info(made, anatomy),
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
