"""Captures of evaluations' logs: what the model reads, whose sequence a score is of, and what stands in the tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation_logs import document, generated, header, sample, write_eval, write_samples

from capture.data.registry import open_data
from capture.jobs import next_token
from warehouse import Warehouse
from warehouse.errors import UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

TEMPLATE = "{% for m in messages %}{{ '[' + m.role + ']' + m.content + '\\n' }}{% endfor %}"


@pytest.fixture
def capture(tmp_path: Path, load_tiny: Callable[..., Any]) -> Callable[..., Warehouse]:
    """Captures a log by a tiny Llama, whose tokenizer is given a chat template; returns the warehouse."""

    def run(log: Path, name: str = "runs", bos: str | None = None, **options: Any) -> Warehouse:
        loaded = load_tiny()
        loaded.tokenizer.chat_template, loaded.tokenizer.bos_token = TEMPLATE, bos
        source = open_data(str(log))
        root = tmp_path / name
        next_token.run(loaded, source, next_token.Options(**options), root=root, run_id="r")
        assert [c.detail for c in validate(run_dir(root, "r")) if c.passed is False] == []
        return Warehouse(root)

    return run


def test_an_epoch_is_a_sequence_with_its_scores_and_its_messages(tmp_path: Path, capture: Callable) -> None:
    log = write_eval(tmp_path / "a.eval", [sample("one", 1, "C"), sample("one", 2, "I"), sample("two")])
    with capture(log) as wh:
        found = wh.sql(
            "SELECT e.source_id, v.seq, v.epoch, v.is_correct, count(DISTINCT m.turn), string_agg(DISTINCT p.text, '') "
            "FROM scored_sequences AS v JOIN examples AS e USING (run_id, example_id) JOIN messages AS m USING (run_id, example_id, seq) "
            "JOIN prompts AS p USING (run_id, example_id, seq) GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    text = "[user]What is 1 + 1?\n[assistant]2\n"
    assert found == [("one", 0, 1, True, 2, text), ("one", 1, 2, False, 2, text), ("two", 0, 1, True, 2, text)]


def test_choices_are_read_after_their_prompt(tmp_path: Path, capture: Callable) -> None:
    with capture(write_samples(tmp_path, [document(), generated(1)])) as wh:
        read = wh.sql(
            "SELECT source_id, seq, string_agg(token, '' ORDER BY pos) FILTER (NOT is_response), "
            "string_agg(token, '' ORDER BY pos) FILTER (is_response) FROM tokens JOIN examples USING (run_id, example_id) "
            "GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        shared = wh.sql("SELECT seq, count(*) FROM scored_sequences WHERE metric = 'acc' GROUP BY ALL ORDER BY ALL")
        assert shared.fetchall() == [(0, 1), (1, 1)]
    assert read == [
        ("0", 0, "The lamp was", " lit"),
        ("0", 1, "The lamp was", " a fish"),
        ("1", 0, "The lamp was", " out."),
    ]


def test_a_bos_that_the_text_begins_with_is_put_once(tmp_path: Path, capture: Callable) -> None:
    """As the harness does it with texts that a chat template wrote."""
    ids = []
    for name, opening in (("plain", ""), ("opened", "<pad>")):
        (tmp_path / name).mkdir()
        arguments = {"gen_args_0": {"arg_0": f"{opening}The lamp was", "arg_1": {"until": ["\n"]}}}
        log = write_samples(tmp_path / name, [generated() | {"arguments": arguments}])
        with capture(log, name, bos="<pad>", prepend_bos="yes") as wh:
            ids.append(wh.sql("SELECT list(token_id ORDER BY pos) FROM tokens").fetchall())
    assert ids[0] == ids[1]


def test_windows_are_refused_where_there_are_scores(tmp_path: Path, capture: Callable) -> None:
    log = write_eval(tmp_path / "a.eval", [sample()], header())
    with pytest.raises(UsageError, match="--chunk and --stride don't go with scores, .*row one has some"):
        capture(log, chunk=True)
