"""Tokens → text that can be stored, whatever the tokenizer makes of them."""

from __future__ import annotations

from typing import Any


def decode_tokens(tokenizer: Any, ids: list[int]) -> list[str]:
    """Each token decoded on its own. The text of an id that the tokenizer has no token for is empty: embeddings are often padded,
    so that a model can predict ids that nothing is the text of.
    """
    return decode_sequences(tokenizer, [[i] for i in ids])


def decode_sequences(tokenizer: Any, sequences: list[list[int]], **options: Any) -> list[str]:
    """Each sequence decoded as a whole, the ids left out that the tokenizer has no token for. Half of a surrogate pair, which is
    not Unicode text, becomes the replacement character U+FFFD.
    """
    try:
        found = tokenizer.batch_decode(sequences, clean_up_tokenization_spaces=False, **options)
    except Exception:  # of an id that it has no token for, a slow tokenizer raises whatever its Python comes to
        found = [None] * len(sequences)
    whole = [_decode_one_by_one(tokenizer, ids, options) if t is None else t for t, ids in zip(found, sequences, strict=True)]
    return [text if text.isascii() else _join_surrogates(text) for text in whole]


def _decode_one_by_one(tokenizer: Any, ids: list[int], options: dict[str, Any]) -> str:
    """The whole if that works, else what the ids give alone, those that nothing works for left out."""
    try:
        found = tokenizer.decode(ids, clean_up_tokenization_spaces=False, **options)
    except Exception:  # as above
        found = None
    if isinstance(found, str):
        return found
    return "" if len(ids) < 2 else "".join(_decode_one_by_one(tokenizer, [i], options) for i in ids)


def _join_surrogates(text: str) -> str:
    """Pairs of surrogates that stand beside each other become the character that they mean."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
