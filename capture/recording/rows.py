"""Rows of the small tables (examples, tokens, next_token, responses, …), as Arrow tables in the schema's types.

In go a batch's sequences and diagnostics; jobs write what comes out. Knows nothing of models or files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence as Several
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from capture.data.evaluation import Evaluation
from capture.data.transcript import Chat
from capture.recording.diagnostics import Diagnostics
from capture.sequences.batches import Batch
from capture.sequences.chat import PARTS
from capture.sequences.decoding import decode_sequences, decode_tokens
from capture.sequences.sequence import SideTokens, TokenizedExample, TokenSequence
from warehouse.schema.tables import STORED
from warehouse.storage.parquet import to_table

RESPONSE_FACTS = (
    "system", "trait", "polarity", "instruction_idx", "question_idx",
    "vectors_run_id", "method", "component", "layer", "coefficient",
)  # fmt: skip
"""Columns of `responses` that come from an example's metadata; of a prompt from a user's own set, the first alone."""


class Rows:
    """Makes rows, and keeps what it has decoded: each token of the vocabulary is decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._decoded: dict[int, str] = {}

    def examples(self, examples: Several[TokenizedExample]) -> pa.Table:
        """Return a row of `examples` for each example."""
        return to_table(
            "examples",
            {
                "example_id": [t.example.example_id for t in examples],
                "idx": [t.idx for t in examples],
                "dataset": [t.example.source.dataset for t in examples],
                "config": [t.example.source.config for t in examples],
                "split": [t.example.source.split for t in examples],
                "source_id": [t.example.row.source_id for t in examples],
                "text": [t.example.text for t in examples],
                "n_seqs": [len(t.sequences) for t in examples],
                "n_tokens": [sum(s.n_tokens for s in t.sequences) for t in examples],
                "truncated": [t.truncated for t in examples],
                "altered": [t.altered for t in examples],
                "prompt_set": [t.example.row.prompt_set for t in examples],
                "metadata": [
                    json.dumps(m, ensure_ascii=False, allow_nan=False) if (m := t.example.row.metadata) else None
                    for t in examples
                ],
            },
        )

    def annotations(self, examples: Several[TokenizedExample]) -> dict[str, pa.Table]:
        """Return the tables of what examples hold besides a text, where there is any: `words`, `labels`, `messages`, `evaluations`."""
        tables = {}
        words = [(t.example.example_id, i, w) for t in examples for i, w in enumerate(t.example.row.words)]
        if words:
            names = ("word_id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "multiword")
            columns = {name: [getattr(w, name) for _, _, w in words] for name in names}
            columns |= {
                "example_id": [e for e, _, _ in words],
                "word_idx": [i for _, i, _ in words],
                "char_start": [w.start for _, _, w in words],
                "char_end": [w.end for _, _, w in words],
            }
            tables["words"] = to_table("words", columns)
        labels = [(t.example.example_id, x) for t in examples for x in t.example.row.labels]
        if labels:
            columns = {
                "example_id": [e for e, _ in labels],
                "label_id": [x.label_id for _, x in labels],
                "label": [x.label for _, x in labels],
            }
            tables["labels"] = to_table("labels", columns)
        messages = [
            ((t.example.example_id, seq, turn), m)
            for t in examples
            for seq, chat in enumerate(t.example.row.transcripts)
            if isinstance(chat, Chat)
            for turn, m in enumerate(chat.messages)
        ]
        if messages:
            texts = ("role", "content", "name", "tool_call_id")
            columns = {name: [m.get(name) for _, m in messages] for name in texts}
            columns |= {
                **{name: [key[i] for key, _ in messages] for i, name in enumerate(("example_id", "seq", "turn"))},
                "reasoning": [m.get("reasoning_content") for _, m in messages],
                "tool_calls": [
                    json.dumps(m["tool_calls"], ensure_ascii=False) if "tool_calls" in m else None for _, m in messages
                ],
            }
            tables["messages"] = to_table("messages", columns)
        scores = [(t.example.example_id, x) for t in examples for x in t.example.row.evaluations]
        if scores:
            columns = {"example_id": [e for e, _ in scores]}
            columns |= {f.name: [getattr(x, f.name) for _, x in scores] for f in fields(Evaluation)}
            tables["evaluations"] = to_table("evaluations", columns)
        return tables

    def prompts(self, sequences: Several[TokenSequence]) -> dict[str, pa.Table]:
        """Return the table of texts that differ from their examples', where there are any."""
        prompted = [s for s in sequences if s.text is not None]
        if not prompted:
            return {}
        columns = {
            "example_id": [s.example.example_id for s in prompted],
            "seq": [s.seq for s in prompted],
            "text": [s.text for s in prompted],
        }
        return {"prompts": to_table("prompts", columns)}

    def tokens(self, batch: Batch) -> pa.Table:
        """Return a row of `tokens` for each token of a batch, padding left out."""
        sequences = batch.sequences
        rows = [(s, side, part) for s in sequences for side, part in s.sides.items()]
        parts = [part for _, _, part in rows]
        lengths = [len(part) for part in parts]
        ids = np.concatenate([part.ids for part in parts])
        return to_table(
            "tokens",
            {
                **_keys([s for s, _, _ in rows], lengths),
                "side": [side for (_, side, _), n in zip(rows, lengths, strict=True) for _ in range(n)],
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
                **_turns([s for s, _, _ in rows], parts),
            },
        )

    def next_token(self, sequences: Several[TokenSequence], diagnostics: Diagnostics) -> pa.Table:
        """Return a row of `next_token` for each position with a prediction.

        Args:
            sequences: Those that a decoder read.
            diagnostics: Of their predictions, in the same order.

        Returns:
            Rows in the order of `diagnostics`.
        """
        parts = [s.sides["dec"] for s in sequences]
        true_ids = np.concatenate([p.ids[1:][p.is_predicted] for p in parts])
        k = diagnostics.topk_ids.shape[1]
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
                "pred_id": pa.array(diagnostics.pred_id),
                "pred_token": self._texts(diagnostics.pred_id),
                "correct": pa.array(diagnostics.pred_id == true_ids),
                "true_prob": pa.array(diagnostics.true_prob),
                "pred_prob": pa.array(diagnostics.pred_prob),
                "true_rank": pa.array(diagnostics.true_rank),
                "entropy": pa.array(diagnostics.entropy),
                "loss": pa.array(diagnostics.loss),
                "topk_ids": lists(pa.array(diagnostics.topk_ids.reshape(-1))),
                "topk_tokens": lists(self._texts(diagnostics.topk_ids.reshape(-1))),
                "topk_probs": lists(pa.array(diagnostics.topk_probs.reshape(-1))),
            },
        )

    def responses(self, sequences: Several[TokenSequence]) -> pa.Table:
        """Return a row of `responses` for each sequence that the model went on with.

        Its trait or steering, where it has one, is in its example's metadata.

        Args:
            sequences: Prompts with their responses.

        Returns:
            The table, in the order of the sequences.
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
        """Return each token's own text. An id is decoded once: a vocabulary is small beside a data set."""
        listed = ids.tolist()
        new = [i for i in dict.fromkeys(listed) if i not in self._decoded]
        if new:
            self._decoded.update(zip(new, decode_tokens(self._tokenizer, new), strict=True))
        return pa.array([self._decoded[i] for i in listed], pa.string())


