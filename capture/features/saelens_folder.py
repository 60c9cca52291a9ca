"""Dictionaries in the folders that SAELens saves and loads: `cfg.json` beside `sae_weights.safetensors`.

`read_dictionary` takes what any version of SAELens has written: the flat `cfg.json` from before 6.0, with its older names of keys, and what
is saved in the middle of a training. `write_dictionary` writes what SAELens 6 does. Nothing is unpickled.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from capture.data.files import check_readable, printable_value, read_json
from capture.features.architectures import ARCHITECTURES
from capture.features.dictionary import Dictionary
from warehouse.errors import UncertainResultWarning, UsageError, first_line
from warehouse.storage.files import write_atomically

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
_FORMAT_VERSION = "6.54.12"
"""Of SAELens, whose folders ours are like."""
_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""Keys from before SAELens 6, and what they are called since."""
_TRAINED_BY_BATCH = ("batchtopk", "matryoshka_batchtopk")
"""What keeps the largest activations of a batch while it is trained, and afterwards those above one threshold."""
_SMALLEST_NORM = 1e-8
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
_FOLDED = {
    "expected_average_only_in": "states scaled to a mean length of sqrt(d_in)",
    "covariance_whitening": "whitened states",
}


def read_dictionary(folder: str | Path) -> Dictionary:
    """Read a dictionary that SAELens or `write_dictionary` has saved.

    Warns (UncertainResultWarning) where it was saved before the scaling that it was trained with was folded into its weights: SAELens too
    applies none.

    Args:
        folder: The folder.

    Returns:
        The dictionary, in the precision that it names, on the CPU. It is named after the folder.

    Raises:
        UsageError: There is no such folder, a file in it is missing or damaged, or it holds a dictionary that is not supported.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(
            f"{printable_value(folder)} is no folder: a dictionary is one, with {CONFIG} and {WEIGHTS} in it."
        )
    name = folder.resolve().name
    if not name.isprintable() or not name or len(name) > 200:
        raise UsageError(
            f"{printable_value(folder)}: rows name a dictionary by its folder. Rename it to at most 200 printable characters."
        )
    config = _Config(folder)
    weights = _read_weights(folder / WEIGHTS, config.dtype())
    _drop_scaling_factor(weights, config)
    architecture = config.architecture()
    if architecture in _TRAINED_BY_BATCH:
        _as_jumprelu(weights, config)
        architecture = "jumprelu"
    if "log_threshold" in weights and architecture == "jumprelu":
        weights["threshold"] = weights.pop("log_threshold").exp()
    transcoder = architecture in ARCHITECTURES and ARCHITECTURES[architecture].transcoder
    subtract = config.flag("apply_b_dec_to_input", not transcoder)
    if transcoder and subtract:
        raise UsageError(f"{config.path}: a transcoder has no apply_b_dec_to_input, as its input and output differ.")
    dictionary = Dictionary(
        name=name,
        architecture=architecture,
        weights=weights,
        hook_name=config.text("hook_name") or config.text("hf_hook_name"),
        hook_out=config.text("hook_name_out") or config.text("hf_hook_name_out"),
        head=config.number("hook_head_index"),
        model_name=config.text("model_name"),
        prepend_bos=config.flag("prepend_bos", True if config.flat else None),
        context_size=config.number("context_size"),
        k=config.number("k") if architecture == "topk" else None,
        normalize=config.normalisation(),
        subtract_b_dec=bool(subtract),
        by_decoder_norm=architecture == "topk" and bool(config.flag("rescale_acts_by_decoder_norm", False)),
        flattens_heads=config.flattens_heads(),
    )
    for key, found in (("d_in", dictionary.d_in), ("d_sae", dictionary.n_features), ("d_out", dictionary.d_out)):
        said = config.number(key)
        if said is not None and said != found:
            raise UsageError(f"{config.path} says {key} = {said}, and the weights beside it are of {found}.")
    if dictionary.normalize in _FOLDED:
        warnings.warn(
            f"{name} was saved for {_FOLDED[dictionary.normalize]} ({dictionary.normalize}), without that scale. As in SAELens, states are "
            "not scaled here. Fold the scale into its weights with SAELens first.",
            UncertainResultWarning,
            stacklevel=2,
        )
    return dictionary


def write_dictionary(dictionary: Dictionary, folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write a dictionary as SAELens 6 saves one.

    Args:
        dictionary: The dictionary.
        folder: A folder that is there; files of these names in it are replaced.
        about: What else `metadata` in `cfg.json` says, in JSON's types.
    """
    kind = dictionary.kind
    config: dict[str, Any] = {
        "architecture": dictionary.architecture,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.n_features,
        "dtype": str(dictionary.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.subtract_b_dec and not kind.transcoder,
        "normalize_activations": dictionary.normalize,
        "reshape_activations": "hook_z" if dictionary.flattens_heads else "none",
    }
    if kind.transcoder:
        config["d_out"] = dictionary.d_out
    if kind.activation == "topk":
        config |= {"k": dictionary.k, "rescale_acts_by_decoder_norm": dictionary.by_decoder_norm}
    metadata = {
        "sae_lens_version": _FORMAT_VERSION,
        "model_name": dictionary.model_name,
        "hook_name": dictionary.hook_name,
        "hook_name_out": dictionary.hook_out,
        "hook_head_index": dictionary.head,
        "prepend_bos": dictionary.prepend_bos,
        "context_size": dictionary.context_size,
    }
    config["metadata"] = {k: v for k, v in metadata.items() if v is not None} | dict(about or {})
    weights = {name: w.detach().cpu().contiguous() for name, w in dictionary.weights.items()}
    write_atomically(folder / WEIGHTS, save(weights))
    write_atomically(folder / CONFIG, json.dumps(config, indent=1).encode())


def is_dictionary(folder: Path) -> bool:
    """Return whether a folder has the files of a dictionary."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


class _Config:
    """What a `cfg.json` says, with its keys as SAELens 6 calls them, whichever level they are on."""

    def __init__(self, folder: Path) -> None:
        file = folder / CONFIG
        self.path = printable_value(file)
        found = read_json(check_readable(file))
        if not isinstance(found, dict):
            raise UsageError(
                f"{self.path} holds a JSON {type(found).__name__}, and no object with the settings of a dictionary."
            )
        metadata = found.get("metadata")
        said = (metadata if isinstance(metadata, dict) else {}) | {k: v for k, v in found.items() if k != "metadata"}
        version = re.match(r"\d+", str(said.get("sae_lens_version") or ""))
        self.flat = version is None or int(version[0]) < 6
        """Whether it is of a version before 6, which left out what has since to be said."""
        self._said = {_RENAMED.get(k, k): v for k, v in said.items()} if self.flat else said
        kwargs = self._said.get("activation_fn_kwargs")
        if self.flat and self._said.get("activation_fn") == "topk" and isinstance(kwargs, dict):
            self._said |= {"architecture": "topk", "k": kwargs.get("k")}
        activation = self._said.get("activation_fn", "relu")
        if activation not in ("relu", "topk", None):
            raise UsageError(f"{self.path}: the activation function {printable_value(activation)} is not supported.")

    def architecture(self) -> str:
        found = self._said.get("architecture", "standard" if self.flat else None)
        return found if isinstance(found, str) else self._refuse("architecture", found)

    def dtype(self) -> torch.dtype | None:
        found = self._said.get("dtype")
        if found is None:
            return None
        known = _DTYPES.get(str(found).removeprefix("torch."))
        return known if known is not None else self._refuse("dtype", found)

    def normalisation(self) -> str:
        found = self._said.get("normalize_activations")
        if isinstance(found, bool):
            found = "expected_average_only_in" if found else None
        found = found or "none"
        return found if isinstance(found, str) else self._refuse("normalize_activations", found)

    def flattens_heads(self) -> bool:
        missing = "hook_z" if self.flat and "hook_z" in (self.text("hook_name") or "") else "none"
        found = self._said.get("reshape_activations") or missing
        return found == "hook_z" if found in ("none", "hook_z") else self._refuse("reshape_activations", found)

    def text(self, key: str) -> str | None:
        found = self._said.get(key)
        return found if found is None or isinstance(found, str) else self._refuse(key, found)

    def number(self, key: str) -> int | None:
        found = self._said.get(key)
        if found is None or (isinstance(found, int) and not isinstance(found, bool)):
            return found
        return self._refuse(key, found)

    def flag(self, key: str, missing: bool | None) -> bool | None:
        found = self._said.get(key)
        if found is None:
            return missing
        return found if isinstance(found, bool) else self._refuse(key, found)

    def _refuse(self, key: str, found: object) -> Any:
        raise UsageError(f"{self.path} says {key} = {printable_value(json.dumps(found), 80)}, which is not known.")


def _read_weights(file: Path, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Read the tensors of a dictionary in the precision that its settings name."""
    try:
        with safe_open(check_readable(file), framework="pt") as f:
            return {name: f.get_tensor(name).to(dtype) for name in f.keys()}  # noqa: SIM118  it is no dictionary
    except (SafetensorError, OSError) as e:
        raise UsageError(f"{printable_value(file)} is no whole safetensors file: {first_line(e)}.") from None


def _drop_scaling_factor(weights: dict[str, Tensor], config: _Config) -> None:
    """Take out the factors of activations that SAELens once saved everywhere, where they change nothing."""
    factor = weights.pop("scaling_factor", None)
    if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
        raise UsageError(
            f"{config.path}: it scales activations by a factor that was fine-tuned, which SAELens 6 does not read either."
        )


def _as_jumprelu(weights: dict[str, Tensor], config: _Config) -> None:
    """Make of what a batch-top-k training keeps what SAELens saves at its end: a threshold for each feature."""
    needed = ("W_enc", "W_dec", "b_enc", "topk_threshold")
    if (
        any(name not in weights for name in needed)
        or weights["topk_threshold"].numel() != 1
        or weights["W_dec"].ndim != 2
    ):
        raise UsageError(
            f"{config.path}: a dictionary in a batch-top-k training has the tensors {', '.join(needed)}, and this one does not."
        )
    threshold = weights.pop("topk_threshold").item()
    weights["threshold"] = torch.full_like(weights["b_enc"], threshold)
    if config.flag("rescale_acts_by_decoder_norm", True):
        norms = weights["W_dec"].norm(dim=-1).clamp(min=_SMALLEST_NORM)
        weights["b_enc"] = weights["b_enc"] * norms
        weights["W_enc"] = weights["W_enc"] * norms
        weights["W_dec"] = weights["W_dec"] / norms[:, None]
