"""The endpoints of effects and influence: they tell what the views tell, and rows lead to the prompts of the task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import synthetic_causes as made
from console_client import ask, console_client
from starlette.testclient import TestClient

from warehouse import Warehouse


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    root = tmp_path_factory.mktemp("effects")
    made.add_task(root)
    made.add_ablation(root, "zeroed", "zero", made.ZERO)
    made.add_ablation(root, "resampled", "resample", made.RESAMPLE, minute=2)
    made.add_patching(root)
    made.add_influence(root)
    with Warehouse(root) as wh:
        yield wh


@pytest.fixture(scope="module")
def client(warehouse: Warehouse) -> TestClient:
    return console_client(warehouse)


def test_the_runs_say_which_task_they_are_about(client: TestClient) -> None:
    rows, _ = ask(client, "effects/runs")
    told = {r["run_id"]: (r["kind"], r["source_run_id"], r["task"], r["kinds"], r["by_position"]) for r in rows}
    assert list(told) == ["explained", "patched", "resampled", "zeroed"]
    assert told["zeroed"] == ("ablation", "task", "made", ["zero"], False)
    assert told["patched"] == ("patching", "task", "made", ["patch"], True)
    assert told["explained"][:3] == ("influence", "task", "made")


def test_effects_are_those_of_the_view_beside_how_the_heads_attend(client: TestClient, warehouse: Warehouse) -> None:
    rows, notes = ask(client, "effects", run="zeroed")
    assert (notes["shown"], notes["metrics"], notes["heads_run"]) == ("logit_diff", ["logit_diff"], "task")
    assert [abs(r["effect"]) for r in rows] == sorted((abs(r["effect"]) for r in rows), reverse=True)
    columns = "intervention_id, layer, head, effect, effect_low, effect_high, effect_normalised, induction_mass"
    of_heads = warehouse.sql(f"SELECT {columns} FROM head_effects WHERE run_id = 'zeroed' ORDER BY 1").fetchall()
    by_id = sorted((r for r in rows if r["site"] == "heads"), key=lambda r: r["intervention_id"])
    assert [tuple(r[c.strip()] for c in columns.split(",")) for r in by_id] == of_heads
    assert len(of_heads) == 4
    assert {r["induction_mass"] for r in rows if r["site"] == "mlp_out"} == {None}


def test_an_intervention_on_each_pair_leads_to_the_prompt_that_ran(client: TestClient) -> None:
    rows, notes = ask(client, "effects/examples", run="zeroed", intervention=3)
    assert [(r["run_id"], r["example_id"], r["seq"], r["effect"]) for r in rows] == [
        ("task", "b", 0, -3.0),
        ("task", "a", 0, -1.0),
    ]
    assert notes["total"] == 2
    assert len(ask(client, "effects/examples", run="zeroed", intervention=3, limit=1)[0]) == 1


def test_patching_is_told_by_place_over_all_pairs_a_template_or_one(client: TestClient, warehouse: Warehouse) -> None:
    rows, _ = ask(client, "patching", run="patched")
    means = warehouse.sql(
        "SELECT layer, pos, effect, effect_normalised FROM effect_means WHERE run_id = 'patched' ORDER BY 1, 2"
    ).fetchall()
    assert [(r["layer"], r["pos"], r["effect"], r["effect_normalised"]) for r in rows] == means
    assert [(r["token"], r["other_token"]) for r in rows[:3]] == [("The", "The"), (" dog", " cat"), (" sat", " sat")]
    assert {r["n"] for r in rows} == {2}
    assert ask(client, "patching", run="patched", template="The X sat")[0] == rows
    one, _ = ask(client, "patching", run="patched", example="a")
    of_a = warehouse.sql(
        "SELECT effect FROM effect_tokens WHERE run_id = 'patched' AND example_id = 'a' ORDER BY layer, pos"
    ).fetchall()
    assert [(r["effect"],) for r in one] == of_a
    pairs, _ = ask(client, "patching/pairs", run="patched")
    assert [(r["example_id"], r["seq"]) for r in pairs] == [("a", 1), ("b", 1)]


def test_influence_is_on_the_tokens_of_the_text(client: TestClient, warehouse: Warehouse) -> None:
    targets, notes = ask(client, "influence/targets", run="task")
    assert (notes["influence_run"], notes["measures"], notes["total"]) == (
        "explained",
        ["logit", "ifr", "occlusion"],
        3,
    )
    assert [(r["run_id"], r["example_id"], r["seq"]) for r in targets] == [
        ("task", "a", 0),
        ("task", "a", 1),
        ("task", "b", 0),
    ]
    rows, notes = ask(client, "influence", run="explained", example="a")
    assert notes["target"]["target_token"] == " on"
    view = warehouse.sql(
        "SELECT source_pos, source_token, logit, ifr, occlusion FROM influences WHERE run_id = 'explained' AND example_id = 'a' AND seq = 0 "
        "ORDER BY 1"
    ).fetchall()
    assert [(r["pos"], r["token"], r["logit"], r["ifr"], r["occlusion"]) for r in rows] == view


def test_the_heads_that_carry_a_token_add_up_to_its_influence(client: TestClient) -> None:
    sources, _ = ask(client, "influence", run="explained", example="a")
    for source in sources:
        heads, notes = ask(client, "influence/heads", run="explained", example="a", source=source["pos"])
        embedding = 0.25 if source["pos"] == 2 else 0.0
        assert sum(r["value"] for r in heads) + embedding == pytest.approx(source["logit"])
        assert notes["total"] == len(heads)
    every, _ = ask(client, "influence/heads", run="explained", example="a")
    assert [(r["part"], r["layer"], r["head"], r["value"]) for r in every] == [
        ("mlp", 0, None, -2.0),
        ("head", 1, 0, 2.0),
        ("mlp", 1, None, 1.5),
        ("head", 0, 0, 0.5),
    ]
    flow, _ = ask(client, "influence/heads", run="explained", example="a", source=1, measure="ifr")
    assert [(r["layer"], r["head"], r["pos"], r["value"]) for r in flow] == [(1, 0, 2, 0.2)]


@pytest.mark.parametrize(
    ("path", "params", "status", "said"),
    [
        ("effects", {"run": "task"}, 200, "traces ablate task"),
        ("effects", {"run": "zeroed", "metric": "luck"}, 404, "No metric 'luck'"),
        ("effects", {"run": "gone"}, 404, "No run 'gone'"),
        ("patching", {"run": "zeroed"}, 200, "traces patch task"),
        ("influence", {"run": "zeroed", "example": "a"}, 200, "traces influence zeroed"),
        ("influence", {"run": "explained", "example": "c"}, 404, "No explained example 'c'"),
        ("influence", {"run": "explained", "example": "a", "pos": 1}, 404, "No explained position '1'"),
        ("influence/heads", {"run": "explained", "example": "a", "measure": "luck"}, 404, "No measure 'luck'"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    client: TestClient, path: str, params: dict, status: int, said: str
) -> None:
    response = client.get(f"/api/{path}", params=params)
    assert response.status_code == status
    assert said in response.text
