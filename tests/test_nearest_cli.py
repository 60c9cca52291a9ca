"""`traces index`, `nearest`, `probe` and the vectors in `traces shell`, as a user meets them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import synthetic
from samples import DATA

from warehouse import TraceStore, Warehouse
from warehouse.schema.sites import Key
from warehouse.storage import paths, run_list
from warehouse.vectors import index_spec, ingest
from warehouse.vectors.duckdb_macros import statements
from warehouse.vectors.table_cache import all_tables

SAMPLE = DATA / "lighthouse.txt"
TABLE = "llama_resid_post_mlp_L01"


@pytest.fixture(scope="module")
def root(traces: Callable, tiny_folder: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two captures of one model by the command line, which indexed the middle layer as they do when nothing is said."""
    home = tmp_path_factory.mktemp("cli") / "runs"
    for run, more in (("a", ("--limit", 6)), ("b", ("--index", "resid.post_mlp@1,2", "--index", "k@0"))):
        done = traces("capture", "next-token", "--model", tiny_folder("llama"), "--text", SAMPLE, "--run", run,
                      "--capture", "hidden,qkv", *more, "-w", home)  # fmt: skip
        assert done.code == 0, done
    return home


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    shutil.copytree(root, tmp_path / "runs")
    return tmp_path / "runs"


def clear(answer, code: int, *words: str) -> None:
    assert answer.code == code and "Traceback" not in answer.err, answer
    for word in words:
        assert word in answer.err, answer.err


@pytest.mark.slow
def test_captures_index_the_middle_layer_unless_told_otherwise(root: Path, traces: Callable) -> None:
    told = traces("index", "list", "--format", "json", "-w", root)
    tables = {t["name"]: t for t in json.loads(told.out)}
    assert {n: t["runs"] for n, t in tables.items()} == {
        TABLE: ["a", "b"], "llama_resid_post_mlp_L02": ["b"], "llama_k_L00": ["b"],
    }  # fmt: skip
    assert tables[TABLE]["recall_cosine"] == "1.000 (exact)"
    with Warehouse(root) as wh:
        tokens = dict(wh.sql("SELECT run_id, count(*) FROM tokens GROUP BY 1").fetchall())
    assert tables[TABLE]["rows"] == sum(tokens.values()) and tables["llama_k_L00"]["rows"] == 2 * tokens["b"]
    shown = traces("index", "list", "-w", root).out
    assert TABLE in shown and "exact" in shown


@pytest.mark.slow
def test_a_capture_without_a_stream_or_with_none_indexes_nothing(
    traces: Callable, tiny_folder: Callable, tmp_path: Path
) -> None:
    command = ("capture", "next-token", "--model", tiny_folder("llama"), "--text", SAMPLE, "--limit", 3, "-w", tmp_path)
    assert traces(*command, "--run", "a").code == 0
    assert traces(*command, "--run", "b", "--capture", "hidden", "--index", "none").code == 0
    clear(traces(*command, "--run", "c", "--index", "resid.post_mlp@1"), 2, "resid.post_mlp is not stored")
    clear(
        traces(*command, "--run", "c", "--capture", "hidden", "--index", "resid.post_mlp@5"),
        2,
        "in layer 5, but in 0, 1, 2",
    )
    clear(traces(*command, "--run", "c", "--capture", "hidden", "--index", "resid.mlp@5"), 2, "Did you mean")
    assert all_tables(tmp_path) == [] and run_list.published_runs(tmp_path) == ["a", "b"]


