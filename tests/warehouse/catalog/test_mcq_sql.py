"""Multiple choice in SQL: every figure of the views and questions against numpy, scipy and scikit-learn over the same rows.

Intervals of a part of the questions are Wilson's, to the last digit. A bootstrap's depends on its draws: with 10,000 resamples the
standard error of its ends is 0.027 standard errors of the statistic (the 2.5 % quantile of a normal: sqrt(0.025 * 0.975 / 10000) /
0.0584), with the 2,000 that scipy is given here 0.06.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from synthetic import add_run

from warehouse import Warehouse
from warehouse.catalog.saved_queries import find_query, run_query

Rows = dict[str, list[dict[str, Any]]]
LETTERS = "ABCDE"
NEAR = 0.25
"""Standard errors within which two bootstraps' ends agree: almost four of their own."""


def questions(seed: int, score: str, n: int = 300, skill: float = 1.0, keys: bool = True) -> Rows:
    """n questions of 3 to 5 choices, every tenth without a key. Logits and probabilities come in steps, so that there are ties
    in what is chosen by and in every measure. The key is the same for every seed."""
    own, shared = np.random.default_rng(seed), np.random.default_rng(99)
    rows: Rows = {"examples": [], "choices": [], "mcq_predictions": []}
    for i in range(n):
        n_choices = int(shared.integers(3, 6))
        key = int(shared.integers(n_choices))
        logits = np.round(own.normal(size=n_choices) * 2 + skill * (np.arange(n_choices) == key)) / 2
        prob = np.exp(logits) / np.exp(logits).sum()
        pred, by_size = int(np.argmax(logits)), np.sort(prob)[::-1]
        label = key if keys and i % 10 else None
        example = f"{i:016x}"
        rows["examples"].append(
            {"example_id": example, "text": f"Question {i}?", "metadata": f'{{"question_concept": "c{i % 7}"}}'}
        )
        for c in range(n_choices):
            text = {"logprob": None, "logprob_per_byte": None}
            if score != "head":
                text = {"logprob": float(own.integers(-9, 0)), "logprob_per_byte": float(own.integers(-4, 0))}
            rows["choices"].append(
                {"example_id": example, "choice_idx": c, "label": LETTERS[c], "text": f"choice {c}"}
                | {"logit": float(logits[c]), "prob": float(prob[c]), "is_pred": c == pred}
                | {"is_label": None if label is None else c == label}
                | text
            )
        rows["mcq_predictions"].append(
            {
                "example_id": example,
                "score": score,
                "label_idx": label,
                "label": None if label is None else LETTERS[label],
                "pred_idx": pred,
                "pred_label": LETTERS[pred],
                "is_correct": None if label is None else pred == label,
                "pred_prob": float(np.float32(prob[pred])),
                "label_prob": None if label is None else float(np.float32(prob[label])),
                "margin": float(np.diff(np.sort(logits))[-1]),
                "top_two_gap": float(np.float32(np.round(by_size[0] - by_size[1], 2))),
                "entropy": float(np.float32(-(prob * np.log(prob)).sum())),
            }
        )
    return rows


MADE = {
    "decoder": questions(1, "letter"),
    "encoder": questions(2, "head", skill=2.0),
    "unkeyed": questions(3, "head", keys=False),
    "perfect": questions(4, "letter", n=40, skill=50.0),
}
KINDS = {"letter": "mcq-prompt", "head": "mcq-encoder"}
OLD = ("unkeyed", "perfect")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("mcq") / "runs"
    for run, rows in MADE.items():
        kind = KINDS[rows["mcq_predictions"][0]["score"]]
        untrained = ["classifier.weight"] if run == "unkeyed" else []
        add_run(home, run, kind, rows, minute=0 if run in OLD else 1, untrained=untrained)
    curve = [
        {"step": s, "epoch": s / 10, "split": split, "loss": 2 - s / 20, "accuracy": s / 20, "learning_rate": rate}
        for s in (0, 10, 20)
        for split, rate in (("validation", None), ("train", 1e-5))
    ]
    add_run(home, "tuning", "finetune", {"training": curve}, minute=9)
    return home


