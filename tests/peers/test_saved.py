"""What TransformerLens and nnsight saved is imported, and is what we captured of the same model and text."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from other_pythons import other_python

import capture
from warehouse import TraceStore
from warehouse.storage.paths import run_dir

PEERS_PYTHON, pytestmark = other_python("PEERS_PYTHON", "requirements.txt", pytest.mark.peers)


@pytest.mark.parametrize("tool", ["transformer_lens", "nnsight"])
def test_it_is_imported_as_what_we_captured(
    tool: str, tiny_root: Path, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    store = TraceStore(run_dir(tiny_root, "llama"))
    (example,) = store.query("SELECT example_id FROM examples ORDER BY idx LIMIT 1").fetchone()
    ids, out = store.encodings(example)["input_ids"].tolist(), tmp_path / "saved.pt"
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    script = Path(__file__).with_name("saved.py")
    words = [PEERS_PYTHON, script, tool, tiny_folder("llama"), tmp_path / "ids.json", out]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = capture.import_traces(out, run="theirs", root=tmp_path / "runs", tokenizer=str(tiny_folder("llama")))
    assert theirs.meta.options["format"] == tool.replace("_", "-")
    assert theirs.query("SELECT example_id FROM examples").fetchone() == (example,)
    sites = {"resid.embed", "resid.post_mlp", "attn_out"} | (
        {"resid.post_attn", "q", "k", "v", "attn", "mlp_out"} if tool == "transformer_lens" else set()
    )
    assert sites <= {s.site for s in theirs.meta.sites}
    # the run's float16 keeps values up to 5 within 2e-3, relative 5e-4
    close = {"rtol": 1e-3, "atol": 2e-3}
    np.testing.assert_allclose(theirs.resid(example, "embed"), store.resid(example, "embed"), **close)
    for layer in range(store.meta.model.n_layers):
        np.testing.assert_allclose(
            theirs.resid(example, "post_mlp", layer), store.resid(example, "post_mlp", layer), **close
        )
        np.testing.assert_allclose(theirs.attn_out(example, layer), store.attn_out(example, layer), **close)
        if tool == "transformer_lens":
            np.testing.assert_allclose(theirs.attn(example, layer), store.attn(example, layer), atol=2e-3)
            for which in ("q", "k", "v"):
                np.testing.assert_allclose(theirs.qkv(example, which, layer), store.qkv(example, which, layer), **close)
