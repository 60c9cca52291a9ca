"""`traces export` writes what its functions write, and says in one line what it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "words, says",
    [
        (["viewer", "llama", "--where", "idx = 0"], "1 of attention"),
        (["npz", "llama", "--sites", "resid", "--layers", "0,2", "--where", "idx < 2"], "2 files"),
        (["transformer-lens", "gpt2", "--sites", "attn", "--where", "idx = 1"], "1 files"),
        (["sae-lens", "llama", "--layers", "1", "--context-size", "4"], "hook_name=blocks.1.hook_resid_post d_in=32"),
        (["dataset", "llama", "--tables", "examples,tokens"], "tokens"),
    ],
)
def test_a_folder_is_written_with_an_index(
    words: list[str], says: str, tiny_root: Path, traces: Callable, tmp_path: Path
) -> None:
    done = traces("export", *words, "-o", tmp_path / "out", "--warehouse", tiny_root)
    assert done.code == 0 and says in done.out, done.err
    index = json.loads((tmp_path / "out" / "index.json").read_text(encoding="utf-8"))
    assert (index["made_by"], index["format"], index["run_id"]) == ("trace-warehouse", words[0], words[1])
    again = traces("export", *words, "-o", tmp_path / "out", "--warehouse", tiny_root)
    assert again.code == 2 and "--force" in again.err and again.err.count("\n") == 1
    assert traces("export", *words, "-o", tmp_path / "out", "--force", "--warehouse", tiny_root).code == 0


@pytest.mark.parametrize(
    "words, says",
    [
        (["viewer", "llama", "--where", "nothing = 3"], "--where fails on the table examples"),
        (["viewer", "llama", "--documents", "lens"], "traces lens llama"),
        (["npz", "llama", "--sites", "cross.q"], "Capture it again with --capture q"),
        (["responses", "llama"], "it has no responses"),
        (["control-vector", "llama"], "traces trait extract"),
        (["dataset", "llama", "--push", "x"], "write OWNER/NAME"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    words: list[str], says: str, tiny_root: Path, traces: Callable, tmp_path: Path
) -> None:
    done = traces("export", *words, "-o", tmp_path / "out", "--warehouse", tiny_root)
    assert done.code == 2 and says in done.err and done.err.count("\n") == 1, done.err
    assert list(tmp_path.iterdir()) == []