def keyed(run: str) -> pd.DataFrame:
    found = pd.DataFrame(MADE[run]["mcq_predictions"])
    return found[found.is_correct.notna()].assign(is_correct=lambda d: d.is_correct.astype(bool))


def wilson(right: int, n: int) -> tuple[float, float]:
    known = stats.binomtest(int(right), n).proportion_ci(method="wilson")
    return known.low, known.high


def answer(root: Path, question: str, **settings: str) -> pd.DataFrame:
    """Asked twice: the same answer both times, random resamples or not."""
    found = []
    for _ in range(2):
        with Warehouse(root) as wh:
            found.append(run_query(wh.connection, find_query(question), settings).df())
    pd.testing.assert_frame_equal(*found)
    return found[0]


def view(root: Path, query: str) -> pd.DataFrame:
    with Warehouse(root) as wh:
        return wh.sql(query).df()


def test_accuracy_and_its_interval(root: Path) -> None:
    found = view(root, "SELECT * FROM mcq_accuracy").set_index("run_id")
    pd.testing.assert_frame_equal(found, view(root, "SELECT * FROM mcq_accuracy").set_index("run_id").loc[found.index])
    alone = view(root, "SELECT * FROM mcq_accuracy WHERE run_id = 'encoder'").set_index("run_id")
    pd.testing.assert_frame_equal(alone, found.loc[["encoder"]])
    assert set(found.index) == set(MADE)
    for run in ("decoder", "encoder", "perfect"):
        row, right = found.loc[run], keyed(run).is_correct.to_numpy()
        n_choices = pd.DataFrame(MADE[run]["choices"]).groupby("example_id").size()
        assert (row.n_questions, row.n) == (len(MADE[run]["examples"]), len(right))
        assert row.accuracy == right.mean()
        assert row.chance == pytest.approx((1 / n_choices[keyed(run).example_id]).mean())
        assert row.mean_confidence == pytest.approx(keyed(run).pred_prob.mean())
        known = wilson(right.sum(), len(right))
        assert (row.low, row.high) == pytest.approx(known, abs=1e-9)
        assert row.low < row.accuracy <= row.high
    assert found.low["perfect"] == pytest.approx(0.904, abs=1e-3), "36 of 36 is no certainty"
    assert found.high["perfect"] == 1
    assert list(found.untrained["unkeyed"]) == ["classifier.weight"] and list(found.untrained["decoder"]) == []
    assert (found.n["unkeyed"], found.n_questions["unkeyed"]) == (0, 300)
    assert found.loc["unkeyed", ["accuracy", "low", "high", "chance", "mean_confidence"]].isna().all()
    assert list(found.kind[["decoder", "encoder"]]) == ["mcq-prompt", "mcq-encoder"]


def test_confidence_where_right_and_where_wrong(root: Path) -> None:
    found = view(root, "SELECT * FROM mcq_confidence")
    for run in MADE:
        every = pd.DataFrame(MADE[run]["mcq_predictions"])
        here = found[found.run_id == run]
        assert here.n.sum() == len(every)
        for _, row in here.iterrows():
            same = every[every.is_correct.isna() if pd.isna(row.is_correct) else every.is_correct == row.is_correct]
            assert row.n == len(same)
            for name in ("pred_prob", "margin", "top_two_gap", "entropy"):
                assert row[f"mean_{name}"] == pytest.approx(same[name].mean(), rel=1e-6)
    assert len(found[found.run_id == "perfect"]) == 2, "right, and no key: never wrong"


