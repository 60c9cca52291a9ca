"""The trait-steering job: a model answers a trait's questions while the trait's vector is added to what a block gives.

The prompt asks nothing but the question. Added is coefficient · gap · v, with the unit vector v and the distance `gap` between the means
of the two polarities along it (`trait_vectors.gap`): coefficient 1 moves a state as far as the trait's instructions moved the mean
response. It is added in every place from the last token of the prompt on: while the response is generated, whether the model keeps
keys and values or reads everything again for every token, and when prompt and response are read to be recorded. So what is recorded is
what the tokens were drawn from. The last token is only drawn, and nothing reads it while generating; the recording reads and steers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xxhash

from capture.data.example import Row, Source
from capture.interventions.intervene import add_vector
from capture.interventions.site_edits import Edit, check_editable, edit_sites
from capture.jobs import generate, job, run_job
from capture.jobs.generation import Generator, PromptCompleter, Watch
from capture.model import loading
from capture.model.anatomy import Anatomy
from capture.model.hashes import has_weights
from capture.sequences.batches import Batch
from capture.traits.best_vector import choice_lines, find_best_vector
from capture.traits.latest_run import find_latest_run
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema.sites import Key
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.objects import AnyPath
from warehouse.warehouse import Warehouse

KIND = "trait-steering"


@dataclass(frozen=True)
class Options(generate.Options):
    """What is steered by which vectors, and how answers are generated."""

    trait: dict[str, Any] = field(default_factory=dict)
    """The definition."""
    vectors_run: str = ""
    vectors_hash: str = ""
    """Of what is added: steering resumes, and shards are merged, only with the same."""
    method: str = "mean_diff"
    component: str = "residual"
    layers: tuple[int, ...] = ()
    coefficients: tuple[float, ...] = (-4, -2, 0, 2, 4)
    questions: tuple[int, ...] = ()
    """Places of the asked questions in the definition."""

    @property
    def parents(self) -> list[str]:
        """The runs that the new run is made from."""
        return [self.vectors_run]


@dataclass(frozen=True)
class SteeringVector:
    """A trait's vector as it is added."""

    unit: np.ndarray
    """(D,), of length 1."""
    gap: float
    """What coefficient 1 adds of it: the distance between the polarities' mean projections."""


@dataclass(frozen=True)
class SteeringChoice:
    """The vectors that a trait is steered by, and why."""

    trait: dict[str, Any]
    """The definition."""
    vectors_run: str
    model: ModelInfo
    """The model that the vectors were made from."""
    vectors: dict[int, SteeringVector]
    """By layer."""
    questions: list[int]
    """Places of the questions that no vector was made from; of all questions where every one was used."""
    method: str
    component: str
    reason: str
    """Why these layers, in words."""

    @property
    def vectors_hash(self) -> str:
        """A hash of the vectors and their gaps, by layer."""
        digest = xxhash.xxh3_128()
        for layer, v in sorted(self.vectors.items()):
            digest.update(f"{layer} {v.gap!r} ".encode() + v.unit.tobytes())
        return digest.hexdigest()

    def lines(self, wh: Warehouse) -> Iterator[str]:
        """Yield lines for the user about the choice, as `choice_lines` does."""
        return choice_lines(
            wh,
            self.vectors_run,
            self.trait["name"],
            self.method,
            self.component,
            list(self.vectors),
            self.reason,
        )


