"""What is recorded of a text is what the model makes of that text alone, whatever shares its batch or was read before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import zoo
from samples import DATA
from torch import nn

from capture.data.registry import open_data
from capture.data.text import open_text
from capture.jobs import encode, mcq_prompt, next_token
from capture.model import loading
from capture.model.body import Body, probe_ids
from capture.model.unchanged import unchanged
from capture.recording.batch_independence import find_extremes, make_sequence
from capture.sequences.batches import Batch
from capture.verification.model_check import check
from capture.verification.replay_check import recheck
from warehouse import TraceStore
from warehouse.errors import TracesError, UsageError
from warehouse.storage import paths

QUESTIONS = DATA / "questions.jsonl"
LONG = "the lamp was lit every night and the keeper wrote the hour down in a book that nobody read "
LINES = ["The lamp", LONG * 2, LONG[:52], "a light", *(f"{n} ships went by" for n in range(6))]

ROPE = {"rope_theta": 10000.0}
LONGROPE = {
    "rope_parameters": ROPE
    | {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [8.0, 6.0, 4.0, 2.0],
        "original_max_position_embeddings": 40,
    },
    "max_position_embeddings": 512,
}
"""Position factors by the longest row of the batch."""
GROWING = {"rope_parameters": ROPE | {"rope_type": "dynamic", "factor": 8.0}, "max_position_embeddings": 16}
"""Rotary frequencies by the longest text read so far, until a short one comes."""

SPARSE = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}
"""BigBird's: full attention where the longest row of the batch is short."""


class _Mixed(nn.Module):
    """A block's MLP that takes something from the mean over the whole batch, as experts of limited capacity do."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x + 0.1 * x.mean(0, keepdim=True))


class _Drawn(_Mixed):
    """One that draws random numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x + 0.1 * torch.randn_like(x))


class _Counting(_Mixed):
    """One that counts its passes where nobody looks, and goes by the count."""

    passes: ClassVar[list[int]] = []  # not the model's own

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes.append(1)
        return self.mlp(x * (1 + 0.01 * len(self.passes)))


@pytest.fixture
def tiny(make_llama: Callable[..., Any], tokenizer: Any) -> Callable[..., loading.Loaded]:
    def load(mlp: type[_Mixed] | None = None, **config: Any) -> loading.Loaded:
        model = zoo.build("big_bird", **config) if config == SPARSE else make_llama(**config)
        if mlp is not None:
            model.model.layers[1].mlp = mlp(model.model.layers[1].mlp)
        return loading.Loaded(model, tokenizer, "tiny", None, "cpu", False)

    return load


@pytest.fixture
def captured(tmp_path: Path) -> Callable[..., tuple[TraceStore, list[str]]]:
    """Captures LINES; gives the run and what was said meanwhile."""
    (tmp_path / "lines.txt").write_text("\n".join(LINES))

    def run(loaded: loading.Loaded, kind: Any = next_token, **options: Any) -> tuple[TraceStore, list[str]]:
        said: list[str] = []
        asked = kind.Options(
            **{"capture": "hidden,resid,qkv", "store_dtype": "float32", "batch_tokens": 1024} | options
        )
        text = open_text(str(tmp_path / "lines.txt"), "text")
        kind.run(loaded, text, asked, root=tmp_path, run_id="mine", note=said.append)
        return TraceStore(paths.run_dir(tmp_path, "mine")), said

    return run


def alone(model: Any, ids: np.ndarray) -> np.ndarray:
    """(L+1, T, D), what a model that has read nothing before gives for a text."""
    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], output_hidden_states=True)
    return torch.stack(out.hidden_states)[:, 0].numpy()