def test_agreement_of_two_runs(root: Path) -> None:
    decoder, encoder = (
        pd.DataFrame(MADE[r]["mcq_predictions"]).set_index("example_id") for r in ("decoder", "encoder")
    )
    found = view(root, "SELECT * FROM mcq_agreement WHERE decoder_run_id = 'decoder' AND encoder_run_id = 'encoder'")
    found = found.set_index("example_id").loc[decoder.index]
    agree = decoder.pred_idx == encoder.pred_idx
    assert (found.agree == agree).all() and (found.question == [f"Question {i}?" for i in range(300)]).all()
    assert (found.decoder_pred_text == [f"choice {c}" for c in decoder.pred_idx]).all()
    assert (found.encoder_pred_text == [f"choice {c}" for c in encoder.pred_idx]).all()
    has_key = decoder.label_idx.notna()
    assert (found.outcome.notna() == has_key).all() and (found.label_text.notna() == has_key).all()
    (row,) = answer(root, "agreement").to_dict("records")  # the newest of each kind, unasked
    assert (row["questions"], row["same_answer"]) == (300, agree.sum())
    a, b = (d.is_correct[has_key].astype(bool) for d in (decoder, encoder))
    counts = {"both_right": a & b, "only_decoder": a & ~b, "only_encoder": ~a & b, "both_wrong": ~a & ~b}
    for name, expected in counts.items():
        assert row[name] == expected.sum()
        assert row[name] == (found.outcome == name.replace("_", " ")).sum()
    assert (found.both_correct[has_key].astype(bool) == (a & b)).all()
    assert row["agreement"] == pytest.approx(agree.mean(), abs=5.1e-5)
    shares = [d.pred_idx.value_counts(normalize=True) for d in (decoder, encoder)]
    assert row["by_chance"] == pytest.approx((shares[0] * shares[1]).sum(), abs=5.1e-5)
    assert row["kappa"] == pytest.approx(cohen_kappa_score(decoder.pred_idx, encoder.pred_idx), abs=5.1e-5)
    low, high = wilson(agree.sum(), 300)
    assert (row["agreement_low"], row["agreement_high"]) == pytest.approx((low, high), abs=5.1e-5)
    drawn = stats.bootstrap(
        (decoder.pred_idx.to_numpy(), encoder.pred_idx.to_numpy()), cohen_kappa_score,
        paired=True, vectorized=False, n_resamples=500, method="percentile", rng=0,
    )  # fmt: skip
    for end in ("low", "high"):
        known = getattr(drawn.confidence_interval, end)
        assert row[f"kappa_{end}"] == pytest.approx(known, abs=0.5 * drawn.standard_error), (
            "letters are chosen evenly here"
        )


def test_agreement_where_there_is_nothing_to_compare(root: Path, tmp_path: Path) -> None:
    """No key, no question in common, and two that always choose the same."""
    (row,) = answer(root, "agreement", other_run="unkeyed").to_dict("records")
    ours, theirs = (pd.DataFrame(MADE[r]["mcq_predictions"]).pred_idx for r in ("decoder", "unkeyed"))
    assert row["questions"] == 300 and row["kappa"] == pytest.approx(cohen_kappa_score(ours, theirs), abs=5.1e-5)
    for other, example, pred in (("a", "x", 1), ("b", "y", 1), ("c", "x", 1), ("d", "x", 2)):
        kind = "mcq-prompt" if other == "a" else "mcq-encoder"
        one = {"example_id": example, "pred_idx": pred, "label_idx": 1, "is_correct": pred == 1}
        add_run(tmp_path, other, kind, {"mcq_predictions": [one], "examples": [{"example_id": example}]})
    with Warehouse(tmp_path) as wh:
        rows = {r: run_query(wh.connection, find_query("agreement"), {"other_run": r}).fetchone() for r in "bcd"}
    assert rows["b"] == (0, 0, 0, 0, 0, 0, None, None, None, None, None, None, None)
    assert rows["c"] == (1, 1, 0, 0, 0, 1, 1, 0.2065, 1, 1, None, None, None), "kappa of two constants is 0 / 0"
    assert rows["d"] == (1, 0, 1, 0, 0, 0, 0, 0, 0.7935, 0, 0, 0, 0.7935)


def cohens_d(x: np.ndarray, y: np.ndarray) -> float:
    pooled = ((len(x) - 1) * x.var(ddof=1) + (len(y) - 1) * y.var(ddof=1)) / (len(x) + len(y) - 2)
    return float((x.mean() - y.mean()) / np.sqrt(pooled))


