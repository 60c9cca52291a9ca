"""Models that read images or sound beside text: their text side is recorded as any other, or one line says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import zoo

from capture.data.text import open_text
from capture.jobs import encode, generate, next_token
from capture.model import loading
from capture.model.examine import examine
from warehouse import TraceStore
from warehouse.errors import TracesError, UsageError
from warehouse.storage.paths import run_dir


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Any) -> Callable[[str], Path]:
    """The folder of a tiny random model of a class of transformers."""

    def save(name: str) -> Path:
        of = getattr(transformers, name)
        folder = tmp_path / name
        zoo._instantiate(of, zoo.small_config(of.config_class), 0).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize(
    ("name", "loaded"),
    [
        ("LlavaForConditionalGeneration", "LlavaForConditionalGeneration"),
        ("MllamaForConditionalGeneration", "MllamaForCausalLM"),
    ],
)
def test_the_text_side_is_recorded_as_it_reads_without_images(
    tmp_path: Path, saved: Callable[[str], Path], name: str, loaded: str
) -> None:
    folder, root = saved(name), tmp_path / "runs"
    text = tmp_path / "t.txt"
    text.write_text("The lamp was lit.\n")
    shared = {"capture": "hidden", "store_dtype": "float32", "batch_tokens": 1}
    for head, kind, more in (("none", encode, {}), ("lm", generate, {"max_new_tokens": 3, "temperature": 0.0})):
        whole = loading.load(str(folder), head=head, device="cpu")
        assert type(whole.model).__name__ == loaded
        kind.run(whole, open_text(str(text), "text"), kind.Options(**shared, **more), root=root, run_id=f"r-{head}")
        store = TraceStore(run_dir(root, f"r-{head}"))
        example_id = store.tokens.iloc[0]["example_id"]
        ids = torch.from_numpy(store.encodings(example_id)["input_ids"].astype(np.int64))[None]
        with torch.no_grad():
            out = whole.model(input_ids=ids, output_hidden_states=True)
        np.testing.assert_allclose(store.hidden(example_id), torch.cat(out.hidden_states).numpy(), atol=1e-5)
    assert out.logits[0].argmax(-1)[-4:-1].tolist() == ids[0, -3:].tolist()


def test_one_that_sees_what_is_to_come_predicts_nothing(tmp_path: Path, saved: Callable[[str], Path]) -> None:
    """PaliGemma's text alone is all prefix, which its tokens see from both sides; in a padded batch they don't."""
    whole = loading.load(str(saved("PaliGemmaForConditionalGeneration")), device="cpu")
    text = tmp_path / "t.txt"
    text.write_text("The lamp was lit.\n")
    with pytest.raises(UsageError, match="a token changes what comes before it, so there is no next token to predict"):
        next_token.run(whole, open_text(str(text), "text"), next_token.Options(), root=tmp_path / "runs", run_id="r")


@pytest.mark.parametrize(
    ("name", "head", "told"),
    [
        ("Blip2ForConditionalGeneration", "lm", r"\(Blip2ForConditionalGeneration\) does not read a text alone, without images or sound: .*pixel_values"),
        ("Kosmos2ForConditionalGeneration", "none", r"does not read a text alone, without images or sound: .*pixel_values"),
        ("ViTModel", "lm", r"no class for its ViTConfig that continues a text\. If it reads texts, traces capture encode"),
        ("ViTModel", "none", "ViTModel reads no text: it has no embedding of token ids"),
        ("Pix2StructForConditionalGeneration", "none", "no class for its Pix2StructConfig that reads text alone"),
        ("WhisperForConditionalGeneration", "none", "WhisperModel fails on a few tokens of text and nothing else"),
        ("CLIPModel", "none", "CLIPModel does not show its embedding of token ids"),
    ],
)  # fmt: skip
def test_what_reads_no_text_alone_is_one_line(saved: Callable[[str], Path], name: str, head: Any, told: str) -> None:
    folder = saved(name)
    with pytest.raises(TracesError, match=told) as e:
        examine(loading.load(str(folder), head=head, device="cpu").model)
    assert "\n" not in str(e.value)
