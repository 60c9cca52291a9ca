"""Divides a run among processes (`--part i/n`): each captures every n-th example and knows nothing of the others.

Every process reads and hashes all of the data, so that the parts' manifests name the same data and `traces runs merge` can prove
that together they are all of it. Only the process's own examples go on to the tokenizer and the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from warehouse.errors import UsageError
from warehouse.storage import paths

if TYPE_CHECKING:
    from capture.data.example import Example
    from capture.sequences.sequence import TokenizedExample

T = TypeVar("T")

_PART = re.compile(r"([1-9]\d{0,3})/([1-9]\d{0,3})")


def parse_part(part: str) -> tuple[int, int]:
    """Parse a part of the form `i/n`, such as `2/4`.

    Returns:
        The part's number, from 1, and the number of parts.

    Raises:
        UsageError: The text is not of that form.
    """
    match = _PART.fullmatch(part)
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(f"--part {part}: write i/n, such as 2/4: i from 1 to n, n at most 9999.")
    return int(match[1]), int(match[2])


def part_run_name(run: str, part: str) -> str:
    """Return the name of this part of `run`; the run's own name where `part` is empty."""
    return paths.part_name(run, *parse_part(part)) if part else run


def take_part(items: Iterable[T], part: str) -> Iterator[T]:
    """Yield every n-th of the items that a derived run is made of; all of them where `part` is empty."""
    i, n = parse_part(part) if part else (1, 1)
    return islice(items, i - 1, None, n)


class Partition:
    """Selects the examples that a process captures, and hashes the data; one object serves one pass over it."""

    def __init__(self, part: str) -> None:
        """Start a pass for the part `i/n`, or for all of the data where `part` is empty."""
        import xxhash

        self.i, self.n = parse_part(part) if part else (1, 1)
        self._digest = xxhash.xxh3_128()

    def select(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Yield the examples whose place in the data, 0-based, is i - 1 modulo n."""
        for place, example in enumerate(examples):
            self._digest.update(f"{example.example_id}\x1f{example.text}\x1e".encode("utf-8", "surrogatepass"))
            if place % self.n == self.i - 1:
                yield example

    def renumber(self, tokenized: Iterable[TokenizedExample]) -> Iterator[TokenizedExample]:
        """Yield the same examples, numbered by their place in all of the data."""
        for t in tokenized:
            yield replace(t, idx=t.idx * self.n + self.i - 1)

    def count(self, total: int | None) -> int | None:
        """Return how many of `total` examples are the process's own; None where the total is not known."""
        return None if total is None else len(range(self.i - 1, total, self.n))

    @property
    def data_hash(self) -> str:
        """The hash of all that was read so far: after the last example, of the data."""
        return self._digest.hexdigest()
