"""The strip of a sequence has the values of `token_diagnostics`, each beside the token that it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic import add_run, alter

from warehouse import Warehouse
from warehouse.analysis.token_strip import sequence_text, sequences, token_strip
from warehouse.catalog.ask import asker
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage import paths

OWN = ("loss", "entropy", "true_prob", "true_rank", "pred_token", "topk_tokens", "topk_probs")
NEXT = ("pred_token", "pred_prob", "entropy", "loss", "topk_tokens", "topk_probs")
PLAIN = (
    "pos", "token_id", "token", "char_start", "char_end", "is_special", "is_response", "is_context", "word_idx", "upos", "lemma",
    "deprel",
)  # fmt: skip


def strips_equal(wh: Warehouse, run: str, keys: list[tuple[str, int, str]]) -> int:
    """Holds the strips of sequences against the view, and counts the predictions that were compared."""
    compared = 0
    for example, seq, side in keys:
        strip = token_strip(asker(wh), wh.run(run), example, seq, side).to_pylist()
        seen = wh.sql(
            f"SELECT * FROM token_diagnostics WHERE run_id = '{run}' AND example_id = '{example}' AND seq = {seq} "
            f"AND side = '{side}' ORDER BY pos"
        ).to_arrow_table().to_pylist()  # fmt: skip
        assert [row["pos"] for row in strip] == list(range(len(seen)))
        for t, row in enumerate(strip):
            before: dict[str, Any] = seen[t - 1] if t else {}
            assert {c: row[c] for c in PLAIN} == {c: seen[t][c] for c in PLAIN}
            assert {c: row[c] for c in OWN} == {c: before.get(c) for c in OWN}
            assert {c: row[f"next_{c}"] for c in NEXT} == {c: seen[t][c] for c in NEXT}
            if row["loss"] is not None:
                assert before["true_id"] == row["token_id"], "it is this very token whose loss it is"
                compared += 1
    return compared


@pytest.mark.parametrize("run", ["llama", "gpt2"])
def test_of_a_models_run(tiny_root: Path, run: str) -> None:
    with Warehouse(tiny_root) as wh:
        keys = wh.sql(
            f"SELECT example_id, 0, 'dec' FROM examples WHERE run_id = '{run}' ORDER BY idx LIMIT 4"
        ).fetchall()
        assert strips_equal(wh, run, keys) > 100
        (example, _, _), *_ = keys
        text = sequence_text(asker(wh), wh.run(run), example)
        rows = token_strip(asker(wh), wh.run(run), example).to_pylist()
        assert all(text[row["char_start"] : row["char_end"]] == row["token"] for row in rows)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run `r`: a text in two sequences, the second of which reads two tokens again, with words; an encoder's side and a target."""
    keys = [("a", 0, "dec", 4), ("a", 1, "dec", 5), ("b", 0, "dec", 3), ("b", 0, "enc", 6)]
    tokens = [
        {"example_id": e, "seq": seq, "side": side, "pos": i, "token_id": 10 * seq + i, "token": f"{side}{i}", "char_start": i,
         "char_end": i + 1, "word_idx": i if i % 3 else None, "is_context": (seq == 1 and i < 2) or None}
        for e, seq, side, n in keys
        for i in range(n)
    ]  # fmt: skip
    foreseen = [("a", 0, range(3)), ("a", 1, range(1, 4)), ("b", 0, range(2))]
    predictions = [
        {"example_id": e, "seq": seq, "pos": i, "loss": i + seq + 0.5, "true_id": 10 * seq + i + 1, "true_rank": i + 1,
         "pred_token": f"p{i}", "topk_tokens": [f"p{i}", "q"], "topk_probs": [0.5, 0.25]}
        for e, seq, some in foreseen
        for i in some
    ]  # fmt: skip
    rows = {
        "examples": [
            {"example_id": e, "idx": i, "text": f"text {e}", "n_seqs": n, "metadata": '{"summary": "sum"}'}
            for i, (e, n) in enumerate([("a", 2), ("b", 1), ("none", 0)])
        ],
        "tokens": tokens,
        "next_token": predictions,
        "words": [{"example_id": "a", "word_idx": i, "upos": f"U{i}", "lemma": f"l{i}"} for i in range(5)],
        "prompts": [{"example_id": "a", "seq": 1, "text": "its own"}],
    }
    folder = add_run(tmp_path, "r", "next-token", rows)
    encoder = {"n_layers": 1, "d_model": 4, "n_heads": 1, "n_kv_heads": 1, "d_head": 4, "d_value": 4}
    alter(folder / paths.MANIFEST, lambda m: m["model"].update(encoder=encoder))
    add_run(tmp_path, "other", "next-token", rows)
    return tmp_path


def test_of_tokens_read_again_of_words_and_of_two_sides(root: Path) -> None:
    with Warehouse(root) as wh:
        assert strips_equal(wh, "r", [("a", 0, "dec"), ("a", 1, "dec"), ("b", 0, "dec"), ("b", 0, "enc")]) == 8
        again = token_strip(asker(wh), wh.run("r"), "a", 1).to_pylist()
        assert [row["is_context"] for row in again] == [True, True, False, False, False]
        assert [row["loss"] is None for row in again] == [True, True, False, False, False]
        assert not len(token_strip(asker(wh), wh.run("r"), "none"))


def test_the_text_is_that_which_was_read(root: Path) -> None:
    with Warehouse(root) as wh:
        ask, store = asker(wh), wh.run("r")
        assert [sequence_text(ask, store, e, seq) for e, seq in (("a", 0), ("a", 1), ("b", 0))] == [
            "text a",
            "its own",
            "text b",
        ]
        alter(store.path / paths.MANIFEST, lambda m: m["options"].update(target_column="summary"))
        assert [sequence_text(ask, wh.run("r"), "b", side=side) for side in ("", "dec", "enc")] == [
            "sum",
            "sum",
            "text b",
        ]


def test_the_sequences_of_an_example(root: Path) -> None:
    with Warehouse(root) as wh:
        found = sequences(asker(wh), wh.run("r"), "a").to_pylist()
        assert found == [
            {"seq": 0, "side": "dec", "n_tokens": 4, "text": None, "loss": 1.5},
            {"seq": 1, "side": "dec", "n_tokens": 5, "text": "its own", "loss": 3.5},
        ]
        assert [(r["side"], r["loss"]) for r in sequences(asker(wh), wh.run("r"), "b").to_pylist()] == [
            ("dec", 1),
            ("enc", None),
        ]


def test_what_is_not_there_is_said(root: Path) -> None:
    with Warehouse(root) as wh:
        store = wh.run("r")
        with pytest.raises(NotFoundError, match="No example 'c'"):
            token_strip(asker(wh), store, "c")
        with pytest.raises(NotFoundError, match="No seq '2'"):
            token_strip(asker(wh), store, "a", 2)
        with pytest.raises(UsageError, match="has no encoder side"):
            token_strip(asker(wh), wh.run("other"), "a", side="enc")
