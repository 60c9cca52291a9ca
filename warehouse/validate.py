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
from warehouse.quoting import sql_text
from warehouse.schema import STORED, arrow_schema
from warehouse.sites import Key, readable
from warehouse.store import TraceStore

_SAMPLE = 4
_ROW_SUM = {"F32": 1e-5, "F16": 1e-3, "BF16": 1e-2}
"""Rows of up to thousands of probabilities, each rounded to its dtype, summed in float32."""
_STORED = {"F32": 1e-4, "F16": 5e-3, "BF16": 3e-2}
"""Stored attention against what q and k give that are rounded to this dtype: seen up to 2.1e-3 for F16, 1.6e-2 for BF16."""


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
    told = ", ".join(f"{name} {rows:,}" for name, rows in c.rows.items() if rows)
    if store.meta.parents:
        return told
    _expect(c.rows["examples"] == c.examples, "examples are not as many as counted")
    _expect(c.rows["tokens"] == c.tokens, "tokens are not as many as counted")
    _expect(c.rows["next_token"] == c.predictions, "predictions are not as many as counted")
    if store.meta.mean_loss is not None:
        tokens = _one(store, "SELECT count(*) FROM tokens WHERE side = 'dec'")
        _expect(c.predictions == tokens - c.sequences, "predictions are not one fewer than tokens in every sequence")
        found = _one(store, "SELECT avg(loss::DOUBLE) FROM next_token")
        loss = store.meta.mean_loss
        _expect(abs(found - loss) < 1e-9, f"the mean loss is {found}, not {loss}")
    return told


def _shapes(store: TraceStore) -> str | None:
    """Every shard holds the manifest's tensors, and the index tells of all their rows, as many as the tokens call for."""
    if not store.meta.sites:
        return None
    expected = {
        name: (s.promoted.get(name, s.dtype), tuple(s.row_shape))
        for s in store.meta.sites
        for name in (layout.tensor_name(s.side, s.site, layer) for layer in s.layers)
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
        f"SELECT blob, example_id FROM tensors JOIN ({_row_kinds(store)}) USING (side, site) "
        "GROUP BY blob, example_id, seq, side, kind HAVING count(DISTINCT (row_start, row_end)) > 1 LIMIT 1",
    )
    _expect(not spread, f"an example's rows differ from tensor to tensor: {spread}")
    for blob, tensor, rows, end in _rows(
        store, "SELECT blob, tensor, sum(row_end - row_start), max(row_end) FROM tensors GROUP BY blob, tensor"
    ):
        held = store.blob(blob).tensors[tensor][1][0]
        _expect(rows == end == held, f"{blob}: the index covers {rows} of {held} rows of {tensor}")
    return f"{len(expected)} tensors in {len(blobs)} shards"


def _row_kinds(store: TraceStore) -> str:
    """SQL: what a row of each site is."""
    kinds = {(s.side, s.site, s.rows) for s in store.meta.sites}
    rows = ", ".join(f"('{side}', '{site}', '{kind}')" for side, site, kind in sorted(kinds))
    return f"SELECT * FROM (VALUES {rows}) AS t(side, site, kind)"


