"""What we record and change against what TransformerLens and nnsight do in the same model, on the same weights and tokens.

TransformerLens (its HookedTransformer) computes the model by code of its own, which shares nothing with transformers but the
weights: agreement says that a name means the same place in the model here and there. nnsight traces the code of transformers
that we record too: agreement to the bit says that recording takes the values as they are.

The libraries live in a virtual environment of their own, made from requirements.txt; its Python is named by PEERS_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from other_pythons import other_python
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerFast

PEERS_PYTHON, pytestmark = other_python("PEERS_PYTHON", "requirements.txt", pytest.mark.peers)

RTOL = ATOL = 1e-5
"""For float32 sums in another order, norms written another way, and scaled-dot-product attention here but written out there.
Values are up to 5, where a unit in the last place is 5e-7, and a few of them add up over three layers: about a fifth of this
is what shows."""


def ours(model: PreTrainedModel, ids: list[int]) -> dict[str, np.ndarray]:
    """What we record of one sequence, with the names and shapes of cache.py. All use of our own code is in here."""
    from capture.model.examine import examine
    from capture.model.lm_head import LMHead
    from capture.recording.plan import plan
    from capture.recording.recorder import Recorder
    from warehouse.schema.sites import Key, tensor_name
    from warehouse.storage.attention import per_query_head, probabilities

    anatomy = examine(model)
    input_ids = torch.tensor([ids])
    tensors = plan(anatomy, "hidden,resid,qkv,attn_out,mlp_out", "auto", "F32").stored
    with Recorder(anatomy, tensors) as recorder:
        recording = recorder.run({"dec": (input_ids, torch.ones_like(input_ids))})
    found = {tensor_name(*key): x for key, x in recording.tensors.items()}
    for i, layer in enumerate(anatomy.main.layers):
        assert layer.formula is not None
        q, k = (recording.tensors[Key("dec", site, i)].swapaxes(0, 1) for site in "qk")
        found[tensor_name("dec", "attn", i)] = probabilities(q, per_query_head(k, len(q)), layer.formula)
    with torch.no_grad():
        found["logits"] = LMHead(anatomy.body)(recording.last["dec"]).numpy()
    return found


LAYER, HEAD, TOKEN = 1, 2, 5
"""Where cache.py changes the model."""

EFFECT = 1e-4
"""How far logits under the same change may differ; what the change does to them is more than a hundred times that."""


def ours_changed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: list[int], other: list[int], vector: list[float]
) -> dict[str, np.ndarray]:
    """The logits under the changes of cache.py, with its names, by `capture.intervene`."""
    import capture
    from capture.interventions.intervention import Positions
    from capture.interventions.restart import Restart
    from warehouse.schema.sites import Key

    loaded = capture.wrap(model, tokenizer)
    head, stream = Key("dec", "heads", LAYER), Key("dec", "resid.post_mlp", LAYER)
    both = torch.tensor([ids, other])
    values = Restart(loaded.anatomy).read({"dec": (both, torch.ones_like(both))}, [head, stream]).values
    heads = values[head][:, :, HEAD]

    def at_head(kind: str, value: torch.Tensor) -> capture.Intervention:
        return capture.Intervention("heads", LAYER, kind, head=HEAD, value=value)

    changes = {
        "head=zero": f"L{LAYER}H{HEAD}=zero",
        "head=mean": at_head("mean", heads.mean(0)),
        "head=other": at_head("patch", heads[1]),
        "mlp=zero": f"M{LAYER}=zero",
        "stream=other": capture.Intervention(
            "resid.post_mlp", LAYER, "patch", positions=Positions(TOKEN, TOKEN + 1), value=values[stream][1]
        ),
        "stream=add": capture.Intervention("resid.post_mlp", LAYER, "add", factor=2, value=torch.tensor(vector)),
    }
    found = {}
    for name, change in changes.items():
        with capture.intervene(loaded, change), torch.no_grad():
            found[f"edited.{name}"] = model(input_ids=both[:1], use_cache=False).logits[0].numpy()
    return found


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, make_gpt2: Callable, make_llama: Callable) -> PreTrainedModel:
    """A tiny model with noise on all its weights.

    A new one has biases of 0, norms of 1 and nearly uniform attention: much could be mixed up or left out without a trace.
    """
    model = make_gpt2() if request.param == "gpt2" else make_llama()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.15)
    return model


@pytest.fixture
def ids(tokenizer: PreTrainedTokenizerFast, sample_lines: list[str]) -> list[int]:
    found: list[int] = tokenizer(" ".join(sample_lines[:4]))["input_ids"][:40]
    assert len(found) == 40
    return found


@pytest.fixture
def other_ids(ids: list[int]) -> list[int]:
    """Another sequence, of other tokens from the first on."""
    return [*ids[7:], *ids[:7]]


@pytest.fixture
def vector(model: PreTrainedModel) -> list[float]:
    found: list[float] = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(2)).tolist()
    return found


@pytest.fixture
def theirs(
    model: PreTrainedModel, ids: list[int], other_ids: list[int], vector: list[float], tmp_path: Path
) -> Callable[[str], tuple[dict[str, np.ndarray], dict[str, str]]]:
    """Runs the model by a peer: its tensors, and the versions that made them."""

    def run(peer: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        folder, tokens, out = tmp_path / "model", tmp_path / "ids.json", tmp_path / f"{peer}.safetensors"
        model.save_pretrained(folder)
        given = {"input_ids": ids, "other_ids": other_ids, "vector": vector}
        tokens.write_text(json.dumps(given), encoding="utf-8")
        script = Path(__file__).with_name("cache.py")
        done = subprocess.run(
            [PEERS_PYTHON, "-I", *map(str, (script, peer, folder, tokens, out))],
            capture_output=True,
            text=True,
            timeout=300,
            # Another number of threads may sum in another order.
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        with safe_open(out, "np") as f:
            return {name: f.get_tensor(name) for name in f.keys()}, f.metadata()  # noqa: SIM118

    return run


def test_transformer_lens_sees_the_same_in_its_own_implementation(
    model: PreTrainedModel, ids: list[int], theirs: Callable
) -> None:
    mine, (found, _) = ours(model, ids), theirs("transformer_lens")
    assert mine.keys() <= found.keys(), sorted(mine.keys() - found.keys())
    for name, x in mine.items():
        np.testing.assert_allclose(x, found[name], rtol=RTOL, atol=ATOL, err_msg=name)


def test_nnsight_sees_the_same_bits(model: PreTrainedModel, ids: list[int], theirs: Callable) -> None:
    """Both with eager attention, the only one that has probabilities to look at."""
    model.set_attn_implementation("eager")
    mine, (found, versions) = ours(model, ids), theirs("nnsight")
    assert mine.keys() <= found.keys(), sorted(mine.keys() - found.keys())
    same_code = all(versions[package] == version(package) for package in ("torch", "transformers"))
    for name, x in mine.items():
        if same_code and not name.startswith("attn."):
            np.testing.assert_array_equal(x, found[name], err_msg=name)
        else:  # other kernels, or for attention our own product of q and k in NumPy
            np.testing.assert_allclose(x, found[name], rtol=RTOL, atol=ATOL, err_msg=name)


def test_transformer_lens_finds_the_same_effects(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    ids: list[int],
    other_ids: list[int],
    vector: list[float],
    theirs: Callable,
) -> None:
    mine, (found, _) = ours_changed(model, tokenizer, ids, other_ids, vector), theirs("transformer_lens")
    assert mine.keys() == {name for name in found if name.startswith("edited.")}
    for name, x in mine.items():
        assert np.abs(found[name] - found["logits"]).max() > 100 * EFFECT, f"{name} has no effect"
        np.testing.assert_allclose(x, found[name], rtol=0, atol=EFFECT, err_msg=name)


def test_nnsight_finds_the_same_bits_after_a_change(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    ids: list[int],
    other_ids: list[int],
    vector: list[float],
    theirs: Callable,
) -> None:
    model.set_attn_implementation("eager")
    mine, (found, versions) = ours_changed(model, tokenizer, ids, other_ids, vector), theirs("nnsight")
    assert mine.keys() == {name for name in found if name.startswith("edited.")}
    same_code = all(versions[package] == version(package) for package in ("torch", "transformers"))
    for name, x in mine.items():
        assert np.abs(found[name] - found["logits"]).max() > 100 * EFFECT, f"{name} has no effect"
        if same_code:
            np.testing.assert_array_equal(x, found[name], err_msg=name)
        else:
            np.testing.assert_allclose(x, found[name], rtol=0, atol=EFFECT, err_msg=name)
