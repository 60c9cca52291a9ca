"""The tokens that a search found, with the text before and after them, asked by key.

In: the keys and distances that `token_query.nearest` returns, hundreds at most. Out: a row a token, in the same order, with what
stands around it and what the model predicted after it. `token_query.with_context` tells the same in one column, from the view
`token_diagnostics`, which takes longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from warehouse.schema.quoting import sql_text, sql_texts

if TYPE_CHECKING:
    from warehouse.catalog.ask import Ask
    from warehouse.catalog.catalog import Catalog

_KEYS = ("run_id", "example_id", "seq", "side", "pos")


def near_tokens(ask: Ask, catalog: Catalog, near: pa.Table, characters: int = 60) -> pa.Table:
    """Show found tokens in their texts.

    Args:
        ask: Asks the warehouse.
        catalog: The warehouse.
        near: What `token_query.nearest` returned.
        characters: How much of the text to show on either side.

    Returns:
        A row a token, as in `near`: `distance`, the keys, `layer`, `head`, `kv_head`, and `before`, `token`, `after`, `pred_token` and
        `search`. `before` and `after` are NULL for a token without a place in the text.
    """
    texts = ("before", "token", "after", "pred_token")
    if len(near):
        found = ask(_query(catalog, near, characters))
    else:
        found = pa.table({name: pa.array([], pa.string()) for name in texts})
    columns = {name: near[name] for name in ("distance", *_KEYS, "layer", "head", "kv_head")}
    return pa.table({**columns, **{name: found[name] for name in texts}, "search": near["search"]})


def _query(catalog: Catalog, near: pa.Table, characters: int) -> str:
    """Write the question for some tokens. Runs and examples are named where files are read: those of others are not opened, or passed over."""
    rows = ", ".join(
        f"({i}, {sql_text(row['run_id'])}, {sql_text(row['example_id'])}, {row['seq']}, {sql_text(row['side'])}, {row['pos']})"
        for i, row in enumerate(near.select(list(_KEYS)).to_pylist())
    )
    runs = near["run_id"].unique().to_pylist()
    metas = {run: catalog.cached_run(run).meta for run in runs}
    examples = near["example_id"].unique().to_pylist()
    of = f"run_id IN {sql_texts(runs)} AND example_id IN {sql_texts(examples)}"
    text, prompts = "e.text", ""
    if any(meta.counts.rows.get("prompts") for meta in metas.values()):
        text = "coalesce(s.text, e.text)"
        prompts = f"LEFT JOIN (SELECT * FROM prompts WHERE {of}) AS s USING (run_id, example_id, seq)"
    for run, meta in metas.items():
        if (target := meta.options.get("target_column")) is not None:  # what the decoder of an encoder-decoder read
            read = f"e.metadata::JSON ->> {sql_text(target)}"
            text = f"CASE WHEN n.run_id = {sql_text(run)} AND n.side = 'dec' THEN {read} ELSE {text} END"
    return f"""
WITH near (place, run_id, example_id, seq, side, pos) AS (VALUES {rows}),
placed AS (
    SELECT n.*, t.token, t.char_start, t.char_end, {text} AS text
    FROM near AS n
    LEFT JOIN (SELECT * FROM tokens WHERE {of}) AS t USING (run_id, example_id, seq, side, pos)
    LEFT JOIN (SELECT * FROM examples WHERE {of}) AS e USING (run_id, example_id)
    {prompts}
)
SELECT
    substr(f.text, f.char_start + 1 - least(f.char_start, {characters}), least(f.char_start, {characters})) AS before, f.token,
    substr(f.text, f.char_end + 1, {characters}) AS after, p.pred_token
FROM placed AS f
LEFT JOIN (SELECT * FROM next_token WHERE {of}) AS p
    ON p.run_id = f.run_id AND p.example_id = f.example_id AND p.seq = f.seq AND p.pos = f.pos AND f.side = 'dec'
ORDER BY f.place
"""
