"""Circuits of SmolLM2 against bare forward passes, and scores against what patching finds.

What scores of all edges and nodes cost by integrated gradients (EAP-IG, 5 steps), both prompts of each pair read; what an edge-masked
forward pass costs, for SmolLM2 and for two families by other ways; how scores follow the effects of exact patching, of heads, of MLPs
and of edges; and the memory of ten times as many pairs.

    python benchmarks/circuits.py [--pairs 16] [--rounds 3] [--edges 30] [--many 400] [--tasks 2]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import in_turns, parsed, record
from transformers import GPT2Config, GPT2LMHeadModel, Olmo2Config, Olmo2ForCausalLM

import capture
from capture.edges.edge_model import EdgeModel, PairStates
from capture.edges.edge_proof import examine_edges
from capture.edges.edge_scores import score_batch
from capture.edges.masked_pass import masked_states
from capture.effects.measure import Measurer
from capture.effects.options import Options, expand
from capture.effects.task_pairs import PromptPair, read_pairs
from capture.interventions.reference import pad
from capture.model import loading
from capture.model.examine import examine
from capture.model.loading import Loaded
from capture.recording.metrics import Targets, metric, metric_tensor

FORWARDS = 5
"""Bare forward passes in a round."""
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=16, help="Pairs of a batch.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--edges", type=int, default=30, help="Edges that are patched exactly; of the heads four times as many."
    )
    parser.add_argument(
        "--many", type=int, default=400, help="Pairs whose memory is held against that of a tenth of them."
    )
    parser.add_argument("--tasks", type=int, default=2, help="Tasks on which scores are held against patching.")
    args = parsed(parser, pairs=2, rounds=1, edges=2, many=10, tasks=1)
    loaded = loading.load("smollm2", device="cpu")
    model = examine_edges(loaded.anatomy)
    with tempfile.TemporaryDirectory() as folder:
        ioi = task(loaded, "indirect_object", args.pairs, folder)
        cost(loaded, model, ioi, args.rounds)
        for name, other in (
            ("a GPT-2 of 6 layers, q, k and v in one matrix", small_gpt2()),
            ("an OLMo 2 of 6 layers, run once for each q, k and v", small_olmo2()),
        ):
            masked_cost(name, examine_edges(examine(other)), args.rounds)
        for name in ("indirect_object", "agreement")[: args.tasks]:
            pairs = ioi if name == "indirect_object" else task(loaded, name, args.pairs, folder)
            agreement(loaded, model, name, pairs[: max(2, args.pairs // 2)], args.edges)
        memory(loaded, args.many, folder)


def task(loaded: Loaded, name: str, n: int, folder: str) -> list[PromptPair]:
    """Pairs of a task that are equally long: n, or as many as there are."""
    run = capture.prepare_task(loaded, name, n=4 * n, run=name, root=folder)
    pairs = read_pairs(run)
    length = Counter(map(len, pairs)).most_common(1)[0][0]
    return [pair for pair in pairs if len(pair) == length][:n]


def read(model: EdgeModel, pairs: list[PromptPair]) -> PairStates:
    clean, mask = pad([pair.ids[0] for pair in pairs], 0)
    corrupted, _ = pad([pair.ids[1] for pair in pairs], 0)
    return model.read(clean, corrupted, mask)


def cost(loaded: Loaded, model: EdgeModel, pairs: list[PromptPair], rounds: int) -> None:
    targets, ends = Targets.of([pair.targets for pair in pairs]), torch.tensor([len(pair) - 1 for pair in pairs])
    ids, _ = pad([pair.ids[0] for pair in pairs], 0)

    def objective(logits: torch.Tensor) -> torch.Tensor:
        return metric_tensor("logit_diff", logits, targets)

    def scores() -> None:
        score_batch(model, read(model, pairs), objective, ends)

    def bare() -> None:
        with torch.no_grad():
            for _ in range(FORWARDS):
                loaded.model(input_ids=ids, use_cache=False)

    mine, forwards = in_turns(scores, bare, rounds)
    told(
        "circuits",
        f"scores of all {model.graph.n_edges:,} edges and {len(model.graph.nodes)} nodes by EAP-IG, 5 steps, {len(pairs)} pairs of "
        f"{len(pairs[0])} tokens",
        [a / (b / FORWARDS) for a, b in zip(mine, forwards, strict=True)],
        mine,
        forwards,
        "at most 18",
    )
    states = read(model, pairs)
    masked_ratio("circuits#masked", "SmolLM2", model, states, bare, rounds)


def masked_cost(name: str, model: EdgeModel, rounds: int) -> None:
    ids = torch.randint(1, 400, (32, 16), generator=torch.Generator().manual_seed(SEED))
    states = model.read(ids[:16], ids[16:], torch.ones_like(ids[:16]))

    def bare() -> None:
        with torch.no_grad():
            for _ in range(FORWARDS):
                model.anatomy.body.model(input_ids=ids[:16], use_cache=False)

    masked_ratio(f"circuits#masked-{type(model.anatomy.body.model).__name__}", name, model, states, bare, rounds)


def masked_ratio(
    key: str, name: str, model: EdgeModel, states: PairStates, bare: Callable[[], None], rounds: int
) -> None:
    keep = np.random.default_rng(SEED).random(model.graph.n_edges) < 0.1
    ends = torch.full((len(states),), states.ids.shape[1] - 1)

    def masked() -> None:
        for _ in range(FORWARDS):
            model.logits(masked_states(model, states, keep), ends)

    mine, forwards = in_turns(masked, bare, rounds)
    ratios = [a / b for a, b in zip(mine, forwards, strict=True)]
    told(
        key,
        f"an edge-masked forward pass of {name}, a tenth of {model.graph.n_edges:,} edges kept",
        ratios,
        [a / FORWARDS for a in mine],
        forwards,
        "at most 5",
    )


def told(key: str, claim: str, ratios: list[float], mine: list[float], forwards: list[float], target: str) -> None:
    record(
        key,
        claim,
        "a bare forward pass of the clean prompts",
        f"{statistics.median(mine):.2f} s",
        f"{statistics.median(forwards) / FORWARDS:.2f} s",
        f"{statistics.median(ratios):.1f} forwards ({min(ratios):.1f} to {max(ratios):.1f} in {len(ratios)} rounds)",
        target,
    )


def small_gpt2() -> Any:
    torch.manual_seed(SEED)
    return GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=384, n_layer=6, n_head=6, n_positions=64)).eval()


def small_olmo2() -> Any:
    torch.manual_seed(SEED)
    config = Olmo2Config(
        vocab_size=400,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    return Olmo2ForCausalLM(config).eval()


def agreement(loaded: Loaded, model: EdgeModel, name: str, pairs: list[PromptPair], n_edges: int) -> None:
    """Holds scores against exact patching: all MLPs, some heads, and edges: half the strongest, half of the next 2,000."""
    graph = model.graph
    targets, ends = Targets.of([pair.targets for pair in pairs]), torch.tensor([len(pair) - 1 for pair in pairs])
    states = read(model, pairs)
    full = metric("logit_diff", model.logits(states.clean_last, ends), targets)
    found = {}
    for method in ("eap", "eap-ig"):
        scores = score_batch(model, states, lambda x: metric_tensor("logit_diff", x, targets), ends, method=method)
        assert scores.edges is not None
        found[method] = (scores.nodes.mean(0), scores.edges.mean(0))
    rng = np.random.default_rng(SEED)
    heads = sorted(rng.permutation([i for i, node in enumerate(graph.nodes) if node.kind == "head"])[: 4 * n_edges])
    mlps = [i for i, node in enumerate(graph.nodes) if node.kind == "mlp"]
    what = ",".join(graph.nodes[i].name for i in [*heads, *mlps])
    options = Options(what=what)
    changes = expand(loaded.anatomy, options, len(pairs[0]))
    measurer = Measurer(loaded, model.restart, changes, options, "logit_diff", None, False, None)
    effects = np.zeros(len(changes))
    for part in measurer(pairs):
        for effect in part:
            effects[effect.intervention_id] += effect.effect / len(pairs)
    exact = {change.intervention.place: effect for change, effect in zip(changes, effects, strict=True)}
    order = np.argsort(-np.abs(found["eap-ig"][1]))
    edges = np.concatenate(
        [order[: n_edges // 2], order[rng.choice(np.arange(n_edges // 2, 2000), n_edges - n_edges // 2, replace=False)]]
    )
    by_edge = []
    for edge in edges:
        keep = np.ones(graph.n_edges, dtype=bool)
        keep[edge] = False
        by_edge.append(
            float((metric("logit_diff", model.logits(masked_states(model, states, keep), ends), targets) - full).mean())
        )

    def correlations(method: str) -> str:
        nodes, of_edges = found[method]
        three = (
            np.corrcoef(nodes[chosen], [exact[graph.nodes[i].name] for i in chosen])[0, 1] for chosen in (heads, mlps)
        )
        return " / ".join(f"{r:.3f}" for r in (*three, np.corrcoef(of_edges[edges], by_edge)[0, 1]))

    record(
        f"circuits#{name}",
        f"Pearson correlation of EAP-IG's scores with exact patching, {name}, {len(pairs)} pairs: {len(heads)} heads / {len(mlps)} MLPs / "
        f"{len(edges)} edges",
        "the same of EAP",
        correlations("eap-ig"),
        correlations("eap"),
        correlations("eap-ig"),
        ".95 / .95 / .9",
    )


def memory(loaded: Loaded, many: int, folder: str) -> None:
    """Holds the memory of finding a circuit on many pairs against that of a tenth of them."""
    peaks = []
    for n in (many // 10, many):
        run = capture.prepare_task(loaded, "indirect_object", n=n, run=f"ioi-{n}", root=folder)
        capture.discover_circuit(run, method="eap", model=loaded, share=1.0, run=f"circuit-{n}", root=folder)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    record(
        "circuits#memory",
        f"memory of this process at its height, all edges scored on {many} pairs",
        f"on {many // 10}",
        f"{peaks[1]:.2f} GiB",
        f"{peaks[0]:.2f} GiB",
        f"{peaks[1] / peaks[0]:.2f} times",
        "flat in the pairs",
    )


if __name__ == "__main__":
    main()
