"""The window is the longest sequence that a model can read, however its configuration counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo

from capture.model.windows import Window, find_window

TABLES = ("gpt2", "opt", "gpt_neo", "biogpt", "openai-gpt", "ctrl", "codegen", "gptj", "mpt", "bert", "distilbert", "roberta",
          "camembert", "mpnet", "nystromformer", "xlm", "bart", "marian", "led")  # fmt: skip
"""Families with a table that has no row for one token more."""
WITHOUT_LIMIT = ("t5", "bloom", "mamba", "xlnet")


def reads(model: Any, text: int, target: int) -> bool:
    ids = torch.full((1, text), 7)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.full((1, target), 7)
    try:
        with torch.no_grad():
            model(**inputs)
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("family", TABLES)
def test_one_token_more_is_too_many(family: str) -> None:
    model = zoo.build(family)
    text, target = find_window(model)
    assert text == 128
    assert target is not None
    assert reads(model, text, target)
    assert not reads(model, text + 1, target)
    if model.config.is_encoder_decoder:
        assert not reads(model, text, target + 1)


@pytest.mark.parametrize("family", WITHOUT_LIMIT)
def test_models_without_a_limit_have_none(family: str) -> None:
    assert find_window(zoo.build(family)) == Window(None, None)


def test_what_a_model_was_made_for_is_its_limit_though_it_would_read_more() -> None:
    model = zoo.build("llama")
    assert find_window(model) == Window(128, 128)
    assert reads(model, 200, 0)


def test_a_configuration_that_says_more_than_the_table_has_rows_is_not_believed() -> None:
    model = zoo.build("gpt2")
    model.config.n_positions = model.config.max_position_embeddings = 4096
    assert find_window(model).text == 128
    model.config.n_positions = model.config.max_position_embeddings = -1
    assert find_window(model).text == 128


def test_encoder_and_decoder_may_differ() -> None:
    model = zoo.build("led", max_encoder_position_embeddings=64, max_decoder_position_embeddings=32)
    assert find_window(model) == Window(64, 32)
