"""Fine-tuning an encoder on multiple-choice questions, through transformers' Trainer: a model folder, and a run of its own in the
warehouse, with loss and accuracy by step, which is the parent of the captures made from the model.

Which epoch is kept is not decided on the split that is reported: a tenth of the training questions is set aside, not trained on,
and the epoch that answers most of them right is kept, the first among equals. Where that tenth would be fewer than 20 questions,
or there is one epoch only, all are trained on and the last epoch is kept.

While it goes on, checkpoints lie in `OUT/checkpoints`, one an epoch: the last, to go on from, and the best so far. In the end the
weights of the one kept are OUT itself, and the checkpoints are gone. Training reads the same pairs of tokens as a capture does
(`capture.sequences.question_pairs`).
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Subset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from capture.data.example import Source
from capture.jobs.choice_scores import check_questions
from capture.jobs.job import check_option_sizes, resolve_max_len
from capture.jobs.run_manifest import default_name
from capture.jobs.versions import versions
from capture.model import loading
from capture.model.anatomy import Anatomy, examine
from capture.model.body import padding_id, vocabulary_size
from capture.model.failures import error_sentence, explain_memory_errors, is_memory_error
from capture.model.hashes import weights_hash
from capture.model.model_info import model_info
from capture.sequences.question_pairs import PairMaker
from capture.sequences.sequence import TokenSequence, check_ids
from warehouse.catalog.publish import publish
from warehouse.errors import RunExistsError, TracesError, UncertainResultWarning, UsageError
from warehouse.schema.tables import SCHEMA_VERSION
from warehouse.storage import paths, strict_json
from warehouse.storage.files import delete, write_atomically
from warehouse.storage.manifest import Counts, DataInfo, Manifest, StagedRun
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_writer import RunWriter

KIND = "finetune"
_CHECKPOINTS = "checkpoints"
_IDENTITY_FILE = "begun.json"
_STATE = "trainer_state.json"
_WEIGHTS = "model.safetensors"
_CHECKPOINT = re.compile(r"checkpoint-\d{1,18}")
_LOGS_AN_EPOCH = 10
_SET_ASIDE_EVERY = 10
"""One in so many training questions is set aside to choose the epoch by."""
_MIN_SET_ASIDE = 20
"""Of fewer, which epoch does best is chance."""
SET_ASIDE = "set aside"
"""What the table `training` calls those questions."""


@dataclass(frozen=True)
class Options:
    epochs: int = 3
    lr: float = 5e-5
    batch_size: int = 8
    """Questions to a step, each with all its choices."""
    seed: int = 0
    gradient_checkpointing: bool = False
    limit: int | None = None
    """Only the first so many training questions."""
    max_len: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for numbers that nothing can be trained with."""
        check_option_sizes(self, {"seed": (1 << 32) - 1})
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: 0 or more.")
        if not 0 <= self.lr < math.inf:
            raise UsageError(f"--lr {self.lr}: a number from 0 up.")


@dataclass
class TrainingProgress:
    """How far it is; reported after every optimizer step."""

    step: int
    steps: int
    epoch: float
    loss: float | None = None
    accuracy: float | None = None
    """The last measured on the questions held out."""


Report = Callable[[TrainingProgress], None]


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
        _prepare_folder(out, checkpoints, identity),
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


def choose_set_aside(answers: list[int], options: Options) -> list[int]:
    """Which training questions to choose the epoch by, of every answer as large a part; none where that would be too few."""
    if options.epochs < 2 or len(answers) < _SET_ASIDE_EVERY * _MIN_SET_ASIDE:
        return []
    random = np.random.default_rng((options.seed, 2)).permutation(len(answers))
    return sorted(np.lexsort((random, np.array(answers)))[::_SET_ASIDE_EVERY].tolist())


def _is_finite(model: torch.nn.Module) -> bool:
    return all(bool(w.isfinite().all()) for w in model.state_dict().values())


@dataclass(frozen=True)
class Questions(Dataset[tuple[list[TokenSequence], int]]):
    """Pairs of all questions, and their answers."""

    pairs: list[list[TokenSequence]]
    answers: list[int]
    texts: list[str]
    """Of each question and its choices, in whatever order these stand."""
    hash: str
    truncated: int

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[list[TokenSequence], int]:
        return self.pairs[i], self.answers[i]

    @property
    def tokens(self) -> int:
        return sum(s.n_tokens for pair in self.pairs for s in pair)


