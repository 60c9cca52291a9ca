"""TraceStore: one run, its small tables and its tensors.

Tensors are slices of memory-mapped shards: asking for one layer of one example reads that and nothing else. What the
stored tensors determine (`hidden`, `resid.pre_attn`, `attn`) is put together here; the caller never sees the difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse import layout, sites
from warehouse.attention import per_query_head, probabilities
from warehouse.blobs import Blob
from warehouse.errors import CorruptRun, NotFound, UsageError
from warehouse.manifest import Manifest
from warehouse.quoting import sql_path
from warehouse.schema import STORED, arrow_schema

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa


class TraceStore:
    """A published run, opened from its folder alone: no warehouse and no model needed.

    T is the number of tokens of the sequence asked for, L the layers, H the query heads, D the width. Arrays come in the
    dtype they are stored in and may be read-only views; `attn` is float32. Every accessor raises NotFound for an example
    that the run does not have (with the nearest ids), and UsageError for a site it did not store or a layer or head that
    the model has not.
    """

    def __init__(self, folder: str | Path) -> None:
        """Raises CorruptRun where `folder` is no run, NewerSchema where a newer version wrote it."""
        self.path = Path(folder)
        self.meta = Manifest.read(self.path)
        m = self.meta.model
        self._dims = sites.Dims(m.n_layers, m.d_model, m.n_heads, m.n_kv_heads, m.d_head, m.d_value)
        self._stored = {s.site for s in self.meta.sites}
        self._blobs: dict[str, Blob] = {}

    def __repr__(self) -> str:
        c = self.meta.counts
        return f"<TraceStore {self.meta.run_id}: {self.meta.model.name}, {c.examples} examples, {c.tokens} tokens>"

    # -- small tables ----------------------------------------------------------------------------------------------

    @property
    def sites(self) -> set[str]:
        """Names of the sites that can be asked for, stored or derived."""
        return {site for site, _, _ in self._readable()}

    def _readable(self) -> list[tuple[str, str, str]]:
        return sites.readable(self._stored, self._dims, self.meta.model.attention is not None)

    def arrays(self) -> pd.DataFrame:
        """What can be asked for, a row a site: its shape for one sequence, dtype, and whether it is stored or derived."""
        import pandas as pd

        dtypes = {s.site: s.dtype for s in self.meta.sites}
        residual = dtypes.get("resid.post_mlp", "")
        rows = [
            (
                site,
                shape,
                "F32" if site == "attn" else dtypes.get(site, residual) if home == "stored" else residual,
                home,
            )
            for site, shape, home in self._readable()
        ]
        return pd.DataFrame(rows, columns=["site", "shape", "dtype", "home"])

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """A row an example (a row a chunk under --chunk), in the data's order: its text, and as lists its token ids, tokens,
        character offsets, and for every position with a next token the prediction's id, whether it was right, and loss."""
        return self.query(
            """
            SELECT e.idx, e.example_id, coalesce(t.seq, 0) AS seq, e.text, t.input_ids, t.tokens, t.offsets,
                   p.pred_ids, p.correct, p.losses
            FROM examples AS e
            LEFT JOIN (
                SELECT example_id, seq, list(token_id ORDER BY pos) AS input_ids, list(token ORDER BY pos) AS tokens,
                       list([char_start, char_end] ORDER BY pos) AS offsets
                FROM tokens GROUP BY example_id, seq
            ) AS t USING (example_id)
            LEFT JOIN (
                SELECT example_id, seq, list(pred_id ORDER BY pos) AS pred_ids, list(correct ORDER BY pos) AS correct,
                       list(loss ORDER BY pos) AS losses
                FROM next_token GROUP BY example_id, seq
            ) AS p ON p.example_id = t.example_id AND p.seq = t.seq
            ORDER BY e.idx, seq
            """
        ).df()

    def query(self, query: str, params: list[Any] | None = None) -> duckdb.DuckDBPyRelation:
        """Asks this run alone: its tables by their names, in SQL, `?` standing for `params`."""
        import duckdb

        con = duckdb.connect()
        for name in STORED:
            if self._has(name):
                con.execute(
                    f"CREATE VIEW {name} AS SELECT * FROM read_parquet({sql_path(self.path, f'{name}/*.parquet')})"
                )
            else:
                con.register(name, arrow_schema(name).empty_table())
        return con.sql(query, params=params)

    def encodings(self, example_id: str, seq: int = 0) -> dict[str, Any]:
        """`input_ids` (T,), `attention_mask` (T,), all ones, `offset_mapping` (T, 2), -1 where a token has no place in the
        text, and `tokens`, a list of T strings."""
        t = self._read("tokens", ["token_id", "token", "char_start", "char_end"], example_id, seq)
        if not len(t):
            self.place(example_id, seq)
        offsets = [t[c].fill_null(-1).to_numpy() for c in ("char_start", "char_end")]
        return {
            "input_ids": t["token_id"].to_numpy(),
            "attention_mask": np.ones(len(t), np.int64),
            "offset_mapping": np.stack(offsets, axis=1),
            "tokens": t["token"].to_pylist(),
        }

    def _has(self, table: str) -> bool:
        return next((self.path / table).glob("*.parquet"), None) is not None

    def _read(self, table: str, columns: list[str], example_id: str, seq: int) -> pa.Table:
        if not self._has(table):
            return arrow_schema(table).empty_table()
        wanted = (pc.field("example_id") == example_id) & (pc.field("seq") == seq)
        return pq.read_table(self.path / table, columns=columns, filters=wanted, partitioning=None)

    # -- tensors ---------------------------------------------------------------------------------------------------

    def resid(
        self, example_id: str, stage: str = "post_mlp", layer: int | None = None, *, seq: int = 0, side: str = "dec"
    ) -> np.ndarray:
        """The residual stream at a stage of a layer, (T, D), or of all layers, (L, T, D).

        Stages: `embed`, what enters the first layer, always (T, D); `pre_attn`, a layer's input; `post_attn`, after its
        attention is added; `post_mlp`, its output.
        """
        self._check_side(side)
        if stage not in sites.RESID_STAGES:
            raise NotFound("stage of the residual stream", stage, sites.RESID_STAGES)
        if stage == "embed":
            return self._slice("resid.embed", None, example_id, seq)
        if layer is None:
            return np.stack([self._resid(stage, i, example_id, seq) for i in range(self._dims.n_layers)])
        self._check("layer", layer, self._dims.n_layers)
        return self._resid(stage, layer, example_id, seq)

    def _resid(self, stage: str, layer: int, example_id: str, seq: int) -> np.ndarray:
        if stage == "pre_attn":
            if layer == 0:
                return self._slice("resid.embed", None, example_id, seq)
            return self._slice("resid.post_mlp", layer - 1, example_id, seq)
        return self._slice(f"resid.{stage}", layer, example_id, seq)

    def hidden(self, example_id: str, layer: int | None = None, *, seq: int = 0, side: str = "dec") -> np.ndarray:
        """What transformers calls `output_hidden_states`: (L+1, T, D), or one of them, (T, D).

        `hidden[0]` is the embedding, `hidden[l]` the input of layer l, and the last one is after the final norm.
        """
        self._check_side(side)
        n = self._dims.n_layers
        if layer is None:
            return np.stack([self.hidden(example_id, i, seq=seq) for i in range(n + 1)])
        self._check("layer", layer, n + 1)
        if layer == n:
            return self._slice("hidden", n, example_id, seq)
        return self._resid("pre_attn", layer, example_id, seq)

    def qkv(
        self,
        example_id: str,
        which: str,
        layer: int | None = None,
        head: int | None = None,
        *,
        seq: int = 0,
        side: str = "dec",
        kind: str = "self",
    ) -> np.ndarray:
        """Queries, keys or values (`which` is `q`, `k` or `v`) as attention receives them, after position encoding.

        (T, d_head) for one head of one layer; leaving out `head` or `layer` gives (H, T, d_head) or (L, …). Heads are query
        heads: grouped keys and values are repeated for each of them.
        """
        self._check_side(side, kind)
        if which not in ("q", "k", "v"):
            raise NotFound("tensor of attention", which, ("q", "k", "v"))
        if head is not None:
            self._check("head", head, self._dims.n_heads)
        if layer is None:
            return np.stack([self._heads(which, i, head, example_id, seq) for i in range(self._dims.n_layers)])
        self._check("layer", layer, self._dims.n_layers)
        return self._heads(which, layer, head, example_id, seq)

    def _heads(self, which: str, layer: int, head: int | None, example_id: str, seq: int) -> np.ndarray:
        rows = self._slice(which, layer, example_id, seq)  # (T, heads, d)
        if head is not None:
            return rows[:, head * rows.shape[1] // self._dims.n_heads]
        return per_query_head(rows.swapaxes(0, 1), self._dims.n_heads)

    def attn(
        self,
        example_id: str,
        layer: int | None = None,
        head: int | None = None,
        *,
        seq: int = 0,
        side: str = "dec",
        kind: str = "self",
    ) -> np.ndarray:
        """Attention probabilities, float32 (T, T), row i over what token i sees; without `head` (H, T, T), without `layer`
        (L, …). Derived from the stored q and k."""
        self._check_side(side, kind)
        if layer is None:
            return np.stack([self.attn(example_id, i, head, seq=seq) for i in range(self._dims.n_layers)])
        if self.meta.model.attention is None:
            raise UsageError(f"Run '{self.meta.run_id}': this model's attention cannot be derived from q and k.")
        q = self.qkv(example_id, "q", layer, head, seq=seq)
        k = self.qkv(example_id, "k", layer, head, seq=seq)
        return probabilities(q, k, self.meta.model.attention[layer])

    def _slice(self, site: str, layer: int | None, example_id: str, seq: int) -> np.ndarray:
        blob, start, end = self.place(example_id, seq)
        if site not in self._stored:
            raise UsageError(
                f"Run '{self.meta.run_id}' did not store {site}; it has {', '.join(sorted(self._stored)) or 'no tensors'}. "
                f"Capture it again with --capture {_captures(site)}."
            )
        if start == end:
            shape = next(s.row_shape for s in self.meta.sites if s.site == site)
            return np.empty((0, *shape), np.float32)
        return self.blob(blob).rows(layout.tensor_name(site, layer), start, end)

    def blob(self, name: str) -> Blob:
        """A shard of this run by its path in the run's folder."""
        if name not in self._blobs:
            self._blobs[name] = Blob(self.path / name)
        return self._blobs[name]

    def place(self, example_id: str, seq: int = 0) -> tuple[str, int, int]:
        """The shard that holds a sequence's tensors, its first row there, and one past its last."""
        try:
            return self._places[example_id, seq]
        except KeyError:
            pass
        if not any(example == example_id for example, _ in self._places):
            raise NotFound(
                "example", example_id, dict.fromkeys(e for e, _ in self._places), f"(run '{self.meta.run_id}')"
            )
        raise NotFound("seq", seq, sorted(s for e, s in self._places if e == example_id), f"(example {example_id})")

    @cached_property
    def _places(self) -> dict[tuple[str, int], tuple[str, int, int]]:
        """(example_id, seq) → shard and rows. All tensors of a shard hold the same rows (`validate` proves it), so one of
        them tells of all. Sequences without tensors are there too, with no rows."""
        places = {
            (e, s): ("", 0, 0)
            for e, n in self._columns("examples", ["example_id", "n_seqs"])
            for s in range(max(n, 1))
        }  # fmt: skip
        if self.meta.sites:
            first = self.meta.sites[0]
            one = pc.field("site") == first.site
            if first.layers[0] is not None:
                one &= pc.field("layer") == first.layers[0]
            names = ["example_id", "seq", "blob", "row_start", "row_end"]
            places |= {(e, s): (b, i, j) for e, s, b, i, j in self._columns("tensors", names, one)}
        return places

    def _columns(self, table: str, names: list[str], where: pc.Expression | None = None) -> Iterable[tuple[Any, ...]]:
        try:
            rows = pq.read_table(self.path / table, columns=names, filters=where, partitioning=None)
        except FileNotFoundError:
            return iter(())
        except OSError as e:
            raise CorruptRun(f"{self.path / table}: {e}") from None
        return zip(*(rows[name].to_pylist() for name in names), strict=True)

    def _check(self, what: str, index: int, count: int) -> None:
        if not 0 <= index < count:
            raise UsageError(f"{what} {index}: {self.meta.model.name} has {what}s 0 to {count - 1}.")

    def _check_side(self, side: str, kind: str = "self") -> None:
        if side not in ("dec", "enc"):
            raise NotFound("side", side, ("dec", "enc"))
        if kind not in ("self", "cross"):
            raise NotFound("kind of attention", kind, ("self", "cross"))
        if side != "dec":
            raise UsageError(
                f"Run '{self.meta.run_id}' has no encoder side: {self.meta.model.architecture} is a decoder."
            )
        if kind != "self":
            raise UsageError(
                f"Run '{self.meta.run_id}' has no cross attention: {self.meta.model.architecture} is a decoder."
            )


def _captures(site: str) -> str:
    """The shortest --capture name that stores a site."""
    return min((g for g, needs in sites.GROUPS.items() if site in needs), key=lambda g: len(sites.GROUPS[g]))
