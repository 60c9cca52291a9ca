"""The jobs of a live model: each leaves the runs that the same call from Python would leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

import capture
from capture.live.jobs import Model, remove_unfinished
from capture.model import loading
from warehouse import TraceStore
from warehouse.console.live_jobs import JOB
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage import paths, run_list
from warehouse.storage.trace_store import TraceStore as Store
from warehouse.validation.validate import validate

pytestmark = pytest.mark.slow

TEXT = "Every night the keeper lit the lamp."


class Told:
    """What a model told of its jobs."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: str, **facts: Any) -> None:
        self.events.append({"event": event, **facts})

    def runs(self) -> list[str]:
        return [e["run"] for e in self.events if e["event"] == "published"]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture(scope="module")
def loaded(load_tiny: Callable[..., loading.Loaded]) -> loading.Loaded:
    return load_tiny()


@pytest.fixture
def model(loaded: loading.Loaded, tmp_path: Path, told: Told) -> Model:
    return Model(loaded, tmp_path, told)


def do(model: Model, **job: Any) -> dict[str, Any]:
    return model.do(JOB.validate_python(job))


def opened(root: Path, run: str) -> Store:
    store = TraceStore(paths.run_dir(root, run))
    assert [(c.name, c.detail) for c in validate(store.path) if c.passed is False] == []
    return store


def test_a_prompt_becomes_the_run_that_python_makes(
    model: Model, tmp_path: Path, told: Told, load_tiny: Callable
) -> None:
    shown = do(model, kind="capture", prompt=TEXT)
    run = opened(tmp_path, "live-1")
    (example,) = shown["examples"]
    assert (shown["run"], run.meta.kind, told.runs()) == ("live-1", "next-token", ["live-1", "live-1-lens"])
    same = capture.next_token(
        load_tiny(), [TEXT], keep="hidden,resid,qkv,heads", run="same", root=tmp_path, index="none"
    )
    for sql in (
        "SELECT example_id, loss, topk_ids FROM next_token ORDER BY pos",
        "SELECT text FROM examples",
        "FROM heads",
    ):
        known = [
            store.query(sql).df().drop(columns=["run_id", "source_run_id"], errors="ignore") for store in (run, same)
        ]
        assert known[0].equals(known[1])
    assert np.array_equal(run.resid(example, layer=1), same.resid(example, layer=1))
    assert opened(tmp_path, "live-1-lens").meta.parents == ["live-1"]
    assert do(model, kind="capture", prompt="Another.", lens=False)["run"] == "live-2"


def test_a_cut_head_is_seen_beside_the_unchanged_run(model: Model, tmp_path: Path) -> None:
    shown = do(model, kind="capture", prompt=TEXT, lens=False)
    (example,) = shown["examples"]
    cuts = [{"layer": 1, "head": 2}, {"what": "mlp", "layer": 0}, {"what": "attention", "layer": 2}]
    cut = do(model, kind="ablate", run="live-1", example=example, cuts=cuts)
    assert (cut["run"], cut["examples"], cut["clean"]) == ("live-2", [example], "live-1")
    run = opened(tmp_path, "live-2")
    assert run.meta.options["interventions"] == ["L1H2=zero", "M0=zero", "A2=zero"]
    assert run.meta.parents == ["live-1"]
    losses = "SELECT loss FROM next_token ORDER BY pos"
    assert run.query(losses).fetchall() != opened(tmp_path, "live-1").query(losses).fetchall()
    with pytest.raises(UsageError, match="has heads 0 to 3"):
        do(model, kind="ablate", run="live-1", example=example, cuts=[{"layer": 1, "head": 4}])
    assert paths.staged_runs(tmp_path) == []


