"""What a judge is: it scores one response, or says why it cannot."""

from __future__ import annotations

from typing import Protocol

from capture.traits.verdict import Verdict

TIMEOUT = 60.0
"""Seconds that a judge has for an answer, from asking to its last byte."""


ANSWER_TOKENS = 16
"""Most tokens of an answer: a number or REFUSAL, with a little around it."""


class JudgeRequestError(Exception):
    """A request that brought no answer."""

    def __init__(self, text: str, *, again: bool, after: float | None = None, this_prompt: bool = False) -> None:
        super().__init__(text)
        self.retryable = again
        """Asking again may help."""
        self.retry_after = after
        """Seconds that the server asks to be left alone for."""
        self.this_prompt_only = this_prompt
        """The judge is there, and may well answer other prompts."""


class Judge(Protocol):
    @property
    def name(self) -> str:
        """As it was asked for, and as the table `judgements` has it."""

    @property
    def paid(self) -> bool:
        """Somebody may have to pay for its answers: it is not on this machine."""

    @property
    def concurrent(self) -> bool:
        """It gains by being asked many things at a time, from several threads."""

    def ask(self, prompt: str) -> Verdict:
        """Raises JudgeRequestError."""
