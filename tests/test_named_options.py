"""A message names no option that the command which prints it has not."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from synthetic import add_run

from capture.cli.capture import summary_lines
from capture.cli.data_options import QuestionOptions
from capture.cli.main import app
from capture.jobs import encode, generate, job_batches, mcq_encoder, mcq_prompt, next_token, run_job
from capture.traits import respond, steer
from warehouse import TraceStore
from warehouse.errors import NotFoundError

TOP = Path(__file__).parents[1]
KINDS = {
    "capture next-token": next_token, "capture encode": encode, "capture mcq-prompt": mcq_prompt,
    "capture mcq-encoder": mcq_encoder, "capture generate": generate, "trait respond": respond, "trait steer": steer,
    "trait run": respond,
}  # fmt: skip
LOADING = [*KINDS, "model check", "lens", "nearest", "finetune mcq", "trait judge", "runs validate"]
"""Commands that load a model."""
GIVEN = {"--revision", "--device-map", "--model", "--no-deps"}
"""Said only of an option that was given, or of another program's."""
TURNED = {"--trust-remote-code"}
"""Said otherwise where the command has it not: of judges."""


def options(command: str) -> set[str]:
    found: Any = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]
    return {o for p in found.params for o in (*p.opts, *p.secondary_opts)}


def named(text: str) -> set[str]:
    """Options in a message, but for those of another command that it names."""
    return set(re.findall(r"--[a-z][a-z-]+", re.sub(r"traces [a-z-]+ .*?(?=[.;]|$)", "", text)))


@pytest.mark.parametrize("command", KINDS)
def test_what_a_capture_says(tmp_path: Path, command: str) -> None:
    kind: ModuleType = KINDS[command]
    name = command.split()[1]
    rows: dict[str, list[dict[str, Any]]] = {"mcq_predictions": [{}] if "mcq" in name else []}
    made = TraceStore(add_run(tmp_path, "r", name, rows, options={"capture": "none", "shard": ""})).meta
    cut = made.model_copy(update={"counts": made.counts.model_copy(update={"truncated": 2})})
    generates = hasattr(kind.Options(), "max_new_tokens")
    said = [
        *([] if generates else summary_lines(cut, tmp_path, 7)),
        run_job._memory_remedy(kind.Options()),
        job_batches.SHORTEN_PROMPTS if generates else job_batches.SHORTEN_TEXTS,
    ]
    assert generates or any("longer than 7 tokens and were cut: see --max-len" in line for line in said)
    assert set().union(*map(named, said)) <= options(command)


@pytest.mark.parametrize("module", ["loading", "model_files", "body", "windows", "lm_head"])
def test_what_is_said_of_a_model_fits_every_command_that_loads_one(module: str) -> None:
    tree = ast.parse((TOP / "capture" / "model" / f"{module}.py").read_text(encoding="utf-8"))
    raised = [node for node in ast.walk(tree) if isinstance(node, ast.Call | ast.Return)]
    texts = [c.value for n in raised for c in ast.walk(n) if isinstance(c, ast.Constant) and isinstance(c.value, str)]
    shared = set.intersection(*map(options, LOADING))
    assert set().union(*map(named, texts)) - GIVEN - TURNED <= shared


@pytest.mark.parametrize("command", ["capture mcq-prompt", "capture mcq-encoder", "finetune mcq"])
def test_a_data_set_that_has_no_questions(tmp_path: Path, command: str) -> None:
    for name in ("owner/name", "csqb", ""):
        with pytest.raises(NotFoundError) as e:
            QuestionOptions(data=name).open(tmp_path)
        assert named(str(e.value)) <= options(command)
