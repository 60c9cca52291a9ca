"""`traces model check` finds a recorder that is wrong, and says rightly what is not there.

Each test breaks one thing in the way from the model to the tensors, as a mistake would, and asks which site is found wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zoo

from capture.model import residual_stream
from capture.model.anatomy import Anatomy
from capture.model.examine import examine
from capture.recording import forward_pass
from capture.verification import model_check as checking
from capture.verification.model_check import check, check_recording
from warehouse.errors import TracesError
from warehouse.schema.sites import Key


def wrong(model: object) -> set[str]:
    """The sites of the recorder that check finds wrong."""
    found = check_recording(checking.examine(model))
    assert found.passed == (not any(f.status == "wrong" for f in found.findings))
    return {f.site for f in found.findings if f.status == "wrong"}


@pytest.fixture
def keeps(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable], None]:
    """Has the recorder keep something else than what it saw: `change(key, x)` for every tensor."""
    original = forward_pass.ForwardPass.keep

    def use(change: Callable[[Key, torch.Tensor | None], torch.Tensor | None]) -> None:
        monkeypatch.setattr(forward_pass.ForwardPass, "keep", lambda self, key, x: original(self, key, change(key, x)))

    return use


@pytest.mark.parametrize("site", ["resid.embed", "resid.post_attn", "resid.post_mlp", "attn_out", "mlp_out", "mlp_act"])
@pytest.mark.parametrize("family", ["llama", "bert", "gpt_neox"])
def test_a_value_that_is_off_in_one_place_is_found(family: str, site: str, keeps: Callable) -> None:
    def nudged(key: Key, x: torch.Tensor) -> torch.Tensor:
        if key.site != site or key.layer not in (None, 1):
            return x
        y = x.clone()
        y[..., 1, 3] += 0.01 * x.abs().max()
        return y

    keeps(nudged)
    found = wrong(zoo.build(family))
    if (family, site) == ("gpt_neox", "resid.post_attn"):
        assert found == set(), "it is derived there, not recorded"
    else:
        assert site in found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda key, x: x.roll(1, 1) if key.site == "resid.post_mlp" else x, "resid.post_mlp"),
        (lambda key, x: x.flip(2) if key.site == "attn_out" else x, "attn_out"),
        (lambda key, x: x.transpose(2, 3) if key.site == "attn" else x, "attn"),
        (lambda key, x: x.flip(1) if key.site == "attn" else x, "attn"),
        (lambda key, x: x.flip(2) if key.site == "q" else x, "attn"),
        (lambda key, x: x.roll(1, 1) if key.site == "k" else x, "attn"),
        (lambda key, x: x * 1.01 if key.site == "q" else x, "attn"),
        (lambda key, x: x.roll(1, 1) if key.site == "v" else x, "v"),
        (lambda key, x: x.flip(2) if key.site == "v" else x, "v"),
    ],
    ids=["next token", "width", "transposed", "heads of attention", "heads of q", "k of the token before", "scale", "v", "heads of v"],
)  # fmt: skip
def test_tensors_that_are_mixed_up_are_found(change: Callable, expected: str, keeps: Callable) -> None:
    keeps(change)
    assert expected in wrong(zoo.build("llama"))


def test_the_input_of_a_block_in_place_of_its_output_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What flows into layer i + 1 is right for layer i; what flows into layer i is not."""
    original = forward_pass.ForwardPass.keep
    streams: dict[int, torch.Tensor] = {}

    def late(self: forward_pass.ForwardPass, key: Key, x: torch.Tensor) -> None:
        if key.site == "resid.post_mlp":
            streams[key.layer] = x
            x = streams.get(key.layer - 1, x)
        original(self, key, x)

    monkeypatch.setattr(forward_pass.ForwardPass, "keep", late)
    assert "resid.post_mlp" in wrong(zoo.build("gpt2"))


def test_padding_that_was_kept_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = forward_pass.ForwardPass.pack
    monkeypatch.setattr(forward_pass.ForwardPass, "pack", lambda self, x, side: original(self, x, side).roll(1, 0))
    assert wrong(zoo.build("llama"))


