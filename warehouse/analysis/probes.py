"""Linear probes: what of a token's label can be read off its vector, layer by layer, by a logistic regression.

In: a query that picks tokens and their labels. Out: a run of kind `probe`, with a row of the table `probes` and a tensor of
weights per layer. `Warehouse.probe` and `traces probe` call it.

Examples are split, never tokens: neighbours in a text resemble each other, and a probe that has seen one knows the other. The
split gives each label the same share on both sides, as far as whole examples allow. Every accuracy has a 95 % interval that
counts examples, not tokens (`intervals.wilson_by_group`). Beside it stand two baselines on the held-out tokens: the accuracy of
always giving the commonest training label, and the mean and the spread of ten probes fitted to shuffled labels, which is what the
method gives where there is nothing to be found (compare Hewitt and Liang 2019, "Designing and Interpreting Probes with Control
Tasks").
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash

from warehouse.activations.gather import TokenSelection, stored_key
from warehouse.analysis import intervals
from warehouse.catalog.publish import publish
from warehouse.errors import UncertainResultWarning, UsageError
from warehouse.schema import sites
from warehouse.schema.sites import Key
from warehouse.storage import paths, run_list
from warehouse.storage.blobs import TensorSpec
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from warehouse.catalog.catalog import Catalog

_SHUFFLES = 10
"""Probes that are fitted to shuffled labels, per layer."""

_FEW = 50
"""Fewer held-out examples than this cause a warning: an accuracy of 0.5 is then known to 0.14 either way, at best."""


@dataclass(frozen=True)
class Options:
    """What a probe reads, and how it is fitted."""

    query: str
    """SELECTs run_id, example_id, seq, pos and the labels, in the column `target`."""
    site: str = "resid.post_mlp"
    layers: str | tuple[int, ...] = "all"
    head: int | None = None
    side: str | None = None
    target: str = "y"
    test: float = 0.25
    """Part of the tokens, in whole examples, that accuracy is measured on."""
    max_tokens: int = 10_000
    """Most tokens that are read; of more, a sample of whole examples."""
    c: float = 0.1
    """Inverse strength of the L2 penalty, on standardised vectors."""
    seed: int = 0


@dataclass
class ProbeProgress:
    """How far a probe is, reported after every layer."""

    run_id: str
    layer: int | None
    done: int
    of: int
    accuracy: float | None
    """None where an earlier process fitted the layer."""


@dataclass(frozen=True)
class _Split:
    """The rows of a query in training and held-out ones."""

    train: np.ndarray
    """Numbers of the training rows."""
    test: np.ndarray
    """Numbers of the held-out rows."""
    classes: np.ndarray
    """The training labels, sorted."""
    y: np.ndarray
    """The number of every row's class; -1 for a label that no training row has."""
    example: np.ndarray
    """The number of every row's example."""


def probe(
    catalog: Catalog,
    options: Options,
    run_id: str | None = None,
    report: Callable[[ProbeProgress], None] = lambda _: None,
) -> TraceStore:
    """Fit a probe per layer and publish them as a run of kind `probe`, with the table `probes`.

    The same call goes on where an earlier one was interrupted. Warns (UncertainResultWarning) where few examples were held out, or
    have labels that no training example has.

    Args:
        catalog: The warehouse.
        options: What to read, and how to fit.
        run_id: Name of the run; None for a name made from the options and the query's rows. A run of that made name that exists
            already is returned as it is.
        report: Called after every layer.

    Returns:
        The published run.

    Raises:
        UsageError: For a query without keys or labels, fewer than two labels or examples, labels that occur once only, and as
            `Warehouse.matrix` raises it.
    """
    if not 0 < options.test < 1 or options.c <= 0 or options.max_tokens < 2:
        raise UsageError("test is between 0 and 1, c above 0, and max_tokens at least 2.")
    picked = TokenSelection(catalog, options.query, options.side)
    if options.target not in picked.answer.column_names:
        raise UsageError(f"The query gives no column {options.target}: let it SELECT the labels AS {options.target}.")
    layers = _layers(picked.store, options)
    parents = sorted(set(picked.answer["run_id"].to_pylist()))
    facts = {"parents": parents, "rows": _hash_rows(picked.answer), **asdict(options)}
    name = run_id or f"probe-{options.site}-{RunIdentity('probe', facts).digest(12)}"
    if run_id is None and run_list.is_published(catalog.root, name):
        return _warn_of_doubts(TraceStore(paths.run_dir(catalog.root, name)))
    split = _split(picked.answer, options)
    key = stored_key(picked.store, options.site, layers[0], options.side)
    if options.head is None and picked.store.has(key) and len(picked.store.row_shape(key)) == 2:
        raise UsageError(f"{options.site} has a vector for every head: say which, with head.")
    identity = RunIdentity("probe", {**facts, "layers": [str(i) for i in layers]})
    with RunWriter(catalog.root, name, identity.to_dict()) as writer:
        for number, layer in enumerate(layers):
            accuracy = None
            if number >= len(writer.done):
                accuracy = _probe_layer(writer, number, picked, layer, split, options)
            report(ProbeProgress(name, layer, number + 1, len(layers), accuracy))
        publish(writer, lambda published: picked.store.meta.derive("probe", name, parents, asdict(options), published))
    return _warn_of_doubts(TraceStore(paths.run_dir(catalog.root, name)))


