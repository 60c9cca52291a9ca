"""Evaluations: what is planted is found on questions never seen and above chance; where there is nothing, nothing is."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from synthetic import add_run
from synthetic_traits import add_judge, add_responses, grid, planted

from capture.traits import evaluate as job
from capture.traits import intervals, separation
from capture.traits.best_vector import find_best_vector, weak_vector_warnings
from capture.traits.evaluate import Options, evaluate
from capture.traits.extract import Options as Extraction
from capture.traits.extract import extract
from capture.traits.latest_run import find_latest_run
from capture.traits.response_activations import ResponseMeans, select_responses
from warehouse import TraceStore, Warehouse
from warehouse.catalog.saved_queries import find_query, run_query
from warehouse.errors import NotFoundError, RunExistsError, UsageError
from warehouse.storage import paths
from warehouse.validation.validate import validate

D = 24
RESPONSES = grid(16, instructions=4)
DIRECTION = np.eye(D)[3]
TENSORS = {
    ("mean.resid.embed", None): planted(RESPONSES, DIRECTION, 0, 1),
    ("mean.resid.post_mlp", 1): planted(RESPONSES, DIRECTION, 2, 2),
    ("mean.resid.post_mlp", 3): planted(RESPONSES, DIRECTION, 0, 3),
    ("mean.attn_out", 1): planted(RESPONSES, -DIRECTION, 1, 4),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors `v` and their evaluation `v-evaluated`; the trait is in layer 1 alone. Tests add runs, and change none."""
    home = tmp_path_factory.mktemp("traits") / "runs"
    add_responses(home, "r", RESPONSES, TENSORS)
    add_judge(home, "j", "r", RESPONSES, [90.0 if r.positive else 10.0 for r in RESPONSES])
    extract(home, ["r"], Extraction(held_out=0.5), "v")
    evaluate(home, "v")
    return home


def rows(root: Path, run: str = "v-evaluated") -> dict[tuple, SimpleNamespace]:
    answer = TraceStore(paths.run_dir(root, run)).query("SELECT * EXCLUDE (run_id) FROM trait_evaluations ORDER BY ALL")
    found = [SimpleNamespace(**dict(zip(answer.columns, r, strict=True))) for r in answer.fetchall()]
    return {(r.method, r.component, r.layer): r for r in found}


def test_the_trait_is_found_where_it_is_and_nowhere_else(root: Path) -> None:
    found = rows(root)
    assert len(found) == 5 * 4
    for (method, component, layer), r in found.items():
        assert (r.vectors_run_id, r.trait, r.n_pos, r.n_neg) == ("v", "loud", 32, 32)
        assert abs(r.random_accuracy - 0.5) < 0.2 and r.accuracy_low <= r.accuracy <= r.accuracy_high
        if method == "random":
            assert r.above_random_low < 0.3
        elif (component, layer) == ("residual", 1):
            assert (
                r.accuracy > 0.9 and r.auc > 0.95 and r.effect_size_low > 1.5 and r.polarity_right and r.overlap < 0.2
            )
            assert r.above_random_low > 0.1
        elif component == "residual":
            assert r.accuracy < 0.75 and abs(r.effect_size) < 1.2 and r.above_random_low < 0.15
    overfit = [found["mean_diff", "residual", i].train_minus_heldout for i in (None, 3)]
    assert min(overfit) > 0.1, "what a method finds where there is nothing does not last"


def test_every_number_is_the_one_that_its_formula_gives(root: Path) -> None:
    """From the stored vectors and the activations of the held-out questions, one vector at a time."""
    held = TraceStore(paths.run_dir(root, "v")).meta.options["held_out_questions"]["loud"]
    with Warehouse(root) as wh:
        chosen = select_responses(wh, "r")
        vectors = wh.connection.execute(
            "SELECT method, component, layer, midpoint, train_accuracy, vector FROM trait_vectors WHERE run_id = 'v'"
        ).fetchall()
    means, found = ResponseMeans(TraceStore(paths.run_dir(root, "r")), chosen.keys), rows(root)
    at = np.isin(chosen.question, held)
    for method, component, layer, midpoint, train_accuracy, v in vectors:
        x, r = means.vectors(component, layer)[at].astype(np.float64), found[method, component, layer]
        y, p = chosen.positive[at], x @ np.array(v, np.float64)
        assert r.accuracy == pytest.approx(((p > midpoint) == y).mean())
        assert r.train_minus_heldout == pytest.approx(train_accuracy - r.accuracy, abs=1e-6)
        assert r.auc == pytest.approx(roc_auc_score(y, p))
        assert r.polarity_right == (p[y].mean() > p[~y].mean())
        cos = p / np.linalg.norm(x, axis=1)
        a, b = cos[y], cos[~y]
        pooled = np.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2))
        assert r.effect_size == pytest.approx((a.mean() - b.mean()) / pooled, rel=1e-5)
        assert r.overlap == pytest.approx(separation.overlap(p[y][:, None], p[~y][:, None])[0], abs=1e-6)
        assert r.above_random == pytest.approx(r.accuracy - r.random_accuracy, abs=1e-6)


