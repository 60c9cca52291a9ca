"""Encodes texts with a model's tokenizer: whole, truncated, or in windows, with special tokens and character offsets.

In: a tokenizer of transformers and texts. Out: `SideTokens`, whose offsets refer to the text as it is. `tokenize`,
`question_pairs` and `question_prompts` make sequences of them. Knows nothing of models or files.

A text that is too long is truncated by the tokenizer itself, so that an encoder's closing token ([SEP], </s>) is kept, and each
window of a text that continues in the next sequence begins and ends as a text of its own would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from capture.sequences.bos import AUTO_BOS, BosPolicy
from capture.sequences.sequence import SideTokens
from warehouse.errors import UsageError

_PROBE = "a"


@dataclass(frozen=True)
class SequenceFrame:
    """The special tokens around the text in every sequence, and how many tokens of text fit between them."""

    first_token: int | None = None
    """The special token that every sequence begins with."""
    prepended_token: int | None = None
    """That token, where the tokenizer does not add it itself."""
    n_dropped: int = 0
    """The number of special tokens that the tokenizer puts before a text and that are left out."""
    cut_length: int | None = None
    """The number of tokens that the tokenizer is to truncate to; None: it does not."""
    text_room: int | None = None
    """The number of tokens of text that a sequence holds; None: all."""
    special: bool = True
    """The tokenizer adds its special tokens; a chat template has written those of a chat."""


def find_frame(
    tokenizer: Any, bos: BosPolicy = AUTO_BOS, max_len: int | None = None, *, special: bool = True, target: bool = False
) -> SequenceFrame:
    """Find what stands around the text in sequences of at most `max_len` tokens.

    Args:
        tokenizer: A tokenizer of transformers.
        bos: What the sequences begin with.
        max_len: The most tokens of a sequence; None: there is no limit.
        special: With the special tokens that the tokenizer adds.
        target: Encode as the target of an encoder-decoder.

    Returns:
        The frame.

    Raises:
        UsageError: A sequence has no room for text.
    """
    (((probe, *_),), ((bare, *_),)) = (
        _call_tokenizer(tokenizer, [_PROBE], special=s, target=target) for s in (special, False)
    )
    added = len(probe) - len(bare)
    leading = len(probe) if probe.is_special.all() else int(np.argmin(probe.is_special))
    prepended = bos.id if bos.mode == "yes" and not leading else None
    dropped = leading if bos.mode == "no" else 0
    begins = int(probe.ids[0]) if leading and not dropped else prepended
    if max_len is None:
        return SequenceFrame(begins, prepended, dropped, special=special)
    cut_length = max_len + dropped - (prepended is not None)
    if cut_length <= added:
        around = added - dropped + (prepended is not None)
        raise UsageError(
            f"A sequence of {max_len} tokens has no room for text: {around} special tokens stand around it. Use --max-len "
            f"{around + 1} or more."
        )
    return SequenceFrame(begins, prepended, dropped, cut_length, cut_length - added, special)


def encode(
    tokenizer: Any,
    texts: list[str],
    pairs: list[str] | None = None,
    *,
    special: bool = True,
    max_len: int | None = None,
    bos: BosPolicy = AUTO_BOS,
) -> list[SideTokens]:
    """Encode each text, or each text with its pair.

    Args:
        tokenizer: A tokenizer of transformers.
        texts: The texts.
        pairs: A second text for each; its characters are counted as if a line break joined the two.
        special: With the special tokens that the tokenizer adds.
        max_len: Truncate each text so that with its pair it has no more tokens; None: keep all of it.
        bos: What the sequences begin with.

    Returns:
        The tokens of each text.
    """
    if bos.mode == "auto":
        return [rows[0] for rows in _call_tokenizer(tokenizer, texts, pairs, special=special, max_len=max_len)]
    frame = find_frame(tokenizer, bos, max_len, special=special)
    encoded = _call_tokenizer(tokenizer, texts, pairs, special=special, max_len=frame.cut_length)
    return [_apply_frame(rows[0], frame) for rows in encoded]


def encode_truncated(
    tokenizer: Any, texts: list[str], frame: SequenceFrame, *, target: bool = False
) -> list[tuple[SideTokens, bool]]:
    """Encode each text, with as many tokens as there is room for.

    Args:
        tokenizer: A tokenizer of transformers.
        texts: The texts.
        frame: What stands around them, and the room for text.
        target: Encode as the target of an encoder-decoder.

    Returns:
        The tokens of each text, and whether some were left out.
    """
    encoded = _call_tokenizer(tokenizer, texts, special=frame.special, max_len=frame.cut_length, target=target)
    return [(_apply_frame(rows[0], frame), len(rows) > 1) for rows in encoded]


def encode_windows(
    tokenizer: Any, texts: list[str], frame: SequenceFrame, stride: int | None = None
) -> list[list[SideTokens]]:
    """Encode all of each text, in as many sequences as it takes.

    Args:
        tokenizer: A tokenizer of transformers.
        texts: The texts.
        frame: What stands around the text in each sequence, and the room for text.
        stride: The number of tokens of text from one window's beginning to the next one's; None: windows don't overlap.

    Returns:
        The windows of each text.
    """
    room = frame.text_room
    if room is None:
        return [[_apply_frame(rows[0], frame)] for rows in _call_tokenizer(tokenizer, texts, special=frame.special)]
    overlap = 0 if stride is None else room - stride
    encoded = []
    cut: dict[str, Any] = {"special": frame.special, "max_len": frame.cut_length, "overlap": overlap, "every": True}
    for windows in _call_tokenizer(tokenizer, texts, **cut):
        if getattr(tokenizer, "truncation_side", "right") == "left":  # it begins at the end of a text
            windows.reverse()
        encoded.append([_apply_frame(w if n == 0 else _mark_context(w, overlap), frame) for n, w in enumerate(windows)])
    return encoded


def _mark_context(tokens: SideTokens, overlap: int) -> SideTokens:
    """Mark the first `overlap` tokens of text as context."""
    context = np.zeros(len(tokens), bool)
    context[np.flatnonzero(~tokens.is_special)[:overlap]] = True
    return replace(tokens, is_context=context) if overlap else tokens


def _apply_frame(tokens: SideTokens, frame: SequenceFrame) -> SideTokens:
    """Prepend the BOS that the frame adds, or drop those that it leaves out."""
    leading = int(np.cumprod(tokens.is_special).sum())
    if frame.n_dropped and leading:
        return tokens.slice(leading if leading == len(tokens) else frame.n_dropped, len(tokens))
    if frame.prepended_token is None:
        return tokens
    prefixed = tokens.with_prefix(frame.prepended_token)
    context = tokens.is_context
    return prefixed if context is None else replace(prefixed, is_context=np.concatenate([np.zeros(1, bool), context]))


def _call_tokenizer(
    tokenizer: Any,
    texts: list[str],
    pairs: list[str] | None = None,
    *,
    special: bool = True,
    target: bool = False,
    max_len: int | None = None,
    overlap: int = 0,
    every: bool = False,
) -> list[list[SideTokens]]:
    """Call the tokenizer, fast or slow, and return its rows for each text.

    Args:
        tokenizer: A tokenizer of transformers.
        texts: The texts.
        pairs: A second text for each.
        special: With the special tokens that the tokenizer adds.
        target: Encode as the target of an encoder-decoder.
        max_len: Truncate to that many tokens; None: don't.
        overlap: The number of tokens of text that a row repeats of the one before it.
        every: Return all rows that a truncated text overflows into, not only enough to show that it was truncated.

    Returns:
        For each text the truncated row, then rows with what was left out.
    """
    fast = bool(getattr(tokenizer, "is_fast", False))
    cuts: dict[str, Any] = {"truncation": False}
    if max_len is not None:
        cuts = {"truncation": "only_first", "max_length": max_len}
        if fast:
            cuts |= {"return_overflowing_tokens": True, "stride": overlap}
    encoded = tokenizer(
        **{"text_target" if target else "text": texts},
        **({} if pairs is None else {"text_pair": pairs}),
        add_special_tokens=special,
        return_offsets_mapping=fast,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        verbose=False,
        **cuts,
    )
    if not fast:
        firsts = [_slow_tokens(*row) for row in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)]
        if max_len is None or pairs is not None:
            return [[first] for first in firsts]
        return [
            [first, *_slow_overflow(tokenizer, text, first, overlap, special, target)]
            for text, first in zip(texts, firsts, strict=True)
        ]
    samples = encoded["overflow_to_sample_mapping"] if max_len is not None else range(len(texts))
    rows: list[list[SideTokens]] = [[] for _ in texts]
    for row, sample in enumerate(samples):
        if every or len(rows[sample]) < 2:
            rows[sample].append(_fast_tokens(encoded, row, texts[sample], pairs is not None))
    return rows


def _fast_tokens(encoded: Any, row: int, text: str, paired: bool) -> SideTokens:
    """Return a row that a fast tokenizer encoded; the offsets of a pair's second text begin after the first."""
    ids = np.asarray(encoded["input_ids"][row], np.int64)
    added = np.asarray(encoded["special_tokens_mask"][row], bool)
    if not len(ids):
        return _slow_tokens([], [])
    start, end = np.asarray(encoded["offset_mapping"][row], np.int64).T
    words = np.asarray([-1 if w is None else w for w in encoded.word_ids(row)], np.int64)
    types = None
    if paired:
        second = np.asarray([s == 1 for s in encoded.sequence_ids(row)])
        start, end = start + second * (len(text) + 1), end + second * (len(text) + 1)
        words = words + second * (words[~second].max(initial=-1) + 1)
        if "token_type_ids" in encoded:
            types = np.asarray(encoded["token_type_ids"][row], np.int64)
    return SideTokens(ids, np.where(added, -1, start), np.where(added, -1, end), words, added, types)


