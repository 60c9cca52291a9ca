"""Warehouse: all runs below a root, in SQL, as vectors, by nearness and through probes. The facade that users import."""

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
    from warehouse.errors import TracesError
    from warehouse.vectors.table import VectorTable, VectorTableCache


class Warehouse(Catalog):
    """All runs below a root. `sql` asks in SQL and `run` opens the tensors of one run; `nearest` searches vector tables, `matrix`
    and `batches` read the vectors of tokens, and `probe` fits a probe to them. Close it with `close`, or use it as a context manager.
    """

    _vectors: VectorTableCache | None = None

    @property
    def vectors(self) -> VectorTableCache:
        """The vector tables, kept open from one search to the next."""
        from warehouse.vectors.table import VectorTableCache

        with self._lock:
            if self._vectors is None:
                self._vectors = VectorTableCache(self.root)
            return self._vectors

    @property
    def vector_tables(self) -> list[VectorTable]:
        """The vector tables as they are now. Warns of those that cannot be read."""
        return self.vectors.readable()

    @property
    def damaged_vectors(self) -> list[TracesError]:
        """What is wrong with the vector tables that could not be read when `vector_tables` was asked for."""
        return list(self.vectors.damaged.values())

    def load_vectors(self) -> None:
        """Makes the views `vectors_…` and the macros `nearest_…` known to `sql`, as `traces shell` does. Half a second."""
        from warehouse.vectors.duckdb_macros import statements
        from warehouse.vectors.ingest import reconcile

        with contextlib.suppress(OSError):  # a folder that we may only read
            reconcile(self.root)
        with self._lock:
            con = self.cursor()
            for statement in statements(self.vector_tables, IN_MEMORY):
                con.execute(statement)

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
        """The `k` tokens whose vectors are nearest to `vector` (D,), best first, each with every key: of one layer, of
        several, or of all that have a vector table (None); of one query head, or of all.

        `where` is a condition on the columns of `token_diagnostics`, and on `layer`. `distance` is 1 - cosine, the Euclidean
        distance (`l2`), or minus the dot product (`dot`); `search` says whether an index found the row, or comparing with all
        (`exact`, which an index that is not good enough is left for, and which can be asked for). There are `k` rows wherever
        `k` exist. In a table that is centred, cosine is that of what is left when its median is subtracted from both.
        `.query("n", "FROM n JOIN token_diagnostics USING (run_id, example_id, seq, pos, side)")` joins it with what is known.

        Raises UsageError for a vector that does not fit or is not finite, a layer without a table (with those there), and a
        filter with an error.
        """
        from warehouse.vectors import search

        found = search.nearest(
            self, self.vectors, vector, site=site, layer=layer, model=model, k=k, where=where, metric=metric, head=head, side=side,
            exact=exact,
        )  # fmt: skip
        return self.relation(found)

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
        """The vectors of the tokens that a query picks, (n, D), or (n, heads, d_head) of a site with heads and none asked
        for; and the query's answer, whose rows they belong to. It must SELECT run_id, example_id, seq and pos.

        Read from the runs' shards, in their dtype or the one asked for (float32 where shards differ). Every site with a vector
        a token is there, derived ones too. Raises UsageError for a query without those columns, for a token that is not
        there, and for a site that its run did not store.
        """
        from warehouse.activations.gather import TokenSelection

        picked = TokenSelection(self, query, side)
        return picked.vectors(site, layer, head, dtype), picked.frame()

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
    ) -> Batches:
        """The vectors of all tokens that stored a site, or of those that `where` (on `token_diagnostics`) leaves, `size` at
        a time: an iterable to go over as often as one likes. See `warehouse.activations.batches.Batches`.
        """
        from warehouse.activations.batches import Batches

        return Batches.for_site(
            self, site, layer, where, model, side,
            size=size, shuffle=shuffle, seed=seed, buffer=buffer, head=head, dtype=dtype,
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
        """A logistic probe a layer, from the vectors of the tokens that a query picks to their labels, in its column `target`:
        accuracy on held-out examples with its 95 % interval beside its baselines, a row a layer, as the table `probes` of a new run
        has them. Warns (`errors.UncertainResultWarning`) where few examples were held out.

        `test` is the part to judge by, in whole examples; of more than `max_tokens` tokens, whole examples are drawn. `c` is the
        inverse strength of the penalty on standardised vectors. The same call again returns the run that is there. Needs
        scikit-learn (`trace-warehouse[capture]`). Raises UsageError as `matrix` does, and where there is nothing to tell apart.
        """
        from warehouse.analysis import probes

        chosen = layers if isinstance(layers, str) else (layers,) if isinstance(layers, int) else tuple(layers)
        options = probes.Options(query, site, chosen, head, side, target, test, max_tokens, c, seed)
        store = probes.probe(self, options, run)
        return store.query("FROM probes ORDER BY layer").df().assign(run_id=store.meta.run_id)
