"""`traces plot` as it is typed: files whole or not at all, and refusals in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic_causes
import synthetic_circuits

pytest.importorskip("matplotlib")


@pytest.mark.parametrize(
    ("words", "name", "begins"),
    [
        ("tokens llama --positions 2-9", "llama-loss.png", b"\x89PNG"),
        pytest.param(
            "attention llama --layers 0,2 --head 1", "llama-attention-L0-2-H1.png", b"\x89PNG", marks=pytest.mark.slow
        ),
        pytest.param("lens llama --layers 1 --positions 0-5 -o a.svg", "a.svg", b"<?xml", marks=pytest.mark.slow),
        pytest.param("loss-by-position llama ud_ewt -o b.PDF", "b.PDF", b"%PDF-", marks=pytest.mark.slow),
    ],
)
def test_a_picture_is_written(
    traces: Callable,
    every_table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    name: str,
    begins: bytes,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = traces("plot", *words.split(), "-w", every_table)
    assert (done.code, done.out) == (0, f"{name}\n"), done.err
    (file,) = tmp_path.iterdir()
    assert file.name == name and file.read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("attention llama --positions 9-2", "--positions 9-2: write the first and the last, as in 0-19."),
        ("attention llama -o x.jpg", "x.jpg: its ending names no format of pictures. End it in .png, .svg or .pdf."),
        ("tokens llama -o runs/x.svg", "runs/x.svg is in the warehouse"),
        ("attention llama-lens", "Name the run that it was made from: llama."),
    ],
)
def test_a_wrong_call_is_one_line(
    traces: Callable, every_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(every_table)
    command, *rest = words.split()
    done = traces("plot", command, *rest, "-w", "runs")
    assert (done.code, done.out) == (2, "") and message in done.err and done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["runs"] and not (every_table / "x.svg").exists()


@pytest.mark.slow
def test_pictures_of_circuits_are_written(traces: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("networkx")
    root = tmp_path / "runs"
    synthetic_circuits.add_pairs(root)
    synthetic_circuits.add_circuits(root, circuits={"eap-ig 1/2": synthetic_circuits.edge_scores(0)})
    synthetic_circuits.add_evaluation(root)
    synthetic_causes.add_task(root)
    synthetic_causes.add_influence(root)
    monkeypatch.chdir(tmp_path)
    for words, name in (
        (["circuit", "circuit/eap-ig 1/2", "--edges", "9"], "circuit-eap-ig-1-2-circuit.png"),
        (["curve", "circuit", "-o", "c.svg"], "c.svg"),
        (["graph", "task", "--example", "a", "-o", "g.svg"], "g.svg"),
    ):
        done = traces("plot", *words, "-w", root)
        assert (done.code, done.out) == (0, f"{name}\n"), done.err
    done = traces("plot", "circuit", "circuit", "--selection", "best", "-w", root)
    assert done.code == 2 and "No selection 'best'" in done.err and done.err.count("\n") == 1
