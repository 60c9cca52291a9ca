"""Our vectors in repeng and steering-vectors: as objects, through a GGUF file, and what they add to a model.

The libraries live in a virtual environment of their own, made from requirements-steering.txt; its Python is named by STEERING_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from other_pythons import other_python
from synthetic import add_run

from warehouse import Warehouse, exports

STEERING_PYTHON, pytestmark = other_python("STEERING_PYTHON", "requirements-steering.txt", pytest.mark.peers)


def test_vectors_arrive_and_are_added_to_the_output_of_their_block(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    key = {"trait": "loud", "method": "mean_diff", "component": "residual", "gap": 1.0}
    rows = [key | {"layer": n, "vector": x.tolist()} for n, x in enumerate(vectors)]
    add_run(tmp_path / "runs", "v", "trait-vectors", {"trait_vectors": rows}, d_model=8, n_layers=3)
    with Warehouse(tmp_path / "runs") as wh:
        exports.control_vector(wh, "v", tmp_path / "v.gguf")
    script, out = Path(__file__).with_name("steering.py"), tmp_path / "out.json"
    command = [STEERING_PYTHON, script, tmp_path / "runs", "v", tmp_path / "v.gguf", out]
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    for library, layers in (("repeng", (0, 1, 2)), ("steering", (0, 1, 2)), ("gguf", (1, 2))):
        assert sorted(found[library]) == [str(n) for n in layers]
        for n in layers:
            assert np.array_equal(np.array(found[library][str(n)], np.float32), vectors[n]), library
    for library in ("repeng", "steering"):  # a sum of floats less one of its terms
        np.testing.assert_allclose(found[f"{library}_added"], vectors[1], atol=1e-5)
