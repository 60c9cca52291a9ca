"""The task job: both prompts of each pair of a task through a decoder, and how well it answers them.

An example is a pair: seq 0 is its clean prompt, seq 1 its corrupted one, in one batch. Beside the rows of `next_token` of both there
are which tokens the metrics are about (`task_targets`), where the prompts differ (`task_pairs`), and every metric of both
(`task_scores`). `open_pairs` finds the pairs that fit the model; `run` captures them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pyarrow as pa
import torch
import xxhash

from capture.data.example import Example, Row, Source
from capture.data.files import printable_value
from capture.data.tasks.task import Pair, Task
from capture.jobs import job, prepare, run_job
from capture.jobs.next_token import check_score_values, next_token_tables
from capture.model import loading
from capture.model.anatomy import Anatomy
from capture.model.examine import examine
from capture.model.lm_head import LMHead
from capture.recording.metrics import METRICS, SIGNED, Targets, log_probs, metric
from capture.recording.recorder import Recording
from capture.recording.rows import Rows
from capture.sequences.batches import Batch
from capture.sequences.bos import resolve_bos
from capture.sequences.decoding import decode_tokens
from capture.sequences.encoding import find_frame, text_change_detector
from capture.sequences.prompt_pairs import EncodedPair, PairEncoder, Reason, Unfit
from capture.sequences.sequence import TokenizedExample, TokenSequence
from capture.sequences.tokenize import SequenceMaker
from warehouse.errors import UsageError
from warehouse.storage.losses import mean_loss
from warehouse.storage.parquet import to_table

KIND = "task"
DEFAULT_PAIRS = 200
"""Pairs of a task that ships, where no number is given."""

_CANDIDATES = 10
"""How many times as many pairs are drawn, at most, where some do not fit the model's tokenizer."""
_SLICE_LOGITS = 1 << 24
"""Logits that metrics are computed from at a time."""
_LEFT_OUT = {Reason.NO_TARGET, Reason.MERGED}
"""Why a pair with numbers for answers may be left out of a file too: it is right, and this tokenizer cuts its numbers otherwise."""
_REMEDIES = {
    Reason.UNEQUAL: " Use words of as many tokens in both.",
    Reason.SEVERAL: " An answer is one token, written with the space before it, as in ' Mary'.",
}


@dataclass(frozen=True)
class Options(job.Options):
    """What the user chose, and what follows from the task."""

    n: int | None = None
    """The most pairs; None: all of a file, `DEFAULT_PAIRS` of a task that ships."""
    seed: int = 0
    """The seed that pairs are drawn with."""
    top_k: int = 5
    """How many predicted tokens are kept at each position."""
    task: str = ""
    """The task's name; filled in from the pairs, as what follows is."""
    metric: str = ""
    """The task's own metric."""
    pairs_hash: str = ""
    """A hash of the prompts and their targets."""


@dataclass(frozen=True)
class PairSource(Source):
    """Pairs of a task that fit a model, as the source of a capture: its rows are the clean prompts."""

    task: Task | None = None
    pairs: Mapping[str, EncodedPair] = field(default_factory=dict, repr=False)
    """The pairs in tokens, by their rows' ids."""


def open_pairs(loaded: loading.Loaded, task: Task, options: Options) -> PairSource:
    """Find the pairs of a task that fit a model's tokenizer.

    Of a task that ships those that do not fit are left out, and others drawn; of a file of the user's own they are refused.

    Args:
        loaded: The model.
        task: The task.
        options: How many pairs, their seed, and what a prompt begins with.

    Returns:
        The source to capture.

    Raises:
        UsageError: A pair of a file does not fit, or none of a task does.
    """
    encoder = PairEncoder(loaded.tokenizer, loaded.window, resolve_bos(loaded, options.prepend_bos), task.whole_answers)
    wanted = options.n if options.n is not None or task.own else DEFAULT_PAIRS
    fitting: dict[str, EncodedPair] = {}
    unfit: list[tuple[Pair, Unfit]] = []
    for pair in islice(task.pairs(loaded.tokenizer, options.seed), None if task.own else _CANDIDATES * (wanted or 0)):
        if len(fitting) == wanted:
            break
        found = encoder.encode(pair)
        if isinstance(found, Unfit):
            unfit.append((pair, found))
        else:
            fitting[pair.source_id] = found
    refused = unfit if task.whole_answers else [u for u in unfit if u[1].reason not in _LEFT_OUT]
    if task.own and refused:
        (pair, why), n = refused[0], len(fitting) + len(unfit)
        others = f" ({len(refused):,} of {n:,} pairs do not fit {loaded.name})" if n > 1 else ""
        raise UsageError(f"{pair.where}: {why.detail}{others}.{_REMEDIES.get(why.reason, '')}")
    if not fitting:
        example = f": {unfit[0][1].detail}" if unfit else ""
        raise UsageError(f"{task.origin}: no pair fits the tokenizer of {loaded.name}{example}.")
    rows = [
        Row(source_id, e.pair.clean, {"corrupted": e.pair.corrupted, **e.pair.facts})
        for source_id, e in fitting.items()
    ]
    description = _describe(task, len(fitting), wanted, [u.reason for _, u in unfit])
    return PairSource(
        task.name,
        None,
        None,
        task.origin,
        lambda: iter(rows),
        has_ids=False,
        own=task.own,
        description=lambda: description,
        task=task,
        pairs=fitting,
    )


