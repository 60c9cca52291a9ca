"""Dictionaries have the activations and reconstructions of SAELens, bit for bit, whoever saved them."""

from __future__ import annotations

import json
import subprocess
import warnings
from pathlib import Path

import pytest
import synthetic
import torch
from other_pythons import other_python
from safetensors.torch import load_file, save_file
from torch import Tensor

import capture
from capture.features.dictionary import Dictionary
from capture.features.saelens_folder import CONFIG, WEIGHTS, read_dictionary, write_dictionary
from warehouse.errors import UncertainResultWarning

PEERS_PYTHON, pytestmark = other_python("PEERS_PYTHON", "requirements.txt", pytest.mark.peers)
D, D_OUT = 24, 16  # as in dictionaries.py


def ask(*words: object) -> None:
    script = Path(__file__).with_name("dictionaries.py")
    done = subprocess.run([PEERS_PYTHON, script, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dictionaries") / "saved"
    ask("make", folder)
    return folder


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """Return states of a residual stream's kind: far from zero mean, a few much longer than the rest."""
    x = torch.randn(300, D, generator=torch.Generator().manual_seed(5)) + 2
    x[::50] *= 1000
    return x


def theirs(folder: Path, states: Tensor, tmp_path: Path) -> dict[str, Tensor]:
    save_file({str(D): states}, tmp_path / "states.safetensors")
    ask("apply", folder, tmp_path / "states.safetensors", tmp_path / "out.safetensors")
    return load_file(tmp_path / "out.safetensors")


def read(folder: Path) -> Dictionary:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UncertainResultWarning
        )  # of a scale that is not folded in, which SAELens too leaves out
        return read_dictionary(folder)


def assert_equal(d: Dictionary, x: Tensor, acts: Tensor, out: Tensor) -> None:
    x = x.view(len(x), 2, -1) if d.flattens_heads else x
    ours = d.encode(x)
    if d.architecture != "gated":
        assert torch.equal(ours, acts), d.name
        assert torch.equal(d.decode(ours, x), out), d.name
        return
    # One product instead of two, and so exp(r_mag) after the sum and not before it: roundings of sums of 24 terms, which
    # a magnitude next to zero does not survive.
    rounding = torch.finfo(d.dtype).eps
    for mine, of_saelens in ((ours, acts), (d.decode(acts, x), out)):
        apart = (mine.float() - of_saelens.float()).flatten(-mine.ndim + 1).abs()
        largest = of_saelens.float().flatten(-mine.ndim + 1).abs().amax(-1, keepdim=True)
        assert (apart <= 8 * rounding * largest.clamp(min=1)).all(), d.name


def test_what_saelens_saved_computes_the_same_here(saved: Path, states: Tensor, tmp_path: Path) -> None:
    found = theirs(saved, states, tmp_path)
    names = sorted({name.rpartition(".")[0] for name in found})
    assert len(names) == 8 * 5 + 4 * 5 * 3 + 5 + 4
    for name in names:
        d = read(saved / name)
        assert_equal(d, states, found[f"{name}.acts"], found[f"{name}.out"])
        if "batchtopk" not in name:
            assert (d.model_name, d.prepend_bos, d.context_size) == ("gpt2", False, 64)
            assert (d.site is None) == ("heads" in name)


def test_what_we_wrote_computes_the_same_there(saved: Path, states: Tensor, tmp_path: Path) -> None:
    for path in saved.iterdir():
        again = tmp_path / "again" / path.stem
        again.mkdir(parents=True, exist_ok=True)
        d = read(path)
        write_dictionary(d, again)
        assert read(again).weights_hash == d.weights_hash
    found = theirs(tmp_path / "again", states, tmp_path)
    for path in (tmp_path / "again").iterdir():
        assert_equal(read(path), states, found[f"{path.name}.acts"], found[f"{path.name}.out"])


def test_a_batch_top_k_dictionary_in_training_is_the_one_that_is_saved_at_its_end(saved: Path, states: Tensor) -> None:
    for name in ("batchtopk", "matryoshka_batchtopk"):
        for scales in (True, False):
            inside, after = read(saved / f"{name}-{scales}.training"), read(saved / f"{name}-{scales}")
            assert inside.architecture == after.architecture == "jumprelu"
            assert inside.weights_hash == after.weights_hash
            assert torch.equal(inside.encode(states), after.encode(states))


def test_saelens_loads_what_we_trained(states: Tensor, tmp_path: Path) -> None:
    synthetic.add_vectors(tmp_path / "runs", "made", {1: states.numpy()}, [30] * 10)
    (tmp_path / "saes").mkdir()
    for normalize in ("layer_norm", "none"):
        out = tmp_path / "saes" / normalize
        quick = {"features": 64, "k": 8, "tokens": 2560, "batch_size": 128, "where": "true", "normalize": normalize}
        capture.train_dictionary("made", out, layer=1, **quick, root=tmp_path / "runs")
    found = theirs(tmp_path / "saes", states, tmp_path)
    for path in (tmp_path / "saes").iterdir():
        assert_equal(read_dictionary(path), states, found[f"{path.name}.acts"], found[f"{path.name}.out"])


@pytest.mark.parametrize(
    "said",
    [
        {"hook_point": "blocks.1.hook_resid_pre", "hook_point_head_index": None, "activation_fn_str": "relu"},
        {"hook_name": "blocks.1.attn.hook_z", "normalize_activations": False, "sae_lens_version": "3.22.1"},
        {"hook_name": "blocks.1.hook_mlp_out", "architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 9}},
        {"hook_name": "blocks.1.hook_mlp_out", "normalize_activations": "layer_norm", "apply_b_dec_to_input": False},
        {"hook_name": "blocks.1.hook_mlp_out", "normalize_activations": True, "finetuning_scaling_factor": False},
    ],
)  # fmt: skip
def test_settings_from_before_version_6_mean_the_same(said: dict, saved: Path, states: Tensor, tmp_path: Path) -> None:
    old = tmp_path / "old" / "sae"
    old.mkdir(parents=True)
    weights = load_file(saved / "standard-none" / WEIGHTS)
    save_file(weights | {"scaling_factor": torch.ones(200)}, old / WEIGHTS)
    base = {
        "d_in": D,
        "d_sae": 200,
        "dtype": "torch.float32",
        "device": "cuda:0",
        "hook_layer": 1,
        "l1_coefficient": 8e-5,
    }
    (old / CONFIG).write_text(json.dumps(base | {"model_name": "gpt2-small"} | said))
    found = theirs(tmp_path / "old", states, tmp_path)
    d = read(old)
    assert (d.model_name, d.prepend_bos) == ("gpt2-small", True)
    assert_equal(d, states, found["sae.acts"], found["sae.out"])
