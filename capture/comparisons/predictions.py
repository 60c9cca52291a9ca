"""What two models predict after the tokens that both read: rows of the table `comparisons`.

Logits of both come from stored states (`predictor`), a slice of tokens at a time, and are compared in place (`divergence`). Where
the vocabularies differ there is no divergence of distributions over them: then rows have losses alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from capture.comparisons.divergence import Divergences, compare_logits
from capture.comparisons.predictor import Predictor
from capture.comparisons.shared_tokens import SharedTokens, slice_shared
from capture.sequences.decoding import decode_tokens
from warehouse.schema.arrow import arrow_schema
from warehouse.storage.parquet import to_table

_SLICE_BYTES = 128 << 20
"""Float32 logits of one model that exist at a time."""


def why_not_comparable(a: Predictor, b: Predictor) -> str | None:
    """Say why two models' distributions cannot be compared; None: they can."""
    if a.vocabulary != b.vocabulary:
        return f"their heads predict {a.vocabulary:,} and {b.vocabulary:,} tokens"
    if a.tokenizer.get_vocab() != b.tokenizer.get_vocab():
        return "their tokenizers have other vocabularies"
    return None


class PredictionRows:
    """Makes rows of the table `comparisons` for two runs."""

    def __init__(self, names: tuple[str, str], predictors: tuple[Predictor, Predictor] | None) -> None:
        """Take the two runs' names, and what predicts; None: rows have losses alone."""
        self._names, self._predictors = names, predictors
        self._schema = arrow_schema("comparisons")
        self._texts = np.full(predictors[0].vocabulary if predictors else 0, None, object)
        """Text of each token by its id; each is decoded by itself, once."""

    def table(self, shard: list[SharedTokens]) -> pa.Table:
        """Return the rows of the shared tokens of a shard, sorted."""
        if self._predictors is None:
            return self._rows(shard, None)
        a, b = self._predictors
        most = max(1, _SLICE_BYTES // (a.vocabulary * 4))
        tables = []
        for pieces in slice_shared(shard, most):
            mine = a.logits([(s.example_id, s.seq, s.positions) for s in pieces])
            theirs = b.logits([(s.example_id, s.seq, s.other_positions) for s in pieces])
            found = compare_logits(mine, theirs.to(mine.device))
            a.check_finite(found.top1_prob)
            b.check_finite(found.other_top1_prob)
            tables.append(self._rows(pieces, found))
        return pa.concat_tables(tables)

    def _rows(self, pieces: Sequence[SharedTokens], found: Divergences | None) -> pa.Table:
        lengths = [len(s.positions) for s in pieces]
        n = sum(lengths)
        columns: dict[str, pa.Array] = {
            "source_run_id": pa.repeat(pa.scalar(self._names[0]), n),
            "other_run_id": pa.repeat(pa.scalar(self._names[1]), n),
            "example_id": pa.array(np.repeat(np.array([s.example_id for s in pieces], object), lengths)),
            "seq": pa.array(np.repeat([s.seq for s in pieces], lengths).astype(np.int32)),
            "pos": pa.array(np.concatenate([s.positions for s in pieces]).astype(np.int32)),
            "other_pos": pa.array(np.concatenate([s.other_positions for s in pieces]).astype(np.int32)),
            "loss": _known(np.concatenate([s.losses for s in pieces])),
            "other_loss": _known(np.concatenate([s.other_losses for s in pieces])),
        }
        if found is not None:
            arrays = {name: values.cpu().numpy() for name, values in found._asdict().items()}
            columns |= {name: pa.array(values, self._schema.field(name).type) for name, values in arrays.items()}
            columns |= {f"{side}top1_token": self._decoded(arrays[f"{side}top1_id"]) for side in ("", "other_")}
        missing = [field for field in self._schema if field.name not in columns]
        return to_table("comparisons", columns | {field.name: pa.nulls(n, field.type) for field in missing})

    def _decoded(self, ids: np.ndarray) -> pa.Array:
        assert self._predictors is not None
        if new := sorted({int(i) for i in ids[self._texts[ids] == None]}):  # noqa: E711  elementwise
            self._texts[new] = decode_tokens(self._predictors[0].tokenizer, new)
        return pa.array(self._texts[ids], pa.string())


def _known(losses: np.ndarray) -> pa.Array:
    """Return losses, NULL where they are NaN."""
    return pa.array(losses, mask=np.isnan(losses))
