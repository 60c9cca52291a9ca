"""Subject-verb agreement: is the verb that comes singular or plural, as its subject is (Linzen et al. 2016)?

In most templates another noun stands between the two, singular or plural by chance and the same in both prompts. Corrupted: the
subject's number. Singular and plural subjects are equally frequent. Templates and words were written for this project and share
its licence.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from capture.data.tasks.task import Pair, Task, answers, draw_pairs, in_turn

_TEMPLATES = (
    ("The {subject} near the {other}", " is", " are"),
    ("It is well known that the {subject}", " is", " are"),
    ("We could see that the {subject} behind the {other}", " was", " were"),
    ("In this old photo the {subject} next to the {other}", " is", " are"),
    ("Nobody noticed that the {subject} in front of the {other}", " was", " were"),
    ("Since last summer the {subject} close to the {other}", " has", " have"),
)
"""Each with the singular and the plural verb that may follow."""
_NOUNS = (
    "author/authors", "bird/birds", "boat/boats", "book/books", "camera/cameras", "car/cars", "cat/cats", "chair/chairs",
    "child/children", "doctor/doctors", "dog/dogs", "door/doors", "driver/drivers", "engine/engines", "farmer/farmers",
    "friend/friends", "guest/guests", "horse/horses", "house/houses", "key/keys", "lawyer/lawyers", "letter/letters",
    "machine/machines", "man/men", "manager/managers", "nurse/nurses", "officer/officers", "painter/painters", "picture/pictures",
    "pilot/pilots", "singer/singers", "soldier/soldiers", "student/students", "table/tables", "teacher/teachers", "tree/trees",
    "window/windows", "woman/women", "worker/workers", "writer/writers",
)  # fmt: skip


def _draw(number: int, generator: random.Random) -> Pair:
    (template, singular, plural), is_plural = in_turn(_TEMPLATES, number)
    subject, other = (noun.split("/") for noun in generator.sample(_NOUNS, 2))
    attractor = generator.choice(other)
    right, wrong = (plural, singular) if is_plural else (singular, plural)
    return Pair(
        str(number),
        template.format(subject=subject[is_plural], other=attractor),
        template.format(subject=subject[not is_plural], other=attractor),
        answers(right, wrong),
        "subject number",
        template.format(subject="[subject]", other="[noun]"),
        {"answer": right, "wrong": wrong},
    )


def _pairs(_tokenizer: Any, seed: int) -> Iterator[Pair]:
    return draw_pairs(TASK.name, seed, _draw)


TASK = Task("agreement", "subject-verb agreement: is or are, as the subject has it", "logit_diff", _pairs, "agreement")
