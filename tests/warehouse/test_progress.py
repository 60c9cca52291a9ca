"""The progress bar: drawn on a terminal and in a notebook, lines for a log, and nothing where nobody looks on."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from warehouse import progress
from warehouse.progress import ProgressBar, has_screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_how_far_it_is_and_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with ProgressBar("examples", 4) as bar:
        bar._bar.mininterval = 0
        for n in range(1, 5):
            bar.show(n, label="mine", detail="7 tokens/s")
        bar.say("continuing after 3 tokens")
    drawn = screen.getvalue()
    assert "mine" in drawn and "4/4" in drawn and "7 tokens/s" in drawn and "continuing after 3 tokens\n" in drawn
    assert drawn.rstrip("\r").endswith(" ") or drawn.endswith("\r")  # nothing of the bar stays


def test_where_nobody_looks_on_there_is_nothing_or_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines: list[str] = []
    with ProgressBar("examples", 40, lines.append) as told, ProgressBar("examples", 40) as silent:
        for n in range(0, 40, 2):
            now += 2
            told.show(n, label="mine", detail="fast")
            silent.show(n, label="mine")
        silent.say("a note")
    assert lines == [f"mine: {n} of 40 examples, fast" for n in (10, 22, 34)]
    assert capsys.readouterr() == ("", "")


def test_a_notebook_is_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_screen()
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert has_screen()