def test_the_bootstrap_resamples_questions() -> None:
    """Vectorised, it is what drawing the responses of each resample one question at a time gives."""
    rng = np.random.default_rng(0)
    question = [np.repeat(np.arange(6), rng.integers(1, 4, 6)) for _ in range(2)]
    values = tuple(rng.standard_normal((len(q), 3)) + 100 + i for i, q in enumerate(question))
    weights = intervals.resamples(6, 50, 0)
    assert weights.shape == (50, 6) and (weights.sum(1) == 6).all() and len(np.unique(weights, axis=0)) > 40
    places = [job._question_indicators(q, list(range(6))) for q in question]
    d = job.resampled_cohens_d(weights, values, places)
    for i, w in enumerate(weights.astype(int)):
        drawn = [np.concatenate([np.flatnonzero(q == k) for k in range(6) for _ in range(w[k])]) for q in question]
        np.testing.assert_allclose(
            d[i], separation.cohens_d(*(x[at] for x, at in zip(values, drawn, strict=True))), rtol=1e-6
        )
    flat = job.resampled_cohens_d(weights, tuple(np.full_like(x, 1 / 3) for x in values), places)
    assert (flat == 0).all(), "no spread and no difference"


def test_random_directions_are_at_chance_where_there_is_nothing(tmp_path: Path) -> None:
    responses = grid(40, instructions=2)
    add_responses(tmp_path, "r", responses, {("mean.resid.post_mlp", 0): planted(responses, np.eye(64)[0], 0)})
    extract(tmp_path, ["r"], Extraction(held_out=0.5), "v")
    evaluate(tmp_path, "v", options=Options(random=200, draws=100))
    found = rows(tmp_path)
    assert {abs(r.random_accuracy - 0.5) < 0.05 for r in found.values()} == {True}
    for r in found.values():
        assert abs(r.accuracy - 0.5) < 0.15 and r.above_random_low < 0 < r.above_random_high + 0.1
    with Warehouse(tmp_path) as wh:
        stored = wh.sql("SELECT vector FROM trait_vectors WHERE method = 'random'").fetchone()[0]
    from capture.traits.extract import layer_seed
    from capture.traits.extraction_methods import random_directions

    drawn = random_directions(64, 200, layer_seed(0, 0) + job._SEED_OFFSET)
    assert np.abs(drawn @ np.array(stored)).max() < 0.6, "the baseline's directions are others than the stored one"


def test_only_held_out_questions_are_looked_at(root: Path, tmp_path: Path) -> None:
    """Other activations at the held-out questions change every row of the evaluation, and no row of the vectors."""
    held = TraceStore(paths.run_dir(root, "v")).meta.options["held_out_questions"]["loud"]
    at = np.isin([r.question for r in RESPONSES], held)
    other = {k: np.where(at[:, None], np.float32(0.25) * x[:, ::-1], x) for k, x in TENSORS.items()}
    add_responses(tmp_path, "r", RESPONSES, other)
    add_judge(tmp_path, "j", "r", RESPONSES, [90.0 if r.positive else 10.0 for r in RESPONSES])
    extract(tmp_path, ["r"], Extraction(held_out=0.5), "v")
    evaluate(tmp_path, "v")
    ours, theirs = rows(root), rows(tmp_path)
    assert all(ours[k].effect_size != theirs[k].effect_size for k in ours)
    assert all(  # accuracy on the training part is the same, so that both differences add up to it
        ours[k].train_minus_heldout + ours[k].accuracy
        == pytest.approx(theirs[k].train_minus_heldout + theirs[k].accuracy, abs=1e-6)
        for k in ours
    )


def test_an_interrupted_evaluation_goes_on_and_gives_what_an_undisturbed_one_does(root: Path) -> None:
    class Stop(Exception):
        pass

    def stop(step: object) -> None:
        if step.done == 4:
            raise Stop

    with pytest.raises(Stop):
        evaluate(root, "v", "again", report=stop)
    with pytest.raises(UsageError, match=r"differs in options.seed"):
        evaluate(root, "v", "again", Options(seed=1))
    evaluate(root, "v", "again")
    assert rows(root, "again") == rows(root)
    assert all(c.passed is not False for c in validate(paths.run_dir(root, "again")))
    assert job.is_published(root, "again", "v", Options()) and not job.is_published(root, "else", "v", Options())
    for name, options in (("again", Options(seed=1)), ("v", Options())):
        with pytest.raises(RunExistsError):
            job.is_published(root, name, "v", options)