@pytest.mark.parametrize(
    ("config", "mlp", "batches", "said"),
    [
        ({}, None, "padded", []),
        (LONGROPE, None, "one length", ["the longest text in its batch"]),
        (SPARSE, None, "one length", ["the longest text in its batch"]),
        ({}, _Mixed, "one text", ["the other texts in its batch"]),
    ],
)
def test_every_text_is_recorded_as_the_model_alone_reads_it(
    tiny: Callable[..., loading.Loaded],
    captured: Callable[..., Any],
    config: dict,
    mlp: Any,
    batches: str,
    said: list[str],
) -> None:
    kind = {"kind": encode, "capture": "hidden,resid", "max_len": 72} if config == SPARSE else {}
    store, told = captured(tiny(mlp, **config), **kind)
    assert store.meta.batches == batches
    assert len(told) == len(said) and all(part in line for part, line in zip(said, told, strict=True))
    for example_id in dict.fromkeys(store.tokens["example_id"]):
        fresh = tiny(mlp, **config).model
        expected = alone(fresh, store.encodings(example_id)["input_ids"])
        np.testing.assert_allclose(
            store.hidden(example_id), expected, rtol=1e-4, atol=1e-5
        )  # batch shapes round otherwise
    lengths = store.query(
        "SELECT batch, count(DISTINCT n) AS lengths, count(*) AS texts FROM "
        "(SELECT batch, example_id, count(*) AS n FROM tokens GROUP BY ALL) GROUP BY batch"
    ).df()
    assert (lengths["texts"].max() > 1) == (batches != "one text")
    assert (lengths["lengths"].max() > 1) == (batches == "padded")


def test_the_longest_text_that_is_read_need_not_share_a_batch(
    tiny: Callable[..., loading.Loaded], captured: Callable[..., Any]
) -> None:
    """Only company that there will be counts: here the long text fills a batch of its own."""
    store, told = captured(tiny(**LONGROPE), batch_tokens=32)
    assert store.meta.batches == "padded" and not told
    assert store.query("SELECT max(n) FROM (SELECT count(*) AS n FROM tokens GROUP BY example_id)").fetchone()[0] > 40


@pytest.mark.parametrize("mlp", [_Drawn, _Counting])
def test_a_text_that_is_read_otherwise_the_second_time_is_not_captured(
    tiny: Callable[..., loading.Loaded], captured: Callable[..., Any], tmp_path: Path, mlp: Any
) -> None:
    with pytest.raises(TracesError, match=r"tiny makes something else of a text of \d+ tokens when it reads it again"):
        captured(tiny(mlp), encode)
    assert not list(tmp_path.glob("run_id=*")) and not list(tmp_path.glob(".staging/[!.]*"))


def test_choices_that_depend_on_each_other_are_not_compared(
    tiny: Callable[..., loading.Loaded], tmp_path: Path
) -> None:
    questions = open_data("csqa", origin=str(QUESTIONS))
    with pytest.raises(UsageError, match="choices of a question, or the prompts of a pair, cannot be compared"):
        mcq_prompt.run(tiny(_Mixed), questions, mcq_prompt.Options(score="text"), root=tmp_path, run_id="mine")


@pytest.mark.parametrize("family", ["big_bird", "llama"])
def test_a_pass_leaves_the_model_as_it_was(family: str) -> None:
    """BigBird puts other attention modules in place of its own when it reads a short text, dynamic frequencies grow with a
    long one; after either, every text is read as at first."""
    model = zoo.build(family, **(SPARSE if family == "big_bird" else GROWING))
    body = Body(model)
    texts = [probe_ids(model, n, seed=n) for n in (60, 5, 40, 20)]

    def last(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return body({body.side: (ids, torch.ones_like(ids))}).last[body.side]

    kept = {name: id(m) for name, m in model.named_modules()}
    first = [last(ids) for ids in texts]
    for ids, expected in zip(reversed(texts), reversed(first), strict=True):
        assert torch.equal(last(ids), expected)
    assert {name: id(m) for name, m in model.named_modules()} == kept


def test_whatever_a_pass_changes_is_put_back() -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(4.0))
            self.register_buffer("other", torch.zeros(2))
            self.plain, self.seen, self.known = torch.ones(3), [1, 2], {"a": torch.zeros(1)}
            self.kind, self.child = "sparse", nn.Identity()

    model = Changing()
    table = model.table
    with unchanged(model):
        model.table.add_(1)
        model.other = torch.ones(5)
        model.plain.zero_()
        model.seen.append(3)
        model.known["b"] = 1
        model.kind, model.child, model.new = "full", nn.Linear(1, 1), 7
        del model.known["a"]
    assert model.table is table and model.table.tolist() == [0, 1, 2, 3]
    assert model.other.tolist() == [0, 0] and model.plain.tolist() == [1, 1, 1]
    assert model.seen == [1, 2] and list(model.known) == ["a"] and model.kind == "sparse"
    assert isinstance(model.child, nn.Identity) and not hasattr(model, "new")


