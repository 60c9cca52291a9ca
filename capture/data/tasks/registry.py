"""Finds a task by its name, or opens a file of pairs."""

from __future__ import annotations

from pathlib import Path

from capture.data.files import check_not_empty, printable_value
from capture.data.tasks import agreement, greater_than, indirect_object, induction
from capture.data.tasks.own_pairs import open_own_pairs
from capture.data.tasks.task import Task
from warehouse.errors import NotFoundError

TASKS = {task.name: task for task in (greater_than.TASK, indirect_object.TASK, agreement.TASK, induction.TASK)}
_OTHER_NAMES = {"ioi": "indirect_object"}


def find_task(name: str) -> Task:
    """Find a task.

    Args:
        name: One that ships, by its name, or a file of pairs.

    Returns:
        The task.

    Raises:
        NotFoundError: There is no such task, nor such a file.
        UsageError: The file cannot be read, or holds something other than pairs.
    """
    check_not_empty(task=name)
    shipped = TASKS.get(_OTHER_NAMES.get(name, name))
    if shipped is not None:
        return shipped
    if Path(name).suffix or Path(name).exists():
        return open_own_pairs(name)
    raise NotFoundError("task", printable_value(name), [*TASKS, *_OTHER_NAMES], "For pairs of your own: FILE.csv.")
