"""What we export for TransformerLens and SAELens is read by these libraries, and is what they have at the same names."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from other_pythons import other_python
from safetensors.numpy import load_file

from warehouse import Warehouse, exports

PEERS_PYTHON, pytestmark = other_python("PEERS_PYTHON", "requirements.txt", pytest.mark.peers)


def ask(*words: object) -> None:
    script = Path(__file__).with_name("exported.py")
    done = subprocess.run([PEERS_PYTHON, script, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("run", ["llama", "gpt2"])
def test_transformer_lens_has_our_values_at_the_same_hooks(
    run: str, tiny_root: Path, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with Warehouse(tiny_root) as wh:
        exports.transformer_lens(wh, run, tmp_path / "out", where="idx = 0")
    (file,) = (tmp_path / "out").glob("*.safetensors")
    ask("transformer_lens", tiny_folder(run), file, tmp_path / "theirs.safetensors")
    ours, theirs = load_file(file), load_file(tmp_path / "theirs.safetensors")
    stack = theirs.pop("stack")
    assert {f"theirs.{hook}" for hook in ours} == set(theirs)
    for hook, x in ours.items():
        # What float16 keeps of values up to 5 is within 2e-3, relative 5e-4; the GPT-2's run is stored as float32.
        tolerance = (
            {"rtol": 1e-5, "atol": 1e-5} if x.dtype == np.float32 and run == "gpt2" else {"rtol": 1e-3, "atol": 2e-3}
        )
        assert x.shape == theirs[f"theirs.{hook}"].shape, hook
        np.testing.assert_allclose(x, theirs[f"theirs.{hook}"], **tolerance, err_msg=hook)
    assert np.array_equal(stack[-1], ours["blocks.2.hook_resid_post"])


def test_sae_lens_reads_our_activations(tiny_root: Path, tmp_path: Path) -> None:
    from capture.exports import sae_activations

    with Warehouse(tiny_root) as wh:
        written = sae_activations(wh, "llama", tmp_path / "out", layers=[0, 1], context_size=8, where="idx < 4")
        store = wh.run("llama")
        examples = [e for (e,) in store.query("SELECT example_id FROM examples WHERE idx < 4 ORDER BY ALL").fetchall()]
    ask("sae_lens", tmp_path / "out", written.hooks[1], 8, written.width, tmp_path / "read.safetensors")
    read = load_file(tmp_path / "read.safetensors")
    whole = [len(store.encodings(e)["input_ids"]) // 8 * 8 for e in examples]
    states = np.concatenate([store.resid(e, layer=1)[:n] for e, n in zip(examples, whole, strict=True)])
    ids = np.concatenate([store.encodings(e)["input_ids"][:n] for e, n in zip(examples, whole, strict=True)])
    assert np.array_equal(read["acts"], states.astype(np.float32))
    assert np.array_equal(read["token_ids"], ids)
