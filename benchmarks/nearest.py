"""Single nearest-neighbour queries over real residuals, ours against faiss, usearch, DuckDB and Lance without an index.

Every one is asked for the 10 nearest by cosine of the same 100 rows (5 for those that compare with everything), and set to the cheapest
of its own settings that finds at least 0.95 of them. Ours is the whole call, the answer with its keys fetched; the others
get their vectors in memory and answer with row numbers. Then the same under filters that keep about 1 %.

    pip install -r benchmarks/requirements.txt; python benchmarks/nearest.py [--real] [--skip-hnsw] [--queries 100]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from common import left_out, parsed, record
from residuals import KEY, LAYER, million, real, rows_of, shrink

from warehouse import Warehouse
from warehouse.vectors import index_spec, ingest

K, FEW, ENOUGH = 10, 5, 0.95
INSTALLED = all(map(find_spec, ("faiss", "usearch")))
TARGET = "5 ms at one million, at a recall of 0.95, 20 times faster than flat"


class Judge:
    """The exact answer, and who finds how much of it."""

    def __init__(self, x: np.ndarray, chosen: np.ndarray) -> None:
        self.unit = unit(x)
        self.queries = self.unit[chosen]
        self.raw = x[chosen]
        best = np.full((len(chosen), 0), np.inf, np.float32)
        for start in range(0, len(x), 50_000):
            d = 1 - self.queries @ self.unit[start : start + 50_000].T
            best = np.concatenate([best, d], axis=1)
            best = np.partition(best, K - 1, axis=1)[:, :K]
        self.limit = best.max(1)

    def recall(self, n: int, rows: np.ndarray) -> float:
        """Of one query's answer, told by distance."""
        d = 1 - self.unit[rows] @ self.queries[n]
        return float((d <= self.limit[n] * 1.001 + 2e-6).sum()) / K

    def asked(
        self, ask: Callable[[int], Any], rows: Callable[[Any], np.ndarray], n: int | None = None
    ) -> tuple[float, float]:
        """Median milliseconds of a query, after all have been asked once, and recall@10."""
        asked = range(len(self.queries) if n is None else n)
        for i in asked:
            ask(i)
        times, found = [], []
        for i in asked:
            start = time.perf_counter()
            answer = ask(i)
            times.append((time.perf_counter() - start) * 1e3)
            found.append(self.recall(i, rows(answer)))
        return statistics.median(times), float(np.mean(found))

    def cheapest(
        self,
        settings: Iterable[Any],
        use: Callable[[Any], None],
        ask: Callable[[int], Any],
        rows: Callable[[Any], np.ndarray],
    ) -> tuple[float, float]:
        """With the first setting that finds enough."""
        found = (0.0, 0.0)
        for setting in settings:
            use(setting)
            found = self.asked(ask, rows)
            if found[1] >= ENOUGH:
                break
        return found


