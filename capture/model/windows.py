"""Finds how long a sequence may be, from a model's configuration and from the rows of its position embeddings.

Configurations count in different ways (RoBERTa's 514 positions are 512 tokens, since the first two belong to padding), and some
don't say. So a few tokens go through the model, and every table that is looked up by position is noted, with its offset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from capture.model.body import padding_id
from capture.model.unchanged import unchanged

_DECLARED = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length", "max_seq_length")
"""Names that configurations have for the longest sequence; the first that is set counts."""
_DECLARED_ENCODER = ("max_encoder_position_embeddings", "max_source_positions", *_DECLARED)
_DECLARED_DECODER = ("max_decoder_position_embeddings", "max_target_positions", *_DECLARED)
"""Names for an encoder-decoder's decoder, which may differ from its encoder."""

_TOKENS = 5


class Window(NamedTuple):
    """The longest sequence in tokens; None where there is no limit."""

    text: int | None
    """The limit of the stack that reads the text: an encoder-decoder's encoder."""
    target: int | None
    """The limit of an encoder-decoder's decoder; for other models the same as `text`."""


def find_window(model: Any) -> Window:
    """Find the longest sequences that a model of transformers, with or without its head, can read."""
    config, (text, target) = model.config.get_text_config(), _table_rows(model)
    if not getattr(model.config, "is_encoder_decoder", False):
        return Window(*2 * (_smallest(_declared(config, _DECLARED), *text, *target),))
    return Window(
        _smallest(_declared(config, _DECLARED_ENCODER), *text), _smallest(_declared(config, _DECLARED_DECODER), *target)
    )


def _declared(config: Any, names: Iterable[str]) -> int | None:
    """Return the first positive whole number that a configuration has under one of the names."""
    values = (getattr(config, name, None) for name in names)
    return next((n for n in values if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)


def _smallest(*limits: int | None) -> int | None:
    return min((n for n in limits if n is not None), default=None)


def _table_rows(model: Any) -> tuple[list[int], list[int]]:
    """Find how many positions the tables that are looked up by position have rows for.

    Returns:
        The rows of the encoder's tables, and of those of the decoder that follows it, or of the only stack.
    """
    seen, handles = _Lookups(), []
    try:
        # one token repeated, and not one that a model takes for padding and gives no position
        none = (padding_id(model), getattr(model.get_input_embeddings(), "padding_idx", None))
        token = next(i for i in range(len(none) + 1) if i not in none)
        ids = torch.full((1, _TOKENS), token, device=model.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if getattr(model.config, "is_encoder_decoder", False):
            inputs["decoder_input_ids"] = ids
            handles.append(model.get_encoder().register_forward_hook(lambda *_: seen.end_encoder()))
        with seen, torch.no_grad(), unchanged(model):
            model.base_model(**inputs)
    except Exception:  # a model may refuse with any error; whether it can be used at all is found out elsewhere
        return [], []
    finally:
        for handle in handles:
            handle.remove()
    return seen.encoder_rows, seen.rows


class _Lookups(TorchFunctionMode):
    """Notes the tables that are looked up by consecutive numbers: how many rows each has from the first number on."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []
        self.encoder_rows: list[int] = []

    def end_encoder(self) -> None:
        """Keep the rows noted so far as the encoder's, and start on the decoder's."""
        self.encoder_rows, self.rows = self.rows, []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.embedding:
            places, table = args[0].flatten(), args[1]
            first = int(places[0])
            if len(places) == _TOKENS and places.tolist() == list(range(first, first + _TOKENS)):
                self.rows.append(len(table) - first)
        return func(*args, **(kwargs or {}))
