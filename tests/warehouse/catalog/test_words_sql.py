"""Words and labels in SQL: the views over annotated words and the questions about them, against plain Python and pandas."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import add_run
from synthetic_words import Rows, add_words, sentences

from warehouse import Warehouse
from warehouse.catalog.saved_queries import find_query, run_query


@pytest.fixture(scope="module")
def made() -> Rows:
    return sentences(300)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, made: Rows) -> Path:
    home = tmp_path_factory.mktemp("words") / "runs"
    add_words(home, made)
    return home


def test_a_token_has_every_word_of_which_it_has_a_visible_character(root: Path, made: Rows) -> None:
    texts = {e["example_id"]: e["text"] for e in made["examples"]}
    words = defaultdict(list)
    for w in made["words"]:
        if w["char_start"] is not None:
            words[w["example_id"]].append(w)
    expected = set()
    for t in made["tokens"]:
        own = {c for c in range(t["char_start"] or 0, t["char_end"] or 0) if not texts[t["example_id"]][c].isspace()}
        for w in words[t["example_id"]]:
            if own & set(range(w["char_start"], w["char_end"])):
                starts = t["word_idx"] == w["word_idx"]
                expected.add((t["example_id"], t["seq"], t["pos"], w["word_idx"], starts))
    with Warehouse(root) as wh:
        for run in ("words", "encoded"):
            found = wh.sql(
                f"SELECT example_id, seq, pos, word_idx, starts FROM token_words WHERE run_id = '{run}'"
            ).fetchall()
            assert len(found) == len(set(found)) and set(found) == expected
        assert wh.sql("SELECT count(*) FROM token_words WHERE run_id = 'plain'").fetchone() == (0,)
    several = {key: sum(e[:3] == key for e in expected) for key in list({e[:3] for e in expected})[:400]}
    assert max(several.values()) > 1, "the sample has tokens of several words"


def test_the_two_words_of_a_contraction(tmp_path: Path) -> None:
    """In `don't`, do and n't stand side by side, and the token `'t` begins inside the second; of `des`, de and les share all
    three characters, and the token counts for the first."""
    words = [("do", 0, 2), ("n't", 2, 5), ("de", 6, 9), ("les", 6, 9)]
    tokens = [("don", 0, 3, 0), ("'t", 3, 5, 1), (" des", 5, 9, 2)]
    rows: Rows = {
        "examples": [{"example_id": "e", "text": "don't des"}],
        "words": [
            {"example_id": "e", "word_idx": i, "form": form, "upos": form, "char_start": start, "char_end": end}
            for i, (form, start, end) in enumerate(words)
        ],
        "tokens": [
            {
                "example_id": "e",
                "pos": i,
                "side": "dec",
                "token": token,
                "char_start": start,
                "char_end": end,
                "word_idx": w,
            }
            for i, (token, start, end, w) in enumerate(tokens)
        ],
        "next_token": [{"example_id": "e", "pos": i, "loss": i + 1.0, "entropy": 0.5} for i in range(2)],
    }
    add_run(tmp_path, "r", "next-token", rows)
    with Warehouse(tmp_path) as wh:
        assert wh.sql("SELECT token, form, starts FROM token_words ORDER BY pos, word_idx").fetchall() == [
            ("don", "do", True),
            ("don", "n't", False),
            ("'t", "n't", True),
            (" des", "de", True),
            (" des", "les", False),
        ]
        asked = "SELECT form, n_tokens, n_predicted, loss, mean_entropy FROM word_diagnostics ORDER BY word_idx"
        assert wh.sql(asked).fetchall() == [
            ("do", 1, 0, None, None),
            ("n't", 1, 1, 1.0, 0.5),
            ("de", 1, 1, 2.0, 0.5),
            ("les", 0, 0, None, None),
        ]
        asked = "SELECT token, upos, true_upos, loss FROM token_diagnostics ORDER BY pos"
        assert wh.sql(asked).fetchall() == [
            ("don", "do", "n't", 1.0),
            ("'t", "n't", "de", 2.0),
            (" des", "de", None, None),
        ]


def test_every_token_has_its_words_annotation_and_that_of_the_one_it_foresees(root: Path, made: Rows) -> None:
    words = {(w["example_id"], w["word_idx"]): (w["upos"], w["lemma"], w["deprel"]) for w in made["words"]}
    tokens = {(t["example_id"], t["seq"], t["pos"]): t for t in made["tokens"]}

    def of(token: dict[str, Any] | None) -> tuple[str | None, ...]:
        return words.get((token["example_id"], token["word_idx"]), (None,) * 3) if token else (None,) * 3

    expected = {k: of(t) + of(tokens.get((*k[:2], k[2] + 1))) for k, t in tokens.items()}
    columns = "upos, lemma, deprel, true_upos, true_lemma, true_deprel"
    with Warehouse(root) as wh:
        found = wh.sql(
            f"SELECT example_id, seq, pos, {columns} FROM token_diagnostics WHERE run_id = 'words'"
        ).fetchall()
        assert len(found) == len(expected) and {f[:3]: f[3:] for f in found} == expected
        assert wh.sql(
            "SELECT count(*), count(upos), count(true_upos), count(loss) FROM token_diagnostics WHERE run_id = 'plain'"
        ).fetchone() == (len(expected), 0, 0, len(made["next_token"]))


def test_a_words_loss_is_that_of_its_tokens(root: Path, made: Rows) -> None:
    predicted = {(p["example_id"], p["seq"], p["pos"] + 1): p for p in made["next_token"]}
    tokens = defaultdict(list)
    for t in made["tokens"]:
        tokens[t["example_id"], t["word_idx"]].append(t)
    with Warehouse(root) as wh:
        found = wh.sql(
            "SELECT example_id, word_idx, n_tokens, n_predicted, loss, correct, mean_entropy FROM word_diagnostics"
        ).fetchall()
        losses = wh.sql("SELECT sum(loss) FROM word_diagnostics").fetchone()
    assert len(found) == len(made["words"]), "of the run with predictions, and of no other"
    found_by_key = {f[:2]: f[2:] for f in found}
    whole = 0
    for w in made["words"]:
        key = (w["example_id"], w["word_idx"])
        own = tokens[key]
        known = [predicted[k] for t in own if (k := (t["example_id"], t["seq"], t["pos"])) in predicted]
        n_tokens, n_predicted, loss, correct, entropy = found_by_key[key]
        assert (n_tokens, n_predicted) == (len(own), len(known))
        assert entropy == (pytest.approx(np.mean([p["entropy"] for p in known])) if known else None)
        if known and len(known) == len(own) and max(t["char_end"] for t in own) >= w["char_end"]:
            assert loss == pytest.approx(sum(p["loss"] for p in known))
            assert correct == all(p["correct"] for p in known)
            whole += 1
        else:
            assert loss is None and correct is None
    assert 0 < whole < len(found) and losses[0] > 0


def test_loss_by_part_of_speech(root: Path, made: Rows) -> None:
    words = pd.DataFrame(made["words"])[["example_id", "word_idx", "upos"]]
    tokens = pd.DataFrame(made["tokens"]).assign(pos=lambda d: d.pos - 1)
    both = tokens.merge(pd.DataFrame(made["next_token"]), on=["example_id", "seq", "pos"])
    both = both.merge(words, on=["example_id", "word_idx"]).dropna(subset="upos")
    by_tag = both.groupby("upos").agg(
        n=("loss", "size"), loss=("loss", "mean"), entropy=("entropy", "mean"), right=("correct", "mean")
    )
    with Warehouse(root) as wh:
        found = run_query(wh.connection, find_query("loss_by_part_of_speech"), {}).df().set_index("upos")
        word_loss = wh.sql(
            "SELECT upos, count(loss) AS n, avg(loss) AS loss FROM word_diagnostics GROUP BY upos"
        ).df().set_index("upos")  # fmt: skip
    assert set(found.index) == set(by_tag.index) == {"NOUN", "VERB", "PUNCT"}
    assert found.mean_loss.is_monotonic_decreasing
    for tag, row in by_tag.iterrows():
        assert found.tokens[tag] == row.n
        assert found.mean_loss[tag] == pytest.approx(row.loss, abs=5.1e-4)
        assert found.mean_entropy[tag] == pytest.approx(row.entropy, abs=5.1e-4)
        assert found.perplexity[tag] == pytest.approx(np.exp(row.loss), abs=5.1e-3)
        assert found.accuracy[tag] == pytest.approx(row.right, abs=5.1e-4)
        assert found.words[tag] == word_loss.n[tag]
        assert found.word_loss[tag] == pytest.approx(word_loss.loss[tag], abs=5.1e-4)


def test_emotion_entropy(root: Path, made: Rows) -> None:
    means = pd.DataFrame(made["next_token"]).groupby("example_id")[["entropy", "loss"]].mean()
    labelled = pd.DataFrame(made["labels"]).groupby("label").example_id.agg(set)
    with Warehouse(root) as wh:
        found = run_query(wh.connection, find_query("emotion_entropy"), {}).df().set_index("label")
    assert set(found.index) == {"joy", "fear", "neutral"} and found.mean_entropy.is_monotonic_decreasing
    for label, ids in labelled.items():
        has = means.index.isin(list(ids))
        assert found.examples[label] == has.sum()
        for name in ("entropy", "loss"):
            mean, rest = means[name][has].mean(), means[name][~has].mean()
            assert found[f"mean_{name}"][label] == pytest.approx(mean, abs=5.1e-4)
            assert found[f"{name}_difference"][label] == pytest.approx(mean - rest, abs=5.1e-4)


def test_a_label_that_all_examples_have_differs_from_nothing(tmp_path: Path) -> None:
    rows: Rows = {
        "labels": [{"example_id": e, "label": "joy"} for e in "ab"],
        "next_token": [{"example_id": e, "entropy": 1.0, "loss": 2.0} for e in "ab"],
    }
    add_run(tmp_path, "r", "next-token", rows)
    with Warehouse(tmp_path) as wh:
        assert run_query(wh.connection, find_query("emotion_entropy"), {}).fetchall() == [
            ("joy", 2, 1.0, None, 2.0, None)
        ]


def test_text_is_what_the_offsets_count_in(tmp_path: Path) -> None:
    """A prompt's tokens have places in the prompt, and `text` is that, not the question."""
    rows: Rows = {
        "examples": [{"example_id": "e", "text": "Why?"}],
        "prompts": [{"example_id": "e", "text": "Q: Why? A:"}],
        "tokens": [{"example_id": "e", "pos": i, "side": "dec", "token": t, "char_start": a, "char_end": b}
                   for i, (t, a, b) in enumerate([("Q:", 0, 2), (" Why?", 2, 7), (" A:", 7, 10)])],
        "next_token": [{"example_id": "e", "pos": i, "loss": float(i)} for i in range(2)],
    }  # fmt: skip
    add_run(tmp_path, "r", "mcq-prompt", rows)
    with Warehouse(tmp_path) as wh:
        assert wh.sql("SELECT bool_and(text[char_start + 1 : char_end] = token) FROM token_diagnostics").fetchone() == (
            True,
        )
        shared = "run_id, example_id, seq, side, pos, token, char_start, char_end, text"
        texts = wh.sql(f"SELECT {shared} FROM token_texts ORDER BY pos").fetchall()
        assert texts == wh.sql(f"SELECT {shared} FROM token_diagnostics ORDER BY pos").fetchall()
        surprising = run_query(wh.connection, find_query("most_surprising_tokens"), {}).df()
        assert list(surprising.before) == ["Q: Why?", "Q:"]
        assert len(run_query(wh.connection, find_query("confident_mistakes"), {}).fetchall()) == 2


def test_an_encoder_decoders_tokens_have_predictions_on_one_side_only(tmp_path: Path) -> None:
    keys = {"example_id": "a", "seq": 0}
    tokens = [keys | {"side": side, "pos": pos, "token": f"{side}{pos}"} for side in ("enc", "dec") for pos in range(3)]
    predictions = [keys | {"pos": pos, "loss": 1.0 + pos, "true_token": f"dec{pos + 1}"} for pos in range(2)]
    rows = {"examples": [{"example_id": "a", "text": "x"}], "tokens": tokens, "next_token": predictions}
    add_run(tmp_path, "r", "next-token", rows)
    with Warehouse(tmp_path) as wh:
        found = wh.sql("SELECT side, pos, token, loss FROM token_diagnostics ORDER BY side, pos").fetchall()
        assert found == [
            ("dec", 0, "dec0", 1.0),
            ("dec", 1, "dec1", 2.0),
            ("dec", 2, "dec2", None),
            ("enc", 0, "enc0", None),
            ("enc", 1, "enc1", None),
            ("enc", 2, "enc2", None),
        ]
        for question in ("most_surprising_tokens", "confident_mistakes"):
            answer = run_query(wh.connection, find_query(question), {})
            assert len(answer.fetchall()) == 2, question
        counted = run_query(wh.connection, find_query("word_starts"), {}).df()
        assert counted["predictions"].sum() == 2
