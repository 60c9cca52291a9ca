"""Steering from Python: a trait's vector is added while the model answers, and the answers are a run.

In go a model and the name of a trait that has vectors in the warehouse, from `run_traits`, say; out comes a run of responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capture.api.arguments import check_loaded, existing_run, in_python_terms
from capture.api.progress import capture_progress
from capture.api.runs import screen_note
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from capture.model.loading import Loaded


@in_python_terms
def steer(
    model: Loaded,
    trait: str,
    *,
    vectors: str | None = None,
    method: str = "mean_diff",
    component: str = "residual",
    layers: str | int | Sequence[int] = "mid",
    coefficients: Sequence[float] = (-4, -2, 0, 2, 4),
    n: int | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.7,
    seed: int = 0,
    run: str | None = None,
    root: str | AnyPath | None = None,
    skip_existing: bool = False,
) -> TraceStore:
    """Add a trait's vector to a block's output while the model answers.

    The questions are ones that no vector was made from. The same call again continues one that was interrupted.

    Example:
        run = capture.steer(model, "capitals", layers=26, coefficients=(-1, 0, 1), temperature=0)
        run.query("SELECT coefficient, response FROM responses").df()

    Args:
        model: The model that the vectors were made from.
        trait: A trait that has vectors.
        vectors: The run with the vectors; None: the newest that has some of the trait.
        method: Which vector: `mean_diff`, `probe`, `ica`, `gradient` or `random`.
        component: `residual` or `attn_out`.
        layers: `mid`, numbers, or `best`, which takes the best vector that was found, whatever its method and component.
        coefficients: How much of the vector is added, in distances between the means of the two polarities along it.
        n: How many questions to ask; None: all that were held out.
        max_new_tokens: The longest response in tokens.
        temperature: How freely tokens are drawn; 0: always the most probable one.
        seed: Seed for drawing tokens.
        run: The new run's name; None: that of the vectors, and `-steered`.
        root: The warehouse's folder; None: `$TRACES_HOME`, else `./runs`.
        skip_existing: If a run of this name exists, return it as it is.

    Returns:
        The run, with the table `responses`.

    Raises:
        NotFoundError: The trait, run, method, component or layer has no vector.
        UsageError: The model is not the one that the vectors were made from, or no best layer is known.
        RunExistsError: The run exists already.
    """
    loaded, home = check_loaded(model), paths.find_root(root)
    from capture.traits import steer as job

    choice = job.choose_vectors(
        home, trait, vectors, method, component, [layers] if isinstance(layers, int) else layers
    )
    name = run or job.default_run_name(choice.vectors_run)
    if (existing := existing_run(home, name, skip_existing)) is not None:
        return existing
    with Warehouse(home) as wh:
        for line in choice.lines(wh):
            screen_note(line)
    options = job.make_options(
        choice, coefficients, n,
        capture="means", batch_tokens=4096, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
    )  # fmt: skip
    options.sampling.check()
    start, _ = job.define_kind(choice.vectors, choice.model.space)
    with capture_progress() as (report, note):
        manifest = start(loaded, job.source(options), options, root=home, run_id=name, report=report, note=note)
    return TraceStore(paths.run_dir(home, manifest.run_id))
