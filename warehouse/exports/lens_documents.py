"""JSON of a logit lens, as token-level viewers read it: what each layer would have said after every token.

    {"tokens": ["The", …], "n_prompt_tokens": 12, "n_response_tokens": 3,
     "predictions": [{"token_idx": 0, "actual_next_token": " lamp",
                      "by_layer": [{"layer": 0, "top_k": [{"token": " lamp", "prob": 0.5}, …], "actual_rank": 1, "actual_prob": 0.5}]}]}

`layer` is null for what enters the first block; the last token has no next, and null for what would be of it. A lens keeps 50 tokens a
layer and position, each with its text: they are put together as text, since making a dictionary of each takes most of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from warehouse.exports.chosen import ExportedSequence
from warehouse.exports.json_text import number_texts, to_json
from warehouse.schema.quoting import sql_text
from warehouse.storage.trace_store import TraceStore

_ROWS = """
SELECT example_id, seq, pos, layer, topk_ids, topk_tokens, topk_probs, actual_token, actual_rank, actual_prob
FROM logit_lens
WHERE source_run_id = ? AND example_id BETWEEN ? AND ? AND example_id IN ({ids})
ORDER BY example_id, seq, pos, layer NULLS FIRST
"""


class LensDocuments:
    """Makes the documents of one lens; the JSON of a token's text is made once."""

    def __init__(self, lens: TraceStore, source: str) -> None:
        """Take a run of kind lens, and the name of the run that it is of."""
        self._lens, self._source = lens, source
        self._texts = np.full(0, None, object)
        """By token id, what stands before its probability in a list: `{"token":" lamp","prob":`."""

    def documents(self, sequences: Sequence[ExportedSequence]) -> Iterator[tuple[ExportedSequence, bytes]]:
        """Yield the documents of sequences, in order; a sequence that the lens does not have is left out.

        Args:
            sequences: Some sequences, sorted by example, whose rows are held at once.

        Yields:
            A sequence, and JSON.
        """
        ids = sorted({s.example_id for s in sequences})
        query = _ROWS.format(ids=", ".join(map(sql_text, ids)))
        rows = self._lens.query(query, [self._source, ids[0], ids[-1]]).to_arrow_table().combine_chunks()
        known = {(s.example_id, s.seq): s for s in sequences}
        for part in split_by_sequence(rows):
            sequence = known.get((part["example_id"][0].as_py(), part["seq"][0].as_py()))
            if sequence is not None:
                yield sequence, self._document(sequence, part)

    def _document(self, sequence: ExportedSequence, rows: pa.Table) -> bytes:
        """Return the document of a sequence, whose rows are in order of position and layer."""
        by_layer = self._layers(rows)
        positions = rows["pos"].to_numpy()
        next_tokens = rows["actual_token"].to_pylist()
        starts = [0, *(np.flatnonzero(np.diff(positions)) + 1).tolist(), len(rows)]
        predictions = [
            b'{"token_idx":%d,"actual_next_token":%b,"by_layer":[%b]}'
            % (positions[a], to_json(next_tokens[a]), b",".join(by_layer[a:b]))
            for a, b in pairwise(starts)
        ]
        head = {
            "tokens": sequence.tokens,
            "n_prompt_tokens": sequence.n_prompt_tokens,
            "n_response_tokens": sequence.n_response_tokens,
        }
        return to_json(head)[:-1] + b',"predictions":[' + b",".join(predictions) + b"]}"

    def _layers(self, rows: pa.Table) -> list[bytes]:
        """Return the JSON of what one layer says at one position, a row each."""
        ids, tokens, probs = (rows[f"topk_{x}"].combine_chunks() for x in ("ids", "tokens", "probs"))
        before = self._before_probabilities(ids.flatten().to_numpy(), tokens.flatten())
        items = [a + b for a, b in zip(before, number_texts(probs.flatten().to_numpy()), strict=True)]
        ends = np.cumsum(ids.value_lengths().to_numpy()).tolist()
        layers, ranks = (
            [b"null" if x is None else b"%d" % x for x in rows[name].to_pylist()] for name in ("layer", "actual_rank")
        )
        actual = number_texts(rows["actual_prob"].to_numpy())
        return [
            b'{"layer":%b,"top_k":[%b],"actual_rank":%b,"actual_prob":%b}'
            % (layer, b"},".join(items[a:b]) + b"}" * (b > a), rank, prob)
            for layer, (a, b), rank, prob in zip(layers, pairwise([0, *ends]), ranks, actual, strict=True)
        ]

    def _before_probabilities(self, ids: np.ndarray, tokens: pa.Array) -> list[bytes]:
        """Return for each entry of a list of tokens what stands before its probability."""
        if len(ids) and ids.max() >= len(self._texts):
            self._texts = np.concatenate([self._texts, np.full(ids.max() + 1 - len(self._texts), None, object)])
        new = np.flatnonzero(self._texts[ids] == None)  # noqa: E711  elementwise
        _, first = np.unique(ids[new], return_index=True)
        for at in new[first].tolist():
            self._texts[ids[at]] = b'{"token":' + to_json(tokens[at].as_py()) + b',"prob":'
        texts: list[bytes] = self._texts[ids].tolist()
        return texts


def split_by_sequence(rows: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows of each sequence, which lie one after the other."""
    if not len(rows):
        return
    example = rows["example_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    seq = rows["seq"].to_numpy()
    changes = np.flatnonzero((np.diff(example) != 0) | (np.diff(seq) != 0)) + 1
    for start, stop in pairwise([0, *changes.tolist(), len(rows)]):
        yield rows.slice(start, stop - start)
