"""Where a feature of a sparse dictionary is most active, with the tokens around; and how its activations lie.

In: a run of kind `features`, or the run that it was made of, and which dictionary's (`find_encoded`). Out: the tokens that a feature is active
at (`find_feature`), and the sequences in which it is most active, each once, with a window of tokens and how active it is at each
(`top_contexts`). `features_of_token` asks the other way about. Rows are read by their key, as SQL takes longer to find out which of very many
rows it need not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from warehouse.catalog.ask import Ask
    from warehouse.storage.trace_store import TraceStore

    OpenRun = Callable[[str], TraceStore]
    """Opens a run by its name, and keeps it open: `Warehouse.cached_run`."""

_DICTIONARIES = """
SELECT d.run_id, d.source_run_id, d.sae, d.side, d.layer, d.site, d.n_features
FROM dictionaries AS d JOIN runs AS r ON r.run_id = d.run_id
WHERE d.run_id = ? OR d.source_run_id = ?
ORDER BY r.created_at DESC, d.run_id, d.sae
"""


class EncodedRun(NamedTuple):
    """A run that was encoded with a dictionary."""

    run_id: str
    """The run of kind `features`."""
    source_run_id: str
    """The run whose states they are of."""
    sae: str
    side: str
    layer: int | None
    site: str
    n_features: int


def find_encoded(ask: Ask, run: str, sae: str | None = None) -> EncodedRun:
    """Find a run of features.

    Args:
        ask: Asks the warehouse.
        run: The run of kind `features`, or the run that was encoded: then the newest.
        sae: The dictionary; None: the only one.

    Returns:
        The run, and what is known of its dictionary.

    Raises:
        UsageError: The run has not been encoded, or with several dictionaries, and none is named.
        NotFoundError: There is no such run, or it has not been encoded with that dictionary.
    """
    known = [EncodedRun(**row) for row in ask(_DICTIONARIES, run, run).to_pylist()]
    if not known:
        runs = ask("SELECT run_id FROM runs ORDER BY run_id")["run_id"].to_pylist()
        if run not in runs:
            raise NotFoundError("run", run, runs)
        raise UsageError(
            f"Run '{run}' has no features. Encode it with a dictionary: traces features encode {run} --sae FOLDER"
        )
    if sae is None:
        newest = [k for k in known if k.run_id == known[0].run_id]
        if len(newest) > 1:
            raise UsageError(
                f"Run '{newest[0].run_id}' has features of {', '.join(k.sae for k in newest)}: name one with --sae."
            )
        return newest[0]
    if named := [k for k in known if k.sae == sae]:
        return named[0]
    raise NotFoundError("dictionary", sae, [k.sae for k in known], f"(run '{run}')")


@dataclass(frozen=True)
class FeatureTokens:
    """The tokens that a feature is active at."""

    encoded: EncodedRun
    feature: int
    rows: pa.Table
    """example_id, seq, pos, activation, in the order of the texts."""

    @property
    def summary(self) -> dict[str, float]:
        """n_tokens and n_sequences that it is active at, mean_activation over these tokens, max_activation; 0 for a dead feature."""
        return {
            "n_tokens": len(self.activation),
            "n_sequences": len(self.bounds) - 1,
            "mean_activation": float(self.activation.mean(dtype=np.float64)) if len(self.activation) else 0.0,
            "max_activation": float(self.activation.max(initial=0)),
        }

    def strongest(self, n: int) -> np.ndarray:
        """Return the places in `rows` of the strongest token of each sequence, the strongest first, n at most."""
        if not len(self.activation):
            return np.zeros(0, np.int64)
        chosen = np.argsort(-np.maximum.reduceat(self.activation, self.bounds[:-1]), kind="stable")[:n]
        return np.array(
            [
                a + self.activation[a:b].argmax()
                for a, b in zip(self.bounds[chosen], self.bounds[chosen + 1], strict=True)
            ]
        )

    @cached_property
    def activation(self) -> np.ndarray:
        """How active it is at each."""
        activation: np.ndarray = self.rows["activation"].to_numpy()
        return activation

    @cached_property
    def bounds(self) -> np.ndarray:
        """Where each sequence begins in `rows`, and then where the last of them ends."""
        return _bounds(self.rows)


def find_feature(open_run: OpenRun, encoded: EncodedRun, feature: int) -> FeatureTokens:
    """Find the tokens that a feature is active at.

    Args:
        open_run: Opens a run.
        encoded: The run of features, from `find_encoded`.
        feature: The feature.

    Returns:
        The tokens.

    Raises:
        NotFoundError: There is no such feature.
    """
    if not 0 <= feature < encoded.n_features:
        raise NotFoundError("feature", feature, [f"0 to {encoded.n_features - 1}"], f"(of {encoded.sae})")
    columns = ("example_id", "seq", "pos", "activation")
    rows = open_run(encoded.run_id).rows_with("feature_tokens", columns, {"sae": encoded.sae, "feature": feature})
    return FeatureTokens(encoded, feature, rows.unify_dictionaries().combine_chunks())


def features_of_token(open_run: OpenRun, encoded: EncodedRun, example_id: str, pos: int, seq: int = 0) -> pa.Table:
    """Return the features that are active at a token, the strongest first.

    Args:
        open_run: Opens a run.
        encoded: The run of features, from `find_encoded`.
        example_id: The example.
        pos: The token's position.
        seq: Which of the example's sequences.

    Returns:
        A row a feature: feature, activation.
    """
    equal: dict[str, str | int] = {"example_id": example_id, "seq": seq, "pos": pos, "sae": encoded.sae}
    rows = open_run(encoded.run_id).rows_with("features", ("feature", "activation"), equal)
    return rows.sort_by([("activation", "descending"), ("feature", "ascending")])


@dataclass(frozen=True)
class Context:
    """The token of a sequence where a feature is most active, and the tokens around it."""

    activation: float
    example_id: str
    seq: int
    pos: int
    first_pos: int
    """The position of the first of `tokens`."""
    tokens: list[str]
    activations: list[float | None]
    """How active the feature is at each; None: not."""


def top_contexts(
    open_run: OpenRun, found: FeatureTokens, *, n: int = 20, before: int = 12, after: int = 6
) -> list[Context]:
    """Return the sequences in which a feature is most active, each by its strongest token.

    Example:
        encoded = find_encoded(asker(wh), "first")
        top_contexts(wh.cached_run, find_feature(wh.cached_run, encoded, 7), n=10)

    Args:
        open_run: Opens a run.
        found: The feature.
        n: How many sequences, at most.
        before: Tokens before the strongest one, at most.
        after: Tokens after it, at most.

    Returns:
        The contexts, the strongest first.
    """
    strongest = found.strongest(n)
    top = found.rows.take(pa.array(strongest)).to_pylist()
    columns = ("example_id", "seq", "side", "pos", "token")
    of = open_run(found.encoded.source_run_id).rows_of("tokens", columns, {row["example_id"] for row in top})
    of = of.filter(pc.equal(of["side"], found.encoded.side)).combine_chunks()
    bounds = _bounds(of)
    begin = of.take(pa.array(bounds[:-1]))
    texts = {
        key: i for i, key in enumerate(zip(begin["example_id"].to_pylist(), begin["seq"].to_pylist(), strict=True))
    }
    positions, own_positions = of["pos"].to_numpy(), found.rows["pos"].to_numpy()
    contexts = []
    for row, place in zip(top, strongest, strict=True):
        around = row["pos"] - before, row["pos"] + after + 1
        i, own = texts[row["example_id"], row["seq"]], np.searchsorted(found.bounds, place, "right") - 1
        here = _between(positions, bounds[i], bounds[i + 1], around)
        near = _between(own_positions, found.bounds[own], found.bounds[own + 1], around)
        active = dict(zip(own_positions[near].tolist(), found.activation[near].tolist(), strict=True))
        tokens = of["token"][here.start : here.stop].to_pylist()
        activations = [active.get(pos) for pos in positions[here].tolist()]
        contexts.append(Context(**row, first_pos=int(positions[here.start]), tokens=tokens, activations=activations))
    return contexts


def _between(positions: np.ndarray, start: int, end: int, around: tuple[int, int]) -> slice:
    """Return which of a sequence's rows, from start to end, have positions from the first of `around` to before the last."""
    first, stop = (np.searchsorted(positions[start:end], around) + start).tolist()
    return slice(first, stop)


def _bounds(rows: pa.Table) -> np.ndarray:
    """Return where each sequence of rows in order begins, and then where the last of them ends."""
    if not len(rows):
        return np.zeros(1, np.int64)
    example, seq = rows["example_id"].chunk(0), rows["seq"].to_numpy()
    example = example if isinstance(example, pa.DictionaryArray) else example.dictionary_encode()
    begins = np.flatnonzero((np.diff(example.indices.to_numpy()) != 0) | (np.diff(seq) != 0)) + 1
    return np.concatenate([[0], begins, [len(rows)]])