def choose_vectors(
    root: AnyPath, trait: str, vectors_run: str | None, method: str, component: str, layers: str | Sequence[int] = "mid"
) -> SteeringChoice:
    """Choose the vectors that a trait is steered by.

    Args:
        root: The warehouse's folder.
        trait: The trait.
        vectors_run: A run with its vectors; None: the newest one.
        method: The method that made them.
        component: `residual` or `attn_out`.
        layers: `mid` (the middle layer), `best` (of the view `trait_best`, which also sets method and component), or layer numbers.

    Returns:
        The vectors and the questions to ask.

    Raises:
        NotFoundError: A trait, run, method, component or layer has no vector; lists those that have.
        UsageError: `layers` is no such thing, no best layer is known, it is the embedding, or of another method or component than
            was named; or as `find_latest_run` does.
    """
    if isinstance(layers, str) and layers not in ("mid", "best"):
        raise UsageError(f"--layers {layers}: use mid, best, or numbers.")
    with Warehouse(root) as wh:
        vectors_run = vectors_run or find_latest_run(wh, "trait-vectors", trait)
        meta = wh.cached_run(vectors_run).meta
        rows = (
            wh.cursor()
            .execute(
                "SELECT method, component, layer, vector, gap, trait FROM trait_vectors WHERE run_id = ?",
                [vectors_run],
            )
            .fetchall()
        )
        if trait not in (traits := sorted({row[5] for row in rows})):
            raise NotFoundError("trait", trait, traits, f"(vectors in run '{vectors_run}')")
        available = {row[:3]: SteeringVector(np.asarray(row[3], np.float32), row[4]) for row in rows if row[5] == trait}
        reason = "the middle layer" if layers == "mid" else "as requested"
        if layers == "best":
            best = find_best_vector(wh, vectors_run, trait)
            if best is None:
                raise UsageError(
                    f"No best layer of {trait} is known: run traces trait evaluate first, or name --layers."
                )
            if best.layer is None:
                raise UsageError(f"The best vector of {trait} is of resid.embed, which no block gives: name --layers.")
            for option, value, usual, of in (
                ("--method", method, "mean_diff", best.method), ("--component", component, "residual", best.component),
            ):  # fmt: skip
                if value not in (usual, of):
                    raise UsageError(
                        f"{option} {value}: the best vector of {trait} is of {of}. Leave it out, or name its --layers."
                    )
            method, component, layers, reason = best.method, best.component, [best.layer], best.reason
        chosen = [meta.model.n_layers // 2] if isinstance(layers, str) else list(layers)
        for kind, value, place in (("method", method, 0), ("component", component, 1)):
            known = sorted({key[place] for key in available})
            if value not in known:
                raise NotFoundError(kind, value, known, f"(vectors of {trait}, {vectors_run})")
        for layer in chosen:
            if (method, component, layer) not in available:
                known = sorted(i for m, c, i in available if (m, c) == (method, component) and i is not None)
                raise NotFoundError("layer", layer, known, f"(vectors of {trait} by {method}, {vectors_run})")
        definition = wh.cached_run(meta.option("responses_run")[trait]).meta.option("trait")
    questions = meta.option("held_out_questions").get(trait) or list(range(len(definition["questions"])))
    vectors = {i: available[method, component, i] for i in chosen}
    return SteeringChoice(definition, vectors_run, meta.model, vectors, questions, method, component, reason)


def default_run_name(vectors_run: str) -> str:
    """Return the name that a steered run has unless the user gives one."""
    return f"{vectors_run}-steered"


def make_options(
    choice: SteeringChoice, coefficients: Sequence[float], n_questions: int | None = None, **generation: Any
) -> Options:
    """Make the job's options from a choice of vectors.

    Args:
        choice: The vectors and questions.
        coefficients: How much of the vectors is added.
        n_questions: How many of the questions are asked, the first ones; None: all.
        **generation: The other fields of `Options`.

    Returns:
        The options.
    """
    return Options(
        **generation,
        trait=choice.trait,
        vectors_run=choice.vectors_run,
        vectors_hash=choice.vectors_hash,
        method=choice.method,
        component=choice.component,
        layers=tuple(choice.vectors),
        coefficients=tuple(coefficients),
        questions=tuple(choice.questions[:n_questions]),
    )


def source(options: Options) -> Source:
    """Make the source of prompts: each question once for every layer and coefficient."""
    asked = [(str(q), options.trait["questions"][q], {"question_idx": q}) for q in options.questions]
    return Source(
        "steering",
        options.trait["name"],
        None,
        f"the definition of {options.trait['name']}",
        lambda: _rows(options, asked),
    )


def prompt_source(options: Options, prompt: str) -> Source:
    """Make the source of a prompt of the user's own, which is no question of the trait: once for every layer and coefficient."""
    origin = "a prompt of the user's own"
    return Source("steering", options.trait["name"], "prompt", origin, lambda: _rows(options, [("prompt", prompt, {})]))


def _rows(options: Options, asked: Sequence[tuple[str, str, dict[str, Any]]]) -> Iterator[Row]:
    """Yield prompts (an id, the text, facts of it), each once for every layer and coefficient."""
    for name, prompt, facts in asked:
        for layer in options.layers:
            for c in options.coefficients:
                steering = {
                    "trait": options.trait["name"],
                    **facts,
                    "vectors_run_id": options.vectors_run,
                    "method": options.method,
                    "component": options.component,
                    "layer": layer,
                    "coefficient": c,
                }
                yield Row(f"{name}-L{layer}-{c:g}", prompt, steering)


def define_kind(
    vectors: Mapping[int, SteeringVector], space: str, watch: Watch | None = None
) -> tuple[job.Run, job.Forecast]:
    """Make the functions `run` and `forecast` of this job for some vectors.

    Args:
        vectors: What is added, by layer.
        space: `ModelInfo.space` of the model that they were made from.
        watch: Called with tokens as they are drawn; None: nobody looks on.

    Returns:
        Both functions; they raise UsageError for a model with other weights.
    """

    def prepare_job(loaded: loading.Loaded, source: Source, options: Options) -> job.Job:
        anatomy = generate.examine_decoder(loaded)
        if not has_weights(loaded.model, space):
            raise UsageError(
                f"{loaded.name} has other weights than the model that the vectors of run '{options.vectors_run}' were made from."
            )
        generator = Generator(loaded, anatomy.body, options.sampling, watch)
        steps = {layer: _find_step(anatomy, layer, options.component, v) for layer, v in vectors.items()}
        completer = Steered(generator, loaded.tokenizer, options.max_new_tokens, anatomy, steps)
        return generate.prepare_generation(KIND, loaded, source, options, anatomy, completer)

    return run_job.define_kind(prepare_job)


_SITES = {"residual": "resid.post_mlp", "attn_out": "attn_out"}


@dataclass(frozen=True)
class _Step:
    """What coefficient 1 adds."""

    key: Key
    vector: torch.Tensor
    """(D,)"""


def _find_step(anatomy: Anatomy, layer: int, component: str, vector: SteeringVector) -> _Step:
    """Return where a vector is added, and what of it; raises UsageError where the model has no such place of that width."""
    key = Key(anatomy.main.side, _SITES[component], layer)
    check_editable(anatomy, key)
    block = anatomy.main.layers[layer]
    if component == "attn_out" and block.hook_points[key.site].factor != 1.0:
        raise UsageError(f"Layer {layer} has no module whose output is attn_out as it is: steer the residual stream.")
    if vector.unit.shape != tuple(anatomy.main.width):
        raise UsageError(f"The vector is {vector.unit.size} wide, and the model {anatomy.main.width[-1]}.")
    weight = next(block.block.parameters())
    return _Step(key, torch.from_numpy(vector.unit * vector.gap).to(weight.device, weight.dtype))


class Steered(PromptCompleter):
    """Completes prompts while adding to each sequence the vector that its example's metadata names."""

    def __init__(
        self, generator: Generator, tokenizer: Any, growth: int, anatomy: Anatomy, steps: Mapping[int, _Step]
    ) -> None:
        super().__init__(generator, tokenizer, growth)
        self._anatomy, self._steps = anatomy, steps

    def generating(self, batch: Batch) -> AbstractContextManager[Any]:
        """Steer while responses are generated, from each prompt's last token on."""
        last = max(s.n_tokens for s in batch.sequences) - 1  # prompts are padded on the left, so they end in one place

        def steered(x: torch.Tensor) -> torch.Tensor:
            """Return the mask (1, T, 1); fewer places than the prompts have are new tokens after cached ones."""
            places = torch.arange(x.shape[1], device=x.device)
            return ((places >= last) | (x.shape[1] <= last))[None, :, None].to(x.dtype)

        return self._add_vectors(batch, steered)

    def reading(self, batch: Batch) -> AbstractContextManager[Any]:
        """Steer while prompt and response are read to be recorded, from each prompt's last token on."""
        starts = []
        for s in batch.sequences:
            is_response = s.sides["dec"].is_response
            assert is_response is not None
            starts.append(int(is_response.argmax()) - 1)

        def steered(x: torch.Tensor) -> torch.Tensor:
            """Return the mask (B, T, 1)."""
            places = torch.arange(x.shape[1], device=x.device)
            return (places[None] >= torch.tensor(starts, device=x.device)[:, None])[..., None].to(x.dtype)

        return self._add_vectors(batch, steered)

    def _add_vectors(self, batch: Batch, mask: Callable[[torch.Tensor], torch.Tensor]) -> AbstractContextManager[Any]:
        """Add to each sequence the vector of its layer, where `mask` of a state says so."""
        metadata = [s.example.row.metadata for s in batch.sequences]
        edits: dict[Key, Edit] = {}
        for layer, step in self._steps.items():
            coefficients = [m["coefficient"] if m["layer"] == layer else 0.0 for m in metadata]
            if any(coefficients):
                edits[step.key] = _make_edit(step.vector, coefficients, mask)
        return edit_sites(self._anatomy, edits)


def _make_edit(
    vector: torch.Tensor, coefficients: Sequence[float], mask: Callable[[torch.Tensor], torch.Tensor]
) -> Edit:
    def edit(x: torch.Tensor) -> torch.Tensor:
        each = torch.tensor(coefficients, dtype=x.dtype, device=x.device)[:, None, None]
        return add_vector(x, vector.to(x.device), mask(x) * each)

    return edit