def load_questions(source: Source, pairing: PairMaker, limit: int | None, loaded: loading.Loaded) -> Questions:
    """Raises UsageError where there is no question, or one has no answer to learn from, or a token that the model has not."""
    check_questions(source)
    pairs: list[list[TokenSequence]] = []
    answers: list[int] = []
    texts: list[str] = []
    truncated, digest = 0, xxhash.xxh3_128()
    for t in pairing.tokenize(islice(source.read(), limit)):
        row = t.example.row
        if row.answer is None:
            raise UsageError(
                f"{source.origin}: question {row.source_id} has no key, so that nothing can be learnt of it."
            )
        if pairs and len(pairs[0]) != len(t.sequences):
            raise UsageError(
                f"{source.origin}: question {row.source_id} has another number of choices than those before it."
            )
        for sequence in t.sequences:
            where = f"{source.origin}, question {row.source_id}"
            check_ids(sequence.sides["enc"].ids, vocabulary_size(loaded.model), loaded.tokenizer, loaded.name, where)
        pairs.append(t.sequences)
        answers.append(row.answer)
        texts.append("\x1f".join([row.text, *sorted(c.text for c in row.choices)]))
        truncated += t.truncated
        digest.update(f"{t.example.example_id}\x1f{row.text}\x1e".encode("utf-8", "surrogatepass") + row.annotations())
    if not pairs:
        raise UsageError(f"{source.origin}: there is no question in it.")
    return Questions(pairs, answers, texts, digest.hexdigest(), truncated)


@contextmanager
def _prepare_folder(out: Path, checkpoints: Path, identity: dict[str, Any]) -> Iterator[None]:
    """Makes `out` ready to train into, and leaves nothing of it where the training failed before its first checkpoint.

    Raises UsageError where it holds a model, or another training that was begun.
    """
    begun = checkpoints / _IDENTITY_FILE
    made = [p for p in (checkpoints, *checkpoints.parents) if not p.exists()]
    if not begun.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(
                f"{out} is not {'empty' if out.is_dir() else 'a folder'}. Choose another --out, or delete it."
            )
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(begun, json.dumps(identity, indent=1).encode())
    elif _read_identity(begun) != json.loads(json.dumps(identity)):
        raise UsageError(
            f"Another fine-tuning was begun in {out}, with other data or options. Go on with those, choose another --out, or "
            "delete it."
        )
    try:
        yield
    except BaseException:
        if made and not complete_checkpoints(checkpoints):
            delete(checkpoints)
            for folder in made[1:]:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
        raise


