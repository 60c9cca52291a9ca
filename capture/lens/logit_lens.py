"""The logit lens: what the model would predict if it stopped after a layer, for tokens whose residual streams a run has stored.

The states go through the model's own final norm and unembedding (nostalgebraist 2020, "interpreting GPT: the logit lens"); its
blocks are not run. Layer l is the output of block l, and NULL the embedding that the first one reads. At the last layer it is the
model's real distribution. Positions go by in slices, layer after layer, so that the logits of one slice and one layer exist at a
time, beside the probabilities that the model ends with there, which every layer is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import xxhash

from capture.jobs.job import check_option_sizes
from capture.jobs.versions import versions
from capture.model.anatomy import examine
from capture.model.body import vocabulary_size
from capture.model.failures import explain_memory_errors
from capture.model.final_norm import FinalNorm
from capture.model.hashes import body_hash, weights_hash
from capture.model.lm_head import LMHead
from capture.model.loading import Loaded
from capture.recording.diagnostics import Reading, divergence, read
from capture.sequences import partition
from capture.sequences.decoding import decode_tokens
from warehouse.catalog.publish import publish
from warehouse.errors import CorruptRunError, TracesError, UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.schema.tables import SCHEMA_VERSION
from warehouse.storage import paths
from warehouse.storage.manifest import Manifest
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.progress import DerivedProgress
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

KIND = "lens"

_SIDE = "dec"

_SLICE_BYTES = 64 << 20
"""Float32 logits that exist at a time, and as many probabilities."""
_PIECE_BYTES = 6 << 20
"""Those that are read together: with the final probabilities and scratch of the same size they stay in a processor's cache."""
_SHARD_ROWS = 1 << 15
"""Most rows between two points from which an interrupted lens can go on, unless one sequence has more."""

_COMMANDS = {"trait-responses": "traces trait respond", "trait-steering": "traces trait steer"}
"""What makes kinds of runs that `traces capture` does not."""

_ROW_BYTES, _TOP_BYTES = 40, 6.7
"""What a row takes on the disk, and what each of its top-k tokens adds, as seen on SmolLM2."""


@dataclass(frozen=True)
class Options:
    top_k: int = 50
    layers: str = "all"
    """Numbers, `mid`, `last`, `embed` (what the first block reads) and `all` (that and every block), comma-separated."""
    positions: str = "all"
    """`all`, `last` (of each sequence), `response` (what the model generated), or numbers, comma-separated."""
    shard: str = ""
    """`i/n`: every n-th sequence, from the i-th on."""

    def __post_init__(self) -> None:
        """Raises UsageError for numbers that no computer counts to."""
        check_option_sizes(self)


class Forecast(NamedTuple):
    """What a lens would make."""

    layers: int
    positions: int
    bytes: float

    @property
    def rows(self) -> int:
        return self.layers * self.positions


class _SequencePositions(NamedTuple):
    """Positions of one sequence."""

    example_id: str
    seq: int
    positions: np.ndarray
    next_ids: np.ndarray
    """(n,) each; -1: there is no next token."""
    ends: bool
    """They are the last that are asked for of it."""


class _LensReadings(NamedTuple):
    """Of n positions: (layers, n) each, and (layers, n, k); see `logit_lens` in warehouse/schema/tables.py."""

    topk_ids: np.ndarray
    topk_probs: np.ndarray
    prob: np.ndarray
    rank: np.ndarray
    entropy: np.ndarray
    kl: np.ndarray


def forecast(folder: Path, options: Options) -> Forecast:
    """What `run` would make of a run; no model is needed. Raises UsageError as `run` does for run and options."""
    store = TraceStore(folder)
    layers, n = len(choose_layers(store, options)), count_positions(store, options)
    return Forecast(layers, n, layers * n * (_ROW_BYTES + _TOP_BYTES * options.top_k))


