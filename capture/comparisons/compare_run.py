"""Compare two models by two runs of the same texts, from what the runs have stored.

`run` reads two captured runs and leaves a run of kind `comparison`; `forecast` says how large that would be. `run_pair` checks what the
two must have in common, `plan` which parts can be compared, and `shared_tokens` finds the tokens that both read after the same text.
`predictions` compares what is predicted after each of them (table `comparisons`); over a `sample` of them, `layers` compares
states (`layer_similarity`, `moved_directions`) and `heads` attention (`head_changes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import NamedTuple

import pyarrow as pa

from capture.comparisons.heads import Writes, can_write, head_changes, head_layers
from capture.comparisons.layers import LayerStates
from capture.comparisons.options import Options
from capture.comparisons.plan import Plan, make_plan
from capture.comparisons.predictions import PredictionRows, why_not_comparable
from capture.comparisons.predictor import Predictor, check_model
from capture.comparisons.run_pair import RunPair, open_pair
from capture.comparisons.sample import Sample, draw_sample
from capture.comparisons.shared_tokens import count_shared, group_shared
from capture.jobs.versions import computing_versions
from capture.model.anatomy import Anatomy
from capture.model.examine import examine
from capture.model.failures import explain_memory_errors
from capture.model.head_outputs import HeadOutputs, find_head_outputs
from capture.model.loading import Loaded
from warehouse.catalog.publish import publish
from warehouse.errors import UsageError
from warehouse.storage.derived_progress import DerivedProgress
from warehouse.storage.manifest import Manifest, folder_manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter

KIND = "comparison"

_ROW_BYTES = 35
"""Bytes that a row of `comparisons` takes on disk, measured on SmolLM2."""

LoadModel = Callable[[int], Loaded]
"""Loads the model of the first run (0) or of the other (1)."""


class Forecast(NamedTuple):
    """What a comparison would make."""

    sequences: int
    tokens: int
    plan: Plan

    @property
    def bytes(self) -> float:
        """Bytes on disk, about."""
        return self.tokens * _ROW_BYTES


def forecast(a: AnyPath, b: AnyPath, options: Options) -> Forecast:
    """Forecast a comparison without loading a model; raises UsageError as `run` does for the two runs and the options."""
    pair = open_pair(a, b)
    plan = make_plan(pair, options)
    return Forecast(*count_shared(pair), plan)


def run(
    a: AnyPath,
    b: AnyPath,
    load: LoadModel,
    options: Options,
    *,
    root: AnyPath,
    run_id: str,
    report: Callable[[DerivedProgress], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Compare two published runs, and publish the comparison as a run of its own.

    The same call resumes where an earlier one was interrupted.

    Args:
        a: The folder of the first run.
        b: That of the other.
        load: Loads their models; called only for what needs them.
        options: What is compared.
        root: The warehouse's folder.
        run_id: The new run's name.
        report: Called after every shard.
        note: Called with lines for the user.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: A run has not stored what is needed (the message has the command that stores it), the two are one or have no
            token in common, or a model is another than that of its run.
        RunExistsError: The new run exists already.
        TracesError: A model predicts no tokens, or what its head makes of a state is NaN.
    """
    plan = forecast(a, b, options).plan
    pair = open_pair(a, b)
    with explain_memory_errors(
        "compare two models", "Choose a --device with more of it, or fewer --layers or --tokens."
    ):
        models = _Models(pair, load)
        comparison = _Comparison(pair, plan, options, models, note)
        for part, why in comparison.left_out.items():
            note(f"{part} are not compared: {why}")
        compared = {"compared": list(comparison.parts), "left_out": comparison.left_out}
        identity = RunIdentity(
            KIND,
            {"options": asdict(options), "devices": models.devices, "versions": computing_versions()} | compared,
            parents={
                name: folder_manifest_hash(store.path) for name, store in zip(pair.names, pair.stores, strict=True)
            },
        )
        progress = DerivedProgress(run_id)
        with RunWriter(root, run_id, identity.to_dict()) as writer:
            for number, (sequences, tokens, work) in enumerate(comparison.work()):
                done = number < len(writer.done)
                progress.begun += sequences
                progress.tokens += tokens
                if done:
                    progress.resumed_tokens = progress.tokens
                else:
                    writer.begin_shard({}, {})
                    writer.put(RecordedBatch([], {}, {}, work()))
                    writer.end_shard(str(number))
                report(progress)
            derive, made = pair.a.meta.derive, asdict(options) | compared
            return publish(writer, lambda published: derive(KIND, run_id, list(pair.names), made, published))


