"""Where a feature is most active, on rows written down."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import synthetic
import synthetic_features

from warehouse import Warehouse
from warehouse.analysis.feature_contexts import (
    FeatureTokens,
    features_of_token,
    find_encoded,
    find_feature,
    top_contexts,
)
from warehouse.catalog.ask import asker
from warehouse.errors import NotFoundError, UsageError

WORDS = ["The", " lamp", " is", " lit", "."]


def add_texts(root: Path, examples: str = "abc", run: str = "texts") -> None:
    """Adds a run with five tokens in each example, and an encoder's beside them."""
    tokens = [
        {"example_id": e, "pos": p, "side": side, "token": word if side == "dec" else "?"}
        for e in examples
        for p, word in enumerate(WORDS)
        for side in ("dec", "enc")
    ]
    synthetic.add_run(root, run, "next-token", {"examples": [{"example_id": e} for e in examples], "tokens": tokens})


ACTIVE = {
    ("a", 0, 1): {3: 2.0, 5: 1.0},
    ("a", 0, 3): {3: 4.0},
    ("b", 0, 0): {3: 7.0},
    ("b", 0, 4): {3: 1.0},
    ("c", 0, 2): {5: 0.5},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_texts(tmp_path)
    synthetic_features.add_features(tmp_path, "texts", ACTIVE)
    return tmp_path


def find(wh: Warehouse, run: str, feature: int, sae: str | None = None) -> FeatureTokens:
    return find_feature(wh.cached_run, find_encoded(asker(wh), run, sae), feature)


def contexts(wh: Warehouse, run: str, feature: int, **more: int) -> list[dict]:
    return [asdict(context) for context in top_contexts(wh.cached_run, find(wh, run, feature), **more)]


def of_token(wh: Warehouse, example_id: str, pos: int, seq: int = 0) -> list[dict]:
    return features_of_token(wh.cached_run, find_encoded(asker(wh), "texts"), example_id, pos, seq).to_pylist()


@pytest.mark.parametrize("run", ["texts", "encoded"])
def test_each_sequence_is_there_once_by_its_strongest_token(root: Path, run: str) -> None:
    with Warehouse(root) as wh:
        found = contexts(wh, run, 3, before=2, after=1)
    assert found == [
        {"activation": 7.0, "example_id": "b", "seq": 0, "pos": 0, "first_pos": 0}
        | {"tokens": ["The", " lamp"], "activations": [7.0, None]},
        {"activation": 4.0, "example_id": "a", "seq": 0, "pos": 3, "first_pos": 1}
        | {"tokens": [" lamp", " is", " lit", "."], "activations": [2.0, None, 4.0, None]},
    ]


def test_as_many_as_are_asked_for(root: Path) -> None:
    with Warehouse(root) as wh:
        assert [row["example_id"] for row in contexts(wh, "texts", 3, n=1)] == ["b"]
        assert contexts(wh, "texts", 0) == []


def test_a_summary(root: Path) -> None:
    with Warehouse(root) as wh:
        assert find(wh, "texts", 3).summary == {
            "n_tokens": 4,
            "n_sequences": 2,
            "mean_activation": 3.5,
            "max_activation": 7.0,
        }
        assert find(wh, "texts", 0).summary["n_tokens"] == 0


def test_what_there_is_not_is_said(root: Path) -> None:
    with Warehouse(root) as wh:
        with pytest.raises(NotFoundError, match="No feature '8'.* 0 to 7"):
            find(wh, "texts", 8)
        with pytest.raises(NotFoundError, match="No dictionary 'other'.* made"):
            find(wh, "texts", 3, "other")
        with pytest.raises(NotFoundError, match="No run 'none'.* encoded, texts"):
            find(wh, "none", 3)


def test_a_run_that_was_not_encoded_says_how(tmp_path: Path) -> None:
    add_texts(tmp_path)
    with (
        Warehouse(tmp_path) as wh,
        pytest.raises(UsageError, match="Run 'texts' has no features. .* traces features encode texts --sae"),
    ):
        find(wh, "texts", 3)


def test_of_several_encodings_the_newest_is_taken(root: Path) -> None:
    synthetic_features.add_features(root, "texts", {("a", 0, 0): {3: 9.0}}, run="later", minute=5)
    with Warehouse(root) as wh:
        assert [row["activation"] for row in contexts(wh, "texts", 3)] == [9.0]
        assert len(contexts(wh, "encoded", 3)) == 2


def test_the_features_of_a_token_come_strongest_first(root: Path) -> None:
    with Warehouse(root) as wh:
        assert of_token(wh, "a", 1) == [{"feature": 3, "activation": 2.0}, {"feature": 5, "activation": 1.0}]
        assert of_token(wh, "a", 2) == of_token(wh, "aa", 1) == []


def test_rows_are_found_over_many_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the groups, what is read by key is what SQL finds."""
    import random

    import pyarrow.parquet as pq

    written = pq.write_table
    monkeypatch.setattr(pq, "write_table", lambda *a, **k: written(*a, **{**k, "row_group_size": 7}))
    draw = random.Random(0)
    active = {
        (f"e{e:02d}", s, p): {f: draw.random() for f in draw.sample(range(8), draw.randrange(4))}
        for e in range(12)
        for s in (0, 1)
        for p in range(3)
    }
    add_texts(tmp_path, "e")
    synthetic_features.add_features(tmp_path, "texts", active)
    with Warehouse(tmp_path) as wh:
        assert len(wh.run("encoded")._table("features").row_groups) > 5
        for feature in range(8):
            rows = wh.sql(
                f"SELECT example_id, seq, pos, activation FROM feature_tokens WHERE feature = {feature} ORDER BY ALL"
            ).fetchall()
            assert [tuple(row.values()) for row in find(wh, "texts", feature).rows.to_pylist()] == rows
        for (e, s, p), features in active.items():
            found = {row["feature"]: row["activation"] for row in of_token(wh, e, p, s)}
            assert found == pytest.approx(features)
