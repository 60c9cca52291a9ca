"""Responses to a trait's questions, and steering: what is added, where, and that the text follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from capture.model import loading
from capture.model.hashes import body_hash
from capture.traits import respond, steer
from capture.traits.definition import Definition, Pair
from warehouse import TraceStore
from warehouse.errors import UsageError
from warehouse.schema.sites import Key
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

DEFINITION = Definition(
    name="windy",
    instruction=[Pair(pos="Speak of the wind.", neg="Speak of stones."), Pair(pos="Blow.", neg="Lie.")],
    questions=["What is the sea?", "Who keeps the lamp?", "Why?"],
    eval_prompt="{question} {answer} 0 to 100, or REFUSAL",
)


def responded(root: Path, loaded: loading.Loaded, n: int = 4, **options: Any) -> TraceStore:
    chosen = {"max_new_tokens": 6, "capture": "means", "trait": DEFINITION.model_dump(), "n": n} | options
    respond.run(loaded, respond.source(DEFINITION, n), respond.Options(**chosen), root=root, run_id="windy-responses")
    return TraceStore(run_dir(root, "windy-responses"))


def test_questions_and_instructions_take_turns() -> None:
    rows = [r.metadata for r in respond.source(DEFINITION, 8).rows()]
    pairs = [(m["instruction_idx"], m["question_idx"]) for m in rows if m["polarity"] == "pos"]
    assert pairs == [(0, 0), (1, 1), (0, 2), (1, 0), (0, 1), (1, 2), (0, 0), (1, 1)]
    assert [m["polarity"] for m in rows] == ["pos", "neg"] * 8
    assert len({e.example_id for e in respond.source(DEFINITION, 8).read()}) == 16
    assert rows[0]["system"] == "Speak of the wind."
    with pytest.raises(UsageError, match="at least 1"):
        respond.source(DEFINITION, 0)


def test_responses_are_a_sound_run_with_their_means(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    store = responded(tmp_path, load_tiny("gpt2"))
    assert [(c.name, c.detail) for c in validate(store.path) if c.passed is False] == []
    assert store.meta.kind == "trait-responses"
    assert store.meta.options["trait"] == DEFINITION.model_dump()
    rows = store.query("SELECT trait, polarity, prompt, system FROM responses ORDER BY example_id").fetchall()
    assert len(rows) == 8
    assert {(t, p) for t, p, _, _ in rows} == {("windy", "pos"), ("windy", "neg")}
    assert {q for _, _, q, _ in rows} == set(DEFINITION.questions)
    assert {s.site for s in store.meta.sites} == {"mean.resid.embed", "mean.resid.post_mlp", "mean.attn_out"}
    assert {s.rows for s in store.meta.sites} == {"sequence"}
    assert {s.dtype for s in store.meta.sites} == {"F32"}


def steered(
    root: Path,
    loaded: loading.Loaded,
    vectors: dict[int, steer.SteeringVector],
    coefficients: tuple[float, ...],
    **options: Any,
) -> TraceStore:
    chosen = {
        "max_new_tokens": 6, "capture": "resid,mlp_out", "store_dtype": "float32", "trait": DEFINITION.model_dump(),
        "vectors_run": "v", "layers": tuple(vectors), "coefficients": coefficients, "questions": (0, 2), "temperature": 0.0,
    } | options  # fmt: skip
    made = steer.Options(**chosen)
    run, _ = steer.define_kind(vectors, body_hash(loaded.model))
    run(loaded, steer.source(made), made, root=root, run_id="steered")
    return TraceStore(run_dir(root, "steered"))


def test_what_is_recorded_has_the_vector_added_from_the_last_prompt_token_on(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded]
) -> None:
    """resid.post_mlp = resid.post_attn + mlp_out + coefficient · gap · v, in the steered layer alone, to float32's rounding."""
    random = np.random.default_rng(0)
    vectors = {layer: steer.SteeringVector(_unit(random.normal(size=32)), gap) for layer, gap in ((0, 0.5), (1, 2.0))}
    store = steered(tmp_path, load_tiny(), vectors, (-3.0, 0.0, 2.0))
    assert [(c.name, c.detail) for c in validate(store.path) if c.passed is False] == []
    rows = store.query("SELECT example_id, layer, coefficient, n_prompt_tokens FROM responses").fetchall()
    assert len(rows) == 2 * 2 * 3
    for example_id, at, coefficient, start in rows:
        for layer in range(3):
            x = {
                s: store.rows(Key("dec", s, layer), example_id, 0)
                for s in ("resid.post_attn", "mlp_out", "resid.post_mlp")
            }
            added = x["resid.post_mlp"] - x["resid.post_attn"] - x["mlp_out"]
            expected = np.zeros_like(added)
            if layer == at:
                expected[start - 1 :] = coefficient * vectors[at].gap * vectors[at].unit
            np.testing.assert_allclose(added, expected, rtol=0, atol=1e-5)


