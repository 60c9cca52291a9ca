"""`validate --deep`: runs the model again on a sample of a run's sequences, and compares what was stored.

What the run tells is held against the model's own outputs where it has them (`output_hidden_states`, `output_attentions` under
eager attention, the loss): sequences run one by one, without padding, from the stored token ids, so that what batching,
tokenizing or writing could have spoilt shows. Every stored tensor is held against a second recording of the very batch that it
came from, which gives the same bits where machine and libraries are the same.

Where they are others, and against a sequence alone, how far apart two right answers may be depends on the dtype they are stored
in, which is known, and on what the model itself makes of another batch shape, which is measured. In float32 that is next to
nothing; in bfloat16 kernels that differ in their rounding part by 2 % after 30 layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from capture.data.example import Choice, Example, Row, Source
from capture.model import loading
from capture.model.anatomy import Anatomy, examine
from capture.model.attention_hook import eager
from capture.model.body import padding_id, vocabulary_size
from capture.model.lm_head import Head
from capture.model.model_info import stack_info
from capture.model.unchanged import unchanged
from capture.recording import means
from capture.recording.recorder import Recorder
from capture.sequences.encoding import bos_of
from capture.sequences.question_prompts import Prompting
from warehouse.errors import CorruptRunError, TracesError
from warehouse.schema.sites import Key
from warehouse.storage.attention import per_query_head, probabilities, unpack_pairs
from warehouse.storage.blobs import TensorSpec
from warehouse.storage.readable import readable
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import Check, sample_sequences

_PADDING = 5

_ROUNDING = {"F16": 2**-10, "BF16": 2**-7, "F32": 2**-20}
"""Relative: two units in the last place of the dtype."""
_ATTENTION = {"F16": 5e-3, "BF16": 3e-2, "F32": 1e-5}
"""Absolute, on probabilities: q and k rounded to F16 were seen to move them by 2.1e-3, to BF16 by 1.6e-2."""
_EAGER = {"float32": 0.0, "float16": 1e-2, "bfloat16": 1e-1}
"""Absolute, on probabilities: eager attention rounds the scores themselves to the dtype it computes in. A score near 50 moves
by up to 0.125 in bfloat16, and a probability of one half by a quarter of that; what is derived here is the more exact."""
_LOSS = 1e-4
"""Nats: losses are stored as float32, and kernels sum in another order for other batch shapes."""
_SCORE = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 0.5}
"""Logits and sums of log-probabilities of a few tokens, from a whole text alone; in the capture from padded batches."""
_NOISE = 4
"""Times the difference that the model itself makes between two batch shapes: the capture's batch was a third."""

_WHAT = {
    "loss": "nats from the model's own loss",
    "hidden": "relative to output_hidden_states",
    "attention": "from eager output_attentions",
    "tensors": "relative to a second recording",
    "scores": "from the model's own scores of choices (logits, nats)",
}


_DERIVED_BY = {
    "n_layers",
    "d_model",
    "n_heads",
    "n_kv_heads",
    "convention",
    "parallel",
    "final_norm",
    "causal",
    "attention",
    "cross_attention",
}
"""Of what a manifest says of a stack."""

_AVERAGE = "tensors on average"
_MOST_ON_AVERAGE = 0.1
"""Noise of single values can be large in a short dtype; that of a head's rows on average is not. Another head's differ by 1."""


class _Row(NamedTuple):
    """What the model reads of a sequence."""

    ids: dict[str, torch.Tensor]
    """(T,) by side"""
    types: torch.Tensor | None
    """(T,), of a pair of texts, where the model is told which is which"""


