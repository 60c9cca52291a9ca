"""A warehouse on a Spark session: its tensors, read by executors.

Which slices there are is in the table `tensors`, which Spark reads and filters like any other. Executors get its rows, and read each
slice from the safetensors file that it lies in, by the same reader as `TraceStore`: one read of as many bytes as the slice has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from warehouse.schema.quoting import sql_text
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from pyspark.sql import DataFrame, SparkSession

    Function = Callable[["TensorSlice", np.ndarray], pd.DataFrame]

_VECTORS = (
    "run_id STRING, example_id STRING, seq INT, side STRING, site STRING, layer INT, pos INT, vector ARRAY<FLOAT>"
)


class TensorSlice(NamedTuple):
    """A sequence's rows of one stored tensor: the columns of `tensors` that tell it from others."""

    run_id: str
    example_id: str
    seq: int
    side: str
    site: str
    layer: int | None


class SparkWarehouse:
    """A warehouse whose tables and views are registered on a Spark session; `map_tensors` reads what lies in its blobs."""

    def __init__(self, session: SparkSession, root: AnyPath) -> None:
        """Take the session, and the root as executors see it, too."""
        self.session, self.root = session, root

    def tensors(self, site: str, where: str = "true") -> DataFrame:
        """Return stored vectors, a row each.

        For a few, or to be joined: Spark copies every number. `map_tensors` aggregates where the numbers are read.

        Args:
            site: A site that is stored with a row a token, such as `resid.post_mlp`.
            where: SQL over the columns of the table `tensors`: which slices.

        Returns:
            Rows of run_id, example_id, seq, side, site, layer, pos and vector; heads stand one after the other in a vector.
        """
        return self.map_tensors(_vectors, _VECTORS, f"site = {sql_text(site)} AND ({where})")

    def map_tensors(self, function: Function, schema: str, where: str) -> DataFrame:
        """Call a function with every stored slice that has rows, on the executors.

        Example:
            def norms(of, x):
                return pd.DataFrame({"layer": [of.layer], "n": [len(x)], "norm": [np.linalg.norm(x, axis=1).sum()]})

            wh.map_tensors(norms, "layer INT, n BIGINT, norm DOUBLE", "site = 'resid.post_mlp' AND run_id = 'demo'")

        Args:
            function: Gets which slice it is and its rows, (rows, *row_shape) float32, and returns some rows as a data frame.
            schema: The columns of these, as Spark writes a schema.
            where: SQL over the columns of the table `tensors`: which slices.

        Returns:
            The rows of all slices, in no order.
        """
        root = str(self.root.resolve())

        def read(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
            return _read_slices(root, function, batches)

        slices = self.session.table("tensors").where(f"row_end > row_start AND ({where})").select(*TensorSlice._fields)
        return slices.mapInPandas(read, schema)


def _read_slices(root: str, function: Function, batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Read the slices that an executor was given, run by run, as a run's rows follow each other."""
    import numpy as np
    import pandas as pd

    from warehouse.storage.trace_store import TraceStore

    store = None
    for batch in batches:
        for run_id, example_id, seq, side, site, layer in batch.itertuples(index=False, name=None):
            if store is None or store.meta.run_id != run_id:
                store = TraceStore(paths.run_dir(paths.find_root(root), run_id))
            of = TensorSlice(run_id, example_id, int(seq), side, site, None if pd.isna(layer) else int(layer))
            rows = store.rows(Key(of.side, of.site, of.layer), of.example_id, of.seq)
            yield function(of, rows.astype(np.float32))


def _vectors(of: TensorSlice, rows: np.ndarray) -> pd.DataFrame:
    """Return a slice's rows as rows of a table."""
    import pandas as pd

    found = {"pos": range(len(rows)), "vector": list(rows.reshape(len(rows), -1))}
    return pd.DataFrame(of._asdict() | found, index=range(len(rows)))