def _describe(task: Task, n: int, wanted: int | None, left_out: list[Reason]) -> str | None:
    """Return a line on the pairs that were left out; None where there are none."""
    if not left_out:
        return None if wanted is None or task.own or n == wanted else f"{task.name}: {n:,} pairs, and no more"
    reasons = ", ".join(f"{reason.value} ({count:,})" for reason, count in Counter(left_out).most_common())
    kept = f"{n:,} pairs kept" if wanted is None or n == wanted or task.own else f"{n:,} of {wanted:,} pairs found"
    return f"{printable_value(task.name)}: {kept}, {len(left_out):,} left out: {reasons}"


def _prepare(loaded: loading.Loaded, source: Source, options: Options) -> job.Job:
    assert isinstance(source, PairSource) and source.task is not None
    anatomy = examine(loaded.model)
    if anatomy.body.encoder_decoder or anatomy.body.side == "enc":
        raise UsageError(f"{loaded.name} is no decoder: it does not go on with a prompt, which a task asks for.")
    if options.keep_every > 1:
        raise UsageError(
            f"--keep-every {options.keep_every}: what starts from a task needs the tensors of all its pairs."
        )
    encoded = list(source.pairs.values())
    options = replace(
        options, n=len(encoded), task=source.task.name, metric=source.task.metric, pairs_hash=_hash(encoded)
    )
    rows = Rows(loaded.tokenizer)
    next_tokens, scorer = next_token_tables(anatomy, rows, options.top_k), _PairTables(loaded, anatomy, source, options)
    sequencing = SequenceMaker(
        scorer.tokenize,
        ("dec",),
        loaded.window,
        keep_together=True,
        first_token=find_frame(loaded.tokenizer, resolve_bos(loaded, options.prepend_bos)).first_token,
    )

    def tables(batch: Batch, recording: Recording) -> Mapping[str, pa.Table]:
        return {**next_tokens(batch, recording), **scorer.tables(batch, recording)}

    return prepare.prepare(
        KIND, loaded, source, options, rows, tables, mean_loss, anatomy=anatomy, sequencing=sequencing
    )


run, forecast = run_job.define_kind(_prepare)


def _hash(pairs: Iterable[EncodedPair]) -> str:
    """Return the xxh3-128 of pairs and their targets, in hex."""
    digest = xxhash.xxh3_128()
    for e in pairs:
        digest.update(
            f"{e.pair.clean}\x1f{e.pair.corrupted}\x1f{sorted(e.targets.items())}\x1e".encode("utf-8", "replace")
        )
    return digest.hexdigest()


