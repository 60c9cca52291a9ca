"""Texts → tokens, as a model's tokenizer gives them: each sequence with its special tokens, whether a text is whole, cut, or in
windows; with offsets in the text as it is. Knows nothing of models or files.

A text that is too long is cut by the tokenizer itself, so that the closing token of an encoder ([SEP], </s>) is there, and each
window of a text that goes on as the next sequence begins and ends as a text of its own would.
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
    """What stands around a text in every sequence, and how much of it there is room for."""

    first_token: int | None = None
    """The special token that every sequence begins with."""
    prepended_token: int | None = None
    """The same, where the tokenizer does not put it there."""
    n_dropped: int = 0
    """Special tokens that the tokenizer puts before a text and that are left out."""
    cut_length: int | None = None
    """What the tokenizer is to cut at."""
    text_room: int | None = None
    """Tokens of the text that a sequence holds; None: all."""


def find_frame(
    tokenizer: Any, bos: BosPolicy = AUTO_BOS, max_len: int | None = None, *, special: bool = True, target: bool = False
) -> SequenceFrame:
    """How sequences of at most `max_len` tokens look. Raises UsageError where they have no room for text."""
    (((probe, *_),), ((bare, *_),)) = (_read(tokenizer, [_PROBE], special=s, target=target) for s in (special, False))
    added = len(probe) - len(bare)
    leading = len(probe) if probe.is_special.all() else int(np.argmin(probe.is_special))
    prepended = bos.id if bos.mode == "yes" and not leading else None
    dropped = leading if bos.mode == "no" else 0
    begins = int(probe.ids[0]) if leading and not dropped else prepended
    if max_len is None:
        return SequenceFrame(begins, prepended, dropped)
    own = max_len + dropped - (prepended is not None)
    if own <= added:
        around = added - dropped + (prepended is not None)
        raise UsageError(
            f"A sequence of {max_len} tokens has no room for text: {around} special tokens stand around it. Use --max-len "
            f"{around + 1} or more."
        )
    return SequenceFrame(begins, prepended, dropped, own, own - added)


def encode(
    tokenizer: Any,
    texts: list[str],
    pairs: list[str] | None = None,
    *,
    special: bool = True,
    max_len: int | None = None,
    bos: BosPolicy = AUTO_BOS,
) -> list[SideTokens]:
    """Each text's tokens, or those of a text and its pair, whose characters are counted as if a line break joined the two.

    `special`: with the tokens that the tokenizer adds; `max_len`: texts are cut so that with their pairs they have no more tokens.
    """
    if bos.mode == "auto":
        return [found[0] for found in _read(tokenizer, texts, pairs, special=special, max_len=max_len)]
    framed = find_frame(tokenizer, bos, max_len, special=special)
    read = _read(tokenizer, texts, pairs, special=special, max_len=framed.cut_length)
    return [_framed(found[0], framed) for found in read]


def encode_truncated(tokenizer: Any, texts: list[str], frame: SequenceFrame, *, target: bool = False) -> list[tuple[SideTokens, bool]]:
    """Each text's tokens, as many as there is room for, and whether some were dropped. `target`: as a target of an
    encoder-decoder.
    """
    read = _read(tokenizer, texts, max_len=frame.cut_length, target=target)
    return [(_framed(found[0], frame), len(found) > 1) for found in read]


def encode_windows(tokenizer: Any, texts: list[str], frame: SequenceFrame, stride: int | None = None) -> list[list[SideTokens]]:
    """All of each text's tokens, in as many sequences as it takes, each beginning `stride` tokens of the text after the one
    before it; None: where that one ends.
    """
    room = frame.text_room
    if room is None:
        return [[_framed(found[0], frame)] for found in _read(tokenizer, texts)]
    overlap = 0 if stride is None else room - stride
    found = []
    for parts in _read(tokenizer, texts, max_len=frame.cut_length, overlap=overlap, every=True):
        if getattr(tokenizer, "truncation_side", "right") == "left":  # it begins at the end of a text
            parts.reverse()
        found.append([_framed(p if n == 0 else _with_context(p, overlap), frame) for n, p in enumerate(parts)])
    return found


def _with_context(part: SideTokens, overlap: int) -> SideTokens:
    context = np.zeros(len(part), bool)
    context[np.flatnonzero(~part.is_special)[:overlap]] = True
    return replace(part, is_context=context) if overlap else part


def _framed(part: SideTokens, framed: SequenceFrame) -> SideTokens:
    leading = int(np.cumprod(part.is_special).sum())
    if framed.n_dropped and leading:
        return part.slice(leading if leading == len(part) else framed.n_dropped, len(part))
    if framed.prepended_token is None:
        return part
    found = part.with_prefix(framed.prepended_token)
    context = part.is_context
    return found if context is None else replace(found, is_context=np.concatenate([np.zeros(1, bool), context]))


def _read(
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
    """Of each text what the tokenizer gives: with `max_len` first what it cuts the text to, then, where something is left, what
    it calls overflow. `every`: all of that; else one more at least.
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
        found = [[_slow_part(*row)] for row in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)]
        if max_len is not None and pairs is None:
            found = [
                [own[0], *_slow_rest(tokenizer, text, own[0], max_len, overlap, special, target)]
                for text, own in zip(texts, found, strict=True)
            ]
        return found
    samples = encoded["overflow_to_sample_mapping"] if max_len is not None else range(len(texts))
    rows: list[list[SideTokens]] = [[] for _ in texts]
    for row, sample in enumerate(samples):
        if every or len(rows[sample]) < 2:
            rows[sample].append(_fast_part(encoded, row, texts[sample], pairs is not None))
    return rows


def _fast_part(encoded: Any, row: int, text: str, paired: bool) -> SideTokens:
    ids = np.asarray(encoded["input_ids"][row], np.int64)
    added = np.asarray(encoded["special_tokens_mask"][row], bool)
    if not len(ids):
        return _slow_part([], [])
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


def _slow_part(ids: list[int], added: list[int]) -> SideTokens:
    none = np.full(len(ids), -1)
    return SideTokens(np.asarray(ids, np.int64), none, none, none, np.asarray(added, bool))


def _slow_rest(
    tokenizer: Any, text: str, first: SideTokens, max_len: int, overlap: int, special: bool, target: bool
) -> list[SideTokens]:
    """What a tokenizer written in Python leaves out where it cuts a text, in rows as a fast one's overflow has them."""
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
    return [_slow_part(row["input_ids"], row["special_tokens_mask"]) for row in rows]


def text_change_detector(tokenizer: Any) -> Callable[[str], bool]:
    """Whether a tokenizer changes a text before it cuts it: its normalizer folds case or accents, or drops characters. Marks
    for spaces (▁) are not counted.
    """
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normalizer is None:
        return lambda _: False

    def alters(text: str) -> bool:
        found: str = normalizer.normalize_str(text)
        return found.replace("▁", " ").strip() != text.strip()

    return alters
