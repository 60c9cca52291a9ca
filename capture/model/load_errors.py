"""Explains in one line why a model could not be loaded, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capture.model.failures import error_sentence, is_memory_error
from capture.model.sources import PACKAGED
from warehouse.errors import TracesError, UsageError

_UNKNOWN = re.compile(r"Unrecognized configuration class <class '(?:\w+\.)*(\w+)'> for this kind of AutoModel: (\w+)")
"""What transformers says where it has no class of a kind for a configuration: the configuration, and the kind."""


@contextmanager
def explain_load_errors(name: str, source: str) -> Iterator[None]:
    """Raise a TracesError that says in one line what went wrong in place of any error while the context is open.

    It is a UsageError where another call would help. transformers, the hub's client and tokenizers each raise errors of their own.

    Args:
        name: The model as the user named it.
        source: The folder or hub name that is loaded.

    Yields:
        Nothing.
    """
    try:
        yield
    except Exception as e:
        explained = _explanation(name, source, e)
        raise explained from e


def _explanation(name: str, source: str, error: Exception) -> TracesError:
    """Return an error that says in one line what went wrong, from the texts and types of an error and its causes."""
    if isinstance(error, TracesError):
        return error
    if is_memory_error(error):
        return TracesError(
            f"There is not enough memory to load {name}. Weights take less of it in a smaller dtype, such as bfloat16."
        )
    chain: list[BaseException] = []
    e: BaseException | None = error
    while e is not None and e not in chain:
        chain.append(e)
        e = e.__cause__ or e.__context__
    kinds = {c.__name__ for e in chain for c in type(e).__mro__}
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return UsageError(
            f"{name} needs Python code of its own to run. If you trust whoever wrote it with your account and your files, "
            "add --trust-remote-code."
        )
    if "Unrecognized configuration class" in text and "AutoModelForMultipleChoice" in text:
        return UsageError(
            f"{name} is not an encoder that transformers can give a multiple-choice head. For a decoder: traces capture "
            "mcq-prompt."
        )
    if unknown := _UNKNOWN.search(text):
        return UsageError(
            f"{name} is not a language model of text: transformers has no class for its {unknown[1]} that "
            + (
                "reads text alone."
                if unknown[2] == "AutoModel"
                else "continues a text. If it reads texts, traces capture encode may record it."
            )
        )
    if Path(source).is_dir():
        return TracesError(f"{name} cannot be loaded: {error_sentence(error)}")
    if kinds & {"GatedRepoError"}:
        return UsageError(f"{name} is gated: ask for access on its hub page, then log in with `hf auth login`.")
    if kinds & {"RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"}:
        return UsageError(f"The hub has no model '{name}' (or no such revision, or it is private). Packaged: "
                          f"{', '.join(PACKAGED)}. A local model is named by its folder.")  # fmt: skip
    if kinds & {
        "ConnectionError",
        "ConnectError",
        "TimeoutException",
        "OfflineModeIsEnabled",
        "LocalEntryNotFoundError",
    }:
        return UsageError(
            f"There is no folder '{name}', and the hub cannot be reached to look for it there. Check the name and the "
            f"network, or use a local folder or a packaged model ({', '.join(PACKAGED)})."
        )
    return TracesError(f"{name} cannot be loaded: {error_sentence(error)}")
