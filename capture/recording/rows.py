"""Sequences and diagnostics → rows of the small tables, as Arrow tables in the schema's types."""

from __future__ import annotations

import json
from collections.abc import Sequence as Several
from typing import Any

import numpy as np
import pyarrow as pa

from capture.recording.diagnostics import Diagnostics
from capture.sequences.batches import Batch
from capture.sequences.decoding import decode_sequences, decode_tokens
from capture.sequences.sequence import TokenSequence, TokenizedExample
from warehouse.schema.tables import STORED
from warehouse.storage.parquet import to_table

RESPONSE_FACTS = (
    "system", "trait", "polarity", "instruction_idx", "question_idx",
    "vectors_run_id", "method", "component", "layer", "coefficient",
)  # fmt: skip
"""Columns of `responses` that come from what an example's metadata says: of a prompt in people's own sets, the first alone."""


class Rows:
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._decoded: dict[int, str] = {}

    def examples(self, found: Several[TokenizedExample]) -> pa.Table:
        return to_table(
            "examples",
            {
                "example_id": [t.example.example_id for t in found],
                "idx": [t.idx for t in found],
                "dataset": [t.example.source.dataset for t in found],
                "config": [t.example.source.config for t in found],
                "split": [t.example.source.split for t in found],
                "source_id": [t.example.row.source_id for t in found],
                "text": [t.example.text for t in found],
                "n_seqs": [len(t.sequences) for t in found],
                "n_tokens": [sum(s.n_tokens for s in t.sequences) for t in found],
                "truncated": [t.truncated for t in found],
                "altered": [t.altered for t in found],
                "prompt_set": [t.example.row.prompt_set for t in found],
                "metadata": [
                    json.dumps(m, ensure_ascii=False, allow_nan=False) if (m := t.example.row.metadata) else None
                    for t in found
                ],
            },
        )

    def annotations(self, found: Several[TokenizedExample]) -> dict[str, pa.Table]:
        """What people know about the examples: `words` and `labels`, where there are any."""
        tables = {}
        words = [(t.example.example_id, i, w) for t in found for i, w in enumerate(t.example.row.words)]
        if words:
            same = ("word_id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "multiword")
            columns = {name: [getattr(w, name) for _, _, w in words] for name in same}
            columns |= {
                "example_id": [e for e, _, _ in words],
                "word_idx": [i for _, i, _ in words],
                "char_start": [w.start for _, _, w in words],
                "char_end": [w.end for _, _, w in words],
            }
            tables["words"] = to_table("words", columns)
        labels = [(t.example.example_id, x) for t in found for x in t.example.row.labels]
        if labels:
            columns = {
                "example_id": [e for e, _ in labels],
                "label_id": [x.label_id for _, x in labels],
                "label": [x.label for _, x in labels],
            }
            tables["labels"] = to_table("labels", columns)
        return tables

    def prompts(self, sequences: Several[TokenSequence]) -> dict[str, pa.Table]:
        """The texts of sequences that are not their examples' own, where there are any."""
        own = [s for s in sequences if s.text is not None]
        if not own:
            return {}
        columns = {
            "example_id": [s.example.example_id for s in own],
            "seq": [s.seq for s in own],
            "text": [s.text for s in own],
        }
        return {"prompts": to_table("prompts", columns)}

    def tokens(self, batch: Batch) -> pa.Table:
        sequences = batch.sequences
        found = [(s, side, part) for s in sequences for side, part in s.sides.items()]
        parts = [part for _, _, part in found]
        lengths = [len(part) for part in parts]
        ids = np.concatenate([part.ids for part in parts])
        return to_table(
            "tokens",
            {
                **_keys([s for s, _, _ in found], lengths),
                "side": [side for (_, side, _), n in zip(found, lengths, strict=True) for _ in range(n)],
                "batch": [batch.name] * len(ids),
                "token_id": _int32(ids),
                "token": self._texts(ids),
                "char_start": _int32(np.concatenate([p.char_start for p in parts]), missing=-1),
                "char_end": _int32(np.concatenate([p.char_end for p in parts]), missing=-1),
                "word_idx": _int32(np.concatenate([p.word_idx for p in parts]), missing=-1),
                "token_type_id": _int32(
                    np.concatenate([np.full(len(p), -1) if p.types is None else p.types for p in parts]), missing=-1
                ),
                "is_special": pa.array(np.concatenate([p.is_special for p in parts])),
                **{
                    name: pa.array(
                        np.concatenate(
                            [np.zeros(len(p), bool) if x is None else x for p in parts for x in [getattr(p, name)]]
                        )
                    )
                    for name in ("is_response", "is_context")
                },
            },
        )

    def next_token(self, sequences: Several[TokenSequence], found: Diagnostics) -> pa.Table:
        """A row for every token that the decoder predicts the next one of, in the order of `found`."""
        parts = [s.sides["dec"] for s in sequences]
        true_ids = np.concatenate([p.ids[1:][p.is_predicted] for p in parts])
        k = found.topk_ids.shape[1]
        offsets = pa.array(np.arange(0, (len(true_ids) + 1) * k, k, dtype=np.int32))

        def lists(values: pa.Array) -> pa.ListArray:
            return pa.ListArray.from_arrays(offsets, values)

        return to_table(
            "next_token",
            {
                **_keys(sequences, [int(p.is_predicted.sum()) for p in parts]),
                "pos": _int32(np.concatenate([np.flatnonzero(p.is_predicted) for p in parts])),
                "true_id": _int32(true_ids),
                "true_token": self._texts(true_ids),
                "pred_id": pa.array(found.pred_id),
                "pred_token": self._texts(found.pred_id),
                "correct": pa.array(found.pred_id == true_ids),
                "true_prob": pa.array(found.true_prob),
                "pred_prob": pa.array(found.pred_prob),
                "true_rank": pa.array(found.true_rank),
                "entropy": pa.array(found.entropy),
                "loss": pa.array(found.loss),
                "topk_ids": lists(pa.array(found.topk_ids.reshape(-1))),
                "topk_tokens": lists(self._texts(found.topk_ids.reshape(-1))),
                "topk_probs": lists(pa.array(found.topk_probs.reshape(-1))),
            },
        )

    def responses(self, sequences: Several[TokenSequence]) -> pa.Table:
        """A row for every sequence that the model went on with; what of a trait or a steering it belongs to is in its
        example's metadata.
        """
        columns: dict[str, list[Any]] = {name: [] for name in STORED["responses"].names if name != "run_id"}
        for s in sequences:
            part, known = s.sides["dec"], s.example.row.metadata
            assert part.is_response is not None
            start = int(part.is_response.argmax())
            own = part.ids[start:][~part.is_special[start:]]
            facts = RESPONSE_FACTS[:1] if s.example.row.prompt_set else RESPONSE_FACTS
            values = {
                **dict.fromkeys(RESPONSE_FACTS),
                **{name: known.get(name) for name in facts},
                "example_id": s.example.example_id,
                "seq": s.seq,
                "prompt": s.example.text,
                "response": decode_sequences(self._tokenizer, [own.tolist()], skip_special_tokens=True)[0],
                "n_prompt_tokens": start,
                "n_response_tokens": len(part) - start,
                "finish": "stop" if part.is_special[-1] else "length",
            }
            for name, column in columns.items():
                column.append(values[name])
        return to_table("responses", columns)

    def _texts(self, ids: np.ndarray) -> pa.Array:
        """Each token decoded on its own. Ids are looked up once: a vocabulary is small beside a data set."""
        wanted = ids.tolist()
        new = [i for i in dict.fromkeys(wanted) if i not in self._decoded]
        if new:
            self._decoded.update(zip(new, decode_tokens(self._tokenizer, new), strict=True))
        return pa.array([self._decoded[i] for i in wanted], pa.string())


def _keys(sequences: Several[TokenSequence], lengths: list[int]) -> dict[str, pa.Array]:
    """The key columns of `lengths[i]` rows for sequence i, positions counting from 0."""
    ids = [s.example.example_id for s, n in zip(sequences, lengths, strict=True) for _ in range(n)]
    return {
        "example_id": pa.array(ids, pa.string()),
        "seq": _int32(np.repeat([s.seq for s in sequences], lengths)),
        "pos": _int32(np.concatenate([np.arange(n) for n in lengths])),
    }


def _int32(values: np.ndarray, missing: int | None = None) -> pa.Array:
    mask = None if missing is None else values == missing
    return pa.array(values.astype(np.int32), mask=mask)