def test_what_cannot_be_evaluated_is_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Run 'r' is of kind trait-responses, and only runs of kind trait-vectors"):
        evaluate(root, "r")
    responses = grid(4)
    add_responses(tmp_path, "r", responses, {("mean.resid.post_mlp", 0): planted(responses, DIRECTION, 1)})
    for name, part, says in (
        ("no-questions", 0.0, "loud: 0 held-out questions have"),
        ("one", 0.25, "loud: 1 held-out question has"),
    ):
        extract(tmp_path, ["r"], Extraction(held_out=part), name)
        with pytest.raises(UsageError, match=f"{says} responses .* larger --held-out"):
            evaluate(tmp_path, name)
    extract(tmp_path, ["r"], Extraction(held_out=0.5), "v")
    folder = paths.run_dir(tmp_path, "r")
    folder.rename(tmp_path / "kept")
    with pytest.raises(NotFoundError, match="No run 'r'"):
        evaluate(tmp_path, "v")
    add_responses(tmp_path, "r", responses, {("mean.resid.post_mlp", 0): planted(responses, DIRECTION, 2)})
    with pytest.raises(UsageError, match="Run 'r' has been replaced since 'v' was made from it"):
        evaluate(tmp_path, "v")


def test_the_judge_that_decided_decides_again(root: Path, tmp_path: Path) -> None:
    """A newer judge who scores all alike changes nothing of vectors that are there."""
    add_responses(tmp_path, "r", RESPONSES, TENSORS)
    add_judge(tmp_path, "j", "r", RESPONSES, [90.0 if r.positive else 10.0 for r in RESPONSES])
    extract(tmp_path, ["r"], Extraction(held_out=0.5), "v")
    add_judge(tmp_path, "later", "r", RESPONSES, [50.0] * len(RESPONSES), minute=5)
    evaluate(tmp_path, "v")
    assert rows(tmp_path) == rows(root)


def test_a_picture_and_the_best_layers(root: Path, tmp_path: Path) -> None:
    store = TraceStore(paths.run_dir(root, "v-evaluated"))
    job.plot(store, str(tmp_path / "p.svg"))
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    found = store.query(job.BEST_LAYERS_SQL).fetchall()
    assert len(found) == 10 and {(r[1], r[3]) for r in found if r[2] != "random"} == {("residual", 1), ("attn_out", 1)}
    assert all(
        r.cv_effect_size > 1 for (method, _, layer), r in rows(root).items() if layer == 1 and method != "random"
    )


# -- SQL ---------------------------------------------------------------------------------------------------------------


def test_the_newest_run_of_a_trait_is_meant_and_models_are_not_mixed(tmp_path: Path) -> None:
    few = grid(2)
    mean = {("mean.resid.post_mlp", 0): planted(few, DIRECTION, 1)}
    for run, trait, body, model, minute in (
        ("old", "loud", "a", "first", 1), ("new", "loud", "a", "first", 2), ("terse", "terse", "a", "first", 3),
    ):  # fmt: skip
        add_responses(tmp_path, run, few, mean, trait=trait, body=body, model=model, minute=minute)
    add_responses(tmp_path, "generated", few, mean, kind="generate", minute=9)
    with Warehouse(tmp_path) as wh:
        assert (
            find_latest_run(wh, "trait-responses", "loud") == "new"
            and find_latest_run(wh, "trait-responses", "terse") == "terse"
        )
        with pytest.raises(NotFoundError, match="of trait 'lou'. Did you mean loud"):
            find_latest_run(wh, "trait-responses", "lou")
        with pytest.raises(
            NotFoundError,
            match="No run of kind trait-vectors of trait 'loud'. There is none yet. Make one: traces trait ex",
        ):
            find_latest_run(wh, "trait-vectors", "loud")
    add_responses(tmp_path, "other", few, mean, body="b", model="second", minute=4)
    with Warehouse(tmp_path) as wh:
        says = re.escape("other (second), new (first), old (first). Choose one with --model or --responses")
        with pytest.raises(UsageError, match=says):
            find_latest_run(wh, "trait-responses", "loud")
        assert find_latest_run(wh, "trait-responses", "loud", "first") == "new"
        assert find_latest_run(wh, "trait-responses", "loud", "second") == "other"
        with pytest.raises(NotFoundError, match="'third'"):
            find_latest_run(wh, "trait-responses", "loud", "third")


