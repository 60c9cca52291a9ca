"""The whole way of a trait as a library: steps in order, each once, and nothing made from another definition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from capture.model.loading import load
from capture.traits import pipeline
from capture.traits.definition import Definition, Pair
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage.manifest import Manifest
from warehouse.storage.run_list import published_runs

WINDY = Definition(
    name="windy",
    instruction=[Pair(pos="Speak of wind.", neg="Speak of stones.")] * 2,
    questions=[f"What is number {i}?" for i in range(8)],
    eval_prompt="{question} {answer}",
)
MADE = ["responses", "vectors", "vectors-evaluated", "vectors-steered"]


class Seen:
    """An observer that keeps what it is shown."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.finished: list[tuple[str, str]] = []

    def note(self, line: str) -> None:
        self.notes.append(line)

    @contextmanager
    def watch(self, _kind: str, _total: int | None) -> Iterator[Callable[[Any], None]]:
        yield lambda _: None

    def finish(self, kind: str, manifest: Manifest) -> None:
        self.finished.append((kind, manifest.run_id))


def test_the_steps_follow_one_another_and_are_made_once(
    tmp_path: Path, tiny_folder: Callable[[str], Path], capture_tiny: Callable
) -> None:
    model = str(tiny_folder("llama"))
    capture_tiny(tmp_path, "text", capture="resid", max_len=16)
    options = pipeline.Options(n=8, coefficients=(0, 2), max_new_tokens=4)
    names = [f"windy-llama-{name}" for name in MADE]

    def run(**others: Any) -> Seen:
        seen = Seen()
        pipeline.run_pipeline(
            tmp_path,
            [WINDY],
            model,
            options,
            seen,
            load=lambda _: load(model, device="cpu"),
            projected=["text"],
            **others,
        )
        return seen

    planned = list(pipeline.plan_steps(tmp_path, [WINDY], model, with_judge=False))
    assert [(s.run_id, s.is_done) for s in planned] == [(name, False) for name in names]
    steps = list(zip(["respond", "extract", "evaluate", "steer", "project"], [*names, "text-traits"], strict=True))
    assert run().finished == steps
    again = run()
    assert again.notes[:4] == [f"{name}: done" for name in names]
    assert again.finished == [("project", "text-traits")]
    assert set(published_runs(tmp_path)) == {*names, "text", "text-traits"}
    judged: list[tuple[str, str]] = []
    run(judge=lambda source, name: judged.append((source, name)))
    assert judged == [
        (f"windy-llama-{name}", f"windy-llama-{name}-judged") for name in ("responses", "vectors-steered")
    ]


def test_another_definition_is_refused_before_anything_is_made(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    model = str(tiny_folder("llama"))
    first = pipeline.Options(n=2, max_new_tokens=2)

    def run(definitions: list[Definition], options: pipeline.Options = first, **others: Any) -> None:
        pipeline.run_pipeline(
            tmp_path, definitions, model, options, Seen(), load=lambda _: load(model, device="cpu"), **others
        )

    with pytest.raises(UsageError, match="two of each are needed|an evaluation needs two"):
        run([WINDY])  # too few responses, which leaves those that it has
    made = set(published_runs(tmp_path))
    other = WINDY.model_copy(update={"eval_prompt": "{answer} {question}"})
    stony = WINDY.model_copy(update={"name": "stony"})
    with pytest.raises(UsageError, match="was made from another definition of windy"):
        run([stony, other])
    with pytest.raises(NotFoundError, match="gone"):
        run([stony], projected=["gone"])
    with pytest.raises(UsageError, match="threshold 101"):
        run([stony], pipeline.Options(threshold=101))
    assert set(published_runs(tmp_path)) == made
