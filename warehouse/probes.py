"""Linear probes: what of a token's label can be read off its vector, layer by layer, by a logistic regression.

Examples are split, never tokens: neighbours in a text resemble each other, and a probe that has seen one knows the other. Beside
every accuracy stand that of always giving the commonest label, and that of a probe fitted to shuffled labels, which is what
the method gives where there is nothing to be found (compare Hewitt and Liang 2019, "Designing and Interpreting Probes with
Control Tasks").
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash

from warehouse import layout
from warehouse.blobs import TensorSpec
from warehouse.errors import UsageError
from warehouse.matrix import Picked, stored_key
from warehouse.schema import SCHEMA_VERSION
from warehouse.sites import Key
from warehouse.store import TraceStore
from warehouse.tables import to_table
from warehouse.writer import Batch, RunWriter

if TYPE_CHECKING:
    from warehouse.catalog import Warehouse


@dataclass(frozen=True)
class Options:
    query: str
    """Gives run_id, example_id, seq, pos and the labels, in the column `target`."""
    site: str = "resid.post_mlp"
    layers: str | tuple[int, ...] = "all"
    head: int | None = None
    side: str | None = None
    target: str = "y"
    test: float = 0.25
    """Part of the examples that the probe is judged on."""
    max_tokens: int = 10_000
    """Most tokens that are looked at; of more, a sample of whole examples."""
    c: float = 0.1
    """Inverse strength of the L2 penalty, on standardised vectors."""
    seed: int = 0


@dataclass
class Fitted:
    """How far a probing is: called back after every layer."""

    run_id: str
    layer: int | None
    done: int
    of: int
    accuracy: float | None
    """None: an earlier process had fitted it."""


@dataclass(frozen=True)
class _Split:
    train: np.ndarray
    test: np.ndarray
    """Which rows."""
    classes: np.ndarray
    y: np.ndarray
    """The number of every row's class."""


def probe(
    wh: Warehouse, options: Options, run_id: str | None = None, report: Callable[[Fitted], None] = lambda _: None
) -> TraceStore:
    """Fits a probe a layer and publishes them as a run of kind `probe`, with the table `probes`.

    The same call goes on where an earlier one was interrupted; left unnamed and there already, the run is returned as it is.
    Raises UsageError for a query without keys or labels, fewer than two labels or examples, and as `Warehouse.matrix` does.
    """
    if not 0 < options.test < 1 or options.c <= 0 or options.max_tokens < 2:
        raise UsageError("test is between 0 and 1, c above 0, and max_tokens at least 2.")
    picked = Picked(wh, options.query, options.side)
    if options.target not in picked.answer.column_names:
        raise UsageError(f"The query gives no column {options.target}: let it SELECT the labels AS {options.target}.")
    layers = _layers(picked.store, options)
    parents = sorted(set(picked.answer["run_id"].to_pylist()))
    identity = {"kind": "probe", "schema_version": SCHEMA_VERSION, "parents": parents, "rows": _hash(picked.answer),
                **asdict(options)}  # fmt: skip
    name = run_id or f"probe-{options.site}-{xxhash.xxh3_64_hexdigest(repr(sorted(identity.items())).encode())[:12]}"
    if run_id is None and (layout.run_dir(wh.root, name) / layout.MANIFEST).is_file():
        return TraceStore(layout.run_dir(wh.root, name))
    split = _split(picked.answer, options)
    key = stored_key(picked.store, options.site, layers[0], options.side)
    if options.head is None and picked.store.has(key) and len(picked.store.row_shape(key)) == 2:
        raise UsageError(f"{options.site} has a vector for every head: say which, with head.")
    identity["layers"] = [str(i) for i in layers]
    with RunWriter(wh.root, name, identity) as writer:
        for number, layer in enumerate(layers):
            accuracy = None
            if number >= len(writer.done):
                accuracy = _layer(writer, number, picked, layer, split, options)
            report(Fitted(name, layer, number + 1, len(layers), accuracy))
        writer.publish(lambda published: picked.store.meta.derived("probe", name, parents, asdict(options), published))
    return TraceStore(layout.run_dir(wh.root, name))


def _layers(store: TraceStore, options: Options) -> list[int | None]:
    """The layers to probe, which the run must have stored."""
    if options.site == "resid.embed":
        return [None]
    if not isinstance(options.layers, str):
        if not options.layers:
            raise UsageError("No layer is asked for.")
        return list(dict.fromkeys(options.layers))
    if options.layers != "all":
        raise UsageError(f"layers {options.layers!r}: give 'all' or numbers.")
    n = store.meta.model.stack(options.side or store.meta.model.side).n_layers + (options.site == "hidden")
    found: list[int | None] = [i for i in range(n) if store.has(stored_key(store, options.site, i, options.side))]
    if not found:
        stored_key(store, options.site, 0, options.side)
        raise UsageError(f"Run '{store.meta.run_id}' did not store {options.site}.")
    return found


def _hash(answer: pa.Table) -> str:
    """Of the rows that the query picked: the same query over a warehouse that has changed is another probe."""
    digest = xxhash.xxh3_128()
    for column in answer.itercolumns():
        for value in column.to_pylist():
            digest.update(f"{value}\x1f".encode())
    return digest.hexdigest()


