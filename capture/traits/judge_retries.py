"""Ask a judge again when a request fails: how often, and how long to wait between two tries.

Retries are done here and not by the SDKs, so that they are the same for all judges, cover malformed answers too, and stop at once when
the job does: the SDKs sleep for up to two minutes in a thread that cannot be woken.
"""

from __future__ import annotations

import random
import threading

from capture.traits.judge import Judge, JudgeRequestError
from capture.traits.verdict import Verdict

TRIES = 6
_FIRST_WAIT, _MAX_WAIT = 0.5, 30.0
"""Seconds before the second try, doubled before each further one, and their limit."""
_MAX_RETRY_AFTER = 600.0
"""Seconds that a server may ask us to wait; if it asks for more, the job ends."""


def ask_with_retries(judge: Judge, prompt: str, stop: threading.Event) -> Verdict | JudgeRequestError:
    """Ask up to `TRIES` times, waiting longer each time, or as long as the server says.

    Args:
        judge: Who is asked.
        prompt: What is asked.
        stop: Set when the job ends: no more waiting then.

    Returns:
        The verdict, or the last error where that concerns this prompt only.

    Raises:
        JudgeRequestError: The last error, where it concerns all prompts.
    """
    for tried in range(1, TRIES + 1):
        try:
            return judge.ask(prompt)
        except JudgeRequestError as error:
            last = error
        if not last.retryable or tried == TRIES:
            break
        if last.retry_after is not None and last.retry_after > _MAX_RETRY_AFTER:
            raise JudgeRequestError(f"{last}; it asks to wait {last.retry_after:,.0f} s", retryable=False)
        wait = min(_FIRST_WAIT * 2 ** (tried - 1), _MAX_WAIT) * random.uniform(0.75, 1)
        if stop.wait(wait if last.retry_after is None else last.retry_after):
            raise last
    if last.retryable:
        this_prompt_only = last.this_prompt_only
        last = JudgeRequestError(f"{last} ({TRIES} tries)", retryable=False, this_prompt_only=this_prompt_only)
    if last.this_prompt_only:
        return last
    raise last
