"""What is active at the tokens of a shard → rows of the tables `features`, `feature_tokens`, `reconstructions` and `dictionaries`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from capture.features.fit import Fitted
from capture.features.state_encoder import EncodedTokens
from warehouse.schema.arrow import arrow_schema
from warehouse.storage.parquet import coded_table


class FeatureRows:
    """Makes tables from arrays: whole columns, in the order of the tables' keys, with repeated values as codes into a dictionary."""

    def __init__(self, source: str, fitted: Sequence[Fitted]) -> None:
        """Take the run that was encoded, and what it was encoded with."""
        self._source, self._fitted = source, fitted
        self._names = [f.dictionary.name for f in fitted]
        self._layers = pa.array([f.read.layer for f in fitted], pa.int32())

    def tables(self, shard: Sequence[EncodedTokens]) -> dict[str, pa.Table]:
        """Make the rows of a shard: of sequences that follow each other in the order of their examples."""
        sequences = [s for piece in shard for s in piece.sequences]
        lengths = np.array([s.n_rows for s in sequences])
        tokens = _Tokens(
            pa.array([s.example_id for s in sequences]),
            np.array([s.seq for s in sequences], np.int32),
            np.repeat(np.arange(len(sequences), dtype=np.int32), lengths),
            np.arange(lengths.sum(), dtype=np.int32)
            - np.repeat(np.cumsum(lengths) - lengths, lengths).astype(np.int32),
        )
        token, sae, feature, activation = self._active(shard)
        by_feature = np.concatenate(
            [at[np.argsort(_narrow(feature[at]), kind="stable")] for at in _each(sae, len(self._names))]
        )
        return {
            "features": self._active_rows("features", tokens, token, sae, feature, activation),
            "feature_tokens": self._active_rows(
                "feature_tokens", tokens, *(x[by_feature] for x in (token, sae, feature, activation))
            ),
            "reconstructions": self._reconstructions(shard, tokens),
            "dictionaries": self._dictionaries(),
        }

    def _active(self, shard: Sequence[EncodedTokens]) -> tuple[np.ndarray, ...]:
        """Return token, dictionary, feature and activation of all that is active, in the order of the tokens."""
        columns: list[list[np.ndarray]] = [[], [], [], []]
        for i in range(len(self._names)):
            counts = np.concatenate([piece.active[i].counts for piece in shard])
            columns[0].append(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
            columns[1].append(np.full(len(columns[0][-1]), i, np.int32))
            columns[2].append(np.concatenate([piece.active[i].features for piece in shard]))
            columns[3].append(np.concatenate([piece.active[i].activations for piece in shard]))
        joined = tuple(np.concatenate(c) for c in columns)
        if len(self._names) == 1:
            return joined
        order = np.argsort(joined[0], kind="stable")  # of a token the dictionaries come in their order
        return tuple(c[order] for c in joined)

    def _active_rows(
        self,
        table: str,
        tokens: _Tokens,
        token: np.ndarray,
        sae: np.ndarray,
        feature: np.ndarray,
        activation: np.ndarray,
    ) -> pa.Table:
        return coded_table(table, self._keys(tokens, token, sae) | {"feature": feature, "activation": activation})

    def _reconstructions(self, shard: Sequence[EncodedTokens], tokens: _Tokens) -> pa.Table:
        """Make the rows of `reconstructions`: all dictionaries of a token together."""
        n, k = len(tokens.pos), len(self._names)

        def by_token(values: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
            return np.stack([np.concatenate(v) for v in zip(*values, strict=True)], axis=1).ravel()

        keys = self._keys(tokens, np.repeat(np.arange(n, dtype=np.int32), k), np.tile(np.arange(k, dtype=np.int32), n))
        measured = {
            "n_active": by_token([[a.counts for a in piece.active] for piece in shard]),
            "squared_error": by_token([[a.squared_error for a in piece.active] for piece in shard]),
            "squared_norm": by_token([piece.squared_norm for piece in shard]),
            "squared_deviation": by_token([piece.squared_deviation for piece in shard]),
        }
        return coded_table("reconstructions", keys | measured)

    def _keys(self, tokens: _Tokens, token: np.ndarray, sae: np.ndarray) -> dict[str, Any]:
        """Return the columns that name the tokens and the dictionaries of rows."""
        sequence = tokens.sequence[token]
        return {
            "source_run_id": pa.DictionaryArray.from_arrays(np.zeros(len(token), np.int32), [self._source]),
            "example_id": pa.DictionaryArray.from_arrays(sequence, tokens.examples),
            "seq": tokens.seqs[sequence],
            "pos": tokens.pos[token],
            "layer": self._layers.take(pa.array(sae)),
            "sae": pa.DictionaryArray.from_arrays(sae, self._names),
        }

    def _dictionaries(self) -> pa.Table:
        """Make the rows of `dictionaries`."""
        rows = []
        for f in self._fitted:
            d = f.dictionary
            rows.append(
                {
                    "source_run_id": self._source,
                    "sae": d.name,
                    "side": f.read.side,
                    "layer": f.read.layer,
                    "site": f.read.site,
                    "output_site": f.given_back.site if d.kind.transcoder else None,
                    "architecture": d.architecture,
                    "n_features": d.n_features,
                    "width": d.d_in,
                    "trained_on": d.model_name,
                    "weights_hash": d.weights_hash,
                }
            )
        return pa.Table.from_pylist(rows, schema=arrow_schema("dictionaries"))


class _Tokens(NamedTuple):
    """The tokens of a shard, n of S sequences."""

    examples: pa.Array
    """(S,)"""
    seqs: np.ndarray
    """(S,)"""
    sequence: np.ndarray
    """(n,): the place of each token's sequence."""
    pos: np.ndarray
    """(n,)"""


def _each(codes: np.ndarray, n: int) -> list[np.ndarray]:
    """Return the places of each code 0 to n - 1."""
    return [np.arange(len(codes))] if n == 1 else [np.flatnonzero(codes == i) for i in range(n)]


def _narrow(features: np.ndarray) -> np.ndarray:
    """Return numbers of features in 16 bits where they fit, as numpy sorts these by their digits."""
    return features.astype(np.uint16) if len(features) and features.max() < 1 << 16 else features
