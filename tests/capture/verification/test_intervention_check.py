"""`traces model check` finds interventions that do not do what they say, and says what cannot be changed and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import zoo
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from capture.interventions.restart import Restart
from capture.interventions.site_edits import SITES, Edit, ForwardState, edit_sites
from capture.model.anatomy import Anatomy
from capture.model.examine import examine
from capture.verification import intervention_check
from capture.verification.intervention_check import check_interventions
from capture.verification.model_report import Finding
from warehouse.schema.sites import Key

LAYER = 1


def found(family: str) -> dict[str, Finding]:
    return {f.site: f for f in check_interventions(examine(zoo.build(family)))}


def wrong(family: str) -> set[str]:
    return {site for site, f in found(family).items() if f.status == "wrong"}


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable], None]:
    """Has interventions put in something else than they are told to: `change(key, edited, x)` for every edit."""

    def use(change: Callable[[Key, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        @contextmanager
        def changed(anatomy: Anatomy, edits: Mapping[Key, Edit]) -> Iterator[ForwardState]:
            def wrap(key: Key, edit: Edit) -> Edit:
                return lambda x: change(key, edit(x), x)

            with edit_sites(anatomy, {key: wrap(key, edit) for key, edit in edits.items()}) as state:
                yield state

        monkeypatch.setattr(intervention_check, "edit_sites", changed)

    return use


def test_a_model_of_a_plain_family_has_every_intervention() -> None:
    report = found("llama")
    assert set(report) == {*(f"edit {site}" for site in SITES), "restart", "head parts", "logit parts"}
    assert {site for site, f in report.items() if f.status == "exact"} == {
        *(f"edit {site}" for site in SITES),
        "restart",
    }
    assert {report[part].status for part in ("head parts", "logit parts")} == {"close"}


@pytest.mark.parametrize("site", SITES)
def test_a_change_that_is_lost_in_one_layer_is_found(site: str, puts: Callable) -> None:
    layer = None if site == "resid.embed" else LAYER
    puts(lambda key, new, x: x if key == Key("dec", site, layer) else new)
    assert f"edit {site}" in wrong("llama")


@pytest.mark.parametrize("site", SITES)
def test_a_change_that_goes_to_other_tokens_is_found(site: str, puts: Callable) -> None:
    layer = None if site == "resid.embed" else LAYER

    def shifted(key: Key, new: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return new.roll(1, 1) if key == Key("dec", site, layer) and new is not x else new

    puts(shifted)
    assert f"edit {site}" in wrong("qwen2")


def test_a_stream_that_the_sum_does_not_see_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that adds to another tensor than its norm reads: a change in place does not reach the stream."""

    def forward(self: Any, hidden_states: torch.Tensor, **options: Any) -> torch.Tensor:
        added, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **options)
        stream = hidden_states + added
        return stream + self.mlp(self.post_attention_layernorm(stream.clone()))

    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    assert wrong("llama") == {"edit resid.post_attn"}


def test_a_pass_that_begins_at_a_layer_and_forgets_the_change_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Restart.run

    def run(self: Restart, passed: Any, rows: torch.Tensor, layer: int, edits: Mapping[Key, Edit]) -> torch.Tensor:
        return original(self, passed, rows, layer, {} if layer else edits)

    monkeypatch.setattr(Restart, "run", run)
    assert wrong("llama") == {"restart"}


@pytest.mark.parametrize(
    ("family", "site", "reason"),
    [
        ("bloom", "edit heads", "does not pass transformers' attention interface"),
        ("mamba", "edit q", "does not attend"),
        ("gpt_neox", "edit resid.post_attn", "change attn_out or mlp_out"),
        ("t5", "restart", "its decoder reads an encoder"),
        ("gemma2", "head parts", "a norm or a gate stands between"),
        ("bert", "logit parts", "its logits are not its last state times the weights of its head"),
    ],
)
def test_what_cannot_be_changed_is_said_with_the_reason(family: str, site: str, reason: str) -> None:
    report = found(family)
    assert report[site].status == "absent" and reason in report[site].how
    assert all(f.status != "wrong" for f in report.values())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "bert", "gpt_neox", "t5", "bloom", "gpt_oss", "falcon_h1"])
def test_half_precision(family: str, dtype: torch.dtype) -> None:
    report = check_interventions(examine(zoo.build(family).to(dtype)))
    assert [f for f in report if f.status == "wrong"] == []
    assert {f.status for f in report if f.site in ("edit resid.embed", "edit resid.post_mlp")} == {"exact"}


@pytest.mark.slow
def test_the_real_model_goes_on_with_what_is_put_in(smollm2) -> None:
    report = check_interventions(smollm2.anatomy)
    assert all(f.status == ("close" if f.site.endswith(" parts") else "exact") and not f.layers for f in report), report
