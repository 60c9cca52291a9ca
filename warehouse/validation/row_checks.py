"""Check that a run's rows fit each other: that they are as many as counted, have unique keys, and are the data that was read."""

from __future__ import annotations

import pyarrow.parquet as pq

from warehouse.schema.tables import STORED
from warehouse.storage import paths
from warehouse.storage.chosen_examples import keeps_tensors_sql
from warehouse.storage.files import parquet_source
from warehouse.storage.losses import perplexity, predicted_bytes
from warehouse.storage.parquet import all_ascend, examples_hash
from warehouse.storage.strict_json import finite
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import Portion, expect, portions, select, select_number
from warehouse.validation.tensor_checks import row_kinds_sql

_PREDICTED = "side = 'dec' AND pos > 0 AND NOT coalesce(is_context, false)"
"""SQL condition on the tokens that a run with predictions predicts."""


def check_counts(store: TraceStore) -> str:
    """Check that tables have the rows that the manifest counts, and that its loss, perplexity and counts follow from them."""
    c = store.meta.counts
    for name, rows in c.rows.items():
        files = [store.path / path for path in store.meta.file_infos if path.startswith(f"{name}/")]
        count = sum(pq.read_metadata(parquet_source(p)).num_rows for p in files)
        expect(count == rows, f"{name} has {count} rows, not {rows}")
    summary = ", ".join(f"{name} {rows:,}" for name, rows in c.rows.items() if rows)
    if not store.meta.captured:
        return summary
    expect(c.rows["examples"] == c.examples, "examples are not as many as counted")
    expect(c.rows["tokens"] == c.tokens, "tokens are not as many as counted")
    expect(c.rows["next_token"] == c.predictions, "predictions are not as many as counted")
    if c.predictions:
        tokens = select_number(store, f"SELECT count(*) FROM tokens WHERE {_PREDICTED}")
        expect(c.predictions == tokens, "predictions are not as many as tokens with one before them, context apart")
        mean, loss = finite(select_number(store, "SELECT avg(loss::DOUBLE) FROM next_token")), store.meta.mean_loss
        same = mean is loss if mean is None or loss is None else abs(mean - loss) < 1e-9
        expect(same, f"the mean loss is {mean}, not {loss}")
    if c.predicted_bytes is not None:
        n_bytes = predicted_bytes(store.path, store.meta.options.get("target_column"))
        expect(
            c.predicted_bytes == n_bytes,
            f"the predictions are of {n_bytes} bytes of text, not {c.predicted_bytes}",
        )
    expect(store.meta.perplexity == perplexity(store.meta.mean_loss), "the perplexity is not that of the mean loss")
    of_examples = "SELECT coalesce(sum(n_seqs), 0), count_if(truncated), count_if(altered) FROM examples"
    counted = (c.sequences, c.truncated, c.altered)
    in_rows = tuple(select(store, of_examples)[0])
    expect(in_rows == counted, f"sequences, truncated and altered texts are {in_rows}, not {counted}")
    return summary


def check_data(store: TraceStore) -> str | None:
    """Check that the examples are the data that the manifest names by its hash."""
    if not store.meta.captured or store.meta.options.get("shard"):  # a part names the data of all parts
        return None
    digest = examples_hash([store.path / paths.table_file("examples")])
    expect(digest == store.meta.data.hash, "its examples are not the data that its manifest names")
    return "the examples are the data that was read"


def check_keys(store: TraceStore) -> str:
    """Check that keys are unique, and that every row that another row calls for exists."""
    for name, table in STORED.items():
        files = [store.path / path for path in store.meta.file_infos if path.startswith(f"{name}/")]
        if not all_ascend(files, table.sort_key):  # else two of them cannot be the same
            key = ", ".join(table.sort_key)
            twice = select(store, f"SELECT {key} FROM {name} GROUP BY {key} HAVING count(*) > 1 LIMIT 1")
            expect(not twice, f"{name} has two rows for {twice}")
    if not store.meta.captured:
        return "unique"
    for portion in portions(store):
        _check_complete(store, portion)
    return "unique and complete"


