"""The measurement of docs/accuracy.md starts, at its smallest size, and what it finds is in the order that dtypes have."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.slow
def test_what_storing_costs(tmp_path: Path, tiny_folder: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import accuracy

    page = tmp_path / "accuracy.md"
    accuracy.main(["--texts", "1", "--length", "24", "--model", str(tiny_folder("llama")), "--out", str(page)])
    for module in ("accuracy", "inputs", "common"):
        del sys.modules[module]
    text = page.read_text(encoding="utf-8")
    attention = re.search(r"attention probabilities \| (\S+) \S+ \| (\S+) \S+ \| (\S+)", text)
    assert attention is not None, text
    float32, float16, bfloat16 = map(float, attention.groups())
    assert 2 * float32 < float16 < bfloat16 < 1e-2
    kl = re.search(r"KL from the model's own .*? \| \S+ \S+ \| (\S+) \S+ \| \S+ \S+ \| (\S+) \((\S+)\)", text)
    assert kl is not None, text
    assert float(kl[1]) < float(kl[2]) <= float(kl[3]) < 1e-2
    assert "nan" not in text
