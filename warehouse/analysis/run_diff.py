"""Where two runs differ on the same texts: example by example, and token by token or by span of characters.

In: two runs that read the same examples. Out: a row an example (`compared_examples`), or a row a segment of one text
(`compared_sequence`). Every difference is the first run less the second: above 0, the text costs the first one more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from warehouse.analysis.token_alignment import Alignment, Token, align
from warehouse.analysis.token_strip import sequence_text, token_strip
from warehouse.storage.paths import run_id_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from warehouse.catalog.ask import Ask
    from warehouse.storage.trace_store import TraceStore

_EXAMPLES = """
WITH cost AS (
    SELECT
        run_id, example_id, sum(loss) / sum(predictions) AS loss,
        CASE WHEN count(*) = count(text_bytes) THEN sum(loss) / ln(2) / nullif(sum(text_bytes), 0) END AS bits
    FROM sequence_losses WHERE run_id IN (?, ?) GROUP BY run_id, example_id
),
read AS (
    SELECT run_id, example_id, count(*) AS n_tokens, bit_xor(hash(seq, pos, token_id)) AS tokens
    FROM tokens WHERE run_id IN (?, ?) AND side = 'dec' GROUP BY run_id, example_id
),
most AS (
    SELECT
        a.example_id, max(abs(nullif(a.loss - b.loss, 'NaN'))) AS largest,
        arg_max(a.true_token, abs(nullif(a.loss - b.loss, 'NaN'))) AS at_token
    FROM next_token AS a JOIN next_token AS b USING (example_id, seq, pos, true_id)
    WHERE a.run_id = ? AND b.run_id = ? GROUP BY a.example_id
),
pairs AS (
    SELECT
        e.example_id, e.idx, left(e.text, 200) AS text, x.tokens = y.tokens AS same_tokens,
        x.n_tokens AS a_tokens, y.n_tokens AS b_tokens, a.loss AS a_loss, b.loss AS b_loss,
        a.bits AS a_bits, b.bits AS b_bits, bool_and(x.tokens = y.tokens) OVER () AS all_same,
        CASE WHEN x.tokens = y.tokens THEN m.largest END AS largest,
        CASE WHEN x.tokens = y.tokens THEN m.at_token END AS at_token
    FROM cost AS a
    JOIN cost AS b ON b.example_id = a.example_id AND b.run_id = ?
    JOIN read AS x ON x.example_id = a.example_id AND x.run_id = a.run_id
    JOIN read AS y ON y.example_id = a.example_id AND y.run_id = b.run_id
    JOIN examples AS e ON e.example_id = a.example_id AND e.run_id = a.run_id
    LEFT JOIN most AS m ON m.example_id = a.example_id
    WHERE a.run_id = ?
)
SELECT
    example_id, idx, nullif(CASE WHEN all_same THEN a_loss - b_loss ELSE a_bits - b_bits END, 'NaN') AS difference,
    a_loss, b_loss, a_bits, b_bits, largest, at_token, same_tokens, a_tokens, b_tokens, text, count(*) OVER () AS total, all_same
FROM pairs
"""
_ORDERS = {
    "difference": "abs(difference) DESC NULLS LAST, idx",
    "token": "largest DESC NULLS LAST, idx",
    "place": "idx",
}
"""How the examples can be ordered: by what differs most in the whole, at one token, or as the first run read them."""
ORDERS = tuple(_ORDERS)


_COMPARED = """
WITH newest AS (
    SELECT run_id, parents[1] = ? AS forth FROM runs
    WHERE kind = 'comparison' AND (parents = [?, ?] OR parents = [?, ?]) AND list_contains(tables, 'comparisons')
    ORDER BY created_at DESC, run_id LIMIT 1
)
SELECT
    n.run_id, if(n.forth, c.pos, c.other_pos) AS pos, if(n.forth, c.kl, c.kl_reverse) AS kl,
    c.top1_id <> c.other_top1_id AS top1_changed
