"""Texts read under interventions, as a run: what it holds is what the changed model computes, and it says what was changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import capture
from capture.model import loading
from warehouse import TraceStore
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema.sites import Key
from warehouse.validation.validate import validate

pytestmark = pytest.mark.slow

TEXTS = ["Every night the keeper lit the lamp.", "The sea was calm, and the boat came home."]


@pytest.fixture
def loaded(load_tiny: Callable[..., loading.Loaded]) -> loading.Loaded:
    return load_tiny()


@pytest.fixture
def clean(loaded: loading.Loaded, tmp_path: Path) -> TraceStore:
    keep = "hidden,resid,qkv,heads,attn_out"
    return capture.next_token(loaded, TEXTS, keep=keep, store_dtype="float32", run="clean", root=tmp_path)


def test_it_is_what_the_changed_model_computes(loaded: loading.Loaded, clean: TraceStore) -> None:
    """The states are those heard while the model is changed by hand; what is below the cut is the unchanged run's; the run says all of it."""
    cut = capture.next_token_under(loaded, clean, "L1H2=zero", run="cut")
    assert [(c.name, c.detail) for c in validate(cut.path) if c.passed is False] == []
    assert (cut.meta.kind, cut.meta.parents) == ("intervened", ["clean"])
    assert cut.meta.options["interventions"] == ["L1H2=zero"]
    keys = "SELECT example_id, pos, token_id FROM tokens ORDER BY ALL"
    assert cut.query(keys).fetchall() == clean.query(keys).fetchall()
    for (example_id,) in clean.query("SELECT DISTINCT example_id FROM tokens").fetchall():
        rows = clean.query("SELECT token_id FROM tokens WHERE example_id = ? ORDER BY pos", [example_id]).fetchall()
        ids = torch.tensor([[i for (i,) in rows]])
        with capture.intervene(loaded, "L1H2=zero"), capture.record(loaded, "resid.post_mlp,attn_out@1") as seen:
            loaded.hf(input_ids=ids)
        for key, heard in seen.items():
            stored = cut.rows(Key("dec", *key), example_id, 0)
            np.testing.assert_allclose(stored, heard[0].detach().numpy(), rtol=0, atol=1e-5)
        before = clean.rows(Key("dec", "resid.post_mlp", 0), example_id, 0)
        assert np.array_equal(before, cut.rows(Key("dec", "resid.post_mlp", 0), example_id, 0))
    assert (
        clean.query("SELECT avg(loss) FROM next_token").fetchone()
        != cut.query("SELECT avg(loss) FROM next_token").fetchone()
    )


def test_a_long_text_is_read_with_any_head_cut(loaded: loading.Loaded, tmp_path: Path) -> None:
    """That attention follows from q and k is proven again where texts are longer than the probe: of what it computes, not of the cut."""
    keep = "attn,heads,qkv"
    clean = capture.next_token(loaded, [" ".join(TEXTS * 5)], keep=keep, max_len=100, run="long", root=tmp_path)
    assert clean.meta.counts.tokens > 64
    cut = capture.next_token_under(loaded, clean, "L0H0=zero", "L1H0=mean:long", run="cut")
    assert [(c.name, c.detail) for c in validate(cut.path) if c.passed is False] == []


def test_an_example_can_be_read_alone(loaded: loading.Loaded, clean: TraceStore) -> None:
    (second,) = clean.query("SELECT example_id FROM examples WHERE idx = 1").fetchone()
    cut = capture.next_token_under(
        loaded, clean, "M0=zero", "L2H0=mean:clean", examples=[second], keep="none", run="one"
    )
    assert cut.query("SELECT example_id, text FROM examples").fetchall() == [(second, TEXTS[1])]
    assert cut.meta.parents == ["clean"]


def test_what_cannot_be_is_said(
    loaded: loading.Loaded, clean: TraceStore, load_tiny: Callable[..., loading.Loaded]
) -> None:
    with pytest.raises(UsageError, match="Name an intervention"):
        capture.next_token_under(loaded, clean)
    with pytest.raises(UsageError, match="layer 1 has heads 0 to 3"):
        capture.next_token_under(loaded, clean, "L1H9=zero")
    with pytest.raises(UsageError, match="traces trait steer"):
        capture.next_token_under(loaded, clean, "resid.post_mlp@1=add:windy*2")
    with pytest.raises(NotFoundError, match="example"):
        capture.next_token_under(loaded, clean, "M0=zero", examples=["0123456789abcdef"])
    with pytest.raises(UsageError, match="other weights"):
        capture.next_token_under(load_tiny("gpt2"), clean, "M0=zero")
    cut = capture.next_token_under(loaded, clean, "M0=zero", run="cut")
    with pytest.raises(UsageError, match="of kind intervened"):
        capture.next_token_under(loaded, cut, "M0=zero")