@pytest.fixture(params=["cached", "uncached"])
def either(request: pytest.FixtureRequest, load_tiny: Callable[..., loading.Loaded]) -> loading.Loaded:
    """A Llama, which keeps keys and values while it generates, and an OpenAI GPT, which reads all again for every token."""
    loaded = load_tiny()
    if request.param == "cached":
        return loaded
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=len(loaded.tokenizer), **sizes)).eval()
    return loading.Loaded(model, loaded.tokenizer, "openai-gpt", None, "cpu", False)


def test_a_steered_response_is_drawn_from_the_states_that_are_recorded(
    tmp_path: Path, either: loading.Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token by token, its text is what whole passes with the vector from the last prompt token on say, and each state that was
    read for a next token is the recorded one; the last token's alone is read in the recording only. Within rounding."""
    vector = steer.SteeringVector(
        _unit(np.random.default_rng(1).normal(size=32)), 2.0
    )  # added to block 1: block 2 attends to it
    model, generate = either.model, either.model.generate
    (blocks,) = (m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
    read: dict[tuple[int, ...], list[torch.Tensor]] = {}

    def watched(**options: Any) -> Any:
        """What the last block gave for every place, the first time that it was read."""
        seen: list[torch.Tensor] = []

        def hook(_module: Any, _args: Any, output: Any) -> None:
            x = output if isinstance(output, torch.Tensor) else output[0]
            known = sum(map(len, seen))
            seen.append(x[0, known:] if x.shape[1] > known else x[0])

        with blocks[2].register_forward_hook(hook):
            out = generate(**options)
        if isinstance(out, torch.Tensor):  # no proof of the generator's
            read[tuple(out[0].tolist())] = seen
        return out

    monkeypatch.setattr(model, "generate", watched)
    store = steered(tmp_path, either, {1: vector}, (-3.0, 2.0), batch_tokens=1, questions=(0, 1), max_new_tokens=12)
    rows = store.query("SELECT example_id, coefficient, n_prompt_tokens, n_response_tokens FROM responses").fetchall()
    assert len(rows) == 4
    for example_id, coefficient, start, n in rows:
        ids = torch.tensor(store.encodings(example_id)["input_ids"].astype(np.int64))[None]
        added = torch.zeros(ids.shape[1], 32)
        added[start - 1 :] = torch.from_numpy(coefficient * vector.gap * vector.unit)

        def adds(_module: Any, _args: Any, output: Any, added: torch.Tensor = added) -> Any:
            return output + added if isinstance(output, torch.Tensor) else (output[0] + added, *output[1:])

        with blocks[1].register_forward_hook(adds), torch.no_grad():
            said = model(input_ids=ids).logits[0].argmax(-1)
        assert said[start - 1 : -1].tolist() == ids[0, start:].tolist()
        recorded = store.resid(example_id, "post_mlp", 2)
        assert len(recorded) == start + n
        states = torch.cat(read[tuple(ids[0].tolist())])
        np.testing.assert_allclose(states.numpy(), recorded[:-1], rtol=0, atol=1e-4)


def test_steering_towards_a_token_says_that_token(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    """After the last block, the direction of one token's row of the head makes that token the most probable one."""
    loaded = load_tiny()
    weight = loaded.model.get_output_embeddings().weight.detach().numpy()
    vectors = {2: steer.SteeringVector(_unit(weight[77]), 1.0)}
    store = steered(tmp_path, loaded, vectors, (0.0, 1000.0))
    said = store.query(
        "SELECT coefficient, count(*), count_if(token_id = 77) FROM tokens JOIN responses USING (example_id, seq) "
        "WHERE is_response GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert said[0][2] < said[0][1]
    assert said[1][1] == said[1][2] == 2 * 6


def test_attn_out_is_steered_where_attention_is_added(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    vector = steer.SteeringVector(_unit(np.arange(32.0)), 1.0)
    store = steered(tmp_path, load_tiny(), {1: vector}, (2.0,), component="attn_out", capture="resid,attn_out")
    for example_id, start in store.query("SELECT example_id, n_prompt_tokens FROM responses").fetchall():
        before = store.resid(example_id, "pre_attn", 1)
        out = store.rows(Key("dec", "attn_out", 1), example_id, 0)
        np.testing.assert_allclose(before + out, store.resid(example_id, "post_attn", 1), atol=1e-5)
        assert np.abs(out[start - 1 :] @ vector.unit).min() > 1
        assert np.abs(out[: start - 1]).max() < 1


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({7: steer.SteeringVector(np.ones(32, np.float32), 1.0)}, "layers 0 to 2"),
        ({1: steer.SteeringVector(np.ones(16, np.float32), 1.0)}, "16 wide, and the model 32"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded], vectors: dict[int, steer.SteeringVector], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        steered(tmp_path, load_tiny(), vectors, (1.0,))


def test_another_models_vectors_are_refused(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    run, _ = steer.define_kind({1: steer.SteeringVector(np.ones(32, np.float32), 1.0)}, "other weights")
    options = steer.Options(trait=DEFINITION.model_dump(), layers=(1,), questions=(0,))
    with pytest.raises(UsageError, match="other weights than the model"):
        run(load_tiny(), steer.source(options), options, root=tmp_path, run_id="no")


def _unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x)).astype(np.float32)
