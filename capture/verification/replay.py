"""A stored run's sequences, run through their model once more.

In go a run and its loaded model; out comes, for one sequence, a `SequenceTraces`: its loss, hidden states, attention and
tensors. `Replay.run` makes them from a forward pass (alone, or in the batch that the capture had), `Replay.stored` reads them
from the run, and `SequenceTraces.errors` says how far two of them differ. `replay_check` calls this and decides what is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from capture.model import loading
from capture.model.attention_hook import eager_attention
from capture.model.body import padding_id, vocabulary_size
from capture.model.examine import examine
from capture.model.lm_head import LMHead
from capture.model.unchanged import unchanged
from capture.recording import means
from capture.recording.recorder import Recorder
from warehouse.errors import CorruptRunError, TracesError
from warehouse.schema.sites import SEQUENCE, TOKEN, Key
from warehouse.storage.attention import per_query_head, probabilities, unpack_pairs
from warehouse.storage.blobs import TensorSpec
from warehouse.storage.readable import readable
from warehouse.storage.trace_store import TraceStore

_PADDING = 5
"""Tokens that a sequence is padded by, where the batch that it came from is not known."""

ON_AVERAGE = "tensors on average"
"""The name of the error of tensors that is a mean over values, and not the largest of them."""


class SequenceInputs(NamedTuple):
    """What the model reads of one sequence."""

    ids: dict[str, torch.Tensor]
    """Token ids (T,) by side."""
    types: torch.Tensor | None
    """Token types (T,), for models that are told which text of a pair a token is of."""


@dataclass(frozen=True)
class SequenceTraces:
    """What a model computes from one sequence, from a forward pass or from a stored run."""

    loss: float
    """Mean loss in nats; NaN where nothing is predicted."""
    hidden: dict[tuple[str, int], np.ndarray]
    """Hidden states (T, D) by side and number."""
    attention: dict[Key, np.ndarray]
    """Probabilities (H, T, S) by layer; empty where the run has no attention."""
    tensors: dict[Key, np.ndarray]
    """The stored tensors, (rows, *row_shape) each."""

    def errors(self, other: SequenceTraces) -> dict[str, float]:
        """Return the largest difference from `other`, by what is compared: loss, hidden, attention, tensors, `ON_AVERAGE`."""
        return {
            "loss": 0.0 if np.isnan(self.loss) or self.loss == other.loss else abs(self.loss - other.loss),
            "hidden": max((_relative(x, other.hidden[k]) for k, x in self.hidden.items()), default=0.0),
            "attention": max(
                (float(np.abs(x - other.attention[k]).max()) for k, x in self.attention.items()), default=0.0
            ),
            "tensors": max((_difference(k, x, other.tensors[k]) for k, x in self.tensors.items()), default=0.0),
            ON_AVERAGE: max((_mean_difference(k, x, other.tensors[k]) for k, x in self.tensors.items()), default=0.0),
        }

    def same_bits(self, other: SequenceTraces) -> bool:
        """Return whether these tensors, as stored, equal the other's bit for bit."""
        return all(np.array_equal(x, other.tensors[k].astype(x.dtype)) for k, x in self.tensors.items())


