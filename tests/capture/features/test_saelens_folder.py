"""Folders of SAELens are read as what they are, and refused in one line where they are damaged or of a kind that is not supported."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from capture.features.architectures import ARCHITECTURES, tensor_names
from capture.features.dictionary import Dictionary
from capture.features.saelens_folder import CONFIG, WEIGHTS, is_dictionary, read_dictionary, write_dictionary
from warehouse.errors import UncertainResultWarning, UsageError


def make(architecture: str = "standard", **said: Any) -> Dictionary:
    kind = ARCHITECTURES[architecture]
    sizes = {"d_in": 6, "n_features": 20, "d_out": 4 if kind.transcoder else 6}
    generator = torch.Generator().manual_seed(0)
    weights = {n: torch.randn(*(sizes[d] for d in dims), generator=generator) for n, dims in tensor_names(kind).items()}
    return Dictionary("x", architecture, weights, **({"k": 3} if architecture == "topk" else {}) | said)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sae").mkdir()
    write_dictionary(make(hook_name="blocks.1.hook_resid_post"), tmp_path / "sae")
    return tmp_path / "sae"


def change(folder: Path, **said: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in (config | said).items() if v is not ...}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_written_is_read_again(architecture: str, tmp_path: Path) -> None:
    d = make(
        architecture, hook_name="blocks.3.attn.hook_q", hook_out="blocks.3.hook_mlp_out", head=2, model_name="m", prepend_bos=False,
        context_size=128, normalize="layer_norm", by_decoder_norm=architecture == "topk",
        subtract_b_dec=architecture == "gated", flattens_heads=architecture == "standard",
    )  # fmt: skip
    write_dictionary(d, tmp_path, {"dataset_path": "a file"})
    again = read_dictionary(tmp_path)
    assert is_dictionary(tmp_path)
    for name in set(Dictionary.__dataclass_fields__) - {"name", "weights"}:
        assert getattr(again, name) == getattr(d, name), name
    assert again.name == tmp_path.name
    assert all(torch.equal(again.weights[name], w) for name, w in d.weights.items())
    metadata = json.loads((tmp_path / CONFIG).read_text())["metadata"]
    assert metadata["dataset_path"] == "a file" and metadata["sae_lens_version"].startswith("6.")


def test_weights_are_in_the_precision_that_is_named(folder: Path) -> None:
    change(folder, dtype="torch.bfloat16")
    assert read_dictionary(folder).dtype == torch.bfloat16
    change(folder, dtype=...)
    assert read_dictionary(folder).dtype == torch.float32


def test_a_logarithm_of_thresholds_is_taken_back(folder: Path) -> None:
    write_dictionary(make("jumprelu"), folder)
    weights = load_file(folder / WEIGHTS)
    weights["log_threshold"] = weights.pop("threshold").abs().log()
    save_file(weights, folder / WEIGHTS)
    assert torch.equal(read_dictionary(folder).weights["threshold"], weights["log_threshold"].exp())


def test_a_scale_that_is_not_folded_in_is_a_warning(folder: Path) -> None:
    change(folder, normalize_activations="expected_average_only_in")
    with pytest.warns(UncertainResultWarning, match="without that scale"):
        read_dictionary(folder)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def alter(**tensors: Callable[[dict[str, torch.Tensor]], torch.Tensor | None]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        made = {name: f(weights) for name, f in tensors.items()}
        save_file({k: v for k, v in (weights | made).items() if v is not None}, folder / WEIGHTS)

    return do


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda f: (f / CONFIG).unlink(), "No file"),
        (lambda f: (f / WEIGHTS).unlink(), "No file"),
        (lambda f: cut(f / WEIGHTS), "no whole safetensors file"),
        (lambda f: (f / WEIGHTS).write_bytes(b""), "no whole safetensors file"),
        (lambda f: cut(f / CONFIG), "is not JSON"),
        (lambda f: (f / CONFIG).write_text("[1]"), "no object with the settings"),
        (lambda f: change(f, architecture="temporal"), "architecture 'temporal', which is not read: standard, jumprelu"),
        (lambda f: change(f, architecture=...), "architecture = null"),
        (lambda f: change(f, architecture="jumprelu"), "no tensor threshold, which a jumprelu"),
        (lambda f: change(f, architecture="topk"), "keeps k = None features of 20"),
        (lambda f: change(f, architecture="topk", k=21), "keeps k = 21 features of 20"),
        (lambda f: change(f, architecture="topk", k="3"), 'k = "3", which is not known'),
        (lambda f: change(f, architecture="batchtopk"), "in a batch-top-k training has the tensors"),
        (lambda f: change(f, architecture="transcoder"), "a transcoder has no apply_b_dec_to_input"),
        (lambda f: change(f, normalize_activations="sphere"), "'sphere', which is not known: none, expected"),
        (lambda f: change(f, reshape_activations="hook_q"), 'reshape_activations = "hook_q"'),
        (lambda f: change(f, activation_fn="tanh-relu"), "activation function tanh-relu is not supported"),
        (lambda f: change(f, dtype="int8"), 'dtype = "int8"'),
        (lambda f: change(f, d_in=7), "d_in = 7, and the weights beside it are of 6"),
        (lambda f: change(f, d_sae=21), "d_sae = 21, and the weights beside it are of 20"),
        (lambda f: change(f, metadata={"sae_lens_version": "6.0", "hook_name": 3}), "hook_name = 3"),
        (alter(b_enc=lambda w: None), "no tensor b_enc"),
        (alter(theta=lambda w: w["b_enc"].clone()), "no standard dictionary has: theta"),
        (alter(b_enc=lambda w: w["b_enc"][:5].clone()), "b_enc has the shape \\(5,\\), and beside W_enc and W_dec"),
        (alter(W_enc=lambda w: w["W_enc"].T.contiguous()), "W_enc has the shape \\(20, 6\\)|reads 20 values"),
        (alter(W_dec=lambda w: w["W_dec"] / 0), "W_dec holds values that are no finite numbers"),
        (alter(W_dec=lambda w: w["b_dec"].clone()), "are matrices"),
        (alter(W_dec=lambda w: w["W_dec"][:, :4].contiguous(), b_dec=lambda w: w["b_dec"][:4].clone()), "only a transcoder does"),
        (alter(scaling_factor=lambda w: w["b_enc"].clone()), "factor that was fine-tuned"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_not_supported_is_one_line(damage: Callable[[Path], Any], says: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(UsageError, match=says) as error, warnings.catch_warnings():
        warnings.simplefilter("error")
        read_dictionary(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_what_is_no_folder_or_has_no_name_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is no folder: a dictionary is one"):
        read_dictionary(folder / "nothing")
    with pytest.raises(UsageError, match="is no folder"):
        read_dictionary(folder / WEIGHTS)
    monkeypatch.chdir(folder)
    assert read_dictionary(Path()).name == "sae"
    odd = folder.rename(folder.with_name("a\nb"))
    with pytest.raises(UsageError, match="Rename it"):
        read_dictionary(odd)
