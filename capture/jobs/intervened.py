"""The intervened job: a language model reads texts while interventions change it, as the next-token job reads them unchanged.

In go texts, the run in which the same model read them unchanged, and interventions as users write them (`L12H3=zero`). Out comes a run of
a kind of its own, whose options say what was changed and whose first parent is the unchanged run: the same examples, token by token, so that
two rows with the same keys differ by the interventions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from capture.data.example import Source
from capture.interventions.intervene import hold
from capture.interventions.intervention import Intervention, parse_intervention
from capture.interventions.reference import check_same_model
from capture.jobs import job, next_token, run_job
from capture.model import loading
from warehouse.errors import UsageError
from warehouse.storage.objects import AnyPath
from warehouse.storage.run_list import find_run
from warehouse.storage.trace_store import TraceStore

KIND = "intervened"


@dataclass(frozen=True)
class Options(next_token.Options):
    """What the user chose, with what is changed in the model."""

    clean_run: str = ""
    """The run of the same texts in which nothing is changed."""
    interventions: tuple[str, ...] = ()
    """Made in their order."""
    dictionaries: dict[str, str] = field(default_factory=dict)
    """The hash of each dictionary whose features are added or clamped, by its folder as it stands there."""

    @property
    def parents(self) -> list[str]:
        """The unchanged run, and the runs that interventions take values from."""
        sources = [x.source.partition("/")[0] for x in self.parsed() if not x.of_feature]
        return list(dict.fromkeys([self.clean_run, *filter(None, sources)]))

    def parsed(self) -> list[Intervention]:
        """Parse the interventions.

        Returns:
            Them, in their order.

        Raises:
            UsageError: There is none, one is not written so, or it adds a trait's vector.
            NotFoundError: There is no such site or kind.
        """
        if not self.interventions:
            raise UsageError("Name an intervention, such as L12H3=zero.")
        parsed = [parse_intervention(text) for text in self.interventions]
        if adding := next((x for x in parsed if x.kind == "add" and not x.of_feature), None):
            raise UsageError(f"{adding}: a run in which a trait's vector is added is made by traces trait steer.")
        return parsed


def define_kind(
    root: AnyPath, find_feature: Callable[[loading.Loaded, Intervention], Any]
) -> tuple[job.Run, job.Forecast]:
    """Make the functions `run` and `forecast` of this job.

    Args:
        root: The warehouse's folder, for runs that are named.
        find_feature: Finds the direction that an `add` names, and the feature that a `clamp` does.

    Returns:
        Both functions; they raise UsageError where the unchanged run is of another model or kind.
    """

    def prepare_job(loaded: loading.Loaded, source: Source, options: Options) -> job.Job:
        clean = TraceStore(find_run(root, options.clean_run))
        if clean.meta.kind != next_token.KIND:
            raise UsageError(
                f"Run '{options.clean_run}' is of kind {clean.meta.kind}: name one of kind {next_token.KIND}."
            )
        check_same_model(clean, loaded, "Run")
        context = hold(loaded, options.parsed(), root, lambda _, intervention: find_feature(loaded, intervention))
        return replace(next_token.prepare_job(loaded, source, options), kind=KIND, model_context=context)

    return run_job.define_kind(prepare_job)
