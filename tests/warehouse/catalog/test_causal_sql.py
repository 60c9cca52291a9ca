"""The views and questions over effects and influence, against rows written down."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import synthetic_causes as made
from synthetic import add_run

from warehouse import Warehouse
from warehouse.catalog.saved_queries import find_query, run_query
from warehouse.errors import UsageError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task, its ablations by zero (an older one too) and by resample, a patching, and what explains its predictions."""
    root = tmp_path_factory.mktemp("causes")
    made.add_task(root)
    made.add_ablation(root, "older", "zero", {e: [9.0] * 6 for e in made.SCORES}, minute=1)
    made.add_ablation(root, "zero", "zero", made.ZERO, minute=2)
    made.add_patching(root, minute=3)
    made.add_ablation(root, "resample", "resample", made.RESAMPLE, minute=4)
    other = [made.effect(0, e, -0.5, metric="prob_diff", effect_normalised=-1.25) for e in made.SCORES]
    put = made.done(0, "L1H0=zero", site="heads", layer=1, head=0, kind="zero")
    add_run(root, "by-prob", "ablation", {"interventions": [put], "effects": other}, parents=["task"], minute=1)
    made.add_influence(root, minute=5)
    return root


def ask(root: Path, name: str, **settings: str) -> list[dict[str, Any]]:
    with Warehouse(root) as wh:
        answer = run_query(wh.connection, find_query(name), settings)
        return [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]


def rows(root: Path, query: str) -> list[tuple[Any, ...]]:
    with Warehouse(root) as wh:
        return wh.sql(query).fetchall()


def test_the_mean_effect_has_an_interval_and_a_ratio_of_means(root: Path) -> None:
    found = rows(
        root,
        "SELECT n, effect, effect_low, effect_high, effect_normalised, baseline, value, seq, is_default FROM effect_means "
        "WHERE run_id = 'zero' AND spec = 'L1H0=zero'",
    )
    half = 1.96 * math.sqrt(2) / math.sqrt(2)  # the deviation of -4 and -2 is the root of 2
    assert len(found) == 1
    assert found[0] == (2, -3.0, pytest.approx(-3 - half), pytest.approx(-3 + half), -1.0, 3.5, 0.5, 0, True)


def test_examples_whose_normalised_effect_is_null_are_left_out_of_the_ratio_alone(tmp_path: Path) -> None:
    made.add_task(tmp_path)
    put = made.done(0, "L1H0=zero", site="heads", layer=1, head=0, kind="zero")
    effects = [made.effect(0, "a", -2.0), made.effect(0, "b", -6.0, effect_normalised=None)]
    add_run(tmp_path, "z", "ablation", {"interventions": [put], "effects": effects}, parents=["task"])
    assert rows(tmp_path, "SELECT effect, effect_normalised FROM effect_means") == [(-4.0, -0.5)]


def test_a_single_example_has_no_interval_and_an_infinite_effect_none_either(tmp_path: Path) -> None:
    made.add_task(tmp_path)
    put = [made.done(i, f"M{i}=zero", site="mlp_out", layer=i, kind="zero") for i in (0, 1)]
    effects = [made.effect(0, "a", 1.0), made.effect(1, "a", -math.inf), made.effect(1, "b", 1.0)]
    add_run(tmp_path, "z", "ablation", {"interventions": put, "effects": effects}, parents=["task"])
    found = rows(tmp_path, "SELECT n, effect, effect_low, effect_high FROM effect_means ORDER BY intervention_id")
    assert found == [(1, 1.0, None, None), (2, -math.inf, None, None)]


def test_a_head_s_effect_stands_beside_its_attention_on_the_prompts_that_ran(root: Path) -> None:
    found = rows(
        root, "SELECT layer, head, effect, induction_mass FROM head_effects WHERE run_id = 'zero' ORDER BY ALL"
    )
    assert [r[:3] for r in found] == [(0, 0, 0.0), (0, 1, 0.0), (1, 0, -3.0), (1, 1, -2.0)]
    assert [r[3] for r in found] == pytest.approx(made.INDUCTION, abs=1e-6)


def test_attention_is_of_the_corrupted_prompts_where_they_ran_and_of_the_newest_run_that_tells(tmp_path: Path) -> None:
    made.add_task(tmp_path)
    put = made.done(0, "L1H0=patch", site="heads", layer=1, head=0, kind="patch", direction="denoise")
    effects = [made.effect(0, e, 1.0, seq=1) for e in made.SCORES]
    add_run(tmp_path, "p", "patching", {"interventions": [put], "effects": effects}, parents=["task"], minute=1)
    mass = "SELECT induction_mass, n FROM head_effects"
    assert rows(tmp_path, mass) == [(pytest.approx(1.8), 2)]
    row = {"source_run_id": "task", "side": "dec", "layer": 1, "head": 0, "seq": 1, "induction_mass": 0.25}
    add_run(
        tmp_path, "h", "heads", {"heads": [row | {"example_id": e} for e in made.SCORES]}, parents=["task"], minute=2
    )
    assert rows(tmp_path, mass) == [(0.25, 2)]


