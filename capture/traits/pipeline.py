"""From definitions to vectors that have been tried: respond, judge, extract, evaluate, steer, judge, project.

`plan_steps` says which runs that makes, `run_pipeline` makes those that are missing. Every step is a run of its own, so that the same
call resumes where an earlier one was interrupted, and each can be repeated by its own command. Here are only the order of the steps
and what one hands to the next; the work is done in `respond`, `judge_run`, `extract`, `evaluate`, `steer` and `project`. How a model
is loaded, who judges and what a user sees are the caller's: `traces trait run` is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from capture.model.loading import Loaded
from capture.traits import directions, evaluate, extract, judge_run, project, respond, steer
from capture.traits.definition import Definition
from warehouse.errors import UsageError
from warehouse.storage import paths, run_list
from warehouse.storage.manifest import Manifest, ModelInfo
from warehouse.storage.objects import AnyPath
from warehouse.storage.run_list import find_run
from warehouse.warehouse import Warehouse

StepKind = Literal["respond", "judge", "extract", "evaluate", "steer", "project"]


@dataclass(frozen=True)
class Options:
    """What all traits have in common."""

    n: int = 100
    """Responses of each polarity."""
    threshold: float | None = 50.0
    """As in `extract.Options`; without a judge all responses count."""
    filter: str = "pairs"
    """As in `extract.Options`."""
    coefficients: tuple[float, ...] = (-4, -2, 0, 2, 4)
    """Coefficients to try when steering by the best vector."""
    max_new_tokens: int = 64
    temperature: float = 0.7
    seed: int = 0
    """Of drawing tokens, holding out questions, the methods and the bootstrap."""


class Step(NamedTuple):
    """A run that a pipeline makes."""

    kind: StepKind
    definition: Definition
    source: str
    """The run that it is made from; the step `respond` has none, and names itself."""
    run_id: str
    is_done: bool


class Observer(Protocol):
    """What the caller of a pipeline sees of it."""

    def note(self, line: str) -> None:
        """Take a line about what a step found, chose or warns of."""

    def watch(self, kind: StepKind, total: int | None) -> AbstractContextManager[Callable[[Any], None]]:
        """Open the display of a step's progress; the step calls what it yields. `total` is None where that is unknown."""

    def finish(self, kind: StepKind, manifest: Manifest) -> None:
        """Take the manifest of a run that a step has made."""


def plan_steps(root: AnyPath, definitions: Sequence[Definition], model: str, *, with_judge: bool) -> Iterator[Step]:
    """Plan the runs of all traits but projections, in the order in which they are made.

    Args:
        root: The warehouse's folder.
        definitions: The traits.
        model: The model as the user named it.
        with_judge: Whether responses are judged.

    Yields:
        The steps, each with whether its run exists already by the time that it is yielded.

    Raises:
        UsageError: A run of responses was made from another definition of its trait: what follows would be of that one.
    """

    def step(kind: StepKind, definition: Definition, source: str, run_id: str) -> Step:
        return Step(kind, definition, source, run_id, run_list.is_published(root, run_id))

    for definition in definitions:
        _check_definition(root, respond.default_run_name(definition.name, model), definition)
    for definition in definitions:
        responses, vectors = respond.default_run_name(definition.name, model), _vectors_run(definition, model)
        yield step("respond", definition, responses, responses)
        if with_judge:
            yield step("judge", definition, responses, judge_run.default_run_name(responses))
        yield step("extract", definition, responses, vectors)
        yield step("evaluate", definition, vectors, evaluate.default_run_name(vectors))
        yield step("steer", definition, vectors, steer.default_run_name(vectors))
        if with_judge:
            steered = steer.default_run_name(vectors)
            yield step("judge", definition, steered, judge_run.default_run_name(steered))


def run_pipeline(
    root: AnyPath,
    definitions: Sequence[Definition],
    model: str,
    options: Options,
    observer: Observer,
    *,
    load: Callable[[ModelInfo | None], Loaded],
    judge: Callable[[str, str], object] | None = None,
    projected: Sequence[str] = (),
) -> None:
    """Make all runs of the traits that are missing, then project runs on the traits' best vectors.

    Args:
        root: The warehouse's folder.
        definitions: The traits.
        model: The model as the user named it; runs are named after it.
        options: What the traits have in common.
        observer: Sees notes, progress and finished runs.
        load: Loads the model: as the user named it for None, else as the vectors of that model need it.
        judge: Judges the run of the first name as a run of the second; None: responses are not judged, and all count.
        projected: Runs to project.

    Raises:
        NotFoundError: There is no run of a name in `projected`, or as the steps do.
        UsageError: An option is out of range, a run of responses was made from another definition, or as the steps do.
    """
    check_options(options)
    for source in projected:
        find_run(root, source)
    context = _Context(root, options, observer, load, judge is not None)
    for step in plan_steps(root, definitions, model, with_judge=context.with_judge):
        if step.is_done:
            observer.note(f"{step.run_id}: done")
        elif judge is not None and step.kind == "judge":
            judge(step.source, step.run_id)
        else:
            observer.finish(step.kind, _MAKE[step.kind](context, step))
    for source in projected:  # whether this very projection exists is for `project` to find out: its name does not say
        observer.finish("project", _project(context, source, definitions, model))