def _slow_tokens(ids: list[int], added: list[int]) -> SideTokens:
    """Return a row of a tokenizer written in Python, which has no offsets."""
    none = np.full(len(ids), -1)
    return SideTokens(np.asarray(ids, np.int64), none, none, none, np.asarray(added, bool))


def _slow_overflow(
    tokenizer: Any, text: str, first: SideTokens, overlap: int, special: bool, target: bool
) -> list[SideTokens]:
    """Encode what a tokenizer written in Python left out of a truncated text, in rows as a fast one's overflow has them."""
    ids = tokenizer(**{"text_target" if target else "text": text}, add_special_tokens=False, verbose=False)["input_ids"]
    room = int((~first.is_special).sum())
    if room >= len(ids):
        return []
    starts = [*range(room - overlap, len(ids) - overlap, room - overlap)]
    spans = [(at, min(at + room, len(ids))) for at in starts]
    if getattr(tokenizer, "truncation_side", "right") == "left":
        spans = [(len(ids) - end, len(ids) - start) for start, end in spans]
    rows = (
        tokenizer.prepare_for_model(
            ids[a:b], add_special_tokens=special, return_special_tokens_mask=True, verbose=False
        )
        for a, b in spans
    )
    return [_slow_tokens(row["input_ids"], row["special_tokens_mask"]) for row in rows]


def text_change_detector(tokenizer: Any) -> Callable[[str], bool]:
    """Return a function that says whether a tokenizer changes a text before it splits it.

    Its normalizer may fold case or accents, or drop characters. Marks for spaces (▁) don't count as changes.
    """
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normalizer is None:
        return lambda _: False

    def alters(text: str) -> bool:
        normalized: str = normalizer.normalize_str(text)
        return normalized.replace("▁", " ").strip() != text.strip()

    return alters