def test_a_response_comes_token_by_token(model: Model, tmp_path: Path, told: Told) -> None:
    do(model, kind="generate", prompt=TEXT, max_new_tokens=5, temperature=0.0)
    seen = [e for e in told.events if e["event"] == "progress"]
    assert [e["done"] for e in seen] == [1, 2, 3, 4, 5]
    ((response, n),) = opened(tmp_path, "live-1").query("SELECT response, n_response_tokens FROM responses").fetchall()
    assert (n, seen[-1]["text"].strip()) == (5, response.strip())


def test_a_steered_response_stands_beside_one_that_is_not(model: Model, tmp_path: Path, loaded: loading.Loaded) -> None:
    trait(tmp_path, loaded)
    shown = do(
        model, kind="steer", prompt=TEXT, trait="windy", layer=1, coefficient=4.0, max_new_tokens=5, temperature=0.0
    )
    run = opened(tmp_path, shown["run"])
    rows = run.query(
        "SELECT r.coefficient, r.prompt, r.response, r.question_idx FROM responses AS r JOIN examples AS e USING (example_id) ORDER BY e.idx"
    ).fetchall()
    assert [(c, p, q) for c, p, _, q in rows] == [(0.0, TEXT, None), (4.0, TEXT, None)]
    assert run.meta.parents == ["windy-vectors"]
    do(model, kind="generate", prompt=TEXT, max_new_tokens=5, temperature=0.0)
    plain = opened(tmp_path, "live-2").query("SELECT response FROM responses").fetchone()
    assert plain == (rows[0][2],)
    with pytest.raises(NotFoundError, match="trait"):
        do(model, kind="steer", prompt=TEXT, trait="calm", coefficient=1.0)


def trait(root: Path, loaded: loading.Loaded) -> None:
    """Add a vector of a trait, and the run of responses that it says it was made from."""
    from capture.traits import respond
    from capture.traits.definition import Definition, Pair

    made = Definition(
        name="windy",
        instruction=[Pair(pos="Speak of wind.", neg="Speak of stones.")],
        questions=["Why?"],
        eval_prompt="{question} {answer} 0 to 100, or REFUSAL",
    )
    options = respond.Options(max_new_tokens=3, capture="means", trait=made.model_dump(), n=1)
    manifest = respond.run(loaded, respond.source(made, 1), options, root=root, run_id="windy-responses")
    vector = {
        "trait": "windy", "method": "mean_diff", "component": "residual", "layer": 1, "n_pos": 1, "n_neg": 1, "gap": 1.0, "norm": 1.0,
        "vector": [1.0] + [0.0] * 31,
    }  # fmt: skip
    model = manifest.model
    size = {"body": model.body_hash, "d_model": 32, "n_layers": 3, "n_heads": 4}
    options_kept = {
        "traits": ["windy"],
        "responses_run": {"windy": "windy-responses"},
        "held_out_questions": {"windy": []},
    }
    synthetic.add_run(root, "windy-vectors", "trait-vectors", {"trait_vectors": [vector]}, options=options_kept, **size)


def test_a_chat_needs_a_template(
    model: Model, loaded: loading.Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"}]
    with pytest.raises(UsageError, match="no chat template"):
        do(model, kind="capture", turns=turns)
    assert model.about()["chat"] is False
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    monkeypatch.setattr(loaded.tokenizer, "chat_template", template)
    do(model, kind="capture", turns=turns, lens=False)
    assert opened(tmp_path, "live-1").query("SELECT text FROM examples").fetchone() == (
        "<user>Hello.\n<assistant>Yes?\n",
    )


def test_what_a_killed_worker_left_is_deleted_and_nothing_else(model: Model, tmp_path: Path) -> None:
    do(model, kind="capture", prompt=TEXT, lens=False)
    for name in ("live-2", "live-1-lens", "mine"):
        paths.staged_run(paths.staging_dir(tmp_path, name)).mkdir(parents=True)
        paths.journal_path(paths.staging_dir(tmp_path, name)).touch()
    remove_unfinished(tmp_path)
    assert paths.staged_runs(tmp_path) == ["mine"]
    assert run_list.published_runs(tmp_path) == ["live-1"]
