"""Tells in one line why a model could not compute: too little memory, or a sequence that it cannot take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from warehouse.errors import TracesError

_MEMORY = re.compile(r"out of memory|not enough memory|cannot allocate memory|can't allocate memory|ALLOC_FAILED", re.I)
"""What allocators say that have no exception of their own: the processor's, MPS', a library's, the system's."""


@contextmanager
def explain_memory_errors(task: str, remedy: str) -> Iterator[None]:
    """Turns a failure to get memory into a TracesError, "There is not enough memory to `doing`. `remedy`"."""
    try:
        yield
    except Exception as e:  # each allocator raises its own
        if isinstance(e, TracesError) or not is_memory_error(e):
            raise
        raise TracesError(f"There is not enough memory to {task}. {remedy}") from e


@contextmanager
def explain_forward_errors(name: str, longest: int, remedy: str) -> Iterator[None]:
    """Turns what torch raises in a forward pass into a TracesError that names the model and the longest sequence in it. Failures
    to get memory pass as they are.
    """
    try:
        yield
    except (IndexError, RuntimeError) as e:
        if is_memory_error(e):
            raise
        raise TracesError(f"{name} fails on a sequence of {longest:,} tokens: {error_sentence(e)} {remedy}") from e


def is_memory_error(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is of memory that there was not."""
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
    """What an error says, or its type where that is no sentence, ending in a full stop."""
    text = " ".join(str(error).split())
    if " " not in text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = text[:max_chars]
    return text if text.endswith((".", "…")) else f"{text}."
