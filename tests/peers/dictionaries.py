"""What SAELens computes with dictionaries, and dictionaries that SAELens itself saves. Runs in its environment.

    python dictionaries.py make FOLDER

saves in FOLDER/NAME what SAELens makes of every architecture, normalisation and option, with random weights; and, as FOLDER/NAME.training,
batch-top-k dictionaries as they are in the middle of a training, beside FOLDER/NAME, what SAELens saves at its end.

    python dictionaries.py apply FOLDER STATES.safetensors OUT.safetensors

has SAELens load every FOLDER/NAME and read the states whose name is its width: OUT holds `NAME.acts` and `NAME.out`.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.registry import get_sae_class, get_sae_training_class
from safetensors.torch import load_file, save_file

D, D_OUT, F, K = 24, 16, 200, 7
NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm", "covariance_whitening")
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")


def options() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return architecture and settings of each dictionary by name."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for architecture, normalize in itertools.product(
        ("standard", "jumprelu", "topk", "gated", *TRANSCODERS), NORMALISATIONS
    ):
        said: dict[str, Any] = {"d_in": D, "d_sae": F, "normalize_activations": normalize}
        said |= {"d_out": D_OUT, "apply_b_dec_to_input": False} if architecture in TRANSCODERS else {}
        said |= {"k": K} if architecture == "topk" else {}
        found[f"{architecture}-{normalize}"] = architecture, said
        if architecture in TRANSCODERS:
            continue
        found[f"{architecture}-{normalize}-kept"] = architecture, said | {"apply_b_dec_to_input": False}
        found[f"{architecture}-{normalize}-heads"] = architecture, said | {"reshape_activations": "hook_z"}
        found[f"{architecture}-{normalize}-bf16"] = architecture, said | {"dtype": "bfloat16"}
        if architecture == "topk":
            found[f"{architecture}-{normalize}-norms"] = architecture, said | {"rescale_acts_by_decoder_norm": True}
    return found


def randomise(sae: torch.nn.Module, generator: torch.Generator) -> None:
    for name, w in sae.named_parameters():
        drawn = torch.randn(w.shape, generator=generator)
        w.data = (drawn.abs() if "threshold" in name else drawn * 0.3).to(w.dtype)


def make(folder: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, (architecture, said) in options().items():
        cls, config = get_sae_class(architecture)
        sae = cls(config(**said))
        sae.cfg.metadata.hook_name = "blocks.1.attn.hook_z" if "heads" in name else "blocks.1.hook_resid_post"
        sae.cfg.metadata.model_name, sae.cfg.metadata.prepend_bos, sae.cfg.metadata.context_size = "gpt2", False, 64
        randomise(sae, generator)
        sae.save_model(Path(folder) / name)
    matryoshka: dict[str, Any] = {"matryoshka_widths": [F // 2, F]}
    for architecture, said in (("batchtopk", {}), ("matryoshka_batchtopk", matryoshka)):
        for scales in (True, False):
            cls, config = get_sae_training_class(architecture)
            sae = cls(config(d_in=D, d_sae=F, k=K, rescale_acts_by_decoder_norm=scales, **said))
            randomise(sae, generator)
            sae.topk_threshold = torch.tensor(0.4, dtype=torch.double)
            name = f"{architecture}-{scales}"
            sae.save_model(Path(folder) / f"{name}.training")
            sae.save_inference_model(Path(folder) / name)


def apply(folder: str, states: str, out: str) -> None:
    given, found = load_file(states), {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix == ".training":
            assert TrainingSAE.load_from_disk(path)
            continue
        sae = SAE.load_from_disk(path)
        x = given[str(sae.cfg.d_in)]
        if sae.cfg.reshape_activations == "hook_z":
            x = x.view(len(x), 2, -1)
        if "skip" in path.name:  # it multiplies what it is given by weights that have to be of the same type
            x = x.to(sae.dtype)
        with torch.no_grad():
            found[f"{path.name}.acts"] = sae.encode(x).contiguous()
            found[f"{path.name}.out"] = sae(x).contiguous()
    save_file(found, out)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"make": make, "apply": apply}[sys.argv[1]](*sys.argv[2:])