def run(
    loaded: Loaded,
    folder: Path,
    options: Options,
    *,
    root: Path,
    run_id: str,
    report: Callable[[DerivedProgress], None] = lambda _: None,
) -> Manifest:
    """The table `logit_lens` of a published run, made with the model that it was captured with, as a run of its own.

    Raises UsageError where the run has not stored what is needed (naming the command that stores it), where a layer or position
    is not there, where the model is another, where its last layer's way to the vocabulary is not known, or where `run_id` is
    taken; TracesError where the model predicts no tokens, or makes no numbers of a layer.
    """
    store = TraceStore(folder)
    layers = choose_layers(store, options)
    count_positions(store, options)
    _check_model(store, loaded)
    lens = _Lens(loaded, store, layers, options.top_k)
    source = paths.run_id_of(folder)
    rows = _Rows(source, loaded.tokenizer, layers, lens.vocabulary)
    counted = DerivedProgress(run_id)
    with (
        explain_memory_errors(f"look through {loaded.name}", "Choose a --device with more of it, or fewer --layers."),
        RunWriter(root, run_id, _identity(folder, loaded, options)) as writer,
    ):
        for number, shard in enumerate(group_positions(store, options, len(layers))):
            done = number < len(writer.done)
            if not done:
                writer.begin_shard({}, {})
            for pieces in slice_positions(shard, slice_rows(lens.vocabulary)):
                counted.begun += sum(p.ends for p in pieces)
                counted.tokens += sum(len(p.positions) for p in pieces)
                if done:
                    counted.resumed_tokens = counted.tokens
                else:
                    writer.put(
                        RecordedBatch([], {}, {}, {}, deferred_tables=rows.deferred_tables(pieces, lens(pieces)))
                    )
                report(counted)
            if not done:
                writer.end_shard(str(number))
        manifest = store.meta.derive
        return publish(writer, lambda published: manifest(KIND, run_id, [source], asdict(options), published))


def _identity(folder: Path, loaded: Loaded, options: Options) -> dict[str, Any]:
    """What makes two the same, so that the second goes on where the first stopped."""
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "parent": paths.run_id_of(folder),
        "parent_manifest": xxhash.xxh3_128_hexdigest((folder / paths.MANIFEST).read_bytes()),
        "options": asdict(options),
        "device": loaded.device,
        "versions": {k: v for k, v in versions().items() if k in ("torch", "transformers", "tokenizers")},
    }


def _check_model(store: TraceStore, loaded: Loaded) -> None:
    """A run that was captured without the head knows the weights of the body alone."""
    m = store.meta.model
    if m.weights_hash not in (weights_hash(loaded.model), body_hash(loaded.model)):
        raise UsageError(
            f"{loaded.name} has other weights than those that run '{store.meta.run_id}' was captured with ({m.name}, "
            f"{m.dtype}): its states mean nothing to this model. Where are they now? --model PLACE"
        )


# -- what is asked for -------------------------------------------------------------------------------------------------


