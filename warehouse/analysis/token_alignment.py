"""Aligns two readings of a text, token by token where both cut it alike, else by the smallest spans of characters that both share.

In: the tokens of two sequences with their offsets, and the texts that these count in. Out: segments, each with its tokens of both, and
the tokens that are in none: special ones, and those beyond what both read.

A token's own text is what its offsets and those before it leave between them, as in the view `sequence_losses`, so that white space
counts whether a tokenizer's offsets tell of it or not. Tokens that share a character are never parted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class Token(NamedTuple):
    """A token, as far as it decides how two readings are aligned."""

    token_id: int
    token: str
    start: int | None
    """Its first character; None: the tokenizer tells no offsets, or it is special."""
    end: int | None
    is_special: bool = False


class Segment(NamedTuple):
    """A span of the text, with the tokens of both readings that are of it."""

    start: int | None
    end: int | None
    text: str
    a: tuple[int, ...]
    """Places of the first reading's tokens."""
    b: tuple[int, ...]


@dataclass(frozen=True)
class Alignment:
    """Two readings of a text, side by side."""

    by: str
    """`tokens`: the same tokens, of which one may have more; `spans`: other tokens."""
    segments: list[Segment]
    outside_a: tuple[int, ...]
    """Tokens of the first reading that are in no segment."""
    outside_b: tuple[int, ...]
    common_chars: int | None
    """Where the two texts begin to differ, in characters; None: they are one."""


class _Piece(NamedTuple):
    """Tokens that share characters, or one that does not; the spans of a reading's pieces follow each other without gaps."""

    start: int
    end: int
    tokens: tuple[int, ...]


def align(a: Sequence[Token], b: Sequence[Token], text_a: str, text_b: str) -> Alignment:
    """Align two readings.

    Example:
        align([Token(0, "ab", 0, 2)], [Token(7, "a", 0, 1), Token(8, "b", 1, 2)], "ab", "ab").segments

    Args:
        a: The tokens of the first, in order.
        b: Of the second.
        text_a: The text that the first one's offsets count in.
        text_b: That of the second one's. Only what both begin with is compared by spans.

    Returns:
        The alignment. Every token is in one segment, or outside.
    """
    common = None if text_a == text_b else _common_chars(text_a, text_b)
    shorter = min(len(a), len(b))
    if shorter and list(a[:shorter]) == list(b[:shorter]):
        segments = _token_by_token(a[:shorter], text_a)
        by = "tokens"
    else:
        segments = _shared(_pieces(a, text_a), _pieces(b, text_b), text_a, len(text_a) if common is None else common)
        by = "spans"
    inside_a = {at for segment in segments for at in segment.a}
    inside_b = {at for segment in segments for at in segment.b}
    return Alignment(
        by,
        segments,
        tuple(at for at in range(len(a)) if at not in inside_a),
        tuple(at for at in range(len(b)) if at not in inside_b),
        common,
    )


def _common_chars(text_a: str, text_b: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    differ = (at for at, (x, y) in enumerate(zip(text_a, text_b, strict=False)) if x != y)
    return next(differ, min(len(text_a), len(text_b)))


def _token_by_token(tokens: Sequence[Token], text: str) -> list[Segment]:
    """Return a segment a token; of tokens that share characters the first has their text, the others their own form."""
    segments = []
    reached: int | None = None
    for at, (_, form, start, end, is_special) in enumerate(tokens):
        if start is None or end is None or is_special:
            segments.append(Segment(start, end, form, (at,), (at,)))
            continue
        reached = _before(text, start) if reached is None else reached
        own = text[reached:end] if start >= reached else form
        segments.append(Segment(min(reached, start), end, own, (at,), (at,)))
        reached = max(reached, end)
    return segments


def _before(text: str, start: int) -> int:
    """Return where the white space before the first token begins, which is that token's too."""
    return len(text[:start].rstrip())


def _pieces(tokens: Sequence[Token], text: str) -> list[_Piece]:
    """Return the tokens that are of the text, those together that share characters; an empty one goes with what follows it."""
    placed = [
        (at, t.start, t.end)
        for at, t in enumerate(tokens)
        if t.start is not None and t.end is not None and not t.is_special
    ]
    if not placed:
        return []
    later = [len(text)] * len(placed)  # where what comes after a token begins
    for at in range(len(placed) - 2, -1, -1):
        later[at] = min(later[at + 1], placed[at + 1][1])
    begin = end = _before(text, min(start for _, start, _ in placed))
    pieces: list[_Piece] = []
    open_tokens: list[int] = []
    for place, (at, _, token_end) in enumerate(placed):
        open_tokens.append(at)
        end = max(end, token_end)
        if begin < end <= later[place]:
            pieces.append(_Piece(begin, end, tuple(open_tokens)))
            begin, open_tokens = end, []
    if open_tokens and pieces:
        last = pieces.pop()
        pieces.append(_Piece(last.start, max(last.end, end), last.tokens + tuple(open_tokens)))
    return pieces


def _shared(a: list[_Piece], b: list[_Piece], text: str, common: int) -> list[Segment]:
    """Return the segments between one boundary that both have and the next, as far as the texts are one."""
    boundaries = _boundaries(a) & _boundaries(b)
    shared = sorted(at for at in boundaries if at <= common)
    segments = []
    next_a = next_b = 0
    for start, end in pairwise(shared):
        in_a, next_a = _between(a, next_a, start, end)
        in_b, next_b = _between(b, next_b, start, end)
        segments.append(Segment(start, end, text[start:end], in_a, in_b))
    return segments


def _boundaries(pieces: list[_Piece]) -> set[int]:
    return {piece.end for piece in pieces} | {piece.start for piece in pieces[:1]}


def _between(pieces: list[_Piece], first: int, start: int, end: int) -> tuple[tuple[int, ...], int]:
    """Return the tokens between two boundaries, and the number of the piece after them."""
    while first < len(pieces) and pieces[first].start < start:
        first += 1
    past = first
    while past < len(pieces) and pieces[past].end <= end:
        past += 1
    return tuple(at for piece in pieces[first:past] for at in piece.tokens), past
