"""Verdicts: what an answer says, by the probabilities beside it or as it was written."""

from __future__ import annotations

import math

import pytest

from capture.traits.verdict import Token, from_probabilities, from_text, from_tokens


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("85", 85), ("85.", 85), (" 0\n", 0), ("100", 100), ("**85**", 85), ("85/100", 85), ("Score: 85 out of 100.", 85),
        ("85. It has 3 jokes.", 85), ("The number is 100.", 100), ("85.0", 85), ("85%", 85),
        ("", None), ("high", None), ("101", None), ("-5", None), ("0.85", None), ("1,000", None), ("85-90", None), ("7th", None),
        ("8/10", None), ("Score: 8 out of 10", None), ("85/1000", None), ("85 / 100", 85), ("85 of 100", 85),
        ("between 0 and 100", None), ("3 jokes, so 85", 3), ("１２", None), ("٤٢", None), ("8²", None), ("1e400", None), ("0" * 5000 + "85", 85), ("85/" + "9" * 5000, None), ("a " + "1 " * 200_000, None), ("It has 3 jokes, so 85", None), ("99999999999999999999", None),
    ],
)  # fmt: skip
def test_a_number_is_read_where_it_is_the_answer(answer: str, score: float | None) -> None:
    found = from_text(answer)
    assert (found.score, found.refused) == (score, False)
    assert found.scored_by == (None if score is None else "number")


@pytest.mark.parametrize("answer", ["REFUSAL", "**REFUSAL**", '"REFUSAL": 0', " REFUSAL\n"])
def test_a_refusal_has_no_score(answer: str) -> None:
    found = from_text(answer)
    assert (found.refused, found.score, found.scored_by, found.rule) == (True, None, None, "written")
    unlikely = from_tokens(answer, [Token("REF", {"REF": 0.8, "0": 0.1, "50": 0.1}), Token("USAL", {"USAL": 1.0})])
    assert (unlikely.refused, unlikely.score, unlikely.number_mass) == (True, None, pytest.approx(0.2))


def test_a_refusal_beside_which_numbers_are_likely_has_their_mean() -> None:
    """As the formula has it: what is said most is one token among others."""
    for found in (
        from_tokens("REFUSAL", [Token("REF", {"REF": 0.6, "70": 0.2, "50": 0.2}), Token("USAL", {"USAL": 1.0})]),
        from_probabilities("REFUSAL", {70: 0.2, 50: 0.2}),
    ):
        assert (found.refused, found.score, found.scored_by) == (True, pytest.approx(60), "probabilities")
        assert found.number_mass == pytest.approx(0.4)


def test_words_about_refusals_are_none() -> None:
    assert not from_text("This is no REFUSAL: 80").refused
    assert not from_text("REFUSALS").refused


def test_the_score_is_the_mean_by_probability() -> None:
    found = from_tokens("80", [Token("80", {"80": 0.5, "90": 0.25, " 90": 0.05, "The": 0.1, "101": 0.1})])
    assert found.scored_by == "probabilities"
    assert found.number_mass == pytest.approx(0.8)
    assert found.score == pytest.approx((80 * 0.5 + 90 * 0.3) / 0.8)


def test_less_than_a_quarter_on_numbers_is_no_score_and_never_zero() -> None:
    assert from_probabilities("0", {0: 0.2, 10: 0.04}).score is None
    assert from_probabilities("0", {0: 0.2, 10: 0.04}).number_mass == pytest.approx(0.24)
    assert from_probabilities("0", {0: 0.2, 10: 0.05}).score == pytest.approx(2)
    assert from_probabilities("", {}).number_mass == 0


def test_probabilities_beside_what_is_no_number() -> None:
    mass = from_tokens("80", [Token("80", {"80": 0.6, "9" * 5000: 0.1, "８５": 0.1, "²": 0.1, "": 0.1})])
    assert (mass.score, mass.number_mass) == (80, pytest.approx(0.6))
    assert from_tokens("²", [Token("²", {"²": 0.5, "80": 0.5})]).score is None
    assert from_tokens("１２", [Token("１２", {"１２": 0.5, "80": 0.5})]).score is None
    of_a_broken_model = from_probabilities("80", {80: math.nan})
    assert (of_a_broken_model.score, of_a_broken_model.number_mass) == (None, None)


def test_probabilities_of_digits_are_not_taken_for_those_of_numbers() -> None:
    cut = from_tokens("85", [Token("8", {"8": 0.9, "7": 0.1}), Token("5", {"5": 1.0})])
    assert (cut.score, cut.scored_by, cut.number_mass, cut.rule) == (85, "number", None, "digits")
    # one token, but it goes on: 1 0 0 where 10 is a token
    assert from_tokens("100", [Token("10", {"10": 0.9}), Token("0", {"0": 1.0})]).score == 100


@pytest.mark.parametrize(
    ("answer", "alternatives", "score", "rule"),
    [
        ("1", {"1": 0.7, "3": 0.2, "9": 0.05}, 1.75 / 0.95, "one-digit"),
        ("0", {"0": 1.0}, 0, "one-digit"),
        ("1", {"1": 0.7, "3": 0.2, "90": 0.05}, 5.8 / 0.95, "tokens"),
        ("100", {"100": 0.5, "0": 0.5}, 50, "tokens"),
        ("101", {"101": 0.5, "80": 0.5}, 80, "tokens"),
        ("8/10", {"8": 0.9, "80": 0.1}, None, "written"),
        ("Sure", {"Sure": 1.0}, None, "tokens"),
    ],
)
def test_a_score_says_by_which_rule_it_was_found(
    answer: str, alternatives: dict[str, float], score: float | None, rule: str
) -> None:
    first, _, rest = answer.partition("/")
    tokens = [Token(first, alternatives), *(Token(text, {text: 1.0}) for text in ("/", rest) if rest)]
    found = from_tokens(answer, tokens)
    assert (found.score, found.rule) == (None if score is None else pytest.approx(score), rule)


def test_a_number_further_on_is_weighed_where_it_stands() -> None:
    found = from_tokens(
        "Score: 85", [Token("Score", {"Score": 1}), Token(":", {":": 1}), Token(" 85", {" 85": 0.6, " 95": 0.4})]
    )
    assert found.score == pytest.approx(89)


def test_an_answer_in_words_is_weighed_where_it_begins() -> None:
    assert from_tokens("High", [Token("High", {"High": 0.4, "85": 0.3, "95": 0.3})]).score == pytest.approx(90)
    assert from_tokens("High", [Token("High", {"High": 0.9, "85": 0.1})]).score is None
