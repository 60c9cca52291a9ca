"""The command line as a user meets it: a process of its own, its output, its exit code."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from warehouse import TraceStore
from warehouse.schema.tables import SCHEMA_VERSION
from warehouse.storage import paths, run_list

TOP = Path(__file__).parents[1]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.txt"
    path.write_text("the lamp and the sea\nthe keeper wrote in his book\n")
    return path


@pytest.fixture
def capture(traces: Callable, tiny_folder: Callable, tmp_path: Path) -> Callable:
    def run(*args: object, **kw: object):
        return traces(
            "capture", "next-token", "--model", tiny_folder("llama"), "--warehouse", tmp_path / "runs", *args, **kw
        )  # fmt: skip

    return run


def clear(answer, code: int, *words: str) -> None:
    """One line for the user, the right exit code, no traceback."""
    assert answer.code == code, answer
    assert "Traceback" not in answer.err and "Traceback" not in answer.out
    for word in words:
        assert word in answer.err, answer.err


def test_capture_show_validate_ask_and_delete(traces: Callable, capture: Callable, tmp_path: Path, small: Path) -> None:
    root = tmp_path / "runs"
    done = capture("--text", small, "--run", "first", "--capture", "hidden,resid,qkv,attn")
    assert done.code == 0 and "first: 2 examples" in done.out and "perplexity" in done.out, done
    shown = traces("runs", "show", "first", "-w", root)
    assert "LlamaForCausalLM, 3 layers, 4 heads (2 K/V)" in shown.out and "perplexity" in shown.out
    assert traces("runs", "-w", root, "show", "first").out == shown.out
    assert json.loads(traces("runs", "show", "first", "--json", "-w", root).out)["run_id"] == "first"
    assert traces("runs", "-w", root).out.split("\n")[1].split()[0] == "first"
    valid = traces("runs", "validate", "first", "--deep", "-w", root)
    assert valid.code == 0 and "FAIL" not in valid.out and "deep: hidden" in valid.out, valid
    assert all(
        c["passed"] is not False for c in json.loads(traces("runs", "validate", "first", "--json", "-w", root).out)
    )
    dry = traces("runs", "rm", "first", "--dry-run", "-w", root)
    assert "would delete" in dry.out and (root / "run_id=first").exists()
    clear(traces("runs", "rm", "first", "-w", root, stdin="n\n"), 1, "Nothing was deleted")
    assert traces("runs", "rm", "first", "--yes", "-w", root).code == 0
    assert not (root / "run_id=first").exists()
    assert "No runs yet" in traces("runs", "-w", root).out


@pytest.mark.slow
def test_text_from_standard_input_jsonl_and_parquet(capture: Callable, traces: Callable, tmp_path: Path) -> None:
    assert capture("--text", "-", "--run", "in", stdin="the lamp\nthe sea\n").code == 0
    assert capture("--text", TOP / "tests" / "data" / "notes.jsonl", "--run", "notes").code == 0
    store = TraceStore(tmp_path / "runs" / "run_id=notes")
    assert store.query("SELECT metadata::JSON ->> 'keeper' FROM examples ORDER BY idx").fetchall()[0] == ("Anna",)
    clear(
        capture("--text", TOP / "tests" / "data" / "notes.jsonl", "--text-column", "txt"), 2, "No column 'txt'", "text"
    )


def test_dry_run_writes_nothing(capture: Callable, tmp_path: Path, small: Path) -> None:
    done = capture("--text", small, "--dry-run", "--capture", "hidden")
    assert done.code == 0 and "2 examples" in done.out and "MB as F16" in done.out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("fmt", ["csv", "tsv", "json", "parquet", "table"])
def test_answers_in_every_format(traces: Callable, tiny_root: Path, tmp_path: Path, fmt: str) -> None:
    query = (
        "SELECT run_id, count(*) AS n, max(topk_ids) AS ids, NULL AS nothing FROM next_token GROUP BY ALL ORDER BY 1"
    )
    path = tmp_path / "out"
    assert traces("sql", query, "-w", tiny_root, "-f", fmt, "-o", path).code == 0
    if fmt == "parquet":
        assert pq.read_table(path)["run_id"].to_pylist() == ["gpt2", "llama"]
        assert pq.read_table(io.BytesIO(binary("sql", query, "-w", tiny_root, "-f", fmt))).num_rows == 2
        return
    text = path.read_text()
    assert traces("sql", query, "-w", tiny_root, "-f", fmt).out.strip() == text.strip()
    if fmt == "json":
        rows = json.loads(text)
        assert (
            [r["run_id"] for r in rows] == ["gpt2", "llama"]
            and isinstance(rows[0]["ids"], list)
            and rows[0]["nothing"] is None
        )
    elif fmt != "table":
        lines = text.splitlines()
        assert lines[0].split("\t" if fmt == "tsv" else ",") == ["run_id", "n", "ids", "nothing"]
        assert len(lines) == 3
    else:
        assert "gpt2" in text and "│" in text


def binary(*args: object) -> bytes:
    return subprocess.run(
        [sys.executable, "-m", "capture.cli.main", *map(str, args)], capture_output=True, timeout=60
    ).stdout


def test_the_shell_is_duckdbs_own(traces: Callable, tiny_root: Path) -> None:
    done = traces("shell", "-w", tiny_root, "--", "-csv", "-c", "SELECT run_id FROM runs ORDER BY 1")
    assert done.out.split() == ["run_id", "gpt2", "llama"], done
    assert "read-only" in traces("shell", "-w", tiny_root, "--", "-c", "CREATE TABLE t (a INT)").err


def test_refresh_sees_what_was_copied_in(traces: Callable, tiny_root: Path, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    assert "0 runs" in traces("refresh", "-w", tmp_path / "r").out
    shutil.copytree(paths.run_dir(tiny_root, "llama"), paths.run_dir(tmp_path / "r", "llama"))
    assert "1 run\n" in traces("refresh", "-w", tmp_path / "r").out
    manifest, newer = paths.run_dir(tmp_path / "r", "llama") / "run.json", SCHEMA_VERSION + 1
    manifest.write_text(
        manifest.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', f'"schema_version": {newer}')
    )
    assert f"schema version {newer}" in traces("refresh", "-w", tmp_path / "r").err
    clear(
        traces("runs", "show", "llama", "-w", tmp_path / "r"),
        1,
        f"schema version {newer}",
        "pip install -U trace-warehouse",
    )
    clear(traces("runs", "validate", "llama", "-w", tmp_path / "r"), 1, f"schema version {newer}")


@pytest.mark.slow
def test_bad_input_is_one_clear_line(
    traces: Callable, capture: Callable, tiny_root: Path, tmp_path: Path, small: Path
) -> None:
    w = ("-w", tiny_root)
    clear(traces("sql", "SELECT los FROM next_token", *w), 2, "Binder Error", '"loss"')
    clear(traces("sql", "SELEC 1", *w), 2, "Parser Error", "SELEC 1")
    clear(traces("sql", "FROM next_tokens", *w), 2, "Did you mean", "next_token")
    clear(traces("sql", "SELECT CAST('x' AS INTEGER)", *w), 1, "Conversion Error")
    clear(traces("sql", *w), 2, "Give one of")
    clear(traces("sql", "--query", "calibraton", *w), 2, "Did you mean calibration")
    clear(traces("sql", "--query", "calibration", "--set", "run=lama", *w), 2, "No run 'lama'. Did you mean llama?")
    clear(traces("sql", "--query", "calibration", "--set", "rum=llama", *w), 2, "Did you mean run")
    clear(traces("sql", "SELECT 1", "-w", tmp_path / "none"), 2, "There is no warehouse at")
    clear(traces("runs", "show", "lama", *w), 2, "No run 'lama'. Did you mean llama?")
    clear(traces("runs", "rm", "lama", *w), 2, "Did you mean llama")
    clear(capture("--text", small, "--capture", "hiden"), 2, "No site 'hiden'. Did you mean hidden?")
    clear(capture("--text", small, "--max-len", "1"), 2, "--max-len 1")
    clear(capture("--text", small, "--max-len", "4096"), 2, "was made for: 128 tokens")
    clear(capture("--text", small, "--run", "a/b"), 2, "cannot name a run")
    clear(capture("--text", small, "--store-dtype", "int4"), 2, "--store-dtype int4")
    clear(capture("--text", small, "--device", "cuda:9"), 2, "no device 'cuda:9'")
    clear(capture("--text", tmp_path / "smal.txt"), 2, "Did you mean", "small.txt")
    clear(capture(), 2, "either --data NAME or --text FILE")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    clear(capture("--text", empty), 2, "holds no text")
    single = tmp_path / "single.txt"
    single.write_text("a\n")
    clear(capture("--text", single), 2, "no text has a second token")
    assert capture("--text", small, "--run", "taken").code == 0
    clear(capture("--text", small, "--run", "taken"), 2, "Run 'taken' already exists", "traces runs rm taken")


@pytest.mark.slow
def test_models_that_are_not_there(traces: Callable, tmp_path: Path, small: Path) -> None:
    def of(model: str, **env: str):
        args = ("capture", "next-token", "--model", model, "--text", small, "-w", tmp_path / "runs")
        return traces(*args, env=env or None)

    clear(of("./no/such/folder"), 2, "There is no model at ./no/such/folder")
    hub = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    closed = of("nobody/nothing", HF_HOME=str(tmp_path / "hf"), **hub)
    clear(closed, 2, "the hub cannot be reached", "smollm2")


@pytest.fixture
def slow_start(tiny_folder: Callable, tmp_path: Path) -> Callable[[], subprocess.Popen]:
    """A capture that takes a while, started and seen to have a shard complete."""
    path = tmp_path / "long.txt"
    path.write_text("\n".join(f"the lamp and the sea and the keeper number {i} " * 6 for i in range(3000)))
    command = [sys.executable, "-m", "capture.cli.main", "capture", "next-token", "--model", str(tiny_folder("llama")),
               "--text", str(path), "--capture", "hidden,resid,qkv,attn", "--shard-mb", "2", "--batch-tokens", "256",
               "--run", "long", "-w", str(tmp_path / "runs")]  # fmt: skip

    def start() -> subprocess.Popen:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background have it ignored
        )
        journal = paths.journal_path(paths.staging_dir(tmp_path / "runs", "long"))
        before = journal.stat().st_size if journal.exists() else 0
        for _ in range(3000):
            if journal.exists() and journal.stat().st_size > before and '\n{"shard"' in journal.read_text():
                return process
            if process.poll() is not None:
                pytest.fail(f"it ended by itself: {process.communicate()}")
            time.sleep(0.1)
        process.kill()
        pytest.fail("no shard was completed in five minutes")

    return start


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_complete_and_says_how_to_go_on(
    slow_start: Callable, traces: Callable, tmp_path: Path, how: signal.Signals
) -> None:
    process = slow_start()
    process.send_signal(how)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "run the same command again to go on" in err and "Traceback" not in err, err
    root = tmp_path / "runs"
    assert "unfinished: long" in traces("runs", "-w", root).out
    clear(traces("runs", "show", "long", "-w", root), 2, "It is unfinished")
    busy = slow_start()
    clear(traces("runs", "rm", "long", "--yes", "-w", root), 2, "A process is capturing run 'long'")
    busy.kill()
    _, err = busy.communicate(timeout=300)
    assert "continuing after" in err
    assert traces("runs", "rm", "long", "--yes", "-w", root).code == 0
    assert paths.staged_runs(root) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], capture_output=True, text=True)
        if shutil.which("mount")
        else None
    )
    if mounted is None or mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (it takes root)")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk_stops_with_the_cause_and_nothing_is_lost(
    traces: Callable, tiny_folder: Callable, tiny_disk: Path
) -> None:
    args = ("capture", "next-token", "--model", tiny_folder("llama"), "--text", TOP / "tests" / "data" / "lighthouse.txt",
            "--capture", "hidden,resid,qkv,attn", "--shard-mb", "1", "--batch-tokens", "128", "--run", "r",
            "-w", tiny_disk / "runs")  # fmt: skip
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(3_300_000))
    clear(traces(*args), 1, "The disk is full", "run the same command again")
    assert run_list.published_runs(tiny_disk / "runs") == []
    ballast.unlink()
    again = traces(*args)
    assert again.code == 0, again
    assert traces("runs", "validate", "r", "-w", tiny_disk / "runs").code == 0


def test_every_command_has_help_with_an_example(traces: Callable) -> None:
    for command in ("sql", "shell", "refresh", "runs show", "runs rm", "runs validate", "runs", "capture next-token"):
        done = traces(*command.split(), "--help")
        assert done.code == 0 and "xample" in done.out and f"traces {command.split()[0]}" in done.out, command


def test_starting_does_not_import_torch(tiny_root: Path) -> None:
    code = (
        "import sys; sys.argv = ['traces', 'sql', 'SELECT 1', '-w', sys.argv[1]]\n"
        "from capture.cli.main import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny_root)], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_reference_of_commands_is_what_the_commands_say(tmp_path: Path) -> None:
    typer = Path(sys.executable).with_name("typer")
    subprocess.run(
        [typer, "capture.cli.main", "utils", "docs", "--name", "traces", "--output", tmp_path / "cli.md"],
        check=True,
        timeout=60,
        capture_output=True,
    )
    assert (TOP / "docs" / "cli.md").read_text() == (tmp_path / "cli.md").read_text(), "run: make docs"
