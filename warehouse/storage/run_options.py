"""The options of a run that other jobs read, and their types.

A manifest keeps all options of the command that made the run, as JSON. Most of them only say how it was made. Those here
decide what another job does with the run, so a manifest with one of another type does not read.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field


class _Trait(BaseModel):
    """A trait's definition, as `capture.traits.definition` has it."""

    name: str
    instruction: list[dict[str, str]]
    questions: list[str]
    eval_prompt: str


class _OptionTypes(BaseModel):
    """The options that other jobs read; a run that has one has it of this type."""

    capture: str = ""
    index: str | None = None
    shard: Annotated[str, Field(pattern=r"^(\d{1,6}/\d{1,6})?$")] = ""
    keep_every: Annotated[int, Field(ge=1)] = 1
    sample: float | None = None
    target_column: str | None = None
    template: str | None = None
    chat: bool = False
    max_len: int | None = None
    prepend_bos: str = "auto"
    bos_id: int | None = None
    target: str | None = None
    trait: _Trait | str | None = None
    traits: list[str] = Field(default_factory=list)
    responses_run: dict[str, str] | str | None = None
    judge_run: dict[str, str | None] | str | None = None
    held_out_questions: dict[str, list[int]] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)
    threshold: float | None = None
    held_out: float = 0


def check_options(options: dict[str, Any]) -> dict[str, Any]:
    """Check the types of a run's options.

    Args:
        options: All options, as the manifest has them.

    Returns:
        The same options.

    Raises:
        ValueError: One is of another type, or lacks one of the run's traits.
    """
    traits = _OptionTypes.model_validate(options).traits
    for name in ("responses_run", "judge_run", "held_out_questions"):
        by_trait = options.get(name)
        missing = [t for t in traits if t not in by_trait] if isinstance(by_trait, dict) else []
        if missing:
            raise ValueError(f"{name} has no entry for {missing[0]}")
    return options
