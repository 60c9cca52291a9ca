"""What the tests of circuits share: a tiny Llama whose logits are far apart, and a task with ten pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import capture
from capture.circuits.options import METHODS
from capture.model import loading
from warehouse import TraceStore

_PROMPTS = [
    ("the {0} was with his {1} and the", 0, 1),
    ("every {0} was with two {1}s and the", 1, 0),
    ("the {0} that was with the {1} was", 0, 1),
    ("the {0} and his {1} in the", 1, 0),
    ("every {0} in the {1}", 0, 1),
]
NAMES = ("keeper", "lamp")


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A file of ten pairs, or of the first n: two names swapped, and the other way round; backwards if asked."""

    def write(n: int = 10, backwards: bool = False) -> Path:
        lines = []
        for template, right, wrong in _PROMPTS:
            for names in (NAMES, NAMES[::-1]):
                prompts = (template.format(*names), template.format(*names[::-1]))
                lines.append(f"{prompts[0]},{prompts[1]}, {names[right]}, {names[wrong]},{template[:9]}\n")
        file = tmp_path_factory.mktemp("pairs") / "pairs.csv"
        file.write_text("clean,corrupted,answer,wrong,template\n" + "".join(lines[:n][:: -1 if backwards else 1]))
        return file

    return write


@pytest.fixture(scope="session")
def sharp_folder(tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., Any], tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("model") / "sharp"
    model = make_llama(seed=5)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.ndim == 2 else 1)
        model.lm_head.weight.mul_(8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(sharp_folder: Path) -> loading.Loaded:
    return loading.load(str(sharp_folder), device="cpu")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, loaded: loading.Loaded, pairs_file: Callable[..., Path]) -> Path:
    """A warehouse with the run `task`."""
    home = tmp_path_factory.mktemp("task") / "runs"
    capture.prepare_task(loaded, pairs_file(), run="task", root=home, keep="none")
    return home


@pytest.fixture(scope="session")
def shuffled(root: Path, loaded: loading.Loaded, pairs_file: Callable[..., Path]) -> str:
    """A run with the same pairs in another order."""
    capture.prepare_task(loaded, pairs_file(backwards=True), run="shuffled", root=root, keep="none")
    return "shuffled"


@pytest.fixture(scope="session")
def circuits(root: Path, loaded: loading.Loaded) -> TraceStore:
    """The run `circuits`: all methods on half of the pairs, in small batches, with six edges patched. Read only."""
    return capture.discover_circuit(
        "task", method=METHODS, verify=3, resamples=20, batch_tokens=48, model=loaded, root=root, run="circuits"
    )