def _check_complete(store: TraceStore, portion: Portion) -> None:
    """Check that every row that another row calls for exists, among some of a run's examples."""
    queries = {
        "a token that is there as context, and of no earlier sequence": """
            SELECT t.example_id FROM tokens AS t LEFT JOIN
                (SELECT example_id, side, token_id, char_start, char_end, min(seq) AS first FROM tokens
                 SEMI JOIN (SELECT example_id FROM tokens WHERE is_context) USING (example_id) GROUP BY ALL) AS s
                ON s.example_id = t.example_id AND s.side = t.side AND s.token_id = t.token_id
                AND s.char_start IS NOT DISTINCT FROM t.char_start AND s.char_end IS NOT DISTINCT FROM t.char_end
            WHERE t.is_context AND (s.first >= t.seq OR t.is_special)""",
        "a token of an example that is not there": "SELECT example_id FROM tokens ANTI JOIN examples USING (example_id)",
        "an example whose tokens are not all there": """
            SELECT example_id FROM examples LEFT JOIN
                (SELECT example_id, count(*) AS n, count(DISTINCT seq) AS s FROM tokens GROUP BY example_id) USING (example_id)
            WHERE coalesce(n, 0) <> n_tokens OR (n_tokens > 0 AND coalesce(s, 0) <> n_seqs)""",  # imported means have no tokens
        "a sequence whose positions are not 0, 1, 2, …": """
            SELECT example_id FROM tokens GROUP BY example_id, seq, side
            HAVING min(pos) <> 0 OR max(pos) <> count(*) - 1""",
        "a true token that is not the one that came next": """
            SELECT p.example_id FROM next_token AS p JOIN tokens AS t
                ON t.example_id = p.example_id AND t.seq = p.seq AND t.side = 'dec' AND t.pos = p.pos + 1
            WHERE t.token_id <> p.true_id OR t.token <> p.true_token""",
    }
    if store.meta.counts.predictions:
        queries["a position with a next token and no prediction, or the other way about"] = f"""
            WITH wanted AS (SELECT example_id, seq, pos - 1 AS pos FROM tokens WHERE {_PREDICTED})
            SELECT example_id FROM wanted FULL JOIN next_token AS p USING (example_id, seq, pos)
            WHERE wanted.pos IS NULL OR p.pos IS NULL"""
    if store.meta.sites:
        tensors = sum(len(s.layers) for s in store.meta.sites)
        queries["a sequence whose tensors are not all there"] = f"""
            SELECT example_id FROM (SELECT DISTINCT example_id, seq FROM tokens)
            LEFT JOIN (SELECT example_id, seq, count(*) AS n FROM tensors GROUP BY ALL) USING (example_id, seq)
            WHERE n IS DISTINCT FROM if({keeps_tensors_sql(store.keep_every)}, {tensors}, NULL)"""
        queries["a tensor with other rows than its sequence has tokens"] = f"""
            WITH n AS (PIVOT (SELECT example_id, seq, side, count(*)::BIGINT AS n FROM tokens GROUP BY ALL)
                       ON side IN ('dec', 'enc') USING any_value(n))
            SELECT example_id FROM tensors JOIN ({row_kinds_sql(store)}) USING (side, site) JOIN n USING (example_id, seq)
            WHERE row_end - row_start <> CASE kind
                WHEN 'token' THEN if(side = 'dec', dec, enc)
                WHEN 'source' THEN enc
                WHEN 'sequence' THEN 1
                WHEN 'triangle' THEN if(side = 'dec', dec, enc) * (if(side = 'dec', dec, enc) + 1) // 2
                WHEN 'square' THEN if(side = 'dec', dec, enc) ** 2
                ELSE dec * enc END"""
    for finding, query in queries.items():
        bad = select(portion, f"{query} LIMIT 1")
        expect(not bad, f"{finding}: example {bad[0][0] if bad else ''}")
