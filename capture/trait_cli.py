"""The commands of `traces trait`: from a trait's definition to its vector, and from the vector to every token of every run."""

from __future__ import annotations

import typer

from warehouse.cli import app

trait_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Traits: definitions, responses, vectors, projections."
)
app.add_typer(trait_app, name="trait")