def unit(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--real", action="store_true", help="the residuals as they were captured, not a million made of them"
    )
    parser.add_argument("--skip-hnsw", action="store_true", help="leave out what takes minutes to build")
    parser.add_argument("--queries", type=int, default=100, help="rows whose nearest are asked for")
    args = parsed(parser, queries=10)
    if args.small:
        shrink()
    elif not INSTALLED:
        left_out("faiss and usearch, to compare with: pip install -r benchmarks/requirements.txt")
    store = real() if args.real else million()
    root = store.path.parent
    started = time.time()
    ingest.add(root, store.meta.run_id, [index_spec.IndexSpec(None, KEY.site, (LAYER,))], note=print)
    print(f"filled and indexed in {time.time() - started:.0f} s")
    os.sync()  # the index is not written while it is asked
    x = rows_of(store)
    chosen = np.sort(np.random.default_rng(1).choice(len(x), args.queries, replace=False))
    judge, row = Judge(x, chosen), f"nearest#{'real' if args.real else 'million'}"
    number = numbers(store)
    results: dict[str, tuple[float, float]] = {}
    with Warehouse(root) as wh:

        def ours(i: int, **more: Any) -> list[tuple]:
            return wh.nearest(judge.raw[i], layer=LAYER, k=K, **more).fetchall()

        def places(answer: list[tuple]) -> np.ndarray:
            return np.array([number[row[2], row[4]] for row in answer], int)

        results["ours"] = judge.asked(ours, places)
        alone = judge.asked(lambda i: found_by_index(wh, judge.raw[i]), lambda _: np.zeros(0, int))[0]
        results["Lance flat"] = judge.asked(lambda i: ours(i, exact=True), places, FEW)
        for name, found in others(judge, args.skip_hnsw):
            results[name] = found
            print(f"{name}: {found[0]:.2f} ms, recall {found[1]:.3f}", flush=True)
        filtered(wh, judge, row, len(x))
    mine, flat = results.pop("ours"), results["Lance flat"]
    told = "; ".join(f"{name} {ms:.2f} ms ({r:.3f})" for name, (ms, r) in results.items())
    faster = ", ".join(n for n, (ms, r) in results.items() if ms < mine[0] and r >= ENOUGH)
    record(
        row, f"10 nearest of {len(x):,} residuals by cosine, one query, median (recall@10)",
        "faiss, usearch, DuckDB, Lance flat", f"{mine[0]:.1f} ms ({mine[1]:.3f}), {alone:.1f} of it Lance's search of its index, without vectors or keys", told,
        f"{flat[0] / mine[0]:.0f} times faster than flat; {faster + ' faster, in memory' if faster else 'none faster'}",
        TARGET,
    )  # fmt: skip


def found_by_index(wh: Warehouse, vector: np.ndarray) -> pa.Table:
    """Numbers of the rows that Lance finds in its index, and nothing else of them."""
    (table,) = (t for t in wh.vector_tables if t.info.layer == LAYER)
    nprobes = table.info.index.nprobes if table.info.index else 1
    return table.ask(
        lambda lance: lance.query().nearest_to(vector).column("vector").distance_type("cosine").limit(K).nprobes(nprobes)
        .select(["_rowid", "_distance"])
    )  # fmt: skip


def numbers(store: Any) -> dict[tuple[str, int], int]:
    """(example, position) → row, in the order of the shards."""
    found, n = {}, 0
    for s in store.slices(KEY):
        for pos in range(s.end - s.start):
            found[s.example_id, pos] = n
            n += 1
    return found


def others(judge: Judge, skip_hnsw: bool) -> Iterable[tuple[str, tuple[float, float]]]:
    if INSTALLED:
        yield "faiss IVF", _faiss_ivf(judge)
        if not skip_hnsw:
            yield "faiss HNSW", _faiss_hnsw(judge)
            yield "usearch", _usearch(judge)
    yield "DuckDB", _duckdb(judge)


def _faiss_ivf(judge: Judge) -> tuple[float, float]:
    import faiss

    n, width = judge.unit.shape
    found = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, int(4 * n**0.5), faiss.METRIC_INNER_PRODUCT)
    found.train(judge.unit[np.random.default_rng(0).choice(n, min(n, 100_000), replace=False)])
    found.add(judge.unit)

    def use(nprobe: int) -> None:
        found.nprobe = nprobe

    return judge.cheapest((1, 2, 4, 8, 16, 32, 64), use, lambda i: found.search(judge.queries[i : i + 1], K)[1], _there)


