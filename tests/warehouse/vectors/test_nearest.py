"""Nearest neighbours against comparing with everything in NumPy: every metric, filter, layer, head, with and without an index."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
import synthetic

from warehouse import TraceStore, Warehouse
from warehouse.activations import filters
from warehouse.errors import NotFoundError, UsageError
from warehouse.maintenance.remove import locked_for_removal, remove_run
from warehouse.schema.sites import Key
from warehouse.storage import paths
from warehouse.validation.vector_table_checks import check_vectors
from warehouse.vectors import ann_index, distances, index_spec, ingest, search
from warehouse.vectors.reconcile import remove_run_rows
from warehouse.vectors.table_cache import all_tables

LENGTHS = [7, 30, 1, 22, 16, 24] * 20
N = sum(LENGTHS)
D = 16


@functools.cache
def made(seed: int) -> np.ndarray:
    """Uneven, as residual streams are: one dimension with most of the energy, and a few rows far from all others."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, D)) * np.array([40.0, *np.geomspace(3, 0.2, D - 1)]) + np.array(
        [90.0, *[0.0] * (D - 1)]
    )
    x[rng.choice(N, 30, replace=False)] *= 50
    return x.astype(np.float16)


LOSSES = np.random.default_rng(9).uniform(0, 10, 2 * N).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one model, in layers 1 and 2."""
    home = tmp_path_factory.mktemp("near") / "runs"
    for i, run in enumerate(("one", "two")):
        both = {1: made(i), 2: made(10 + i)}
        synthetic.add_vectors(home, run, both, LENGTHS, losses=LOSSES[i * N : (i + 1) * N])
        ingest.add(home, run, index_spec.parse("resid.post_mlp@1,2"))
    return home


@pytest.fixture(
    scope="module", params=["exact", "ivf_sq", "ivf_pq", "centred", pytest.param("centred l2", marks=pytest.mark.slow)]
)
def near(root: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Warehouse]:
    """That warehouse, with tables of every kind."""
    if request.param != "exact":
        home = tmp_path_factory.mktemp("kind") / "runs"
        shutil.copytree(root, home)
        centred = "centred" in request.param
        metric = "l2" if "l2" in request.param else "cosine"
        kind = request.param if not centred else "ivf_sq"
        for table in all_tables(home):
            ingest.rebuild(home, table, ingest.Settings(kind, metric, centred))
    else:
        home = root
    with Warehouse(home) as wh:
        yield wh


@functools.cache
def key_list() -> list[tuple[str, str, int, int]]:
    return [(r, f"e{i:04d}", 0, pos) for r in ("one", "two") for i, n in enumerate(LENGTHS) for pos in range(n)]


def brute(wh: Warehouse, query: np.ndarray, layer: int, metric: str, keep: np.ndarray | None = None) -> np.ndarray:
    """Return the distance of the query to every row of both runs, float64; infinite where a filter drops the row."""
    seeds = (0, 1) if layer == 1 else (10, 11)
    x = np.concatenate([made(s) for s in seeds]).astype(np.float64)
    q = query.astype(np.float64)
    centre = next(t for t in wh.vector_tables if t.info.layer == layer).centre
    if centre is not None and metric == "cosine":
        x, q = x - centre.astype(np.float64), q - centre.astype(np.float64)
    if metric == "cosine":
        d = 1 - x @ q / np.linalg.norm(x, axis=1) / np.linalg.norm(q)
    else:
        d = np.linalg.norm(x - q, axis=1) if metric == "l2" else -x @ q
    return np.where(keep, d, np.inf) if keep is not None else d


def check(found: duckdb.DuckDBPyRelation, d: np.ndarray, k: int, metric: str, least: float = 1) -> None:
    """Check that there are `k` rows if `k` exist, best first, each with its distance, and that enough are among the `k` nearest."""
    rows = found.fetchall()
    best = np.sort(d[np.isfinite(d)])[:k]
    assert len(rows) == len(best)
    at = {key: i for i, key in enumerate(key_list())}
    own = np.array([d[at[r[1:5]]] for r in rows])
    told = np.array([r[0] for r in rows])
    # Stored vectors are float16, and less a centre they are rounded once more; dot products are sums of large terms.
    scale = {
        "cosine": 2e-3,
        "l2": 2e-3 * max(own.max(initial=1), 90),
        "dot": 2e-3 * np.abs(d[np.isfinite(d)]).max(initial=1),
    }[metric]
    np.testing.assert_allclose(told, own, atol=scale)
    assert (np.diff(told) >= 0).all() and len({r[1:5] for r in rows}) == len(rows)
    if len(best):
        assert (own <= best[-1] + scale).mean() >= least


QUERIES = [made(0)[5], made(1)[N - 1], made(10)[77], np.linspace(-3, 90, D)]


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("k", [1, 10, 100, 3 * N])
def test_the_nearest_of_all(near: Warehouse, metric: str, k: int) -> None:
    for q in QUERIES:
        check(near.nearest(q, layer=1, k=k, metric=metric), brute(near, q, 1, metric), k, metric, 0.9 if k > 1 else 0)
        check(near.nearest(q, layer=1, k=k, metric=metric, exact=True), brute(near, q, 1, metric), k, metric)


POS = np.array([key[3] for key in key_list()])
RUN = np.array([key[0] for key in key_list()])
EXAMPLE = np.array([key[1] for key in key_list()])
FILTERS = {
    "run_id = 'two'": RUN == "two",
    "pos = 3": POS == 3,
    "run_id IN ('one', 'three') AND pos BETWEEN 2 AND 4": (RUN == "one") & (POS >= 2) & (POS <= 4),
    "(example_id = 'e0003' OR pos > 20) AND seq = 0": (EXAMPLE == "e0003") | (POS > 20),
    "RUN_ID <> 'one'": RUN != "one",
    "loss < 0.2": LOSSES < 0.2,
    "loss > 1": LOSSES > 1,
    "loss > 5 AND pos < 9 AND run_id = 'two'": (LOSSES > 5) & (POS < 9) & (RUN == "two"),
    "loss > 9.9 OR pos = 0": (LOSSES > 9.9) | (POS == 0),
    "token = '4' AND NOT (loss > 3)": (POS == 4) & ~(LOSSES > 3),
    "example_id IN (SELECT example_id FROM examples WHERE idx < 5)": EXAMPLE < "e0005",
    "layer = 1 AND pos < 2": POS < 2,
    'pos < 99999999999999999999 AND "POS" < 2': POS < 2,
    "": np.ones(2 * N, bool),
    "layer = 2": np.zeros(2 * N, bool),
    "layer = 2 AND loss > 0": np.zeros(2 * N, bool),
    "upos = 'VERB'": np.zeros(2 * N, bool),
    "pos = 1 AND example_id = 'e0000' -- a comment": (POS == 1) & (EXAMPLE == "e0000"),
}


@pytest.mark.parametrize("where", FILTERS)
def test_the_nearest_under_a_filter(near: Warehouse, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searching for more rows than k, and dropping those that the filter excludes."""
    monkeypatch.setattr(search, "MAX_COMPARED", 1)
    check_filter(near, where)


