"""`traces trait init` and `check`: write the definition of a trait, and see what is missing in it."""

from __future__ import annotations

from typing import Annotated

import typer

from warehouse.cli.output import ReportFormat
from warehouse.errors import TracesError


def init(name: Annotated[str, typer.Argument(metavar="NAME", help="The trait: `sarcasm`.")]) -> None:
    """Print a new definition to fill in: five pairs of instructions, twenty questions and a judging prompt.

    What is to be written is marked TODO; `traces trait check` says what is left. Example: `traces trait init sarcasm > sarcasm.json`
    """
    from capture.traits.definition import make_template

    typer.echo(make_template(name))


def check(
    definition: Annotated[
        str, typer.Argument(metavar="FILE", help="A definition, or the name of one that comes along.")
    ],
    fmt: Annotated[ReportFormat, typer.Option("--format", "-f", help="How to print the report.")] = ReportFormat.table,
) -> None:
    """Say what is missing in a trait's definition, and what makes it a weak one.

    Exit code 1 where it cannot be used, 0 where it can, warnings or not. Example: `traces trait check sarcasm.json`
    """
    import json

    from capture.traits import definition as definitions

    errors: list[definitions.Problem] = []
    found: list[definitions.Problem] = []
    told = ""
    try:
        d = definitions.load(definition)
        found = definitions.find_weaknesses(d)
        told = f"{d.name}: {len(d.instruction)} pairs, {len(d.questions)} questions"
    except definitions.DefinitionError as e:
        errors = found = e.problems
    if fmt is ReportFormat.json:
        typer.echo(json.dumps([p._asdict() for p in found], indent=1, ensure_ascii=False))
    elif fmt is ReportFormat.tsv:
        for line in (("level", "place", "text"), *found):
            typer.echo("\t".join(line))
    else:
        for p in found:
            typer.echo(f"{p.level:<8} {p}")
        if told:
            typer.echo(f"{told}; {len(found) or 'no'} warning{'' if len(found) == 1 else 's'}")
    if errors:
        raise TracesError(f"{definition} cannot be used: {len(errors)} error{'' if len(errors) == 1 else 's'}.")
