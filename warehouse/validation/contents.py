"""What the contents of a sound run must satisfy: rows that fit each other, tensors that fit the rows, values that can be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq

from warehouse.schema import sites
from warehouse.schema.quoting import sql_text
from warehouse.schema.sites import Key
from warehouse.schema.tables import STORED
from warehouse.storage import paths
from warehouse.storage.blobs import DTYPES
from warehouse.storage.losses import perplexity, predicted_bytes
from warehouse.storage.parquet import examples_hash
from warehouse.storage.readable import readable
from warehouse.storage.strict_json import finite
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import expect, expect_no_row, sample_sequences, select, select_number
from warehouse.validation.token_offsets import tokens_against_text

_PREDICTED = "side = 'dec' AND pos > 0 AND NOT coalesce(is_context, false)"
"""SQL: the tokens that a run with predictions has a prediction of."""
_ROW_SUM = {"F32": 1e-5, "F16": 1e-3, "BF16": 1e-2}
"""Rows of up to thousands of probabilities, each rounded to its dtype, summed in float32."""
_STORED = {"F32": 1e-4, "F16": 5e-3, "BF16": 3e-2}
"""Stored attention against what q and k give, the coarsest of the three rounded to this dtype: seen up to 2.1e-3 for F16, 1.6e-2 for BF16."""


def _counts(store: TraceStore) -> str:
    c = store.meta.counts
    for name, rows in c.rows.items():
        files = [store.path / path for path in store.meta.file_infos if path.startswith(f"{name}/")]
        found = sum(pq.read_metadata(p).num_rows for p in files)
        expect(found == rows, f"{name} has {found} rows, not {rows}")
    told = ", ".join(f"{name} {rows:,}" for name, rows in c.rows.items() if rows)
    if not store.meta.captured:
        return told
    expect(c.rows["examples"] == c.examples, "examples are not as many as counted")
    expect(c.rows["tokens"] == c.tokens, "tokens are not as many as counted")
    expect(c.rows["next_token"] == c.predictions, "predictions are not as many as counted")
    if c.predictions:
        tokens = select_number(store, f"SELECT count(*) FROM tokens WHERE {_PREDICTED}")
        expect(c.predictions == tokens, "predictions are not as many as tokens with one before them, context apart")
        found, loss = finite(select_number(store, "SELECT avg(loss::DOUBLE) FROM next_token")), store.meta.mean_loss
        same = found is loss if found is None or loss is None else abs(found - loss) < 1e-9
        expect(same, f"the mean loss is {found}, not {loss}")
    if c.predicted_bytes is not None:
        told_bytes = predicted_bytes(store.path, store.meta.options.get("target_column"))
        expect(
            c.predicted_bytes == told_bytes,
            f"the predictions are of {told_bytes} bytes of text, not {c.predicted_bytes}",
        )
    expect(store.meta.perplexity == perplexity(store.meta.mean_loss), "the perplexity is not that of the mean loss")
    of_examples = "SELECT coalesce(sum(n_seqs), 0), count_if(truncated), count_if(altered) FROM examples"
    counted = (c.sequences, c.truncated, c.altered)
    found_counts = tuple(select(store, of_examples)[0])
    expect(found_counts == counted, f"sequences, truncated and altered texts are {found_counts}, not {counted}")
    return told


def _data(store: TraceStore) -> str | None:
    if not store.meta.captured or store.meta.options.get("shard"):  # a shard tells of the data of all shards
        return None
    found = examples_hash([store.path / paths.table_file("examples")])
    expect(found == store.meta.data.hash, "its examples are not the data that its manifest tells of")
    return "the examples are the data that was read"


def _shapes(store: TraceStore) -> str | None:
    """Every shard holds the manifest's tensors, and the index tells of all their rows, as many as the tokens call for, and of
    the dtype that they have there.
    """
    if not store.meta.sites:
        return None
    expected = {
        name: ({s.dtype, s.promoted.get(name, s.dtype)}, tuple(s.row_shape))
        for s in store.meta.sites
        for name in (sites.tensor_name(s.side, s.site, layer) for layer in s.layers)
    }
    blobs = [f.path for f in store.meta.files if f.path.startswith(paths.BLOBS)]
    for name in blobs:
        found = store.blob(name).tensors
        expect(
            found.keys() == expected.keys(),
            f"{name} holds other tensors than the manifest: {found.keys() ^ expected.keys()}",
        )
        for tensor, (dtype, shape) in found.items():
            dtypes, row_shape = expected[tensor]
            expect(
                dtype in dtypes and shape[1:] == row_shape,
                f"{name}: {tensor} is {dtype} (T, {shape[1:]}), not {' or '.join(sorted(dtypes))} (T, {row_shape})",
            )
    bad = select(
        store,
        "SELECT example_id, seq, tensor FROM tensors WHERE shape[1] <> row_end - row_start OR row_start < 0 "
        "OR row_end <= row_start LIMIT 1",
    )
    expect(not bad, f"the index tells of a slice whose shape is not its rows: {bad}")
    spread = select(
        store,
        f"SELECT blob, example_id FROM tensors JOIN ({_row_kinds(store)}) USING (side, site) "
        "GROUP BY blob, example_id, seq, side, kind HAVING count(DISTINCT (row_start, row_end)) > 1 LIMIT 1",
    )
    expect(not spread, f"an example's rows differ from tensor to tensor: {spread}")
    for blob, tensor, rows, end, dtypes in select(
        store,
        "SELECT blob, tensor, sum(row_end - row_start), max(row_end), list(DISTINCT dtype) FROM tensors GROUP BY blob, tensor",
    ):
        dtype, (held, *_) = store.blob(blob).tensors[tensor]
        expect(rows == end == held, f"{blob}: the index covers {rows} of {held} rows of {tensor}")
        expect(dtypes == [dtype], f"{blob}: {tensor} is {dtype}; the index says {' and '.join(sorted(dtypes))}")
    return f"{len(expected)} tensors in {len(blobs)} shards"


def _row_kinds(store: TraceStore) -> str:
    """SQL: what a row of each site is."""
    kinds = {(s.side, s.site, s.rows) for s in store.meta.sites}
    rows = ", ".join(f"({', '.join(map(sql_text, kind))})" for kind in sorted(kinds))
    return f"SELECT * FROM (VALUES {rows}) AS t(side, site, kind)"


def _keys(store: TraceStore) -> str:
    for name, table in STORED.items():
        key = ", ".join(table.sort_key)
        twice = select(store, f"SELECT {key} FROM {name} GROUP BY {key} HAVING count(*) > 1 LIMIT 1")
        expect(not twice, f"{name} has two rows for {twice}")
    if not store.meta.captured:
        return "unique"
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
            WHERE coalesce(n, 0) <> n_tokens OR coalesce(s, 0) <> n_seqs""",
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
            WHERE n IS DISTINCT FROM {tensors}"""
        queries["a tensor with other rows than its sequence has tokens"] = f"""
            WITH n AS (PIVOT (SELECT example_id, seq, side, count(*)::BIGINT AS n FROM tokens GROUP BY ALL)
                       ON side IN ('dec', 'enc') USING any_value(n))
            SELECT example_id FROM tensors JOIN ({_row_kinds(store)}) USING (side, site) JOIN n USING (example_id, seq)
            WHERE row_end - row_start <> CASE kind
                WHEN 'token' THEN if(side = 'dec', dec, enc)
                WHEN 'source' THEN enc
                WHEN 'sequence' THEN 1
                WHEN 'triangle' THEN if(side = 'dec', dec, enc) * (if(side = 'dec', dec, enc) + 1) // 2
                WHEN 'square' THEN if(side = 'dec', dec, enc) ** 2
                ELSE dec * enc END"""
    for finding, query in queries.items():
        bad = select(store, f"{query} LIMIT 1")
        expect(not bad, f"{finding}: example {bad[0][0] if bad else ''}")
    return "unique and complete"


def _finite(store: TraceStore) -> str | None:
    if not store.meta.sites:
        return None
    count = 0
    for f in store.meta.files:
        if not f.path.startswith(paths.BLOBS):
            continue
        blob = store.blob(f.path)
        for tensor, (dtype, shape) in blob.tensors.items():
            expect(_all_finite(blob.rows(tensor, 0, shape[0])), f"{f.path}: {tensor} ({dtype}) holds NaN or infinity")
            count += int(np.prod(shape))
    return f"{count:,} values, no NaN or infinity"


def _all_finite(x: np.ndarray) -> bool:
    """By the bits: an exponent of all ones is NaN or infinity, in all three dtypes."""
    exponent = {DTYPES["F16"]: 0x7C00, DTYPES["BF16"]: 0x7F80, DTYPES["F32"]: 0x7F800000}[x.dtype]
    bits: np.ndarray = x.view(np.uint32 if x.dtype.itemsize == 4 else np.uint16)
    return not bool((np.bitwise_and(bits, exponent) == exponent).any())


def _probabilities(store: TraceStore) -> str | None:
    if not store.meta.counts.rows.get("next_token"):
        return None
    limit = float(np.log(store.meta.model.vocab_size))
    tests = {
        "a probability outside 0 to 1": "NOT (true_prob BETWEEN 0 AND 1 AND pred_prob BETWEEN 0 AND 1)",
        "a loss that is not -ln(true_prob)": "true_prob > 1e-30 AND NOT abs(exp(-loss::DOUBLE) - true_prob) <= 1e-5 * true_prob + 1e-7",
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
    expect_no_row(store, tests, "SELECT example_id, seq, pos FROM next_token WHERE")
    return f"{store.meta.counts.predictions:,} predictions, {len(tests)} conditions"


def _attention(store: TraceStore) -> str | None:
    """On a sample: probabilities are causal in a decoder, rows sum to 1 (to less where there are sinks), and where both they
    and q and k are stored, they are the same.
    """
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
            for example_id, seq in sample:
                tolerance = _ROW_SUM[store.dtype(key, example_id, seq)] if store.has(key) else _ROW_SUM["F32"]
                attn = store.attn(example_id, layer, seq=seq, side=side, kind=kind)
                where = f"layer {layer} of example {example_id}"
                expect(bool(np.isfinite(attn).all()), f"{where} has NaN")
                if stack.causal and kind == "self":
                    expect(not np.triu(attn, 1).any(), f"{where} sees tokens to come")
                excess = attn.sum(-1) - 1
                one = formula is not None and formula.sinks is None
                error = float((np.abs(excess) if one else np.maximum(excess, 0)).max())
                expect(error <= tolerance, f"rows of {where} sum to 1 only within {error:.1e}")
                worst = max(worst, error)
                q, k = (key._replace(site=site.removesuffix("attn") + x) for x in ("q", "k"))
                if formula is not None and store.has(key) and store.has(q) and store.has(k):
                    again = store.derived_attn(key, example_id, seq)
                    off = float(np.abs(again - attn).max())
                    allowed = max(_STORED[store.dtype(x, example_id, seq)] for x in (key, q, k))
                    expect(off <= allowed, f"{where} is not what q and k give, by {off:.1e}")
                    compared = max(compared or 0.0, off)
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
                expect(np.array_equal(hidden[i], stream[i]), f"hidden[{i}] {where} is not the residual stream")
            expect(
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
    expect_no_row(store, tests, "SELECT example_id, seq, layer, head FROM heads WHERE")
    return f"{store.meta.counts.rows['heads']:,} rows, {len(tests)} conditions"


def _words(store: TraceStore) -> str | None:
    """Words stand in the text where they say, and a token begins in the word that it says."""
    if not store.meta.counts.rows.get("words"):
        return None
    tests = {
        "a word that is not what stands in the text": "SELECT example_id, word_idx FROM words JOIN examples USING (example_id) "
        "WHERE multiword IS NULL AND char_start IS NOT NULL AND text[char_start + 1 : char_end] <> form",
        "a word whose head is none of its sentence": "SELECT w.example_id, w.word_idx FROM words AS w LEFT JOIN words AS h "
        "ON h.example_id = w.example_id AND h.word_idx = w.head WHERE w.head IS NOT NULL AND h.word_idx IS NULL",
        "a token that has no character of its word": "SELECT t.example_id, t.seq, t.pos FROM tokens AS t LEFT JOIN words AS w "
        "USING (example_id, word_idx) WHERE t.word_idx IS NOT NULL "
        "AND NOT coalesce(t.char_start < w.char_end AND w.char_start < t.char_end, false)",
        "a token of no word, with a character of one": "SELECT t.example_id, t.seq, t.pos FROM tokens AS t JOIN words AS w "
        "ON w.example_id = t.example_id AND t.char_start < w.char_end AND w.char_start < t.char_end "
        f"WHERE t.word_idx IS NULL AND t.side = '{'enc' if store.meta.model.encoder else store.meta.model.side}'",
    }
    expect_no_row(store, tests)
    return f"{store.meta.counts.rows['words']:,} words, {len(tests)} conditions"


def _multiple_choice(store: TraceStore) -> str | None:
    """What is said of a question follows from the scores of its choices."""
    if not store.meta.counts.rows.get("mcq_predictions"):
        return None
    questions = """
        SELECT example_id, p.*, list(prob ORDER BY choice_idx) AS probs, list(score_of ORDER BY choice_idx) AS scores,
               list(is_pred ORDER BY choice_idx) AS preds, list(is_label ORDER BY choice_idx) AS labels,
               list(c.label ORDER BY choice_idx) AS letters
        FROM (SELECT *, CASE score WHEN 'text' THEN logprob WHEN 'byte' THEN logprob_per_byte ELSE logit END::DOUBLE AS score_of
              FROM choices JOIN (SELECT example_id, score FROM mcq_predictions) USING (example_id)) AS c
        JOIN mcq_predictions AS p USING (example_id) GROUP BY ALL"""
    tests = {
        "probabilities that don't sum to 1": "abs(list_sum(probs) - 1) > 1e-5",
        "a prediction that has not the highest score": "scores[pred_idx + 1] < list_max(scores)",
        "a prediction that its choices don't mark": "NOT preds[pred_idx + 1] OR len(list_filter(preds, lambda x: x)) <> 1",
        "an answer that its choices don't mark": "label_idx IS NOT NULL AND NOT labels[label_idx + 1]",
        "a letter that is another choice's": "letters[pred_idx + 1] <> pred_label OR letters[label_idx + 1] <> label",
        "a question marked wrongly as right or wrong": "is_correct IS DISTINCT FROM (pred_idx = label_idx)",
        "a probability that is not its choice's": "pred_prob <> probs[pred_idx + 1] OR label_prob <> probs[label_idx + 1]",
        "probabilities that are not the softmax of the scores": "list_max(list_transform(list_zip(probs, scores), lambda x: abs("
        "x[1] - exp(x[2] - list_max(scores)) / list_sum(list_transform(scores, lambda s: exp(s - list_max(scores))))))) > 1e-5",
        "an entropy that is not that of the probabilities": "abs(entropy + list_sum(list_transform(probs, "
        "lambda p: if(p > 0, p * ln(p), 0)))) > 1e-4",
        "a margin or gap below 0": "margin < 0 OR top_two_gap < 0",
    }
    expect_no_row(store, tests, f"SELECT example_id FROM ({questions}) WHERE")
    return f"{store.meta.counts.rows['mcq_predictions']:,} questions, {len(tests)} conditions"


def _judgements(store: TraceStore) -> str | None:
    if not store.meta.counts.rows.get("judgements"):
        return None
    parents = ", ".join(sql_text(p) for p in store.meta.parents)
    tests = {
        "a score outside 0 to 100": "NOT (trait_score BETWEEN 0 AND 100 AND coherence_score BETWEEN 0 AND 100)",
        "a refusal with a number for a trait score": "refused AND scored_by = 'number'",
        "a score without how it was found, or the other way about": "(trait_score IS NULL) <> (scored_by IS NULL)",
        "probabilities outside 0 to 1": "NOT number_mass BETWEEN 0 AND 1",
        "a score by probabilities, fewer than a quarter of them on numbers": "scored_by = 'probabilities' "
        "AND coalesce(number_mass, 0) < 0.25",
        "a response of a run that is not among the parents": f"source_run_id NOT IN ({parents or 'NULL'})",
    }
    expect_no_row(store, tests, "SELECT source_run_id, example_id, seq FROM judgements WHERE")
    return f"{store.meta.counts.rows['judgements']:,} judgements, {len(tests)} conditions"


def _lens(store: TraceStore) -> str | None:
    """What the run itself can tell: the tokens that it says came next are another run's."""
    if not store.meta.counts.rows.get("logit_lens"):
        return None
    model = store.meta.model
    limit, final = float(np.log(model.vocab_size)), model.n_layers - 1
    place = "list_position(topk_ids, actual_id)"
    unknown = [f"({name} IS NULL)" for name in ("actual_id", "actual_token", "actual_rank", "actual_prob")]
    tests = {
        "a probability outside 0 to 1": "NOT actual_prob BETWEEN 0 AND 1 OR topk_probs[1] > 1 OR topk_probs[-1] < 0",
        "a top-k that is not sorted": "topk_probs <> list_reverse_sort(topk_probs)",
        "a top-k whose probabilities exceed 1": "list_sum(topk_probs) > 1 + 1e-5",
        "a top-k with lists of unequal length, or none": "len(topk_ids) <> len(topk_probs) OR len(topk_ids) <> len(topk_tokens) "
        "OR len(topk_ids) = 0",
        "a top-k with a token twice": "len(list_distinct(topk_ids)) <> len(topk_ids)",
        "an actual token that is known in part": " OR ".join(f"{unknown[0]} <> {u}" for u in unknown[1:]),
        "a rank outside the vocabulary": f"NOT actual_rank BETWEEN 1 AND {model.vocab_size}",
        # Equal ones share the first one's rank, and may lie beyond the k-th place.
        "a rank that is not its place in the top-k": f"actual_rank > {place} OR abs(topk_probs[actual_rank] - actual_prob) > 1e-6",
        "a token beyond the top-k that is likelier": f"{place} IS NULL AND actual_prob > topk_probs[-1] + 1e-6",
        "an actual token whose probability is not that in the top-k": f"abs(topk_probs[{place}] - actual_prob) > 1e-6",
        f"an entropy outside 0 to ln V = {limit:.3f}": f"NOT entropy BETWEEN 0 AND {limit + 1e-4}",
        "a negative divergence": "kl_to_final < -1e-4",
        "a last layer that is not the final distribution": f"layer = {final} AND abs(kl_to_final) > 1e-4",
        "a layer that the model has not": f"NOT layer BETWEEN 0 AND {final}",
        "NaN": "isnan(entropy) OR isnan(kl_to_final) OR isnan(actual_prob) OR isnan(list_sum(topk_probs))",
    }
    expect_no_row(store, tests, "SELECT example_id, seq, pos, layer FROM logit_lens WHERE")
    bad = select(
        store,
        "SELECT source_run_id, example_id, seq, pos FROM logit_lens GROUP BY ALL HAVING count(DISTINCT actual_id) > 1 LIMIT 1",
    )
    expect(not bad, f"a token whose next one differs from layer to layer: {bad}")
    return f"{store.meta.counts.rows['logit_lens']:,} rows, {len(tests) + 1} conditions"