@dataclass(frozen=True)
class _Seen:
    """What the model does with one sequence."""

    loss: float
    """NaN where nothing is predicted."""
    hidden: dict[tuple[str, int], np.ndarray]
    """By side and number: (T, D) each"""
    attention: dict[Key, np.ndarray]
    """(H, T, S) each; none where the run does not tell of attention"""
    tensors: dict[Key, np.ndarray]

    def errors(self, other: _Seen) -> dict[str, float]:
        """The largest differences, by what differs."""
        return {
            "loss": 0.0 if np.isnan(self.loss) or self.loss == other.loss else abs(self.loss - other.loss),
            "hidden": max((_relative(x, other.hidden[k]) for k, x in self.hidden.items()), default=0.0),
            "attention": max(
                (float(np.abs(x - other.attention[k]).max()) for k, x in self.attention.items()), default=0.0
            ),
            "tensors": max((_difference(k, x, other.tensors[k]) for k, x in self.tensors.items()), default=0.0),
            _AVERAGE: max((_on_average(k, x, other.tensors[k]) for k, x in self.tensors.items()), default=0.0),
        }

    def same_bits(self, other: _Seen) -> bool:
        """Whether these tensors, as stored, are the other's."""
        return all(np.array_equal(x, other.tensors[k].astype(x.dtype)) for k, x in self.tensors.items())


def recheck(
    folder: Path, trust_remote_code: bool = False, note: Callable[[str], None] = lambda _: None
) -> Iterator[Check]:
    """Yields one check after another. Raises TracesError or UsageError where the model cannot be loaded: one with code of its
    own only where it is said to be trusted, whatever the run's manifest says.
    """
    store = TraceStore(folder)
    m = store.meta.model
    if not store.meta.captured or store.meta.kind == "trait-steering":
        why = "no capture made it" if not store.meta.captured else "its model was steered"
        yield Check("deep: model", None, f"a run of kind {store.meta.kind}: {why}, so that there is nothing to repeat")
        return
    note(f"loading {m.name}")  # the run's word for it: who checks a run of somebody else should see it
    loaded = loading.load(
        m.name,
        head=loading.head_of(m.architecture),
        revision=m.revision,
        dtype=m.dtype,
        trust_remote_code=trust_remote_code,
    )
    same = loading.weights_hash(loaded.model) == m.weights_hash
    yield Check(
        "deep: weights", same, "the same as captured" if same else f"{m.name} has other weights than were captured"
    )
    if not same:
        return
    with eager(loaded.model) if m.attn_implementation == "eager" else nullcontext():
        again = _Again(loaded, store)
        yield _formulas(store, again.anatomy)
        yield from _compare(store, again)
        if store.meta.counts.rows.get("choices"):
            yield _scores(store, loaded)


def _formulas(store: TraceStore, anatomy: Anatomy) -> Check:
    """What the run says of the model's blocks and of its attention, by which streams and attention are derived."""
    wrong = []
    for side, stack in anatomy.stacks.items():
        told, found = (
            x.model_dump(include=_DERIVED_BY)
            for x in (store.meta.model.stack(side), stack_info(stack, anatomy.body.model.dtype))
        )
        wrong += [f"{side}: {name}" for name in told if told[name] != found[name]]
    return Check(
        "deep: formulas",
        not wrong,
        f"not as the model has them: {', '.join(wrong)}" if wrong else "as the model has them",
    )


def _compare(store: TraceStore, again: _Again) -> Iterator[Check]:
    sample = sample_sequences(store)
    error, noise = dict.fromkeys((*_WHAT, _AVERAGE), 0.0), dict.fromkeys((*_WHAT, _AVERAGE), 0.0)
    same = 0
    for example_id, seq in sample:
        own = again.row(example_id, seq)
        counted, predicted = again.counted(example_id, seq), again.predicted(example_id, seq)
        alone = again.seen([own], 0, counted, predicted)
        batch = again.batch(example_id, seq)
        beside, at = batch or again.padded(own)
        other = again.seen(beside, at, counted, predicted)
        for name, value in other.errors(alone).items():
            noise[name] = max(noise[name], value)
        if alone.attention:
            given = again.eager_attention(own)
            alone = replace(alone, attention={k: x for k, x in given.items() if k in alone.attention})
        stored = again.stored(example_id, seq, alone)
        for name, value in stored.errors(alone).items():
            error[name] = max(error[name], value)
        same += batch is not None and stored.same_bits(other)
    for name, allowed in _allowed(store).items():
        if name == "tensors" and sample and same == len(sample):
            yield Check("deep: tensors", True, f"the same bits as their batches give again, on {same} sequences")
            continue
        limit, passed = allowed + _NOISE * noise[name], True
        if name == "tensors":
            passed = error[_AVERAGE] <= min(allowed + _NOISE * noise[_AVERAGE], _MOST_ON_AVERAGE)
        yield Check(
            f"deep: {name}",
            passed and error[name] <= limit,
            f"at most {error[name]:.1e} {_WHAT[name]}, on {len(sample)} sequences (allowed: {limit:.1e})",
        )


