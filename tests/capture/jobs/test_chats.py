"""Chats through the packaged model and its own chat template: the tokens it would read, their roles, and answers to go on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import capture
from capture.data.example import Source
from capture.jobs import generate, next_token
from capture.model import loading
from warehouse import TraceStore, Warehouse
from warehouse.catalog.saved_queries import find_query, run_query
from warehouse.errors import UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

CHATS = [
    [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris."},
        {"role": "user", "content": "And of Italy?"},
        {"role": "assistant", "content": "Rome."},
    ],
    [
        {"role": "system", "content": "You are the keeper of a lighthouse."},
        {"role": "user", "content": " Is the lamp lit?\n"},
        {"role": "assistant", "content": "It is.\n\nIt was lit at dusk."},
    ],
]
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }} .\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"


def captured(
    root: Path, loaded: loading.Loaded, run: str, source: Source, kind: Any = next_token, **options: Any
) -> TraceStore:
    kind.run(loaded, source, kind.Options(**options), root=root, run_id=run)
    store = TraceStore(run_dir(root, run))
    assert [c for c in validate(store.path) if c.passed is False] == []
    return store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, smollm2: loading.Loaded) -> Path:
    """A warehouse with a run of the chats, and one in which the model goes on with them. Read only."""
    root = tmp_path_factory.mktemp("chats") / "runs"
    captured(root, smollm2, "chats", capture.open_chats(CHATS), capture="resid", store_dtype="float32")
    asked = capture.open_chats([chat[:-1] for chat in CHATS])
    captured(root, smollm2, "answers", asked, generate, temperature=0.0, max_new_tokens=12)
    return root


def token_rows(root: Path, run: str, columns: str) -> list[list[tuple[Any, ...]]]:
    """The tokens of each chat, in order."""
    store = TraceStore(run_dir(root, run))
    rows = store.query(
        f"SELECT idx, {columns} FROM tokens JOIN examples USING (example_id) ORDER BY idx, seq, pos"
    ).fetchall()
    return [[row[1:] for row in rows if row[0] == i] for i in range(len(CHATS))]


def test_the_model_reads_what_its_template_makes_of_a_chat(root: Path, smollm2: loading.Loaded) -> None:
    """Its ids are those of `apply_chat_template`, and the losses those of a forward pass over them, to float32's sums."""
    ids = [[i for (i,) in chat] for chat in token_rows(root, "chats", "token_id")]
    expected = [smollm2.tokenizer.apply_chat_template(c, tokenize=True, return_dict=True)["input_ids"] for c in CHATS]
    assert ids == expected
    store = TraceStore(run_dir(root, "chats"))
    losses = store.query(
        "SELECT idx, loss FROM next_token JOIN examples USING (example_id) ORDER BY idx, pos"
    ).fetchall()
    for i, chat in enumerate(ids):
        with torch.no_grad():
            scores = smollm2.model(torch.tensor([chat])).logits[0, :-1].log_softmax(-1)
        own = -scores[range(len(chat) - 1), chat[1:]]
        np.testing.assert_allclose([x for n, x in losses if n == i], own, rtol=2e-4, atol=2e-5)


def test_each_token_has_the_role_of_the_message_that_it_is_in(root: Path) -> None:
    """Of this template: a message is written between <|im_start|> and <|im_end|>, whatever comes before and after."""
    for chat, tokens in zip(CHATS, token_rows(root, "chats", "token, turn, role, part"), strict=True):
        own = int(chat[0]["role"] != "system")  # the template's system message, where there is none
        begun = np.cumsum([token == "<|im_start|>" for token, *_ in tokens]) - 1 - own
        for (_, turn, role, part), message in zip(tokens, begun.tolist(), strict=True):
            assert (turn, role) == ((message, chat[message]["role"]) if message >= 0 else (None, None))
            assert part in ("content", None)
        for i, message in enumerate(chat):
            said = "".join(token for token, turn, _, part in tokens if turn == i and part == "content")
            assert said.strip() == message["content"].strip()


def test_messages_are_rows(root: Path) -> None:
    store = TraceStore(run_dir(root, "chats"))
    rows = store.query(
        "SELECT idx, turn, role, content FROM messages JOIN examples USING (example_id) ORDER BY 1, 2"
    ).fetchall()
    assert rows == [(i, n, m["role"], m["content"]) for i, chat in enumerate(CHATS) for n, m in enumerate(chat)]


def test_an_answer_is_read_as_it_is_when_it_stands_in_the_chat(
    root: Path, tmp_path: Path, smollm2: loading.Loaded
) -> None:
    answers = TraceStore(run_dir(root, "answers"))
    said = answers.query(
        "SELECT response, finish FROM responses JOIN examples USING (example_id) ORDER BY idx"
    ).fetchall()
    assert said[0] == ("The capital of Italy is Rome.", "stop")
    whole = [[*chat[:-1], {"role": "assistant", "content": text}] for chat, (text, _) in zip(CHATS, said, strict=True)]
    captured(tmp_path, smollm2, "whole", capture.open_chats(whole))
    columns = "token_id, turn, role, part"
    again, generated = token_rows(tmp_path, "whole", columns), token_rows(root, "answers", columns)
    assert generated[0] == again[0][: len(generated[0])]
    assert [len(again[0]) - len(generated[0])] == [1]  # the line break that the template puts after a message


