"""`traces trait init` and `check`: write the definition of a trait, and see what is missing in it."""

from __future__ import annotations

from typing import Annotated

import typer

from warehouse.cli.options import ReportFormatOption
from warehouse.cli.output import ReportFormat
from warehouse.errors import TracesError


def init(name: Annotated[str, typer.Argument(metavar="NAME", help="The trait's name: `sarcasm`.")]) -> None:
    """Print a new definition to fill in: five pairs of instructions, twenty questions and a judging prompt.

    What is left to write is marked TODO; `traces trait check` lists it.

    Examples:
        traces trait init sarcasm > sarcasm.json
    """
    from capture.traits.definition import make_template

    typer.echo(make_template(name))


def check(
    definition: Annotated[
        str, typer.Argument(metavar="FILE", help="A definition, or the name of one that comes with traces.")
    ],
    fmt: ReportFormatOption = ReportFormat.table,
) -> None:
    """Say what is missing in a trait's definition, and what makes it a weak one.

    Exit code 1 if it cannot be used, 0 if it can, warnings or not.

    Examples:
        traces trait check sarcasm.json

    Raises:
        TracesError: The definition cannot be used.
    """
    import json

    from capture.traits import definition as definitions

    errors: list[definitions.Problem] = []
    problems: list[definitions.Problem] = []
    summary = ""
    try:
        d = definitions.load(definition)
        problems = definitions.find_weaknesses(d)
        summary = f"{d.name}: {len(d.instruction)} pairs, {len(d.questions)} questions"
    except definitions.DefinitionError as e:
        errors = problems = e.problems
    if fmt is ReportFormat.json:
        typer.echo(json.dumps([p._asdict() for p in problems], indent=1, ensure_ascii=False))
    elif fmt is ReportFormat.tsv:
        for line in (("level", "place", "text"), *problems):
            typer.echo("\t".join(line))
    else:
        for p in problems:
            typer.echo(f"{p.level:<8} {p}")
        if summary:
            typer.echo(f"{summary}; {len(problems) or 'no'} warning{'' if len(problems) == 1 else 's'}")
    if errors:
        raise TracesError(f"{definition} cannot be used: {len(errors)} error{'' if len(errors) == 1 else 's'}.")
