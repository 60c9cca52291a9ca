"""TraceStore: one run, its small tables and its tensors.

Tensors are slices of memory-mapped shards: asking for one layer of one example reads that and nothing else. What the
stored tensors determine (`hidden`, `resid.pre_attn`, `attn`) is put together here; the caller never sees the difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse.errors import CorruptRunError, NotFoundError, UsageError
from warehouse.schema import sites
from warehouse.schema.arrow import arrow_schema
from warehouse.schema.quoting import sql_all_columns, sql_no_rows, sql_parquet, sql_text
from warehouse.schema.sites import Key
from warehouse.schema.tables import STORED
from warehouse.storage import paths, readable
from warehouse.storage.attention import per_query_head, probabilities, select_heads, unpack_pairs
from warehouse.storage.blobs import Blob
from warehouse.storage.manifest import LayerAttention, Manifest, SiteInfo

if TYPE_CHECKING:
    import duckdb
    import pandas as pd


class Slice(NamedTuple):
    """A sequence's rows of a tensor, or some of them: `start` to `end` of its shard."""

    blob: str
    start: int
    end: int
    example_id: str
    seq: int
    first: int = 0
    """Which of the sequence's rows `start` is."""


class TraceStore:
    """A published run, opened from its folder alone: no warehouse and no model needed.

    T is the number of tokens of the sequence asked for, L the layers, H the query heads, D the width. Arrays come in the
    dtype they are stored in and may be read-only views; what is computed (`attn`, and streams of parallel blocks) is
    float32. `side` is `dec` or `enc`, the stack of the model; left out, it is the decoder, or the encoder of a model that
    has no decoder. Every accessor raises NotFoundError for an example that the run does not have (with the nearest ids), and
    UsageError for a site that it did not store or the model does not have, or a layer or head that is not there.

    Several threads may ask at once: what is opened when first asked for is opened twice at worst, and each is whole.
    """

    def __init__(self, folder: str | Path) -> None:
        """Raises CorruptRunError where `folder` is no run, NewerSchemaError where a newer version wrote it."""
        self.path = Path(folder)
        self.meta = Manifest.read(self.path)
        self._sites = {Key(s.side, s.site, layer): s for s in self.meta.sites for layer in s.layers}
        self._stored = {(s.side, s.site) for s in self.meta.sites}
        self._blobs: dict[str, Blob] = {}
        self._places: dict[tuple[str, str], dict[tuple[str, int], tuple[str, int, int]]] = {}

    def __repr__(self) -> str:
        c = self.meta.counts
        return f"<TraceStore {self.meta.run_id}: {self.meta.model.name}, {c.examples} examples, {c.tokens} tokens>"

    # -- small tables ----------------------------------------------------------------------------------------------

    @property
    def sites(self) -> set[str]:
        """Names of the sites that can be asked for, stored or derived, on either side."""
        return {r.site for r in readable.readable(self.meta)}

    def arrays(self) -> pd.DataFrame:
        """What can be asked for, a row a site: side, its shape for one sequence, dtype, whether it is stored or derived, and what
        else there is to know. Where layers differ in shape each shape stands with its layers: ask for those one at a time.
        """
        import pandas as pd

        return pd.DataFrame(readable.readable(self.meta), columns=list(readable.Readable._fields))

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """A row an example (a row a chunk under --chunk, a row a side in an encoder-decoder), in the data's order: its text,
        and as lists its token ids, tokens, character offsets, and for every position with a next token the prediction's id,
        whether it was right, and loss.
        """
        answer = self.query(
            f"""
            SELECT e.idx, e.example_id, coalesce(t.seq, 0) AS seq, coalesce(t.side, '{self.meta.model.side}') AS side, e.text,
                   t.input_ids, t.tokens, t.offsets, p.pred_ids, p.correct, p.losses
            FROM examples AS e
            LEFT JOIN (
                SELECT example_id, seq, side, list(token_id ORDER BY pos) AS input_ids, list(token ORDER BY pos) AS tokens,
                       list([char_start, char_end] ORDER BY pos) AS offsets
                FROM tokens GROUP BY example_id, seq, side
            ) AS t USING (example_id)
            LEFT JOIN (
                SELECT example_id, seq, list(pred_id ORDER BY pos) AS pred_ids, list(correct ORDER BY pos) AS correct,
                       list(loss ORDER BY pos) AS losses
                FROM next_token GROUP BY example_id, seq
            ) AS p ON p.example_id = t.example_id AND p.seq = t.seq AND t.side = 'dec'
            ORDER BY e.idx, seq, side
            """
        )
        with self._readable("tables"):
            return answer.df()

    def query(self, query: str, params: list[Any] | None = None) -> duckdb.DuckDBPyRelation:
        """Asks this run alone: its tables by their names, in SQL, `?` standing for `params`. Rows have a `run_id`, as in the views."""
        return self._database.cursor().sql(query, params=params)

    @cached_property
    def _database(self) -> duckdb.DuckDBPyConnection:
        """Views over the run's tables."""
        import duckdb

        con = duckdb.connect()
        run_id = sql_text(paths.run_id_of(self.path.absolute()))
        for name, table in STORED.items():
            files = self._files(name)
            own = table.file_columns
            rows = f"({sql_all_columns(own, sql_parquet(files)) if files else sql_no_rows(own)})"
            with self._readable(name):
                con.execute(f"CREATE VIEW {name} AS SELECT *, {run_id} AS run_id FROM {rows}")
        return con

    def encodings(self, example_id: str, seq: int = 0, *, side: str | None = None) -> dict[str, Any]:
        """`input_ids` (T,), `attention_mask` (T,), all ones, `offset_mapping` (T, 2), -1 where a token has no place in the
        text, and `tokens`, a list of T strings; of a pair of texts also `token_type_ids` (T,), where the model was told.
        """
        side = self._side(side)
        columns = ["token_id", "token", "char_start", "char_end", "token_type_id"]
        t = self._read("tokens", columns, example_id, seq, side)
        if not len(t):
            self.check_sequence(example_id, seq)
        offsets = [t[c].fill_null(-1).to_numpy() for c in ("char_start", "char_end")]
        return {
            "input_ids": t["token_id"].to_numpy(),
            "attention_mask": np.ones(len(t), np.int64),
            "offset_mapping": np.stack(offsets, axis=1),
            "tokens": t["token"].to_pylist(),
            **({} if t["token_type_id"].null_count else {"token_type_ids": t["token_type_id"].to_numpy()}),
        }

    def _files(self, table: str) -> list[Path]:
        """The files with a table's rows. Raises CorruptRunError where one is not there."""
        files = [self.path / path for path in self.meta.file_infos if path.startswith(f"{table}/")]
        for file in files:
            if not file.is_file():
                raise CorruptRunError(f"{file} is missing (traces runs validate {paths.run_id_of(self.path)})")
        return files

    def _read(self, table: str, columns: list[str], example_id: str, seq: int, side: str) -> pa.Table:
        files = self._files(table)
        if not files:
            return arrow_schema(table).empty_table()
        wanted = (pc.field("example_id") == example_id) & (pc.field("seq") == seq) & (pc.field("side") == side)
        with self._readable(table):
            return pq.read_table(files, columns=columns, filters=wanted, partitioning=None)

    @contextmanager
    def _readable(self, table: str) -> Iterator[None]:
        """Tells of a table that is damaged as CorruptRunError."""
        import duckdb

        try:
            yield
        except (OSError, pa.ArrowException, UnicodeDecodeError, duckdb.Error) as e:
            first = (str(e).splitlines() or [type(e).__name__])[0]
            raise CorruptRunError(
                f"{self.path / table} cannot be read: {first} (traces runs validate {paths.run_id_of(self.path)})"
            ) from None

    # -- tensors ---------------------------------------------------------------------------------------------------

    def resid(
        self,
        example_id: str,
        stage: str = "post_mlp",
        layer: int | None = None,
        *,
        seq: int = 0,
        side: str | None = None,
    ) -> np.ndarray:
        """The residual stream at a stage of a layer, (T, D), or of all layers, (L, T, D).

        Stages: `embed`, what enters the first layer, always (T, D); `pre_attn`, a layer's input; `post_attn`, after its
        attention is added; `post_cross`, after its attention over the encoder's tokens; `post_mlp`, its output. Where the
        block normalises after adding (`meta.model.convention` is `post-norm`), the streams are those after the norms.
        """
        side = self._side(side)
        if stage not in sites.RESID_STAGES:
            raise NotFoundError("stage of the residual stream", stage, sites.RESID_STAGES)
        if stage == "embed":
            return self.rows(Key(side, "resid.embed", None), example_id, seq)
        return self._layers(f"resid.{stage}", side, layer, lambda i: self._resid(side, stage, i, example_id, seq))

    def _resid(self, side: str, stage: str, layer: int, example_id: str, seq: int) -> np.ndarray:
        key = self.key(f"resid.{stage}", layer, side)
        if stage == "post_attn" and key not in self._sites and self.meta.model.stack(side).parallel:
            stream: np.ndarray = self._resid(side, "pre_attn", layer, example_id, seq).astype(np.float32)
            return stream + self.rows(Key(side, "attn_out", layer), example_id, seq)
        return self.rows(key, example_id, seq)

    def hidden(self, example_id: str, layer: int | None = None, *, seq: int = 0, side: str | None = None) -> np.ndarray:
        """What transformers calls `output_hidden_states`: (L+1, T, D), or one of them, (T, D).

        `hidden[0]` is what enters the first layer, `hidden[l]` the input of layer l, and the last one is after the final norm. In
        some models (Mamba, RWKV: `arrays` says so) transformers' begin with what leaves the first layer, which is `hidden[1]`. The
        last one may be of another width (OPT-350m): then there is no (L+1, T, D), and UsageError says which is of which.
        """
        side = self._side(side)
        states = 1 + self.meta.model.stack(side).n_layers
        return self._layers(
            "hidden", side, layer, lambda i: self.rows(self.key("hidden", i, side), example_id, seq), states
        )

    def attn_out(self, example_id: str, layer: int | None = None, *, seq: int = 0, side: str | None = None,
                 kind: str = "self") -> np.ndarray:  # fmt: skip
        """What attention (`kind="cross"`: over the encoder's tokens) adds to the residual stream: (T, D), or (L, T, D)."""
        side = self._side(side)
        prefix = self._prefix(side, kind)
        site = prefix + "attn_out"
        return self._layers(site, side, layer, lambda i: self.rows(Key(side, site, i), example_id, seq))

    def mlp_out(
        self, example_id: str, layer: int | None = None, *, seq: int = 0, side: str | None = None
    ) -> np.ndarray:
        """What the MLP adds to the residual stream: (T, D), or (L, T, D)."""
        side = self._side(side)
        return self._layers("mlp_out", side, layer, lambda i: self.rows(Key(side, "mlp_out", i), example_id, seq))

    def mlp_act(
        self, example_id: str, layer: int | None = None, *, seq: int = 0, side: str | None = None
    ) -> np.ndarray:
        """The MLP's activations, which its last projection reads: (T, D_mlp), or (L, T, D_mlp)."""
        side = self._side(side)
        return self._layers("mlp_act", side, layer, lambda i: self.rows(Key(side, "mlp_act", i), example_id, seq))

    def qkv(
        self,
        example_id: str,
        which: str,
        layer: int | None = None,
        head: int | None = None,
        *,
        seq: int = 0,
        side: str | None = None,
        kind: str = "self",
    ) -> np.ndarray:
        """Queries, keys or values (`which` is `q`, `k` or `v`) as attention receives them, after position encoding.

        (T, d_head) for one head of one layer; leaving out `head` or `layer` gives (H, T, d_head) or (L, …). Heads are query
        heads: grouped keys and values are repeated for each of them. `kind="cross"` is the
        decoder's attention over the encoder's tokens, whose keys and values have a row for each of those.
        """
        side = self._side(side)
        prefix = self._prefix(side, kind)
        if which not in ("q", "k", "v"):
            raise NotFoundError("tensor of attention", which, ("q", "k", "v"))
        site = prefix + which
        return self._layers(site, side, layer, lambda i: self._heads(Key(side, site, i), head, example_id, seq))

    def _heads(self, key: Key, head: int | None, example_id: str, seq: int) -> np.ndarray:
        rows = self.rows(key, example_id, seq)  # (T, heads, d)
        if head is not None:
            return rows[:, self.own_head(key, head)]
        return per_query_head(rows.swapaxes(0, 1), self._query_heads(key))

    def own_head(self, key: Key, head: int) -> int:
        """Which head of a stored tensor is a query head's: its own, or the K/V head of its group. Raises UsageError."""
        shape = self.row_shape(key)
        if len(shape) != 2:
            raise UsageError(f"{key.site} has no heads.")
        n = self._query_heads(key)
        self._check("head", head, n)
        return head * shape[0] // n

    def _query_heads(self, key: Key) -> int:
        """A layer's query heads: k and v alone don't tell them where heads are grouped, but q or the model may."""
        q = self._sites.get(key._replace(site=sites.beside(key.site, "q")))
        stack = self.meta.model.stack(key.side)
        return readable.query_heads(stack, key.layer, self._sites[key].row_shape[0], q.row_shape[0] if q else None)

    def attn(
        self,
        example_id: str,
        layer: int | None = None,
        head: int | None = None,
        *,
        seq: int = 0,
        side: str | None = None,
        kind: str = "self",
    ) -> np.ndarray:
        """Attention probabilities, float32 (T, T), row i over what token i sees; without `head` (H, T, T), without `layer`
        (L, …); `kind="cross"`: over the S tokens of the encoder, (T, S).

        Stored ones where the run has them, else derived from the stored q and k. Rows sum to 1, but to less in a model with
        attention sinks.
        """
        side = self._side(side)
        prefix = self._prefix(side, kind)
        site = prefix + "attn"
        return self._layers(site, side, layer, lambda i: self._attn(Key(side, site, i), head, example_id, seq))

    # -- multiple choice -------------------------------------------------------------------------------------------

    def mcq_resid(
        self, example_id: str, choice_idx: int, stage: str = "post_mlp", layer: int | None = None
    ) -> np.ndarray:
        """`resid` of what the model read for a choice: the question with it, or, in a run whose tensors are of prompts (the
        letter decides), the one prompt that holds all choices. Raises UsageError for a choice that is not there.
        """
        return self.resid(example_id, stage, layer, seq=self._choice(example_id, choice_idx))

    def mcq_hidden(self, example_id: str, choice_idx: int, layer: int | None = None) -> np.ndarray:
        """`hidden` of what the model read for a choice, as `mcq_resid`."""
        return self.hidden(example_id, layer, seq=self._choice(example_id, choice_idx))

    def mcq_qkv(
        self, example_id: str, choice_idx: int, which: str, layer: int | None = None, head: int | None = None
    ) -> np.ndarray:
        """`qkv` of what the model read for a choice, as `mcq_resid`."""
        return self.qkv(example_id, which, layer, head, seq=self._choice(example_id, choice_idx))

    def mcq_attn(
        self, example_id: str, choice_idx: int, layer: int | None = None, head: int | None = None
    ) -> np.ndarray:
        """`attn` of what the model read for a choice, as `mcq_resid`."""
        return self.attn(example_id, layer, head, seq=self._choice(example_id, choice_idx))

    def _choice(self, example_id: str, choice_idx: int) -> int:
        """The sequence that holds a choice."""
        if not self._choices:
            raise UsageError(
                f"Run '{self.meta.run_id}' is of kind {self.meta.kind}: it has no multiple-choice questions."
            )
        n = self._choices.get(example_id)
        if n is None:
            raise NotFoundError("example", example_id, self._choices, f"(run '{self.meta.run_id}')")
        if not 0 <= choice_idx < n:
            raise UsageError(f"choice {choice_idx}: example {example_id} has choices 0 to {n - 1}.")
        return choice_idx if choice_idx < self._sequences.get(example_id, 0) else 0

    @cached_property
    def _choices(self) -> dict[str, int]:
        """Every question's number of choices."""
        return dict(Counter(example_id for (example_id,) in self._columns("choices", ["example_id"])))

    def _attn(self, key: Key, head: int | None, example_id: str, seq: int) -> np.ndarray:
        if key in self._sites:
            pairs = self.rows(key, example_id, seq)  # (pairs, H)
            if head is not None:
                self._check("head", head, pairs.shape[1])
                pairs = pairs[:, head : head + 1]
            full = unpack_pairs(pairs, self._sites[key].rows, self._width(key, example_id, seq))
            return full if head is None else full[0]
        return self.derived_attn(key, example_id, seq, head)

    def derived_attn(self, key: Key, example_id: str, seq: int = 0, head: int | None = None) -> np.ndarray:
        """Attention from the stored q and k, whether it is stored itself or not: (H, T, S), or (T, S) of one head."""
        formula = self._formula(key)
        which = [key._replace(site=key.site.removesuffix("attn") + x) for x in ("q", "k")]
        q, k = (self._heads(x, head, example_id, seq) for x in which)
        if head is None:
            return probabilities(q, k, formula)
        return probabilities(q[None], k[None], select_heads(formula, slice(head, head + 1)))[0]

    def _formula(self, key: Key) -> LayerAttention:
        """How q and k of a layer become attention. Raises UsageError where they do not."""
        assert key.layer is not None
        stack = self.meta.model.stack(key.side)
        formulas = stack.cross_attention if key.site == "cross.attn" else stack.attention
        if formulas is None:
            if not {(key.side, "q"), (key.side, "k")} <= self._stored:
                self._refuse(key)
            raise UsageError(
                f"Run '{self.meta.run_id}': this model's attention does not follow from q and k. Capture attn itself."
            )
        formula = formulas[key.layer]
        if formula is None:
            self._refuse(key)
        return formula

    def _width(self, key: Key, example_id: str, seq: int) -> int:
        """Tokens that a row of stored attention is over: known but for cross attention, where the encoder's are counted."""
        if self._sites[key].rows == sites.CROSS:
            return len(self.encodings(example_id, seq, side="enc")["input_ids"])
        return 0

    def _layers(
        self, site: str, side: str, layer: int | None, one: Callable[[int], np.ndarray], n: int | None = None
    ) -> np.ndarray:
        """One layer's array of a site, or that of all `n` (left out: the model's layers), stacked. Raises UsageError where they
        cannot be stacked.
        """
        n = self.meta.model.stack(side).n_layers if n is None else n
        if layer is not None:
            self._check("layer", layer, n)
            return one(layer)
        if not n:
            raise UsageError(f"{self.meta.model.name} has no layers.")
        found = [one(i) for i in range(n)]
        if len({x.shape for x in found}) > 1:
            told = readable.by_layer({i: str(x.shape) for i, x in enumerate(found)})
            raise UsageError(
                f"{self.meta.model.name} has {site} of several shapes ({told}): ask for one layer at a time, with layer."
            )
        return np.stack(found)

    def has(self, key: Key) -> bool:
        """Whether a tensor is stored."""
        return key in self._sites

    def row_kind(self, key: Key) -> str:
        """What a row of a stored tensor is, as `warehouse.schema.sites` says."""
        return self._sites[key].rows

    def dtype(self, key: Key, example_id: str, seq: int = 0) -> str:
        """The dtype that a tensor's rows of a sequence are stored in, as safetensors names it: where the tensor was promoted,
        shards written before that have the site's.
        """
        return self.blob(self.place(key, example_id, seq)[0]).tensors[sites.tensor_name(*key)][0]

    def layers_with(self, site: str, side: str) -> list[int]:
        """The layers in which a site is stored."""
        return sorted(k.layer for k, _ in self._keyed() if (k.side, k.site) == (side, site) and k.layer is not None)

    def rows(self, key: Key, example_id: str, seq: int = 0) -> np.ndarray:
        """A stored tensor's rows of one sequence, (rows, *row_shape), as they lie on the disk."""
        blob, start, end = self.place(key, example_id, seq)
        if start == end:
            return np.empty((0, *self._sites[key].row_shape), np.float32)
        return self.blob(blob).rows(sites.tensor_name(*key), start, end)

    def _refuse(self, key: Key) -> NoReturn:
        """Says why a tensor is not there: the model has none, or it was not captured."""
        missing = self.meta.model.stack(key.side).missing
        if key.site in missing:
            raise UsageError(f"{self.meta.model.name} has no {key.site} here: {missing[key.site]}.")
        if (key.side, key.site) in self._stored:
            there = ", ".join(map(str, self.layers_with(key.site, key.side)))
            raise UsageError(f"Run '{self.meta.run_id}' has no {key.site} in layer {key.layer}; it has: {there}.")
        stored = sorted({site for _, site in self._stored})
        raise UsageError(
            f"Run '{self.meta.run_id}' did not store {key.site}; it has {', '.join(stored) or 'no tensors'}. "
            f"Capture it again with --capture {sites.capture_of(key.site)}."
        )

    def blob(self, name: str) -> Blob:
        """A shard of this run by its path in the run's folder."""
        found = self._blobs.get(name)
        if found is None:
            if name not in self.meta.file_infos or paths.table_of_file(name) is not None:
                raise CorruptRunError(f"{self.path}: its tensor index tells of {name!r}, which is no blob of this run.")
            found = Blob(self.path / name)
            for key, s in self._sites.items():
                _, (_, *row_shape) = found.tensors.get(sites.tensor_name(*key), ("", (0, *s.row_shape)))
                if row_shape != s.row_shape:
                    raise CorruptRunError(
                        f"{self.path / name} has rows of other shapes than the manifest says: {key.site}."
                    )
            found = self._blobs.setdefault(name, found)
        return found

    def place(self, key: Key, example_id: str, seq: int = 0) -> tuple[str, int, int]:
        """The shard that holds a sequence's rows of a tensor, the first one there, and one past the last. Raises UsageError
        where it is not stored.
        """
        found = self._places_of(key).get((example_id, seq))
        if found is None:
            self.check_sequence(example_id, seq)
            if len(self._read("tokens", ["pos"], example_id, seq, key.side)):
                raise CorruptRunError(
                    f"{self.path}: its tensor index tells nothing of example {example_id}, seq {seq} "
                    f"(traces runs validate {paths.run_id_of(self.path)})"
                )
            return ("", 0, 0)  # a sequence without tokens
        self._check_rows(key, *found)
        return found

    def _check_rows(self, key: Key, blob: str, start: int, end: int) -> None:
        """Raises CorruptRunError for rows that a shard does not hold."""
        name = sites.tensor_name(*key)
        _, (held, *_) = self.blob(blob).tensors.get(name, ("", (0,)))
        if not 0 <= start <= end <= held:
            raise CorruptRunError(
                f"{self.path}: its tensor index tells of rows {start} to {end} of {name} in {blob}, which holds {held} "
                f"(traces runs validate {paths.run_id_of(self.path)})"
            )

    def key(self, site: str, layer: int | None, side: str | None = None) -> Key:
        """The tensor that is a site, or that a derived site is the same as: `resid.pre_attn` and `hidden` of a layer are
        `resid.post_mlp` of the one below. It need not be stored. Raises UsageError for a layer that is not there.
        """
        side = self._side(side)
        stack = self.meta.model.stack(side)
        if site == "resid.embed":
            return Key(side, site, None)
        if layer is None:
            raise UsageError(f"{site} has layers: say which.")
        self._check("layer", layer, stack.n_layers + (site == "hidden"))
        if site == "hidden" and layer == stack.n_layers:
            return Key(side, site, layer) if stack.final_norm else Key(side, "resid.post_mlp", layer - 1)
        if site in ("hidden", "resid.pre_attn"):
            return Key(side, "resid.post_mlp", layer - 1) if layer else Key(side, "resid.embed", None)
        return Key(side, site, layer)

    def slices(self, key: Key) -> list[Slice]:
        """Where every sequence's rows of a stored tensor lie, in the order of the shards. Raises UsageError where it is not stored."""
        places = self._places_of(key).items()
        spans: dict[str, tuple[int, int]] = {}
        for _, (blob, start, end) in places:
            low, high = spans.get(blob, (start, end))
            spans[blob] = min(low, start, end), max(high, start, end)
        for blob, (low, high) in spans.items():
            self._check_rows(key, blob, low, high)
        return sorted((Slice(b, i, j, e, s) for (e, s), (b, i, j) in places if j > i), key=lambda x: (x.blob, x.start))

    def row_shape(self, key: Key) -> tuple[int, ...]:
        """The shape of a row of a stored tensor."""
        return tuple(self._sites[key].row_shape)

    def check_sequence(self, example_id: str, seq: int) -> None:
        """Raises NotFoundError for an example, or a sequence of it, that the run does not have."""
        n = self._sequences.get(example_id)
        if n is None:
            raise NotFoundError("example", example_id, self._sequences, f"(run '{self.meta.run_id}')")
        if not 0 <= seq < n:
            raise NotFoundError("seq", seq, range(min(n, 1000)), f"(example {example_id})")

    @cached_property
    def _sequences(self) -> dict[str, int]:
        """Every example's number of sequences."""
        return {e: max(n, 1) for e, n in self._columns("examples", ["example_id", "n_seqs"])}

    def _places_of(self, key: Key) -> dict[tuple[str, int], tuple[str, int, int]]:
        """(example_id, seq) → shard and rows, for all tensors whose rows are the same things: `validate` proves that they
        agree, so one of them tells of all. Raises UsageError where it is not stored.
        """
        if key not in self._sites:
            self._refuse(key)
        kind = (key.side, self._sites[key].rows)
        if kind not in self._places:
            site, layer = next((k.site, k.layer) for k, s in self._keyed() if (k.side, s.rows) == kind)
            one = (pc.field("side") == key.side) & (pc.field("site") == site)
            if layer is not None:
                one &= pc.field("layer") == layer
            names = ["example_id", "seq", "blob", "row_start", "row_end"]
            self._places[kind] = {(e, s): (b, i, j) for e, s, b, i, j in self._columns("tensors", names, one)}
        return self._places[kind]

    def _keyed(self) -> Iterable[tuple[Key, SiteInfo]]:
        return self._sites.items()

    def _columns(self, table: str, names: list[str], where: pc.Expression | None = None) -> Iterable[tuple[Any, ...]]:
        files = self._files(table)
        if not files:
            return iter(())
        with self._readable(table):
            rows = pq.read_table(files, columns=names, filters=where, partitioning=None)
            return zip(*(rows[name].to_pylist() for name in names), strict=True)

    def _check(self, what: str, index: int, count: int) -> None:
        if not 0 <= index < count:
            raise UsageError(f"{what} {index}: {self.meta.model.name} has {what}s 0 to {count - 1}.")

    def _side(self, side: str | None) -> str:
        """The side meant. Raises UsageError where the model has none such."""
        model = self.meta.model
        found = side or model.side
        if found not in sites.SIDES:
            raise NotFoundError("side", found, sites.SIDES)
        if found == "dec" and model.side == "enc":
            raise UsageError(f"Run '{self.meta.run_id}' has no decoder side: {model.architecture} is an encoder.")
        if found == "enc" and model.side == "dec" and model.encoder is None:
            raise UsageError(f"Run '{self.meta.run_id}' has no encoder side: {model.architecture} is a decoder.")
        return found

    def _prefix(self, side: str, kind: str) -> str:
        """What the names of the sites of a kind of attention begin with."""
        if kind not in ("self", "cross"):
            raise NotFoundError("kind of attention", kind, ("self", "cross"))
        if kind == "self":
            return ""
        if side == "enc" or self.meta.model.encoder is None:
            raise UsageError(
                f"Run '{self.meta.run_id}' has no cross attention on that side: only the decoder of an encoder-decoder has."
            )
        return "cross."
