"""Pairs in tokens: one rule finds the targets for tokenizers that cut numbers and words in their own ways."""

from __future__ import annotations

import odd_tokenizers
import pytest

from capture.data.tasks.greater_than import numbers
from capture.data.tasks.task import Pair, answers
from capture.sequences.bos import BosPolicy
from capture.sequences.prompt_pairs import EncodedPair, PairEncoder, Reason, Unfit

TEXT = "The war began in 1742 and was over in 17 When Mary and John met, Ann gave the ring to Mary and John The keys key is are"


def years(label: int) -> Pair:
    clean, corrupted = (f"The war began in 17{digits:02d} and was over in 17" for digits in (label, 1))
    return Pair("0", clean, corrupted, numbers(label), "first year")


def words(clean: str, corrupted: str, right: str = " is", wrong: str = " are") -> Pair:
    return Pair("0", clean, corrupted, answers(right, wrong), "own")


@pytest.fixture(scope="module", params=[1, 2])
def tokenizer(request: pytest.FixtureRequest):
    made = odd_tokenizers.of_words([TEXT], request.param)
    made.digits = request.param
    return made


@pytest.mark.parametrize("label", [2, 10, 29, 42, 89, 98])
def test_numbers_count_as_the_tokenizer_has_them(tokenizer, label: int) -> None:
    found = PairEncoder(tokenizer, whole_answers=False).encode(years(label))
    if tokenizer.digits == 2:  # each number is a token of its own
        assert isinstance(found, EncodedPair)
        decoded = {tokenizer.decode([token]): sign for token, sign in found.targets.items()}
        assert decoded == {f"{n:02d}": 1 if n > label else -1 for n in range(100) if n != label}
        assert len(found.changed) == 1
        return
    # only the tens digit is a token: those count whose ten numbers are all on one side
    expected = {str(d): 1 for d in range(10) if 10 * d > label} | {str(d): -1 for d in range(10) if 10 * d + 9 < label}
    if set(expected.values()) != {1, -1}:
        assert found == Unfit(Reason.NO_TARGET, "no token is right, or none is wrong")
        return
    assert isinstance(found, EncodedPair)
    assert {tokenizer.decode([token]): sign for token, sign in found.targets.items()} == expected
    assert len(found.changed) == (1 if str(label)[-1] == "1" else 2)


def test_a_prompt_whose_tokens_change_when_a_number_follows_is_left_out() -> None:
    """With three digits a token, `17` and `42` are not cut between the two."""
    found = PairEncoder(odd_tokenizers.of_words([TEXT], 3), whole_answers=False).encode(years(42))
    assert isinstance(found, Unfit) and found.reason is Reason.MERGED


def test_an_answer_is_one_token_as_it_stands_after_the_prompt(tokenizer) -> None:
    encoder = PairEncoder(tokenizer)
    found = encoder.encode(words("The key", "The keys"))
    assert isinstance(found, EncodedPair)
    assert {tokenizer.decode([token]): sign for token, sign in found.targets.items()} == {" is": 1, " are": -1}
    assert found.changed.tolist() == [1] and tokenizer.decode(found.clean.ids) == "The key"
    several = encoder.encode(words("The key", "The keys", " isola"))
    assert isinstance(several, Unfit) and several.reason is Reason.SEVERAL
    assert "' isola' is " in several.detail and "tokens after its prompt (Ġis " in several.detail
    merged = encoder.encode(words("The key", "The war", "s", " are"))
    assert isinstance(merged, Unfit) and merged.reason is Reason.MERGED


def test_pairs_that_do_not_fit(tokenizer) -> None:
    encoder = PairEncoder(tokenizer)
    found = encoder.encode(words("The key", "The key is"))
    assert found == Unfit(Reason.UNEQUAL, "its clean prompt has 2 tokens, its corrupted one 3")
    found = encoder.encode(words("The key", "The key"))
    assert isinstance(found, Unfit) and found.reason is Reason.SAME
    found = PairEncoder(tokenizer, window=1).encode(words("The key", "The keys"))
    assert isinstance(found, Unfit) and found.reason is Reason.LONG
    found = encoder.encode(words("", "The"))
    assert isinstance(found, Unfit) and found.reason is Reason.EMPTY


def test_what_a_tokenizer_puts_around_a_text_changes_no_target(sample_lines: list[str]) -> None:
    """A closing token would stand between a prompt and its answer."""
    plain = odd_tokenizers.made("clip", [TEXT] * 3)
    pair = words("The key", "The keys", " is", " are")
    found = PairEncoder(plain).encode(pair)
    assert isinstance(found, EncodedPair)
    assert found.clean.is_special.tolist()[0] and not found.clean.is_special[1:].any()
    bare = PairEncoder(plain, bos=BosPolicy("no")).encode(pair)
    assert isinstance(bare, EncodedPair)
    assert bare.targets == found.targets and bare.clean.ids.tolist() == found.clean.ids[1:].tolist()