def _warn_of_doubts(store: TraceStore) -> TraceStore:
    """Return the run of a probe, after warning of what makes its accuracies uncertain."""
    row = next(rows(store))
    n, examples, unknown = row["n_test"], row["n_test_examples"], row["n_test_unknown"]
    if examples < _FEW:
        warnings.warn(
            f"{store.meta.run_id}: judged on {n:,} tokens of {examples} example{'s' * (examples != 1)}, fewer than {_FEW}: the 95 % "
            f"interval of the first accuracy is {row['accuracy_low']:.2f} to {row['accuracy_high']:.2f}. Give more texts, or a larger "
            "part to judge by (test).",
            UncertainResultWarning,
            stacklevel=4,
        )
    if unknown:
        warnings.warn(
            f"{store.meta.run_id}: {unknown:,} of {n:,} held-out tokens have a label that no training token has, and count as "
            "wrong. Leave rare labels out of the query, or put them together.",
            UncertainResultWarning,
            stacklevel=4,
        )
    return store


def _layers(store: TraceStore, options: Options) -> list[int | None]:
    """Return the layers to probe, which the run must have stored."""
    if options.site == "resid.embed":
        return [None]
    if not isinstance(options.layers, str):
        if not options.layers:
            raise UsageError("No layer is given.")
        return list(dict.fromkeys(options.layers))
    if options.layers != "all":
        raise UsageError(f"layers={options.layers!r}: give 'all' or numbers.")
    n = store.meta.model.stack(options.side or store.meta.model.side).n_layers + (options.site == "hidden")
    layers: list[int | None] = [i for i in range(n) if store.has(stored_key(store, options.site, i, options.side))]
    if not layers:
        stored_key(store, options.site, 0, options.side)  # raises for a site that does not exist
        raise UsageError(f"Run '{store.meta.run_id}' did not store {options.site}.")
    return layers


def _hash_rows(answer: pa.Table) -> str:
    """Return a hash of the query's rows: the same query over a warehouse that has changed is another probe."""
    digest = xxhash.xxh3_128()
    for column in answer.itercolumns():
        for value in column.to_pylist():
            digest.update(f"{value}\x1f".encode())
    return digest.hexdigest()


def _split(answer: pa.Table, options: Options) -> _Split:
    labels = answer[options.target]
    known = np.flatnonzero(~np.asarray(labels.is_null()))
    names = np.asarray(answer["example_id"].to_pylist(), dtype=object)[known]
    examples = np.unique(names.astype(str), return_inverse=True)[1]
    if not len(examples) or examples.max() < 1:
        raise UsageError(
            "A probe needs labelled tokens of two examples or more: it is judged on examples it has not seen."
        )
    random = np.random.default_rng(options.seed)
    kept = _sample_examples(examples, options.max_tokens, random)
    known, examples = known[kept], examples[kept]
    values = np.asarray(labels.take(pa.array(known)).to_pylist(), dtype=object).astype(str)
    test = _choose_held_out(values, examples, options)
    classes = np.unique(values[~test])
    if len(classes) < 2:
        raise UsageError(f"A probe needs two labels or more to tell apart; the training examples have {len(classes)}.")
    y = np.searchsorted(classes, values).clip(max=len(classes) - 1)
    y = np.where(classes[y] == values, y, -1)  # a label that no training example has is never right
    n = len(answer)
    return _Split(known[~test], known[test], classes, _scatter(y, known, n), _scatter(examples, known, n))


