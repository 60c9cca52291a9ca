"""Where words meet tokens: which word of an annotated sentence a token begins in, through character offsets alone.

A token may hold the end of one word and the next (`'t` of *don't* is two words to a treebank, one token to many a
tokenizer) or white space before its word: it belongs to the first word of which it has a character. Every other word that it
touches is found through the same offsets (the view `token_words`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from capture.data.example import Word


def word_indices(char_start: np.ndarray, char_end: np.ndarray, length: int, words: Sequence[Word]) -> np.ndarray:
    """(T,) offsets in a text of `length` characters, -1 where a token has none → (T,) places among the words; -1 for a token
    that has no character of any.
    """
    word_at = np.full(length + 1, -1)
    for i in reversed(range(len(words))):  # of words that share characters, the first has them
        if words[i].start is not None:
            word_at[words[i].start : words[i].end] = i
    places = np.where(word_at >= 0, np.arange(length + 1), length)
    following = np.minimum.accumulate(places[::-1])[::-1]
    first = following[np.maximum(char_start, 0)]
    return np.where((char_start >= 0) & (first < char_end), word_at[first], -1)
