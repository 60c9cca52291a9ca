"""Exports of models that are not the usual decoder: layers without attention, and an encoder that has no decoder's tokens beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zoo
from transformers import PreTrainedTokenizerFast

import capture
from warehouse import TraceStore, Warehouse, exports
from warehouse.errors import UsageError

TEXTS = ["The lamp was lit every night."]


def captured(family: str, root: Path, tokenizer: PreTrainedTokenizerFast) -> TraceStore:
    model = capture.wrap(zoo.build(family, vocab_size=len(tokenizer)), tokenizer, name=family)
    run = capture.encode if family == "t5" else capture.next_token
    return run(model, TEXTS, keep="resid,hidden,qkv,attn", run="r", root=root)


def test_a_layer_without_attention_is_an_empty_list(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    store = captured("jamba", tmp_path / "runs", tokenizer)
    with Warehouse(tmp_path / "runs") as wh:
        exports.viewer(wh, "r", tmp_path / "viewer")
        exports.npz(wh, "r", tmp_path / "npz")
        exports.transformer_lens(wh, "r", tmp_path / "cache")
    (file,) = (tmp_path / "viewer" / "attention").iterdir()
    attn = store.attn(file.stem.removesuffix("-0"), 2)
    for t, entry in enumerate(json.loads(file.read_text(encoding="utf-8"))["attention"]):
        assert [len(layer) for layer in entry["by_layer"]] == [0, 0, 4, 0]
        assert np.array_equal(np.array(entry["by_layer"][2], np.float32), attn[:, t, : t + 1])
    (file,) = (tmp_path / "npz").glob("*.npz")
    with np.load(file) as f:
        assert json.loads(f["about"].item())["layers"] == {"resid.post_mlp": [0, 1, 2, 3], "attn": [2]}
        assert np.array_equal(f["attn"], attn[None])


def test_an_encoder_alone_is_exported_with_all_that_its_tokens_see(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    store = captured("t5", tmp_path / "runs", tokenizer)
    with Warehouse(tmp_path / "runs") as wh:
        assert exports.viewer(wh, "r", tmp_path / "viewer") == {"attention": 1}
        assert exports.npz(wh, "r", tmp_path / "npz") == 1
        with pytest.raises(UsageError, match="traces export npz r"):
            exports.transformer_lens(wh, "r", tmp_path / "cache")
    (file,) = (tmp_path / "viewer" / "attention").iterdir()
    document = json.loads(file.read_text(encoding="utf-8"))
    found = np.array([entry["by_layer"] for entry in document["attention"]], np.float32)
    assert np.array_equal(found.transpose(1, 2, 0, 3), store.attn(file.stem.removesuffix("-0"), side="enc"))
