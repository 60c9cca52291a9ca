"""A warehouse with every kind of run that the console shows: tiny random models over the tests' small texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import synthetic
import synthetic_features
from samples import DATA

import capture
from warehouse import Warehouse

_NAMES = ("keeper", "lamp")
_PROMPTS = ("the {0} was with his {1} and the", "every {0} was with two {1}s and the", "the {0} and his {1} in the")


def make(root: Path, model: Any, later: Any, other: Any) -> None:
    """Capture into `root`: `model` reads everything; `later` (other weights) and `other` (another tokenizer too) the first texts."""
    texts, about = capture.open_file(DATA / "lighthouse.txt"), {"root": root, "max_len": 48}
    capture.next_token(model, texts, keep="hidden,resid,qkv,heads", run="lighthouse", index="resid.post_mlp@1", **about)
    capture.next_token(later, texts, keep="hidden,qkv,heads", run="later", **about)
    capture.compare("lighthouse", "later", what="predictions", model=model, other_model=later, root=root)
    capture.next_token(other, texts, keep="qkv,heads", run="other", **about)
    capture.lens("lighthouse", model=model, root=root, top_k=5, run="lighthouse-lens")
    _features(root)
    words = capture.open_dataset("ud_ewt", from_=DATA / "harbour.conllu")
    capture.next_token(model, words, keep="none", run="words", root=root)
    questions = capture.open_dataset("csqa", from_=DATA / "questions.jsonl")
    capture.mcq(model, questions, keep="qkv", run="questions", root=root)
    _answers(root, model)
    _causes(root, model)


def _features(root: Path) -> None:
    """Add features of the texts that are made up: one at every third token, others at some of these, and one at a text's last."""
    with Warehouse(root) as wh:
        tokens = wh.sql("SELECT example_id, seq, pos FROM tokens WHERE run_id = 'lighthouse' ORDER BY ALL").fetchall()
    active = {
        key: {2: 1 + key[2] / 8} | ({5: 4.0} if key[2] % 2 == 0 else {}) | ({7: 0.5} if key[2] == 3 else {})
        for key in tokens
        if key[2] % 3 == 0
    }
    synthetic_features.add_features(root, "lighthouse", active, run="lighthouse-features")
    tested = {"source_run_id": "lighthouse", "features_run_id": "lighthouse-features", "sae": synthetic_features.SAE}
    tested |= {"layer": 1, "feature": 2, "property": "upos", "n_tokens": 8, "n_active": 6, "n_other_tokens": 40}
    tests = [tested | {"value": value, "q_value": q} for value, q in (("NOUN", 0.001), ("VERB", 0.25))]
    synthetic.add_run(root, "lighthouse-tests", "features-associations", {"feature_associations": tests})


def _answers(root: Path, model: Any) -> None:
    """Add generated answers, and their tokens projected on a trait's vector."""
    prompts = ["The keeper lit the", "Every night the lamp"]
    run = capture.generate(model, prompts, keep="resid,qkv", max_new_tokens=8, temperature=0, run="answers", root=root)
    made = run.meta.model
    vector = {
        "trait": "loud",
        "method": "mean_diff",
        "component": "residual",
        "layer": 1,
        "n_pos": 2,
        "n_neg": 2,
        "gap": 1.0,
    }
    vector |= {"norm": 1.0, "vector": [1.0] + [0.0] * (made.d_model - 1)}
    size = {"body": made.body_hash, "d_model": made.d_model, "n_layers": made.n_layers, "n_heads": made.n_heads}
    synthetic.add_run(root, "vectors", "trait-vectors", {"trait_vectors": [vector]}, **size)
    capture.project("answers", "loud", vectors="vectors", root=root, run="answers-loud")


def _causes(root: Path, model: Any) -> None:
    """Add a task of six pairs, and what was done to find its causes."""
    file = root.parent / "pairs.csv"
    lines = ["clean,corrupted,answer,wrong,template"]
    for template in _PROMPTS:
        for one, two in (_NAMES, _NAMES[::-1]):
            lines.append(f"{template.format(one, two)},{template.format(two, one)}, {one}, {two},{template[:9]}")
    file.write_text("\n".join([*lines, ""]))
    capture.prepare_task(model, file, run="pairs", root=root, keep="resid,qkv,heads")
    about = {"model": model, "root": root}
    for kind in ("resample", "zero"):
        capture.ablate("pairs", what="heads", kind=kind, run=f"pairs-{kind}", **about)
    capture.patch("pairs", site="resid.post_mlp", positions="each", run="pairs-patch", **about)
    capture.influence("pairs", measures=("logit", "ifr"), run="pairs-influence", **about)
    capture.discover_circuit("pairs", resamples=20, run="pairs-circuit", **about)
    capture.evaluate_circuit("pairs-circuit", run="pairs-curve", **about)
