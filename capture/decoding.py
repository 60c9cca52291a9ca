"""Tokens → text that can be stored, whatever the tokenizer makes of them."""

from __future__ import annotations

from typing import Any


def token_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """Each token decoded on its own. The text of an id that the tokenizer has no token for is empty: embeddings are often padded,
    so that a model can predict ids that nothing is the text of."""
    return texts(tokenizer, [[i] for i in ids])


def texts(tokenizer: Any, sequences: list[list[int]], **options: Any) -> list[str]:
    """Each sequence decoded as a whole, the ids left out that the tokenizer has no token for. Half of a surrogate pair, which is
    not Unicode text, becomes the replacement character U+FFFD."""
    try:
        found = tokenizer.batch_decode(sequences, clean_up_tokenization_spaces=False, **options)
    except Exception:  # of an id that it has no token for, a slow tokenizer raises whatever its Python comes to
        found = [_decoded(tokenizer, ids, options) for ids in sequences]
    return [text if text.isascii() else _unicode(text) for text in found]


def _decoded(tokenizer: Any, ids: list[int], options: dict[str, Any]) -> str:
    known = [i for i in ids if _has(tokenizer, i)]
    found: str = tokenizer.decode(known, clean_up_tokenization_spaces=False, **options) if known else ""
    return found


def _has(tokenizer: Any, token: int) -> bool:
    try:
        return isinstance(tokenizer.convert_ids_to_tokens(token), str)
    except Exception:  # as above
        return False


def _unicode(text: str) -> str:
    """Pairs of surrogates that stand beside each other become the character that they mean."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