def _trait_vectors(store: TraceStore) -> str | None:
    """Unit vectors of the model's width, that point towards their trait, of layers that it has."""
    if not store.meta.counts.rows.get("trait_vectors"):
        return None
    model = store.meta.model
    width, n = model.stack(model.side).d_model, model.stack(model.side).n_layers
    tests = {
        f"a vector that is not of the model's width, {width}": f"len(vector) <> {width}",
        "a vector whose length is not 1": "NOT abs(list_inner_product(vector, vector) - 1) < 2e-4",  # a length within 1e-4
        "a vector that points away from its trait": "gap < 0",
        "a layer that the model has not": f"NOT layer BETWEEN 0 AND {n - 1}",
        "an accuracy outside 0 to 1": "NOT train_accuracy BETWEEN 0 AND 1",
        "a vector made from nothing": "n_pos < 1 OR n_neg < 1 OR NOT norm > 0",
        "NaN": "isnan(norm) OR isnan(gap) OR isnan(midpoint) OR isnan(effect_size)",
    }
    expect_no_row(store, tests, "SELECT trait, method, component, layer FROM trait_vectors WHERE")
    return f"{store.meta.counts.rows['trait_vectors']:,} vectors, {len(tests)} conditions"


def _trait_evaluations(store: TraceStore) -> str | None:
    if not store.meta.counts.rows.get("trait_evaluations"):
        return None
    parts = ("accuracy", "accuracy_low", "accuracy_high", "auc", "overlap", "random_accuracy")
    ends = ("accuracy", "effect_size", "above_random")
    tests = {
        **{f"{name} outside 0 to 1": f"NOT {name} BETWEEN 0 AND 1" for name in parts},
        **{f"an interval of {name} that ends before it begins": f"NOT {name}_low <= {name}_high" for name in ends},
        "a difference to random directions that is none": "abs(above_random - (accuracy - random_accuracy)) > 1e-5",
        "an evaluation of nothing": "n_pos < 1 OR n_neg < 1",
        "NaN": "isnan(effect_size) OR isnan(train_minus_heldout)",
    }
    expect_no_row(store, tests, "SELECT trait, method, component, layer FROM trait_evaluations WHERE")
    return f"{store.meta.counts.rows['trait_evaluations']:,} evaluations, {len(tests)} conditions"


