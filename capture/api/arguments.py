"""Arguments of the Python functions: a message names them as Python does, and what is no argument is refused in one line."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from warehouse.errors import RunExistsError, TracesError, UsageError
from warehouse.storage import paths, run_list
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore

if TYPE_CHECKING:
    from capture.model.loading import Loaded

P = ParamSpec("P")
R = TypeVar("R")

_OPTION = re.compile(r"traces [a-z][^;.)]*|--([a-z][a-z-]*)")
_PYTHON_NAMES = {
    "capture": "keep",
    "warehouse": "root",
    "from": "from_",
    "project": "projected",
    "measure": "measures",
}


def in_python_terms(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function's errors name its arguments, where the code below speaks of the commands' options.

    `--max-len 1: …` becomes `max_len 1: …` where the function has such an argument. Commands that a message recommends stay.

    Args:
        function: A function whose arguments are named like the options.

    Returns:
        The function, with such messages.
    """
    known = inspect.signature(function).parameters

    def renamed(match: re.Match[str]) -> str:
        name = (match[1] or "").replace("-", "_")
        name = _PYTHON_NAMES.get(name, name)
        return name if name in known else match[0]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TracesError as e:
            e.args = tuple(_OPTION.sub(renamed, a) if isinstance(a, str) else a for a in e.args)
            raise

    return call


def check_loaded(model: Any) -> Loaded:
    """Return a loaded model; raise UsageError that says how to load or wrap what was given instead."""
    from transformers import PreTrainedModel

    from capture.model.loading import Loaded

    if isinstance(model, Loaded):
        return model
    if isinstance(model, PreTrainedModel):
        raise UsageError(
            "This is a model of transformers: give it its tokenizer first, capture.wrap(model, tokenizer)."
        )
    if isinstance(model, str | Path):
        raise UsageError(f"Load the model first: model = capture.load({str(model)!r})")
    raise UsageError(f"A {type(model).__name__} is no loaded model: see capture.load and capture.wrap.")


def find_source_run(run: TraceStore | str, root: str | AnyPath | None) -> tuple[AnyPath, AnyPath]:
    """Find a run that is named or open.

    Args:
        run: The run's name, or the run itself.
        root: The warehouse that it is in; None: the folder that an open run lies in, else the usual one.

    Returns:
        The warehouse's folder, and the run's.

    Raises:
        UsageError: It is neither a name nor a run.
        NotFoundError: There is no such run.
    """
    if isinstance(run, TraceStore):
        return (paths.find_root(root) if root is not None else run.path.absolute().parent), run.path
    if not isinstance(run, str):
        raise UsageError(f"Name a run, or give a TraceStore, not a {type(run).__name__}.")
    found = paths.find_root(root)
    return found, run_list.find_run(found, run)


def existing_run(root: AnyPath, run: str | None, skip_existing: bool) -> TraceStore | None:
    """Return a run that exists already and is to be returned as it is.

    Args:
        root: The warehouse's folder.
        run: The name of the run that is to be written; None: one that is not known yet.
        skip_existing: Whether a run of that name is returned, and no error.

    Returns:
        The run; None where the name is free.

    Raises:
        RunExistsError: The name is taken.
    """
    if run is None or not run_list.is_taken(root, paths.check_run_name(run)):
        return None
    if not skip_existing:
        raise RunExistsError(run)
    return TraceStore(run_list.find_run(root, run))


def joined(values: str | float | Iterable[object]) -> str:
    """Return numbers and names as the commands write them: `0,5,mid`."""
    return (
        values
        if isinstance(values, str)
        else ",".join(map(str, [values] if isinstance(values, int | float) else values))
    )
