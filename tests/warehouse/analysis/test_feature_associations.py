"""Which features go with a property: on rows written down, against the same sums example by example, and where there is nothing to be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic
import synthetic_features

from warehouse import TraceStore, Warehouse
from warehouse.analysis.feature_associations import Options, associate
from warehouse.errors import NotFoundError, UsageError
from warehouse.validation.validate import validate

TAGS = ("NOUN", "VERB", "DET")


def add(root: Path, tags: dict[str, list[str]], active: dict[tuple[str, int, int], dict[int, float]]) -> None:
    """Adds a run with a word a token, and its features."""
    tokens = [
        {"example_id": e, "pos": p, "side": "dec", "word_idx": p, "token": "x"}
        for e, row in tags.items()
        for p in range(len(row))
    ]
    words = [{"example_id": e, "word_idx": p, "upos": tag} for e, row in tags.items() for p, tag in enumerate(row)]
    rows = {"examples": [{"example_id": e} for e in tags], "tokens": tokens, "words": words}
    rows["next_token"] = [
        {"example_id": t["example_id"], "pos": t["pos"], "correct": t["pos"] % 2 == 0} for t in tokens
    ]
    rows["labels"] = [{"example_id": e, "label": ("joy", "fear")[i % 2]} for i, e in enumerate(tags)]
    synthetic.add_run(root, "texts", "next-token", rows)
    every = {(e, 0, p): active.get((e, 0, p), {}) for e, row in tags.items() for p in range(len(row))}
    synthetic_features.add_features(root, "texts", every)


def draw(seed: int, examples: int, chance) -> tuple[dict, dict]:
    """Texts of 3 to 12 tokens; `chance` gives the probability of each feature by a token's tag and its text's own inclination."""
    of = np.random.default_rng(seed)
    tags, active = {}, {}
    for i in range(examples):
        e = f"e{i:04d}"
        tags[e] = [TAGS[j] for j in of.integers(3, size=of.integers(3, 13))]
        bent = of.random(8)
        for p, tag in enumerate(tags[e]):
            on = {f: 1.0 + f for f in range(8) if of.random() < chance(f, tag, bent[f])}
            active[e, 0, p] = on
    return tags, active


def found(store: TraceStore) -> dict[tuple[int, str], dict]:
    rows = store.query("FROM feature_associations").to_arrow_table().to_pylist()
    return {(row["feature"], row["value"]): row for row in rows}


def test_z_is_that_of_sums_over_examples(tmp_path: Path) -> None:
    tags, active = draw(1, 60, lambda f, tag, bent: 0.1 + 0.3 * bent + 0.2 * (f == 2 and tag == "NOUN"))
    add(tmp_path, tags, active)
    with Warehouse(tmp_path) as wh:
        store = associate(wh, "texts", Options("upos"))
    rows = found(store)
    assert len(rows) == 24
    for (feature, tag), row in rows.items():
        counts = []
        for e, own in tags.items():
            on = np.array([feature in active[e, 0, p] for p in range(len(own))])
            is_tag = np.array([t == tag for t in own])
            counts.append((on[is_tag].sum(), is_tag.sum(), on[~is_tag].sum(), (~is_tag).sum()))
        a, n, c, k = np.array(counts, float).T
        r, s = a.sum() / n.sum(), c.sum() / k.sum()
        each = (a - r * n) / n.sum() - (c - s * k) / k.sum()
        error = np.sqrt(len(each) / (len(each) - 1) * (each**2).sum())
        assert row["z"] == pytest.approx((r - s) / error)
        assert (row["n_active"], row["n_tokens"]) == (a.sum(), n.sum())
        assert (row["n_other_active"], row["n_other_tokens"]) == (c.sum(), k.sum())
        assert row["n_examples"] == ((a + c) > 0).sum()
    assert not [check for check in validate(store.path) if check.passed is False]


def test_what_was_planted_is_found_and_nothing_else(tmp_path: Path) -> None:
    """Feature 2 is active at nouns more often, 5 never at verbs; the others follow their text alone."""
    rates = {(2, "NOUN"): 0.4, (5, "VERB"): -1.0}
    tags, active = draw(2, 300, lambda f, tag, bent: 0.05 + 0.3 * bent + rates.get((f, tag), 0.0))
    add(tmp_path, tags, active)
    with Warehouse(tmp_path) as wh:
        rows = found(associate(wh, "texts", Options("upos")))
        best = wh.ask("features_by_property", run="encoded-by-upos").fetchall()
    sure = {key for key, row in rows.items() if row["q_value"] < 0.01}
    assert {(2, "NOUN"), (5, "VERB")} <= sure and {feature for feature, _ in sure} == {2, 5}
    assert rows[2, "NOUN"]["z"] > 8 and rows[5, "VERB"]["z"] < -8 and rows[5, "VERB"]["n_active"] == 0
    assert ("upos", "NOUN", "made", 2) in [row[:4] for row in best]


def test_p_values_are_even_where_there_is_nothing_though_texts_differ(tmp_path: Path) -> None:
    """Whole texts are inclined to a feature: counted by tokens, a label of the text would seem to go with it."""
    few = 0
    p_values = []
    for seed in range(12):
        root = tmp_path / str(seed)
        tags, active = draw(seed, 120, lambda f, tag, bent: bent > 0.6)
        add(root, tags, active)
        with Warehouse(root) as wh:
            rows = found(associate(wh, "texts", Options("label")))
        p_values += [row["p_value"] for (_, label), row in rows.items() if label == "joy"]
        few += any(row["q_value"] < 0.05 for row in rows.values())
    # 96 tests: with the right errors, 4.8 are expected below 0.05, and more than 12 in one of a thousand. By tokens, half would be.
    assert sum(p < 0.05 for p in p_values) <= 12
    assert 0.35 < np.mean(p_values) < 0.65
    assert few <= 4


def test_every_property_is_found(tmp_path: Path) -> None:
    tags, active = draw(3, 40, lambda f, tag, bent: 0.5)
    add(tmp_path, tags, active)
    with Warehouse(tmp_path) as wh:
        assert {value for _, value in found(associate(wh, "texts", Options("correct")))} == {"right", "wrong"}
        assert {value for _, value in found(associate(wh, "encoded", Options("label")))} == {"joy", "fear"}
        for by in ("role", "answer", "deprel"):
            with pytest.raises(UsageError, match=f"no tokens with {by}"):
                associate(wh, "texts", Options(by))


def test_too_few_examples_are_not_tested(tmp_path: Path) -> None:
    tags, active = draw(4, 12, lambda f, tag, bent: 0.6 * (f < 4))
    active["e0003", 0, 0][7] = 1.0
    add(tmp_path, tags, active)
    with Warehouse(tmp_path) as wh:
        assert {feature for feature, _ in found(associate(wh, "texts", Options("upos", 2)))} == {0, 1, 2, 3}
        with pytest.raises(UsageError, match="active in 100 examples"):
            associate(wh, "texts", Options("upos", 100), run_id="few")
    assert not list(tmp_path.glob("run_id=few*"))


def test_bad_names(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="property"):
        Options("weather")
    with pytest.raises(UsageError, match="two examples"):
        Options("upos", 1)