FROM comparisons AS c JOIN newest AS n ON n.run_id = c.run_id
WHERE c.example_id = ? AND c.seq = ? AND c.kl IS NOT NULL
"""
"""What the newest comparison of two runs says of a text, whichever of them it was made from first."""


class ComparedExamples(NamedTuple):
    """The examples that two runs both have."""

    rows: pa.Table
    total: int
    """How many there are; `rows` may have fewer."""
    all_same: bool
    """Whether all were read as the same tokens: then nats a token compare, else bits a byte alone."""


class ComparedSequence(NamedTuple):
    """One text as two runs read it."""

    rows: pa.Table
    alignment: Alignment
    comparison: str | None
    """The run of `traces compare` that `kl` and `top1_changed` are from; None: there is none."""
    outside: dict[str, dict[str, Any]]
    """By run, `a` and `b`: `tokens`, how many are in no segment, and `loss`, their losses together."""


def compared_examples(ask: Ask, a: str, b: str, order: str = "difference", limit: int = 1000) -> ComparedExamples:
    """Return the examples that two runs both have predictions of.

    Args:
        ask: Asks the warehouse.
        a: The one run.
        b: The other.
        order: One of `ORDERS`.
        limit: At most so many rows.

    Returns:
        A row an example. Losses are means over its predictions in nats, `bits` by byte of text, which models with different
        tokenizers share; `difference` is of the former where all examples were read as the same tokens, else of the latter.
        `largest` is the largest difference, in nats, of one token of the same ones.
    """
    rows = ask(f"{_EXAMPLES} ORDER BY {_ORDERS[order]} LIMIT {limit}", a, b, a, b, a, b, b, a)
    total = rows["total"][0].as_py() if len(rows) else 0
    all_same = bool(len(rows)) and rows["all_same"][0].as_py()
    return ComparedExamples(rows.drop_columns(["total", "all_same"]), total, all_same)


def compared_sequence(ask: Ask, a: TraceStore, b: TraceStore, example: str, seq: int = 0) -> ComparedSequence:
    """Return one text as two runs read it.

    Args:
        ask: Asks the warehouse that the runs are in.
        a: The one run.
        b: The other.
        example: The example's id.
        seq: Which sequence of it.

    Returns:
        A row a segment: a token where both read the same, else the smallest span that both have boundaries around. A loss is of
        the segment's own tokens, summed, and so is an entropy; `prob` is that of all of them together; rank and predictions are
        of the first. Differences are NULL where one run has a token that it does not predict, such as a text's first. `kl` is
        KL(first run || other) of the prediction of the segment's first token, and `top1_changed` whether they predict another token there:
        of the newest comparison of the two (`traces compare`), NULL without one.
    """
    strips = [token_strip(ask, store, example, seq, "dec").to_pylist() for store in (a, b)]
    texts = [sequence_text(ask, store, example, seq, "dec") for store in (a, b)]
    alignment = align(_tokens(strips[0]), _tokens(strips[1]), *texts)
    names = (run_id_of(a.path), run_id_of(b.path))
    compared = ask(_COMPARED, names[0], *names, *names[::-1], example, seq).to_pylist()
    by_pos = {row["pos"]: row for row in compared}
    rows = [
        _row(number, alignment, *strips) | _divergence(alignment.segments[number].a[0], by_pos)
        for number in range(len(alignment.segments))
    ]
    outside = {
        name: {"tokens": len(places), "loss": _sum(strip, places, "loss")}
        for name, strip, places in (("a", strips[0], alignment.outside_a), ("b", strips[1], alignment.outside_b))
    }
    comparison = compared[0]["run_id"] if compared else None
    return ComparedSequence(pa.Table.from_pylist(rows, _SCHEMA), alignment, comparison, outside)


def _divergence(first: int, by_pos: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return the columns of a comparison about the token at `first`, which is predicted from the one before."""
    found = by_pos.get(first - 1, {})
    return {name: found.get(name) for name in ("kl", "top1_changed")}


def _side(name: str) -> list[pa.Field]:
    return [
        pa.field(f"{name}_{column}", kind)
        for column, kind in (
            ("pos", pa.list_(pa.int32())),
            ("tokens", pa.list_(pa.string())),
            ("losses", pa.list_(pa.float32())),
            ("loss", pa.float64()),
            ("entropy", pa.float64()),
            ("prob", pa.float64()),
            ("rank", pa.int32()),
            ("pred_token", pa.string()),
            ("topk_tokens", pa.list_(pa.string())),
            ("topk_probs", pa.list_(pa.float32())),
        )
    ]


_MEASURES = ("loss", "entropy", "prob")
_SCHEMA = pa.schema(
    [
        pa.field("segment", pa.int32()),
        pa.field("pos", pa.int32()),
        pa.field("char_start", pa.int32()),
        pa.field("char_end", pa.int32()),
        pa.field("text", pa.string()),
        *_side("a"),
        *_side("b"),
        *(pa.field(f"{measure}_difference", pa.float64()) for measure in _MEASURES),
        pa.field("kl", pa.float32()),
        pa.field("top1_changed", pa.bool_()),
    ]
)


def _tokens(strip: Sequence[dict[str, Any]]) -> list[Token]:
    return [Token(t["token_id"], t["token"], t["char_start"], t["char_end"], t["is_special"]) for t in strip]


def _row(
    number: int, alignment: Alignment, strip_a: list[dict[str, Any]], strip_b: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a segment as a row."""
    segment = alignment.segments[number]
    row: dict[str, Any] = {
        "segment": number,
        "pos": segment.a[0],
        "char_start": segment.start,
        "char_end": segment.end,
        "text": segment.text,
    }
    sides = {"a": (strip_a, segment.a), "b": (strip_b, segment.b)}
    for name, (strip, places) in sides.items():
        first = strip[places[0]]
        loss = _sum(strip, places, "loss")
        row |= {
            f"{name}_pos": list(places),
            f"{name}_tokens": [strip[at]["token"] for at in places],
            f"{name}_losses": [strip[at]["loss"] for at in places],
            f"{name}_loss": loss,
            f"{name}_entropy": _sum(strip, places, "entropy"),
            f"{name}_prob": None if loss is None else math.exp(-loss),
            f"{name}_rank": first["true_rank"],
            **{f"{name}_{column}": first[column] for column in ("pred_token", "topk_tokens", "topk_probs")},
        }
    compare = all(strip[at]["loss"] is not None for strip, places in sides.values() for at in places)
    for measure in _MEASURES:
        difference = row[f"a_{measure}"] - row[f"b_{measure}"] if compare else math.nan
        row[f"{measure}_difference"] = None if math.isnan(difference) else difference
    return row


def _sum(strip: list[dict[str, Any]], places: Sequence[int], column: str) -> float | None:
    """Return the sum over the tokens that are predicted; None: none is."""
    values = [strip[at][column] for at in places if strip[at][column] is not None]
    return math.fsum(values) if values else None
