"""Decodes tokens into text that can be stored, whatever the tokenizer makes of them."""

from __future__ import annotations

from typing import Any


def decode_tokens(tokenizer: Any, ids: list[int]) -> list[str]:
    """Decode each token on its own.

    Embeddings are often padded, so that a model can predict ids that the tokenizer has no token for.

    Returns:
        A text for each id, empty where there is no token for it.
    """
    return decode_sequences(tokenizer, [[i] for i in ids])


def decode_sequences(tokenizer: Any, sequences: list[list[int]], **options: Any) -> list[str]:
    """Decode each sequence as a whole, without the ids that the tokenizer has no token for.

    Half of a surrogate pair, which is not Unicode text, becomes the replacement character U+FFFD.

    Args:
        tokenizer: A tokenizer of transformers.
        sequences: Token ids of each sequence.
        **options: What the tokenizer's `decode` takes, such as skip_special_tokens.

    Returns:
        A text for each sequence.
    """
    try:
        decoded = tokenizer.batch_decode(sequences, clean_up_tokenization_spaces=False, **options)
    except Exception:  # a slow tokenizer may raise anything for an id that it has no token for
        decoded = [None] * len(sequences)
    whole = [
        _decode_one_by_one(tokenizer, ids, options) if t is None else t
        for t, ids in zip(decoded, sequences, strict=True)
    ]
    return [text if text.isascii() else _join_surrogates(text) for text in whole]


def _decode_one_by_one(tokenizer: Any, ids: list[int], options: dict[str, Any]) -> str:
    """Decode a sequence as a whole if that works, else id by id, without those that cannot be decoded."""
    try:
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False, **options)
    except Exception:  # as above
        text = None
    if isinstance(text, str):
        return text
    return "" if len(ids) < 2 else "".join(_decode_one_by_one(tokenizer, [i], options) for i in ids)


def _join_surrogates(text: str) -> str:
    """Replace pairs of surrogates by the character that they mean, and lone ones by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