def _faiss_hnsw(judge: Judge) -> tuple[float, float]:
    import faiss

    found = faiss.IndexHNSWFlat(judge.unit.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    found.hnsw.efConstruction = 40
    found.add(judge.unit)

    def use(ef: int) -> None:
        found.hnsw.efSearch = ef

    return judge.cheapest(
        (10, 20, 40, 80, 160, 320), use, lambda i: found.search(judge.queries[i : i + 1], K)[1], _there
    )


def _there(answer: np.ndarray) -> np.ndarray:
    return answer[0][answer[0] >= 0]


def _usearch(judge: Judge) -> tuple[float, float]:
    from usearch.index import Index

    found = Index(ndim=judge.unit.shape[1], metric="cos", dtype="f16", connectivity=16, expansion_add=40)
    found.add(np.arange(len(judge.unit)), judge.unit)

    def use(ef: int) -> None:
        found.expansion_search = ef

    return judge.cheapest(
        (10, 20, 40, 80, 160, 320), use, lambda i: found.search(judge.queries[i], K), lambda a: a.keys.astype(int)
    )


def _duckdb(judge: Judge) -> tuple[float, float]:
    n, width = judge.unit.shape
    column = pa.FixedSizeListArray.from_arrays(pa.array(judge.unit.reshape(-1)), width)
    con = duckdb.connect()
    con.register("arrow", pa.table({"n": np.arange(n), "v": column}))
    con.execute("CREATE TABLE t AS FROM arrow")
    ask = f"SELECT n FROM t ORDER BY array_cosine_distance(v, ?::FLOAT[{width}]) LIMIT {K}"
    return judge.asked(
        lambda i: con.execute(ask, [judge.queries[i].tolist()]).fetchall(), lambda a: np.array(a)[:, 0], FEW
    )


def filtered(wh: Warehouse, judge: Judge, row: str, rows: int) -> None:
    """By a column of the diagnostics, and by a key: ours, and comparing with every row that the same filter leaves."""
    low = 3.0
    (below,) = wh.sql(f"SELECT avg((loss < {low})::INTEGER) FROM next_token").fetchone()  # type: ignore[misc]
    (high,) = wh.sql(f"SELECT quantile_cont(loss, {below + 0.01}) FROM next_token").fetchone()  # type: ignore[misc]
    table = next(t for t in wh.vector_tables if t.info.layer == LAYER)
    wh.load_vectors()
    for name, where in (("loss", f"loss >= {low} AND loss < {high}"), ("pos", "pos = 17 OR pos = 18")):
        n = wh.sql(f"SELECT count(*) FROM token_diagnostics WHERE {where}").fetchone()[0]
        exact = wh.sql(
            f"SELECT v.vector FROM vectors_{table.info.sql_name} AS v JOIN (SELECT run_id, example_id, seq, pos FROM "
            f"token_diagnostics WHERE {where}) USING (run_id, example_id, seq, pos)"
        ).fetchnumpy()["vector"]
        kept = unit(np.stack(exact))
        mine, theirs, hits = [], [], 0
        for i in range(min(20, len(judge.raw))):
            query = judge.raw[i]
            start = time.perf_counter()
            answer = wh.nearest(query, layer=LAYER, k=K, where=where).fetchall()
            mine.append((time.perf_counter() - start) * 1e3)
            assert len(answer) == K
            limit = np.sort(1 - kept @ judge.queries[i])[K - 1]
            hits += sum(row[0] <= limit * 1.001 + 2e-6 for row in answer)
            if i >= FEW:
                continue
            start = time.perf_counter()
            if name == "pos":
                table.lance.search(query).distance_type("cosine").bypass_vector_index().limit(K).where(
                    where, prefilter=True
                ).select(["run_id", "example_id", "seq", "pos", "_distance"]).to_arrow()
            else:
                wh.connection.execute("SET VARIABLE q = ?", [query.astype(np.float32).tolist()])
                wh.sql(
                    "SELECT run_id, example_id, seq, pos, array_cosine_distance(v.vector, getvariable('q')::FLOAT[576]) AS d "
                    f"FROM vectors_{table.info.sql_name} AS v JOIN (SELECT run_id, example_id, seq, pos FROM token_diagnostics "
                    f"WHERE {where}) USING (run_id, example_id, seq, pos) ORDER BY d LIMIT {K}"
                ).fetchall()
            theirs.append((time.perf_counter() - start) * 1e3)
        a, b = statistics.median(mine), statistics.median(theirs)
        other = "Lance flat under the same filter" if name == "pos" else "DuckDB: the same join, and every row compared"
        record(
            f"{row}-{name}", f"the same under a filter on {name} that keeps {n / rows:.1%}", other,
            f"{a:.1f} ms ({hits / len(mine) / K:.3f})", f"{b:.0f} ms", f"{b / a:.1f} times faster, {K} rows always",
            "no slower, recall 0.95, k rows always",
        )  # fmt: skip


if __name__ == "__main__":
    main()