class Replay:
    """A loaded model and a stored run, whose sequences it runs once more."""

    def __init__(self, loaded: loading.Loaded, store: TraceStore) -> None:
        self.anatomy, self._loaded, self._store = examine(loaded.model), loaded, store
        self._vocabulary = vocabulary_size(loaded.model)
        self._stored = [Key(s.side, s.site, layer) for s in store.meta.sites for layer in s.layers]
        self._specs = {
            means.recorded_key(Key(s.side, s.site, layer)): TensorSpec(
                "F32", tuple(s.row_shape), TOKEN if s.rows == SEQUENCE else s.rows
            )
            for s in store.meta.sites
            for layer in s.layers
        }
        self._sides = tuple(
            side for (side,) in store.query("SELECT DISTINCT side FROM tokens ORDER BY side").fetchall()
        )

    def inputs(self, example_id: str, seq: int) -> SequenceInputs:
        """Return what the model reads of a sequence, as the run stored it."""
        return SequenceInputs(self._ids(example_id, seq), self._types(example_id, seq))

    def original_batch(self, example_id: str, seq: int) -> tuple[list[SequenceInputs], int] | None:
        """Return the batch that a sequence was captured in, and its row there; None where the run does not say."""
        query = (
            "SELECT t.example_id, t.seq FROM tokens AS t JOIN examples AS e USING (example_id) WHERE batch = (SELECT any_value(batch) "
            "FROM tokens WHERE example_id = ? AND seq = ?) GROUP BY ALL ORDER BY count(*) DESC, any_value(e.idx), t.seq"
        )
        keys = self._store.query(query, [example_id, seq]).fetchall()
        return ([self.inputs(*key) for key in keys], keys.index((example_id, seq))) if keys else None

    def padded_batch(self, inputs: SequenceInputs) -> tuple[list[SequenceInputs], int]:
        """Return a sequence with a longer one, if there is room and the model may be padded, else alone; and its row, 0."""
        room = _PADDING
        if self._loaded.window is not None:
            room = max(0, min(room, self._loaded.window - max(map(len, inputs.ids.values()))))
        if not self.anatomy.body.ignores_padding:
            room = 0
        longer = {side: torch.cat([ids, ids[:1].expand(room)]) for side, ids in inputs.ids.items()}
        types = None if inputs.types is None else torch.cat([inputs.types, inputs.types[-1:].expand(room)])
        return ([inputs, SequenceInputs(longer, types)] if room else [inputs]), 0

    def _ids(self, example_id: str, seq: int) -> dict[str, torch.Tensor]:
        """Return the stored token ids (T,) by side."""
        tokens = {}
        for side in self._sides:
            ids = self._store.encodings(example_id, seq, side=side)["input_ids"]
            if ids.min(initial=0) < 0 or ids.max(initial=0) >= self._vocabulary:
                raise CorruptRunError(
                    f"Run '{self._store.meta.run_id}': example {example_id} has a token with the id {ids.max()}, and the model "
                    f"{self._vocabulary:,} rows in its embedding."
                )
            tokens[side] = torch.from_numpy(ids.astype(np.int64))
        return tokens

    def _types(self, example_id: str, seq: int) -> torch.Tensor | None:
        """Return the stored token types (T,), where the model was told which text of a pair a token is of."""
        if len(self._sides) > 1:
            return None
        types = self._store.encodings(example_id, seq, side=self._sides[0]).get("token_type_ids")
        return None if types is None else torch.from_numpy(types.astype(np.int64))

    def mean_tokens(self, example_id: str, seq: int) -> dict[str, np.ndarray]:
        """Return masks (T,) by side of the tokens that means are over."""
        query = (
            "SELECT list(is_response ORDER BY pos), list(is_special ORDER BY pos) FROM tokens "
            "WHERE example_id = ? AND seq = ? AND side = ?"
        )
        masks = {}
        for side in self._sides:
            (row,) = self._store.query(query, [example_id, seq, side]).fetchall()
            masks[side] = means.token_mask(*(np.asarray(column, bool) for column in row))
        return masks

    def predicted_positions(self, example_id: str, seq: int) -> torch.Tensor:
        """Return the positions that the run has a prediction from, (P,): none whose next token an earlier sequence has too."""
        query = "SELECT pos FROM next_token WHERE example_id = ? AND seq = ? ORDER BY pos"
        rows = self._store.query(query, [example_id, seq]).fetchall()
        return torch.tensor([pos for (pos,) in rows], dtype=torch.long)

    def run(
        self, batch: list[SequenceInputs], row: int, mean_tokens: dict[str, np.ndarray], predicted: torch.Tensor
    ) -> SequenceTraces:
        """Run a right-padded batch through the model.

        Args:
            batch: Its sequences.
            row: The sequence of them whose traces are wanted.
            mean_tokens: Masks (T,) by side of that sequence's tokens that means are over.
            predicted: The positions (P,) that its loss is over.

        Returns:
            The traces of one sequence of the batch.
        """
        tokens, more, ids = {}, {}, batch[row].ids
        types = [inputs.types for inputs in batch if inputs.types is not None]
        if types:
            more["token_type_ids"] = pad_sequence(types, batch_first=True)
        for side in self._sides:
            rows = [inputs.ids[side] for inputs in batch]
            padded = pad_sequence(rows, batch_first=True, padding_value=padding_id(self._loaded.model))
            tokens[side] = (padded, pad_sequence([torch.ones_like(r) for r in rows], batch_first=True))
        with torch.no_grad():
            out = self.anatomy.body(tokens, output_hidden_states=True, **more)
        with Recorder(self.anatomy, self._specs) as recorder:
            recording = recorder.run(tokens, **more)
        recorded = {}
        for k, x in recording.tensors.items():
            start = sum(recording.rows[k][:row])
            recorded[k] = x[start : start + recording.rows[k][row]]
        tensors = {
            k: means.sequence_means(recorded[means.recorded_key(k)], [len(mean_tokens[k.side])], [mean_tokens[k.side]])
            if means.is_mean(k)
            else recorded[k]
            for k in self._stored
        }
        hidden = {
            (side, i): _array(h[row, : len(ids[side])])
            for side, states in out.hidden.items()
            if self._is_readable(side, "hidden")
            for i, h in enumerate(self._stream(side, states))
        }
        loss = np.nan
        if self._store.meta.counts.predictions:
            loss = (
                self._model_loss(batch[row], predicted)
                if len(batch) == 1
                else self._head_loss(out.last["dec"][row], ids, predicted)
            )
        return SequenceTraces(loss, hidden, self._attention(tensors, len(ids.get("enc", ()))), tensors)

    def _stream(self, side: str, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return the model's own hidden states, or none where they lack the embedding and so are not the site `hidden`."""
        return states if self.anatomy.stacks[side].embeds else ()

    def _model_loss(self, inputs: SequenceInputs, predicted: torch.Tensor) -> float:
        """Return the model's own mean loss over positions of a sequence alone, in nats."""
        ids = {"input_ids": inputs.ids["dec"][None]}
        if "enc" in inputs.ids:
            ids = {"input_ids": inputs.ids["enc"][None], "decoder_input_ids": inputs.ids["dec"][None]}
        device = self._loaded.model.device
        with torch.no_grad(), unchanged(self._loaded.model):
            logits = self._loaded.model(**{k: x.to(device) for k, x in ids.items()}).logits[0]
        return _mean_loss(logits, inputs.ids["dec"], predicted)

    def _head_loss(self, last: torch.Tensor, ids: dict[str, torch.Tensor], predicted: torch.Tensor) -> float:
        """Return that loss from last states (T', D): the logits of a whole batch would take too much memory."""
        with torch.no_grad():
            return _mean_loss(LMHead(self.anatomy.body)(last[: len(ids["dec"])]), ids["dec"], predicted)

    def _attention(self, tensors: dict[Key, np.ndarray], sources: int) -> dict[Key, np.ndarray]:
        """Return attention as the run would give it: derived from recorded q and k, or as recorded."""
        attention: dict[Key, np.ndarray] = {}
        for side in self._sides:
            stack = self._store.meta.model.stack(side)
            for prefix, formulas in (("", stack.attention), ("cross.", stack.cross_attention)):
                for i in range(stack.n_layers):
                    key, q, k = (Key(side, prefix + x, i) for x in ("attn", "q", "k"))
                    formula = formulas[i] if formulas is not None else None
                    if key in tensors:
                        attention[key] = unpack_pairs(tensors[key], self._store.row_kind(key), sources)
                    elif formula is not None and q in tensors and k in tensors:
                        queries = tensors[q].swapaxes(0, 1)
                        keys = per_query_head(tensors[k].swapaxes(0, 1), len(queries))
                        attention[key] = probabilities(queries, keys, formula)
        return attention

    def eager_attention(self, inputs: SequenceInputs) -> dict[Key, np.ndarray]:
        """Return the model's own `output_attentions` of a sequence alone, (H, T, S) by layer.

        Args:
            inputs: The sequence.

        Returns:
            Probabilities by site and layer, computed with eager attention.

        Raises:
            TracesError: The model gives none.
        """
        tokens = {side: (ids[None], torch.ones_like(ids)[None]) for side, ids in inputs.ids.items()}
        more = {} if inputs.types is None else {"token_type_ids": inputs.types[None]}
        with eager_attention(self._loaded.model), torch.no_grad():
            given = self.anatomy.body(tokens, output_attentions=True, **more).attentions
        attention: dict[Key, np.ndarray] = {}
        for side, stack in self.anatomy.stacks.items():
            for site, name in (("attn", side), ("cross.attn", "cross")):
                layers = [i for i, layer in enumerate(stack.layers) if site in layer.shapes]
                matrices = given.get(name, ()) if site == "attn" or side == "dec" else ()
                numbers = layers if len(matrices) == len(layers) else range(len(matrices))
                attention |= {
                    Key(side, site, i): _array(a[0]) for i, a in zip(numbers, matrices, strict=True) if i in layers
                }
        if not attention:
            raise TracesError(
                f"{self._loaded.name} gives no attentions under eager attention, so there is nothing to compare with."
            )
        return attention

    def _is_readable(self, side: str, site: str) -> bool:
        return any((r.side, r.site) == (side, site) for r in readable(self._store.meta))

    def stored(self, example_id: str, seq: int, like: SequenceTraces) -> SequenceTraces:
        """Return the traces of a sequence that the run has stored, as far as `like` has them."""
        store = self._store
        query = "SELECT avg(loss::DOUBLE) FROM next_token WHERE example_id = ? AND seq = ?"
        row = store.query(query, [example_id, seq]).fetchone()
        attended = {key for key in like.attention if self._is_readable(key.side, key.site)}
        return SequenceTraces(
            loss=like.loss if np.isnan(like.loss) or row is None else row[0],
            hidden={
                (side, i): self._read(store.key("hidden", i, side), example_id, seq, x)
                for (side, i), x in like.hidden.items()
            },
            attention={
                key: store.attn(
                    example_id, key.layer, seq=seq, side=key.side, kind="cross" if key.site == "cross.attn" else "self"
                )
                for key in attended
            },
            tensors={key: self._read(key, example_id, seq, x) for key, x in like.tensors.items()},
        )

    def _read(self, key: Key, example_id: str, seq: int, like: np.ndarray) -> np.ndarray:
        """Return stored rows; of int8 codes, what is nearest to `like` among the values that they stand for."""
        rows, step = self._store.rows(key, example_id, seq), self._store.step(key, example_id, seq)
        return rows if step is None else np.clip(like, rows - step / 2, rows + step / 2)


def _mean_loss(logits: torch.Tensor, ids: torch.Tensor, predicted: torch.Tensor) -> float:
    """Return the mean loss over the positions `predicted`, in nats; NaN where there are none."""
    predicted = predicted[predicted < len(ids) - 1]
    if not len(predicted):
        return np.nan
    return float(torch.nn.functional.cross_entropy(logits.float().cpu()[predicted], ids[predicted + 1]))


def _array(x: torch.Tensor) -> np.ndarray:
    return x.float().cpu().numpy()


def _difference(key: Key, actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference: absolute for probabilities, whose rows hold the heads of a token pair, else relative."""
    if key.site in ("attn", "cross.attn"):
        return float(np.abs(actual.astype(np.float32) - expected).max())
    return _relative(actual, expected)


def _relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to its row's largest value, as rounding to a shorter dtype is."""
    scale = np.abs(expected).max(axis=-1, keepdims=True)
    return float((np.abs(actual.astype(np.float32) - expected) / np.maximum(scale, 1e-30)).max())


def _mean_difference(key: Key, actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest mean over rows of a head's differences, relative to the mean size of its values."""
    if key.site in ("attn", "cross.attn") or not len(actual):
        return 0.0
    difference = np.abs(actual.astype(np.float32) - expected).mean(axis=(0, -1))
    return float((difference / np.maximum(np.abs(expected).mean(axis=(0, -1)), 1e-30)).max())
