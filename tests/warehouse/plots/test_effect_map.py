"""The picture of effects has the numbers of `effect_means`, each in its layer and column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import synthetic_causes as made
from synthetic import add_run

from warehouse import Warehouse, plots
from warehouse.errors import UsageError

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    root = tmp_path_factory.mktemp("effects") / "runs"
    made.add_task(root)
    made.add_task(root, "other", minute=9)
    made.add_ablation(root, "zero", "zero", made.ZERO)
    made.add_patching(root)
    put = [
        made.done(i, f"L{i % 2}H{i // 2}[pos=1]=zero", site="heads", layer=i % 2, head=i // 2, pos=1, kind="zero")
        for i in range(3)
    ]
    rows = [made.effect(i, "a", x) for i, x in enumerate((1.0, -3.0, -2.0))]
    add_run(root, "each", "ablation", {"interventions": put, "effects": rows}, parents=["task"], minute=2)
    with Warehouse(root) as wh:
        yield wh


def test_heads_by_layer_with_mlps_beside_them(wh: Warehouse) -> None:
    picture = plots.effects(wh, "zero")
    heads, mlps, bar = picture.axes
    np.testing.assert_array_equal(heads.images[0].get_array(), [[0, 0], [-3, -2]])
    np.testing.assert_array_equal(mlps.images[0].get_array(), [[-1.5], [2]])
    assert [t.get_text() for t in mlps.get_xticklabels()] == ["MLP"]
    assert heads.images[0].get_clim() == mlps.images[0].get_clim() == (-3, 3), "white is no effect in both"
    assert bar.get_ylabel() == "mean effect on logit_diff"
    assert "zero" in picture.get_suptitle() and "mean over 2 examples" in picture.get_suptitle()


def test_layers_by_position_with_tokens_that_all_prompts_share(wh: Warehouse) -> None:
    axes, _ = plots.effects(wh, "task").axes  # the newest run of the task
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0, 0.75, 1.5], [0, 1.5, 3]])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["The 0", " dog 1", " sat 2"]


def test_of_several_heads_at_a_position_the_strongest(wh: Warehouse) -> None:
    axes, _ = plots.effects(wh, "each").axes
    np.testing.assert_array_equal(axes.images[0].get_array(), [[-2], [-3]])
    assert axes.get_xlabel() == "heads, the strongest head"


def test_what_was_not_intervened_on_has_no_colour(tmp_path: Path) -> None:
    made.add_task(tmp_path)
    put = [made.done(i, "", site="heads", layer=i, head=i, kind="zero") for i in (0, 1)]
    rows = [made.effect(0, "a", 1.0), made.effect(1, "a", float("inf"))]
    add_run(tmp_path, "few", "ablation", {"interventions": put, "effects": rows}, parents=["task"])
    with Warehouse(tmp_path) as wh:
        (axes, _) = plots.effects(wh, "few").axes
        drawn = axes.images[0].get_array()
        assert drawn.mask.tolist() == [[False, True], [True, True]] and drawn[0, 0] == 1


def test_a_run_without_effects_is_told_so(wh: Warehouse) -> None:
    with pytest.raises(UsageError, match="'other' has no effects. See traces ablate --help"):
        plots.effects(wh, "other")
