"""The views and questions over projections, against rows written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic import add_run

from warehouse import Warehouse
from warehouse.catalog.saved_queries import find_query, run_query
from warehouse.errors import UsageError

LOSSES = (4.0, 3.0, 2.0, 1.0, 0.5)
"""Of the tokens at 1 to 5: each row of next_token stands one position before."""


def tokens(example: str, seq: int = 0) -> list[dict[str, Any]]:
    """Two of the prompt, four of the response, the last of them special."""
    return [
        {"example_id": example, "seq": seq, "pos": i, "token": f"t{i}", "side": "dec", "char_start": i, "char_end": i + 1,
         "word_idx": i, "is_response": i > 1, "is_special": i == 5}
        for i in range(6)
    ]  # fmt: skip


def projections(example: str, trait: str, values: list[float], source: str = "r", **more: Any) -> list[dict[str, Any]]:
    """Velocity and acceleration at 2, 3 and 4, as the job gives them."""
    keys = {"source_run_id": source, "example_id": example, "trait": trait, "method": "probe", "component": "residual",
            "layer": 3, "token_norm": 10.0, "vectors_run_id": "v"}  # fmt: skip
    inside = {
        3: {"velocity": values[3] - values[2]},
        4: {"velocity": values[4] - values[3], "acceleration": values[4] - 2 * values[3] + values[2]},
    }
    return [keys | {"pos": i, "projection": p} | inside.get(i, {}) | more for i, p in enumerate(values)]


def dynamics(example: str, trait: str, source: str = "r", mean: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"source_run_id": source, "example_id": example, "trait": trait, "method": "probe", "component": "residual",
            "layer": 3, "n_tokens": 3, "first_pos": 2, "mean_projection": mean, "vectors_run_id": "v"} | more  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run `r` of two examples with responses, words and labels, projected twice; and a run `bare` that never was."""
    both = ("a", "b")
    captured = {
        "examples": [{"example_id": e, "text": "012345", "n_seqs": 1} for e in both],
        "tokens": [t for e in both for t in tokens(e)],
        "next_token": [
            {"example_id": e, "pos": i, "loss": x, "entropy": x / 2} for e in both for i, x in enumerate(LOSSES)
        ],
        "responses": [{"example_id": e, "n_prompt_tokens": 2, "n_response_tokens": 4} for e in both],
        "words": [
            {"example_id": e, "word_idx": i, "upos": "NOUN" if i % 2 else "VERB", "char_start": i, "char_end": i + 1}
            for e in both
            for i in range(6)
        ],
        "labels": [{"example_id": "a", "label": "joy"}, {"example_id": "b", "label": "fear"}],
    }
    add_run(tmp_path, "r", "generate", captured, minute=0)
    add_run(tmp_path, "bare", "generate", captured, minute=1)
    old = {
        "trait_projections": [*projections("a", "loud", [9.0] * 6), *projections("a", "calm", [1.0] * 6)],
        "trait_dynamics": [dynamics("a", "loud", mean=9.0), dynamics("a", "calm", mean=1.0)],
    }
    add_run(tmp_path, "r-traits", "trait-projection", old, minute=2, parents=["r", "v"])
    new = {
        "trait_projections": [
            *projections("a", "loud", [0.0, 1, 2, 4, 6, 0]),
            *projections("b", "loud", [0.0, -1, -2, -4, -8, 0]),
            *projections("a", "loud", [-7.0] * 6, layer=None, method="random"),
        ],
        "trait_dynamics": [
            dynamics("a", "loud", mean=4.0, commitment_point=2, commitment_point_relative=2),
            dynamics("b", "loud", mean=-14 / 3),
            dynamics("a", "loud", layer=None, method="random", mean=-7.0),
        ],
    }
    add_run(tmp_path, "r-traits-2", "trait-projection", new, minute=3, parents=["r", "v"])
    return tmp_path


def test_token_diagnostics_keeps_its_rows_and_gains_a_map_of_projections(root: Path) -> None:
    with Warehouse(root) as wh:
        found = wh.sql(
            "SELECT run_id, example_id, pos, is_response, trait_projections, loss FROM token_diagnostics ORDER BY ALL"
        ).fetchall()
        assert wh.sql("SELECT typeof(trait_projections) FROM token_diagnostics LIMIT 1").fetchone() == (
            "MAP(VARCHAR, FLOAT)",
        )
        assert wh.sql(
            "SELECT trait_projections['loud'] FROM token_diagnostics WHERE run_id = 'r' AND example_id = 'b' ORDER BY pos"
        ).fetchall() == [(x,) for x in (0, -1, -2, -4, -8, 0)]
    assert len(found) == 2 * 2 * 6
    maps = {(run, example, pos): m for run, example, pos, _, m, _ in found}
    assert all(m is None for (run, _, _), m in maps.items() if run == "bare")
    loud = [0.0, 1, 2, 4, 6, 0]
    for i in range(6):
        told = maps["r", "a", i]
        assert told == {"calm": 1.0, "loud": loud[i]}, "the newest of each trait; of two vectors of one, the first"
        assert maps["r", "b", i].keys() == {"loud"}
    assert [r for _, e, _, r, _, _ in found if e == "a"] == [False, False, True, True, True, True] * 2
    assert [x for run, e, *_, x in found if (run, e) == ("r", "a")] == [*LOSSES, None]