def check_options(options: Options) -> None:
    """Check options before anything is read; raises NotFoundError or UsageError as `extract.check_options` does."""
    extract.check_options(extract.Options(threshold=options.threshold, filter=options.filter))


def _vectors_run(definition: Definition, model: str) -> str:
    return f"{definition.name}-{respond.model_stem(model)}-vectors"


def _check_definition(root: AnyPath, run: str, definition: Definition) -> None:
    """Raise UsageError if a run of responses was made from another definition."""
    folder = paths.run_dir(root, run)
    if folder.is_dir() and Manifest.read(folder).options.get("trait") != definition.model_dump():
        raise UsageError(
            f"Run '{run}' was made from another definition of {definition.name}. Delete it and what was made from it (traces "
            f"runs rm {run}), or give the definition another name."
        )


# -- steps -------------------------------------------------------------------------------------------------------------


class _Context(NamedTuple):
    root: AnyPath
    options: Options
    observer: Observer
    load: Callable[[ModelInfo | None], Loaded]
    with_judge: bool

    @property
    def generation(self) -> dict[str, Any]:
        """How answers are generated and what is kept of them, the same for instructed and steered ones."""
        return {
            "capture": "means",
            "batch_tokens": 4096,
            "max_new_tokens": self.options.max_new_tokens,
            "temperature": self.options.temperature,
            "seed": self.options.seed,
        }


def _respond(c: _Context, step: Step) -> Manifest:
    options = respond.Options(**c.generation, trait=step.definition.model_dump(), n=c.options.n)
    options.sampling.check()
    loaded, source = c.load(None), respond.source(step.definition, c.options.n)
    with c.observer.watch(step.kind, None) as report:
        return respond.run(
            loaded, source, options, root=c.root, run_id=step.run_id, report=report, note=c.observer.note
        )


def _extract(c: _Context, step: Step) -> Manifest:
    threshold = c.options.threshold if c.with_judge else None
    options = extract.Options(threshold=threshold, filter=c.options.filter, seed=c.options.seed)
    with c.observer.watch(step.kind, None) as report:
        return extract.extract(c.root, [step.source], options, step.run_id, report, c.observer.note)


def _evaluate(c: _Context, step: Step) -> Manifest:
    options = evaluate.Options(seed=c.options.seed)
    with c.observer.watch(step.kind, None) as report:
        return evaluate.evaluate(c.root, step.source, step.run_id, options, report, c.observer.note)


def _steer(c: _Context, step: Step) -> Manifest:
    choice = steer.choose_vectors(c.root, step.definition.name, step.source, "mean_diff", "residual", "best")
    with Warehouse(c.root) as wh:
        for line in choice.lines(wh):
            c.observer.note(line)
    options = steer.make_options(choice, c.options.coefficients, **c.generation)
    options.sampling.check()
    run, _ = steer.define_kind(choice.vectors, choice.model.space)
    loaded = c.load(choice.model)
    with c.observer.watch(step.kind, None) as report:
        return run(
            loaded, steer.source(options), options, root=c.root, run_id=step.run_id, report=report, note=c.observer.note
        )


_MAKE: dict[str, Callable[[_Context, Step], Manifest]] = {
    "respond": _respond,
    "extract": _extract,
    "evaluate": _evaluate,
    "steer": _steer,
}


def _project(c: _Context, source: str, definitions: Sequence[Definition], model: str) -> Manifest:
    traits = tuple(d.name for d in definitions)
    options = directions.Options(traits, tuple(_vectors_run(d, model) for d in definitions))
    with Warehouse(c.root) as wh:
        chosen = directions.choose_directions(wh, source, options)
        for d in chosen:
            for line in d.lines(wh):
                c.observer.note(line)
        with c.observer.watch("project", wh.cached_run(source).meta.counts.sequences) as report:
            return project.project(wh, source, chosen, options, report=report)