def _keys(sequences: Several[TokenSequence], lengths: list[int]) -> dict[str, pa.Array]:
    """Return the key columns of `lengths[i]` rows for sequence i, with positions from 0."""
    ids = [s.example.example_id for s, n in zip(sequences, lengths, strict=True) for _ in range(n)]
    return {
        "example_id": pa.array(ids, pa.string()),
        "seq": _int32(np.repeat([s.seq for s in sequences], lengths)),
        "pos": _int32(np.concatenate([np.arange(n) for n in lengths])),
    }


def _turns(sequences: list[TokenSequence], parts: list[SideTokens]) -> dict[str, pa.Array]:
    """Return the columns `role`, `turn` and `part` of the tokens of sequences, NULL where they are no chats."""
    n = sum(map(len, parts))
    if all(p.turn is None for p in parts):
        return {"role": pa.nulls(n, pa.string()), "turn": pa.nulls(n, pa.int32()), "part": pa.nulls(n, pa.string())}
    turns = [np.full(len(p), -1) if p.turn is None else p.turn for p in parts]
    kinds = np.concatenate([np.full(len(p), -1) if p.part is None else p.part for p in parts])
    roles = [
        s.roles[t] if t >= 0 else None
        for s, of_sequence in zip(sequences, turns, strict=True)
        for t in of_sequence.tolist()
    ]
    return {
        "role": pa.array(roles, pa.string()),
        "turn": _int32(np.concatenate(turns), missing=-1),
        "part": pa.array(PARTS, pa.string()).take(_int32(kinds, missing=-1)),
    }


def _int32(values: np.ndarray, missing: int | None = None) -> pa.Array:
    mask = None if missing is None else values == missing
    return pa.array(values.astype(np.int32), mask=mask)
