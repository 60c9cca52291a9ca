"""Warehouse, the facade that users import: all runs below a root, in SQL, as vectors, by nearness and through probes.

A `Catalog` answers SQL and opens runs; `Warehouse` adds what reads the vectors of tokens. Each method hands its work to one package:
`activations`, `vectors` or `analysis`, imported when it is first needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import duckdb

from warehouse.catalog.catalog import IN_MEMORY, Catalog

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, DTypeLike

    from warehouse.activations.batches import Batches
    from warehouse.catalog.survey import Survey
    from warehouse.errors import TracesError
    from warehouse.vectors.table import VectorTable
    from warehouse.vectors.table_cache import VectorTableCache


class Warehouse(Catalog):
    """All runs below a root folder.

    `sql` asks in SQL and `run` opens the tensors of one run. `nearest` searches vector tables, `matrix` and `batches` read the
    vectors of tokens, and `probe` fits a probe to them. Close it with `close`, or use it as a context manager:

        with Warehouse("runs") as wh:
            wh.sql("SELECT run_id, model, n_tokens FROM runs").df()
    """

    _vectors: VectorTableCache | None = None
    _vectors_defined = False
    """Whether `load_vectors` has been called."""

    @property
    def vectors(self) -> VectorTableCache:
        """The cache of vector tables, which keeps them open from one search to the next."""
        from warehouse.vectors.table_cache import VectorTableCache

        with self._lock:
            if self._vectors is None:
                self._vectors = VectorTableCache(self.root)
            return self._vectors

    @property
    def vector_tables(self) -> list[VectorTable]:
        """The vector tables as they are now; those that cannot be read are left out with a warning."""
        return self.vectors.readable()

    @property
    def damaged_vectors(self) -> list[TracesError]:
        """The errors of the vector tables that could not be read when `vector_tables` was last used."""
        return list(self.vectors.damaged.values())

    def load_vectors(self) -> None:
        """Define the views `vectors_…` and the macros `nearest_…` for `sql`, as `traces shell` does; takes half a second.

        Example:
            wh.load_vectors()
            wh.sql("FROM vectors_smollm2_resid_post_mlp_L15 LIMIT 5")

        Raises:
            UsageError: Where DuckDB's lance extension is not installed (`trace-warehouse[shell]`).
        """
        from warehouse.vectors.reconcile import reconcile

        with contextlib.suppress(OSError):  # a folder that we may only read
            reconcile(self.root)
        with self._lock:
            self._define_vectors()
            self._vectors_defined = True

    def _define_vectors(self) -> None:
        from warehouse.vectors.duckdb_macros import statements

        con = self._cursor()
        for statement in statements(self.vector_tables, IN_MEMORY):
            con.execute(statement)

    def _use_views(self, known: Survey, con: duckdb.DuckDBPyConnection) -> None:
        super()._use_views(known, con)
        if self._vectors_defined:  # they lie beside the views that were open
            self._define_vectors()

    def nearest(
        self,
        vector: ArrayLike,
        *,
        site: str = "resid.post_mlp",
        layer: int | Sequence[int] | None = None,
        model: str | None = None,
        k: int = 10,
        where: str | None = None,
        metric: str = "cosine",
        head: int | None = None,
        side: str | None = None,
        exact: bool = False,
    ) -> duckdb.DuckDBPyRelation:
        """Find the tokens whose vectors are nearest to a vector.

        Example:
            near = wh.nearest(vector, layer=15, k=20, where="upos = 'VERB'")
            near.query("n", "FROM n JOIN token_diagnostics USING (run_id, example_id, seq, pos, side)").df()

        Args:
            vector: The query, (D,): a list, a numpy array or a tensor on the CPU.
            site: Name of the site, such as `resid.post_mlp` or `q`.
            layer: One layer, several, or None for all that have a vector table.
            model: Name of the model; None where the tables are of one model.
            k: Number of tokens.
            where: SQL condition on the columns of `token_diagnostics`, and on `layer`.
            metric: `cosine`, `l2` or `dot`.
            head: Query head, for a site with heads; None searches all heads.
            side: `dec` or `enc`, where a site has tables of both.
            exact: Compare with every row, though an index could be used.

        Returns:
            `k` rows wherever `k` exist, best first, with every key and two more columns. `distance` is 1 - cosine, the Euclidean
            distance, or minus the dot product; in a centred table, cosine is measured after the table's median was subtracted from
            both vectors. `search` names the index that found the row, or is `exact`, which is also used where the index finds too
            little.

        Raises:
            UsageError: For a vector that does not fit or is not finite, for a layer without a table (naming those that exist), and
                for a filter with an error.
        """
        from warehouse.vectors import search

        rows = search.nearest(
            self, self.vectors, vector, site=site, layer=layer, model=model, k=k, where=where, metric=metric, head=head, side=side,
            exact=exact,
        )  # fmt: skip
        return self.relation(rows)

    def matrix(
        self,
        query: str,
        *,
        site: str = "resid.post_mlp",
        layer: int | None = None,
        head: int | None = None,
        side: str | None = None,
        dtype: DTypeLike | None = None,
    ) -> tuple[np.ndarray, pd.DataFrame]:
        """Read the vectors of the tokens that a query picks.

        Example:
            x, tokens = wh.matrix("SELECT run_id, example_id, seq, pos, loss FROM token_diagnostics WHERE upos = 'NOUN'", layer=15)

        Args:
            query: SELECTs run_id, example_id, seq and pos, and whatever else is wanted.
            site: Any site with a vector per token, also a derived one such as `hidden`.
            layer: Its layer; None for a site without layers.
            head: Query head, for a site with heads; None reads all heads.
            side: `dec` or `enc`; None for the model's main side.
            dtype: Of the vectors; None for the stored one, or float32 where shards differ.

        Returns:
            The vectors, (n, D), or (n, heads, d_head) of all heads, and the query's rows, which they belong to, in the same order.

        Raises:
            UsageError: For a query without those columns or with no rows, for a position beyond its sequence, and for a site that
                its run did not store.
            NotFoundError: For a token whose run, example or sequence does not exist.
        """
        from warehouse.activations.gather import TokenSelection

        selection = TokenSelection(self, query, side)
        return selection.vectors(site, layer, head, dtype), selection.frame()

    def batches(
        self,
        *,
        site: str = "resid.post_mlp",
        layer: int | None = None,
        where: str | None = None,
        model: str | None = None,
        size: int = 8192,
        shuffle: bool = False,
        seed: int = 0,
        buffer: int = 65_536,
        head: int | None = None,
        side: str | None = None,
        dtype: DTypeLike | None = None,
        runs: Sequence[str] = (),
    ) -> Batches:
        """Read the vectors of all tokens that stored a site, in batches.

        Example:
            for x in wh.batches(layer=15, shuffle=True, where="NOT is_special"):
                train(x)

        Args:
            site: Name of the site.
            layer: Its layer; None for a site without layers.
            where: SQL condition on columns of `token_diagnostics`; None keeps all tokens.
            model: Name of the model; None where all runs that stored the site are of one model.
            size: Tokens in a batch; the last batch may have fewer.
            shuffle: Whether tokens come in random order, another one in each pass.
            seed: Seed of the random orders.
            buffer: Tokens in the window that shuffled batches are drawn from; more mix better and need more memory.
            head: Query head, for a site with heads; None reads all heads.
            side: `dec` or `enc`; None for the model's main side.
            dtype: Of the batches; None for the stored one, or float32 where shards differ.
            runs: Only tokens of these runs; none: of all.

        Returns:
            An iterable over numpy arrays (n, D), or (n, heads, d_head), that can be iterated over any number of times. A batch that
            is kept is never overwritten. `with_keys()` iterates over batches that name their tokens.

        Raises:
            UsageError: Where no run stored the site, where runs of different weights did, and for a filter that has an error or
                leaves nothing.
            NotFoundError: There is no such run.
        """
        from warehouse.activations.batches import Batches

        return Batches.for_site(
            self, site, layer, where, model, side,
            size=size, shuffle=shuffle, seed=seed, buffer=buffer, head=head, dtype=dtype, runs=runs,
        )  # fmt: skip

    def probe(
        self,
        query: str,
        *,
        site: str = "resid.post_mlp",
        layers: str | int | Sequence[int] = "all",
        run: str | None = None,
        target: str = "y",
        head: int | None = None,
        side: str | None = None,
        test: float = 0.25,
        max_tokens: int = 10_000,
        c: float = 0.1,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Fit a logistic probe per layer, from the vectors of tokens to their labels, and publish them as a run.

        Warns (`errors.UncertainResultWarning`) where few examples were held out. The same call again returns the published run's
        rows. Needs scikit-learn (`trace-warehouse[capture]`).

        Example:
            wh.probe("SELECT run_id, example_id, seq, pos, upos AS y FROM token_diagnostics WHERE run_id = 'ewt'")

        Args:
            query: SELECTs run_id, example_id, seq, pos and the labels.
            site: Name of the site.
            layers: `all`, a layer, or several.
            run: Name of the run that is written; None for a name made from the options and the query's rows.
            target: Column of the query that holds the labels.
            head: Query head, for a site with heads.
            side: `dec` or `enc`; None for the model's main side.
            test: Part of the tokens to hold out, in whole examples.
            max_tokens: Most tokens to read; of more, whole examples are drawn.
            c: Inverse strength of the L2 penalty, on standardised vectors.
            seed: Seed of the split, the sample and the shuffled labels.

        Returns:
            The table `probes` of the run, a row per layer: accuracy on held-out examples with its 95 % interval, beside its
            baselines.

        Raises:
            UsageError: As `matrix` does, and where there are not two labels to tell apart.
        """
        from warehouse.analysis import probes

        chosen = layers if isinstance(layers, str) else (layers,) if isinstance(layers, int) else tuple(layers)
        options = probes.Options(query, site, chosen, head, side, target, test, max_tokens, c, seed)
        store = probes.probe(self, options, run)
        return store.query("FROM probes ORDER BY layer").df().assign(run_id=store.meta.run_id)
