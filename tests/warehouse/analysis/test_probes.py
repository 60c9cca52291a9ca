"""Probes find what is planted, nothing where nothing is planted, and never see an example that they are tested on."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import synthetic
from scipy import stats

from warehouse import Warehouse
from warehouse.analysis import probes
from warehouse.errors import RunExistsError, UncertainResultWarning, UsageError
from warehouse.storage.blobs import Blob
from warehouse.validation.validate import validate

LENGTHS = [12] * 60
N = sum(LENGTHS)
D = 10
CLASS = np.random.default_rng(5).integers(0, 3, N)
"""Which of three classes a token is of; its loss says so, so that SQL can ask."""

pytestmark = pytest.mark.filterwarnings("ignore::warehouse.errors.UncertainResultWarning")

QUERY = """SELECT run_id, example_id, seq, pos, ['noun', 'verb', 'other'][loss::INTEGER + 1] AS y FROM next_token
           WHERE run_id = 'made'"""


def layers() -> dict[int, np.ndarray]:
    """Layer 1 tells the class, on a scale and an offset of its own by dimension; layer 2 tells the example, and nothing else."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((3, D)) * 3
    own = (means[CLASS] + rng.standard_normal((N, D))) * np.geomspace(0.01, 100, D) + np.linspace(-500, 500, D)
    example = np.repeat(rng.standard_normal((60, D)) * 5, 12, axis=0)
    return {1: own.astype(np.float32), 2: example.astype(np.float32)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    synthetic.add_vectors(tmp_path, "made", layers(), LENGTHS, losses=CLASS.astype(float))
    return tmp_path


def test_accuracy_by_layer_beside_its_baselines(root: Path) -> None:
    with Warehouse(root) as wh:
        found = wh.probe(QUERY, run="p").set_index("layer")
        assert list(found.index) == [1, 2]  # all that is stored
        assert found.accuracy[1] > 0.95 and found.train_accuracy[1] > 0.95
        chance = found.majority_accuracy
        assert (chance < 0.5).all() and abs(found.accuracy[2] - 1 / 3) < 0.15
        assert (abs(found.shuffled_accuracy - 1 / 3) < 0.2).all()
        assert (found.n_train + found.n_test == N).all() and (found.n_test == 15 * 12).all()
        assert (found.n_test_examples == 15).all() and (found.n_test_unknown == 0).all()
        assert (found.accuracy_low < found.accuracy).all() and (found.accuracy <= found.accuracy_high).all()
        # A probe that tells classes apart gives each a label all the same, by chance the right one: one draw tells little.
        assert found.shuffled_sd[1] > found.shuffled_sd[2] > 0
        meta = wh.run("p").meta
        assert meta.kind == "probe" and meta.parents == ["made"] and meta.options["query"] == QUERY
    assert all(c.passed is not False for c in validate(root / "run_id=p"))
    with Warehouse(root) as wh:  # opened anew, SQL sees it
        assert wh.sql("SELECT layer, accuracy FROM probes WHERE run_id = 'p' ORDER BY layer").fetchall()[0][1] > 0.95


def test_the_coefficients_give_the_reported_accuracy(root: Path) -> None:
    """From the blob alone: which tokens were tested is known from the split, which is by example."""
    with Warehouse(root) as wh:
        options = probes.Options(QUERY)
        store = probes.probe(wh, options, "p")
        x, keys = wh.matrix(QUERY, layer=1, dtype=np.float32)
        split = probes._split(probes.TokenSelection(wh, QUERY).answer, options)
        row = next(iter(probes.rows(store)))
        weights = Blob(store.path / row["blob"]).tensor(row["tensor"])
        assert weights.shape == (3, D + 1) and row["classes"] == ["noun", "other", "verb"]
        given = np.array(row["classes"])[(x @ weights[:, :-1].T + weights[:, -1]).argmax(1)]
        right = given == keys.y.to_numpy()
        assert right[split.test].mean() == pytest.approx(row["accuracy"], abs=1e-6)
        assert right[split.train].mean() == pytest.approx(row["train_accuracy"], abs=1e-6)
        seen = set(keys.example_id.iloc[split.train])
        assert seen.isdisjoint(keys.example_id.iloc[split.test]) and len(seen) == 45


def test_examples_are_split_and_not_tokens(root: Path) -> None:
    """Layer 2 tells which example a token is of: a probe for a label by example would be right on tokens of examples it has seen, and
    is not, since it has seen none."""
    query = """SELECT run_id, example_id, seq, pos, hash(example_id) % 2 = 0 AS y FROM tokens WHERE run_id = 'made'"""
    with Warehouse(root) as wh:
        found = wh.probe(query, layers=[2], c=1e4).iloc[0]
    assert found.train_accuracy > 0.6 and found.accuracy < 0.8


def test_labels_have_their_share_on_both_sides_whatever_the_seed(tmp_path: Path) -> None:
    """50 texts, a vector each, half of one label: no split makes the commonest label look worse or better than it is."""
    synthetic.add_vectors(tmp_path, "made", {1: np.eye(50, 4, dtype=np.float32)}, [1] * 50, losses=np.arange(50) % 2.0)
    query = "SELECT run_id, example_id, seq, pos, loss AS y FROM next_token"
    with Warehouse(tmp_path) as wh:
        rows = [wh.probe(query, seed=seed).iloc[0] for seed in range(3)]
    for row in rows:
        assert row.n_test in (12, 13) and row.n_test_examples == row.n_test and 0.45 < row.majority_accuracy < 0.55
        known = stats.binomtest(round(row.accuracy * row.n_test), row.n_test).proportion_ci(method="wilson")
        assert (row.accuracy_low, row.accuracy_high) == pytest.approx((known.low, known.high))


@pytest.mark.parametrize("test", [0.01, 0.1, 0.4, 0.75, 0.99])
def test_the_held_out_part_is_as_large_as_requested(root: Path, test: float) -> None:
    with Warehouse(root) as wh:
        options = probes.Options(QUERY, test=test)
        split = probes._split(probes.TokenSelection(wh, QUERY).answer, options)
    assert len(split.test) / N == pytest.approx(test, abs=1 / 60 + 0.005)  # 60 examples
    assert not set(split.example[split.test]) & set(split.example[split.train])
    assert len(split.test) + len(split.train) == N


def test_few_held_out_examples_cause_a_warning_and_many_do_not(root: Path) -> None:
    with Warehouse(root) as wh:
        for _ in range(2):  # fitted, and there already
            with pytest.warns(
                UncertainResultWarning, match="judged on 180 tokens of 15 examples, fewer than 50: the 95 % interval"
            ):
                wh.probe(QUERY, layers=[1])
        with warnings.catch_warnings():
            warnings.simplefilter("error", UncertainResultWarning)
            wh.probe(QUERY, layers=[1], test=0.9)


def test_labels_that_no_training_example_has_cause_a_warning(root: Path) -> None:
    """A label of one example is on one side of the split only."""
    query = QUERY.replace("AS y", "|| if(example_id < 'e0012', example_id, '') AS y")
    with (
        Warehouse(root) as wh,
        pytest.warns(UncertainResultWarning, match="held-out tokens have a label that no training token has"),
    ):
        row = wh.probe(query, layers=[1]).iloc[0]
    assert row.n_test_unknown > 0 and row.accuracy <= 1 - row.n_test_unknown / row.n_test


def test_labels_of_whole_examples_are_shuffled_between_examples() -> None:
    """Shuffled token by token, a text's label would be a different one at each of its tokens, and nothing could be learnt of it."""
    examples = np.repeat([3, 1, 2, 0], [2, 3, 1, 2])
    of_example = np.array([0, 1, 1, 0])
    for shuffled in probes._shuffle_labels(of_example[examples], examples, 0):
        assert all(len(set(shuffled[examples == e])) == 1 for e in range(4)) and set(shuffled) == {0, 1}
    mixed = np.array([0, 1, 1, 0, 1, 1, 0, 0])
    draws = list(probes._shuffle_labels(mixed, examples, 0))
    assert len(draws) == 10 and all(sorted(d) == sorted(mixed) for d in draws)
    assert len({tuple(d) for d in draws}) > 1


def test_the_same_probe_is_the_same_run_and_another_is_not(root: Path) -> None:
    with Warehouse(root) as wh:
        first, again = wh.probe(QUERY, layers=[1]), wh.probe(QUERY, layers=[1])
        assert first.run_id[0] == again.run_id[0] and first.accuracy[0] == again.accuracy[0]
        assert wh.probe(QUERY, layers=[1], seed=1).run_id[0] != first.run_id[0]
        wh.probe(QUERY, layers=[1], run="named")
        with pytest.raises(RunExistsError):
            wh.probe(QUERY, layers=[1], run="named")


def test_two_classes_labels_missing_and_a_sample(root: Path) -> None:
    query = QUERY.replace(
        "['noun', 'verb', 'other'][loss::INTEGER + 1]", "CASE loss WHEN 0 THEN 'a' WHEN 1 THEN 'b' END"
    )
    with Warehouse(root) as wh:
        found = wh.probe(query, layers=[1]).iloc[0]
        assert list(found.classes) == ["a", "b"] and found.accuracy > 0.95
        assert found.n_train + found.n_test == int((CLASS < 2).sum())
        some = wh.probe(QUERY, layers=[1], max_tokens=300).iloc[0]
        assert some.n_train + some.n_test == 300  # 25 whole examples


def test_an_interrupted_probing_goes_on(root: Path) -> None:
    class Stop(Exception):
        pass

    def stop(fitted: probes.ProbeProgress) -> None:
        raise Stop

    options = probes.Options(QUERY)
    with Warehouse(root) as wh:
        with pytest.raises(Stop):
            probes.probe(wh, options, "p", stop)
        seen: list[probes.ProbeProgress] = []
        store = probes.probe(wh, options, "p", seen.append)
        assert [(f.layer, f.done, f.of, f.accuracy is None) for f in seen] == [(1, 1, 2, True), (2, 2, 2, False)]
        whole = wh.probe(QUERY, run="whole")
        assert [r["accuracy"] for r in probes.rows(store)] == list(whole.accuracy)


@pytest.mark.parametrize(
    ("query", "more", "words"),
    [
        ("SELECT run_id, example_id, seq, pos FROM tokens", {}, "no column y"),
        ("SELECT run_id, example_id, seq, pos, 'x' AS y FROM tokens", {}, "two labels or more"),
        ("SELECT run_id, example_id, seq, pos, NULL AS y FROM tokens", {}, "two examples or more"),
        (
            "SELECT run_id, example_id, seq, pos, pos AS y FROM tokens WHERE example_id = 'e0001'",
            {},
            "two examples or more",
        ),
        ("SELECT run_id, example_id, seq, pos, hash(pos, example_id) AS y FROM tokens", {}, "at one token only"),
        (QUERY, {"layers": [3]}, "in layer 3"),
        (QUERY, {"layers": "some"}, "'all' or numbers"),
        (QUERY, {"site": "q"}, "q"),
        (QUERY, {"layers": []}, "No layer"),
        (QUERY, {"test": 1.0}, "between 0 and 1"),
        (QUERY, {"c": 0}, "above 0"),
    ],
)
def test_what_cannot_be_probed_is_said_and_leaves_nothing(root: Path, query: str, more: dict, words: str) -> None:
    with Warehouse(root) as wh, pytest.raises(UsageError, match=words):
        wh.probe(query, **more)
    assert [p.name for p in root.glob("run_id=*")] == ["run_id=made"]
