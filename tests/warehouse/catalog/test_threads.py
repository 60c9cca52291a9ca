"""Several threads ask one warehouse, and one run, at once: each gets what it would get alone."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from warehouse import TraceStore, Warehouse
from warehouse.catalog.saved_queries import find_query, run_query
from warehouse.storage import paths
from warehouse.vectors import index_spec, ingest, token_query

THREADS = 4


@pytest.fixture(autouse=True)
def threads_by_turns() -> Iterator[None]:
    """Threads that take turns after microseconds meet in places where they else would once in a thousand runs."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def root(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two captured runs, one of them searchable."""
    found = Path(shutil.copytree(tiny_root, tmp_path_factory.mktemp("threads") / "runs"))
    ingest.add(found, "llama", index_spec.parse("resid.post_mlp@0,1"), ingest.Settings())
    return found


def questions(wh: Warehouse, store: TraceStore, n: int) -> list[Callable[[], object]]:
    """Calls of every kind, each with an answer that can be compared and that no other call has."""
    keys = (
        wh.sql("SELECT * EXCLUDE (side) FROM tokens WHERE run_id = 'llama' ORDER BY ALL").to_arrow_table().to_pylist()
    )
    ids, name = list(dict.fromkeys(k["example_id"] for k in keys)), store.meta.model.name

    def token(i: int) -> dict:
        return keys[i * 7 % len(keys)]

    def picked(i: int) -> str:
        return f"SELECT run_id, example_id, seq, pos FROM tokens WHERE run_id = 'llama' AND pos = {i % 5}"

    def vector(i: int) -> np.ndarray:
        return np.sin(np.arange(store.meta.model.d_model) * (i + 1)).astype(np.float32)

    def context(i: int) -> object:
        t = token(i)
        wanted = token_query.for_token(
            wh, wh.vectors, "llama", t["example_id"], t["seq"], t["pos"], "resid.post_mlp", [1], None
        )
        return token_query.with_context(wh, token_query.nearest(wh, wanted, 4, None, "cosine", False)).fetchall()

    def session(i: int) -> object:
        wh.connection.execute(f"SET VARIABLE mine = {i}")
        return wh.sql(f"SELECT getvariable('mine') + {i}").fetchone()

    kinds: list[Callable[[int], object]] = [
        lambda i: wh.sql(f"SELECT pos + {i}, avg(loss) FROM next_token GROUP BY ALL ORDER BY ALL").fetchall(),
        lambda i: wh.sql(f"SELECT {i}, sum(hash(token, {i}) % 1000) FROM tokens").fetchone(),
        lambda i: wh.nearest(vector(i), layer=i % 2, k=5).fetchall(),
        lambda i: wh.nearest(vector(i), layer=1, k=5, where=f"loss > {i / 10} AND pos <> {i % 3}").fetchall(),
        lambda i: wh.matrix(picked(i), layer=i % 2)[0],
        lambda i: np.concatenate(list(wh.batches(layer=1, model=name, size=16, where=f"pos > {i % 4}"))),
        lambda i: wh.run("llama").attn(ids[i % len(ids)], layer=0, head=i % 2),
        lambda i: store.qkv(ids[i % len(ids)], "k", layer=1),
        lambda i: store.tokens.iloc[i % len(store.tokens)]["tokens"],
        lambda i: store.encodings(ids[i % len(ids)])["tokens"],
        lambda i: store.query("SELECT count(*), ? FROM tokens", [i]).fetchone(),
        lambda i: run_query(wh.cursor(), find_query("loss_by_token"), {"run": ("llama", "gpt2")[i % 2]}).fetchall(),
        context,
        session,
    ]
    return [lambda kind=kind, i=i: kind(i) for i in range(n) for kind in kinds]