class _Models:
    """The two models, each loaded when it is first needed, and once."""

    def __init__(self, pair: RunPair, load: LoadModel) -> None:
        self._pair, self._load = pair, load
        self._loaded: dict[int, Loaded] = {}
        self.anatomies: tuple[Anatomy | None, Anatomy | None] = (None, None)
        """What `examine` found of both, once it was called."""

    def both(self) -> tuple[Loaded, Loaded]:
        """Return both models; raises UsageError where one is not its run's."""
        for side, option in enumerate(("--model", "--other-model")):
            if side not in self._loaded:
                loaded = self._load(side)
                check_model(loaded, self._pair.stores[side], option)
                self._loaded[side] = loaded
        return self._loaded[0], self._loaded[1]

    def examined(self) -> tuple[Anatomy, Anatomy]:
        """Return the anatomies of both models."""
        a, b = (examine(loaded.model) for loaded in self.both())
        self.anatomies = a, b
        return a, b

    @property
    def devices(self) -> list[str]:
        """The devices of those that are loaded."""
        return [loaded.device for loaded in self._loaded.values()]


class _Comparison:
    """The parts of a comparison, and the work that makes them, a shard at a time."""

    def __init__(
        self, pair: RunPair, plan: Plan, options: Options, models: _Models, note: Callable[[str], None]
    ) -> None:
        """Load what the parts need, and leave out what turns out to be none; raises UsageError where nothing is left."""
        self._pair, self._options = pair, options
        self.left_out = dict(plan.left_out)
        sampled = [part for part in plan.parts if part != "predictions"]
        self._sample = draw_sample(pair, options.tokens, options.seed) if sampled else None
        self._leave_out_sampled(sampled)
        self.parts = tuple(part for part in plan.parts if part not in self.left_out)
        if not self.parts:
            raise UsageError(next(iter(self.left_out.values())))
        self._head_layers = head_layers(pair, options) if "heads" in self.parts else []
        self._writes: Writes | None = None
        if self._head_layers and can_write(pair, self._head_layers):
            self._writes = _head_writes(models)
        self._predictors = None
        if "predictions" in self.parts:
            self._predictors = self._open_predictors(plan, models, note)

    def _leave_out_sampled(self, parts: list[str]) -> None:
        """Leave out parts that the sampled tokens do not allow; raises UsageError for one that was named."""
        if self._sample is None:
            return
        whys = (
            dict.fromkeys(parts, "the two share no token but the first of each text") if not self._sample.tokens else {}
        )
        if "heads" in parts and not whys and not any(p.same_tokens for p in self._sample.pieces):
            whys["heads"] = "the two read other tokens, so that their attention is over other places"
        if whys and self._options.parts:
            raise UsageError(f"--what {next(iter(whys))}: {next(iter(whys.values()))}.")
        self.left_out |= whys

    def _open_predictors(
        self, plan: Plan, models: _Models, note: Callable[[str], None]
    ) -> tuple[Predictor, Predictor] | None:
        """Open what predicts after the states of both runs; None where only losses can be compared."""
        why: str | None = "their models have other vocabularies"
        if not plan.losses_alone:
            opened = zip(models.both(), self._pair.stores, models.anatomies, strict=True)
            a, b = (Predictor(*of) for of in opened)
            why = why_not_comparable(a, b)
            if why is None:
                return a, b
        names = self._pair.names
        note(
            f"'{names[0]}' and '{names[1]}': {why}, so that of predictions only losses are compared, by spans of text that both cut alike"
        )
        return None

    def work(self) -> Iterator[tuple[int, int, Callable[[], dict[str, pa.Table]]]]:
        """Yield a shard's sequences, tokens and what makes its tables, one shard after the other."""
        if "predictions" in self.parts:
            rows = PredictionRows(self._pair.names, self._predictors)
            for shard in group_shared(self._pair):
                tokens = sum(len(s.positions) for s in shard)
                yield len(shard), tokens, lambda shard=shard: {"comparisons": rows.table(shard)}  # type: ignore[misc]
        sample = self._sample
        if sample is None or not sample.tokens:
            return
        if {"layers", "directions"} & set(self.parts):
            yield 0, 0, lambda: self._layer_tables(sample)
        if "heads" in self.parts:
            yield 0, 0, lambda: {"head_changes": head_changes(self._pair, sample, self._head_layers, self._writes)}

    def _layer_tables(self, sample: Sample) -> dict[str, pa.Table]:
        states = LayerStates(self._pair, sample, self._options)
        tables = {}
        if "layers" in self.parts:
            tables["layer_similarity"] = states.similarity()
        if "directions" in self.parts and len(rows := states.directions()):
            tables["moved_directions"] = rows
        return tables


def _head_writes(models: _Models) -> Writes:
    """Return the weights from heads to the residual stream of both models, by layer."""
    found = [find_head_outputs(anatomy) for anatomy in models.examined()]
    a, b = ([x.weight.cpu().numpy() if isinstance(x, HeadOutputs) else None for x in layers] for layers in found)
    return a, b