def cliffs_delta(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Cliff's delta and its 95 % interval, as they are written: the unbiased variance of Cliff (1993), Feng and Cliff's ends (2004)."""
    pairs = np.sign(x[:, None] - y[None, :])
    n, m = pairs.shape
    delta, z = pairs.mean(), stats.norm.ppf(0.975)
    between = m**2 * ((pairs.mean(1) - delta) ** 2).sum() + n**2 * ((pairs.mean(0) - delta) ** 2).sum()
    s2 = (between - ((pairs - delta) ** 2).sum()) / (n * m * (n - 1) * (m - 1))
    half = z * np.sqrt(s2) * np.sqrt((1 - delta**2) ** 2 + z**2 * s2)
    low, high = ((delta - delta**3 + side * half) / (1 - delta**2 + z**2 * s2) for side in (-1, 1))
    return float(delta), float(low), float(high)


def mean_difference(x: np.ndarray, y: np.ndarray) -> float:
    return float(x.mean() - y.mean())


@pytest.mark.parametrize("run", ["decoder", "encoder"])
def test_right_against_wrong(root: Path, run: str) -> None:
    found = answer(root, "correct_against_wrong", run=run).set_index("measure")
    assert list(found.index) == ["margin", "entropy", "top_two_gap", "pred_prob"]
    for measure, row in found.iterrows():
        data = keyed(run)
        right, wrong = (data.loc[data.is_correct == side, measure].to_numpy() for side in (True, False))
        assert len(np.unique(right)) < len(right), "ties"
        assert (row.n_right, row.n_wrong) == (len(right), len(wrong))
        assert row.right_mean == pytest.approx(right.mean(), abs=5.1e-5)
        assert row.wrong_mean == pytest.approx(wrong.mean(), abs=5.1e-5)
        for column, low, high, statistic in (
            ("difference", "difference_low", "difference_high", mean_difference),
            ("cohens_d", "d_low", "d_high", cohens_d),
        ):
            assert row[column] == pytest.approx(statistic(right, wrong), abs=5.1e-5), (measure, column)
            known = stats.bootstrap(
                (right, wrong), statistic, vectorized=False, n_resamples=2000, method="percentile", rng=0
            )
            near = NEAR * known.standard_error
            assert row[low] == pytest.approx(known.confidence_interval.low, abs=near), (measure, column)
            assert row[high] == pytest.approx(known.confidence_interval.high, abs=near), (measure, column)
        delta, low, high = cliffs_delta(right, wrong)
        assert (row.cliffs_delta, row.delta_low, row.delta_high) == pytest.approx((delta, low, high), abs=5.1e-5)


def test_right_against_wrong_without_a_wrong_one_or_without_spread(root: Path, tmp_path: Path) -> None:
    found = answer(root, "correct_against_wrong", run="perfect")
    assert list(found.n_wrong) == [0] * 4 and list(found.n_right) == [36] * 4 and found.right_mean.notna().all()
    assert found.drop(columns=["measure", "n_right", "n_wrong", "right_mean"]).isna().all().all()
    assert answer(root, "correct_against_wrong", run="unkeyed").empty
    same = [{"example_id": str(i), "is_correct": i < 3, "margin": 0.1 if i < 3 else 0.7} for i in range(7)]
    same.append({"example_id": "7", "is_correct": True, "margin": float("inf")})  # all others ruled out: not compared
    add_run(tmp_path, "r", "mcq-prompt", {"mcq_predictions": same})
    row = answer(tmp_path, "correct_against_wrong").set_index("measure").loc["margin"]
    assert pd.isna(row.cohens_d) and pd.isna(row.d_low), "no spread within right and wrong: d is not defined"
    assert (row.difference, row.difference_low, row.cliffs_delta, row.delta_low) == (-0.6, -0.6, -1, -1)
    assert row.delta_high == pytest.approx((3.8415 - 3) / (3.8415 + 3), abs=1e-4), "three against four is no certainty"


def test_one_wrong_answer_has_no_interval(tmp_path: Path) -> None:
    """Drawn again and again, it would always be itself."""
    rows = [{"example_id": str(i), "is_correct": i > 0, "margin": float(i)} for i in range(6)]
    add_run(tmp_path, "r", "mcq-prompt", {"mcq_predictions": rows})
    row = answer(tmp_path, "correct_against_wrong").set_index("measure").loc["margin"]
    assert (row.n_right, row.n_wrong, row.difference, row.cliffs_delta) == (5, 1, 3, 1)
    assert row[["difference_low", "difference_high", "d_low", "d_high", "delta_low", "delta_high"]].isna().all()


def test_calibration(root: Path) -> None:
    found = answer(root, "mcq_calibration", run="encoder")
    data = keyed("encoder")
    bins = np.minimum(np.floor(data.pred_prob.to_numpy(np.float32) * np.float32(10)), 9)
    assert found.questions.sum() == len(data)
    gaps = []
    for _, row in found.iterrows():
        inside = data[bins == round(row.from_prob * 10)]
        assert row.questions == len(inside)
        assert row.mean_prob == pytest.approx(inside.pred_prob.mean(), abs=5.1e-4)
        assert row.accuracy == pytest.approx(inside.is_correct.mean(), abs=5.1e-4)
        gaps.append(abs(inside.is_correct.mean() - inside.pred_prob.mean()))
        assert abs(row.gap) == pytest.approx(gaps[-1], abs=5.1e-4)
        assert (row.low, row.high) == pytest.approx(wilson(inside.is_correct.sum(), len(inside)), abs=5.1e-4)
    every = answer(root, "mcq_calibration_error").set_index("run_id")
    assert set(every.index) == {"decoder", "encoder", "perfect"}
    expected = np.average(gaps, weights=found.questions)
    assert every.expected_calibration_error["encoder"] == pytest.approx(expected, abs=5.1e-5)
    assert every.worst_bin["encoder"] == pytest.approx(max(gaps), abs=5.1e-5)
    assert every.questions["encoder"] == len(data)


def test_accuracy_by_concept(root: Path) -> None:
    found = answer(root, "accuracy_by_concept", run="decoder").set_index("question_concept")
    data = keyed("decoder")
    for concept, same in data.groupby([f"c{int(e, 16) % 7}" for e in data.example_id]):
        assert found.questions[concept] == len(same)
        assert found.accuracy[concept] == pytest.approx(same.is_correct.mean(), abs=5.1e-4)
        known = wilson(same.is_correct.sum(), len(same))
        assert (found.low[concept], found.high[concept]) == pytest.approx(known, abs=5.1e-4)
        assert found.mean_confidence[concept] == pytest.approx(same.pred_prob.mean(), abs=5.1e-4)
    assert len(found) == 7 and found.questions.is_monotonic_decreasing


def test_accuracy_by_each_score(root: Path) -> None:
    choices = pd.DataFrame(MADE["decoder"]["choices"])
    found = answer(root, "mcq_scores", run="decoder").set_index("score")
    for score, column in {"letter": "logit", "text": "logprob", "byte": "logprob_per_byte"}.items():
        right = np.array([
            bool(same.is_label.iloc[int(np.argmax(same[column]))])
            for _, same in choices.groupby("example_id") if same.is_label.notna().all()
        ])  # fmt: skip
        row = found.loc[score]
        assert row.n == len(right) == 270
        assert row.accuracy == pytest.approx(right.mean(), abs=5.1e-5)
        assert (row.low, row.high) == pytest.approx(wilson(right.sum(), 270), abs=5.1e-5)
        assert row.decides == (score == "letter")
    accuracy = view(root, "SELECT * FROM mcq_accuracy WHERE run_id = 'decoder'").iloc[0]
    for name in ("accuracy", "low", "high", "chance"):
        assert found[name]["letter"] == pytest.approx(accuracy[name], abs=5.1e-5), "the same figures, both ways"
    heads = answer(root, "mcq_scores", run="encoder")
    assert list(heads.score) == ["head"] and heads.decides.all()


def test_training_curve(root: Path) -> None:
    found = answer(root, "training_curve")
    assert list(found.step) == [0, 0, 10, 10, 20, 20] and list(found.split) == ["train", "validation"] * 3
    assert list(found.loss) == [2, 2, 1.5, 1.5, 1, 1] and found.learning_rate.notna().sum() == 3


def test_from_the_command_line(root: Path, traces: Callable[..., SimpleNamespace]) -> None:
    done = traces("sql", "--query", "mcq_scores", "--set", "run=decoder", "-w", root, "-f", "csv")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "score,decides,n,accuracy,low,high,chance" and len(done.out.splitlines()) == 4
    done = traces("sql", "--query", "agreement", "--set", "run=encoder", "-w", root)
    assert done.code == 2 and "Run 'encoder' is of kind mcq-encoder" in done.err and "Traceback" not in done.err
