"""Logits as linear functions of the final residual stream, against the logits that models give themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo

from capture.model.body import probe_ids
from capture.model.examine import examine
from capture.model.logit_direction import LogitReader
from warehouse.errors import UsageError

QUICK = ["llama", "gpt2", "gemma2", "cohere", "granite"]
"""Of which GPT-2's norm takes the mean away and has a bias, Gemma 2 caps its logits, and Cohere and Granite multiply them."""
CAUSAL = [family for family in zoo.FAMILIES if zoo.kind(family) == "causal"]
PLUS, MINUS = [5, 17], [9]


def check_direction(family: str, **config: Any) -> None:
    model = zoo.build(family, **config)
    anatomy = examine(model)
    ids = probe_ids(model, 9, seed=4)
    rows: list[torch.Tensor] = []
    hook = anatomy.main.layers[-1].block.register_forward_hook(
        lambda _m, _a, y: rows.append(y if isinstance(y, torch.Tensor) else y[0])
    )
    with torch.no_grad():
        own = model(input_ids=ids).logits[0].double()
    hook.remove()
    stream = rows[0].reshape(9, -1)
    try:
        reader = LogitReader(anatomy)
    except UsageError as e:
        assert "no norm with a gain and a bias alone" in str(e)  # OPT-350m projects its last state
        assert anatomy.main.last_width != anatomy.main.width
        return
    values = reader.values(stream, PLUS, MINUS)
    wanted = own[:, PLUS].mean(1) - own[:, MINUS].mean(1)
    cap = getattr(model.config, "final_logit_softcapping", None) or getattr(model.config, "logits_soft_cap", None)
    assert reader.quantity == ("logit before its soft-cap" if cap else "logit")
    for i in (3, 8):
        logits = reader.logits(stream[i : i + 1])[0]
        torch.testing.assert_close(logits.double(), own[i], rtol=1e-4, atol=1e-5)
        found = reader.direction(stream[i], logits, PLUS, MINUS)
        total = float(found.vector @ stream[i].double()) + found.bias
        assert abs(total) > 1e-3
        assert total == pytest.approx(found.logit, abs=3e-5)
        assert total == pytest.approx(values[i], abs=3e-5)
        if not cap:
            assert total == pytest.approx(float(wanted[i]), abs=3e-5)
        one = reader.direction(stream[i], logits, [5], [])
        before = float(one.vector @ stream[i].double()) + one.bias
        after = cap * torch.tanh(torch.tensor(before / cap)) if cap else before
        assert float(after) == pytest.approx(float(own[i, 5]), abs=3e-5)


@pytest.mark.parametrize("family", QUICK)
def test_the_direction_times_the_stream_is_the_logit(family: str) -> None:
    check_direction(family)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_of_an_odd_width(family: str) -> None:
    """A vector of ones and minus ones has a mean there."""
    width = {
        "llama": {"hidden_size": 33, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 8},
        "gpt2": {"n_embd": 33, "n_head": 3},
    }[family]
    check_direction(family, **width)


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in CAUSAL if f not in QUICK])
def test_the_direction_in_every_family(family: str) -> None:
    check_direction(family)


def test_a_norm_of_another_kind_is_refused() -> None:
    model = zoo.build("llama")

    class Bent(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x)

    model.model.norm = Bent()
    with pytest.raises(UsageError, match="no norm with a gain and a bias alone"):
        LogitReader(examine(model))


def test_a_head_of_another_kind_is_refused() -> None:
    model = zoo.build("llama")
    model.lm_head.register_forward_hook(lambda _m, _a, y: y.sign() * y.abs().sqrt())
    with pytest.raises(UsageError, match="its logits are not its last state times the weights of its head"):
        LogitReader(examine(model))