def test_a_factor_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Granite multiplies what attention and MLP add."""
    put = residual_stream.BlockSites.add
    bare = lambda self, site, tap, shape=None: put(self, site, replace(tap, factor=1.0), shape)  # noqa: E731
    monkeypatch.setattr(residual_stream.BlockSites, "add", bare)
    assert {"attn_out", "mlp_out"} <= wrong(zoo.build("granite"))


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama", lambda f: f.model_copy(update={"scale": f.scale * 1.01})),
        ("mistral", lambda f: f.model_copy(update={"window": f.window + 1})),
        ("mistral", lambda f: f.model_copy(update={"window": None})),
        ("gemma2", lambda f: f.model_copy(update={"softcap": f.softcap / 50})),
        ("gpt_oss", lambda f: f.model_copy(update={"sinks": None})),
        ("bert", lambda f: f.model_copy(update={"causal": True})),
        ("modernbert", lambda f: f.model_copy(update={"window": f.window and f.window - 1})),
    ],
    ids=["scale", "window by one", "no window", "soft cap", "no sinks", "causal", "encoder's window"],
)
def test_a_formula_that_is_not_the_models_is_found(
    family: str, change: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was proven to give attention's output is then changed: probabilities no longer are the model's."""

    def examined(model: object) -> Anatomy:
        anatomy = examine(model)
        stacks = {
            side: replace(part, layers=tuple(replace(x, formula=change(x.formula)) for x in part.layers))
            for side, part in anatomy.stacks.items()
        }
        return replace(anatomy, stacks=stacks)

    monkeypatch.setattr(checking, "examine", examined)
    assert "attn" in wrong(zoo.build(family))


def test_a_recorder_that_disturbs_the_model_is_found(keeps: Callable) -> None:
    def in_place(key: Key, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(1.001) if key == Key("dec", "resid.post_mlp", 0) else x

    keeps(in_place)
    assert "model" in wrong(zoo.build("gpt2"))


@pytest.mark.slow
def test_the_real_model_is_right_at_every_site(smollm2) -> None:
    found = check_recording(smollm2.anatomy, smollm2.tokenizer, "smollm2")
    assert found.passed and found.whole and found.attn == {"dec": "derived"}
    exact = {f.site for f in found.findings if f.status == "exact"}
    assert {"resid.embed", "resid.post_attn", "resid.post_mlp", "hidden", "attn_out", "mlp_out", "model"} <= exact
    lines = list(found.lines("\t"))
    assert len({line.count("\t") for line in lines}) == 1
    assert len(lines) == len(found.findings) + 1
    assert any("float32" in line for line in found.lines())


@pytest.mark.parametrize(
    ("family", "site", "reason"),
    [
        ("bloom", "q", "does not pass transformers' attention interface"),
        ("mamba", "attn", "does not attend"),
        ("mamba", "resid.post_attn", "adds once to the stream"),
        ("mixtral", "mlp_act", "mixture of experts"),
        ("falcon_alibi", "attn", "computes other states"),
    ],
)
def test_what_is_not_there_is_said_with_the_reason(family: str, site: str, reason: str) -> None:
    found = check_recording(examine(zoo.build(family)))
    assert found.passed and not found.whole
    assert reason in next(f.how for f in found.findings if f.site == site and f.status == "absent")


def test_padding_that_matters_is_said() -> None:
    said = {
        name: [f.how for f in check_recording(examine(zoo.build(name))).findings if f.site == "batches"]
        for name in ("convbert", "bert")
    }
    assert said["convbert"][0].startswith(
        "what it makes of a text depends on the longest text in its batch: a batch holds texts of one"
    )
    assert "a batch holds texts of any length" in said["bert"][0]


def test_blocks_that_are_no_modules_are_refused() -> None:
    with pytest.raises(TracesError, match="its layers are not modules of their own"):
        check(zoo.build("xlm"))


@pytest.mark.slow
def test_the_command(traces: Callable, tmp_path: Path) -> None:
    """Without a tokenizer: random ids."""
    zoo.build("gpt2").save_pretrained(tmp_path / "gpt2")
    done = traces("model", "check", tmp_path / "gpt2", "--format", "json")
    report = json.loads(done.out)
    assert done.code == 0 and report["passed"] and report["tokens"] == "random ids"
    assert {f["status"] for f in (*report["findings"], *report["interventions"])} == {"exact", "close"}
    table = traces("model", "check", tmp_path / "gpt2", "--format", "tsv").out.splitlines()
    assert table[0].split("\t") == ["side", "site", "status", "error", "layers", "how"]
    zoo.build("xlm").save_pretrained(tmp_path / "xlm")
    refused = traces("model", "check", tmp_path / "xlm")
    assert refused.code == 1 and "layers are not modules" in refused.err and "Traceback" not in refused.err
    missing = traces("model", "check", tmp_path / "nothing")
    assert missing.code == 2 and "There is no model at" in missing.err
