"""The trait-responses job: a model answers a trait's questions, asked to show the trait and asked not to.

Kept of each response are the means over its tokens, at every layer: what a trait's vectors are made from. Which of them show the
trait is for a judge to say (`capture.traits.judge_run`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from capture.data.example import Row, Source
from capture.jobs import generate
from capture.traits.definition import Definition
from warehouse.errors import UsageError

KIND = "trait-responses"
POLARITIES = ("pos", "neg")


@dataclass(frozen=True)
class Options(generate.Options):
    trait: dict[str, Any] = field(default_factory=dict)
    """The definition."""
    n: int = 100
    """Responses of each polarity."""


def source(definition: Definition, n: int) -> Source:
    """Questions and instructions in an order in which the first few already have many of both; beyond all their pairs, further
    samples of the same.
    """
    if n < 1:
        raise UsageError(f"--n {n}: at least 1 response of each polarity.")

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


run, forecast = generate.for_kind(KIND)
