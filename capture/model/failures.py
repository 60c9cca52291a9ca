"""Turns what torch raises when a model cannot compute into one line: too little memory, or a sequence that it cannot take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from warehouse.errors import TracesError

_MEMORY = re.compile(r"out of memory|not enough memory|cannot allocate memory|can't allocate memory|ALLOC_FAILED", re.I)
"""What allocators without an exception of their own say: the CPU's, MPS', a library's, the system's."""


@contextmanager
def explain_memory_errors(task: str, remedy: str) -> Iterator[None]:
    """Raise a TracesError in place of a failure to get memory: "There is not enough memory to `task`. `remedy`".

    Args:
        task: What the block does, as a verb phrase.
        remedy: What takes less memory, as a sentence.

    Yields:
        Nothing.

    Raises:
        TracesError: The block ran out of memory.
    """
    try:
        yield
    except Exception as e:  # each allocator raises its own
        if isinstance(e, TracesError) or not is_memory_error(e):
            raise
        raise TracesError(f"There is not enough memory to {task}. {remedy}") from e


@contextmanager
def explain_forward_errors(name: str, longest: int, remedy: str) -> Iterator[None]:
    """Raise a TracesError that names the model and the longest sequence in place of what torch raises in a forward pass.

    Failures to get memory pass as they are.

    Args:
        name: The model's name.
        longest: The number of tokens of the longest sequence in the batch.
        remedy: What to do, as a sentence.

    Yields:
        Nothing.

    Raises:
        TracesError: The forward pass failed, and not for lack of memory.
        IndexError: One that is a failure to get memory, as it came.
        RuntimeError: One that is a failure to get memory, as it came.
    """
    try:
        yield
    except (IndexError, RuntimeError) as e:
        if is_memory_error(e):
            raise
        raise TracesError(f"{name} fails on a sequence of {longest:,} tokens: {error_sentence(e)} {remedy}") from e


def is_memory_error(error: BaseException) -> bool:
    """Return whether an error, or one that it was raised from, says that there was not enough memory."""
    seen: list[BaseException] = []
    e: BaseException | None = error
    while e is not None and e not in seen:
        if isinstance(e, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(e, RuntimeError | OSError | ValueError) and _MEMORY.search(str(e)):
            return True
        seen.append(e)
        e = e.__cause__ or e.__context__
    return False


def error_sentence(error: BaseException, max_chars: int = 300) -> str:
    """Return what an error says on one line, with its type where the text is a single word, ending in a full stop."""
    text = " ".join(str(error).split())
    if " " not in text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = text[:max_chars]
    return text if text.endswith((".", "…")) else f"{text}."
