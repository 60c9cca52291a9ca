"""What a judge is: something that scores one response, or says why it cannot.

`judge_clients` and `local_judge` implement it, `judge_run` calls it. Nothing here sends a request.
"""

from __future__ import annotations

from typing import Protocol

from capture.traits.verdict import Verdict

TIMEOUT = 60.0
"""Seconds that a judge has for an answer, from the request to its last byte."""
ANSWER_TOKENS = 16
"""Limit of an answer in tokens: a number or REFUSAL, with a little around it."""


class JudgeRequestError(Exception):
    """A request to a judge brought no answer."""

    def __init__(
        self, text: str, *, retryable: bool, retry_after: float | None = None, this_prompt_only: bool = False
    ) -> None:
        super().__init__(text)
        self.retryable = retryable
        """Whether the same request may succeed later."""
        self.retry_after = retry_after
        """Seconds that the server asks us to wait before the next request."""
        self.this_prompt_only = this_prompt_only
        """Whether the cause is this prompt: the judge may well answer others."""


class Judge(Protocol):
    """Scores responses, one prompt at a time."""

    @property
    def name(self) -> str:
        """The judge as the user named it, and as the table `judgements` has it."""

    @property
    def paid(self) -> bool:
        """Whether somebody may have to pay for its answers, as it is not on this machine."""

    @property
    def concurrent(self) -> bool:
        """Whether it is faster when several threads ask it at the same time."""

    def ask(self, prompt: str) -> Verdict:
        """Put one prompt to the judge, once; raises JudgeRequestError where no answer comes."""