def _read_identity(begun: Path) -> Any:
    try:
        return strict_json.parse(begun.read_bytes())
    except ValueError:
        return None


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that are whole, the last one last: their state is written after everything else."""
    found = [p for p in folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(p.name) and (p / _STATE).is_file()]
    return sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))


def find_resume_checkpoint(folder: Path) -> Path | None:
    """Where to go on from; deletes what a kill has left half written. Raises UsageError for one that a training of ours does not
    leave: its best weights elsewhere, or pickled.
    """
    whole = complete_checkpoints(folder)
    for path in folder.glob("checkpoint-*"):
        if path not in whole:
            delete(path)
    if not whole:
        return None
    try:
        best = strict_json.parse((whole[-1] / _STATE).read_bytes())["best_model_checkpoint"]
        places = [whole[-1], Path(best) if best is not None else whole[-1]]
    except (ValueError, TypeError, KeyError):
        places = []
    inside = all(p.resolve().parent == folder.resolve() and (p / _WEIGHTS).is_file() for p in places)
    if not places or not inside:
        raise UsageError(
            f"{whole[-1]} is not a checkpoint to go on from: it, or the best one that it names, has no {_WEIGHTS} in {folder}. "
            "Delete it to go on from the one before it, or the whole folder to begin again."
        )
    return whole[-1]


def train_model(
    loaded: loading.Loaded,
    questions: Questions,
    aside: list[int],
    held: Questions,
    options: Options,
    checkpoints: Path,
    report: Report,
) -> tuple[list[dict[str, float]], int]:
    """Trains the model on all questions but those aside, goes back to the epoch that does best on these, if any, and returns what
    was measured on the way, and the step kept.
    """
    trained = sorted(set(range(len(questions))) - set(aside))
    judged: dict[str, Any] = {"held": held} | ({"aside": Subset(questions, aside)} if aside else {})
    last = find_resume_checkpoint(checkpoints)
    if options.gradient_checkpointing:
        loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
    steps = math.ceil(len(trained) / options.batch_size)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=options.epochs,
        learning_rate=options.lr,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        seed=options.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=bool(aside),
        metric_for_best_model="eval_aside_accuracy" if aside else None,
        logging_strategy="no",  # _Watch says when
        report_to="none",
        disable_tqdm=True,
        use_cpu=loaded.model.device.type == "cpu",
        dataloader_pin_memory=loaded.model.device.type == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
    )
    watch = _ReportingCallback(report, steps)
    trainer = _CountingTrainer(
        model=loaded.model.requires_grad_(True),
        args=arguments,
        train_dataset=Subset(questions, trained),
        eval_dataset=judged,
        data_collator=lambda rows: collate(rows, padding_id(loaded.model)),
        compute_metrics=_accuracy,
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    except Exception as e:  # whatever reading a checkpoint that was altered comes to
        if last is None or is_memory_error(e) or watch.stepped:
            raise
        raise UsageError(
            f"{last} cannot be gone on from: {error_sentence(e)} Delete it to go on from the one before it, or all of {checkpoints} to "
            "begin again."
        ) from e
    state = trainer.state
    return state.log_history, state.best_global_step or state.global_step  # without questions aside, none is the best


def _accuracy(evaluated: Any) -> dict[str, float]:
    return {"accuracy": float((evaluated.predictions.argmax(-1) == evaluated.label_ids).mean())}


class _CountingTrainer(Trainer):
    """Counts the training questions that were answered right, and leaves its own printing to us."""

    right = seen = 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.right += int((outputs.logits.argmax(-1) == inputs["labels"]).sum())
            self.seen += len(inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kw: Any) -> None:
        if "loss" in logs and self.seen:
            logs["accuracy"] = self.right / self.seen
            self.right = self.seen = 0
        super().log(logs, *args, **kw)


class _ReportingCallback(TrainerCallback):
    """Reports every step, and has what was counted logged some times an epoch, anew with each, as after a kill."""

    stepped = False

    def __init__(self, report: Report, steps: int) -> None:
        self._report, self._steps, self._every = report, steps, max(1, steps // _LOGS_AN_EPOCH)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self.stepped = True
        done = state.global_step % self._steps  # 0 at the end of an epoch
        control.should_log = done == 0 or (done % self._every == 0 and done + self._every <= self._steps)
        loss = next((row["loss"] for row in reversed(state.log_history) if "loss" in row), None)
        accuracy = next(
            (row["eval_held_accuracy"] for row in reversed(state.log_history) if "eval_held_accuracy" in row), None
        )
        self._report(TrainingProgress(state.global_step, state.max_steps, state.epoch or 0.0, loss, accuracy))


def collate(rows: Iterable[tuple[list[TokenSequence], int]], pad_id: int) -> dict[str, torch.Tensor]:
    """Questions → (B, C, T) ids, mask and types, and (B,) answers."""
    rows = list(rows)
    parts = [s.sides["enc"] for pairs, _ in rows for s in pairs]

    def stacked(arrays: list[np.ndarray], fill: int) -> torch.Tensor:
        padded = pad_sequence([torch.from_numpy(a) for a in arrays], batch_first=True, padding_value=fill)
        return padded.unflatten(0, (len(rows), -1))

    batch = {
        "input_ids": stacked([p.ids for p in parts], pad_id),
        "attention_mask": stacked([np.ones(len(p), np.int64) for p in parts], 0),
        "labels": torch.tensor([answer for _, answer in rows]),
    }
    if parts[0].types is not None:
        batch["token_type_ids"] = stacked([p.types for p in parts if p.types is not None], 0)
    return batch


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