def test_without_projections_the_map_is_null(tmp_path: Path) -> None:
    add_run(tmp_path, "r", "generate", {"examples": [{"example_id": "a"}], "tokens": tokens("a")})
    with Warehouse(tmp_path) as wh:
        assert wh.sql("SELECT count(*), count(trait_projections) FROM token_diagnostics").fetchone() == (6, 0)
        assert wh.sql("SELECT * FROM trait_tokens").fetchall() == []


def test_the_newest_projection_of_a_run_and_trait_is_shown(root: Path) -> None:
    with Warehouse(root) as wh:
        assert wh.sql(
            "SELECT trait, method, run_id, bool_and(is_first), count(*) FROM newest_trait_projections GROUP BY ALL ORDER BY ALL"
        ).fetchall() == [
            ("calm", "probe", "r-traits", True, 6),
            ("loud", "probe", "r-traits-2", True, 12),
            ("loud", "random", "r-traits-2", False, 6),
        ]  # fmt: skip
        assert wh.sql("SELECT trait, run_id, count(*) FROM newest_trait_dynamics GROUP BY ALL ORDER BY ALL").fetchall() == [
            ("calm", "r-traits", 1), ("loud", "r-traits-2", 3),
        ]  # fmt: skip


def test_a_token_has_its_own_loss_and_that_of_the_next_beside_its_projection(root: Path) -> None:
    with Warehouse(root) as wh:
        found = wh.sql(
            "SELECT pos, response_pos, upos, projection, round(cosine::DOUBLE, 3), velocity, own_loss, own_entropy, loss, entropy FROM trait_tokens "
            "WHERE run_id = 'r' AND example_id = 'a' AND method = 'probe' AND trait = 'loud' ORDER BY pos"
        ).fetchall()
        assert wh.sql("SELECT DISTINCT run_id, projection_run_id FROM trait_tokens ORDER BY 2").fetchall() == [
            ("r", "r-traits"), ("r", "r-traits-2"),
        ]  # fmt: skip
    assert found == [
        (0, None, "VERB", 0, 0, None, None, None, 4, 2),
        (1, None, "NOUN", 1, 0.1, None, 4, 2, 3, 1.5),
        (2, 0, "VERB", 2, 0.2, None, 3, 1.5, 2, 1),
        (3, 1, "NOUN", 4, 0.4, 2, 2, 1, 1, 0.5),
        (4, 2, "VERB", 6, 0.6, 2, 1, 0.5, 0.5, 0.25),
        (5, 3, "NOUN", 0, 0, None, 0.5, 0.25, None, None),
    ]


def answered(wh: Warehouse, name: str, **settings: str) -> list[dict[str, Any]]:
    answer = run_query(wh.connection, find_query(name), settings)
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]


def test_a_response_token_by_token(root: Path) -> None:
    with Warehouse(root) as wh:
        found = answered(wh, "trait_by_token", run="r", trait="loud", example="b")
    assert [(r["pos"], r["token"], r["projection"], r["velocity"], r["loss"]) for r in found] == [
        (2, "t2", -2, None, 3), (3, "t3", -4, -2, 2), (4, "t4", -8, -4, 1), (5, "t5", 0, None, 0.5),
    ]  # fmt: skip


def test_a_projection_is_asked_about_by_the_run_that_it_is_of(root: Path) -> None:
    with Warehouse(root) as wh, pytest.raises(UsageError, match="'r-traits-2' is a projection of 'r': .* --set run=r$"):
        answered(wh, "trait_by_token", run="r-traits-2")


def test_where_responses_commit_and_how_surprising_that_was(root: Path) -> None:
    """Of `a` the third token is the commitment point, of `b` no token is: each has one token with an acceleration."""
    with Warehouse(root) as wh:
        found = answered(wh, "trait_commitment", run="r")
    told = {(r["trait"], r["method"], r["threshold"]): r for r in found}
    assert told["loud", "probe", "absolute"] == {
        "trait": "loud", "method": "probe", "component": "residual", "layer": 3, "threshold": "absolute", "committed": 1,
        "mean_place": 2.0, "loss": 1.0, "loss_elsewhere": 1.0, "entropy": 0.5, "entropy_elsewhere": 0.5, "tokens": ["t4"],
    }  # fmt: skip
    assert told["calm", "probe", "relative"]["committed"] == 0
    assert told["calm", "probe", "relative"]["tokens"] is None


def test_projection_by_emotion(root: Path) -> None:
    with Warehouse(root) as wh:
        found = {(r["trait"], r["method"], r["label"]): r for r in answered(wh, "trait_by_emotion", run="r")}
    joy, fear = found["loud", "probe", "joy"], found["loud", "probe", "fear"]
    assert (joy["mean_projection"], fear["mean_projection"]) == (4.0, -4.667)
    assert (joy["difference"], fear["difference"]) == (8.667, -8.667)
    assert joy["effect_size"] == 2.0, "two examples are one standard deviation either side of their mean"
    assert found["calm", "probe", "joy"]["difference"] is None, "the only example that was projected on it"


def test_projection_by_part_of_speech(root: Path) -> None:
    with Warehouse(root) as wh:
        found = {(r["trait"], r["method"], r["upos"]): r for r in answered(wh, "trait_by_part_of_speech", run="r")}
    noun, verb = found["loud", "probe", "NOUN"], found["loud", "probe", "VERB"]
    assert (noun["tokens"], verb["tokens"]) == (6, 6)
    assert noun["mean_projection"] == 0.0 and verb["mean_projection"] == round((0 + 2 + 6 + 0 - 2 - 8) / 6, 3)
    assert noun["difference"] == -verb["difference"] == round(2 / 6, 3)
    assert verb["mean_speed"] == 3.0