@pytest.mark.parametrize("where", [w for w in FILTERS if filters.split_filter(w).views])
def test_the_nearest_of_the_tokens_that_a_filter_leaves(near: Warehouse, where: str) -> None:
    """These are compared one by one: no index is asked, but a centre counts."""
    if near.vector_tables[0].info.index is not None and not near.vector_tables[0].info.centred:
        pytest.skip("the same comparison as without an index")
    check_filter(near, where)


def check_filter(near: Warehouse, where: str) -> None:
    for metric, q in zip(("cosine", "l2", "dot"), QUERIES[1:], strict=True):
        found = near.nearest(q, layer=1, k=10, where=where, metric=metric)
        check(found, brute(near, q, 1, metric, FILTERS[where]), 10, metric, 0.9)


def test_a_filter_that_drops_all_that_is_near_still_gets_k_rows(
    near: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The filter keeps half of all rows, but none of the two hundred nearest."""
    monkeypatch.setattr(search, "MAX_COMPARED", 1)
    q = QUERIES[0]
    d = brute(near, q, 1, "cosine")
    dropped = np.argsort(d)[:200]
    listed = ", ".join(f"('{r}', '{e}', {p})" for r, e, _, p in (key_list()[i] for i in dropped))
    keep = np.ones(2 * N, bool)
    keep[dropped] = False
    where = f"(run_id, example_id, pos) NOT IN ({listed}) AND loss >= 0"
    check(near.nearest(q, layer=1, k=10, where=where), brute(near, q, 1, "cosine", keep), 10, "cosine", 0.9)


def test_several_layers_are_merged_and_labelled(near: Warehouse) -> None:
    q = QUERIES[2]
    found = near.nearest(q, layer=[1, 2], k=25, exact=True).fetchall()
    both = sorted([(d, 1) for d in brute(near, q, 1, "cosine")] + [(d, 2) for d in brute(near, q, 2, "cosine")])[:25]
    np.testing.assert_allclose([r[0] for r in found], [d for d, _ in both], atol=2e-3)
    layers = near.nearest(q, k=25, exact=True).aggregate("layer, count(*)", "layer").order("layer").fetchall()
    wanted = [(i, sum(layer == i for _, layer in both)) for i in (1, 2)]
    assert layers == [w for w in wanted if w[1]]


def test_the_answer_is_a_relation_with_every_key_that_joins(root: Path) -> None:
    with Warehouse(root) as wh:
        found = wh.nearest(QUERIES[0], layer=1, k=5)
        assert found.columns == ["distance", "run_id", "example_id", "seq", "pos", "side", "model", "site", "layer", "head",
                                 "kv_head", "search"]  # fmt: skip
        wanted = sorted(str(r[4]) for r in found.fetchall())
        joined = found.query(
            "n", "SELECT token FROM n JOIN token_diagnostics USING (run_id, example_id, seq, pos, side)"
        )
        assert sorted(t for (t,) in joined.fetchall()) == wanted
        con = wh.connection  # relations that were asked for through one connection join as such
        tokens = con.sql("FROM token_diagnostics").select("run_id, example_id, seq, pos, side, token")
        joined = wh.nearest(QUERIES[0], layer=1, k=5).join(tokens, "run_id, example_id, seq, pos, side")
        assert sorted(t for (t,) in joined.select("token").fetchall()) == wanted


def test_heads_of_queries_and_of_grouped_keys(tiny_root: Path, tmp_path: Path) -> None:
    home = tmp_path / "runs"
    shutil.copytree(paths.run_dir(tiny_root, "llama"), paths.run_dir(home, "llama"))
    ingest.add(home, "llama", index_spec.parse("q@1 k@1"))
    store = TraceStore(paths.run_dir(home, "llama"))
    slices = store.slices(Key("dec", "k", 1))
    with Warehouse(home) as wh:
        for site, own, head in (("q", 3, 3), ("k", 1, 3), ("k", 0, 1)):
            x = np.concatenate([store.rows(Key("dec", site, 1), s.example_id, s.seq) for s in slices]).astype(
                np.float64
            )
            q = x[11, own]
            all_rows = 1 - x @ q / np.linalg.norm(x, axis=2) / np.linalg.norm(q)  # (tokens, heads)
            column = "head" if site == "q" else "kv_head"
            of_one = wh.nearest(q, site=site, layer=1, head=head, k=20).df()
            assert set(of_one[column]) == {own}
            np.testing.assert_allclose(of_one.distance, np.sort(all_rows[:, own])[:20], atol=1e-3)
            of_all = wh.nearest(q, site=site, layer=1, k=20)
            np.testing.assert_allclose(of_all.df().distance, np.sort(all_rows, axis=None)[:20], atol=1e-3)
            filtered = wh.nearest(q, site=site, layer=1, k=20, where="length(token) > 1 OR is_special", exact=True)
            assert len(filtered) == 20
            by_head = wh.nearest(q, site=site, layer=1, head=head, k=9, where="loss > 2").df()
            keep = {(r[0], r[1]) for r in wh.sql("SELECT example_id, pos FROM next_token WHERE loss > 2").fetchall()}
            places = [(s.example_id, p) for s in slices for p in range(s.end - s.start)]
            kept = np.array([place in keep for place in places])
            np.testing.assert_allclose(by_head.distance, np.sort(all_rows[kept, own])[:9], atol=1e-3)
        with pytest.raises(UsageError, match="head 4: runs|heads 0 to 3"):
            wh.nearest(x[0, 0], site="q", layer=1, head=4)


@pytest.mark.slow
def test_a_real_models_neighbours(real_root: Path, tmp_path: Path) -> None:
    """SmolLM2's residual stream, block 15: what an index finds of it, and that cosine is exact without one."""
    home = tmp_path / "runs"
    shutil.copytree(paths.run_dir(real_root, "real"), paths.run_dir(home, "real"))
    store = TraceStore(paths.run_dir(home, "real"))
    key = Key("dec", "resid.post_mlp", 15)
    x = np.concatenate([store.rows(key, s.example_id, s.seq) for s in store.slices(key)]).astype(np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    ingest.add(home, "real", index_spec.parse("resid.post_mlp@mid"))
    with Warehouse(home) as wh:
        (table,) = wh.vector_tables
        assert table.info.layer == 15 and table.info.index is None
        for i in (0, 1, len(x) // 2, len(x) - 1):
            found = wh.nearest(x[i], layer=15, k=10).df()
            np.testing.assert_allclose(found.distance, np.sort(1 - unit @ unit[i])[:10], atol=2e-5)
            by_l2 = wh.nearest(x[i], layer=15, k=10, metric="l2").df()
            np.testing.assert_allclose(
                by_l2.distance, np.sort(np.linalg.norm(x - x[i], axis=1))[:10], rtol=1e-4, atol=0.1
            )
        ingest.rebuild(home, table, ingest.Settings(kind="ivf_sq"))
        assert wh.vector_tables[0].info.index is not None and wh.vector_tables[0].info.index.recall >= 0.95
        assert set(wh.nearest(x[3], layer=15).df().search) == {"ivf_sq"}


def test_an_index_that_finds_too_little_is_not_used(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L2 with scalar quantisation, where one dimension is large and a few rows are larger still: what residual streams are like."""
    home = tmp_path / "runs"
    shutil.copytree(root, home)
    monkeypatch.setattr(ann_index, "_PROBES", (1,))
    monkeypatch.setattr(ann_index, "_REFINES", (1,))
    table = all_tables(home)[0]
    ingest.rebuild(home, table, ingest.Settings(kind="ivf_sq", metric="l2"))
    assert table.info.index is not None and table.info.index.recall < ann_index.MIN_RECALL
    assert ann_index.recall_by_metric(table)["l2"] == (1.0, "exact")
    with Warehouse(home) as wh:
        found = wh.nearest(QUERIES[0], layer=1, k=10, metric="l2")
        assert {r[-1] for r in found.fetchall()} == {"exact"}
        check(found, brute(wh, QUERIES[0], 1, "l2"), 10, "l2")


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_the_exact_answer_that_recall_is_measured_against_is_exact(
    root: Path, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most rows are ruled out in float32; none of the nearest is, also where rows lie close together."""
    rows = made(0).astype(np.float32)
    rows[100:160] = rows[100] * (1 + 1e-6 * np.random.default_rng(0).standard_normal((60, D)))
    queries = np.concatenate([rows[::200], rows[100:103]])
    monkeypatch.setattr(distances, "scan", lambda _: iter(np.array_split(rows, 20)))
    found = ann_index.nearest_distances(all_tables(root)[0], queries, metric, 11)
    np.testing.assert_allclose(found, np.sort(distances.distances(queries, rows, metric))[:, :11], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_measured_recall_is_what_exact_search_says(root: Path, tmp_path: Path) -> None:
    """The recall in the table's info is what the vectors alone give."""
    home = tmp_path / "runs"
    shutil.copytree(root, home)
    table = all_tables(home)[0]
    ingest.rebuild(home, table, ingest.Settings(kind="ivf_pq"))
    info = table.info.index
    assert info is not None
    x = distances.to_array(table.lance.to_arrow()["vector"])
    chosen = np.sort(np.random.default_rng(0).choice(len(x), 100, replace=False))
    wide = x.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    hits = 0
    for i in chosen:
        limit = np.sort(1 - unit @ unit[i])[10] * (1 + 1e-6)
        found = distances.nearest_rows(table, x[i], "cosine", 11, (info.nprobes, info.refine))
        hits += int((found["distance"].to_numpy() <= limit).sum()) - 1
    assert info.recall == pytest.approx(hits / 1000, abs=1e-3)


def test_new_rows_get_into_the_index(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann_index, "MIN_ROWS", 1000)
    home = tmp_path / "runs"
    for i, run in enumerate(("a", "b", "c")):
        synthetic.add_vectors(home, run, {1: made(i)}, LENGTHS)
        ingest.add(home, run, index_spec.parse("resid.post_mlp@1"))
        (table,) = all_tables(home)
        assert table.info.index is not None and table.info.index.trained_rows == N
        assert ann_index._count_unindexed(table) == 0
    (said, quiet) = ([], [])
    with table.locked():
        ann_index.maintain_index(table, said.append)
        ann_index.optimize(table, quiet.append)
    assert said == [] and any("recall@10" in line for line in quiet)


@pytest.mark.parametrize(
    ("asking", "error", "words"),
    [
        ({"vector": np.zeros(3)}, UsageError, r"shape \(3,\); made_resid_post_mlp_L01 has vectors of width 16"),
        ({"vector": np.full(D, np.nan)}, UsageError, "not finite"),
        ({"vector": np.zeros(D)}, UsageError, "no direction"),
        ({"vector": ["x"] * D}, UsageError, "vector of numbers"),
        ({"layer": 9}, UsageError, "in layer 9; there is: 1, 2. Make one: traces index add"),
        ({"layer": []}, UsageError, "No layer"),
        ({"site": "q"}, NotFoundError, "There is: resid.post_mlp.L01"),
        ({"model": "gpt5"}, NotFoundError, "There is: made"),
        ({"metric": "hamming"}, NotFoundError, "cosine, l2, dot"),
        ({"k": 0}, UsageError, "at least 1"),
        ({"where": "nonsense = 1"}, UsageError, "nonsense"),
        ({"where": "pos ="}, UsageError, "not SQL"),
        ({"where": "'x"}, UsageError, "not SQL"),
        ({"where": "regexp_matches(token, '(')"}, UsageError, "fails on token_diagnostics"),
        ({"where": "pos * 9223372036854775807 > 3"}, UsageError, "fails on token_diagnostics"),
        ({"where": "error('x')"}, UsageError, "fails on token_diagnostics"),
        ({"k": 5_000_000_000}, UsageError, "at most"),
        ({"where": "pos = 1; DROP TABLE x"}, UsageError, "more than a condition"),
        ({"where": "pos = 1 ORDER BY pos"}, UsageError, "more than a condition"),
        ({"where": "1) UNION SELECT (2"}, UsageError, "not SQL"),
        ({"where": "loss = 'high'"}, UsageError, "high"),
        ({"head": 1}, UsageError, "has no heads"),
        ({"side": "enc"}, NotFoundError, "resid.post_mlp"),
    ],
)
def test_bad_questions_are_refused_with_what_is_wrong(root: Path, asking: dict, error: type, words: str) -> None:
    with Warehouse(root) as wh, pytest.raises(error, match=words):
        wh.nearest(**({"vector": QUERIES[0], "layer": 1} | asking))


@pytest.mark.parametrize("part", [0.05, 0.5])
def test_rows_of_a_deleted_run_are_not_found_through_the_index_nor_counted(tmp_path: Path, part: float) -> None:
    """Deleting leaves files and index as they are; where much goes, the recall that was measured says nothing any more."""
    home, few = tmp_path / "runs", LENGTHS[: int(part * len(LENGTHS))]
    n = sum(few)
    rows = {"kept": made(0), "gone": made(1)[:n]}
    for run, x in rows.items():
        synthetic.add_vectors(home, run, {1: x}, LENGTHS if run == "kept" else few)
        ingest.add(home, run, index_spec.parse("resid.post_mlp@1"))
    ingest.rebuild(home, all_tables(home)[0], ingest.Settings(kind="ivf_sq"))
    before = set(all_tables(home)[0].path.rglob("*.lance"))
    with locked_for_removal(home, "gone"):
        remove_run(home, "gone")
    (table,) = all_tables(home)
    assert before <= set(table.path.rglob("*.lance")) and table.info.rows == table.count == N
    assert check_vectors(TraceStore(paths.run_dir(home, "kept"))) == f"{N:,} rows in made_resid_post_mlp_L01"
    how = "ivf_sq" if part < 0.1 else "exact"
    assert ann_index.recall_by_metric(table)["cosine"][1] == how
    unit = rows["kept"] / np.linalg.norm(rows["kept"].astype(np.float64), axis=1, keepdims=True)
    with Warehouse(home) as wh:
        wh.load_vectors()
        wh.connection.execute("SET VARIABLE q = ?", [rows["gone"][7].astype(np.float32).tolist()])
        in_sql = wh.sql("FROM nearest_made_resid_post_mlp_L01(getvariable('q'), k := 10)").fetchall()
        found = wh.nearest(rows["gone"][7], layer=1, k=10).fetchall()
        q = rows["gone"][7] / np.linalg.norm(rows["gone"][7].astype(np.float64))
        limit = np.sort(1 - unit @ q)[9]
        assert {r[1] for r in in_sql} == {r[1] for r in found} == {"kept"} and {r[-1] for r in found} == {how}
        for answer in (in_sql, found):
            assert len(answer) == 10 and sum(r[0] <= limit + 1e-4 for r in answer) >= 9
    size = sum(p.stat().st_size for p in table.path.rglob("*.lance"))
    with table.locked():
        ann_index.optimize(table)
    assert sum(p.stat().st_size for p in table.path.rglob("*.lance")) < size
    assert ann_index.recall_by_metric(table)["cosine"][1] == "ivf_sq"
    assert check_vectors(TraceStore(paths.run_dir(home, "kept"))) == f"{N:,} rows in made_resid_post_mlp_L01"


@pytest.mark.slow
def test_views_of_vector_tables_stay_when_runs_come(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "runs"
    shutil.copytree(root, home)
    with Warehouse(home) as wh:
        wh.load_vectors()
        name = next(name for (name,) in wh.sql("SELECT name FROM vector_tables").fetchall())
        count = wh.sql(f"SELECT count(*) FROM vectors_{name}").fetchone()
        synthetic.add_run(home, "come", "encode", {"labels": []})
        assert wh.sql("SELECT count(*) FROM runs WHERE run_id = 'come'").fetchone() == (1,)
        assert wh.sql(f"SELECT count(*) FROM vectors_{name}").fetchone() == count != (0,)


def test_a_search_goes_on_while_the_table_is_optimised_and_a_run_deleted(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "runs"
    shutil.copytree(root, home)
    with Warehouse(home) as wh:
        assert len(wh.nearest(QUERIES[0], layer=1, k=5)) == 5
        remove_run_rows(home, "one")
        assert {r[1] for r in wh.nearest(QUERIES[0], layer=1, k=50).fetchall()} == {"two"}
        stale = wh.vector_tables[0]
        table = all_tables(home)[0]
        with table.locked():
            ann_index.optimize(table)
        stale.info = stale.info.model_copy()
        assert len(search.nearest_in_table(wh, stale, QUERIES[0], 7, None, "cosine", None, False)) == 7


@pytest.mark.parametrize("offset", [0, 50, 600])
def test_vectors_that_lie_close_together_are_told_apart(tmp_path: Path, offset: float) -> None:
    """Vectors of first tokens do: at cosine distances of 1e-6 and less, float32 and a query rounded to float16 tell nothing apart."""
    rng = np.random.default_rng(0)
    lengths = [20] * 100
    x = (rng.standard_normal((2000, 24)) + offset * rng.standard_normal(24)).astype(np.float16)
    synthetic.add_vectors(tmp_path, "r", {1: x}, lengths)
    ingest.add(tmp_path, "r", index_spec.parse("resid.post_mlp@1"))
    wide = x.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    with Warehouse(tmp_path) as wh:
        for q in (wide[3], wide[700] * 0.3337 + 1.234e-3):
            d = 1 - wide @ q / norms / np.linalg.norm(q)
            found = [r[0] for r in wh.nearest(q, layer=1, k=10).fetchall()]
            np.testing.assert_allclose(found, np.sort(d)[:10], rtol=1e-6, atol=1e-12)
            under = [r[0] for r in wh.nearest(q, layer=1, k=10, where="token <> 'x'").fetchall()]
            np.testing.assert_allclose(under, np.sort(d)[:10], rtol=1e-6, atol=1e-12)


def test_vectors_that_are_zero_are_rows_too(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float16)
    x[[3, 17]] = 0
    synthetic.add_vectors(tmp_path, "r", {1: x}, [20, 20])
    ingest.add(tmp_path, "r", index_spec.parse("resid.post_mlp@1"))
    with Warehouse(tmp_path) as wh:
        for where in (None, "token <> 'x'"):
            found = wh.nearest(x[5], layer=1, k=40, where=where).df()
            assert len(found) == 40 and (found.distance == 1).sum() == 2


def test_queries_of_other_kinds(root: Path) -> None:
    import torch

    with Warehouse(root) as wh:
        expected = wh.nearest(QUERIES[0], layer=1, k=3).fetchall()
        for q in (QUERIES[0].tolist(), torch.from_numpy(QUERIES[0]), QUERIES[0].astype(np.float64)):
            assert wh.nearest(q, layer=np.int64(1), k=3).fetchall() == expected
        with pytest.raises(UsageError, match="not an array of numbers"):
            wh.nearest(torch.ones(D, requires_grad=True), layer=1)


def test_tables_without_any(tmp_path: Path, tiny_root: Path) -> None:
    with Warehouse(tiny_root) as wh, pytest.raises(UsageError, match="There are no vector tables yet"):
        wh.nearest(np.ones(3))


def test_speed_of_the_python_side_is_not_lost_in_opening(root: Path) -> None:
    """One Lance table is opened once, however many searches there are."""
    with Warehouse(root) as wh:
        wh.nearest(QUERIES[0], layer=1)
        opened = wh.vector_tables[0].lance
        wh.nearest(QUERIES[1], layer=1)
        assert wh.vector_tables[0].lance is opened