def test_heads_without_a_word_on_their_attention_are_there(tmp_path: Path) -> None:
    made.add_task(tmp_path, heads=False)
    made.add_ablation(tmp_path, "zero", "zero", made.ZERO)
    first, *_ = ask(tmp_path, "heads_that_matter")
    assert (first["layer"], first["head"], first["effect"], first["induction_mass"]) == (1, 0, -3.0, None)
    assert all(r["induction_correlation"] is None for r in ask(tmp_path, "attention_against_ablation"))


def test_effects_at_a_position_have_the_tokens_of_both_prompts(root: Path) -> None:
    found = rows(
        root,
        "SELECT pos, token, other_token, changed, effect_normalised, is_default FROM effect_tokens "
        "WHERE example_id = 'a' AND layer = 1 ORDER BY pos",
    )
    assert found == [
        (0, "The", "The", False, 0.0, True),
        (1, " dog", " cat", True, 0.5, True),
        (2, " sat", " sat", False, 1.0, True),
    ]
    assert rows(root, "SELECT count(*) FROM effect_tokens") == [(12,)], "only interventions at one position"


def test_the_last_position_is_that_of_each_prompt(tmp_path: Path) -> None:
    made.add_task(tmp_path)
    put = made.done(0, "L1H0[pos=-1]=zero", site="heads", layer=1, head=0, pos=-1, kind="zero")
    add_run(
        tmp_path, "z", "ablation", {"interventions": [put], "effects": [made.effect(0, "a", 1.0)]}, parents=["task"]
    )
    assert rows(tmp_path, "SELECT pos, token, other_token FROM effect_tokens") == [(2, " sat", " sat")]
    (found,) = ask(tmp_path, "effects_by_position")
    assert (found["pos"], found["token"], found["changed"], found["effect"]) == (-1, " sat", 0.0, 1.0)


def test_influences_has_every_measure_of_a_source_token(root: Path) -> None:
    found = rows(
        root,
        "SELECT source_pos, source_token, target_token, against_token, logit, ifr, value_norm, occlusion FROM influences "
        "WHERE example_id = 'a' AND seq = 1 ORDER BY source_pos",
    )
    assert found == [
        (0, "The", " on", " off", 0.5, 0.5, None, 0.0),
        (1, " dog", " on", " off", 3.0, 0.3, None, 2.5),
        (2, " sat", " on", " off", -0.75, 0.2, None, 1.0),
    ]


def test_edges_recur_with_intervals_and_prompts_that_lack_one_count_as_zero(root: Path) -> None:
    found = rows(
        root,
        "SELECT role, layer, head, pos, source_pos, n, n_prompts, frequency, flow, flow_low, flow_high, frequency_low, "
        "frequency_high FROM recurring_edges WHERE head IS NOT NULL ORDER BY role, layer DESC",
    )
    wilson = (0.5 + 1.9207 / 2) / (1 + 3.8415 / 2)
    spread = 1.96 * math.sqrt(0.25 / 2 + 3.8415 / 16) / (1 + 3.8415 / 2)
    assert [r[:8] for r in found] == [
        ("clean", 1, 0, 2, 1, 2, 2, 1.0),
        ("clean", 0, 1, 1, 0, 1, 2, 0.5),
        ("corrupted", 1, 0, 2, 1, 1, 1, 1.0),
    ]
    assert found[0][8:11] == pytest.approx((0.3, 0.3 - 1.96 * 0.1, 0.3 + 1.96 * 0.1))
    assert found[1][8:11] == pytest.approx((0.025, 0.025 - 1.96 * 0.025, 0.025 + 1.96 * 0.025))
    assert found[1][11:] == pytest.approx((wilson - spread, wilson + spread), abs=1e-4)
    assert found[2][8:11] == (0.1, None, None) and found[2][12] == pytest.approx(1.0)


def test_heads_that_matter_are_of_the_newest_run_about_heads(root: Path) -> None:
    for settings in ({}, {"run": "task"}, {"run": "resample"}):
        found = ask(root, "heads_that_matter", **settings)
        assert [(r["kind"], r["layer"], r["head"], r["effect"]) for r in found] == [
            ("resample", 1, 0, -1.5), ("resample", 1, 1, -1.0), ("resample", 0, 0, 0.0), ("resample", 0, 1, 0.0)
        ]  # fmt: skip
    assert {r["metric"] for r in found} == {"logit_diff"} and found[0]["normalised"] == -0.5
    (other,) = ask(root, "heads_that_matter", run="by-prob")
    assert (other["metric"], other["effect"]) == ("prob_diff", -0.5)
    assert ask(root, "heads_that_matter", run="zero")[0]["effect"] == -3.0
    assert ask(root, "heads_that_matter", run="patched") == [], "no heads were patched"


