"""A Llama model whose weights are set by hand so that it solves induction, and whose circuits are therefore known: … A B … A is followed by B.

Two layers, four heads, two key-value heads, a stream of 64. The stream has four parts: the token at a position, the token before it, what
comes next, and a constant. Head 0 of layer 0 attends one position back, and writes down which token it finds there. Head 0 of layer 1
attends to the position whose token before is the token that it stands at, and writes that position's token to what comes next. All other
weights, those of the MLPs among them, are zero, or noise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

N_TOKENS, WIDTH, HEAD_WIDTH = 16, 64, 32
TOKEN, BEFORE, NEXT = (slice(N_TOKENS * i, N_TOKENS * (i + 1)) for i in range(3))
CONSTANT = N_TOKENS * 3
"""Where the parts of the stream lie."""

_CONSTANT = 32.0
"""So large beside the ones of the other parts that the norms' scale is nearly the same at every position."""
_SCALE = _CONSTANT / math.sqrt(WIDTH)
"""The root of the mean square of the stream, nearly."""
_ROPE_BASE = 1e6
_FAST, _SLOW = 2, HEAD_WIDTH // 4
"""Of the pairs of a head's dimensions that position encoding turns, the first few turn fast enough to tell neighbours apart, and those from
the quarter on hardly turn within a prompt."""
_BACK, _MATCH, _LOGIT = 120.0, 60.0, 10.0
"""How sharply the heads attend, and the logit of what comes next."""

CIRCUITS = {
    "first A": {("embed", "L0H0.v"), ("L0H0", "L1H0.k"), ("L1H0", "logits")},
    "B": {("embed", "L1H0.v"), ("L1H0", "logits")},
    "last A": {("embed", "L1H0.q"), ("L1H0", "logits")},
}
"""What of the prompt is another token in the corrupted one, and the edges that tell."""


class Pairs(NamedTuple):
    """Prompts of one length, and the tokens of their metric: the logit of `right` less that of `wrong`."""

    clean: torch.Tensor
    """(B, T)"""
    corrupted: torch.Tensor
    right: torch.Tensor
    """(B,)"""
    wrong: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        return torch.ones_like(self.clean)

    @property
    def ends(self) -> torch.Tensor:
        return torch.full((len(self.clean),), self.clean.shape[1] - 1)

    def metric(self, logits: torch.Tensor) -> torch.Tensor:
        """(B,) of logits (B, V)."""
        rows = torch.arange(len(logits))
        return logits[rows, self.right] - logits[rows, self.wrong]


def make_pairs(corruption: str, n: int = 8, length: int = 10, seed: int = 0) -> Pairs:
    """Prompts `start … A B … A`, every other token there once, and corrupted ones whose token in question is one that is nowhere else."""
    generator = torch.Generator().manual_seed(seed)
    clean, other, wrong, at = [], [], [], []
    for _ in range(n):
        order = torch.randperm(N_TOKENS - 1, generator=generator) + 1
        first = int(torch.randint(1, length - 3, (), generator=generator))
        ids = torch.cat([torch.zeros(1, dtype=torch.long), order[: length - 2]])
        clean.append(torch.cat([ids, ids[first : first + 1]]))
        other.append(order[length - 2])
        wrong.append(order[length - 2] if corruption == "B" else order[length - 1])
        at.append(first)
    before = torch.stack(clean)
    rows, first = torch.arange(n), torch.tensor(at)
    places = {"first A": first, "B": first + 1, "last A": torch.full_like(first, length - 1)}
    after = before.clone()
    after[rows, places[corruption]] = torch.stack(other)
    return Pairs(before, after, before[rows, first + 1], torch.stack(wrong))


def build(noise: float = 0.0, seed: int = 0) -> LlamaForCausalLM:
    """The model; `noise` is the standard deviation of all the weights that would be zero."""
    config = LlamaConfig(
        vocab_size=N_TOKENS,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=HEAD_WIDTH,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_BASE},
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).float().eval()
    eye, own = torch.eye(N_TOKENS), slice(HEAD_WIDTH)  # the rows and columns of head 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.fill_(_SCALE)  # what the norm divides by
                weight[CONSTANT] = _SCALE / _CONSTANT
            else:
                weight.zero_()
        model.model.embed_tokens.weight[:, TOKEN] = eye
        model.model.embed_tokens.weight[:, CONSTANT] = _CONSTANT
        model.lm_head.weight[:, NEXT] = _LOGIT * eye

        back, match = (layer.self_attn for layer in model.model.layers)
        key, query = _one_back()
        back.k_proj.weight[own, CONSTANT] = key
        back.q_proj.weight[own, CONSTANT] = query * _BACK
        back.v_proj.weight[:N_TOKENS, TOKEN] = eye
        back.o_proj.weight[BEFORE, :N_TOKENS] = eye
        places = _slow_dimensions()
        match.k_proj.weight[places, BEFORE] = eye
        match.q_proj.weight[places, TOKEN] = eye * _MATCH
        match.v_proj.weight[:N_TOKENS, TOKEN] = eye
        match.o_proj.weight[NEXT, :N_TOKENS] = eye

        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            weight[weight == 0] = noise * torch.randn(int((weight == 0).sum()), generator=generator)
    return model


def _one_back() -> tuple[torch.Tensor, torch.Tensor]:
    """A key, and the query that is most like it where the key stands one position before: the key turned one step backwards."""
    half = HEAD_WIDTH // 2
    angles = _ROPE_BASE ** -(torch.arange(half) / half)
    key, query = torch.zeros(HEAD_WIDTH), torch.zeros(HEAD_WIDTH)
    key[:_FAST] = 1
    query[:_FAST] = angles[:_FAST].cos()
    query[half : half + _FAST] = -angles[:_FAST].sin()
    return key, query


def _slow_dimensions() -> torch.Tensor:
    """Sixteen dimensions of a head, one for each token, that position encoding leaves nearly as they are."""
    half = torch.arange(_SLOW, HEAD_WIDTH // 2)
    return torch.cat([half, half + HEAD_WIDTH // 2])