def evaluated(method: str, layer: int | None, effect: float, trait: str = "loud", **more: object) -> dict:
    return {"vectors_run_id": "v", "trait": trait, "method": method, "component": "residual", "layer": layer,
            "effect_size": effect, "accuracy": 0.9, **more}  # fmt: skip


def steered(
    layer: int, coefficient: float, scores: list[float | None], coherence: float, start: int
) -> tuple[list, list]:
    """Rows of responses and of judgements."""
    responses, judgements = [], []
    for i, score in enumerate(scores):
        key = {"example_id": f"s{start}{i}", "trait": "loud"}
        responses.append(key | {"vectors_run_id": "v", "method": "probe", "component": "residual", "layer": layer,
                                "coefficient": coefficient, "n_response_tokens": 10 + i, "finish": "length" if i else "stop",
                                "response": f"{coefficient}"})  # fmt: skip
        judgements.append(key | {"source_run_id": "s", "trait_score": score, "coherence_score": coherence})
    return responses, judgements


def test_the_best_vector_by_evaluation_and_by_steering(tmp_path: Path) -> None:
    """Of an evaluation that has a cross-validation, by that; of one that has none, by the held-out questions, and it says so."""
    rows = [evaluated("probe", 3, 2.0), evaluated("mean_diff", 5, 2.5), evaluated("random", 1, 9.0), evaluated("ica", None, 1.0),
            evaluated("probe", 4, 9.0, "terse", cv_effect_size=0.5), evaluated("ica", 2, 0.4, "terse", cv_effect_size=0.75),
            evaluated("random", 2, 0.4, "terse", cv_effect_size=9.0)]  # fmt: skip
    add_run(tmp_path, "old", "trait-evaluation", {"trait_evaluations": [evaluated("ica", 7, 8.0)]}, minute=1)
    add_run(tmp_path, "new", "trait-evaluation", {"trait_evaluations": rows}, minute=2)
    query = (
        "SELECT vectors_run_id, trait, method, component, layer, grounds, passed_over, gain, coherence, n_scored, cv_effect_size, "
        "effect_size, accuracy FROM trait_best ORDER BY vectors_run_id, trait"
    )
    held_out, crossed = "held-out effect size", "cross-validated effect size"
    accuracy = pytest.approx(0.9)
    terse = ("v", "terse", "ica", "residual", 2, crossed, 0, None, None, None, 0.75, pytest.approx(0.4), accuracy)
    with Warehouse(tmp_path) as wh:
        assert wh.sql(query).fetchall() == [
            ("v", "loud", "mean_diff", "residual", 5, held_out, 0, None, None, None, None, 2.5, accuracy),
            terse,
        ]
    parts = [
        steered(3, 0, [10, 20], 90, 0), steered(3, 2, [40, 50], 80, 1), steered(3, 4, [90, 100], 49, 2),
        steered(3, -2, [99, 99], 90, 3), steered(9, 0, [20, 30], 90, 4), steered(9, 2, [20, None], 90, 5),
    ]  # fmt: skip
    add_run(tmp_path, "s", "trait-steering", {"responses": [r for p in parts for r in p[0]]}, parents=["v"], minute=3)
    with Warehouse(tmp_path) as wh:
        assert wh.sql(query).fetchall()[0][5] == held_out, "steered, and not judged"
    add_run(tmp_path, "j", "judge", {"judgements": [j for p in parts for j in p[1]]}, parents=["s"], minute=4)
    with Warehouse(tmp_path) as wh:
        # Coefficient 0 is the mean of both layers', 20; at 4 the text is no longer coherent; at -2 it is the other way.
        assert wh.sql(query).fetchall() == [
            ("v", "loud", "probe", "residual", 3, "steering", 0, 25.0, 80.0, 2, None, 2.0, accuracy),
            terse,
        ]
        effects = wh.sql("SELECT layer, coefficient, n, n_scored, trait_score, coherence_score, response_tokens "
                         "FROM steering_effects ORDER BY ALL").fetchall()  # fmt: skip
        assert (9, 2.0, 2, 1, 20.0, 90.0, 10.5) in effects and len(effects) == 6
        asked = run_query(wh.connection, find_query("steering_by_coefficient"), {}).fetchall()
        assert asked[0] == ("loud", "probe", "residual", 3, -2.0, 2, 2, 99.0, 90.0, 10.5, 0.5, "-2") and len(asked) == 6


