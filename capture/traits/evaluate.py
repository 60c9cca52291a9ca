"""Evaluate traits' vectors on held-out questions: a run of kind `trait-evaluation`, with the table `trait_evaluations`.

Every vector is compared with random directions of its layer. Their sign and midpoint come from the training responses, as the
vector's own do, so that they show what the method reaches without knowing anything of the trait. Intervals are over questions
(`intervals`) and hold for one vector; which vector is the best is decided on the training questions alone (`selection`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from capture.traits import extraction_methods, intervals, response_activations, selection, separation
from capture.traits.extract import KIND as VECTORS
from capture.traits.extract import (
    LayerCounter,
    LayerProgress,
    count_not_converged,
    layer_seed,
    split_into_blocks,
    training_vectors,
    write_shard,
)
from capture.traits.response_activations import ResponseMeans, SelectedResponses
from warehouse.analysis.intervals import clopper_pearson_by_group
from warehouse.catalog.publish import publish
from warehouse.errors import CorruptRunError, RunExistsError, UsageError
from warehouse.storage import paths, run_list
from warehouse.storage.manifest import Manifest, manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_list import find_run
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

KIND = "trait-evaluation"
_SEED_OFFSET = 5_000
"""Added to a layer's seed, so that the random directions here differ from the one in the vectors' run."""


@dataclass(frozen=True)
class Options:
    """How vectors are evaluated."""

    random: int = 20
    """Random directions a layer."""
    draws: int = 10_000
    """Bootstrap resamples of the questions."""
    seed: int = 0


@dataclass(frozen=True)
class _TraitData:
    """A trait's vectors and the responses that they are evaluated on."""

    selected: SelectedResponses
    held: list[int]
    means: ResponseMeans
    vectors: dict[tuple[str, int | None], list[dict[str, Any]]]
    """(component, layer) → rows of trait_vectors, one a method."""

    @property
    def layers(self) -> dict[str, list[int | None]]:
        layers: dict[str, list[int | None]] = {}
        for component, layer in self.vectors:
            layers.setdefault(component, []).append(layer)
        return layers


