"""Multiple choice from the command line, as a new user would: prepare, ask a decoder, fine-tune, ask an encoder, compare."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
import zoo
from samples import DATA
from transformers import PreTrainedTokenizerFast

from warehouse import TraceStore
from warehouse.storage.paths import run_dir


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A small random BERT, without a multiple-choice head."""
    folder = tmp_path_factory.mktemp("bert")
    config = zoo.small_config(transformers.BertConfig, {"vocab_size": len(tokenizer)})
    zoo._instantiate(transformers.BertModel, config, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, traces: Callable) -> Path:
    """A warehouse with questions prepared under both splits."""
    root = tmp_path_factory.mktemp("mcq") / "runs"
    for split in ("train", "validation"):
        done = traces("data", "prepare", "csqa", "--from", DATA / "questions.jsonl", "--split", split, "-w", root)
        assert done.code == 0, done.err
        assert "3 rows, 15 choices, 3 answers" in done.out
    return root


@pytest.mark.slow
def test_from_questions_to_agreement(
    traces: Callable, root: Path, encoder: Path, tiny_folder: Callable, tmp_path: Path
) -> None:
    w = ("-w", root)
    asked = traces(
        "capture", "mcq-prompt", "--model", tiny_folder("llama"), "--run", "decoder", "--capture", "attn", *w
    )
    assert asked.code == 0, asked.err
    assert re.search(r"right: \d of 3 \(\d+\.\d%, 95 % interval \d+\.\d% to \d+\.\d%\), by letter", asked.out), (
        asked.out
    )

    guess = traces("capture", "mcq-encoder", "--model", encoder, "--run", "guess", *w)
    assert guess.code == 0, guess.err
    assert "no trained multiple-choice head: classifier.bias, classifier.weight are random" in guess.out

    out = tmp_path / "trained"
    finetune = (
        "finetune",
        "mcq",
        "--model",
        encoder,
        "--epochs",
        "2",
        "--batch-size",
        "2",
        "--out",
        out,
        "--run",
        "ft",
    )
    trained = traces(*finetune, *w)
    assert trained.code == 0, trained.err
    assert "ft: 3 questions, 2 epochs" in trained.out
    assert "kept: epoch 2, the last: a tenth of 3 training questions is too few to choose by" in trained.out
    assert re.search(r"validation: right: \d of 3 \(\d+\.\d%, 95 % interval", trained.out), trained.out
    assert "warning: ft: 3 of 3 questions of validation are training questions too" in trained.err
    again = traces(*finetune, *w)
    assert (again.code, "'ft' already exists" in again.err) == (2, True), again.err
    again = traces(*finetune[:-1], "other", *w)
    assert (again.code, "not empty" in again.err) == (2, True), again.err

    told = traces("capture", "mcq-encoder", "--model", out, "--run", "encoder", "--capture", "hidden,resid", *w)
    assert told.code == 0, told.err
    assert "random" not in told.out
    shown = traces("runs", "show", "encoder", *w).out
    assert "parents   ft" in shown
    assert "choices 15" in shown

    rows = json.loads(traces("sql", "--query", "agreement", "--format", "json", *w).out)
    assert rows[0]["questions"] == 3
    accuracy = json.loads(
        traces("sql", "SELECT run_id, n, accuracy, low, high, untrained FROM mcq_accuracy", "-f", "json", *w).out
    )
    assert {r["run_id"]: r["untrained"] for r in accuracy} == {
        "decoder": [],
        "encoder": [],
        "guess": ["classifier.bias", "classifier.weight"],
    }
    assert all(r["n"] == 3 and r["low"] <= r["accuracy"] <= r["high"] for r in accuracy)
    curve = json.loads(traces("sql", "--query", "training_curve", "--format", "json", *w).out)
    assert {r["split"] for r in curve} == {"train", "validation"}
    for run in ("encoder", "ft"):
        checked = traces("runs", "validate", run, "--deep", *w)
        assert checked.code == 0, checked.out
    store = TraceStore(run_dir(root, "encoder"))
    eid = store.tokens["example_id"].iloc[0]
    assert store.mcq_hidden(eid, choice_idx=2).ndim == 3


@pytest.mark.slow
def test_a_template_from_a_file(traces: Callable, root: Path, tiny_folder: Callable, tmp_path: Path) -> None:
    template = tmp_path / "t.txt"
    template.write_text("Question: {question}\nOptions: {choices}\nThe answer is\n", encoding="utf-8")
    ask = ("capture", "mcq-prompt", "--model", tiny_folder("llama"), "--limit", "1", "-w", root)
    done = traces(*ask, "--template", template, "--score", "byte", "--run", "templated")
    assert done.code == 0, done.err
    (text,) = TraceStore(run_dir(root, "templated")).query("SELECT text FROM prompts WHERE seq = 2").fetchone()
    assert text.startswith("Question: ") and text.endswith("\nThe answer is soup"), text
    assert "template='Question: {question}" in traces("runs", "show", "templated", "-w", root).out
    template.write_text("{question}", encoding="utf-8")
    for wrong, message in ((template, "{choices}"), (tmp_path / "none.txt", "none.txt")):
        done = traces(*ask, "--template", wrong)
        assert (done.code, message in done.err, "Traceback" in done.err) == (2, True, False), done.err


def test_a_dry_run_writes_nothing(traces: Callable, root: Path, tiny_folder: Callable) -> None:
    done = traces(
        "capture",
        "mcq-prompt",
        "--model",
        tiny_folder("llama"),
        "--capture",
        "hidden",
        "--dry-run",
        "--run",
        "dry",
        "-w",
        root,
    )
    assert "3 examples, 3 sequences" in done.out, done
    assert not run_dir(root, "dry").exists()


@pytest.mark.slow
def test_a_killed_fine_tuning_goes_on(traces: Callable, root: Path, encoder: Path, tmp_path: Path) -> None:
    """SIGKILL once there is a checkpoint; the same command ends with the weights of an undisturbed one."""
    base = ["finetune", "mcq", "--model", encoder, "--epochs", "40", "--batch-size", "1", "--lr", "1e-3"]
    command = [*base, "--out", tmp_path / "killed", "--run", "killed", "-w", root]
    process = subprocess.Popen(
        [sys.executable, "-m", "capture.cli.main", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
    )
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if any((p / "trainer_state.json").is_file() for p in checkpoints.glob("checkpoint-*")):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL, "it ended before it could be killed"
    assert not run_dir(root, "killed").exists()
    for name in ("killed", "whole"):
        done = traces(*base, "--out", tmp_path / name, "--run", name, "-w", root)
        assert done.code == 0, done.err
    hashes = {TraceStore(run_dir(root, name)).meta.model.weights_hash for name in ("killed", "whole")}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("capture", "mcq-prompt", "--data", "cqsa"), "csqa"),
        (("capture", "mcq-prompt", "--split", "dev2"), "validation"),
        (("capture", "mcq-prompt", "--data", "ud_ewt", "--from", DATA / "harbour.conllu"), "no choices"),
        (("capture", "mcq-encoder"), "is not an encoder"),
        (("finetune", "mcq", "--out", "x", "--from", DATA / "questions.jsonl"), "folder"),
    ],
)
def test_bad_input_is_one_clear_line(
    traces: Callable, root: Path, tiny_folder: Callable, arguments: tuple, message: str, tmp_path: Path
) -> None:
    done = traces(*arguments, "--model", tiny_folder("llama"), "-w", root)
    assert done.code in (1, 2)
    assert message in done.err, done.err
    assert "Traceback" not in done.err
