"""How heads add to the stream, against a model whose heads are cut one by one."""

from __future__ import annotations

import pytest
import torch
import zoo

from capture.interventions.site_edits import edit_sites
from capture.model.anatomy import Anatomy
from capture.model.body import Tokens
from capture.model.examine import examine
from capture.model.forward_trace import probe_tokens
from capture.model.head_outputs import HeadOutputs, find_head_outputs
from warehouse.schema.sites import Key

QUICK = ["llama", "gpt2", "gpt_neox", "granite"]
"""Of which GPT-2 projects by a Conv1D with a bias, GPT-NeoX adds attention and MLP at once, and Granite multiplies what it adds."""
CAUSAL = [family for family in zoo.FAMILIES if zoo.kind(family) == "causal"]


def read(anatomy: Anatomy, tokens: Tokens, site: str, layer: int, cut: int | None = None) -> torch.Tensor:
    """A site of a layer in a pass over tokens, (T, …), perhaps with one of its heads cut."""
    seen: list[torch.Tensor] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return x

    def zero(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, :, cut] = 0
        return y

    edits = {Key("dec", site, layer): keep} | ({} if cut is None else {Key("dec", "heads", layer): zero})
    with torch.no_grad(), edit_sites(anatomy, edits):
        anatomy.body(tokens)
    return seen[0][0]


def check_heads(family: str) -> None:
    anatomy = examine(zoo.build(family))
    tokens = probe_tokens(anatomy.body, {"dec": 17, "enc": 5})
    for i, found in enumerate(find_head_outputs(anatomy)):
        layer = anatomy.main.layers[i]
        if isinstance(found, str):
            assert len(found) > 20
            continue
        factor = layer.hook_points["attn_out"].factor
        heads = read(anatomy, tokens, "heads", i)
        whole = read(anatomy, tokens, "attn_out", i) * factor
        each = torch.einsum("thd,hdw->htw", heads, found.weight)
        assert float(whole.abs().max()) > 1e-3
        torch.testing.assert_close(each.sum(0) + found.bias, whole, rtol=1e-5, atol=1e-5)
        for h in range(len(found.weight)):
            without = read(anatomy, tokens, "attn_out", i, cut=h) * factor
            torch.testing.assert_close(whole - without, each[h], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", QUICK)
def test_what_a_head_adds_is_what_is_gone_when_it_is_cut(family: str) -> None:
    check_heads(family)
    assert all(isinstance(x, HeadOutputs) for x in find_head_outputs(examine(zoo.build(family))))


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in CAUSAL if f not in QUICK])
def test_what_a_head_adds_in_every_family(family: str) -> None:
    check_heads(family)


def test_a_norm_after_the_projection_is_told() -> None:
    (reason,) = set(map(str, find_head_outputs(examine(zoo.build("gemma2")))))
    assert "a norm or a gate stands between" in reason


def test_a_projection_that_is_not_linear_is_told() -> None:
    model = zoo.build("llama")

    class Bent(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).tanh()

    model.model.layers[1].self_attn.o_proj.__class__ = Bent
    one, bent, three = find_head_outputs(examine(model))
    assert isinstance(one, HeadOutputs) and isinstance(three, HeadOutputs)
    assert isinstance(bent, str) and "not the sum of its heads' outputs" in bent