def evaluate(
    root: AnyPath,
    vectors_run: str,
    run_id: str | None = None,
    options: Options | None = None,
    report: Callable[[LayerProgress], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Evaluate all vectors of a run on its held-out questions, and publish the result as a run.

    The responses are selected as they were for the vectors: by the same filter and judge. The same call resumes where an earlier
    one was interrupted.

    Args:
        root: The warehouse's folder.
        vectors_run: A run of kind `trait-vectors`.
        run_id: The new run's name; `<vectors run>-evaluated` if None.
        options: How to evaluate.
        report: Called after every layer.
        note: Called with a line about fits that did not converge.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: The run is of another kind, fewer than two held-out questions count, or the responses have been replaced.
        NotFoundError: The vectors or the responses are gone.
        RunExistsError: The new run exists already.
    """
    options = options or Options()
    if options.random < 1 or options.draws < 1:
        raise UsageError("An evaluation needs at least one random direction and one resample.")
    store = open_vectors_run(root, vectors_run)
    with Warehouse(root) as wh:
        traits = [_load_trait(wh, store, name) for name in store.meta.option("traits")]
    units = [u for i, t in enumerate(traits) for u in split_into_blocks(i, t.layers)]
    parents = [vectors_run, *dict.fromkeys(t.selected.run_id for t in traits)]
    name = run_id or default_run_name(vectors_run)
    manifest_options = {**asdict(options), "vectors_run": vectors_run, "traits": [t.selected.trait for t in traits],
            "vectors": manifest_hash(root, vectors_run),
            "folds": selection.FOLDS, "held_out_questions": {t.selected.trait: t.held for t in traits}}  # fmt: skip
    identity = RunIdentity(KIND, {"options": manifest_options}, {run: manifest_hash(root, run) for run in parents})
    count = LayerCounter(name, sum(len(u.layers) for u in units), report)
    with RunWriter(root, name, identity.to_dict()) as writer:
        for number, unit in enumerate(units):
            trait = traits[unit.trait]
            if number < len(writer.done):
                count.skip(unit, trait.selected.trait)
                continue
            rows: list[dict[str, Any]] = []
            unconverged: Counter[str] = Counter()
            for layer in unit.layers:
                layer_rows = _evaluate_layer(trait, unit.component, layer, options, unconverged)
                rows += [{"vectors_run_id": vectors_run, **r} for r in layer_rows]
                count.advance(unit, trait.selected.trait)
            write_shard(writer, "trait_evaluations", rows, json.dumps({"not_converged": +unconverged}))
        manifest = publish(
            writer,
            lambda p: store.meta.derive(
                KIND, name, parents, manifest_options | {"not_converged": count_not_converged(writer)}, p
            ),
        )
    for method, n in manifest.option("not_converged").items():
        note(
            f"{method} did not converge in {extraction_methods.STEPS[method]} steps in {n} of {count.total * selection.FOLDS} fits to parts of the "
            "training questions; the last step's vector was used, and cv_effect_size rests on it"
        )
    return manifest


def default_run_name(vectors_run: str) -> str:
    """Return the name that a run's evaluation has unless the user gives one."""
    return f"{vectors_run}-evaluated"


def open_vectors_run(root: AnyPath, run_id: str) -> TraceStore:
    """Open a run of traits' vectors.

    Args:
        root: The warehouse's folder.
        run_id: The run's name.

    Returns:
        The run's store.

    Raises:
        NotFoundError: There is no such run.
        UsageError: The run is not of kind `trait-vectors`.
    """
    store = TraceStore(find_run(root, run_id))
    if store.meta.kind != VECTORS:
        raise UsageError(
            f"Run '{run_id}' is of kind {store.meta.kind}, and only runs of kind {VECTORS} can be evaluated: see traces trait "
            "extract --help"
        )
    return store


def _load_trait(wh: Warehouse, store: TraceStore, name: str) -> _TraitData:
    option, run = store.meta.option, store.meta.run_id
    responses, judge, held = (option(o)[name] for o in ("responses_run", "judge_run", "held_out_questions"))
    for source in filter(None, (responses, judge)):
        find_run(wh.root, source)
        if manifest_hash(wh.root, source) != option("sources").get(source):
            raise UsageError(
                f"Run '{source}' has been replaced since '{run}' was made from it: make the vectors again (traces trait extract)."
            )
    rule = store.meta.options.get("filter", "questions")  # the only one before schema version 7
    if rule not in list(response_activations.FILTERS):
        raise CorruptRunError(f"Run '{run}' is damaged: its manifest has the filter {rule!r}.")
    selected = response_activations.select_responses(wh, responses, option("threshold") if judge else None, judge, rule)
    counting = [q for q in held if q in selected.questions]
    if len(counting) < 2:
        raise UsageError(
            f"{name}: {len(counting)} held-out {'question has' if len(counting) == 1 else 'questions have'} responses of both "
            f"polarities that count, and an evaluation needs two. Make the vectors of '{run}' again with a larger --held-out (it was "
            f"{option('held_out'):g}) or another --threshold (traces trait extract --help), or of more responses."
        )
    answer = store.query(
        "SELECT method, component, layer, midpoint, train_accuracy, vector FROM trait_vectors WHERE trait = ? "
        "ORDER BY component DESC, layer NULLS FIRST, method",
        [name],
    )
    vectors: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for values in answer.fetchall():
        row = dict(zip(answer.columns, values, strict=True))
        vectors.setdefault((row["component"], row["layer"]), []).append(row)
    responses_store = response_activations.open_responses_run(wh.root, responses)
    return _TraitData(selected, counting, ResponseMeans(responses_store, selected.keys), vectors)


def _evaluate_layer(
    trait: _TraitData, component: str, layer: int | None, options: Options, unconverged: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a layer, one a vector; all V vectors and R random directions are measured together."""
    selected, rows = trait.selected, trait.vectors[component, layer]
    x = trait.means.vectors(component, layer)
    width, known = x.shape[1], len(rows[0]["vector"])
    if known != width:
        raise UsageError(
            f"The vectors of {selected.trait} have width {known}, and the states of run '{selected.run_id}' {width}: they are of "
            "different models."
        )
    train_pos, train_neg = training_vectors(x, selected, trait.held)
    seed = layer_seed(options.seed, layer) + _SEED_OFFSET
    drawn = separation.orient(extraction_methods.random_directions(width, options.random, seed), train_pos, train_neg)
    drawn_mid = separation.midpoints(separation.projections(train_pos, drawn), separation.projections(train_neg, drawn))
    units = np.concatenate([np.array([r["vector"] for r in rows], np.float64), drawn])
    midpoint = np.concatenate([[r["midpoint"] for r in rows], drawn_mid])

    held = np.isin(selected.question, trait.held)
    is_pos, is_neg = held & selected.positive, held & ~selected.positive
    pos, neg = separation.projections(x[is_pos], units), separation.projections(x[is_neg], units)
    v, by_question = len(rows), [_question_indicators(selected.question[side], trait.held) for side in (is_pos, is_neg)]
    right = separation.on_correct_side(pos, neg, midpoint)
    accuracy = np.concatenate(right).mean(0)
    chance = float(accuracy[v:].mean())
    counts = np.add(*(b @ r for b, r in zip(by_question, right, strict=True)))
    n = np.add(*(b.sum(1) for b in by_question))
    accuracy_ends = clopper_pearson_by_group(counts[:, :v], n)
    above_ends = intervals.differences(counts[:, :v], counts[:, v:], n)
    cosines = separation.cosines(x[is_pos], units[:v]), separation.cosines(x[is_neg], units[:v])
    weights = intervals.resamples(len(trait.held), options.draws, options.seed)
    effect, auc = separation.cohens_d(*cosines), separation.auc(pos, neg)
    effect_ends = intervals.effect_sizes(effect, resampled_cohens_d(weights, cosines, by_question), len(trait.held))
    overlap = separation.overlap(pos[:, :v], neg[:, :v])
    train = ~np.isin(selected.question, trait.held)
    questions = selected.question[train & selected.positive], selected.question[train & ~selected.positive]
    folds = selection.deal_folds(np.concatenate(questions), options.seed)
    for i, row in enumerate(rows):
        yield {
            "trait": selected.trait,
            "method": row["method"],
            "component": component,
            "layer": layer,
            "n_pos": len(pos),
            "n_neg": len(neg),
            "accuracy": accuracy[i],
            "accuracy_low": accuracy_ends[0][i],
            "accuracy_high": accuracy_ends[1][i],
            "effect_size": effect[i],
            "effect_size_low": effect_ends[0][i],
            "effect_size_high": effect_ends[1][i],
            "auc": auc[i],
            "polarity_right": bool(pos[:, i].mean() > neg[:, i].mean()),
            "overlap": overlap[i],
            "train_minus_heldout": row["train_accuracy"] - accuracy[i],
            "random_accuracy": chance,
            "above_random": accuracy[i] - chance,
            "above_random_low": above_ends[0][i],
            "above_random_high": above_ends[1][i],
            "cv_effect_size": selection.cv_effect_size(
                row["method"], (train_pos, train_neg), questions, folds, layer_seed(options.seed, layer), unconverged
            ),
        }


# -- bootstrap over questions ------------------------------------------------------------------------------------------


def _question_indicators(question: np.ndarray, questions: list[int]) -> np.ndarray:
    """Return which of n responses answer which of Q questions: (Q, n), 0 or 1."""
    indicators: np.ndarray = (np.array(questions)[:, None] == question).astype(np.float64)
    return indicators


def resampled_cohens_d(
    weights: np.ndarray, values: tuple[np.ndarray, np.ndarray], by_question: list[np.ndarray]
) -> np.ndarray:
    """Compute Cohen's d in every resample of the questions, from their counts, sums and sums of squares.

    Args:
        weights: (draws, Q): how often each question is in each resample.
        values: (n, V) and (m, V): positive and negative responses' values on V vectors.
        by_question: (Q, n) and (Q, m), 0 or 1: which response answers which question.

    Returns:
        (draws, V).
    """
    centre, scale = np.concatenate(values).mean(0), np.concatenate(values).std(0)
    means, squares, counts = [], [], []
    for x, b in zip(values, by_question, strict=True):
        x = (x - centre) / np.where(scale > 0, scale, 1)  # scaled to 1, so that sums of squares keep their digits
        n = (weights @ b.sum(1))[:, None]
        mean = weights @ (b @ x) / n
        means.append(mean)
        squares.append(weights @ (b @ x**2) - n * mean**2)
        counts.append(n)
    variance = sum(squares) / np.maximum(sum(counts) - 2, 1)
    return separation.standardize(means[0] - means[1], np.where(variance < 1e-12, 0, variance))


# -- display -----------------------------------------------------------------------------------------------------------

BEST_LAYERS_SQL = """
    SELECT trait, component, method, layer, n_pos, n_neg, round(accuracy::DOUBLE, 3) AS accuracy,
           [round(accuracy_low::DOUBLE, 3), round(accuracy_high::DOUBLE, 3)] AS accuracy_95,
           round(cv_effect_size::DOUBLE, 2) AS cv_effect_size, round(effect_size::DOUBLE, 2) AS effect_size,
           round(auc::DOUBLE, 3) AS auc, round(overlap::DOUBLE, 3) AS overlap,
           round(train_minus_heldout::DOUBLE, 3) AS train_minus_heldout,
           round(above_random::DOUBLE, 3) AS above_random,
           [round(above_random_low::DOUBLE, 3), round(above_random_high::DOUBLE, 3)] AS above_random_95
    FROM trait_evaluations
    QUALIFY row_number() OVER (PARTITION BY trait, component, method
                               ORDER BY cv_effect_size DESC NULLS LAST, effect_size DESC, accuracy DESC, layer NULLS FIRST) = 1
    ORDER BY trait, component DESC, method = 'random', cv_effect_size DESC NULLS LAST, effect_size DESC, method
"""
"""The best layer of each method, ordered as in the view `trait_best`, from one evaluation's own tables (`TraceStore.query`)."""


def is_published(root: AnyPath, run_id: str, vectors_run: str, options: Options) -> bool:
    """Tell whether this very evaluation is published under that name; raises RunExistsError if another run is."""
    if run_id not in run_list.published_runs(root):
        return False
    meta = TraceStore(paths.run_dir(root, run_id)).meta
    wanted = {**asdict(options), "vectors": manifest_hash(root, open_vectors_run(root, vectors_run).meta.run_id)}
    if meta.kind != KIND or any(meta.options.get(k) != v for k, v in wanted.items()):
        raise RunExistsError(run_id)
    return True


def plot(store: TraceStore, path: str) -> None:
    """Draw accuracy and effect size by layer: a line a method, a row of panels a trait and component, random directions shaded.

    Args:
        store: A published run of kind `trait-evaluation`.
        path: The picture; its ending decides the format.

    Raises:
        UsageError: matplotlib is not installed, or the ending is not that of a picture.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UsageError("A picture needs matplotlib: pip install matplotlib") from None
    answer = store.query("FROM trait_evaluations ORDER BY trait, component DESC, method, layer NULLS FIRST")
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for values in answer.fetchall():
        row = dict(zip(answer.columns, values, strict=True))
        groups.setdefault((row["trait"], row["component"]), {}).setdefault(row["method"], []).append(row)
    figure = Figure(figsize=(11, 3.6 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 2, squeeze=False)
    for line, ((trait, component), methods) in zip(panels, groups.items(), strict=True):
        for axes, column, label in zip(
            line, ("accuracy", "effect_size"), ("held-out accuracy", "Cohen's d, held out"), strict=True
        ):
            for method, rows in methods.items():
                layers = [-1 if r["layer"] is None else r["layer"] for r in rows]
                if method == "random":
                    low, high = ([r[f"{column}_{end}"] for r in rows] for end in ("low", "high"))
                    axes.fill_between(layers, low, high, color="0.85", label="a random direction, 95 %", linewidth=0)
                    continue
                dashed = method == "gradient"  # its line lies on that of mean_diff
                axes.plot(
                    layers,
                    [r[column] for r in rows],
                    "--" if dashed else "-o",
                    markersize=3,
                    label=method,
                    zorder=2 + dashed,
                )
            if column == "accuracy":
                means = next(iter(methods.values()))
                axes.plot([-1 if r["layer"] is None else r["layer"] for r in means],
                          [r["random_accuracy"] for r in means], ":", color="0.4", label="random directions, mean")  # fmt: skip
                axes.set_ylim(0, 1.02)
            axes.set(xlabel="layer (-1: embedding)", ylabel=label, title=f"{trait}, {component}")
            axes.grid(alpha=0.3)
        line[0].legend(loc="lower right", fontsize="small")
    try:
        figure.savefig(path)
    except ValueError as e:  # an unknown ending
        raise UsageError(f"--plot {path}: {e}") from None