def test_nearest_tokens_in_their_sentences(root: Path, traces: Callable) -> None:
    store = TraceStore(paths.run_dir(root, "a"))
    example = store.tokens.example_id[2]
    key = Key("dec", "resid.post_mlp", 1)
    q = store.rows(key, example)[4].astype(np.float64)
    asking = ("nearest", "a", "--example", example[:6], "--pos", 4, "--layers", 1, "-w", root)
    found = json.loads(traces(*asking, "-k", 4, "--format", "json").out)
    expected = []
    for run in ("a", "b"):
        other = TraceStore(paths.run_dir(root, run))
        for s in other.slices(key):
            x = other.rows(key, s.example_id).astype(np.float64)
            d = 1 - x @ q / np.linalg.norm(x, axis=1) / np.linalg.norm(q)
            expected += [(d[i], run, s.example_id, i) for i in range(len(x))]
    expected = sorted(e for e in expected if e[1:] != ("a", example, 4))[:4]
    np.testing.assert_allclose([f["distance"] for f in found], [e[0] for e in expected], atol=1e-3)
    assert found[0]["run_id"] == "b" and found[0]["distance"] < 1e-3  # the same text in the other run
    text = store.tokens.text[2]
    start, end = store.encodings(example)["offset_mapping"][4]
    assert found[0]["context"] == f"{text[max(0, start - 40) : start]}«{text[start:end]}»{text[end : end + 40]}"
    table = traces(*asking, "-k", 3)
    assert "«" in table.out and table.out.splitlines()[0].split()[:2] == ["distance", "context"]
    keys = traces(*asking, "--show", "keys", "--format", "tsv").out.splitlines()
    assert keys[0].split("\t")[:5] == ["distance", "run_id", "example_id", "seq", "pos"] and len(keys) == 11
    under = json.loads(traces(*asking, "--where", "run_id = 'b' AND loss > 1", "-k", 5, "--format", "json").out)
    assert len(under) == 5 and {f["run_id"] for f in under} == {"b"}
    both = json.loads(traces(*asking[:-4], "--layers", "1,2", "-k", 30, "--format", "json", "-w", root).out)
    assert {f["layer"] for f in both} == {1, 2}
    heads = json.loads(traces("nearest", "b", "--example", example, "--pos", 4, "--site", "k", "--head", 3, "-k", 3,
                              "--format", "json", "-w", root).out)  # fmt: skip
    assert {h["kv_head"] for h in heads} == {1}


def test_nearest_to_a_new_text(root: Path, traces: Callable, tiny_folder: Callable) -> None:
    """The text is that of an example up to a token: the token itself is found, at no distance."""
    store = TraceStore(paths.run_dir(root, "b"))
    example, text = store.tokens.example_id[0], store.tokens.text[0]
    offsets = store.encodings(example)["offset_mapping"]
    found = traces("nearest", "--text", text[: offsets[9][1]], "--model", tiny_folder("llama"), "--layers", 1, "-k", 2,
                   "--format", "json", "-w", root)  # fmt: skip
    assert found.code == 0, found
    rows = json.loads(found.out)
    assert {(r["example_id"], r["pos"]) for r in rows} == {(example, 9)} and rows[0]["distance"] < 1e-3


@pytest.mark.slow
def test_bad_questions_end_in_one_line(root: Path, traces: Callable, tiny_folder: Callable) -> None:
    w = ("-w", root)
    example = TraceStore(paths.run_dir(root, "a")).tokens.example_id[0]
    ask = ("nearest", "a", "--example", example, "--pos")
    clear(traces("nearest", *w), 2, "RUN with --example and --pos, or --text with --model")
    clear(traces("nearest", "a", "--example", example, *w), 2, "needs --example and --pos")
    clear(traces("nearest", "--text", "x", *w), 2, "needs --model")
    clear(traces(*ask, 0, "--where", "run_id = b", *w), 2, "Text needs single quotes: run_id = 'b'")
    clear(traces(*ask, 999, "--layers", 1, *w), 2, "has positions 0 to")
    clear(traces(*ask, 0, "--layers", 7, *w), 2, "in layer 7; there is: 1, 2")
    clear(traces(*ask, 0, "--layers", "x", *w), 2, "4,15")
    clear(traces(*ask, 0, "--site", "k", *w), 2, "say which, with --head")
    clear(traces(*ask, 0, "--layers", 1, "--where", "upsos = 'VERB'", *w), 2, "upsos")
    clear(traces("nearest", "c", "--example", example, "--pos", 1, *w), 2, "No run 'c'")
    clear(traces("nearest", "a", "--example", "zz", "--pos", 1, *w), 2, "No example 'zz'")
    clear(traces("nearest", "--text", "x", "--model", tiny_folder("gpt2"), *w), 2, "no vector tables of")
    clear(traces("index", "add", "a", "--site", "mlp_out", *w), 2, "mlp_out is not stored")
    clear(traces("index", "drop", "llama_resid", "--yes", *w), 2, "Did you mean")
    clear(traces("index", "optimize", "nothing", *w), 2, "No vector table 'nothing'")


