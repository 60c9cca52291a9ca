"""Real residuals for the benchmarks of vectors, kept in runs/benchmarks from one to the next.

`real()`: SmolLM2 over the first 1,100 paragraphs of the WikiText-2 validation part, 158,870 tokens (where that is not
here, of the tests' sample), all layers: some five minutes
to capture. `million()`: layer 15 of it seven times over, six of them with noise of a tenth of each dimension's spread, cut at a
million tokens, with the tokens and predictions of the originals.
"""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import HERE
from inputs import is_sample, opened

from warehouse import TraceStore
from warehouse.catalog.publish import publish
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.schema.tables import STORED
from warehouse.storage import paths
from warehouse.storage.blobs import TensorSpec
from warehouse.storage.manifest import Counts
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.run_writer import RunWriter

ROOT = HERE.parent / "runs" / "benchmarks"
LAYER = 15
KEY = Key("dec", "resid.post_mlp", LAYER)
_PARAGRAPHS, _ROWS = 1100, 1_000_000


def shrink(rows: int = 5_000) -> None:
    """From here on there are few of both, made anew for this process."""
    global ROOT, _PARAGRAPHS, _ROWS
    kept = tempfile.TemporaryDirectory()
    atexit.register(kept.cleanup)
    ROOT, _PARAGRAPHS, _ROWS = Path(kept.name), 12, rows


def root() -> Path:
    """The folder that all is kept in: another where the texts are others."""
    return ROOT / "sample" if is_sample("wikitext2") else ROOT


def real() -> TraceStore:
    folder = paths.run_dir(root(), "wt2")
    if not folder.is_dir():
        from capture.jobs import next_token
        from capture.model import loading

        print("capturing the paragraphs, once", flush=True)
        options = next_token.Options(capture="hidden", limit=_PARAGRAPHS, max_len=512)
        next_token.run(loading.load("smollm2"), opened("wikitext2"), options, root=root(), run_id="wt2")
    return TraceStore(folder)


def million() -> TraceStore:
    folder = paths.run_dir(root() / "million", "million")
    if not folder.is_dir():
        print("making the vectors, once", flush=True)
        _make(root() / "million", real())
    return TraceStore(folder)


def rows_of(store: TraceStore) -> np.ndarray:
    """All of the layer, in the order of the shards."""
    blobs = dict.fromkeys(s.blob for s in store.slices(KEY))
    return np.concatenate([store.blob(b).tensor(sites.tensor_name(*KEY)) for b in blobs])


def _make(root: Path, source: TraceStore) -> None:
    x = rows_of(source)
    spread = x.astype(np.float32).std(0) / 10
    slices = source.slices(KEY)
    rng = np.random.default_rng(0)
    left, examples, tokens = _ROWS, 0, 0
    with RunWriter(root, "million", {"of": source.meta.run_id}) as writer:
        for copy in range(-(-_ROWS // len(x))):
            chosen, n = [], 0
            for s in slices:
                if n + s.end - s.start > left:
                    break
                chosen.append(s)
                n += s.end - s.start
            if not chosen:
                break
            left, examples, tokens = left - n, examples + len(chosen), tokens + n
            noise = 0 if copy == 0 else rng.standard_normal((n, x.shape[1]), np.float32) * spread
            vectors = (x[:n].astype(np.float32) + noise).astype(np.float16)
            lengths = [s.end - s.start for s in chosen]
            names = {s.example_id: f"{s.example_id[:14]}{copy:02d}" for s in chosen}
            spec = TensorSpec("F16", (x.shape[1],))
            writer.begin_shard({KEY: n}, {KEY: spec})
            found = [(names[s.example_id], s.seq) for s in chosen]
            tables = {t: _renamed(source, t, names) for t in ("examples", "tokens", "next_token")}
            writer.put(RecordedBatch(found, {KEY: vectors}, {KEY: lengths}, tables))
            writer.end_shard(str(copy))
        site = next(s for s in source.meta.sites if s.site == KEY.site)
        publish(
            writer,
            lambda p: source.meta.model_copy(
                update={
                    "run_id": "million",
                    "created_at": p.created_at,
                    "sites": [site.model_copy(update={"layers": [LAYER]})],
                    "counts": Counts(
                        examples=examples, sequences=examples, tokens=tokens, predictions=tokens - examples, truncated=0,
                        rows=p.rows,
                    ),
                    "files": p.files,
                    "options": {},
                    "mean_loss": None,
                }
            )
        )  # fmt: skip


def _renamed(source: TraceStore, table: str, names: dict[str, str]) -> pa.Table:
    rows = pq.read_table(source.path / paths.table_file(table), partitioning=None)
    rows = rows.filter(pa.compute.is_in(rows["example_id"], pa.array(list(names))))
    ids = pa.array([names[i] for i in rows["example_id"].to_pylist()])
    schema = pq.read_schema(source.path / paths.table_file(table))
    assert set(schema.names) <= set(STORED[table].names)
    return rows.set_column(rows.column_names.index("example_id"), schema.field("example_id"), ids).cast(schema)
