"""Runs of every kind whose examples are all alike: with nothing to average over, or with numbers at their ends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from synthetic import add_run

KINDS = (
    "mcq-prompt", "mcq-encoder", "mcq-prompt", "finetune", "trait-steering", "trait-evaluation", "task", "ablation", "influence",
    "circuit", "circuit-evaluation", "circuit", "features",
    "comparison", "features-associations",
)  # fmt: skip
RUNS = [f"{kind}-{minute}" for minute, kind in enumerate(KINDS)]
TASK, CIRCUIT = RUNS[6], RUNS[9]
PARENTS = {
    "ablation": [TASK],
    "influence": [TASK],
    "circuit": [TASK],
    "circuit-evaluation": [CIRCUIT, TASK],
    "features": [TASK],
    "comparison": RUNS[:2],
}

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one example, sure and right": (1, {"correct": True, "loss": 0.0, "pred_prob": 1.0}),
    "all wrong, each loss too large for a perplexity": (3, {"correct": False, "loss": 1e3}),
    "every token ruled out": (12, {"correct": False, "loss": math.inf, "kl": math.inf}),
}


def rows(n: int, said: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Of n examples of two tokens, all alike."""
    examples = [{"example_id": f"e{i}"} for i in range(n)]
    here = {k: v for k, v in said.items() if k != "kl"}
    trait = {"trait": "a", "method": "probe", "component": "residual"}
    made = {"source_run_id": TASK}
    compared = {"source_run_id": RUNS[0], "other_run_id": RUNS[1]}
    effect = math.inf if here["loss"] == math.inf else 0.0
    top = {"topk_ids": [1], "topk_tokens": ["!"], "topk_probs": [1.0]}
    return {
        "examples": [e | {"text": "Yes.", "metadata": '{"question_concept": "word"}'} for e in examples],
        "tokens": [
            e
            | {"side": "dec", "pos": p, "word_idx": p, "char_start": 3 * p, "char_end": 3 * p + 3}
            | {"turn": p, "role": ("user", "assistant")[p], "part": "content"}
            for e in examples
            for p in (0, 1)
        ],
        "messages": [e | {"turn": p, "role": ("user", "assistant")[p]} for e in examples for p in (0, 1)],
        "next_token": [e | here | {"true_rank": 1, "pred_token": e["example_id"]} for e in examples],
        "words": [
            e | {"word_idx": p, "upos": "X", "char_start": 3 * p, "char_end": 3 * p + 3}
            for e in examples
            for p in (0, 1)
        ],
        "labels": [e | {"label": "joy"} for e in examples[: max(1, n // 2)]],
        "evaluations": [
            e | {"seq": seq, "scorer": "match", "metric": "score", "value": value, "is_correct": here["correct"]}
            for e in examples
            for seq, value in ((0, 0.0), (None, None))
        ],
        "heads": [e | {"side": "dec", "induction_mass": 0.0} for e in examples],
        "choices": [e | {"choice_idx": i, "is_label": i == 0, "is_pred": i == 0} for e in examples for i in (0, 1)],
        "mcq_predictions": [e | {"label_idx": 0, "is_correct": here["correct"]} for e in examples],
        "training": [{"split": "train"}],
        "trait_vectors": [trait | {"trait": t, "vector": [0.6, 0.8]} for t in "ab"],
        "trait_evaluations": [trait],
        "responses": [e | {"coefficient": 1.0} for e in examples],
        "trait_projections": [
            e | trait | {"source_run_id": r, "pos": 1, "velocity": 0.0, "acceleration": 0.0}
            for r in RUNS
            for e in examples
        ],
        "trait_dynamics": [e | trait | {"source_run_id": r, "n_tokens": 1} for r in RUNS for e in examples],
        "task_pairs": [
            e | {"seq": q, "role": role, "n_tokens": 2}
            for e in examples
            for q, role in enumerate(("clean", "corrupted"))
        ],
        "task_targets": [e | {"sign": 1} for e in examples],
        "task_scores": [
            e | {"metric": "logit_diff", "is_default": True, "clean": effect, "corrupted": 0.0} for e in examples
        ],
        "interventions": [
            {"intervention_id": i, "side": "dec", "site": "heads", "layer": 0, "head": i, "pos": i, "kind": "zero"}
            for i in (0, 1)
        ],
        "effects": [
            e | made | {"intervention_id": i, "metric": "logit_diff", "value": effect, "effect": effect}
            for i in (0, 1)
            for e in examples
        ],
        "influence_targets": [e | made | {"pos": 1} for e in examples],
        "logit_parts": [
            e | made | {"pos": 1, "part": "head", "layer": 0, "head": 0, "source_pos": 0} for e in examples
        ],
        "influence": [e | made | {"pos": 1, "measure": "ifr", "value": 0.0} for e in examples],
        "token_edges": [e | made | {"target_pos": 1, "pos": 1, "head": 0} for e in examples],
        "dictionaries": [made | {"sae": "s", "side": "dec"}],
        "features": [e | made | {"pos": p, "sae": "s", "activation": 1.0} for e in examples for p in (0, 1)],
        "feature_tokens": [e | made | {"pos": p, "sae": "s", "activation": 1.0} for e in examples for p in (0, 1)],
        "reconstructions": [e | made | {"pos": p, "sae": "s"} for e in examples for p in (0, 1)],
        "feature_associations": [
            made | {"sae": "s", "property": "upos", "value": "X", "n_tokens": 1, "n_other_tokens": 1}
        ],
        "reconstruction_losses": [
            e
            | made
            | {"sae": "s", "loss": here["loss"], "reconstructed_loss": here["loss"], "zeroed_loss": here["loss"]}
            for e in examples
        ],
        "circuits": [
            made | {"circuit": c, "method": c, "metric": "logit_diff", "n_examples": 0} for c in ("eap", "exact")
        ],
        "circuit_nodes": [
            {"circuit": c, "kind": "head", "layer": 0, "head": h, "score": 0.0, "rank": h + 1}
            for c in ("eap", "exact")
            for h in (0, 1)
        ],
        "circuit_edges": [
            {"circuit": "eap", "source_kind": "head", "source_layer": 0, "source_head": 0, "sink_kind": "logits"}
        ],
        "circuit_values": [
            e
            | made
            | {"circuit_run_id": CIRCUIT, "circuit": "eap", "level": "edge", "selection": "abs", "ablation": "resample"}
            | {"metric": "logit_diff", "variant": variant, "size": size, "held_out": True, "unit": e["example_id"]}
            | {"value": effect, "full_value": float(n), "none_value": 0.0}
            for variant in ("circuit", "random")
            for size in (0.5, 1.0)[:n]
            for e in examples
        ],
        "comparisons": [
            e | compared | {"kl": said.get("kl", 0.0), "loss": here["loss"], "other_loss": here["loss"]}
            for e in examples
        ],
        "layer_similarity": [compared | {"layer": 0, "other_layer": 0}],
        "moved_directions": [compared | {"layer": 0, "rank": 1, "vector": [1.0]}],
        "head_changes": [compared],
        "logit_lens": [e | top | {"actual_rank": 1, "kl_to_final": said.get("kl", 0.0)} for e in examples],
    }


def add_degenerate(root: Path, case: str) -> None:
    """A run of each kind, of one of CASES."""
    for minute, (run, kind) in enumerate(zip(RUNS, KINDS, strict=True)):
        add_run(root, run, kind, rows(*CASES[case]), minute=minute, parents=PARENTS.get(kind, []))