@pytest.mark.slow
def test_index_add_list_optimize_rebuild_and_drop(copied: Path, traces: Callable) -> None:
    w = ("-w", copied)
    added = traces("index", "add", "a", "--layers", "0,1", *w)
    assert added.code == 0 and "llama_resid_post_mlp_L00: " in added.out and "(there already)" in added.out, added
    clear(traces("index", "add", "a", "--layers", 1, "--centre", *w), 2, "traces index rebuild " + TABLE)
    built = traces("index", "rebuild", TABLE, "--type", "ivf_sq", "--centre", *w)
    assert built.code == 0 and "recall@10" in built.err, built
    listed = traces("index", "list", *w).out
    assert f"{TABLE} (centred)" in listed and "ivf_sq" in listed
    assert traces("index", "optimize", *w).code == 0
    dry = traces("index", "drop", TABLE, "--dry-run", *w)
    assert "would delete" in dry.out and TABLE in traces("index", "list", *w).out
    clear(traces("index", "drop", TABLE, *w, stdin="n\n"), 1, "Nothing was deleted")
    assert traces("index", "drop", TABLE, "--yes", *w).code == 0 and TABLE not in traces("index", "list", *w).out
    shutil.rmtree(paths.vectors_dir(copied))
    again = traces("index", "rebuild", *w)  # what the captures asked for
    assert again.code == 0, again
    assert sorted(t.info.sql_name for t in all_tables(copied)) == ["llama_k_L00", TABLE, "llama_resid_post_mlp_L02"]
    assert "No vector tables yet" in traces("index", "list", "-w", _emptied(copied)).err


def _emptied(root: Path) -> Path:
    shutil.rmtree(paths.vectors_dir(root))
    return root


def test_deleting_a_run_says_and_deletes_its_vectors(copied: Path, traces: Callable) -> None:
    w = ("-w", copied)
    assert f"in the vector table {TABLE}" in traces("runs", "rm", "b", "--dry-run", *w).out
    removed = traces("runs", "rm", "b", "--yes", *w)
    assert removed.code == 0 and "traces index optimize gives back the space" in removed.out
    assert {t.info.sql_name: list(t.info.runs) for t in all_tables(copied)} == {TABLE: ["a"]}
    shutil.rmtree(paths.run_dir(copied, "a"))
    assert "dropped the rows of a" in traces("refresh", *w).out and all_tables(copied) == []


def test_the_shell_has_a_view_and_a_macro_for_each_table(root: Path, traces: Callable) -> None:
    example = TraceStore(paths.run_dir(root, "a")).tokens.example_id[1]
    asking = (
        f"SET VARIABLE q = (SELECT vector FROM vectors_{TABLE} WHERE run_id = 'a' AND example_id = '{example}' AND pos = 3);"
        f"SELECT n.distance, t.token, t.context FROM nearest_{TABLE}(getvariable('q'), k := 3) AS n "
        "JOIN token_diagnostics AS t USING (run_id, example_id, seq, pos) ORDER BY 1"
    )
    shown = traces("shell", "-w", root, "--", "-json", "-c", asking)
    rows = json.loads(shown.out)
    assert len(rows) == 3 and abs(rows[0]["distance"]) < 1e-3 and f"«{rows[0]['token']}»" in rows[0]["context"], shown
    names = traces("shell", "-w", root, "--", "-csv", "-c", "SHOW TABLES").out
    assert f"vectors_{TABLE}" in names and "vector_tables" in names
    answer = traces("sql", f"SELECT count(*) AS n FROM vectors_{TABLE}", "--format", "json", "-w", root)
    assert json.loads(answer.out)[0]["n"] == next(t.info.rows for t in all_tables(root) if t.info.sql_name == TABLE)