class _PairTables:
    """Makes the sequences of pairs, and the rows of `task_pairs`, `task_targets` and `task_scores`."""

    def __init__(self, loaded: loading.Loaded, anatomy: Anatomy, source: PairSource, options: Options) -> None:
        """Check that the head has a logit for every target; raises TracesError where it has not."""
        self._tokenizer, self._pairs, self._options = loaded.tokenizer, source.pairs, options
        self._anatomy, self._head = anatomy, LMHead(anatomy.body)
        self._head.check_targets(np.array([token for e in source.pairs.values() for token in e.targets]))

    def tokenize(self, examples: Iterable[Example]) -> Iterator[TokenizedExample]:
        """Yield each pair with its two prompts."""
        changes_text = text_change_detector(self._tokenizer)
        for idx, example in enumerate(examples):
            e = self._pairs[example.row.source_id]
            sequences = [
                TokenSequence(example, 0, {"dec": e.clean}, e.pair.clean),
                TokenSequence(example, 1, {"dec": e.corrupted}, e.pair.corrupted),
            ]
            altered = changes_text(e.pair.clean) or changes_text(e.pair.corrupted)
            yield TokenizedExample(idx, example, sequences, False, altered)

    def tables(self, batch: Batch, recording: Recording) -> Mapping[str, pa.Table]:
        """Return the rows of a batch's pairs."""
        examples = list({s.example.example_id: s.example for s in batch.sequences}.values())
        encoded = [self._pairs[e.row.source_id] for e in examples]
        return {
            "task_pairs": self._pair_rows(examples, encoded),
            "task_targets": self._target_rows(examples, encoded),
            "task_scores": self._score_rows(examples, encoded, batch, recording),
        }

    def _pair_rows(self, examples: Several[Example], encoded: Several[EncodedPair]) -> pa.Table:
        both = [(e, p, seq) for e, p in zip(examples, encoded, strict=True) for seq in (0, 1)]
        return to_table(
            "task_pairs",
            {
                "example_id": [e.example_id for e, _, _ in both],
                "seq": [seq for _, _, seq in both],
                "task": [self._options.task for _ in both],
                "role": [("clean", "corrupted")[seq] for _, _, seq in both],
                "corruption": [p.pair.corruption for _, p, _ in both],
                "template": [p.pair.template for _, p, _ in both],
                "n_tokens": [len(p.clean) for _, p, _ in both],
                "first_changed": [int(p.changed[0]) for _, p, _ in both],
                "n_changed": [len(p.changed) for _, p, _ in both],
            },
        )

    def _target_rows(self, examples: Several[Example], encoded: Several[EncodedPair]) -> pa.Table:
        targets = [(e, *target) for e, p in zip(examples, encoded, strict=True) for target in p.targets.items()]
        return to_table(
            "task_targets",
            {
                "example_id": [e.example_id for e, _, _ in targets],
                "token_id": [token for _, token, _ in targets],
                "token": decode_tokens(self._tokenizer, [token for _, token, _ in targets]),
                "sign": [sign for _, _, sign in targets],
            },
        )

    def _score_rows(
        self, examples: Several[Example], encoded: Several[EncodedPair], batch: Batch, recording: Recording
    ) -> pa.Table:
        places = {(s.example.example_id, s.seq): i for i, s in enumerate(batch.sequences)}
        ends = np.cumsum([s.n_tokens for s in batch.sequences]) - 1
        clean, corrupted = (ends[[places[e.example_id, seq] for e in examples]] for seq in (0, 1))
        values = self._metrics(recording.last["dec"], clean, corrupted, [p.targets for p in encoded])
        check_score_values(
            np.concatenate([v.ravel() for name, v in values.items() if name != "kl"]), batch, self._anatomy
        )
        rows = [(e, name, *values[name][:, i]) for i, e in enumerate(examples) for name in METRICS]
        return to_table(
            "task_scores",
            {
                "example_id": [e.example_id for e, *_ in rows],
                "metric": [name for _, name, *_ in rows],
                "is_default": [name == self._options.metric for _, name, *_ in rows],
                "clean": [value for *_, value, _ in rows],
                "corrupted": [value for *_, value in rows],
                "correct": [bool(value > 0) if name in SIGNED else None for _, name, value, _ in rows],
            },
        )

    def _metrics(
        self, last: torch.Tensor, clean: np.ndarray, corrupted: np.ndarray, signed: list[dict[int, int]]
    ) -> dict[str, np.ndarray]:
        """Return every metric of pairs, (2, P) each: of the clean prompts and of the corrupted ones.

        Args:
            last: (N, D) the last hidden states of a batch.
            clean: (P,) rows of them where the clean prompts end.
            corrupted: (P,) those where the corrupted ones do.
            signed: The targets of the P pairs.
        """
        parts: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
        n = max(1, _SLICE_LOGITS // (2 * self._head.vocabulary))
        for start in range(0, len(signed), n):
            ends, targets = slice(start, start + n), Targets.of(signed[start : start + n])
            rows = torch.from_numpy(np.concatenate([clean[ends], corrupted[ends]])).to(last.device)
            with torch.no_grad():
                logits = self._head(last[rows])
            half = len(rows) // 2
            expected = log_probs(logits[:half])
            for name in METRICS:
                parts[name].append(
                    np.stack([metric(name, x, targets, expected) for x in (logits[:half], logits[half:])])
                )
        return {name: np.concatenate(found, axis=1) for name, found in parts.items()}
