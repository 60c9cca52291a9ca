"""Runs of vectors: what is planted is in them, held-out questions are not, and the Lance table follows what runs there are."""

from __future__ import annotations

import gc
import re
import shutil
import warnings
from pathlib import Path

import lancedb
import numpy as np
import pytest
from synthetic import add_vectors
from synthetic_traits import Response, add_judge, add_responses, grid, planted

from capture.traits import extract as job
from capture.traits import extraction_methods
from capture.traits.extract import Options, extract
from warehouse import TraceStore, Warehouse
from warehouse.errors import NotFoundError, RunExistsError, UsageError
from warehouse.maintenance.remove import locked_for_removal, remove_run
from warehouse.storage import paths
from warehouse.validation.validate import validate
from warehouse.vectors import index_spec, ingest, model_folders, repair
from warehouse.vectors import trait_table as index
from warehouse.vectors.reconcile import reconcile
from warehouse.vectors.table_cache import all_tables

D = 24
RESPONSES = grid(12, samples=2, instructions=3)
DIRECTION = np.eye(D)[3]
LAYERS = (None, 0, 1, 2, 3)


def tensors(seed: int = 0, strength: float = 2.0, responses: list[Response] = RESPONSES) -> dict:
    """The trait is in layers 1 and 2, and in attn_out of 1; nowhere else."""
    found = {
        ("mean.resid.embed" if i is None else "mean.resid.post_mlp", i): planted(
            responses, DIRECTION, strength if i in (1, 2) else 0, seed * 100 + 10 + (i or 0) + (i is None)
        )
        for i in LAYERS
    }
    return found | {("mean.attn_out", 1): planted(responses, -DIRECTION, strength, seed * 100 + 50)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_responses(tmp_path, "r", RESPONSES, tensors())
    add_judge(tmp_path, "j", "r", RESPONSES, [90.0 if r.positive else 10.0 for r in RESPONSES])
    return tmp_path


def rows(root: Path, run: str = "v") -> list[dict]:
    answer = TraceStore(paths.run_dir(root, run)).query("SELECT * EXCLUDE (run_id) FROM trait_vectors ORDER BY ALL")
    return [dict(zip(answer.columns, r, strict=True)) for r in answer.fetchall()]


def test_every_method_finds_the_trait_in_the_layers_that_have_it(root: Path) -> None:
    notes: list[str] = []
    steps: list[job.LayerProgress] = []
    manifest = extract(root, ["r"], Options(), "v", steps.append, notes.append)
    assert manifest.kind == "trait-vectors" and manifest.parents == ["r", "j"]
    found = {(r["method"], r["component"], r["layer"]): r for r in rows(root)}
    methods = ("mean_diff", "probe", "ica", "gradient", "random")
    assert set(found) == {(m, "residual", i) for m in methods for i in LAYERS} | {(m, "attn_out", 1) for m in methods}
    for (method, component, layer), row in found.items():
        assert row["trait"] == "loud" and row["n_pos"] == row["n_neg"] == 9 * 6  # a quarter of 12 questions is held out
        assert row["gap"] >= 0 and np.linalg.norm(row["vector"]) == pytest.approx(1, abs=1e-6)
        if method != "random" and (component == "attn_out" or layer in (1, 2)):
            assert row["vector"][3] * (-1 if component == "attn_out" else 1) > 0.8, (
                "of 108 responses; test_extraction_methods has more"
            )
            assert row["train_accuracy"] > 0.9 and row["effect_size"] > 2 and row["gap"] == pytest.approx(4, rel=0.25)
        elif method in ("random", "mean_diff"):
            assert row["effect_size"] < 1.6
    for layer in LAYERS:
        a, b = (np.array(found[m, "residual", layer]["vector"]) for m in ("gradient", "mean_diff"))
        np.testing.assert_allclose(a, b, atol=1e-4)
        assert found["gradient", "residual", layer]["norm"] == pytest.approx(1)
        assert found["mean_diff", "residual", layer]["norm"] == pytest.approx(
            found["mean_diff", "residual", layer]["gap"], rel=1e-5
        )
    assert len({tuple(found["random", "residual", i]["vector"]) for i in LAYERS}) == 5
    assert steps[-1].done == steps[-1].total == 6 and [s.done for s in steps] == [1, 2, 3, 4, 5, 6]
    assert notes[0].startswith("loud: 72 positive and 72 negative responses to 12 questions; filter pairs, ")
    assert all(c.passed is not False for c in validate(paths.run_dir(root, "v")))


def test_the_manifest_says_what_was_done(root: Path) -> None:
    o = extract(root, ["r"], Options(threshold=60, seed=3), "v").options
    assert o["filter"] == "pairs" and "positive 60 or more, negative below 40" in o["filtered"]["loud"]
    assert o["traits"] == ["loud"] and o["responses_run"] == {"loud": "r"} and o["judge_run"] == {"loud": "j"}
    assert o["methods"][-1] == "random" and o["components"] == ["residual", "attn_out"] and o["threshold"] == 60
    held, used = o["held_out_questions"]["loud"], o["questions"]["loud"]
    assert len(held) == 3 and sorted(held + used) == list(range(12))
    assert (
        "output of block l" in o["convention"]
        and set(o["sources"]) == {"r", "j"}
        and len(o["definitions"]["loud"]) == 32
    )
    named = extract(root, ["r"], Options(methods=("mean_diff",)))
    assert named.run_id == "loud-vectors" and named.options["methods"] == ["mean_diff", "random"]
    with pytest.raises(RunExistsError):
        extract(root, ["r"], Options(methods=("mean_diff",)))


def test_a_vector_says_whether_its_method_converged(root: Path, monkeypatch, recwarn) -> None:
    """How many did not is told, and kept, across an interruption too; a warning of another kind is not swallowed."""
    gc.collect()  # or what earlier tests left open would warn in this one
    recwarn.clear()
    notes: list[str] = []
    extract(root, ["r"], Options(), "v", note=notes.append)
    assert {(r["method"], r["converged"]) for r in rows(root)} - {("ica", False)} == {
        ("mean_diff", None), ("random", None), ("probe", True), ("ica", True), ("gradient", True),
    }  # fmt: skip
    real = extraction_methods.mean_diff
    monkeypatch.setattr(extraction_methods, "STEPS", {"probe": 1, "ica": 1, "gradient": 1})
    monkeypatch.setattr(job, "_BLOCK", 2)
    monkeypatch.setitem(
        extraction_methods.METHODS, "mean_diff", lambda *a: (warnings.warn("odd", RuntimeWarning, 1), real(*a))[1]
    )

    def stop(step: job.LayerProgress) -> None:
        if step.done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        extract(root, ["r"], Options(), "w", stop)
    notes.clear()
    manifest = extract(root, ["r"], Options(), "w", note=notes.append)
    assert manifest.options["not_converged"] == {"gradient": 6, "ica": 6, "probe": 6}
    assert {r["method"] for r in rows(root, "w") if r["converged"] is False} == {"gradient", "ica", "probe"}
    assert (
        "probe did not converge in 1 steps for 6 of 6 vectors; the last step's was used. Which: column converged of trait_vectors"
        in notes
    )
    assert {w.category for w in recwarn.list} == {RuntimeWarning}


@pytest.mark.slow
def test_held_out_questions_are_never_touched(root: Path) -> None:
    """With other activations of those questions' responses, the vectors are the same to the bit; with others of any other, not."""
    held = extract(root, ["r"], Options(), "v").options["held_out_questions"]["loud"]
    before = rows(root)
    for name, changed in (("held", np.isin([r.question for r in RESPONSES], held)), ("used", None)):
        other = tensors()
        at = (
            np.flatnonzero(changed)
            if changed is not None
            else [next(i for i, r in enumerate(RESPONSES) if r.question not in held)]
        )
        for x in other.values():
            x[at] = np.random.default_rng(9).standard_normal((len(at), D)) * 50
        home = root / name
        add_responses(home, "r", RESPONSES, other)
        add_judge(home, "j", "r", RESPONSES, [90.0 if r.positive else 10.0 for r in RESPONSES])
        extract(home, ["r"], Options(), "v")
        same = [
            a["vector"] == b["vector"] and a["midpoint"] == b["midpoint"]
            for a, b in zip(before, rows(home), strict=True)
        ]
        assert (
            all(same)
            if name == "held"
            else not any(s for s, b in zip(same, before, strict=True) if b["method"] != "random")
        )


def test_an_interrupted_job_goes_on_and_gives_what_an_undisturbed_one_does(root: Path, monkeypatch) -> None:
    class Stop(Exception):
        pass

    def stop(step: job.LayerProgress) -> None:
        if step.done == 4:
            raise Stop

    monkeypatch.setattr(job, "_BLOCK", 2)
    with pytest.raises(Stop):
        extract(root, ["r"], Options(), "v", stop)
    with pytest.raises(UsageError, match=r"differs in seed \(0 then, 1 now\)\. Finish"):
        extract(root, ["r"], Options(seed=1), "v")
    worked: list[int | None] = []
    real = job._extract_layer
    monkeypatch.setattr(job, "_extract_layer", lambda *a: (worked.append(a[4]), real(*a))[1])
    first = extract(root, ["r"], Options(), "v")
    assert worked == [
        1,
        2,
        3,
        1,
    ]  # blocks (embed, 0), (1, 2), (3), and attn_out's (1): the one in progress is done again
    whole = extract(root, ["r"], Options(), "whole")
    assert rows(root) == rows(root, "whole") and first.options == whole.options


def test_layers_components_and_runs_of_tokens(root: Path) -> None:
    extract(root, ["r"], Options(methods=("mean_diff",), layers="mid", components=("residual",)), "mid")
    assert {r["layer"] for r in rows(root, "mid")} == {2}
    extract(root, ["r"], Options(methods=("mean_diff",), layers=(1, None, 1)), "some")
    assert {(r["component"], r["layer"]) for r in rows(root, "some")} == {
        ("residual", 1),
        ("residual", None),
        ("attn_out", 1),
    }
    for options, error, says in (
        (Options(layers=(7,)), UsageError, "no resid.post_mlp in layer 7; it has embed, 0, 1, 2, 3"),
        (Options(layers=(2,), components=("attn_out",)), UsageError, "no attn_out in layer 2; it has 1"),
        (Options(layers=(None,), components=("attn_out",)), UsageError, "Only component residual has the layer embed"),
        (Options(methods=("svd",)), NotFoundError, "No method 'svd'"),
        (Options(components=("mlp",)), NotFoundError, "No component 'mlp'"),
        (Options(layers="some"), UsageError, "give all, mid, or numbers"),
        (Options(filter="row"), NotFoundError, "No filter 'row'"),
        (Options(held_out=1.0), UsageError, "from 0 to below 1"),
        (Options(threshold=500), UsageError, "scores are from 0 to 100"),
        (Options(held_out=0.95), None, ""),
    ):
        if error:
            with pytest.raises(error, match=re.escape(says)):
                extract(root, ["r"], options, "x")


def test_too_little_and_no_difference_are_told(tmp_path: Path) -> None:
    few = grid(2)
    add_responses(tmp_path, "few", few, {("mean.resid.post_mlp", 0): planted(few, DIRECTION, 1)})
    with pytest.raises(UsageError, match="loud: 1 positive and 1 negative responses of run 'few' are left"):
        extract(tmp_path, ["few"], Options(), "v")
    assert extract(tmp_path, ["few"], Options(held_out=0), "v").options["held_out_questions"] == {"loud": []}
    add_responses(tmp_path, "flat", RESPONSES, {("mean.resid.post_mlp", 2): np.ones((len(RESPONSES), D), np.float32)})
    with pytest.raises(UsageError, match="loud: mean_diff finds no direction in residual, layer 2 of run 'flat'"):
        extract(tmp_path, ["flat"], Options(), "w")
    assert paths.staged_runs(tmp_path) == [], "what cannot be finished is not kept in the way"


def test_several_traits_make_one_run(root: Path) -> None:
    add_responses(root, "s", RESPONSES, tensors(1), trait="terse")
    manifest = extract(root, ["r", "s"], Options(methods=("mean_diff",)))
    assert manifest.run_id == "loud-terse-vectors" and manifest.parents == ["r", "j", "s"]
    assert manifest.options["judge_run"] == {"loud": "j", "terse": None}
    assert {r["trait"] for r in rows(root, manifest.run_id)} == {"loud", "terse"}
    add_responses(root, "other", RESPONSES, tensors(), trait="calm", body="another")
    for runs, says in ((["r", "r"], "are both of trait loud"), (["r", "other"], "models with different weights")):
        with pytest.raises(UsageError, match=says):
            extract(root, runs, Options(), "x")


# -- the Lance table ---------------------------------------------------------------------------------------------------


def lance(root: Path, folder: str = "made") -> dict[tuple, np.ndarray]:
    found = lancedb.connect(paths.vectors_dir(root) / folder).open_table("traits").to_arrow().to_pylist()
    return {(r["run_id"], r["trait"], r["method"], r["component"], r["layer"]): np.array(r["vector"]) for r in found}


@pytest.mark.slow
def test_the_lance_table_holds_the_vectors_of_all_runs_of_a_model(root: Path) -> None:
    add_responses(root, "s", RESPONSES, tensors(1), trait="terse")
    add_responses(root, "other", RESPONSES, tensors(2), trait="loud", body="another", model="second")
    for run, name in (("r", "a"), ("s", "b"), ("other", "c")):
        extract(root, [run], Options(methods=("mean_diff",)), name)
    for folder, runs in (("made", ("a", "b")), ("second", ("c",))):
        want = {
            (run, r["trait"], r["method"], r["component"], r["layer"]): r["vector"]
            for run in runs
            for r in rows(root, run)
        }
        found = lance(root, folder)
        assert found.keys() == want.keys() and all((found[k] == np.array(want[k])).all() for k in want)
    table = lancedb.connect(paths.vectors_dir(root) / "made").open_table("traits")
    near = table.search(lance(root)["a", "loud", "mean_diff", "residual", 1]).distance_type("cosine")
    near = near.where("method <> 'random' AND layer = 1 AND component = 'residual'").limit(2).to_list()
    assert [n["run_id"] for n in near] == ["a", "b"] and near[1]["_distance"] < 0.1, (
        "the same direction was planted in both"
    )
    with Warehouse(root) as wh:  # the extension reads it too
        wh.load_vectors()
        path = paths.vector_lance_path(root, "made", "traits")
        assert wh.sql(f"SELECT count(*) FROM '{path}'").fetchone() == (24,)


def test_deleting_a_run_drops_its_rows_and_rebuild_makes_them_again(root: Path) -> None:
    def delete(run: str) -> None:
        with locked_for_removal(root, run):
            remove_run(root, run)

    for name in ("a", "b"):
        extract(root, ["r"], Options(methods=("mean_diff",)), name)
    whole = lance(root)
    delete("a")
    assert {k[0] for k in lance(root)} == {"b"}
    shutil.copytree(paths.run_dir(root, "b"), paths.run_dir(root, "a"))
    reconcile(root)
    assert lance(root).keys() == whole.keys()
    shutil.rmtree(paths.vectors_dir(root))
    repair.repair(root, lambda *_: None, lambda _: None)
    assert lance(root).keys() == whole.keys()
    for damage in paths.vector_lance_path(root, "made", "traits").rglob("*.manifest"):
        damage.write_bytes(b"damaged")
    paths.vector_model_path(root, "made").unlink()
    repair.repair(root, lambda *_: None, lambda _: None)
    assert lance(root).keys() == whole.keys() and model_folders.model_folders(root)["made"].space == "body"
    delete("a")
    delete("b")
    assert not any(paths.vectors_dir(root).iterdir())


def test_vector_tables_and_the_table_of_traits_live_side_by_side(root: Path) -> None:
    add_vectors(root, "e", {1: np.random.default_rng(0).standard_normal((20, D)).astype(np.float32)}, [10, 10])
    extract(root, ["r"], Options(methods=("mean_diff",)), "v")
    ingest.add(root, "e", index_spec.parse("resid.post_mlp@1"))
    with Warehouse(root) as wh:
        assert [t.info.sql_name for t in wh.vector_tables] == ["made_resid_post_mlp_L01"] and not wh.damaged_vectors
        assert len(wh.nearest(np.ones(D), layer=1, k=3).fetchall()) == 3
    notes: list[str] = []
    repair.repair(root, lambda *_: None, notes.append)
    assert not any("damaged" in n for n in notes)
    with locked_for_removal(root, "e"):
        remove_run(root, "e")
    assert lance(root) and not all_tables(root), "the last vector table goes, and that of traits stays"
    with locked_for_removal(root, "v"):
        remove_run(root, "v")
    assert index.reconcile(root) == [] and not any(paths.vectors_dir(root).iterdir())