def _keys(store: TraceStore) -> str:
    for name, table in STORED.items():
        key = ", ".join(table.sort_key)
        twice = _rows(store, f"SELECT {key} FROM {name} GROUP BY {key} HAVING count(*) > 1 LIMIT 1")
        _expect(not twice, f"{name} has two rows for {twice}")
    if store.meta.parents:
        return "unique"
    queries = {
        "a token of an example that is not there": "SELECT example_id FROM tokens ANTI JOIN examples USING (example_id)",
        "an example whose tokens are not all there": """
            SELECT example_id FROM examples LEFT JOIN
                (SELECT example_id, count(*) AS n, count(DISTINCT seq) AS s FROM tokens GROUP BY example_id) USING (example_id)
            WHERE coalesce(n, 0) <> n_tokens OR coalesce(s, 0) <> n_seqs""",
        "a sequence whose positions are not 0, 1, 2, …": """
            SELECT example_id FROM tokens GROUP BY example_id, seq, side
            HAVING min(pos) <> 0 OR max(pos) <> count(*) - 1""",
        "a true token that is not the one that came next": """
            SELECT p.example_id FROM next_token AS p JOIN tokens AS t
                ON t.example_id = p.example_id AND t.seq = p.seq AND t.side = 'dec' AND t.pos = p.pos + 1
            WHERE t.token_id <> p.true_id OR t.token <> p.true_token""",
    }
    if store.meta.mean_loss is not None:
        queries["a position with a next token and no prediction, or the other way about"] = """
            WITH wanted AS (SELECT example_id, seq, pos FROM tokens WHERE side = 'dec'
                            QUALIFY pos < max(pos) OVER (PARTITION BY example_id, seq))
            SELECT example_id FROM wanted FULL JOIN next_token AS p USING (example_id, seq, pos)
            WHERE wanted.pos IS NULL OR p.pos IS NULL"""
    if store.meta.sites:
        tensors = sum(len(s.layers) for s in store.meta.sites)
        queries["a sequence whose tensors are not all there"] = f"""
            SELECT example_id FROM (SELECT DISTINCT example_id, seq FROM tokens)
            LEFT JOIN (SELECT example_id, seq, count(*) AS n FROM tensors GROUP BY ALL) USING (example_id, seq)
            WHERE n IS DISTINCT FROM {tensors}"""
        queries["a tensor with other rows than its sequence has tokens"] = f"""
            WITH n AS (PIVOT (SELECT example_id, seq, side, count(*)::BIGINT AS n FROM tokens GROUP BY ALL)
                       ON side IN ('dec', 'enc') USING any_value(n))
            SELECT example_id FROM tensors JOIN ({_row_kinds(store)}) USING (side, site) JOIN n USING (example_id, seq)
            WHERE row_end - row_start <> CASE kind
                WHEN 'token' THEN if(side = 'dec', dec, enc)
                WHEN 'source' THEN enc
                WHEN 'triangle' THEN if(side = 'dec', dec, enc) * (if(side = 'dec', dec, enc) + 1) // 2
                WHEN 'square' THEN if(side = 'dec', dec, enc) ** 2
                ELSE dec * enc END"""
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


def _tokens_against_text(store: TraceStore) -> str | None:
    """Offsets lie in the text and go forward, and a plain word stands in the text where its offsets say."""
    if not store.meta.counts.rows.get("tokens"):
        return None
    column = store.meta.options.get("target_column")
    target = f"metadata::JSON ->> {sql_text(column)}" if column else "NULL"
    tokens = (
        f"SELECT example_id, seq, side, pos, token, char_start, char_end, if(side = 'dec' AND {bool(column)}, {target}, text) "
        "AS text FROM tokens JOIN examples USING (example_id)"
    )
    bad = _rows(
        store,
        f"SELECT example_id, seq, pos FROM ({tokens}) "
        "WHERE char_start < 0 OR char_end < char_start OR char_end > length(text) LIMIT 1",
    )
    _expect(not bad, f"offsets outside the text: {bad}")
    bad = _rows(
        store,
        "SELECT example_id, seq, pos FROM (SELECT example_id, seq, pos, char_start, "
        "lag(char_start) OVER (PARTITION BY example_id, side ORDER BY seq, pos) AS before FROM tokens) "
        "WHERE char_start < before LIMIT 1",
    )
    _expect(not bad, f"offsets that go backward: {bad}")
    word = "regexp_matches(trim(token, ' #▁'), '^[A-Za-z0-9]+$') AND char_start IS NOT NULL"
    here = "strip_accents(lower(trim(text[char_start + 1 : char_end])))"  # some tokenizers fold case and accents
    bad = _rows(
        store,
        f"SELECT example_id, seq, pos, token, {here} FROM ({tokens}) "
        f"WHERE {word} AND {here} <> strip_accents(lower(trim(token, ' #▁'))) LIMIT 1",
    )
    _expect(not bad, f"a token that is not what stands in the text: {bad}")
    count = _one(store, f"SELECT count(*) FROM tokens WHERE {word}")
    return f"{count:,.0f} words stand where their offsets say"


