"""Scores and masks against a Llama written out plainly in this file, and against a model in which estimates are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from capture.edges.edge_model import Ablation, EdgeModel
from capture.edges.edge_proof import examine_edges
from capture.edges.edge_scores import score_batch
from capture.edges.masked_pass import masked_states
from capture.model.body import probe_ids
from capture.model.examine import examine
from warehouse.errors import UsageError

LENGTH = 8


class PlainLlama:
    """One prompt through a Llama, each q, k, v, MLP and the logits reading a stream of their own."""

    def __init__(self, model: nn.Module) -> None:
        self.weights, self.config = dict(model.named_parameters()), model.config
        self.modified = False
        """Gradients are GIM's."""
        self.streams: list[torch.Tensor] = []
        """(T, D) of each sink, in the order of the graph, and its gradients after a backward pass."""

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.weights["model.embed_tokens.weight"][ids]

    def __call__(self, embed: torch.Tensor, other: list[torch.Tensor] | None = None, keep: np.ndarray | None = None):
        """Return the last logits (V,) and what each node writes, (T, D).

        `other` is what each node writes on edges that are not in `keep`; without them, all edges are kept.
        """
        c, written, self.streams = self.config, [embed], []
        heads, groups = c.num_attention_heads, c.num_key_value_heads
        edges = iter(()) if keep is None else iter(keep)

        def stream(reads: int) -> torch.Tensor:
            if other is None:
                found = sum(written[:reads])
            else:
                found = sum(written[n] if next(edges) else other[n] for n in range(reads))
            self.streams.append(found.clone())
            if found.requires_grad:
                self.streams[-1].retain_grad()
            return self.streams[-1]

        for i in range(c.num_hidden_layers):
            reads, name = len(written), f"model.layers.{i}."
            made = {}
            for port, n in (("q", heads), ("k", groups), ("v", groups)):
                for head in range(n):
                    rows = slice(head * c.head_dim, (head + 1) * c.head_dim)
                    x = self.norm(stream(reads), f"{name}input_layernorm.weight")
                    made[port, head] = self.scaled(
                        x @ self.weights[f"{name}self_attn.{port}_proj.weight"][rows].T, port
                    )
            output = self.weights[f"{name}self_attn.o_proj.weight"]
            for head in range(heads):
                group = head // (heads // groups)
                q, k = self.turned(made["q", head]), self.turned(made["k", group])
                mixed = self.attention(q @ k.T / c.head_dim**0.5) @ made["v", group]
                written.append(mixed @ output[:, head * c.head_dim : (head + 1) * c.head_dim].T)
            x = self.norm(stream(len(written)), f"{name}post_attention_layernorm.weight")
            gate, up, down = (self.weights[f"{name}mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
            written.append((nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T)
        last = self.norm(stream(len(written)), "model.norm.weight")[-1]
        return last @ self.weights["lm_head.weight"].T, written

    def norm(self, x: torch.Tensor, weight: str) -> torch.Tensor:
        size = (x.square().mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt()
        return x / (size.detach() if self.modified else size) * self.weights[weight]

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        speeds = self.config.rope_parameters["rope_theta"] ** -(torch.arange(half) / half)
        angles = torch.arange(len(x))[:, None] * speeds
        first, second = x[:, :half], x[:, half:]
        return torch.cat(
            [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], 1
        )

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        x = x.masked_fill(torch.ones(x.shape).triu(1).bool(), -torch.inf)
        if not self.modified:
            return x.softmax(1)
        tempered = (x / 2).softmax(1) * 2  # its gradient by x is that of a softmax at a temperature of 2
        return tempered + (x.softmax(1) - tempered).detach()

    def scaled(self, x: torch.Tensor, port: str) -> torch.Tensor:
        part = {"q": 0.25, "k": 0.25, "v": 0.5}[port] if self.modified else 1.0
        return x * part + (x * (1 - part)).detach()


@pytest.fixture(scope="module")
def llama() -> tuple[EdgeModel, PlainLlama]:
    model = zoo.build("llama")
    return examine_edges(examine(model)), PlainLlama(model)


def pair(model: EdgeModel) -> tuple[torch.Tensor, torch.Tensor]:
    clean, corrupted = (probe_ids(model.anatomy.body.model, LENGTH, seed=seed) for seed in (0, 1))
    return clean, corrupted


def metric(logits: torch.Tensor) -> torch.Tensor:
    return (logits[..., 7] - logits[..., 11:20].mean(-1)).double() + logits[..., 30].tanh()


def test_a_masked_pass_is_the_plain_model_with_its_streams(llama: tuple[EdgeModel, PlainLlama]) -> None:
    model, plain = llama
    clean, corrupted = pair(model)
    states = model.read(clean, corrupted, torch.ones_like(clean))
    with torch.no_grad():
        _, other = plain(plain.embed(corrupted[0]))
        for share in (0.0, 0.1, 0.5, 0.9, 1.0):
            keep = np.random.default_rng(0).random(model.graph.n_edges) < share
            found = model.logits(masked_states(model, states, keep), torch.tensor([LENGTH - 1]))[0]
            wanted, _ = plain(plain.embed(clean[0]), other, keep)
            torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(("method", "steps"), [("eap", 1), ("eap-ig", 3), ("gim", 1)])
def test_scores_are_the_plain_gradients_times_the_changes(
    llama: tuple[EdgeModel, PlainLlama], method: str, steps: int
) -> None:
    model, plain = llama
    clean, corrupted = pair(model)
    states, ends = model.read(clean, corrupted, torch.ones_like(clean)), torch.tensor([LENGTH - 1])
    scores = score_batch(model, states, metric, ends, method=method, steps=steps)
    start, end = plain.embed(corrupted[0]), plain.embed(clean[0])
    points = [(i + 0.5) / steps for i in range(steps)] if method == "eap-ig" else [1.0]
    with torch.no_grad():
        changes = [a - b for a, b in zip(plain(start)[1], plain(end)[1], strict=True)]
    expected = np.zeros(model.graph.n_edges)
    plain.modified = method == "gim"
    for point in points:
        logits, _ = plain((start + point * (end - start)).requires_grad_())
        metric(logits).backward()
        of_edges = zip(model.graph.edge_nodes, model.graph.edge_sinks, strict=True)
        expected += [float((changes[n] * plain.streams[s].grad).sum()) / len(points) for n, s in of_edges]
    plain.modified = False
    assert scores.edges is not None and np.abs(expected).max() > 0.01
    np.testing.assert_allclose(scores.edges[0], expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    with torch.no_grad():
        change = metric(plain(start)[0]) - metric(plain(end)[0])
    assert scores.changes[0] == pytest.approx(float(change), abs=1e-5)
    if method == "eap-ig":
        assert scores.gaps[0] == pytest.approx(scores.nodes[0, 0] - float(change), abs=1e-5)


def linear_gpt2() -> GPT2LMHeadModel:
    """A GPT-2 that is linear in its embedding: no norms, an activation that is none, and attention that is even whatever q and k are."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16, activation_function="linear",
        bos_token_id=0, eos_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for block in model.transformer.h:
        block.ln_1, block.ln_2 = nn.Identity(), nn.Identity()
        block.attn.c_attn.weight[:, : 2 * config.n_embd] = 0
    model.transformer.ln_f = nn.Identity()
    return model


@pytest.mark.parametrize(("method", "steps"), [("eap", 1), ("eap-ig", 2)])
def test_on_a_linear_model_a_score_is_the_exact_effect(method: str, steps: int) -> None:
    model = examine_edges(examine(linear_gpt2()))
    clean, corrupted = pair(model)
    graph, ends = model.graph, torch.tensor([LENGTH - 1])

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return (logits[:, 3] - logits[:, 4]).double()

    scores = score_batch(
        model, model.read(clean, corrupted, torch.ones_like(clean)), difference, ends, method=method, steps=steps
    )
    assert scores.edges is not None
    for masks, found in (
        (np.eye(graph.n_edges, dtype=bool), scores.edges[0]),
        (np.stack([graph.edges_of_nodes(row) for row in np.eye(len(graph.nodes))]), scores.nodes[0]),
    ):
        n = len(masks)
        states = model.read(clean.expand(n, -1), corrupted.expand(n, -1), torch.ones((n, LENGTH), dtype=torch.long))
        last = masked_states(model, states, ~masks)
        effects = difference(model.logits(last, ends.expand(n))) - difference(
            model.logits(states.clean_last, ends.expand(n))
        )
        assert (np.abs(found) > 1e-4).sum() > n / 4
        np.testing.assert_allclose(found, effects.numpy(), rtol=0, atol=1e-5 * float(effects.abs().max()))
    if method == "eap-ig":
        assert abs(scores.gaps[0]) < 1e-5 * np.abs(scores.nodes).max()


def test_zero_and_the_mean_of_one_prompt_are_kinds_of_resampling(llama: tuple[EdgeModel, PlainLlama]) -> None:
    """What is put in by position: the mean over a single prompt is that prompt's values."""
    model, _ = llama
    clean, corrupted = pair(model)
    ones = torch.ones_like(clean)
    states, other = model.read(clean, clean.flip(1), ones), model.read(clean, corrupted, ones)
    keep = np.random.default_rng(0).random(model.graph.n_edges) < 0.5
    means = Ablation("mean", {key: other.corrupted(key)[0] for key in model.written_keys})
    found, wanted = masked_states(model, states, keep, means), masked_states(model, other, keep)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    zeros = Ablation("mean", {key: torch.zeros_like(x[0]) for key, x in other.values.items()})
    assert torch.equal(
        masked_states(model, other, keep, zeros), masked_states(model, other, keep, model.ablation("zero"))
    )


def test_without_the_embedding_nothing_is_left_of_zeros(llama: tuple[EdgeModel, PlainLlama]) -> None:
    """Nothing enters this model, which has no biases: not even rounding, which norms would make large."""
    model, _ = llama
    clean, corrupted = pair(model)
    states = model.read(clean, corrupted, torch.ones_like(clean))
    embed = np.zeros(len(model.graph.nodes), bool)
    embed[0] = True
    for keep in (~model.graph.edges_of_nodes(embed), np.zeros(model.graph.n_edges, bool)):
        assert torch.equal(
            masked_states(model, states, keep, model.ablation("zero")), torch.zeros_like(states.clean_last)
        )


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bert", "it is no decoder"),
        ("opt_350m", "norms stand in its residual stream"),
        ("bloom", "does not pass transformers' attention interface"),
        ("mamba", "does not show its q, k and v"),
        ("jetmoe", "its heads or MLPs read more of the stream than their q, k, v and inputs"),
    ],
)
def test_where_edges_cannot_be_told_apart_it_is_said_with_the_reason(family: str, reason: str) -> None:
    with pytest.raises(UsageError) as e:
        examine_edges(examine(zoo.build(family)))
    assert reason in str(e.value) and "\n" not in str(e.value)


def test_attention_is_one_node_where_a_norm_follows_it() -> None:
    model = examine_edges(examine(zoo.build("gemma2")))
    assert [node.name for node in model.graph.nodes] == ["embed", "A0", "M0", "A1", "M1", "A2", "M2"]
    assert [sink.name for sink in model.graph.sinks[:9]] == [
        "L0H0.q", "L0H1.q", "L0H2.q", "L0H3.q", "L0H0.k", "L0H1.k", "L0H0.v", "L0H1.v", "M0",
    ]  # fmt: skip
    (note,) = model.notes
    assert "attention is one node in every layer" in note and "a norm or a gate stands between" in note


def test_gradients_that_a_model_does_not_give_are_one_line() -> None:
    model = examine_edges(examine(zoo.build("gpt2")))
    clean, corrupted = pair(model)
    states = model.read(clean, corrupted, torch.ones_like(clean))
    with pytest.raises(UsageError, match="its gradients cannot be computed"):
        score_batch(model, states, lambda logits: metric(logits.detach()), torch.tensor([LENGTH - 1]))