def choose_layers(store: TraceStore, options: Options) -> list[int | None]:
    """The layers asked for, the embedding first. Raises UsageError where they are not there, or not stored."""
    meta = store.meta
    if options.top_k < 1:
        raise UsageError(f"--top-k {options.top_k}: at least 1.")
    if not meta.captured:
        raise UsageError(
            f"Run '{meta.run_id}' is of kind {meta.kind}, and holds no states of a model"
            f"{': the lens is of the run behind it, ' + meta.parents[0] if meta.parents else ''}."
        )
    if meta.model.side != _SIDE:
        raise UsageError(
            f"Run '{meta.run_id}' is of an encoder ({meta.model.architecture}), which does not predict next tokens: there is no "
            "lens to look through."
        )
    n = meta.model.stack(_SIDE).n_layers
    named: dict[str, list[int | None]] = {"mid": [n // 2], "last": [n - 1], "embed": [None], "all": [None, *range(n)]}
    found: set[int | None] = set()
    for part in options.layers.split(","):
        word = part.strip()
        if word in named:
            found.update(named[word])
        elif word.isdecimal() and len(word) < 10 and int(word) < n:
            found.add(int(word))
        else:
            raise UsageError(
                f"--layers {options.layers}: {word or 'nothing'} is no layer; {meta.model.name} has layers 0 to {n - 1}, and "
                "there are embed, mid, last and all."
            )
    final = Key(_SIDE, "hidden", n)
    needed = [state_key(layer) for layer in found] + ([] if store.has(final) else [state_key(n - 1)])
    if missing := [key for key in needed if not store.has(key)]:
        _raise_not_stored(store, missing)
    return sorted(found, key=lambda layer: -1 if layer is None else layer)


def state_key(layer: int | None) -> Key:
    return Key(_SIDE, "resid.embed" if layer is None else "resid.post_mlp", layer)


def _raise_not_stored(store: TraceStore, missing: list[Key]) -> None:
    """Says which states are not stored, and what stores them."""
    meta, key = store.meta, missing[0]
    stack = meta.model.stack(_SIDE)
    if key.site in stack.missing:
        raise UsageError(f"{meta.model.name} has no {key.site} here: {stack.missing[key.site]}.")
    stored = store.layers_with("resid.post_mlp", _SIDE)
    command = _COMMANDS.get(meta.kind, f"traces capture {meta.kind}")
    there = f"of layers {', '.join(map(str, stored))} alone" if stored and key.layer is not None else "not"
    raise UsageError(
        f"Run '{meta.run_id}' has {key.site} {there} stored, and a lens reads it{'' if key.layer is None else ' in every layer'} "
        f"asked for, and in the last. Capture it again: {command} … --capture {sites.capture_of(key.site)}"
    )


_TOKENS_SQL = """
    SELECT
        example_id, seq, pos, is_response, lead(token_id) OVER sequence AS next_id, lead(is_context) OVER sequence AS next_again
    FROM tokens WHERE side = 'dec'
    WINDOW sequence AS (PARTITION BY example_id, seq ORDER BY pos)
"""
"""A token that comes next as context is predicted in an earlier sequence, and not here."""


def _position_condition(text: str) -> tuple[list[int], str]:
    """Numbers, and the condition on _TOKENS, with a `?` for them, that picks what is asked for. Raises UsageError."""
    named = {"all": "true", "last": "next_id IS NULL", "response": "is_response"}
    if text in named:
        return [], f"{named[text]} AND len(?) = 0"
    try:
        numbers = [int(n) for n in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0 or max(numbers) >= 1 << 31:
        raise UsageError(f"--positions {text[:80]}: write all, last, response, or numbers as in 0,1,5.")
    return numbers, "list_contains(?, pos)"


def _position_query(options: Options) -> tuple[list[int], str]:
    """SQL with a `?` for the numbers: a row for every position that is asked for."""
    places, condition = _position_condition(options.positions)
    query = f"SELECT * FROM ({_TOKENS_SQL}) WHERE {condition}"
    if options.shard:
        i, n = partition.parse_part(options.shard)
        query += f" QUALIFY (dense_rank() OVER (ORDER BY example_id, seq) - 1) % {n} = {i - 1}"
    return places, query


def count_positions(store: TraceStore, options: Options) -> int:
    """How many positions are asked for. Raises UsageError where there is none."""
    places, query = _position_query(options)
    found: list[tuple[int]] = store.query(f"SELECT count(*) FROM ({query})", [places]).fetchall()
    if found[0][0]:
        return found[0][0]
    if options.shard:
        raise UsageError(
            f"Shard {options.shard} of run '{store.meta.run_id}' has none of its tokens: use fewer shards."
        )
    if options.positions == "response":
        raise UsageError(
            f"Run '{store.meta.run_id}' is of kind {store.meta.kind}: the model generated none of its tokens. --positions all"
        )
    raise UsageError(f"Run '{store.meta.run_id}' has no tokens at --positions {options.positions}.")


# -- the way through the run -------------------------------------------------------------------------------------------


def group_positions(store: TraceStore, options: Options, n_layers: int) -> Iterator[list[_SequencePositions]]:
    """Whole sequences, in groups, each with the positions that are asked for of it."""
    places, query = _position_query(options)
    answer = store.query(
        "SELECT example_id, seq, list(pos ORDER BY pos), list(coalesce(if(next_again, NULL, next_id), -1) ORDER BY pos) "
        f"FROM ({query}) GROUP BY ALL ORDER BY example_id, seq",
        [places],
    )
    shard: list[_SequencePositions] = []
    rows = 0
    while found := answer.fetchmany(256):
        for example_id, seq, positions, next_ids in found:
            if shard and rows + len(positions) * n_layers > _SHARD_ROWS:
                yield shard
                shard, rows = [], 0
            shard.append(_SequencePositions(example_id, seq, np.array(positions), np.array(next_ids), True))
            rows += len(positions) * n_layers
    if shard:
        yield shard


def slice_positions(shard: list[_SequencePositions], most: int) -> Iterator[list[_SequencePositions]]:
    """The same positions, at most so many at a time."""
    pieces: list[_SequencePositions] = []
    room = most
    for p in shard:
        start = 0
        while start < len(p.positions):
            end = min(len(p.positions), start + room)
            part = p._replace(
                positions=p.positions[start:end], next_ids=p.next_ids[start:end], ends=end == len(p.positions)
            )
            pieces.append(part)
            start, room = end, room - len(part.positions)
            if not room:
                yield pieces
                pieces, room = [], most
    if pieces:
        yield pieces


def slice_rows(vocabulary: int) -> int:
    """Most positions that are looked at together."""
    return max(1, _SLICE_BYTES // (vocabulary * 4))


class _Lens:
    """Keeps the memory for logits' companions from slice to slice: fresh memory of that size costs time of its own."""

    def __init__(self, loaded: Loaded, store: TraceStore, layers: list[int | None], k: int) -> None:
        """Raises as `run` does where the model's way from a state to logits is not known."""
        anatomy = examine(loaded.model)
        self._head, self._norm = LMHead(anatomy.body), FinalNorm(anatomy)
        self._store, self._layers = store, layers
        self._dtype, self._device = loaded.model.dtype, loaded.model.device
        self._last = store.meta.model.stack(_SIDE).n_layers - 1
        self._rows, self.vocabulary = vocabulary_size(loaded.model), self._head.vocabulary
        self._k = min(k, self.vocabulary)
        self._piece = max(1, min(slice_rows(self.vocabulary), _PIECE_BYTES // (self.vocabulary * 4)))
        self._final = torch.empty(0)
        self._scratch = torch.empty(0)

    def __call__(self, pieces: list[_SequencePositions]) -> _LensReadings:
        """The final distribution first, which the others are compared with."""
        found_ids = np.concatenate([p.next_ids for p in pieces])
        if found_ids.max() >= self._rows or found_ids.min() < -1:
            raise CorruptRunError(
                f"Run '{self._store.meta.run_id}': its tokens have the id {found_ids.max()}, and the model {self._rows:,} "
                "rows in its embedding. Validate it: traces runs validate "
                f"{self._store.meta.run_id}"
            )
        self._head.check_targets(found_ids)
        next_ids = torch.from_numpy(found_ids).clamp(min=0)
        with torch.no_grad():
            final, _ = self._checked(self._last, self._read(self._final_state(pieces), next_ids, None))
            found = [
                (final, torch.zeros_like(final.entropy))
                if layer == self._last
                else self._checked(
                    layer, self._read(self._norm(self._states(state_key(layer), pieces)), next_ids, final.entropy)
                )
                for layer in self._layers
            ]
        readings = [reading for reading, _ in found]
        columns = (
            [r.topk_ids for r in readings],
            [r.topk_probs for r in readings],
            [r.true_prob for r in readings],
            [r.true_rank for r in readings],
            [r.entropy for r in readings],
            [kl for _, kl in found],
        )
        return _LensReadings(*(torch.stack(c).cpu().numpy() for c in columns))

    def _checked(self, layer: int | None, found: tuple[Reading, torch.Tensor]) -> tuple[Reading, torch.Tensor]:
        """The same. Raises TracesError where what the head makes of a layer says nothing."""
        if bool(found[0].log_sum.isnan().any()):
            dtype = str(self._dtype).removeprefix("torch.")
            where = "the embedding" if layer is None else f"layer {layer}"
            remedy = (
                "its last layer, which the others are held against."
                if layer == self._last
                else "leave it out: --layers."
            )
            raise TracesError(
                f"Run '{self._store.meta.run_id}': what the model's head makes of {where} is NaN or infinity in {dtype}; {remedy}"
            )
        return found

    def _final_state(self, pieces: list[_SequencePositions]) -> torch.Tensor:
        """(n, D), after the final norm: as it was stored, or as it follows from the last block's output."""
        key = Key(_SIDE, "hidden", self._last + 1)
        if self._store.has(key):
            return self._states(key, pieces)
        return self._norm(self._states(state_key(self._last), pieces))

    def _states(self, key: Key, pieces: list[_SequencePositions]) -> torch.Tensor:
        """(n, *row_shape) in the model's dtype, on its device."""
        rows = []
        for p in pieces:
            stored = self._store.rows(key, p.example_id, p.seq)
            if p.positions.max() >= len(stored):
                run = self._store.meta.run_id
                raise CorruptRunError(
                    f"Run '{run}': {p.example_id} has {len(stored)} rows of {key.site}, and a token at {p.positions.max()}. "
                    f"Validate it: traces runs validate {run}"
                )
            rows.append(stored[p.positions])
        return torch.from_numpy(np.concatenate(rows).astype(np.float32)).to(self._device, self._dtype)

    def _read(
        self, states: torch.Tensor, next_ids: torch.Tensor, final_entropy: torch.Tensor | None
    ) -> tuple[Reading, torch.Tensor]:
        """What the head makes of n states after the norm, and KL(final ‖ it), (n,) in nats. Without the entropy of the final
        distribution, these are the states that it is made of, and it is kept for the next calls.
        """
        logits = self._head(states).float()  # of no further use to the head: overwritten
        self._make_room(logits)
        next_ids = next_ids.to(logits.device)
        readings: list[Reading] = []
        divergences: list[torch.Tensor] = []
        for start in range(0, len(logits), self._piece):
            at = slice(start, start + self._piece)
            final, scratch = self._final[at][: len(logits[at])], self._scratch[: len(logits[at])]
            reading = read(logits[at], next_ids[at], self._k, final if final_entropy is None else scratch, scratch)
            readings.append(reading)
            if final_entropy is not None:
                divergences.append(divergence(final, final_entropy[at], logits[at], reading.log_sum, scratch))
        reading = Reading(*(torch.cat(c) for c in zip(*readings, strict=True)))
        return reading, torch.cat(divergences) if divergences else reading.entropy

    def _make_room(self, logits: torch.Tensor) -> None:
        if self._final.device != logits.device or len(self._final) < len(logits):
            self._final = torch.empty_like(logits)
            self._scratch = torch.empty((self._piece, logits.shape[1]), device=logits.device)


# -- rows --------------------------------------------------------------------------------------------------------------


class _Rows:
    """Makes rows of the table `logit_lens`."""

    def __init__(self, source: str, tokenizer: Any, layers: list[int | None], vocabulary: int) -> None:
        self._source, self._tokenizer, self._layers = source, tokenizer, layers
        self._texts = np.full(vocabulary, None, object)
        """By id: each token decoded on its own, once."""

    def deferred_tables(self, pieces: list[_SequencePositions], found: _LensReadings) -> Callable[[], dict[str, pa.Table]]:
        """The rows, to be made in the writer's thread."""
        return lambda: {"logit_lens": self._table(pieces, found)}

    def _table(self, pieces: list[_SequencePositions], found: _LensReadings) -> pa.Table:
        """Layer by layer, and in each the positions of the pieces."""
        n_layers, n, k = found.topk_ids.shape
        lengths = [len(p.positions) for p in pieces]
        next_ids = np.tile(np.concatenate([p.next_ids for p in pieces]), n_layers).astype(np.int32)
        last = next_ids < 0
        offsets = pa.array(np.arange(0, (n_layers * n + 1) * k, k, dtype=np.int32))
        layers = pa.array(self._layers, pa.int32())

        def lists(values: pa.Array) -> pa.ListArray:
            return pa.ListArray.from_arrays(offsets, values)

        def where_next(values: np.ndarray) -> pa.Array:
            return pa.array(values.reshape(-1), mask=last)

        return to_table(
            "logit_lens",
            {
                "source_run_id": pa.repeat(pa.scalar(self._source), n_layers * n),
                "example_id": np.tile(np.repeat([p.example_id for p in pieces], lengths), n_layers).tolist(),
                "seq": pa.array(np.tile(np.repeat([p.seq for p in pieces], lengths), n_layers).astype(np.int32)),
                "pos": pa.array(np.tile(np.concatenate([p.positions for p in pieces]), n_layers).astype(np.int32)),
                "layer": layers.take(pa.array(np.repeat(np.arange(n_layers), n))),
                "topk_ids": lists(pa.array(found.topk_ids.reshape(-1))),
                "topk_tokens": lists(self._decoded(found.topk_ids.reshape(-1))),
                "topk_probs": lists(pa.array(found.topk_probs.reshape(-1))),
                "actual_id": where_next(next_ids),
                "actual_token": self._decoded(next_ids, last),
                "actual_rank": where_next(found.rank),
                "actual_prob": where_next(found.prob),
                "entropy": pa.array(found.entropy.reshape(-1)),
                "kl_to_final": pa.array(found.kl.reshape(-1)),
            },
        )

    def _decoded(self, ids: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
        """The ids' texts, NULL where they are missing."""
        wanted = ids if missing is None else ids[~missing]
        texts = self._texts[wanted]
        if new := sorted({int(i) for i in wanted[texts == None]}):  # noqa: E711  elementwise
            self._texts[new] = decode_tokens(self._tokenizer, new)
            texts = self._texts[wanted]
        if missing is not None:
            texts, known = np.full(len(ids), None, object), texts
            texts[~missing] = known
        return pa.array(texts, pa.string())
