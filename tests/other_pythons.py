"""Other packages that live in virtual environments of their own, since they clash with the project's: tests run their Python."""

from __future__ import annotations

import os

import pytest


def other_python(
    variable: str, requirements: str, *marks: pytest.MarkDecorator
) -> tuple[str, list[pytest.MarkDecorator]]:
    """Return the Python that a variable of the environment names, and the marks of tests that skip where it names none.

    Args:
        variable: The variable.
        requirements: The file of tests/peers with what is installed there.
        *marks: Other marks of these tests.

    Returns:
        The Python, empty where there is none; and the marks.
    """
    python = os.environ.get(variable, "")
    reason = f"{variable} is not set: it names the Python of an environment with tests/peers/{requirements} installed"
    return python, [*marks, pytest.mark.skipif(not python, reason=reason)]