def test_weights_may_be_settled_once_and_not_again() -> None:
    layer = nn.Linear(2, 2)
    for _ in range(2):
        with unchanged(layer):
            pass
    with unchanged(layer), torch.no_grad():
        layer.weight.mul_(2)
    with (
        pytest.raises(TracesError, match="Linear changes its own weights while it reads"),
        unchanged(layer),
        torch.no_grad(),
    ):
        layer.weight.mul_(2)


@pytest.mark.slow
def test_model_check_says_what_it_found(tiny: Callable[..., loading.Loaded]) -> None:
    def found(loaded: loading.Loaded) -> str:
        (finding,) = (f for f in check(loaded.model, loaded.tokenizer).findings if f.site == "batches")
        return f"{finding.status}: {finding.how}"

    assert "a batch holds texts of any length (seen on a text of 64 tokens and one of 4" in found(tiny())
    assert "depends on the longest text in its batch" in found(tiny(**LONGROPE))
    rope = LONGROPE["rope_parameters"] | {"original_max_position_embeddings": 600}
    later = found(tiny(rope_parameters=rope, max_position_embeddings=2048))
    assert "beyond 600 tokens position factors follow from the longest in a batch" in later
    assert "depends on the other texts in its batch" in found(tiny(_Mixed))
    assert found(tiny(_Drawn)).startswith("wrong: it makes something else of a text")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_validate_deep_reads_a_runs_own_batches_again(
    tiny_folder: Callable[[str], Path], captured: Callable[..., Any], dtype: str
) -> None:
    """One very short text among longer ones, and the bits are the same; a head in another's place shows in any dtype."""
    loaded = loading.load(str(tiny_folder("llama")), dtype=dtype, device="cpu")
    store, _ = captured(loaded, capture="hidden,resid,qkv,attn", store_dtype="auto", max_len=100)
    checks = list(recheck(store.path))
    assert all(c.passed for c in checks), checks
    (told,) = (c.detail for c in checks if c.name == "deep: tensors")
    assert told == "the same bits as their batches give again, on 4 sequences"
    swap_heads(store)
    assert {c.name for c in recheck(store.path) if c.passed is False} >= {"deep: tensors"}


def swap_heads(store: TraceStore) -> None:
    """Put two heads' q of layer 1 in each other's place, in the file."""
    (blob,) = store.path.glob("blobs/*.safetensors")
    with blob.open("r+b") as f:
        size = int.from_bytes(f.read(8), "little")
        place = json.loads(f.read(size))["q.L01"]
        q = np.memmap(blob, np.uint16, "r+", 8 + size + place["data_offsets"][0], tuple(place["shape"]))
        q[:, [0, 1]] = q[:, [1, 0]]
        q.flush()


@pytest.mark.slow
def test_validate_deep_has_room_for_the_kernels_of_another_kind_of_device(
    tiny_folder: Callable[[str], Path], captured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They round otherwise in every batch alike, which no comparison of batches shows. A head in another's place still does."""
    loaded = loading.load(str(tiny_folder("llama")), dtype="bfloat16", device="cpu")
    store, _ = captured(loaded, capture="hidden,resid,qkv,attn", store_dtype="auto", max_len=100)
    load, linear = loading.load, torch.nn.functional.linear

    def other_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        made = linear(x, weight, bias)
        if len(weight) > 64:  # the head, which a model may compute in another way for other numbers of rows
            return made
        return made * (1 + 2**-6 * (torch.arange(len(weight)) % 2)).to(x.dtype)

    def load_elsewhere(*args: Any, **options: Any) -> loading.Loaded:
        return replace(load(*args, **options), device="cuda")

    monkeypatch.setattr(torch.nn.functional, "linear", other_linear)
    assert {c.name for c in recheck(store.path) if c.passed is False}, "on the same device, rounding is not what it is"
    monkeypatch.setattr(loading, "load", load_elsewhere)
    checks = list(recheck(store.path))
    assert all(c.passed for c in checks), checks
    swap_heads(store)
    assert {c.name for c in recheck(store.path) if c.passed is False} >= {"deep: tensors"}


def test_texts_of_one_length_are_proven_on_two_of_them() -> None:
    texts = [make_sequence({"dec": np.arange(n, n + 5)}) for n in range(6)]
    extremes = find_extremes([Batch(texts[:3], ""), Batch(texts[3:], "")])
    assert extremes is not None
    assert extremes.longest is extremes.shared[0] is texts[0]
    assert extremes.shortest is extremes.shared[-1] is texts[-1]
