"""Indirect object identification (Wang et al. 2022, "Interpretability in the Wild"): who is given something, by whom?

Two people are named, one of them again, and the other one is to come. Corrupted: the second mention is of the other person. Both
orders of the first two names are equally frequent. Templates and words were written for this project and share its licence.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from capture.data.tasks.task import Pair, Task, answers, draw_pairs, in_turn

_TEMPLATES = (
    "When {first} and {second} arrived at the {place}, {giver} gave the {thing} to",
    "After {first} and {second} had a long talk at the {place}, {giver} handed the {thing} to",
    "While {first} and {second} were waiting near the {place}, {giver} offered a {thing} to",
    "Yesterday {first} and {second} met at the {place}. Before it got dark, {giver} sold the {thing} to",
    "Because {first} and {second} were both at the {place}, {giver} decided to show the {thing} to",
    "Long ago {first} and {second} worked in the same {place}, and one day {giver} sent a {thing} to",
)
_NAMES = (
    "Adam", "Alice", "Amy", "Andrew", "Anna", "Arthur", "Ben", "Brian", "Carl", "Charles", "Clara", "Daniel", "David", "Diana",
    "Edward", "Emma", "Eric", "Frank", "George", "Grace", "Helen", "Henry", "Jack", "James", "Jane", "Jason", "John", "Joseph",
    "Julia", "Karen", "Kate", "Kevin", "Laura", "Linda", "Lisa", "Lucy", "Luke", "Maria", "Mark", "Martin", "Mary", "Michael",
    "Oliver", "Paul", "Peter", "Rachel", "Richard", "Robert", "Ruth", "Ryan", "Sarah", "Simon", "Sophie", "Steven", "Susan",
    "Thomas", "Tom", "Walter", "William",
)  # fmt: skip
_PLACES = (
    "shop", "park", "school", "station", "market", "garden", "library", "museum", "office", "beach", "hospital", "church", "theater",
    "restaurant", "bridge", "lake", "farm", "hotel", "airport", "castle",
)  # fmt: skip
_THINGS = (
    "book", "letter", "ring", "drink", "key", "ticket", "flower", "bottle", "map", "camera", "watch", "basket", "coat", "gift",
    "phone", "pen", "guitar", "lamp", "ball", "toy", "cup", "hat", "box", "stone", "coin",
)  # fmt: skip


def _draw(number: int, generator: random.Random) -> Pair:
    template, giver_first = in_turn(_TEMPLATES, number)
    receiver, giver = generator.sample(_NAMES, 2)
    slots = {"place": generator.choice(_PLACES), "thing": generator.choice(_THINGS)}
    slots |= {"first": giver, "second": receiver} if giver_first else {"first": receiver, "second": giver}
    names = (
        {"first": "[giver]", "second": "[receiver]"} if giver_first else {"first": "[receiver]", "second": "[giver]"}
    )
    return Pair(
        str(number),
        template.format(**slots, giver=giver),
        template.format(**slots, giver=receiver),
        answers(f" {receiver}", f" {giver}"),
        "S2 swapped",
        template.format(**names, giver="[giver]", place="[place]", thing="[thing]"),
        {"answer": f" {receiver}", "wrong": f" {giver}"},
    )


def _pairs(_tokenizer: Any, seed: int) -> Iterator[Pair]:
    return draw_pairs(TASK.name, seed, _draw)


TASK = Task(
    "indirect_object",
    "who receives it: the one of two people who is not named again",
    "logit_diff",
    _pairs,
    "indirect_object",
)
