"""What the tests of traces at rest share: a warehouse with rows in every table."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic
import synthetic_causes
import synthetic_circuits
import synthetic_comparisons
import synthetic_features
from samples import DATA

from warehouse.storage import paths


@pytest.fixture(scope="session")
def every_table(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, load_tiny: Callable) -> Path:
    """A warehouse with rows in every table, captured but for trainings, probes and what is said of traits, which are written down."""
    from capture.data.memory import open_chats
    from capture.data.registry import open_data
    from capture.jobs import mcq_prompt, next_token
    from capture.logit_lens import lens_run

    root = tmp_path_factory.mktemp("every") / "runs"
    shutil.copytree(paths.run_dir(tiny_root, "llama"), paths.run_dir(root, "llama"))
    for data, file, kind in (
        ("ud_ewt", "harbour.conllu", next_token),
        ("go_emotions", "emotions.tsv", next_token),
        ("csqa", "questions.jsonl", mcq_prompt),
    ):
        source = open_data(data, origin=str(DATA / file))
        kind.run(load_tiny(), source, kind.Options(), root=root, run_id=data)
    chatting = load_tiny()
    chatting.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    chats = open_chats([[{"role": "user", "content": "How far?"}, {"role": "assistant", "content": "Two miles."}]])
    next_token.run(chatting, chats, next_token.Options(), root=root, run_id="chats")
    lens_run.run(load_tiny(), paths.run_dir(root, "llama"), lens_run.Options(top_k=5), root=root, run_id="llama-lens")
    vector = {"trait": "loud", "method": "probe", "component": "residual", "layer": 0}
    made = vector | {"norm": 2.0, "gap": 1.0, "n_pos": 2, "n_neg": 2, "vector": [0.6, 0.8, 0.0, 0.0]}
    synthetic.add_run(root, "vectors", "trait-vectors", {"trait_vectors": [made]})
    judged = vector | {"vectors_run_id": "vectors", "n_pos": 2, "n_neg": 2, "accuracy": 1.0, "above_random": 1.0}
    synthetic.add_run(root, "evaluated", "trait-evaluation", {"trait_evaluations": [judged]})
    said = {"example_id": "e", "prompt": "How?", "response": "So.", "finish": "stop", "trait": "loud"}
    synthetic.add_run(root, "said", "trait-responses", {"responses": [said]})
    scored = {"source_run_id": "said", "example_id": "e", "trait": "loud", "judge": "local:made"}
    synthetic.add_run(root, "judged", "judge", {"judgements": [scored]})
    place = vector | {"source_run_id": "llama", "example_id": "e", "vectors_run_id": "vectors"}
    tables = {"trait_projections": [place | {"projection": 1.0}], "trait_dynamics": [place | {"n_tokens": 1}]}
    synthetic.add_run(root, "projected", "trait-projection", tables)
    synthetic_comparisons.add_comparison(root)
    scores = [{"example_id": "e", "scorer": "match", "metric": "score", "seq": seq} for seq in (0, 1, None)]
    synthetic.add_run(root, "scored", "next-token", {"evaluations": scores})
    synthetic.add_run(root, "ft", "finetune", {"training": [{"step": 1, "split": "train"}]})
    synthetic.add_run(root, "probe", "probe", {"probes": [{"site": "resid.post_mlp", "layer": 1}]})
    synthetic_causes.add_task(root)
    synthetic_causes.add_ablation(root, "ablated", "zero", synthetic_causes.ZERO)
    synthetic_causes.add_influence(root)
    synthetic_circuits.add_circuits(root)
    synthetic_circuits.add_evaluation(root)
    lost = {"example_id": "e", "n_predictions": 1, "loss": 1.0, "reconstructed_loss": 2.0, "zeroed_loss": 5.0}
    synthetic_features.add_features(root, "llama", {("e", 0, 0): {3: 1.5}}, losses=[lost])
    found = {"sae": "made", "feature": 3, "property": "upos", "value": "NOUN", "n_tokens": 1, "n_other_tokens": 1}
    synthetic.add_run(root, "associated", "features-associations", {"feature_associations": [found]})
    return root
