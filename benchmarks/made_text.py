"""A made-up run over real text, of any size, and runs made from it: a lens, a projection on traits, another model.

The texts are windows of WikiText-2, cut into 128 tokens each by a pattern that splits as tokenizers do, and repeated. The tokens'
places and words are those of the text; tags, predictions and all that a model would add are made up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from inputs import texts
from made_up import EXAMPLE_TOKENS, example_ids, next_token, publish

from warehouse.schema.arrow import arrow_schema
from warehouse.schema.tables import STORED

PART = 7680
"""Examples that are made at once: eight row groups of tokens."""
_TOKEN = re.compile(r" ?\w{1,6}| ?[^\w\s]|\s")
_EMPTY = {"VARCHAR": "''", "BOOLEAN": "false", "VARCHAR[]": "[]", "FLOAT[]": "[]", "INTEGER[]": "[]", "BIGINT[]": "[]"}

_OF_TEXT = {
    "examples": ("part JOIN windows USING (w)", {"idx": "i", "dataset": "'made'", "text": "text", "n_seqs": 1, "n_tokens": EXAMPLE_TOKENS}),
    "tokens": (
        "part JOIN cut USING (w)",
        {"pos": "pos", "side": "'dec'", "token": "token", "token_id": "hash(token) % 49152", "char_start": "first", "char_end": "past",
         "word_idx": "word_idx"},
    ),
    "words": (
        "part JOIN spelled USING (w)",
        {"word_idx": "word_idx", "word_id": "word_idx + 1", "form": "form", "lemma": "lower(form)", "char_start": "first", "char_end": "past",
         "upos": "['NOUN', 'VERB', 'ADP', 'DET', 'PROPN', 'ADJ', 'PUNCT', 'PRON', 'ADV', 'NUM'][1 + (hash(form) % 10)::INTEGER]", "deprel": "'dep'"},
    ),
    "labels": ("part", {"label_id": "i % 12", "label": "'label ' || i % 12"}),
    "heads": (
        "part, range(4) AS l (layer), range(4) AS h (head)",
        {"source_run_id": "'large'", "side": "'dec'", "layer": "layer", "head": "head", "entropy": "3 * random()",
         "first_token_mass": "random()", "previous_token_mass": "random()", "induction_mass": "random()"},
    ),
    "tensors": (
        "part, range(4) AS l (layer)",
        {"side": "'dec'", "site": "'resid.post_mlp'", "layer": "layer", "blob": "'shard-' || i // 1000", "dtype": "'F16'",
         "shape": f"[{EXAMPLE_TOKENS}, 576]", "row_start": f"i * {EXAMPLE_TOKENS}", "row_end": f"i * {EXAMPLE_TOKENS} + {EXAMPLE_TOKENS}"},
    ),
}  # fmt: skip
_LENS = {
    "source_run_id": "'large'", "pos": "pos", "layer": "layer", "topk_ids": "[(10 * random())::INTEGER, 1]",
    "topk_tokens": "[' a', ' b']", "topk_probs": "[.5, .1]", "actual_token": "token", "actual_rank": "1 + (1 / (random() + .001))::INTEGER",
    "actual_prob": "random()", "entropy": "3 * random()", "kl_to_final": "random()",
}  # fmt: skip
_TRAIT = {
    "source_run_id": "'large'", "vectors_run_id": "'vectors'", "trait": "trait", "method": "'mean_diff'",
    "component": "'resid.post_mlp'", "layer": "2",
}  # fmt: skip
_TRAITS = "(VALUES ('calm'), ('loud')) AS v (trait)"


def publish_runs(root: Path, examples: int) -> None:
    """Makes the runs `large`, of so many examples, and, of every tenth of them, `other`, `lens` and `projected`."""
    ids = example_ids(examples)
    everything = np.arange(examples)
    few = np.arange(0, examples, 10)
    with duckdb.connect(config={"memory_limit": "1GB", "threads": 2}) as con:
        _cut_texts(con, examples)
        tables = {name: _rows(con, ids, everything, name, *made) for name, made in _OF_TEXT.items()}
        publish(root, "large", tables | {"next_token": _predictions(ids, 0)})
        tables = {name: _rows(con, ids, few, name, *_OF_TEXT[name]) for name in ("examples", "tokens")}
        publish(root, "other", tables | {"next_token": _predictions(ids[few], 1)})
        rows = _rows(con, ids, few, "logit_lens", "part JOIN cut USING (w), range(4) AS l (layer)", _LENS)
        publish(root, "lens", {"logit_lens": rows}, kind="lens", parents=["large"])
        own = _TRAIT | {"pos": "pos", "projection": "random()", "token_norm": "1 + random()", "velocity": "random()", "acceleration": "random()"}  # fmt: skip
        own = {
            "trait_projections": _rows(con, ids, few, "trait_projections", f"part JOIN cut USING (w), {_TRAITS}", own)
        }
        by_text = _TRAIT | {"n_tokens": EXAMPLE_TOKENS, "mean_projection": "random()", "commitment_point": "i % 100"}
        own["trait_dynamics"] = _rows(con, ids, few, "trait_dynamics", f"part, {_TRAITS}", by_text)
        publish(root, "projected", own, kind="trait-projection", parents=["large"])


def _predictions(ids: np.ndarray, seed: int) -> Iterator[pa.Table]:
    for first in range(0, len(ids), PART):
        yield next_token(seed + 1000 * first, ids[first : first + PART])


def _rows(
    con: duckdb.DuckDBPyConnection,
    ids: np.ndarray,
    chosen: np.ndarray,
    name: str,
    source: str,
    known: dict[str, str | int],
) -> Iterator[pa.Table]:
    """Rows of a table, of the chosen examples, as SQL over the texts; columns that are not named are NULL if they may be."""
    known = {"example_id": "id"} | known
    (windows,) = con.sql("SELECT count(*) FROM windows").fetchall()[0]
    columns = [
        f"CAST({known.get(c.name, 'NULL' if c.nullable else _EMPTY.get(c.sql, 0))} AS {c.sql}) AS {c.name}"
        for c in STORED[name].file_columns
    ]
    for first in range(0, len(chosen), PART):
        numbers = chosen[first : first + PART]
        con.register("part", pa.table({"id": ids[numbers], "i": numbers, "w": numbers % windows}))
        query = f"SELECT {', '.join(columns)} FROM {source} ORDER BY {', '.join(STORED[name].sort_key)}"
        yield con.sql(query).to_arrow_table().cast(arrow_schema(name))


def _cut_texts(con: duckdb.DuckDBPyConnection, most: int) -> None:
    """Makes the tables `windows`, `cut` and `spelled`: at most so many texts, their tokens and their words."""
    whole = "\n".join(texts())
    spans = [m.span() for m in islice(_TOKEN.finditer(whole), (most + 1) * EXAMPLE_TOKENS)]
    windows, cut, spelled = [], [], []
    for w, at in enumerate(range(0, len(spans) - EXAMPLE_TOKENS, EXAMPLE_TOKENS)):
        own = spans[at : at + EXAMPLE_TOKENS]
        start = own[0][0]
        text = whole[start : own[-1][1]]
        windows.append((w, text))
        words = [m.span() for m in re.finditer(r"\S+", text)]
        spelled += [(w, i, text[a:b], a, b) for i, (a, b) in enumerate(words)]
        begins = [a for a, _ in words]
        for pos, (a, b) in enumerate(own):
            token = whole[a:b]
            letter = b - start - len(token.lstrip() or token)
            word = max(int(np.searchsorted(begins, letter, "right")) - 1, 0)
            cut.append((w, pos, token, a - start, b - start, word))
    for name, columns, rows in (
        ("windows", ("w", "text"), windows),
        ("cut", ("w", "pos", "token", "first", "past", "word_idx"), cut),
        ("spelled", ("w", "word_idx", "form", "first", "past"), spelled),
    ):
        made = pa.table(dict(zip(columns, map(pa.array, zip(*rows, strict=True)), strict=True)))
        con.register("made", made)
        con.execute(f"CREATE TABLE {name} AS FROM made")