def _split(answer: pa.Table, options: Options) -> _Split:
    from sklearn.model_selection import GroupShuffleSplit

    labels = answer[options.target]
    known = np.flatnonzero(~np.asarray(labels.is_null()))
    examples = np.asarray(answer["example_id"].to_pylist(), dtype=object)[known]
    groups = np.unique(examples.astype(str), return_inverse=True)[1]
    if not len(groups) or groups.max() < 1:
        raise UsageError(
            "A probe needs labelled tokens of two examples or more: it is judged on examples it has not seen."
        )
    random = np.random.default_rng(options.seed)
    kept = _whole_examples(groups, options.max_tokens, random)
    known, groups = known[kept], groups[kept]
    values = np.asarray(labels.take(pa.array(known)).to_pylist(), dtype=object).astype(str)
    splitter = GroupShuffleSplit(n_splits=1, test_size=options.test, random_state=options.seed)
    train, test = next(splitter.split(known, groups=groups))
    classes = np.unique(values[train])
    if len(classes) < 2:
        raise UsageError(f"A probe needs two labels or more to tell apart; the training examples have {len(classes)}.")
    y = np.searchsorted(classes, values).clip(max=len(classes) - 1)
    y = np.where(classes[y] == values, y, -1)  # a label that no training example has is never right
    return _Split(known[train], known[test], classes, _scattered(y, known, len(answer)))


def _scattered(y: np.ndarray, at: np.ndarray, n: int) -> np.ndarray:
    found = np.full(n, -1)
    found[at] = y
    return found


def _whole_examples(groups: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Rows of as many examples, in random order, as have `most` tokens together."""
    if len(groups) <= most:
        return np.arange(len(groups))
    order = random.permutation(groups.max() + 1)
    counts = np.bincount(groups)
    n = max(2, int(np.searchsorted(np.cumsum(counts[order]), most, side="right")))
    return np.flatnonzero(np.isin(groups, order[:n]))


def _layer(writer: RunWriter, number: int, picked: Picked, layer: int | None, split: _Split, options: Options) -> float:
    key = stored_key(picked.store, options.site, layer, options.side)
    x = picked.vectors(options.site, layer, options.head, np.float32)
    if not np.isfinite(x).all():
        raise UsageError(
            f"{options.site} has values in layer {layer} that are not finite (NaN or infinity): not probed."
        )
    y = split.y
    train, test = split.train, split.test
    weights, fitted = _fit(x[train], y[train], len(split.classes), options)
    shuffled, _ = _fit(x[train], np.random.default_rng((options.seed, 1)).permutation(y[train]), len(split.classes), options)  # fmt: skip
    commonest = np.bincount(y[train]).argmax()
    named = Key(key.side, f"probe.{options.site}", layer)
    row: dict[str, Any] = {
        "side": key.side,
        "site": options.site,
        "layer": layer,
        "head": options.head,
        "classes": split.classes.tolist(),
        "n_train": len(train),
        "n_test": len(test),
        "accuracy": _accuracy(weights, x[test], y[test]),
        "train_accuracy": fitted,
        "majority_accuracy": float((y[test] == commonest).mean()),
        "shuffled_accuracy": _accuracy(shuffled, x[test], y[test]),
        "blob": layout.blob_name(number),
        "tensor": layout.tensor_name(*named),
    }
    spec = TensorSpec("F32", (weights.shape[1],))
    writer.begin_shard({named: len(weights)}, {named: spec})
    table = to_table("probes", {name: [value] for name, value in row.items()})
    writer.put(Batch([], {named: weights}, {named: []}, {"probes": table}))
    writer.end_shard(f"layer {layer}")
    return float(row["accuracy"])


def _fit(x: np.ndarray, y: np.ndarray, n_classes: int, options: Options) -> tuple[np.ndarray, float]:
    """(classes, width + 1): coefficients of the vectors as they are, and intercepts; and the accuracy on what it was fitted to."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = x.mean(0), x.std(0)
    scale[scale == 0] = 1
    model = LogisticRegression(C=options.c, max_iter=100, tol=1e-3, random_state=options.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred steps from zero are a penalty of their own
        model.fit((x - mean) / scale, y)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row for two classes: the second's
        coefficients, intercepts = np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * intercepts / 2
    weights = np.zeros((n_classes, x.shape[1] + 1))
    weights[:, -1] = -np.inf
    weights[model.classes_, :-1] = coefficients / scale
    weights[model.classes_, -1] = intercepts - (coefficients / scale) @ mean
    weights[np.isinf(weights)] = np.finfo(np.float32).min
    found = np.ascontiguousarray(weights, np.float32)
    return found, _accuracy(found, x, y)


def _accuracy(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    scores = x @ weights[:, :-1].T + weights[:, -1]
    return float((scores.argmax(1) == y).mean())


def rows(store: TraceStore) -> Iterator[dict[str, Any]]:
    """A probe run's table, layer by layer."""
    answer = store.query("FROM probes ORDER BY layer")
    for row in answer.fetchall():
        yield dict(zip(answer.columns, row, strict=True))


def plot(store: TraceStore, path: str) -> None:
    """Accuracy by layer with its baselines, as a picture. Raises UsageError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UsageError("A picture needs matplotlib: pip install matplotlib") from None
    found = list(rows(store))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    layers = [-1 if r["layer"] is None else r["layer"] for r in found]
    for column, label, style in (
        ("accuracy", "held-out examples", "-o"),
        ("shuffled_accuracy", "fitted to shuffled labels", ":"),
        ("majority_accuracy", "the commonest label", "--"),
    ):
        axes.plot(layers, [r[column] for r in found], style, label=label, markersize=4)
    axes.set(
        xlabel="layer", ylabel="accuracy", ylim=(0, 1), title=f"{found[0]['site']}: {store.meta.options['target']}"
    )
    axes.legend(loc="lower right")
    figure.savefig(path)
