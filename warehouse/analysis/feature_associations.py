"""Which features of a sparse dictionary go with a property of tokens: a part of speech, a label, a role, or being right.

For each feature and each value of the property: is it active at another share of the tokens with that value than of the others? Tokens of one
text resemble each other, so that examples are counted, not tokens: the standard error of the difference of the two shares is that of
ratios over examples (linearised, as for cluster samples: Cochran 1977, "Sampling Techniques", section 6.3). Thousands of features are tested at
once; `q_value` is the p-value corrected for that, by the rate of false discoveries among all that are tested (Benjamini and Hochberg 1995,
"Controlling the False Discovery Rate").

In: a run of features, and a property. Out: a run of kind `features-associations` with the table `feature_associations`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from warehouse.analysis.feature_contexts import EncodedRun, find_encoded
from warehouse.catalog.ask import asker
from warehouse.catalog.publish import publish
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage import paths
from warehouse.storage.manifest import manifest_hash
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    import duckdb

    from warehouse.catalog.catalog import Catalog

KIND = "features-associations"

PROPERTIES = {
    "upos": "JOIN words AS w USING (run_id, example_id, word_idx) | w.upos",
    "deprel": "JOIN words AS w USING (run_id, example_id, word_idx) | w.deprel",
    "role": " | t.role",
    "label": "JOIN labels AS l USING (run_id, example_id) | l.label",
    "correct": "JOIN next_token AS n USING (run_id, example_id, seq, pos) | if(n.correct, 'right', 'wrong')",
    "answer": "JOIN mcq_predictions AS q USING (run_id, example_id) | if(q.is_correct, 'right', 'wrong')",
}
"""The properties, and how SQL finds them: what is joined to a token `t`, and the value. Tokens without one are not looked at."""

_FEATURES = 256
"""Features that are tested at once."""

_CASES = """
CREATE OR REPLACE TEMP TABLE association_cases AS
SELECT t.example_id, t.seq, t.pos, {value} AS value
FROM tokens AS t {joined}
WHERE t.run_id = ? AND t.side = ? AND NOT t.is_special AND NOT coalesce(t.is_context, false) AND {value} IS NOT NULL
"""
_ACTIVE = """
SELECT f.feature, c.example_id, {value} count(*) AS n
FROM feature_tokens AS f JOIN {tokens} AS c USING (example_id, seq, pos)
WHERE f.run_id = ? AND f.sae = ? AND f.feature BETWEEN ? AND ?
GROUP BY ALL
"""


@dataclass(frozen=True)
class Options:
    """What is tested."""

    by: str
    """One of `PROPERTIES`."""
    min_examples: int = 10
    """Features that are active in fewer examples are left out, and values that fewer examples have: too few for an error to be known."""

    def __post_init__(self) -> None:
        """Check the options; raises NotFoundError for a property that is none, UsageError for too few examples."""
        if self.by not in PROPERTIES:
            raise NotFoundError("property", self.by, PROPERTIES)
        if self.min_examples < 2:
            raise UsageError("An error needs two examples at least.")


def associate(
    catalog: Catalog,
    run: str,
    options: Options,
    *,
    sae: str | None = None,
    run_id: str | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> TraceStore:
    """Test every feature for every value of a property, and publish what is found as a run.

    The same call goes on where an earlier one was interrupted.

    Args:
        catalog: The warehouse.
        run: The run of kind `features`, or the run that was encoded.
        options: The property.
        sae: The dictionary; None: the only one.
        run_id: The new run's name; None: that of the features, and `-by-PROPERTY`.
        report: Called with the features that are done, and all of them.

    Returns:
        The run, with the table `feature_associations`.

    Raises:
        UsageError: The run has no features, or no tokens with that property; or no feature and value have enough examples.
        NotFoundError: There is no such dictionary.
        RunExistsError: The new run exists already.
    """
    encoded = find_encoded(asker(catalog), run, sae)
    name = run_id or f"{encoded.run_id}-by-{options.by}"
    parents = [encoded.source_run_id, encoded.run_id]
    said = {**asdict(options), "sae": encoded.sae}
    facts = said | {"parents": {parent: manifest_hash(catalog.root, parent) for parent in parents}}
    store = TraceStore(paths.run_dir(catalog.root, encoded.run_id))
    cursor = catalog.cursor()
    cases = _Cases(cursor, encoded, options)
    with RunWriter(catalog.root, name, RunIdentity(KIND, facts).to_dict()) as writer:
        found = []
        for first in range(0, encoded.n_features, _FEATURES):
            found.append(cases.test(first, min(first + _FEATURES, encoded.n_features)))
            report(min(first + _FEATURES, encoded.n_features), encoded.n_features)
        tests = _Tests(*(np.concatenate(column) for column in zip(*(asdict(t).values() for t in found), strict=True)))
        if not len(tests.feature):
            raise UsageError(
                f"No feature of run '{encoded.run_id}' is active in {options.min_examples} examples, or no {options.by} is in as "
                "many: encode more texts, or lower --min-examples."
            )
        writer.begin_shard({}, {})
        writer.put(
            RecordedBatch(
                [],
                {},
                {},
                {"feature_associations": _rows(encoded, options.by, cases.values, tests, len(cases.examples))},
            )
        )
        writer.end_shard("all")
        publish(writer, lambda staged: store.meta.derive(KIND, name, parents, said, staged))
    return TraceStore(paths.run_dir(catalog.root, name))


@dataclass(frozen=True)
class _Tests:
    """Tests, an element each."""

    feature: np.ndarray
    value: np.ndarray
    """The place of the value among all."""
    n_tokens: np.ndarray
    n_active: np.ndarray
    n_other_tokens: np.ndarray
    n_other_active: np.ndarray
    n_examples: np.ndarray
    z: np.ndarray


class _Cases:
    """The tokens that have the property: E examples and G values."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, encoded: EncodedRun, options: Options) -> None:
        self._cursor, self._encoded, self._least = cursor, encoded, options.min_examples
        joined, value = PROPERTIES[options.by].split("|")
        cursor.execute(_CASES.format(joined=joined, value=value), [encoded.source_run_id, encoded.side])
        cursor.execute(
            "CREATE OR REPLACE TEMP TABLE association_tokens AS SELECT DISTINCT example_id, seq, pos FROM association_cases"
        )
        self.examples = self._column("SELECT DISTINCT example_id FROM association_tokens ORDER BY 1")
        self.values = self._column("SELECT DISTINCT value FROM association_cases ORDER BY 1")
        if not len(self.examples):
            raise UsageError(
                f"Run '{encoded.source_run_id}' has no tokens with {options.by}, so that nothing goes with it."
            )
        self._n = np.zeros((len(self.examples), len(self.values)))
        """(E, G): tokens of each example with each value."""
        example, of_value, n = self._counts("SELECT example_id, value, count(*) FROM association_cases GROUP BY ALL")
        self._n[example, of_value] = n
        self._m = np.zeros(len(self.examples))
        """(E,): tokens of each example."""
        example, n = self._counts("SELECT example_id, count(*) FROM association_tokens GROUP BY ALL")
        self._m[example] = n

    def _column(self, query: str) -> np.ndarray:
        return np.array([value for (value,) in self._cursor.execute(query).fetchall()], object)

    def _counts(self, query: str, values: list[object] | None = None) -> list[np.ndarray]:
        """Return the columns of an answer, with examples and values as their places."""
        answer = self._cursor.execute(query, values or []).to_arrow_table()
        places = {"example_id": self.examples, "value": self.values}
        return [
            np.searchsorted(places[name].astype(str), column.to_numpy().astype(str))
            if name in places
            else column.to_numpy()
            for name, column in zip(answer.column_names, answer.columns, strict=True)
        ]

    def test(self, first: int, past: int) -> _Tests:
        """Test the features from `first` to before `past` for every value.

        With a of n tokens active that have the value and c of k that have not, in each example, the difference of the shares is
        Σa/Σn - Σc/Σk, and its variance the sum over examples of ((a - r·n)/N - (c - s·k)/K)² with r = Σa/Σn and s = Σc/Σk. As c = b - a and
        k = m - n, where b and m count all tokens, sums over what is active suffice.

        Args:
            first: The first feature.
            past: One past the last.

        Returns:
            The tests of which an error is known.
        """
        from scipy import sparse

        key = [self._encoded.run_id, self._encoded.sae, first, past - 1]
        feature, example, b = self._counts(_ACTIVE.format(value="", tokens="association_tokens"), key)
        f, e, g, a = self._counts(_ACTIVE.format(value="c.value,", tokens="association_cases"), key)
        shape, sizes = (past - first, len(self.examples)), (past - first, len(self.values))
        active = sparse.csr_array((b.astype(float), (feature - first, example)), shape)
        n, m, f = self._n, self._m, f - first
        b_of_a = active[f, e] if len(f) else np.zeros(0)

        def summed(values: np.ndarray) -> np.ndarray:
            return np.bincount(f * sizes[1] + g, values, sizes[0] * sizes[1]).reshape(sizes)

        sum_a, aa, ab = summed(a), summed(a * a), summed(a * b_of_a)
        an, am = summed(a * n[e, g]), summed(a * m[e])
        bn, bm, bb = active @ n, (active @ m)[:, None], active.power(2).sum(axis=1)[:, None]
        sum_b = active.sum(axis=1)[:, None]
        nn, nm, mm = (n * n).sum(0), (n * m[:, None]).sum(0), (m * m).sum()
        sum_n, sum_k = n.sum(0), m.sum() - n.sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            r, s = sum_a / sum_n, (sum_b - sum_a) / sum_k
            own = aa - 2 * r * an + r**2 * nn
            other = (bb - 2 * ab + aa) - 2 * s * (bm - bn - am + an) + s**2 * (mm - 2 * nm + nn)
            both = (ab - aa) - s * (am - an) - r * (bn - an) + r * s * (nm - nn)
            count = len(self.examples)
            variance = (own / sum_n**2 + other / sum_k**2 - 2 * both / (sum_n * sum_k)) * count / max(1, count - 1)
            z = (r - s) / np.sqrt(variance)
        examples = np.diff(active.indptr)[:, None]
        enough = (examples >= self._least) & ((n > 0).sum(0) >= self._least) & ((n < m[:, None]).sum(0) >= self._least)
        at, value = np.nonzero(enough & np.isfinite(z))
        return _Tests(
            at + first,
            value,
            sum_n[value],
            sum_a[at, value],
            sum_k[value],
            sum_b[at, 0] - sum_a[at, value],
            examples[at, 0],
            z[at, value],
        )


def _rows(encoded: EncodedRun, by: str, values: np.ndarray, tests: _Tests, examples: int) -> pa.Table:
    """Make the rows of `feature_associations`."""
    from scipy import stats

    p = 2 * stats.t.sf(np.abs(tests.z), max(1, examples - 1))
    n = len(tests.z)
    return to_table(
        "feature_associations",
        {
            "source_run_id": pa.repeat(encoded.source_run_id, n),
            "features_run_id": pa.repeat(encoded.run_id, n),
            "sae": pa.repeat(encoded.sae, n),
            "layer": pa.array(
                np.full(n, -1 if encoded.layer is None else encoded.layer, np.int32),
                mask=np.full(n, encoded.layer is None),
            ),
            "feature": pa.array(tests.feature.astype(np.int32)),
            "property": pa.repeat(by, n),
            "value": pa.array(values[tests.value], pa.string()),
            **{
                name: pa.array(getattr(tests, name).astype(np.int64))
                for name in ("n_tokens", "n_active", "n_other_tokens", "n_other_active", "n_examples")
            },
            "z": pa.array(tests.z),
            "p_value": pa.array(p),
            "q_value": pa.array(stats.false_discovery_control(p)),
        },
    )