def test_why_a_vector_is_the_best_and_whether_it_is_any_better_than_a_random_one_is_said(tmp_path: Path) -> None:
    """A vector of attn_out that does better is passed over, and that is told; so is a difference to random directions that may be
    none."""
    weak = {"n_pos": 10, "n_neg": 10, "above_random": 0.05, "above_random_low": -0.125, "above_random_high": 0.25}
    sound = {"n_pos": 10, "n_neg": 10, "above_random": 0.4, "above_random_low": 0.25, "above_random_high": 0.5}
    rows = [
        evaluated("probe", 3, 1.0, cv_effect_size=1.0, **weak),
        evaluated("ica", 3, 1.0, cv_effect_size=0.5, **sound),
        evaluated("probe", 1, 5.0, cv_effect_size=5.0, **sound) | {"component": "attn_out"},
        evaluated("ica", 1, 4.0, cv_effect_size=4.0, **sound) | {"component": "attn_out"},
        evaluated(
            "probe", None, 9.0, cv_effect_size=9.0, **sound
        ),  # of the tokens themselves: no block gives it, and none steers it
        evaluated("ica", 2, 4.0, "terse", cv_effect_size=4.0, **sound) | {"component": "attn_out"},
        evaluated("probe", 0, 4.0, "calm", cv_effect_size=4.0, **sound),
    ]
    add_run(tmp_path, "e", "trait-evaluation", {"trait_evaluations": rows})
    with Warehouse(tmp_path) as wh:
        assert find_best_vector(wh, "v", "loud") == (
            "probe", "residual", 3, "the residual stream's best by cross-validated effect size; 3 do better, and are passed over, "
            "of attn_out, which few runs keep, or of the embedding, which is before all blocks",
        )  # fmt: skip
        assert find_best_vector(wh, "v", "terse") == (
            "ica", "attn_out", 2, "attn_out's best by cross-validated effect size, where the residual stream has none",
        )  # fmt: skip
        assert find_best_vector(wh, "v", "calm") == (
            "probe", "residual", 0, "the residual stream's best by cross-validated effect size",
        )  # fmt: skip
        assert find_best_vector(wh, "v", "meek") is None
        assert list(weak_vector_warnings(wh, "v", "loud", "probe", "residual", [3, 4, None])) == [
            "warning: loud: probe, residual, layer 3, is not known to separate better than a random direction: of 20 held-out responses "
            "90% are on the right side, +5% to random ones (above_random, 95 % interval -12% to +25%, includes 0)"
        ]
        assert not list(weak_vector_warnings(wh, "v", "loud", "ica", "residual", [3]))


def test_separation_as_a_table_of_layers_by_methods(root: Path) -> None:
    found = rows(root)
    with Warehouse(root) as wh:
        answer = run_query(wh.connection, find_query("trait_separation"), {"run": "v-evaluated"})
        table = [dict(zip(answer.columns, r, strict=True)) for r in answer.fetchall()]
    assert [(r["component"], r["layer"]) for r in table] == [
        ("residual", None),
        ("residual", 1),
        ("residual", 3),
        ("attn_out", 1),
    ]
    for line in table:
        for method in ("mean_diff", "probe", "ica", "gradient", "random"):
            assert line[method] == pytest.approx(found[method, line["component"], line["layer"]].effect_size, abs=0.006)
    assert table[1]["best_accuracy"] > 0.9 and table[1]["above_random_low"] > 0.1


def test_traits_near_each_other(tmp_path: Path) -> None:
    def vectors(trait: str, angle: float) -> dict:
        row = {"trait": trait, "method": "probe", "component": "residual", "layer": None}
        return row | {"vector": [float(np.cos(angle)), float(np.sin(angle)), 0.0, 0.0]}

    random = vectors("calm", 0.0) | {"method": "random"}
    add_run(tmp_path, "old", "trait-vectors", {"trait_vectors": [vectors("calm", 1.5)]}, minute=1)
    add_run(tmp_path, "a", "trait-vectors", {"trait_vectors": [vectors("calm", 0.0), random]}, minute=2)
    add_run(
        tmp_path,
        "b",
        "trait-vectors",
        {"trait_vectors": [vectors("loud", np.pi), vectors("meek", np.pi / 3)]},
        minute=3,
    )
    with Warehouse(tmp_path) as wh:
        found = run_query(wh.connection, find_query("near_traits"), {}).fetchall()
    assert [r[:7] for r in found] == [
        ("calm", "meek", "probe", "residual", None, 0.5, 0.5),
        ("loud", "meek", "probe", "residual", None, -0.5, 0.5),
        ("calm", "loud", "probe", "residual", None, -1.0, 0.5),
    ]