def _probabilities(store: TraceStore) -> str | None:
    if not store.meta.counts.rows.get("next_token"):
        return None
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
    """On a sample: probabilities are causal in a decoder, rows sum to 1 (to less where there are sinks), and where both they
    and q and k are stored, they are the same."""
    kinds = [(r.side, r.site) for r in readable(store.meta) if r.site in ("attn", "cross.attn")]
    if not kinds:
        return None
    worst, compared = 0.0, None
    sample = sample_sequences(store)
    for side, site in kinds:
        kind = "cross" if site == "cross.attn" else "self"
        stack = store.meta.model.stack(side)
        formulas = (stack.cross_attention if kind == "cross" else stack.attention) or [None] * stack.n_layers
        for layer in store.layers_with(site, side) or store.layers_with(site.removesuffix("attn") + "q", side):
            formula, key = formulas[layer], Key(side, site, layer)
            tolerance = _ROW_SUM[store.dtype(key)] if store.has(key) else _ROW_SUM["F32"]
            for example_id, seq in sample:
                attn = store.attn(example_id, layer, seq=seq, side=side, kind=kind)
                where = f"layer {layer} of example {example_id}"
                _expect(bool(np.isfinite(attn).all()), f"{where} has NaN")
                if stack.causal and kind == "self":
                    _expect(not np.triu(attn, 1).any(), f"{where} sees tokens to come")
                excess = attn.sum(-1) - 1
                one = formula is not None and formula.sinks is None
                error = float((np.abs(excess) if one else np.maximum(excess, 0)).max())
                _expect(error <= tolerance, f"rows of {where} sum to 1 only within {error:.1e}")
                worst = max(worst, error)
                q, k = (key._replace(site=site.removesuffix("attn") + x) for x in ("q", "k"))
                if formula is not None and store.has(key) and store.has(q) and store.has(k):
                    again = store.derived_attn(key, example_id, seq)
                    compared = max(compared or 0.0, float(np.abs(again - attn).max()))
                    _expect(compared <= _STORED[store.dtype(q)], f"{where} is not what q and k give, by {compared:.1e}")
    told = "derived from q and k" if compared is None else f"at most {compared:.1e} from what q and k give"
    stored = any(store.layers_with(site, side) for side, site in kinds)
    told = "stored, and q and k do not give it" if stored and compared is None else told
    return f"rows sum to 1 within {worst:.1e}, on {len(sample)} sequences; {told}"


def _hidden(store: TraceStore) -> str | None:
    """On a sample: `hidden` is the residual stream, state by state, and only its last one is normed."""
    sides = [r.side for r in readable(store.meta) if r.site == "hidden"]
    if not sides:
        return None
    sample = sample_sequences(store)
    for side in sides:
        stack = store.meta.model.stack(side)
        n = stack.n_layers
        for example_id, seq in sample:
            where = f"of {example_id}"
            hidden = [store.hidden(example_id, i, seq=seq, side=side) for i in range(n + 1)]
            stream = [store.resid(example_id, "embed", seq=seq, side=side)]
            stream += [store.resid(example_id, "post_mlp", i, seq=seq, side=side) for i in range(n)]
            for i in range(n):
                _expect(np.array_equal(hidden[i], stream[i]), f"hidden[{i}] {where} is not the residual stream")
            _expect(
                np.array_equal(hidden[n], stream[n]) != stack.final_norm,
                f"the last state {where} is {'the stream, not normed' if stack.final_norm else 'not the stream'}",
            )
    return f"equal to the residual stream on {len(sample)} sequences"


def _heads(store: TraceStore) -> str | None:
    if not store.meta.counts.rows.get("heads"):
        return None
    masses = ("max_prob", "first_token_mass", "previous_token_mass", "self_mass", "induction_mass")
    tests = {
        "a negative entropy": "entropy < -1e-5",
        **{f"{name} outside 0 to 1": f"NOT {name} BETWEEN 0 AND 1.001" for name in masses},
        "a largest probability below the mean of the others": "max_prob < self_mass - 1e-4 OR max_prob < first_token_mass - 1e-4",
    }
    for finding, test in tests.items():
        bad = _rows(store, f"SELECT example_id, seq, layer, head FROM heads WHERE {test} LIMIT 1")
        _expect(not bad, f"{finding}: {bad}")
    return f"{store.meta.counts.rows['heads']:,} rows, {len(tests)} conditions"


_CONTENT_CHECKS: dict[str, Callable[[TraceStore], str | None]] = {
    "counts": _counts,
    "shapes": _shapes,
    "keys": _keys,
    "finite": _finite,
    "tokens": _tokens_against_text,
    "next_token": _probabilities,
    "attention": _attention,
    "hidden": _hidden,
    "heads": _heads,
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
