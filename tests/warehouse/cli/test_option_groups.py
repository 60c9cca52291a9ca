"""Groups of options: what a command gets, and what its callers see."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer

from warehouse.cli.app import App
from warehouse.cli.option_groups import Panel, with_groups


@dataclass(frozen=True, kw_only=True)
class Reading:
    text: Annotated[str, typer.Option("--text", rich_help_panel=Panel.READ)]
    limit: Annotated[int | None, typer.Option("--limit", min=1, rich_help_panel=Panel.READ)] = None
    dtype: Annotated[str, typer.Option("--dtype", rich_help_panel=Panel.RUNNING)] = "auto"


@pytest.fixture
def seen() -> list[tuple[object, ...]]:
    return []


@pytest.fixture
def app(seen: list[tuple[object, ...]]) -> App:
    app = App()

    @app.command("go")
    @with_groups(defaults={"limit": 5}, fixed={"dtype": "float32"})
    def go(
        name: Annotated[str, typer.Argument()],
        run: Annotated[str, typer.Option(rich_help_panel=Panel.WRITTEN)] = "r",
        *,
        reading: Reading,
    ) -> None:
        """Go."""
        seen.append((name, reading, run))

    @app.command("stay")
    def stay() -> None:
        """Stay."""

    app.go = go
    return app


def test_a_command_gets_one_object_a_group(app: App, seen: list[tuple[object, ...]]) -> None:
    app(["go", "x", "--text", "a.txt", "--run", "s"], standalone_mode=False)
    app.go(name="y", text="b.txt", limit=None)
    assert seen == [
        ("x", Reading(text="a.txt", limit=5, dtype="float32"), "s"),
        ("y", Reading(text="b.txt", limit=None, dtype="float32"), "r"),
    ]


def test_callers_see_the_fields_as_parameters_without_the_fixed_ones(app: App) -> None:
    parameters = inspect.signature(app.go).parameters
    assert list(parameters) == ["name", "run", "text", "limit"]
    assert parameters["limit"].default == 5 and parameters["text"].default is inspect.Parameter.empty
    with pytest.raises(TypeError, match="dtype"):
        app.go(name="x", text="a", dtype="float16")
    with pytest.raises(TypeError, match="text"):
        app.go(name="x")


def test_options_are_ordered_by_their_panels(app: App) -> None:
    command = typer.main.get_command(app).commands["go"]
    assert [p.name for p in command.params] == ["name", "text", "limit", "run"]