def same(a: object, b: object) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def test_answers_of_several_threads_are_those_of_one(root: Path) -> None:
    with Warehouse(root) as alone:
        expected = [call() for call in questions(alone, alone.run("llama"), 6)]
    with Warehouse(root) as wh, ThreadPoolExecutor(THREADS) as pool:  # nothing is open yet
        found = list(pool.map(lambda call: call(), questions(wh, wh.run("llama"), 6)))
    assert [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if not same(a, b)] == []


def test_an_answer_stays_what_it_is_whoever_reads_it_and_whatever_is_asked_next(root: Path) -> None:
    with Warehouse(root) as wh:
        n = 60_000
        part = wh.sql(f"FROM range({n})")
        assert part.fetchone() == (0,)
        reader = wh.sql(f"FROM range({n})").to_arrow_reader(1000)
        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(lambda i: wh.sql(f"SELECT {i}, count(*) FROM tokens"), range(40)))
        later = [a.filter("true") for a in answers]  # whose threads have ended
        assert [a.fetchone()[0] for a in answers] == [a.fetchone()[0] for a in later] == list(range(40))
        assert len(part.fetchall()) == n - 1 and sum(b.num_rows for b in reader) == n
        first, second = (run_query(wh.cursor(), find_query("loss_by_token"), {"run": run}) for run in ("llama", "gpt2"))
        assert first.fetchall() != second.fetchall()
    assert answers[0].filter("true").fetchone()[0] == 0  # the warehouse is closed, the answer is not


def test_what_a_thread_sets_is_its_own(root: Path) -> None:
    with Warehouse(root) as wh:
        wh.sql("SET VARIABLE x = 1")
        wh.sql("CREATE TEMP TABLE mine AS SELECT 7 AS n")
        assert wh.sql("SELECT getvariable('x'), n FROM mine").fetchall() == [(1, 7)]
        joined = wh.nearest(np.ones(wh.run("llama").meta.model.d_model), layer=1, k=3).join(wh.sql("FROM mine"), "true")
        assert len(joined.fetchall()) == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: wh.sql("SELECT getvariable('x')").fetchone()).result() == (None,)
        wh.load_vectors()
        uncommented = "SELECT column_name FROM duckdb_columns() WHERE table_name LIKE 'vectors%' AND comment IS NULL"
        assert wh.sql(uncommented).fetchall() == []
        with ThreadPoolExecutor(1) as pool:  # views of vector tables are for all
            count = pool.submit(lambda: wh.sql("SELECT count(*) FROM vectors_llama_resid_post_mlp_L01").fetchone())
            assert count.result() == wh.sql("SELECT count(*) FROM tokens WHERE run_id = 'llama'").fetchone()


def test_a_pass_of_batches_is_one_threads_alone(root: Path) -> None:
    """Passes of the same batches, each read by another thread: no two share an order, nor memory."""
    with Warehouse(root) as wh:
        batches = wh.batches(layer=1, model=wh.run("llama").meta.model.name, size=8, shuffle=True)

        def one() -> bytes:
            return np.concatenate(
                [x.copy() for x in batches]
            ).tobytes()  # each batch is let go of, and its memory used again

        alone = {one() for _ in range(2 * THREADS)}
        batches.passes = 0
        start = threading.Barrier(THREADS)

        def two(_: int) -> list[bytes]:
            start.wait()
            return [one(), one()]

        with ThreadPoolExecutor(THREADS) as pool:
            assert {found for pair in pool.map(two, range(THREADS)) for found in pair} == alone


def test_threads_that_meet_a_damaged_run_all_leave_it_out(root: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(root, tmp_path / "runs"))
    with Warehouse(home) as wh:
        path = paths.run_dir(home, "gpt2") / paths.table_file("tokens")
        path.write_bytes(path.read_bytes()[:-50] + b"\0" * 50)
        query = "SELECT DISTINCT run_id FROM tokens"
        with pytest.warns(match="run 'gpt2' is left out"), ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(lambda _: wh.attempt(lambda: wh.sql(query).fetchall()), range(12)))
        assert found == [[("llama",)]] * 12
