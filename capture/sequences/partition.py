"""`--part i/n`: one process of several captures every n-th example, knowing nothing of the others.

All of the data is read and hashed, so that the shards' manifests name the same data and `traces runs merge` can prove that
together they are all of it; only the share goes on to the tokenizer and the model.
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
    """`2/4` → (2, 4). Raises UsageError for what is no shard."""
    found = _PART.fullmatch(part)
    if found is None or int(found[1]) > int(found[2]):
        raise UsageError(f"--part {part}: write i/n, such as 2/4: i from 1 to n, n at most 9999.")
    return int(found[1]), int(found[2])


def part_run_name(run: str, part: str) -> str:
    """What a run is called that is this shard of `run`, or all of it where `shard` is empty."""
    return paths.part_name(run, *parse_part(part)) if part else run


def take_part(items: Iterable[T], part: str) -> Iterator[T]:
    """A shard's share of what a derived run is made of; all of it where `shard` is empty."""
    i, n = parse_part(part) if part else (1, 1)
    return islice(items, i - 1, None, n)


class Partition:
    """Which examples a process captures. One is of one pass over the data: it hashes what it reads."""

    def __init__(self, shard: str) -> None:
        """`i/n`; empty: all of the data."""
        import xxhash

        self.i, self.n = parse_part(shard) if shard else (1, 1)
        self._digest = xxhash.xxh3_128()

    def select(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Those whose place in the data, 0-based, is i - 1 modulo n."""
        for place, example in enumerate(examples):
            self._digest.update(f"{example.example_id}\x1f{example.text}\x1e".encode("utf-8", "surrogatepass"))
            if place % self.n == self.i - 1:
                yield example

    def renumber(self, tokenized: Iterable[TokenizedExample]) -> Iterator[TokenizedExample]:
        """The same examples, numbered by their place in all of the data."""
        for t in tokenized:
            yield replace(t, idx=t.idx * self.n + self.i - 1)

    def count(self, total: int | None) -> int | None:
        """How many of so many examples; None: nobody knows."""
        return None if total is None else len(range(self.i - 1, total, self.n))

    @property
    def data_hash(self) -> str:
        """Of all that was read: after the last example, that of the data."""
        return self._digest.hexdigest()
