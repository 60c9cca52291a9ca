"""The tokens of one sequence, a row a token, with how well the model foresaw each and what it foresaw after it.

In: a run, an example and a sequence of it. Out: rows by position (`token_strip`), the text that they are of (`sequence_text`), or the
example's sequences (`sequences`). Everything is asked by key, from the tables themselves: the view `token_diagnostics` has the same
values, and takes twice as long for one example.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from warehouse.errors import NotFoundError
from warehouse.storage.paths import run_id_of
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    import pyarrow as pa

    from warehouse.catalog.ask import Ask

_STRIP = """
WITH predicted AS (
    SELECT pos, pred_token, pred_prob, true_prob, true_rank, entropy, loss, topk_tokens, topk_probs
    FROM next_token
    WHERE run_id = ? AND example_id = ? AND seq = ? AND ? = 'dec'
)
SELECT
    t.pos, t.token_id, t.token, t.char_start, t.char_end, t.is_special, t.is_response,
    coalesce(t.is_context, false) AS is_context, t.role, t.turn, t.part, t.word_idx, w.upos, w.lemma, w.deprel,
    own.loss, own.entropy, own.true_prob, own.true_rank, own.pred_token, own.topk_tokens, own.topk_probs,
    n.pred_token AS next_pred_token, n.pred_prob AS next_pred_prob, n.entropy AS next_entropy, n.loss AS next_loss,
    n.topk_tokens AS next_topk_tokens, n.topk_probs AS next_topk_probs
FROM tokens AS t
LEFT JOIN predicted AS own ON own.pos = t.pos - 1
LEFT JOIN predicted AS n ON n.pos = t.pos
LEFT JOIN (SELECT word_idx, upos, lemma, deprel FROM words WHERE run_id = ? AND example_id = ?) AS w ON w.word_idx = t.word_idx
WHERE t.run_id = ? AND t.example_id = ? AND t.seq = ? AND t.side = ?
ORDER BY t.pos
"""

_SEQUENCES = """
SELECT t.seq, t.side, t.n_tokens, p.text, l.loss
FROM (SELECT seq, side, count(*) AS n_tokens FROM tokens WHERE run_id = ? AND example_id = ? GROUP BY seq, side) AS t
LEFT JOIN (SELECT seq, text FROM prompts WHERE run_id = ? AND example_id = ?) AS p ON p.seq = t.seq
LEFT JOIN (SELECT seq, avg(loss) AS loss FROM next_token WHERE run_id = ? AND example_id = ? GROUP BY seq) AS l
    ON l.seq = t.seq AND t.side = 'dec'
ORDER BY t.seq, t.side
"""


def token_strip(ask: Ask, store: TraceStore, example: str, seq: int = 0, side: str = "") -> pa.Table:
    """Return the tokens of a sequence.

    Example:
        token_strip(asker(wh), wh.run("mine"), "0de7ea9afe375237").to_pandas()

    Args:
        ask: Asks the warehouse that the run is in.
        store: The run.
        example: The example's id.
        seq: Which sequence of the example.
        side: `dec` or `enc`; empty for the model's own.

    Returns:
        A row a token, by `pos`. `loss`, `entropy`, `true_prob`, `true_rank`, `pred_token` and `topk_…` are of the prediction of
        this very token, made from the one before; those that begin with `next_` of what is predicted after it. They are NULL where
        this run has no such prediction: at the first token, before a token that is read again as context, on an encoder's side.

    Raises:
        NotFoundError: The run has no such example or sequence.
    """
    store.check_sequence(example, seq)
    side, run = store.check_side(side or None), run_id_of(store.path)
    return ask(_STRIP, run, example, seq, side, run, example, run, example, seq, side)


def sequence_text(ask: Ask, store: TraceStore, example: str, seq: int = 0, side: str = "") -> str:
    """Return the text that `char_start` and `char_end` of a sequence's tokens count in.

    Args:
        ask: Asks the warehouse that the run is in.
        store: The run.
        example: The example's id.
        seq: Which sequence of the example.
        side: `dec` or `enc`; empty for the model's own.

    Returns:
        The sequence's own text where the table `prompts` has one; the target for the decoder of an encoder-decoder; else the
        example's.

    Raises:
        NotFoundError: The run has no such example, or is gone.
    """
    run, target = run_id_of(store.path), store.meta.options.get("target_column")
    found = ask("SELECT text, metadata FROM examples WHERE run_id = ? AND example_id = ?", run, example)
    if not len(found):
        raise NotFoundError("example", example, (), f"(run '{run}')")
    text, metadata = (found[name][0].as_py() for name in ("text", "metadata"))
    if target is not None and store.check_side(side or None) == "dec":
        return str(json.loads(metadata)[target])
    if store.meta.counts.rows.get("prompts"):
        own = ask("SELECT text FROM prompts WHERE run_id = ? AND example_id = ? AND seq = ?", run, example, seq)
        text = own["text"][0].as_py() if len(own) else text
    return str(text)


def sequences(ask: Ask, store: TraceStore, example: str) -> pa.Table:
    """Return the sequences that an example was split into, or that were made of it.

    Args:
        ask: Asks the warehouse that the run is in.
        store: The run.
        example: The example's id.

    Returns:
        A row a sequence and side: `seq`, `side`, `n_tokens`, `text` (NULL: the example's own), `loss` (mean, nats; NULL: no
        predictions).

    Raises:
        NotFoundError: The run has no such example.
    """
    store.check_sequence(example, 0)
    run = run_id_of(store.path)
    return ask(_SEQUENCES, run, example, run, example, run, example)