def _allowed(store: TraceStore) -> dict[str, float]:
    """What storing may cost, by what there is to compare."""
    rounding = max((_ROUNDING[d] for s in store.meta.sites for d in (s.dtype, *s.promoted.values())), default=0.0)
    allowed = {"loss": _LOSS} if store.meta.counts.predictions else {}
    if "hidden" in store.sites:
        allowed["hidden"] = rounding
    if "attn" in store.sites:
        allowed["attention"] = _ATTENTION[store.meta.store_dtype] + _EAGER[store.meta.model.dtype]
    if store.meta.sites:
        allowed["tensors"] = rounding
    return allowed


class _Again:
    """The model, ready to run a stored run's sequences once more."""

    def __init__(self, loaded: loading.Loaded, store: TraceStore) -> None:
        self.anatomy, self._loaded, self._store = examine(loaded.model), loaded, store
        self._vocabulary = vocabulary_size(loaded.model)
        self._stored = [Key(s.side, s.site, layer) for s in store.meta.sites for layer in s.layers]
        self._specs = {
            means.recorded(Key(s.side, s.site, layer)): TensorSpec("F32", tuple(s.row_shape))
            for s in store.meta.sites
            for layer in s.layers
        }
        self._sides = tuple(
            side for (side,) in store.query("SELECT DISTINCT side FROM tokens ORDER BY side").fetchall()
        )

    def row(self, example_id: str, seq: int) -> _Row:
        return _Row(self._ids(example_id, seq), self._types(example_id, seq))

    def batch(self, example_id: str, seq: int) -> tuple[list[_Row], int] | None:
        """The batch that a sequence went through the model in, and its place there; None where the run does not tell."""
        query = (
            "SELECT t.example_id, t.seq FROM tokens AS t JOIN examples AS e USING (example_id) WHERE batch = (SELECT any_value(batch) "
            "FROM tokens WHERE example_id = ? AND seq = ?) GROUP BY ALL ORDER BY count(*) DESC, any_value(e.idx), t.seq"
        )
        found = self._store.query(query, [example_id, seq]).fetchall()
        return ([self.row(*key) for key in found], found.index((example_id, seq))) if found else None

    def padded(self, row: _Row) -> tuple[list[_Row], int]:
        """A sequence beside a longer one, where there is room and padding is allowed; else alone."""
        room = _PADDING
        if self._loaded.window is not None:
            room = max(0, min(room, self._loaded.window - max(map(len, row.ids.values()))))
        if not self.anatomy.body.pads:
            room = 0
        longer = {side: torch.cat([ids, ids[:1].expand(room)]) for side, ids in row.ids.items()}
        types = None if row.types is None else torch.cat([row.types, row.types[-1:].expand(room)])
        return ([row, _Row(longer, types)] if room else [row]), 0

    def _ids(self, example_id: str, seq: int) -> dict[str, torch.Tensor]:
        """(T,) by side, as they are stored."""
        found = {}
        for side in self._sides:
            ids = self._store.encodings(example_id, seq, side=side)["input_ids"]
            if ids.min(initial=0) < 0 or ids.max(initial=0) >= self._vocabulary:
                raise CorruptRunError(
                    f"Run '{self._store.meta.run_id}': example {example_id} has a token with the id {ids.max()}, and the model "
                    f"{self._vocabulary:,} rows in its embedding."
                )
            found[side] = torch.from_numpy(ids.astype(np.int64))
        return found

    def _types(self, example_id: str, seq: int) -> torch.Tensor | None:
        """(T,), of a pair of texts, where the model was told which is which."""
        if len(self._sides) > 1:
            return None
        found = self._store.encodings(example_id, seq, side=self._sides[0]).get("token_type_ids")
        return None if found is None else torch.from_numpy(found.astype(np.int64))

    def counted(self, example_id: str, seq: int) -> dict[str, np.ndarray]:
        """(T,) by side, the tokens that means are over."""
        query = (
            "SELECT list(is_response ORDER BY pos), list(is_special ORDER BY pos) FROM tokens "
            "WHERE example_id = ? AND seq = ? AND side = ?"
        )
        found = {}
        for side in self._sides:
            (row,) = self._store.query(query, [example_id, seq, side]).fetchall()
            found[side] = means.counted(*(np.asarray(column, bool) for column in row))
        return found

    def predicted(self, example_id: str, seq: int) -> torch.Tensor:
        """Positions that the run has a prediction from: not from those before a token that an earlier sequence has too."""
        query = "SELECT pos FROM next_token WHERE example_id = ? AND seq = ? ORDER BY pos"
        rows = self._store.query(query, [example_id, seq]).fetchall()
        return torch.tensor([pos for (pos,) in rows], dtype=torch.long)

    def seen(self, rows: list[_Row], at: int, counted: dict[str, np.ndarray], predicted: torch.Tensor) -> _Seen:
        """Runs a batch, right-padded, and tells of the sequence in one of its rows. Means are over the tokens `counted`, the loss
        over the positions `predicted`.
        """
        tokens, more, ids = {}, {}, rows[at].ids
        types = [row.types for row in rows if row.types is not None]
        if types:
            more["token_type_ids"] = pad_sequence(types, batch_first=True)
        for side in self._sides:
            each = [row.ids[side] for row in rows]
            batch = pad_sequence(each, batch_first=True, padding_value=padding_id(self._loaded.model))
            tokens[side] = (batch, pad_sequence([torch.ones_like(r) for r in each], batch_first=True))
        with torch.no_grad():
            out = self.anatomy.body(tokens, output_hidden_states=True, **more)
        with Recorder(self.anatomy, self._specs) as recorder:
            recording = recorder.run(tokens, **more)
        seen = {}
        for k, x in recording.tensors.items():
            start = sum(recording.rows[k][:at])
            seen[k] = x[start : start + recording.rows[k][at]]
        tensors = {
            k: means.means(seen[means.recorded(k)], [len(counted[k.side])], [counted[k.side]])
            if means.is_mean(k)
            else seen[k]
            for k in self._stored
        }
        hidden = {
            (side, i): _array(h[at, : len(ids[side])])
            for side, states in out.hidden.items()
            if self._tells(side, "hidden")
            for i, h in enumerate(self._stream(side, states))
        }
        loss = np.nan
        if self._store.meta.counts.predictions:
            loss = (
                self._loss(rows[at], predicted)
                if len(rows) == 1
                else self._head_loss(out.last["dec"][at], ids, predicted)
            )
        return _Seen(loss, hidden, self._attention(tensors, len(ids.get("enc", ()))), tensors)

    def _stream(self, side: str, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The model's own hidden states, as far as they are the streams that `hidden` tells of: some models leave out the
        first, the embedding.
        """
        return states if self.anatomy.stacks[side].embeds else ()

    def _loss(self, row: _Row, predicted: torch.Tensor) -> float:
        """The model's own mean loss over positions of a sequence alone, in nats."""
        inputs = {"input_ids": row.ids["dec"][None]}
        if "enc" in row.ids:
            inputs = {"input_ids": row.ids["enc"][None], "decoder_input_ids": row.ids["dec"][None]}
        device = self._loaded.model.device
        with torch.no_grad(), unchanged(self._loaded.model):
            logits = self._loaded.model(**{k: x.to(device) for k, x in inputs.items()}).logits[0]
        return _mean_loss(logits, row.ids["dec"], predicted)

    def _head_loss(self, last: torch.Tensor, ids: dict[str, torch.Tensor], predicted: torch.Tensor) -> float:
        """The same from last states (T', D): of a whole batch, logits would take too much memory."""
        with torch.no_grad():
            return _mean_loss(Head(self.anatomy.body)(last[: len(ids["dec"])]), ids["dec"], predicted)

    def _attention(self, tensors: dict[Key, np.ndarray], sources: int) -> dict[Key, np.ndarray]:
        """As the run tells of it: from the second recording's q and k, whose noise between two batch shapes is what counts, or
        as stored.
        """
        found: dict[Key, np.ndarray] = {}
        for side in self._sides:
            stack = self._store.meta.model.stack(side)
            for prefix, formulas in (("", stack.attention), ("cross.", stack.cross_attention)):
                for i in range(stack.n_layers):
                    key, q, k = (Key(side, prefix + x, i) for x in ("attn", "q", "k"))
                    formula = formulas[i] if formulas is not None else None
                    if key in tensors:
                        found[key] = unpack_pairs(tensors[key], self._store.row_kind(key), sources)
                    elif formula is not None and q in tensors and k in tensors:
                        queries = tensors[q].swapaxes(0, 1)
                        keys = per_query_head(tensors[k].swapaxes(0, 1), len(queries))
                        found[key] = probabilities(queries, keys, formula)
        return found

    def eager_attention(self, row: _Row) -> dict[Key, np.ndarray]:
        """What the model itself gives, layer by layer."""
        tokens = {side: (ids[None], torch.ones_like(ids)[None]) for side, ids in row.ids.items()}
        more = {} if row.types is None else {"token_type_ids": row.types[None]}
        with eager(self._loaded.model), torch.no_grad():
            given = self.anatomy.body(tokens, output_attentions=True, **more).attentions
        found: dict[Key, np.ndarray] = {}
        for side, stack in self.anatomy.stacks.items():
            for site, name in (("attn", side), ("cross.attn", "cross")):
                layers = [i for i, layer in enumerate(stack.layers) if site in layer.shapes]
                matrices = given.get(name, ()) if site == "attn" or side == "dec" else ()
                numbers = layers if len(matrices) == len(layers) else range(len(matrices))
                found |= {
                    Key(side, site, i): _array(a[0]) for i, a in zip(numbers, matrices, strict=True) if i in layers
                }
        if not found:
            raise TracesError(
                f"{self._loaded.name} gives no attentions under eager attention, so there is nothing to compare with."
            )
        return found

    def _tells(self, side: str, site: str) -> bool:
        return any((r.side, r.site) == (side, site) for r in readable(self._store.meta))

    def stored(self, example_id: str, seq: int, like: _Seen) -> _Seen:
        """What the run tells of a sequence, in as far as `like` has it."""
        store = self._store
        query = "SELECT avg(loss::DOUBLE) FROM next_token WHERE example_id = ? AND seq = ?"
        row = store.query(query, [example_id, seq]).fetchone()
        told = {key for key in like.attention if self._tells(key.side, key.site)}
        return _Seen(
            loss=like.loss if np.isnan(like.loss) or row is None else row[0],
            hidden={(side, i): store.hidden(example_id, i, seq=seq, side=side) for side, i in like.hidden},
            attention={
                key: store.attn(
                    example_id, key.layer, seq=seq, side=key.side, kind="cross" if key.site == "cross.attn" else "self"
                )
                for key in told
            },
            tensors={key: store.rows(key, example_id, seq) for key in like.tensors},
        )


def _scores(store: TraceStore, loaded: loading.Loaded) -> Check:
    """Choices' logits and log-probabilities, against the model asked question by question, without batches or padding."""
    sample = list(dict.fromkeys(example_id for example_id, _ in sample_sequences(store)))
    worst = 0.0
    for example_id in sample:
        query = (
            "SELECT e.text, list(label ORDER BY choice_idx), list(c.text ORDER BY choice_idx), list(logit ORDER BY choice_idx), "
            "list(logprob ORDER BY choice_idx) FROM choices AS c JOIN examples AS e USING (example_id) WHERE example_id = ? "
            "GROUP BY e.text"
        )
        (row,) = store.query(query, [example_id]).fetchall()
        text, letters, texts, logits, logprobs = row
        if store.meta.kind == "mcq-encoder":
            told, again = logits, _asked_encoder(store, loaded, example_id, len(logits))
        else:
            choices = [Choice(*c) for c in zip(letters, texts, strict=True)]
            told, again = [*logits, *logprobs], _asked_decoder(store, loaded, text, choices)
        worst = max(worst, float(np.abs(np.asarray(told) - again).max()))
    limit = _SCORE[loaded.dtype]
    detail = f"at most {worst:.1e} {_WHAT['scores']}, on {len(sample)} questions (allowed: {limit:.1e})"
    return Check("deep: scores", worst <= limit, detail)


def _asked_encoder(store: TraceStore, loaded: loading.Loaded, example_id: str, choices: int) -> np.ndarray:
    """(C,) logits, all choices in one padded batch, as transformers' own examples ask, from the tokens that are stored."""
    rows = [store.encodings(example_id, seq) for seq in range(choices)]
    inputs = {
        name: pad_sequence(
            [torch.from_numpy(row[name].astype(np.int64)) for row in rows], batch_first=True, padding_value=filling
        )
        for name, filling in (("input_ids", padding_id(loaded.model)), ("token_type_ids", 0))
        if name in rows[0]
    }
    mask = pad_sequence([torch.ones(len(row["input_ids"]), dtype=torch.long) for row in rows], batch_first=True)
    device = loaded.model.device
    with torch.no_grad(), unchanged(loaded.model):
        given = {k: x[None].to(device) for k, x in (*inputs.items(), ("attention_mask", mask))}
        logits = loaded.model(**given).logits[0]
    return _array(logits)


def _asked_decoder(store: TraceStore, loaded: loading.Loaded, text: str, choices: list[Choice]) -> np.ndarray:
    """(2 C,): the letters' logits, then the texts' log-probabilities."""
    prompting = Prompting(
        loaded.tokenizer,
        loaded.name,
        store.meta.option("template"),
        store.meta.option("chat"),
        bos=bos_of(loaded, store.meta.options.get("prepend_bos", "auto")),
    )
    source = Source("", None, None, "", lambda: iter(()))
    example = Example(source, Row("", text, choices=tuple(choices)), "")
    ((prompt, letters),) = prompting.letters([example])
    with torch.no_grad():
        ids = torch.from_numpy(prompt.ids).to(loaded.model.device)
        logits = _array(loaded.model(input_ids=ids[None]).logits[0, -1])[letters]
    logprobs = []
    for c in prompting.choices([example])[0]:
        ids = torch.from_numpy(c.ids).to(loaded.model.device)
        with torch.no_grad():
            found = loaded.model(input_ids=ids[None]).logits[0].float()
        chosen = found.log_softmax(-1)[torch.arange(c.start - 1, len(ids) - 1), ids[c.start :]]
        logprobs.append(float(chosen.double().sum()))
    return np.concatenate([logits, logprobs])


def _mean_loss(logits: torch.Tensor, ids: torch.Tensor, predicted: torch.Tensor) -> float:
    """Over the positions `predicted`, nats; NaN where there are none."""
    predicted = predicted[predicted < len(ids) - 1]
    if not len(predicted):
        return np.nan
    return float(torch.nn.functional.cross_entropy(logits.float().cpu()[predicted], ids[predicted + 1]))


def _array(x: torch.Tensor) -> np.ndarray:
    return x.float().cpu().numpy()


def _difference(key: Key, found: np.ndarray, expected: np.ndarray) -> float:
    """As `_relative`, but for probabilities, whose rows are the heads' for one pair of tokens, as it is."""
    if key.site in ("attn", "cross.attn"):
        return float(np.abs(found.astype(np.float32) - expected).max())
    return _relative(found, expected)


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the row's largest value: what rounding to a shorter dtype is relative to."""
    scale = np.abs(expected).max(axis=-1, keepdims=True)
    return float((np.abs(found.astype(np.float32) - expected) / np.maximum(scale, 1e-30)).max())


def _on_average(key: Key, found: np.ndarray, expected: np.ndarray) -> float:
    """The largest mean over rows of a head's differences, relative to the mean size of its values."""
    if key.site in ("attn", "cross.attn") or not len(found):
        return 0.0
    difference = np.abs(found.astype(np.float32) - expected).mean(axis=(0, -1))
    return float((difference / np.maximum(np.abs(expected).mean(axis=(0, -1)), 1e-30)).max())
