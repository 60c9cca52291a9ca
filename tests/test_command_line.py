"""The command line as a whole: examples that parse, one spelling, refusals in one line that say what was meant."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from capture.cli.main import app
from warehouse.cli.option_groups import Panel

TOP = Path(__file__).parents[1]
ROOT: Any = typer.main.get_command(app)


def commands(command: Any = ROOT, path: str = "traces") -> Iterator[tuple[str, Any]]:
    """Every command and group of commands, with what is typed for it."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


LEAVES = [(path, command) for path, command in commands() if not hasattr(command, "commands")]


def parse(line: str) -> None:
    """Parses a line of a shell as the command line does, and runs nothing."""
    words = shlex.split(line)
    for mark in (">", "|"):
        words = words[: words.index(mark)] if mark in words else words
    assert words.pop(0) == "traces"
    command, path = ROOT, "traces"
    while words and words[0] in getattr(command, "commands", {}):
        command, path = command.commands[words[0]], f"{path} {words.pop(0)}"
    command.make_context(path, words)


def documented() -> Iterator[str]:
    """The lines that begin with `traces` in blocks of code, and what `make demo` runs."""
    for path in (TOP / "README.md", TOP / "Makefile", *(TOP / "docs").rglob("*.md")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"\s*(?:@?\$\(BIN\)/)?(traces [a-z].*)", line):
                yield match[1].split(" >/dev/null")[0]


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _ in LEAVES])
def test_every_command_has_examples_that_parse(path: str, command: Any) -> None:
    assert any(line.startswith(path) for line in command.examples), path
    for line in command.examples:
        parse(line)


def test_commands_in_the_documentation_parse() -> None:
    lines = list(documented())
    assert len(lines) > 50
    for line in lines:
        parse(line)


@pytest.mark.slow
def test_examples_are_printed_as_they_are_typed(traces: Callable) -> None:
    done = traces("capture", "next-token", "--help")
    (long,) = [line for line in done.out.splitlines() if "hidden,resid,qkv,attn" in line and "traces" in line]
    parse(long)


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _ in LEAVES])
def test_options_read_alike(path: str, command: Any) -> None:
    """`--run` is written, lists have one spelling and commas, options have one order, and every one has its panel."""
    options = {p.opts[0]: p for p in command.params if p.param_type_name == "option" and not p.hidden}
    panels = [p.rich_help_panel for p in options.values()]
    assert panels == sorted(panels, key=[panel.value for panel in Panel].index)
    if "--run" in options:
        assert options["--run"].rich_help_panel == Panel.WRITTEN
    assert not {"--layer", "--name", "--shard"} & options.keys()
    for name in ("--layers", "--traits", "--methods", "--components", "--capture"):
        assert name not in options or "," in options[name].metavar
    for option in options.values():
        assert option.help and option.help[-1] in ".…", option.opts


def test_commands_are_listed_in_the_order_of_work() -> None:
    context = typer.Context(ROOT)
    assert ROOT.list_commands(context)[:5] == ["capture", "model", "data", "runs", "sql"]
    trait = ROOT.commands["trait"].list_commands(context)
    assert trait == ["init", "check", "respond", "judge", "extract", "evaluate", "steer", "project", "run"]


def test_a_part_is_also_called_a_shard(traces: Callable, tmp_path: Path) -> None:
    for option in ("--part", "--shard"):
        done = traces("capture", "next-token", "--model", "x", option, "3/2", "-w", tmp_path)
        assert (done.code, done.out) == (2, "") and "--part 3/2: write i/n" in done.err
    assert "--shard " not in traces("lens", "--help").out


def test_versions_are_told_without_imports(traces: Callable) -> None:
    lines = traces("--version").out.splitlines()
    assert [line.split()[0] for line in lines] == ["trace-warehouse", "duckdb", "torch", "transformers"]
    assert all(re.search(r"\d+\.\d+", line) for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sql SELECT * FROM runs", 'put it in quotes. traces sql "SELECT * FROM runs"'),
        ("sql select run_id from runs --format tsv", 'traces sql "select run_id from runs"'),
        ("probe FROM runs", 'traces probe "FROM runs"'),
        ("capture next-token --model x --capture attn qkv", "--capture takes a list with commas: --capture attn,qkv"),
        ("capture encode --model x --capture=attn qkv --run r", "--capture attn,qkv"),
        ("lens r --layers 3 5 7", "--layers takes a list with commas: --layers 3,5,7"),
        ("lens --layers 3 5 r", "--layers 3,5"),
        ("trait project r --traits a b", "--traits a,b"),
        ("trait steer --trait a --coefficients -2 0 2", "--coefficients -2,0,2"),
        ("trait steer --trait a --coefficients 2 -2", "--coefficients 2,-2"),
        ("nearest r --example e --pos 1 --layers 4 15", "--layers 4,15"),
        ("index add r --layers 4 15", "--layers takes a list with commas"),
        ("runs show a b", "traces runs show takes no 'b' here. See traces runs show --help"),
        ("capture next-token --model x --limit 0x10", "--limit 0x10: "),
        ("capture next-token --model x --limit=0", "--limit 0: "),
        ("capture next-token --model x --limt 3", "No option '--limt'. Did you mean --limit?"),
        ("runs --bogus", "No option '--bogus'. See traces runs --help"),
        ("sql --format xml x", "--format xml: "),
        ("captur", "No command 'captur'. Did you mean capture?"),
        ("runs sho r", "No command 'sho'. Did you mean show?"),
        ("lens", "Missing argument 'RUN'. See traces lens --help"),
        ("trait judge r", "Missing option '--judge'. See traces trait judge --help"),
        ("lens r --part", "'--part' requires an argument"),
        ("model check smolm2", "There is no model 'smolm2'. Did you mean smollm2?"),
        ("data prepare ud_wet", "No data set 'ud_wet'. Did you mean ud_ewt?"),
        ("capture next-token --model x --capture hiden", "No site 'hiden'. Did you mean hidden?"),
        ("trait check sarcsm", "Did you mean sarcasm?"),
        ("capture generate --model x --prompt-set dynamik", "Did you mean dynamic"),
    ],
)
def test_a_wrong_call_is_one_line_that_says_what_was_meant(
    traces: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.setenv("TRACES_HOME", str(tmp_path))
    done = traces(*words.split())
    lines = [line for line in done.err.splitlines() if not line.startswith("loading ")]
    assert done.code == 2 and len(lines) == 1 and lines[0].startswith("traces: "), done
    assert message in lines[0]


def test_files_that_a_star_became_are_a_star_again(
    traces: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "b"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert 'traces sql "SELECT * FROM runs"' in traces("sql", "SELECT", "a.txt", "b", "FROM", "runs").err


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("FROM next_token WHERE run_id = llama", "run_id = 'llama'"),
        ('FROM next_token WHERE run_id = "llama"', "run_id = 'llama'"),
        ("FROM next_token WHERE run_id IN (llama)", "run_id = 'llama'"),
        ("FROM next_token WHERE run_id <> my-run AND loss > 1", "run_id <> 'my-run'"),
        ("FROM tokens WHERE token = the", "token = 'the'"),
        ("FROM token_diagnostics WHERE loss = high", None),
        ("SELECT los FROM next_token", None),
    ],
)
def test_text_without_quotes(traces: Callable, tiny_root: Path, query: str, message: str | None) -> None:
    done = traces("sql", query, "-w", tiny_root)
    assert done.code == 2
    assert f"Text needs single quotes: {message}" in done.err if message else "single quotes" not in done.err