def test_where_attention_and_ablation_disagree(root: Path) -> None:
    """By |effect| the heads of the zero ablation stand 3.5, 3.5, 1, 2; by induction mass 4, 3, 1, 2; the other mass the other way."""
    found = ask(root, "attention_against_ablation", run="zero")
    places = {(r["layer"], r["head"]): (r["effect_rank"], r["induction_rank"], r["previous_token_rank"]) for r in found}
    assert places == {(0, 0): (3.5, 4, 1), (0, 1): (3.5, 3, 2), (1, 0): (1, 1, 4), (1, 1): (2, 2, 3)}
    assert [r["disagreement"] for r in found] == [0.5, -0.5, 0, 0]
    assert {r["induction_correlation"] for r in found} == {0.949}
    assert {r["previous_token_correlation"] for r in found} == {-0.949}


def test_at_each_position_the_strongest_layer(root: Path) -> None:
    found = ask(root, "effects_by_position", run="task")
    assert [
        (r["pos"], r["token"], r["changed"], r["layer"], r["n"], r["effect"], r["normalised"]) for r in found
    ] == [
        (0, "The", 0.0, 0, 2, 0.0, 0.0), (1, " dog", 1.0, 1, 2, 1.5, 0.5), (2, " sat", 0.0, 1, 2, 3.0, 1.0)
    ]  # fmt: skip


def test_kinds_of_ablation_side_by_side_and_how_well_they_agree(root: Path) -> None:
    """Of the newest of each kind: `older` is not asked."""
    found = ask(root, "ablation_kinds")
    assert [(r["site"], r["layer"], r["head"], r["zero"], r["mean"], r["resample"]) for r in found] == [
        ("heads", 1, 0, -3.0, None, -1.5), ("heads", 1, 1, -2.0, None, -1.0), ("mlp_out", 1, None, 2.0, None, 0.5),
        ("mlp_out", 0, None, -1.5, None, -1.0), ("heads", 0, 0, 0.0, None, 0.0), ("heads", 0, 1, 0.0, None, 0.0), ("heads", 1, 0, -0.5, None, None),
    ]  # fmt: skip
    agreement = ask(root, "ablation_kinds_agreement")
    assert [tuple(r.values()) for r in agreement] == [
        ("heads", "logit_diff", "resample", "zero", 4, 1.0, 1.0),
        ("mlp_out", "logit_diff", "resample", "zero", 2, 1.0, 1.0),
    ]
    with pytest.raises(UsageError, match="'zero' is of kind ablation: .* reads run of one of kind task"):
        ask(root, "ablation_kinds", run="zero")


def test_why_this_token_names_sources_heads_and_mlps(root: Path) -> None:
    found = [r for r in ask(root, "why_this_token", run="task") if r["seq"] == 0]
    assert [(r["place"], r["source"], r["source_logit"], r["head"], r["head_logit"], r["mlp"], r["mlp_logit"]) for r in found] == [
        (1, " cat", 3.0, "L1H0", 2.0, "M0", -2.0), (2, " sat", -0.75, "L0H0", 0.5, "M1", 1.5),
        (3, "The", 0.5, None, None, None, None),
    ]  # fmt: skip
    assert {(r["example_id"], r["target"], r["against"], r["logit"], r["first_ifr"]) for r in found} == {
        ("a", " on", " off", 2.375, 0.5)
    }
    assert {r["example_id"] for r in ask(root, "why_this_token", example="b")} == {"b"}


def test_strongest_edges_of_a_prompt_and_those_that_recur(root: Path) -> None:
    found = ask(root, "strongest_edges")
    assert [(r["seq"], r["layer"], r["head"], r["source"], r["token"], r["flow"]) for r in found] == [
        (0, 1, 0, " cat", " sat", 0.2), (1, 1, 0, " dog", " sat", 0.1), (0, 0, 1, "The", " cat", 0.05)
    ]  # fmt: skip
    again = ask(root, "edges_that_recur")
    assert [(r["role"], r["layer"], r["head"], r["n"], r["frequency"], r["flow"]) for r in again] == [
        ("clean", 1, 0, 2, 1.0, 0.3), ("clean", 0, 1, 1, 0.5, 0.025), ("corrupted", 1, 0, 1, 1.0, 0.1)
    ]  # fmt: skip
