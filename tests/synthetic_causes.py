"""A task's run, two ablations of it, a patching and an influence run, made of numbers that a test can work out by hand: no model.

Two pairs of prompts, `a` and `b`, of three tokens, of a model with two layers of two heads. `a` is clean 4 and corrupted 0 by its
metric, `b` 3 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import synthetic

from warehouse.schema.tables import STORED

SCORES = {"a": (4.0, 0.0), "b": (3.0, 1.0)}
WORDS = {0: ["The", " cat", " sat"], 1: ["The", " dog", " sat"]}
HEADS = [(0, 0), (0, 1), (1, 0), (1, 1)]
INDUCTION = [0.1, 0.2, 0.9, 0.5]
"""Mass by head on the clean prompts; on the corrupted ones it is twice that."""

ZERO = {"a": [0.0, -0.5, -4.0, -1.0, -2.0, 1.0], "b": [0.0, 0.5, -2.0, -3.0, -1.0, 3.0]}
"""Effects by example, of the heads and the two MLPs."""
RESAMPLE = {"a": [0.0, 0.0, -2.0, -1.0, -1.0, 0.5], "b": [0.0, 0.0, -1.0, -1.0, -1.0, 0.5]}


def add_task(root: Path, run_id: str = "task", minute: int = 0, heads: bool = True) -> Path:
    """Adds the task's run, with what its heads attend to."""
    pair = {
        "task": "made",
        "template": "The X sat",
        "corruption": "subject",
        "n_tokens": 3,
        "first_changed": 1,
        "n_changed": 1,
    }
    prompts = [(e, seq) for e in SCORES for seq in WORDS]
    rows: dict[str, list[dict[str, Any]]] = {
        "examples": [{"example_id": e, "text": "The cat sat", "n_seqs": 2, "n_tokens": 6} for e in SCORES],
        "tokens": [
            {"example_id": e, "seq": s, "pos": i, "side": "dec", "token": word, "token_id": i + 5 * s * (i == 1)}
            for e, s in prompts
            for i, word in enumerate(WORDS[s])
        ],
        "task_pairs": [
            pair | {"example_id": e, "seq": s, "role": "corrupted" if s else "clean"} for e, s in prompts
        ],
        "task_targets": [
            {"example_id": e, "token_id": i, "token": token, "sign": sign}
            for e in SCORES
            for i, token, sign in ((10, " on", 1), (11, " off", -1))
        ],
        "task_scores": [
            {"example_id": e, "metric": metric, "is_default": default, "clean": clean, "corrupted": corrupted, "correct": True}
            for e, scores in SCORES.items()
            for metric, default, (clean, corrupted) in (("logit_diff", True, scores), ("prob_diff", False, (0.5, 0.1)))
        ],
    }  # fmt: skip
    if heads:
        rows["heads"] = [
            {"source_run_id": run_id, "example_id": e, "seq": s, "side": "dec", "layer": layer, "head": head,
             "induction_mass": mass * (1 + s), "previous_token_mass": 0.9 - mass / 2, "first_token_mass": 0.25,
             "entropy": 1.0}
            for e, s in prompts
            for (layer, head), mass in zip(HEADS, INDUCTION, strict=True)
        ]  # fmt: skip
    return _add(root, run_id, "task", rows, minute=minute)


def done(number: int, spec: str, **more: Any) -> dict[str, Any]:
    """Writes a row of interventions."""
    return {"intervention_id": number, "spec": spec, "side": "dec"} | more


def effect(
    number: int, example: str, value: float, *, source: str = "task", seq: int = 0, **more: Any
) -> dict[str, Any]:
    """Writes a row of effects from the effect alone."""
    scores = SCORES[example]
    return {
        "source_run_id": source, "intervention_id": number, "example_id": example, "seq": seq, "metric": "logit_diff",
        "baseline": scores[seq], "value": scores[seq] + value, "effect": value,
        "effect_normalised": value / (scores[0] - scores[1]),
    } | more  # fmt: skip


def add_ablation(root: Path, run_id: str, kind: str, effects: Mapping[str, Sequence[float]], minute: int = 1) -> Path:
    """Adds an ablation of all heads and MLPs."""
    heads = [
        done(i, f"L{layer}H{head}={kind}", site="heads", layer=layer, head=head, kind=kind)
        for i, (layer, head) in enumerate(HEADS)
    ]
    mlps = [done(4 + layer, f"M{layer}={kind}", site="mlp_out", layer=layer, kind=kind) for layer in (0, 1)]
    rows = [effect(i, e, x) for e, values in effects.items() for i, x in enumerate(values)]
    tables = {"interventions": heads + mlps, "effects": rows}
    return _add(root, run_id, "ablation", tables, parents=["task"], minute=minute)


