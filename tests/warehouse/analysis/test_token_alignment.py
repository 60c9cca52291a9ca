"""Two readings of a text: every token in one place, boundaries that both have, and no character parted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from warehouse.analysis.token_alignment import Alignment, Token, align


def read(*parts: tuple[str, int, int], ids: int = 0) -> list[Token]:
    return [Token(ids + at, form, start, end) for at, (form, start, end) in enumerate(parts)]


def texts(a: list[Token], b: list[Token], text: str, other: str | None = None) -> list[str]:
    found = align(a, b, text, text if other is None else other)
    check(found, a, b)
    return [segment.text for segment in found.segments]


def check(found: Alignment, a: list[Token], b: list[Token]) -> None:
    """Every token is in one segment or outside, in order, and the segments follow each other."""
    for side, outside, tokens in (("a", found.outside_a, a), ("b", found.outside_b, b)):
        places = [at for segment in found.segments for at in getattr(segment, side)]
        assert sorted([*places, *outside]) == list(range(len(tokens)))
        assert all(getattr(segment, side) for segment in found.segments)
    if found.by == "spans":
        for before, after in zip(found.segments, found.segments[1:], strict=False):
            assert before.end == after.start


def test_the_same_tokens_are_compared_one_by_one() -> None:
    tokens = read(("Hi", 0, 2), (" you", 2, 6), (".", 6, 7))
    assert align(tokens, tokens, "Hi you.", "Hi you.").by == "tokens"
    assert texts(tokens, tokens, "Hi you.") == ["Hi", " you", "."]


def test_one_that_was_cut_short_has_fewer_and_the_rest_is_outside() -> None:
    tokens = read(("Hi", 0, 2), (" you", 2, 6), (".", 6, 7))
    found = align(tokens, tokens[:2], "Hi you.", "Hi you.")
    assert (found.by, len(found.segments), found.outside_a, found.outside_b) == ("tokens", 2, (2,), ())


def test_other_tokens_are_compared_by_the_finest_boundaries_that_both_have() -> None:
    a = read(("un", 0, 2), ("believ", 2, 8), ("able", 8, 12), (" news", 12, 17))
    b = read(("unb", 0, 3), ("eliev", 3, 8), ("a", 8, 9), ("ble", 9, 12), (" ne", 12, 15), ("ws", 15, 17), ids=50)
    assert texts(a, b, "unbelievable news") == ["unbeliev", "able", " news"]


@pytest.mark.parametrize("trimmed", [False, True])
def test_white_space_counts_whether_offsets_tell_of_it_or_not(trimmed: bool) -> None:
    a = read((" one", 0, 4), (" two", 4, 8))
    b = (
        read(("one", 1, 4), ("t", 5, 6), ("wo", 6, 8), ids=50)
        if trimmed
        else read((" one", 0, 4), (" t", 4, 6), ("wo", 6, 8), ids=50)
    )
    assert texts(a, b, " one two") == [" one", " two"]


def test_tokens_that_share_a_character_are_never_parted() -> None:
    """Bytes of one character have its offsets all."""
    a = read(("a", 0, 1), ("�", 1, 2), ("�", 1, 2), ("�", 1, 2), ("b", 2, 3))
    b = read(("a", 0, 1), ("漢", 1, 2), ("b", 2, 3), ids=50)
    assert texts(a, b, "a漢b") == ["a", "漢", "b"]
    overlapping = read(("a�", 0, 2), ("�b", 1, 3), ids=90)
    assert texts(a, overlapping, "a漢b") == ["a漢b"]


def test_offsets_count_characters_beyond_the_basic_plane_once() -> None:
    text = "𝒳👩\u200d👧!"
    a = read(*((character, at, at + 1) for at, character in enumerate(text)))
    b = read(("𝒳", 0, 1), ("👩\u200d👧", 1, 4), ("!", 4, 5), ids=50)
    assert texts(a, b, text) == ["𝒳", "👩\u200d👧", "!"]


def test_special_tokens_are_in_no_span() -> None:
    a = [Token(1, "<s>", None, None, True), *read(("Hi", 0, 2), ids=5), Token(2, "</s>", 2, 2, True)]
    b = read(("H", 0, 1), ("i", 1, 2), ids=50)
    found = align(a, b, "Hi", "Hi")
    check(found, a, b)
    assert found.outside_a == (0, 2)


def test_an_empty_token_goes_with_what_follows_it() -> None:
    a = read(("", 0, 0), ("Hi", 0, 2), ("", 2, 2), ("!", 2, 3))
    b = read(("Hi", 0, 2), ("!", 2, 3), ids=50)
    found = align(a, b, "Hi!", "Hi!")
    check(found, a, b)
    assert [segment.a for segment in found.segments] == [(0, 1), (2, 3)]


def test_an_empty_token_at_the_end_goes_with_what_it_follows() -> None:
    a = read(("Hi", 0, 2), ("", 2, 2))
    b = read(("H", 0, 1), ("i", 1, 2), ids=50)
    assert [segment.a for segment in align(a, b, "Hi", "Hi").segments] == [(0, 1)]


def test_of_texts_that_differ_the_common_beginning_is_compared() -> None:
    a = read(("one", 0, 3), (" two", 3, 7), (" three", 7, 13))
    b = read(("one two", 0, 7), (" thirty", 7, 14), ids=50)
    found = align(a, b, "one two three", "one two thirty")
    check(found, a, b)
    assert [segment.text for segment in found.segments] == ["one two"]
    assert (found.common_chars, found.outside_a, found.outside_b) == (10, (2,), (1,))


def test_windows_of_a_text_are_compared_where_both_read_it() -> None:
    text = "one two three four"
    a = read(("one", 0, 3), (" two", 3, 7), (" three", 7, 13))
    b = read((" th", 7, 10), ("ree", 10, 13), (" four", 13, 18), ids=50)
    found = align(a, b, text, text)
    check(found, a, b)
    assert ([segment.text for segment in found.segments], found.outside_a, found.outside_b) == (
        [" three"],
        (0, 1),
        (2,),
    )


def test_readings_without_offsets_have_no_segments() -> None:
    a, b = [Token(0, "x", None, None)], [Token(1, "y", None, None)]
    found = align(a, b, "x", "x")
    assert (found.segments, found.outside_a, found.outside_b) == ([], (0,), (0,))


def test_other_tokenizers_of_odd_texts_agree_on_every_boundary() -> None:
    """Every pair of odd tokenizers over every odd text: what they share is aligned, and all tokens are accounted for."""
    from itertools import combinations

    from odd_tokenizers import ODD, bert, t5
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bytewise = Tokenizer(models.BPE())
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.train_from_iterator(
        ODD, trainers.BpeTrainer(vocab_size=280, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    aligned = 0
    for first, second in combinations([bert(ODD), t5(ODD), bytewise], 2):
        for text in ODD:
            a, b = ([*_tokens(each.encode(text))] for each in (first, second))
            found = align(a, b, text, text)
            check(found, a, b)
            aligned += len(found.segments)
            assert all(text[s.start : s.end] == s.text for s in found.segments)
    assert aligned > 100


def _tokens(encoded: Any) -> Iterator[Token]:
    specials = encoded.special_tokens_mask
    for at, (start, end) in enumerate(encoded.offsets):
        yield Token(encoded.ids[at], encoded.tokens[at], start, end, bool(specials[at]))