@pytest.mark.parametrize("kind", ["none", "ivf_sq", "ivf_pq", "centred", "l2", "dot"])
def test_the_extension_and_python_find_the_same_neighbours(tmp_path: Path, kind: str) -> None:
    """Both against exact search in NumPy; vectors are uneven, with one dimension that dwarfs the rest."""
    rng = np.random.default_rng(0)
    lengths = [25] * 80
    n, width, k = sum(lengths), 24, 10
    x = (rng.standard_normal((n, width)) * np.array([30.0, *np.geomspace(3, 0.3, width - 1)])).astype(np.float16)
    x[:, 0] += 200
    synthetic.add_vectors(tmp_path, "r", {1: x}, lengths, model="org/a-b.c")
    metric = kind if kind in ("l2", "dot") else "cosine"
    settings = ingest.Settings(
        {"centred": "ivf_sq"}.get(kind, kind if kind not in ("l2", "dot") else "none"), metric, kind == "centred"
    )
    ingest.add(tmp_path, "r", index_spec.parse("resid.post_mlp@1"), settings)
    (table,) = all_tables(tmp_path)
    assert table.info.sql_name == "a_b_c_resid_post_mlp_L01"
    stored = table.info.centred
    y = (x.astype(np.float32) - table.centre).astype(np.float16) if stored and table.centre is not None else x
    wide = y.astype(np.float64)
    hits = {"python": 0, "shell": 0}
    with Warehouse(tmp_path) as wh:
        for statement in statements(wh.vector_tables):
            wh.connection.execute(statement)
        for i in rng.choice(n, 20, replace=False):
            if metric == "cosine":
                d = 1 - wide @ wide[i] / np.linalg.norm(wide, axis=1) / np.linalg.norm(wide[i])
            else:
                d = np.linalg.norm(wide - wide[i], axis=1) if metric == "l2" else -wide @ wide[i]
            limit = np.sort(d)[k - 1]
            scale = 1e-3 * max(1.0, np.abs(d).max())
            wh.connection.execute("SET VARIABLE q = ?", [y[i].astype(np.float32).tolist()])
            answers = {
                "python": wh.nearest(x[i], layer=1, k=k, metric=metric).fetchall(),
                "shell": wh.sql(
                    f"SELECT distance, run_id, example_id, seq, pos FROM nearest_{table.info.sql_name}(getvariable('q'), k := {k})"
                ).fetchall(),
            }
            for who, rows in answers.items():
                assert len(rows) == k
                own = np.array([d[int(r[2][1:]) * 25 + r[4]] for r in rows])
                np.testing.assert_allclose([r[0] for r in rows], own, atol=scale)
                hits[who] += int((own <= limit + scale / 100).sum())
    assert min(hits.values()) >= 0.95 * 20 * k, hits


@pytest.mark.slow
def test_probe_by_command(root: Path, traces: Callable, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "runs")
    w = ("-w", tmp_path / "runs")
    query = "SELECT run_id, example_id, seq, pos, starts_with(token, ' ') AS y FROM tokens WHERE run_id = 'b'"
    done = traces("probe", query, "--layers", "0,2", "--format", "json", "--plot", tmp_path / "p.svg", *w)
    assert done.code == 0, done
    rows = json.loads(done.out)
    assert [r["layer"] for r in rows] == [0, 2] and all(r["accuracy"] > r["majority"] for r in rows)
    assert all(r["low"] < r["accuracy"] <= r["high"] and r["sd"] > 0 and r["examples"] < 50 for r in rows)
    (warned,) = (line for line in done.err.splitlines() if line.startswith("warning: "))
    assert "fewer than 50: the 95 % interval of the first accuracy is" in warned
    assert (tmp_path / "p.svg").is_file() and "layer 2 (2 of 2), accuracy" in done.err
    run = next(name for name in run_list.published_runs(tmp_path / "runs") if name.startswith("probe-"))
    assert traces("runs", "validate", run, *w).code == 0 and "probe" in traces("runs", *w).out
    clear(traces("probe", "SELECT 1", *w), 2, "gives no run_id")
    clear(traces("probe", query, "--layers", "x", *w), 2, "--layers x")
