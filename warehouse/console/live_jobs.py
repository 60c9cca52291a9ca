"""What a page can ask a live model for: the jobs, checked field by field. The server reads them from the page, the worker from the server.

A job holds text, numbers, and names of runs, examples and traits that are there. It never holds a path, a model's name or a run's new name.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

MOST_CHARACTERS = 20_000
"""Of a prompt or a chat."""
MOST_NEW_TOKENS = 512
"""Of a response."""

Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Place = Annotated[int, Field(ge=0, le=9_999)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Turn(_Strict):
    """A message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Sampled(_Strict):
    """How a response is drawn."""

    max_new_tokens: Annotated[int, Field(ge=1, le=MOST_NEW_TOKENS)] = 50
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.7
    seed: Annotated[int, Field(ge=0, le=(1 << 53) - 1)] = 0


class CaptureJob(_Strict):
    """Read a prompt as it is, or a chat through the model's own template."""

    kind: Literal["capture"]
    prompt: Text | None = None
    turns: Annotated[list[Turn], Field(max_length=64)] = Field(default_factory=list)
    lens: bool = True
    """Whether the logit lens of it is a run, too."""

    @model_validator(mode="after")
    def _one_text(self) -> CaptureJob:
        """Check that there is a prompt or a chat, and how long the chat is.

        Returns:
            Itself.

        Raises:
            ValueError: There are both or neither, or the chat is too long.
        """
        if (self.prompt is None) == (not self.turns):
            raise ValueError("give a prompt, or the turns of a chat")
        if sum(len(t.content) for t in self.turns) > MOST_CHARACTERS:
            raise ValueError(f"a chat has {MOST_CHARACTERS:,} characters at most")
        return self


class GenerateJob(Sampled):
    """Go on with a prompt, put through the model's chat template where it has one."""

    kind: Literal["generate"]
    prompt: Text


class Cut(_Strict):
    """A part of the model that is to add nothing."""

    what: Literal["head", "attention", "mlp"] = "head"
    layer: Place
    head: Place | None = None

    @model_validator(mode="after")
    def _head(self) -> Cut:
        """Check that a head, and nothing else, has a number.

        Returns:
            Itself.

        Raises:
            ValueError: It is not so.
        """
        if (self.what == "head") != (self.head is not None):
            raise ValueError("a head has a layer and a number; attention and mlp have a layer")
        return self

    def __str__(self) -> str:
        """Write it as an intervention."""
        return f"L{self.layer}H{self.head}=zero" if self.what == "head" else f"{self.what[0].upper()}{self.layer}=zero"


class AblateJob(_Strict):
    """Read an example of a run again while parts of the model add nothing."""

    kind: Literal["ablate"]
    run: Name
    example: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    cuts: Annotated[list[Cut], Field(min_length=1, max_length=64)]


class SteerJob(Sampled):
    """Go on with a prompt twice: as the model is, and with a trait's vector added."""

    kind: Literal["steer"]
    prompt: Text
    trait: Name
    layer: Place | None = None
    """None: the middle one."""
    coefficient: Annotated[float, Field(ge=-100, le=100)]

    @model_validator(mode="after")
    def _not_zero(self) -> SteerJob:
        """Check that something is added.

        Returns:
            Itself.

        Raises:
            ValueError: It is not.
        """
        if self.coefficient == 0:
            raise ValueError("a coefficient of 0 adds nothing")
        return self


Job = Annotated[CaptureJob | GenerateJob | AblateJob | SteerJob, Field(discriminator="kind")]
JOB: TypeAdapter[CaptureJob | GenerateJob | AblateJob | SteerJob] = TypeAdapter(Job)
"""Reads a job."""