def _projections(store: TraceStore) -> str | None:
    """A projection is no longer than its state, and velocity, acceleration and dynamics follow from the projections."""
    counts = store.meta.counts.rows
    if not counts.get("trait_projections") and not counts.get("trait_dynamics"):
        return None
    vector = "source_run_id, example_id, seq, trait, method, component, place"  # place: the layer, NULL being one
    projections, dynamics = (
        f"(SELECT *, coalesce(layer, -1) AS place FROM {table})" for table in ("trait_projections", "trait_dynamics")
    )
    # Tokens that dynamics look at: the first of them, and those with a velocity.
    looked = (
        f"SELECT p.*, d.n_tokens, lag(projection) OVER same AS one_before, lag(velocity) OVER same AS velocity_before "
        f"FROM {projections} AS p JOIN {dynamics} AS d USING ({vector}) WHERE p.velocity IS NOT NULL OR p.pos = d.first_pos "
        f"WINDOW same AS (PARTITION BY {vector} ORDER BY pos)"
    )
    tests = {
        "a projection longer than its state": ("trait_projections", "abs(projection) > token_norm * (1 + 1e-3)"),
        "a value that is not finite": (
            "trait_projections",
            "NOT isfinite(projection + token_norm + coalesce(velocity, 0) + coalesce(acceleration, 0))",
        ),
        "a velocity that is not the difference of projections": (
            f"({looked})", "velocity IS DISTINCT FROM projection - one_before",
        ),
        "an acceleration that is not the difference of velocities": (
            f"({looked})", "acceleration IS DISTINCT FROM velocity - velocity_before",
        ),
        "dynamics of another number of tokens": (
            f"(SELECT {vector}, n_tokens, count(*) AS found FROM ({looked}) GROUP BY ALL)", "found <> n_tokens",
        ),
        "a point outside the tokens looked at": (
            "trait_dynamics",
            "n_tokens < 1 OR NOT peak_point BETWEEN 0 AND n_tokens - 1 OR NOT coalesce(commitment_point, 2) BETWEEN 2 AND greatest(n_tokens - 1, 2) "
            "OR NOT coalesce(commitment_point_relative, 2) BETWEEN 2 AND greatest(n_tokens - 1, 2)",
        ),
        "a peak that persists longer than there are tokens after it": (
            "trait_dynamics", "NOT persistence BETWEEN 0 AND n_tokens - 1 - peak_point",
        ),
    }  # fmt: skip
    wheres = {finding: f"{rows} WHERE {test}" for finding, (rows, test) in tests.items()}
    expect_no_row(store, wheres, "SELECT example_id, seq FROM")
    return f"{counts.get('trait_projections', 0):,} projections, {counts.get('trait_dynamics', 0):,} dynamics, {len(tests)} conditions"


CHECKS: dict[str, Callable[[TraceStore], str | None]] = {
    "counts": _counts,
    "data": _data,
    "shapes": _shapes,
    "keys": _keys,
    "finite": _finite,
    "tokens": tokens_against_text,
    "next_token": _probabilities,
    "attention": _attention,
    "hidden": _hidden,
    "heads": _heads,
    "logit_lens": _lens,
    "words": _words,
    "multiple choice": _multiple_choice,
    "trait vectors": _trait_vectors,
    "trait evaluations": _trait_evaluations,
    "judgements": _judgements,
    "trait projections": _projections,
}
