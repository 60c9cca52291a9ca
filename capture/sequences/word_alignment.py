"""Aligns words with tokens: in which word of an annotated sentence a token begins, by character offsets alone.

A token may hold the end of one word and the beginning of the next (*don't* is two words to a treebank, do + n't, and one token to
many a tokenizer), or white space before its word: it belongs to the first word of which it has a character. Every other word
that it touches is found through the same offsets (the view `token_words`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from capture.data.example import Word


def word_indices(char_start: np.ndarray, char_end: np.ndarray, length: int, words: Sequence[Word]) -> np.ndarray:
    """Return the word that each token begins in.

    Args:
        char_start: (T,) first character of each token; -1 where it has no place in the text.
        char_end: (T,) one past each token's last character.
        length: The number of characters of the text.
        words: The sentence's words, with their places in the text.

    Returns:
        (T,) places among the words; -1 for a token that has no character of any word.
    """
    word_at = np.full(length + 1, -1)
    for i in reversed(range(len(words))):  # characters that words share belong to the first
        if words[i].start is not None:
            word_at[words[i].start : words[i].end] = i
    places = np.where(word_at >= 0, np.arange(length + 1), length)
    following = np.minimum.accumulate(places[::-1])[::-1]
    first = following[np.maximum(char_start, 0)]
    return np.where((char_start >= 0) & (first < char_end), word_at[first], -1)
