"""docs/models.md says what the sweep finds, and the guide to captures its count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sweep

TOP = Path(__file__).parents[1]


def documented() -> dict[str, tuple[str, str, str]]:
    """Class → result, what can be changed in it, and its edges."""
    lines = (TOP / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    return {name: (result, changed, edges) for _, name, result, _, changed, edges, *_ in cells[2:]}


def test_the_guide_says_how_many_classes_are_recorded() -> None:
    results = [result for result, *_ in documented().values()]
    recorded = sum(r in ("whole", "partial") for r in results)
    guide = " ".join((TOP / "docs" / "guides" / "capture.md").read_text(encoding="utf-8").split())
    assert f"**{recorded} of {len(results)} language model classes are recorded**" in guide
    assert re.search(rf"{len(results)} classes, \*\*{recorded} recorded\*\*", (TOP / "docs" / "models.md").read_text())


@pytest.mark.slow
def test_every_class_that_is_documented_as_recorded_is_and_none_is_wrong() -> None:
    found = {row.model: row for row in sweep.rows()}
    assert [row for row in found.values() if row.result == "wrong"] == []
    # What does not build or run may depend on packages that happen to be there.
    expected = {name: said for name, said in documented().items() if said[0] != "not run"}
    assert {
        name: (row.result, row.interventions, row.edges) for name, row in found.items() if name in expected
    } == expected
