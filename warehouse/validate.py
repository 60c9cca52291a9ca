"""What a sound run must satisfy, one check after another, each told with what was found.

From the folder alone: no model is loaded (`capture.recheck` runs one again). Cheap checks come first; where files are
missing or altered, those that would read them are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import xxhash

from warehouse import layout
from warehouse.blobs import DTYPES
from warehouse.errors import TracesError
from warehouse.files import file_checksum
from warehouse.schema import STORED, arrow_schema
from warehouse.store import TraceStore

_SAMPLE = 4
_ROW_SUM_TOLERANCE = 1e-5
"""Float32 rows of up to thousands of probabilities, summed in float32."""


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool | None
    """None: there was nothing to check."""
    detail: str


def validate(folder: Path) -> Iterator[Check]:
    """Yields each check as it is done. Raises NewerSchema or CorruptRun where the manifest itself cannot be read."""
    store = TraceStore(folder)
    sound = True
    for name, check in _FILE_CHECKS.items():
        result = _done(name, check, store)
        sound &= result.passed is not False
        yield result
    if not sound:
        yield Check("contents", None, "not looked at, since files are missing or altered")
        return
    for name, check in _CONTENT_CHECKS.items():
        yield _done(name, check, store)


def _done(name: str, check: Callable[[TraceStore], str | None], store: TraceStore) -> Check:
    try:
        detail = check(store)
    except _Unsound as e:
        return Check(name, False, str(e))
    except (TracesError, OSError, ValueError) as e:  # what a reader raises on an altered file
        return Check(name, False, str(e))
    return Check(name, None if detail is None else True, detail or "nothing to check: the run has none")


class _Unsound(Exception):
    """What was found, and where."""


def _expect(holds: bool, finding: str) -> None:
    if not holds:
        raise _Unsound(finding)


# -- files -------------------------------------------------------------------------------------------------------------


def _files(store: TraceStore) -> str:
    for f in store.meta.files:
        path = store.path / f.path
        _expect(path.is_file(), f"{f.path} is missing")
        size = path.stat().st_size
        _expect(size == f.bytes, f"{f.path} has {size} bytes, not {f.bytes}: it is cut short or altered")
    return f"{len(store.meta.files)} files have their sizes"


def _table_checksums(store: TraceStore) -> str:
    tables = [f for f in store.meta.files if f.checksum is not None]
    for f in tables:
        _expect(
            file_checksum(store.path / f.path) == f.checksum, f"{f.path} is altered: its xxh3-128 is not the manifest's"
        )
        name = f.path.split("/")[0]
        schema = pq.read_schema(store.path / f.path)
        _expect(schema.equals(arrow_schema(name)), f"{f.path} has other columns than table {name}")
    return f"{len(tables)} tables"


def _tensor_checksums(store: TraceStore) -> str | None:
    if not store.meta.sites:
        return None
    count = 0
    for batch in pq.ParquetFile(store.path / layout.table_name("tensors")).iter_batches(
        columns=["example_id", "seq", "blob", "tensor", "row_start", "row_end", "checksum"]
    ):
        for row in batch.to_pylist():
            rows = store.blob(row["blob"]).rows(row["tensor"], row["row_start"], row["row_end"])
            octets = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
            _expect(
                xxhash.xxh3_64_hexdigest(octets) == row["checksum"],
                f"{row['blob']}: {row['tensor']} of example {row['example_id']}, seq {row['seq']} is altered",
            )
            count += 1
    return f"{count} slices"


_FILE_CHECKS: dict[str, Callable[[TraceStore], str | None]] = {
    "files": _files,
    "table checksums": _table_checksums,
    "tensor checksums": _tensor_checksums,
}


# -- contents ----------------------------------------------------------------------------------------------------------


def _counts(store: TraceStore) -> str:
    c = store.meta.counts
    for name, rows in c.rows.items():
        found = sum(pq.read_metadata(p).num_rows for p in (store.path / name).glob("*.parquet"))
        _expect(found == rows, f"{name} has {found} rows, not {rows}")
    _expect(c.rows["examples"] == c.examples, "examples are not as many as counted")
    _expect(c.rows["tokens"] == c.tokens, "tokens are not as many as counted")
    _expect(c.rows["next_token"] == c.predictions, "predictions are not as many as counted")
    _expect(c.predictions == c.tokens - c.sequences, "predictions are not one fewer than tokens in every sequence")
    found = _one(store, "SELECT avg(loss::DOUBLE) FROM next_token")
    loss = store.meta.mean_loss
    _expect(loss is not None and abs(found - loss) < 1e-9, f"the mean loss is {found}, not {loss}")
    return ", ".join(f"{name} {rows:,}" for name, rows in c.rows.items())


def _shapes(store: TraceStore) -> str | None:
    if not store.meta.sites:
        return None
    expected = {
        layout.tensor_name(s.site, layer): (
            s.promoted.get(layout.tensor_name(s.site, layer), s.dtype),
            tuple(s.row_shape),
        )
        for s in store.meta.sites
        for layer in s.layers
    }
    blobs = [f.path for f in store.meta.files if f.path.startswith(layout.BLOBS)]
    for name in blobs:
        found = store.blob(name).tensors
        _expect(
            found.keys() == expected.keys(),
            f"{name} holds other tensors than the manifest: {found.keys() ^ expected.keys()}",
        )
        for tensor, (dtype, shape) in found.items():
            want = expected[tensor]
            _expect(
                (dtype, shape[1:]) == want,
                f"{name}: {tensor} is {dtype} (T, {shape[1:]}), not {want[0]} (T, {want[1]})",
            )
    bad = _rows(
        store,
        "SELECT example_id, seq, tensor FROM tensors WHERE shape[1] <> row_end - row_start OR row_start < 0 "
        "OR row_end <= row_start LIMIT 1",
    )
    _expect(not bad, f"the index tells of a slice whose shape is not its rows: {bad}")
    spread = _rows(
        store,
        "SELECT blob, example_id FROM tensors GROUP BY blob, example_id, seq, side "
        "HAVING count(DISTINCT (row_start, row_end)) > 1 LIMIT 1",
    )
    _expect(not spread, f"an example's rows differ from tensor to tensor: {spread}")
    for blob, rows, end in _rows(
        store,
        "SELECT blob, sum(n), max(row_end) FROM (SELECT DISTINCT blob, row_start, row_end, row_end - row_start AS n FROM tensors) "
        "GROUP BY blob",
    ):
        held = next(iter(store.blob(blob).tensors.values()))[1][0]
        _expect(rows == end == held, f"{blob}: the index covers {rows} of {held} rows")
    return f"{len(expected)} tensors in {len(blobs)} shards"


def _keys(store: TraceStore) -> str:
    for name, table in STORED.items():
        key = ", ".join(table.sort_key)
        twice = _rows(store, f"SELECT {key} FROM {name} GROUP BY {key} HAVING count(*) > 1 LIMIT 1")
        _expect(not twice, f"{name} has two rows for {twice}")
    queries = {
        "a token of an example that is not there": "SELECT example_id FROM tokens ANTI JOIN examples USING (example_id)",
        "an example whose tokens are not all there": """
            SELECT example_id FROM examples LEFT JOIN
                (SELECT example_id, count(*) AS n, count(DISTINCT seq) AS s FROM tokens GROUP BY example_id) USING (example_id)
            WHERE coalesce(n, 0) <> n_tokens OR coalesce(s, 0) <> n_seqs""",
        "a sequence whose positions are not 0, 1, 2, …": """
            SELECT example_id FROM tokens GROUP BY example_id, seq HAVING min(pos) <> 0 OR max(pos) <> count(*) - 1""",
        "a position with a next token and no prediction, or the other way about": """
            WITH wanted AS (SELECT example_id, seq, pos FROM tokens
                            QUALIFY pos < max(pos) OVER (PARTITION BY example_id, seq))
            SELECT example_id FROM wanted FULL JOIN next_token AS p USING (example_id, seq, pos)
            WHERE wanted.pos IS NULL OR p.pos IS NULL""",
        "a true token that is not the one that came next": """
            SELECT p.example_id FROM next_token AS p JOIN tokens AS t
                ON t.example_id = p.example_id AND t.seq = p.seq AND t.pos = p.pos + 1
            WHERE t.token_id <> p.true_id OR t.token <> p.true_token""",
    }
    if store.meta.sites:
        tensors = sum(len(s.layers) for s in store.meta.sites)
        queries["a sequence whose tensors are not all there"] = f"""
            SELECT example_id FROM (SELECT example_id, seq, count(*) AS t FROM tokens GROUP BY ALL)
            LEFT JOIN (SELECT example_id, seq, count(*) AS n, min(row_end - row_start) AS t2 FROM tensors GROUP BY ALL)
                USING (example_id, seq)
            WHERE n IS DISTINCT FROM {tensors} OR t2 IS DISTINCT FROM t"""
    for finding, query in queries.items():
        bad = _rows(store, f"{query} LIMIT 1")
        _expect(not bad, f"{finding}: example {bad[0][0] if bad else ''}")
    return "unique and complete"


def _finite(store: TraceStore) -> str | None:
    if not store.meta.sites:
        return None
    count = 0
    for f in store.meta.files:
        if not f.path.startswith(layout.BLOBS):
            continue
        blob = store.blob(f.path)
        for tensor, (dtype, shape) in blob.tensors.items():
            _expect(_all_finite(blob.rows(tensor, 0, shape[0])), f"{f.path}: {tensor} ({dtype}) holds NaN or infinity")
            count += int(np.prod(shape))
    return f"{count:,} values, no NaN or infinity"


def _all_finite(x: np.ndarray) -> bool:
    """By the bits: an exponent of all ones is NaN or infinity, in all three dtypes."""
    exponent = {DTYPES["F16"]: 0x7C00, DTYPES["BF16"]: 0x7F80, DTYPES["F32"]: 0x7F800000}[x.dtype]
    bits: np.ndarray = x.view(np.uint32 if x.dtype.itemsize == 4 else np.uint16)
    return not bool((np.bitwise_and(bits, exponent) == exponent).any())


def _tokens_against_text(store: TraceStore) -> str:
    """Offsets lie in the text and go forward, and a plain word stands in the text where its offsets say."""
    bad = _rows(
        store,
        "SELECT example_id, seq, pos FROM tokens JOIN examples USING (example_id) "
        "WHERE char_start < 0 OR char_end < char_start OR char_end > length(text) LIMIT 1",
    )
    _expect(not bad, f"offsets outside the text: {bad}")
    bad = _rows(
        store,
        "SELECT example_id, seq, pos FROM (SELECT example_id, seq, pos, char_start, "
        "lag(char_start) OVER (PARTITION BY example_id ORDER BY seq, pos) AS before FROM tokens) "
        "WHERE char_start < before LIMIT 1",
    )
    _expect(not bad, f"offsets that go backward: {bad}")
    word = "regexp_matches(trim(token, ' #▁'), '^[A-Za-z0-9]+$') AND char_start IS NOT NULL"
    here = "lower(trim(text[char_start + 1 : char_end]))"
    bad = _rows(
        store,
        f"SELECT example_id, seq, pos, token, {here} FROM tokens JOIN examples USING (example_id) "
        f"WHERE {word} AND {here} <> lower(trim(token, ' #▁')) LIMIT 1",
    )
    _expect(not bad, f"a token that is not what stands in the text: {bad}")
    count = _one(store, f"SELECT count(*) FROM tokens WHERE {word}")
    return f"{count:,.0f} words stand where their offsets say"


def _probabilities(store: TraceStore) -> str:
    limit = float(np.log(store.meta.model.vocab_size))
    tests = {
        "a probability outside 0 to 1": "NOT (true_prob BETWEEN 0 AND 1 AND pred_prob BETWEEN 0 AND 1)",
        "a loss that is not -ln(true_prob)": "true_prob > 1e-30 AND abs(exp(-loss::DOUBLE) - true_prob) > 1e-5 * true_prob + 1e-7",
        "a negative loss": "loss < -1e-5",
        f"an entropy outside 0 to ln V = {limit:.3f}": f"NOT entropy BETWEEN 0 AND {limit + 1e-4}",
        "a rank outside the vocabulary": f"NOT true_rank BETWEEN 1 AND {store.meta.model.vocab_size}",
        "a true token likelier than the predicted": "true_prob > pred_prob * (1 + 1e-5)",
        "a prediction marked wrongly as right or wrong": "correct <> (pred_id = true_id) OR (correct AND true_rank <> 1)",
        "a top-k that does not begin with the prediction": "topk_ids[1] <> pred_id OR topk_probs[1] <> pred_prob",
        "a top-k that is not sorted": "topk_probs <> list_reverse_sort(topk_probs)",
        "a top-k whose probabilities exceed 1": "list_sum(topk_probs) > 1 + 1e-5",
        "a top-k with lists of unequal length": "len(topk_ids) <> len(topk_probs) OR len(topk_ids) <> len(topk_tokens)",
        "NaN": "isnan(loss) OR isnan(entropy) OR isnan(true_prob) OR isnan(pred_prob)",
    }
    for finding, test in tests.items():
        bad = _rows(store, f"SELECT example_id, seq, pos FROM next_token WHERE {test} LIMIT 1")
        _expect(not bad, f"{finding}: {bad}")
    return f"{store.meta.counts.predictions:,} predictions, {len(tests)} conditions"


def _attention(store: TraceStore) -> str | None:
    """On a sample: derived probabilities are causal and their rows sum to 1."""
    if "attn" not in store.sites:
        return None
    worst = 0.0
    sample = sample_sequences(store)
    for example_id, seq in sample:
        for layer in range(store.meta.model.n_layers):
            attn = store.attn(example_id, layer, seq=seq)
            _expect(bool(np.isfinite(attn).all()), f"layer {layer} of example {example_id} has NaN")
            _expect(not np.triu(attn, 1).any(), f"layer {layer} of example {example_id} sees tokens to come")
            worst = max(worst, float(np.abs(attn.sum(-1) - 1).max()))
    _expect(worst <= _ROW_SUM_TOLERANCE, f"rows sum to 1 only within {worst:.1e}")
    return f"causal, rows sum to 1 within {worst:.1e}, on {len(sample)} sequences; derived from q and k, none stored to compare"


def _hidden(store: TraceStore) -> str | None:
    """On a sample: `hidden` is the residual stream, state by state, and only its last one is normed."""
    if "hidden" not in store.sites:
        return None
    n = store.meta.model.n_layers
    sample = sample_sequences(store)
    for example_id, seq in sample:
        hidden = store.hidden(example_id, seq=seq)
        stream = [store.resid(example_id, "embed", seq=seq), *store.resid(example_id, "post_mlp", seq=seq)]
        _expect(hidden.shape == (n + 1, *stream[0].shape), f"hidden of {example_id} has shape {hidden.shape}")
        for i in range(n):
            _expect(np.array_equal(hidden[i], stream[i]), f"hidden[{i}] of {example_id} is not the residual stream")
        _expect(not np.array_equal(hidden[n], stream[n]), f"the last state of {example_id} is the stream, not normed")
    return f"equal to the residual stream on {len(sample)} sequences"


_CONTENT_CHECKS: dict[str, Callable[[TraceStore], str | None]] = {
    "counts": _counts,
    "shapes": _shapes,
    "keys": _keys,
    "finite": _finite,
    "tokens": _tokens_against_text,
    "next_token": _probabilities,
    "attention": _attention,
    "hidden": _hidden,
}


def sample_sequences(store: TraceStore) -> list[tuple[str, int]]:
    """A few sequences, (example_id, seq), spread over the run."""
    found = _rows(store, "SELECT DISTINCT example_id, seq FROM tokens ORDER BY ALL")
    step = max(1, len(found) // _SAMPLE)
    return [(e, s) for e, s in found[::step][:_SAMPLE]]


def _rows(store: TraceStore, query: str) -> list[tuple]:
    return store.query(query).fetchall()


def _one(store: TraceStore, query: str) -> float:
    return float(_rows(store, query)[0][0])
