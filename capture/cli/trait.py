"""`traces trait`: from the definition of a trait to its vector, and from the vector to every token of every run.

The commands are registered in the order in which they are used; each has a file of its own.
"""

from __future__ import annotations

from capture.cli import (
    trait_definition,
    trait_judge,
    trait_pipeline,
    trait_project,
    trait_respond,
    trait_vectors,
)
from warehouse.cli.app import App

trait_app = App(no_args_is_help=True, help="Work with traits: definitions, responses, vectors, projections.")
trait_app.command("init")(trait_definition.init)
trait_app.command("check")(trait_definition.check)
trait_app.command("respond")(trait_respond.respond)
trait_app.command("judge")(trait_judge.judge)
trait_app.command("extract")(trait_vectors.extract)
trait_app.command("evaluate")(trait_vectors.evaluate)
trait_app.command("steer")(trait_respond.steer)
trait_app.command("project")(trait_project.project)
trait_app.command("run")(trait_pipeline.run)
