"""Generation: what a model answers does not depend on the batch, and what is recorded is what reading the whole text gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from zoo import build

from capture.data.example import Row, Source
from capture.jobs import generate, job, job_batches
from capture.jobs.generation import Generator, Sampling
from capture.model import loading
from capture.model.examine import examine
from capture.verification.replay_check import recheck
from warehouse import TraceStore, Warehouse
from warehouse.errors import UsageError
from warehouse.schema.sites import Key
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

PROMPTS = ["The lamp", "Every night the keeper of the light", "Why?", "The sea was calm, and the boats lay still.", "A"]


def asked(texts: list[str] = PROMPTS, **metadata: Any) -> Source:
    return Source("prompts", "made", None, "-", lambda: (Row(str(i), t, dict(metadata)) for i, t in enumerate(texts)))


def run(
    root: Path, loaded: loading.Loaded, name: str = "g", source: Source | None = None, **options: Any
) -> TraceStore:
    chosen = {"max_new_tokens": 12, "temperature": 1.0, "capture": "hidden,resid,means"} | options
    generate.run(loaded, source or asked(), generate.Options(**chosen), root=root, run_id=name)
    return TraceStore(run_dir(root, name))


def responses(store: TraceStore) -> list[tuple[str, int, list[int]]]:
    return store.query(
        "SELECT example_id, seq, list(token_id ORDER BY pos) FROM tokens WHERE is_response GROUP BY ALL ORDER BY ALL"
    ).fetchall()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_batches_and_single_prompts_give_the_same_responses_and_traces(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded], kind: str
) -> None:
    loaded = load_tiny(kind)
    together = run(tmp_path, loaded, "together", batch_tokens=4096)
    single = run(tmp_path, loaded, "single", batch_tokens=1)
    assert responses(together) == responses(single)
    assert len({tuple(ids) for _, _, ids in responses(together)}) == len(PROMPTS)
    for example_id, seq, _ in responses(single):
        for key in (Key("dec", "resid.post_mlp", 2), Key("dec", "mean.resid.post_mlp", 1)):
            a, b = (s.rows(key, example_id, seq).astype(np.float64) for s in (together, single))
            assert np.abs(a - b).max() <= 2**-9 * np.abs(b).max()  # two units of float16


def test_what_is_recorded_is_what_reading_the_whole_text_gives(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded]
) -> None:
    """Row i of a response is the state at its token i."""
    loaded = load_tiny()
    store = run(tmp_path, loaded, store_dtype="float32", batch_tokens=1)
    for example_id, seq, answer in responses(store):
        ids = store.encodings(example_id, seq)["input_ids"].astype(np.int64)
        n = len(ids) - len(answer)
        assert ids[n:].tolist() == answer
        with torch.no_grad():
            states = loaded.model(torch.from_numpy(ids)[None], output_hidden_states=True).hidden_states
        for layer in range(3):
            told = store.resid(example_id, "post_mlp", layer, seq=seq)
            if layer < 2:  # transformers' last one is normed
                assert np.array_equal(told, states[layer + 1][0].numpy())
            special = store.query(
                "SELECT list(is_special ORDER BY pos) FROM tokens WHERE example_id = ? AND seq = ?", [example_id, seq]
            ).fetchall()[0][0]
            mine = [i for i in range(n, len(ids)) if not special[i]] or list(range(n, len(ids)))
            mean = store.rows(Key("dec", "mean.resid.post_mlp", layer), example_id, seq)
            assert mean.shape == (1, 32)
            np.testing.assert_allclose(mean[0], told[mine].mean(0), rtol=0, atol=1e-6)


def test_greedy_responses_are_the_models_own(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    loaded = load_tiny("gpt2")
    store = run(tmp_path, loaded, temperature=0.0)
    for example_id, _, answer in responses(store):
        ids = store.encodings(example_id)["input_ids"].astype(np.int64)
        with torch.no_grad():
            best = loaded.model(torch.from_numpy(ids)[None]).logits[0].argmax(-1).tolist()
        assert answer == best[len(ids) - len(answer) - 1 : -1]


def test_tokens_are_drawn_as_often_as_they_are_probable(load_tiny: Callable[..., loading.Loaded]) -> None:
    """4,000 first tokens of one prompt: the share of each of the likeliest within four standard deviations of its probability."""
    loaded = load_tiny()
    generator = Generator(loaded, examine(loaded.model).body, Sampling(1, 0.5, seed=3))
    ids = loaded.tokenizer("The lamp", return_tensors="np")["input_ids"][0].astype(np.int64)
    n = 4000
    drawn = np.concatenate(generator.answers([ids] * n, [("0" * 16, i) for i in range(n)]))
    with torch.no_grad():
        p = torch.softmax(loaded.model(torch.from_numpy(ids)[None]).logits[0, -1].double() / 0.5, -1).numpy()
    for token in np.argsort(-p)[:5]:
        assert abs((drawn == token).mean() - p[token]) < 4 * np.sqrt(p[token] * (1 - p[token]) / n)
    among = Generator(loaded, examine(loaded.model).body, Sampling(1, 0.5, top_k=3, seed=3))
    few = np.concatenate(among.answers([ids] * 200, [("0" * 16, i) for i in range(200)]))
    assert set(few.tolist()) <= set(np.argsort(-p)[:3].tolist())


def test_the_seed_decides(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    loaded = load_tiny()
    first, again, other = (run(tmp_path, loaded, f"s{i}", seed=s, capture="none") for i, s in enumerate((1, 1, 2)))
    assert responses(first) == responses(again) != responses(other)
    several = run(tmp_path, loaded, "several", samples=3, capture="none", seed=1)
    assert [seq for _, seq, _ in responses(several)] == [0, 1, 2] * len(PROMPTS)
    assert [r for r in responses(several) if r[1] == 0] == responses(first)


def test_a_run_is_sound_and_its_tables_fit(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    store = run(tmp_path, load_tiny("gpt2"), samples=2, batch_tokens=120)
    assert [(c.name, c.detail) for c in validate(store.path) if c.passed is False] == []
    assert store.meta.kind == "generate"
    assert store.meta.counts.sequences == 2 * len(PROMPTS)
    with Warehouse(tmp_path) as wh:
        rows = wh.sql(
            "SELECT prompt, response, n_prompt_tokens, n_response_tokens, finish, p.text FROM responses "
            "JOIN prompts AS p USING (run_id, example_id, seq)"
        ).fetchall()
        assert len(rows) == 2 * len(PROMPTS)
        for prompt, response, _, count, finish, text in rows:
            assert prompt in PROMPTS
            assert text.startswith(prompt)
            assert text == prompt + response or finish == "stop"
            assert count == 12 or finish == "stop"
        places = wh.sql(
            "SELECT bool_and((pos >= n_prompt_tokens) = is_response) FROM tokens "
            "JOIN responses USING (run_id, example_id, seq)"
        ).fetchone()
        assert places == (True,)


def test_a_killed_capture_goes_on_and_equals_one_that_was_not(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_batches, "_SHARD_GENERATED", 40)
    loaded = load_tiny()
    whole = run(tmp_path, loaded, "whole", batch_tokens=40, samples=2)
    seen = []

    class Killed(Exception):
        pass

    def stop(p: job.Progress) -> None:
        seen.append(p.tokens)
        if len(seen) == 6:
            raise Killed

    options = generate.Options(
        max_new_tokens=12, temperature=1.0, capture="hidden,resid,means", batch_tokens=40, samples=2
    )
    with pytest.raises(Killed):
        generate.run(loaded, asked(), options, root=tmp_path, run_id="cut", report=stop)
    reports: list[job.Progress] = []
    generate.run(loaded, asked(), options, root=tmp_path, run_id="cut", report=lambda p: reports.append(p))
    cut = TraceStore(run_dir(tmp_path, "cut"))
    assert reports[-1].resumed_tokens > 0
    assert cut.meta.counts == whole.meta.counts
    assert responses(cut) == responses(whole)
    for f in whole.meta.files:
        mine = next(g for g in cut.meta.files if g.path == f.path)
        assert (mine.bytes, mine.checksum) == (f.bytes, f.checksum)


def test_layer_internals_keep_every_site_of_a_layer(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    store = run(tmp_path, load_tiny(), capture="none", layer_internals="1")
    stored = {(s.site, tuple(s.layers)) for s in store.meta.sites}
    assert stored == {
        ("resid.post_attn", (1,)),
        ("resid.post_mlp", (0, 1)),
        *((site, (1,)) for site in ("q", "k", "v", "attn_out", "mlp_out", "mlp_act")),
    }
    example_id = responses(store)[0][0]
    before = store.resid(example_id, "pre_attn", 1)
    after = before.astype(np.float32) + store.rows(Key("dec", "attn_out", 1), example_id, 0)
    np.testing.assert_allclose(after, store.resid(example_id, "post_attn", 1), atol=2e-2)
    assert store.attn(example_id, 1).shape[0] == 4  # per head
    with pytest.raises(UsageError, match="Run 'g' has no q in layer 2; it has: 1"):
        store.attn(example_id, 2)
    assert {c.name: c.passed for c in recheck(store.path)}["deep: attention"]
    for layers in ("7", "²"):
        with pytest.raises(UsageError, match="layers from 0 to 2"):
            run(tmp_path, load_tiny(), "no", layer_internals=layers)


def test_the_chat_template_is_used_where_there_is_one(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    loaded = load_tiny("gpt2", dtype="float32")
    loaded.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[answer] {% endif %}"
    )
    store = run(tmp_path, loaded, source=asked(["Hello"], system="Be brief."), capture="none")
    ((text, system),) = store.query("SELECT p.text, r.system FROM prompts AS p JOIN responses AS r USING (example_id)").fetchall()  # fmt: skip
    assert text.startswith("[system] Be brief.\n[user] Hello\n[answer] ")
    assert system == "Be brief."


def test_a_template_that_refuses_a_system_message_is_given_it_in_the_prompt(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded]
) -> None:
    loaded = load_tiny("gpt2", dtype="float32")
    loaded.tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' or 'never' in m['content'] %}{{ raise_exception('not this') }}"
        "{% endif %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    )
    store = run(tmp_path, loaded, source=asked(["Hello"], system="Be brief."), capture="none")
    assert store.query("SELECT text FROM prompts").fetchall()[0][0].startswith("[user] Be brief.\n\nHello")
    for metadata in ({}, {"system": "Be brief."}):
        with pytest.raises(UsageError, match="its chat template fails on 'never': not this"):
            run(tmp_path, loaded, "no", asked(["never"], **metadata))


def test_settings_of_the_models_own_change_nothing(load_tiny: Callable[..., loading.Loaded]) -> None:
    """Its generation_config names tokens that are never said, and others at the end; no manifest tells of either."""
    loaded = load_tiny("llama", dtype="float32")
    generator = Generator(loaded, examine(loaded.model).body, Sampling(6, 0.0))
    ids = np.arange(5, 10)
    (answer,) = generator.answers([ids], [("0" * 16, 0)])
    own = loaded.model.generation_config
    own.suppress_tokens, own.repetition_penalty, own.min_new_tokens = [int(answer[0])], 5.0, 3
    try:
        assert generator.answers([ids], [("0" * 16, 0)])[0].tolist() == answer.tolist()
        assert loaded.model.generation_config is own
    finally:
        own.suppress_tokens = own.repetition_penalty = own.min_new_tokens = None


def test_facts_of_a_persons_own_prompts_are_no_facts_of_a_trait(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded]
) -> None:
    rows = [Row("1", "The lamp", {"layer": "mid", "trait": ["x"], "system": "Be brief."}, prompt_set="mine")]
    store = run(tmp_path, load_tiny(), source=Source("prompts", "mine", None, "-", lambda: iter(rows)), capture="none")
    assert store.query("SELECT trait, layer, system FROM responses").fetchall() == [(None, None, "Be brief.")]
    assert json.loads(store.query("SELECT metadata FROM examples").fetchall()[0][0])["layer"] == "mid"


def test_what_is_forecast_counts_the_responses(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    loaded = load_tiny()
    options = generate.Options(max_new_tokens=10, samples=2, capture="resid", temperature=0.0)
    first, second, *_ = generate.forecast(loaded, asked(["The lamp"]), options)
    tokens = 2 * (len(loaded.tokenizer("The lamp")["input_ids"]) + 10)
    assert f"2 sequences, at most {tokens} tokens" in first
    assert "at most 0.0 MB" in second


@pytest.mark.parametrize(
    ("options", "texts", "message"),
    [
        ({}, ["word " * 200], r"Prompt 0 has \d+ tokens; with 12 more it is longer"),
        ({"max_new_tokens": 0}, PROMPTS, "--max-new-tokens 0"),
        ({"temperature": -1.0}, PROMPTS, "--temperature -1"),
        ({"temperature": float("nan")}, PROMPTS, "--temperature nan"),
        ({"top_p": 0.0}, PROMPTS, "--top-p 0"),
        ({}, [], "there is no text in it"),
    ],
)
def test_bad_input(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded], options: dict[str, Any], texts: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(tmp_path, load_tiny(), source=asked(texts), **options)
    assert not run_dir(tmp_path, "g").exists()


def test_an_encoder_generates_nothing(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    with pytest.raises(UsageError, match="is no decoder"):
        run(tmp_path, replace(load_tiny(), model=build("bert")))


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, traces: Callable[..., Any]) -> Iterator[tuple[Path, Any]]:
    """The real model asked two questions, on the command line."""
    pytest.importorskip("gguf")
    root = tmp_path_factory.mktemp("answered")
    done = traces(
        "capture", "generate", "--model", "smollm2", "--prompt", "What is the capital of France?", "--prompt", "Say hello.",
        "--max-new-tokens", 12, "--temperature", 0, "--capture", "hidden,means", "--run", "real", "--warehouse", root,
    )  # fmt: skip
    if "is not installed" in done.err:
        pytest.skip(done.err)
    yield root, done


@pytest.mark.slow
def test_the_real_model_answers_on_the_command_line(answered: tuple[Path, Any], traces: Callable[..., Any]) -> None:
    root, done = answered
    assert done.code == 0, done.err
    shown = traces(
        "sql", "SELECT response FROM responses ORDER BY prompt DESC", "--warehouse", root, "--format", "json"
    )
    assert "Paris" in json.loads(shown.out)[0]["response"]
    checked = traces("runs", "validate", "real", "--deep", "--warehouse", root)
    assert checked.code == 0, checked.out
    assert "deep: tensors" in checked.out
    again = traces("capture", "generate", "--model", "smollm2", "--prompt", "x", "--run", "real", "--warehouse", root)
    assert again.code == 2
    assert "already exists" in again.err
    skipped = traces(
        "capture",
        "generate",
        "--model",
        "smollm2",
        "--prompt",
        "x",
        "--run",
        "real",
        "--skip-existing",
        "--warehouse",
        root,
    )
    assert (skipped.code, skipped.out) == (0, "real exists already: nothing to do\n")
