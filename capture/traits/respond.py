"""The trait-responses job: a model answers a trait's questions under instructions to show the trait and under opposite ones.

The run keeps the means over each response's tokens at every layer, from which the trait's vectors are made. Which responses show the
trait is for a judge to say (`judge_run`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capture.data.example import Row, Source
from capture.jobs import generate
from capture.traits.definition import Definition
from warehouse.errors import UsageError
from warehouse.storage import paths

KIND = "trait-responses"
POLARITIES = ("pos", "neg")


@dataclass(frozen=True)
class Options(generate.Options):
    """What is generated, and how."""

    trait: dict[str, Any] = field(default_factory=dict)
    """The definition."""
    n: int = 100
    """Responses of each polarity."""


def model_stem(model: str) -> str:
    """Return a model, as the user named it, in the form that names of runs have: `smollm2`."""
    return paths.sql_name(Path(model).name.removesuffix(".gguf")).replace("_", "-")


def default_run_name(trait: str, model: str) -> str:
    """Return the name that a run of a trait's responses has unless the user gives one."""
    return f"{trait}-{model_stem(model)}-responses"


def source(definition: Definition, n: int) -> Source:
    """Make the source of prompts: each question under each instruction, once for either polarity.

    The order is such that the first few prompts already have many questions and instructions; once all pairs are used up,
    further samples of the same follow.

    Args:
        definition: The trait.
        n: Responses of each polarity.

    Returns:
        The source, with 2 n rows.

    Raises:
        UsageError: `n` is below 1.
    """
    if n < 1:
        raise UsageError(f"--n {n}: ask for at least 1 response of each polarity.")

    def rows() -> Iterator[Row]:
        questions, pairs = definition.questions, definition.instruction
        for i in range(n):
            sample, place = divmod(i, len(questions) * len(pairs))
            turn, question = divmod(place, len(questions))
            instruction = (question + turn) % len(pairs)
            for polarity in POLARITIES:
                yield Row(
                    f"{polarity}-{instruction}-{question}" + (f"-{sample}" if sample else ""),
                    questions[question],
                    {
                        "system": getattr(pairs[instruction], polarity),
                        "trait": definition.name,
                        "polarity": polarity,
                        "instruction_idx": instruction,
                        "question_idx": question,
                    },
                )

    return Source("trait", definition.name, None, f"the definition of {definition.name}", rows)


run, forecast = generate.define_kind(KIND)
