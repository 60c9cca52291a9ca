"""Groups of options: a dataclass whose fields are a command's options, and a decorator that adds them to its signature.

A command that is decorated with `with_groups` takes one object a group, such as `data: DataOptions`; typer, and callers in
Python, see every field as an option of its own. `Panel` is the order of options, and of their panels in `--help`, everywhere.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from typing import Any, get_type_hints


class Panel(StrEnum):
    """The panels of `--help`, in the order in which they, and the options in them, are shown."""

    READ = "What is read"
    COMPUTED = "What is computed"
    RESPONSES = "How the model answers"
    KEPT = "What is kept"
    JUDGE = "Who judges"
    RUNNING = "How it runs"
    WRITTEN = "What is written"
    GENERAL = "General"


def with_groups(
    *, defaults: Mapping[str, Any] | None = None, fixed: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces each parameter that is a dataclass by its fields, as keyword-only parameters.

    Args:
        defaults: Values by field that this command takes instead of the groups' own defaults.
        fixed: Values by field for which this command has no option.
    """
    defaults, fixed = defaults or {}, fixed or {}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
        parameters = []
        for name, parameter in inspect.signature(command).parameters.items():
            if name not in groups:
                parameters.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))
                continue
            members = get_type_hints(groups[name], include_extras=True)
            for field in fields(groups[name]):
                if field.name not in fixed:
                    default = defaults.get(field.name, field.default)
                    if default is MISSING:
                        default = parameter.empty
                    parameters.append(
                        inspect.Parameter(
                            field.name, parameter.KEYWORD_ONLY, default=default, annotation=members[field.name]
                        )
                    )
        signature = inspect.Signature(parameters)

        @functools.wraps(command)
        def call(**options: Any) -> None:
            bound = signature.bind(**options)
            bound.apply_defaults()
            values = {**fixed, **bound.arguments}
            arguments = {n: group(**{f.name: values[f.name] for f in fields(group)}) for n, group in groups.items()}
            command(**arguments, **{n: values[n] for n in hints if n in bound.arguments and n not in groups})

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return decorate