def add_patching(root: Path, run_id: str = "patched", minute: int = 3) -> Path:
    """Adds a patching of the stream at each of two layers and three positions: what is put back there grows with both."""
    places = [(layer, pos) for layer in (0, 1) for pos in (0, 1, 2)]
    put = [
        done(i, f"resid.post_mlp@{layer}[pos={pos}]=patch", site="resid.post_mlp", layer=layer, pos=pos, kind="patch",
             direction="denoise")
        for i, (layer, pos) in enumerate(places)
    ]  # fmt: skip
    rows = [
        effect(i, e, (clean - corrupted) * (0.5 if layer else 0.25) * pos, seq=1)
        for i, (layer, pos) in enumerate(places)
        for e, (clean, corrupted) in SCORES.items()
    ]
    return _add(root, run_id, "patching", {"interventions": put, "effects": rows}, parents=["task"], minute=minute)


def add_influence(root: Path, run_id: str = "explained", minute: int = 4) -> Path:
    """Adds what explains the last token's prediction: of both clean prompts, and of `a`'s corrupted one."""
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("influence_targets", "logit_parts", "influence", "token_edges", "identity_errors")
    }
    for example, seq, flow in (("a", 0, 0.2), ("b", 0, 0.4), ("a", 1, 0.1)):
        key = {"source_run_id": "task", "example_id": example, "seq": seq}
        at = key | {"pos": 2}
        target = {
            "target_id": 10,
            "target_token": " on",
            "against_id": 11,
            "against_token": " off",
            "quantity": "logit",
        }
        parts = [
            {"part": "embed", "source_pos": 2, "logit": 0.25},
            {"part": "head", "layer": 0, "head": 0, "source_pos": 0, "logit": 0.5},
            {"part": "head", "layer": 1, "head": 0, "source_pos": 1, "logit": 3.0},
            {"part": "head", "layer": 1, "head": 0, "source_pos": 2, "logit": -1.0},
            {"part": "mlp", "layer": 1, "logit": 1.5},
            {"part": "mlp", "layer": 0, "logit": -2.0},
            {"part": "bias", "logit": 0.125},
        ]
        total = sum(p["logit"] for p in parts)
        tables["influence_targets"].append(at | target | {"logit": total, "parts_sum": total})
        tables["logit_parts"] += [at | p for p in parts]
        tables["influence"] += [
            at | {"measure": measure, "source_pos": i, "value": share}
            for measure, shares in (("ifr", (0.5, 0.3, 0.2)), ("occlusion", (0.0, 2.5, 1.0)))
            for i, share in enumerate(shares)
        ]
        edges = [(1, 0, 2, 1, flow, flow), (1, None, 2, 2, 1 - flow, 1 - flow), (0, None, 2, 2, 1.0, 1 - flow)]
        if (example, seq) == ("a", 0):  # only here above what graphs keep
            edges.append((0, 1, 1, 0, 0.25, 0.05))
        tables["token_edges"] += [
            key | {"target_pos": 2} | dict(zip(("layer", "head", "pos", "source_pos", "share", "flow"), e, strict=True))
            for e in edges
        ]
    tables["identity_errors"] = [{"source_run_id": "task", "identity": "logit = sum of parts", "n": 3, "scale": 2.0}]
    return _add(root, run_id, "influence", tables, parents=["task"], minute=minute)


def _add(root: Path, run_id: str, kind: str, tables: Mapping[str, Sequence[Mapping[str, Any]]], **more: Any) -> Path:
    """Adds a run whose rows are in the order of their keys, as published runs have them."""

    def place(name: str, row: Mapping[str, Any]) -> list[tuple[bool, Any]]:
        values = [row.get(k, 0 if k == "seq" else None) for k in STORED[name].sort_key]
        return [(v is None, v) for v in values]

    rows = {name: sorted(found, key=lambda row: place(name, row)) for name, found in tables.items()}
    return synthetic.add_run(root, run_id, kind, rows, n_layers=2, n_heads=2, **more)