def _choose_held_out(values: np.ndarray, examples: np.ndarray, options: Options) -> np.ndarray:
    """Choose the rows to hold out: whole examples, in which each label has about the share that it has among all rows."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    counts = np.unique(values, return_counts=True)[1]
    groups = len(np.unique(examples))
    most = min(100, groups, int(counts.max()))
    if most < 2:
        raise UsageError(
            f"Each of the {len(counts):,} labels occurs at one token only, so that none can be both learnt and tested. A probe tells "
            "classes apart: put numbers into a few ranges first, as in width_bucket or CASE."
        )
    part = Fraction(options.test).limit_denominator(most)
    folds, held_out = part.denominator, part.numerator
    if not 0 < held_out < folds:
        folds, held_out = most, 1 if held_out == 0 else most - 1
    # The splitter for groups takes a minute to put 10,000 of them in 100 folds.
    splitter = (StratifiedKFold if groups == len(examples) else StratifiedGroupKFold)(
        folds, shuffle=True, random_state=options.seed
    )
    test = np.zeros(len(values), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about rare labels, which are then on one side only
        for _, rows in islice(splitter.split(values, values, examples), held_out):
            test[rows] = True
    return test


def _scatter(y: np.ndarray, at: np.ndarray, n: int) -> np.ndarray:
    """Put values at their rows of n, and -1 at the others."""
    scattered = np.full(n, -1)
    scattered[at] = y
    return scattered


def _sample_examples(groups: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Return the rows of random examples that together have at most `most` tokens."""
    if len(groups) <= most:
        return np.arange(len(groups))
    order = random.permutation(groups.max() + 1)
    counts = np.bincount(groups)
    n = max(2, int(np.searchsorted(np.cumsum(counts[order]), most, side="right")))
    return np.flatnonzero(np.isin(groups, order[:n]))


def _probe_layer(
    writer: RunWriter, number: int, picked: TokenSelection, layer: int | None, split: _Split, options: Options
) -> float:
    """Fit one layer's probe, write it as a shard, and return its accuracy on the held-out tokens."""
    key = stored_key(picked.store, options.site, layer, options.side)
    x = picked.vectors(options.site, layer, options.head, np.float32)
    if not np.isfinite(x).all():
        raise UsageError(
            f"{options.site} has values in layer {layer} that are not finite (NaN or infinity): not probed."
        )
    y = split.y
    train, test = split.train, split.test
    weights, fitted = _fit(x[train], y[train], len(split.classes), options)
    right = _is_right(weights, x[test], y[test])
    low, high = intervals.wilson_by_group(right, split.example[test])
    shuffled = [
        _is_right(_fit(x[train], labels, len(split.classes), options)[0], x[test], y[test]).mean()
        for labels in _shuffle_labels(y[train], split.example[train], options.seed)
    ]
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
        "n_test_examples": len(np.unique(split.example[test])),
        "n_test_unknown": int((y[test] < 0).sum()),
        "accuracy": right.mean(),
        "accuracy_low": low,
        "accuracy_high": high,
        "train_accuracy": fitted,
        "majority_accuracy": (y[test] == commonest).mean(),
        "shuffled_accuracy": np.mean(shuffled),
        "shuffled_sd": np.std(shuffled, ddof=1),
        "blob": paths.blob_file(number),
        "tensor": sites.tensor_name(*named),
    }
    spec = TensorSpec("F32", (weights.shape[1],))
    writer.begin_shard({named: len(weights)}, {named: spec})
    table = to_table("probes", {name: [value] for name, value in row.items()})
    writer.put(RecordedBatch([], {named: weights}, {named: []}, {"probes": table}))
    writer.end_shard(f"layer {layer}")
    return float(row["accuracy"])


def _shuffle_labels(y: np.ndarray, examples: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield training labels in random orders: among examples where each has one label at all its tokens, else among tokens."""
    _, first, inverse = np.unique(examples, return_index=True, return_inverse=True)
    by_example = y[first]
    one_label_each = bool((by_example[inverse] == y).all())
    for draw in range(_SHUFFLES):
        random = np.random.default_rng((seed, 1, draw))
        yield random.permutation(by_example)[inverse] if one_label_each else random.permutation(y)


def _fit(x: np.ndarray, y: np.ndarray, n_classes: int, options: Options) -> tuple[np.ndarray, float]:
    """Return weights (classes, width + 1) for unstandardised vectors, intercepts last, and the accuracy on the training rows."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = x.mean(0), x.std(0)
    scale[scale == 0] = 1
    model = LogisticRegression(C=options.c, max_iter=100, tol=1e-3, random_state=options.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping after a hundred steps from zero is a penalty too
        model.fit((x - mean) / scale, y)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn gives one row for two classes, the second's
        coefficients, intercepts = np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * intercepts / 2
    weights = np.zeros((n_classes, x.shape[1] + 1))
    weights[:, -1] = -np.inf
    weights[model.classes_, :-1] = coefficients / scale
    weights[model.classes_, -1] = intercepts - (coefficients / scale) @ mean
    weights[np.isinf(weights)] = np.finfo(np.float32).min
    narrow = np.ascontiguousarray(weights, np.float32)
    return narrow, float(_is_right(narrow, x, y).mean())


def _is_right(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell of each row whether its highest score is that of its label, (N,)."""
    right: np.ndarray = (x @ weights[:, :-1].T + weights[:, -1]).argmax(1) == y
    return right


def rows(store: TraceStore) -> Iterator[dict[str, Any]]:
    """Yield the rows of a probe run's table `probes`, by layer."""
    answer = store.query("FROM probes ORDER BY layer")
    for row in answer.fetchall():
        yield dict(zip(answer.columns, row, strict=True))
