"""Fine-tuning from Python: a model in memory learns, and a run that exists already is returned as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
import zoo
from transformers import PreTrainedTokenizerFast

import capture
from capture.data.example import Choice, Row, Source
from warehouse.errors import RunExistsError


def questions(split: str, n: int) -> Source:
    def rows() -> Iterator[Row]:
        for i in range(n):
            yield Row(str(i), f"{split} {i}", choices=(Choice("A", "red"), Choice("B", "blue")), answer=i % 2)

    return Source("colours", None, split, "colours", rows)


def test_a_model_in_memory_is_trained_unless_the_run_exists(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = zoo.small_config(transformers.BertConfig, {"vocab_size": len(tokenizer)})
    hf = zoo._instantiate(transformers.BertForMultipleChoice, config, 0)
    model = capture.wrap(hf, tokenizer, name="tiny")
    splits, out = (questions("train", 4), questions("validation", 4)), tmp_path / "out"
    before = hf.classifier.weight.detach().clone()
    run = capture.finetune(model, *splits, out=out, epochs=1, run="training", root=tmp_path)
    trained = hf.classifier.weight.detach().clone()
    assert not torch.equal(trained, before)
    assert torch.equal(capture.load(out).hf.classifier.weight, trained)

    again = capture.finetune(model, *splits, out=out, epochs=1, run="training", root=tmp_path, skip_existing=True)
    assert again.path == run.path and torch.equal(hf.classifier.weight, trained)
    with pytest.raises(RunExistsError):
        capture.finetune(model, *splits, out=out, epochs=1, run="training", root=tmp_path)