def test_loss_is_asked_by_role_and_by_turn(root: Path) -> None:
    with Warehouse(root) as wh:
        frame = wh.sql(
            "SELECT t.*, n.loss FROM tokens AS t LEFT JOIN next_token AS n ON (n.example_id, n.pos + 1) = (t.example_id, t.pos) "
            "AND n.run_id = t.run_id WHERE t.run_id = 'chats'"
        ).df()
        said = (
            run_query(wh.connection, find_query("loss_by_role"), {"run": "chats"})
            .df()
            .set_index(["role", "part"])
            .mean_loss
        )
        turns = (
            run_query(wh.connection, find_query("loss_by_turn"), {"run": "chats"})
            .df()
            .set_index(["turn", "role"])
            .tokens
        )
    expected = frame[frame.role.notna()].groupby(["role", "part"], dropna=False).loss.mean()
    for (role, part), loss in expected.items():
        if loss == loss:
            assert said[(role, part)] == pytest.approx(loss, abs=6e-4)  # rounded to three digits
    assert turns.to_dict() == frame[frame.part.notna() & frame.loss.notna()].groupby(["turn", "role"]).size().to_dict()


@pytest.mark.parametrize("stride", [None, 9])
def test_a_long_chat_goes_on_in_the_next_sequence(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded], stride: int | None
) -> None:
    loaded = load_tiny("gpt2", dtype="float32")
    loaded.tokenizer.chat_template = TEMPLATE
    captured(tmp_path, loaded, "whole", capture.open_chats(CHATS))
    captured(tmp_path, loaded, "parts", capture.open_chats(CHATS), max_len=16, chunk=True, stride=stride)
    store = TraceStore(run_dir(tmp_path, "parts"))
    columns = "token_id, turn, role, part, char_start"
    new = store.query(
        f"SELECT idx, {columns} FROM tokens JOIN examples USING (example_id) WHERE NOT is_context ORDER BY idx, seq, pos"
    ).fetchall()
    assert [[row[1:] for row in new if row[0] == i] for i in range(2)] == token_rows(tmp_path, "whole", columns)
    assert store.query("SELECT max(pos) FROM tokens").fetchone() == (15,)


def test_samples_of_an_answer_share_the_chat(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    loaded = load_tiny("gpt2", dtype="float32")
    loaded.tokenizer.chat_template = TEMPLATE
    asked = capture.open_chats([chat[:-1] for chat in CHATS])
    store = captured(tmp_path, loaded, "g", asked, generate, max_new_tokens=4, samples=2, seed=1)
    rows = store.query(
        "SELECT idx, seq, count(*) FILTER (is_response), min(turn) FILTER (is_response), any_value(role) FILTER (is_response) "
        "FROM tokens JOIN examples USING (example_id) GROUP BY idx, seq ORDER BY ALL"
    ).fetchall()
    assert [(i, s, turn, role) for i, s, _, turn, role in rows] == [
        (i, s, len(CHATS[i]) - 1, "assistant") for i in range(2) for s in range(2)
    ]


def test_what_does_not_go_with_chats_is_refused(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    loaded = load_tiny("gpt2", dtype="float32")
    source = capture.open_chats(CHATS)
    loaded.tokenizer.chat_template = None
    with pytest.raises(UsageError, match="has no chat template, so that it cannot read chats"):
        captured(tmp_path, loaded, "no", source)
    loaded.tokenizer.chat_template = TEMPLATE
    with pytest.raises(UsageError, match="--prepend-bos no: the chat template"):
        captured(tmp_path, loaded, "no", source, prepend_bos="no")
    with pytest.raises(UsageError, match=r"row 0 ends with an answer \(role assistant\)"):
        captured(tmp_path, loaded, "no", source, generate)
    loaded.tokenizer.chat_template = TEMPLATE.replace(
        "[{{ m.role }}]", "{{ raise_exception('not today') if m.role == 'system' }}"
    )
    with pytest.raises(
        UsageError, match="the list of chats, row 1: the chat template of .* refuses this chat: not today"
    ):
        captured(tmp_path, loaded, "no", source)
    assert not run_dir(tmp_path, "no").exists()


def test_chats_from_the_command_line(
    traces: Callable[..., SimpleNamespace], tmp_path: Path, root: Path, smollm2: object
) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat, "n": i}) + "\n" for i, chat in enumerate(CHATS)))
    run = ("capture", "next-token", "--model", "smollm2", "--data", path, "--warehouse", tmp_path, "--run", "c")
    assert "2 examples, 2 sequences, 104 tokens" in traces(*run, "--dry-run").out
    made = traces(*run)
    assert made.code == 0, made.err
    assert token_rows(tmp_path, "c", "token_id, role") == token_rows(root, "chats", "token_id, role")
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"messages": CHATS[0][:-1]}))
    answer = traces("capture", "generate", "--model", "smollm2", "--data", asked, "--temperature", "0", "--max-new-tokens", 12,
                    "--warehouse", tmp_path, "--run", "a")  # fmt: skip
    assert answer.code == 0, answer.err
    assert token_rows(tmp_path, "a", "token_id") == [token_rows(root, "answers", "token_id")[0], []]
    both = traces(
        "capture", "generate", "--model", "smollm2", "--data", asked, "--prompt", "Hm?", "--warehouse", tmp_path
    )
    assert both.code == 2
    assert "or --data CHATS" in both.err
