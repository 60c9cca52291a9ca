"""What a known data set is: where it comes from, under which licence, how its rows are read from a file and the hub.

Each of the files beside this one makes its `Known`; `capture.data.registry` has them by name. Nothing here reads data by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capture.data.example import Row, Source
from capture.data.files import check_readable, printable_value, unreadable_error
from warehouse.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import datasets

ReadRows = Callable[[], Iterator[Row]]

PARAGRAPHS, HEADINGS, BLANK = "paragraphs", "headings", "blank rows"


@dataclass(frozen=True)
class DatasetSpec:
    name: str
    dataset: str
    """The name that example ids are made of, the same for every form of a family."""
    config: str | None
    """Which of the family's forms it is, where there are several."""
    about: str
    licence: str
    hub_name: str
    hub_config: str | None
    files: Mapping[str, tuple[str, ...]]
    """The usual names of each split's file, in the original format."""
    read_file: Callable[[Path], Iterator[Row]]
    read_hub: Callable[[datasets.Dataset], Iterator[Row]]
    labels: tuple[str, ...] = ()
    """Names of its labels: a label's id is its place."""
    n_choices: int = 0
    """Of each of its questions."""
    row_kind: Callable[[str], str] | None = None
    """Whether a row's text is one of `paragraphs`, `headings` or `blank rows`, where not all rows are read."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.files)

    def resolve_split(self, name: str) -> str:
        """The split's name in this data set; `dev` is `validation`. Raises NotFoundError."""
        name = "validation" if name == "dev" else name
        if name not in self.files:
            raise NotFoundError(f"split of {self.name}", name, self.splits)
        return name

    def split_named_by(self, path: Path) -> str | None:
        """The split that a file's name tells, where it is a usual one."""
        return next((split for split, names in self.files.items() if path.name.lower() in names), None)

    def find_splits(self, folder: Path) -> list[str]:
        """The splits whose files are in a folder. Raises UsageError where there are none."""
        found = [split for split in self.files if self._file_in(folder, split)]
        if not found:
            usual = ", ".join(n for names in self.files.values() for n in names)
            raise UsageError(
                f"{printable_value(folder)} has no file of {self.name} under a usual name ({usual}). Name the file itself."
            )
        return found

    def _file_in(self, folder: Path, split: str) -> Path | None:
        """A split's file, in the first of its usual names that is there, in capitals or not."""
        try:
            there = {p.name.lower(): p for p in sorted(folder.iterdir()) if p.is_file()}
        except OSError as e:
            raise unreadable_error(folder, e) from None
        return next((there[n] for n in self.files[split] if n in there), None)

    def find_file(self, path: Path, split: str) -> Path:
        """A split's file: `path` itself, or the one in that folder.

        Raises UsageError where it is not there, or by its name is another split: its examples would get wrong ids.
        """
        if path.is_dir():
            there = self.find_splits(path)
            if split not in there:
                looked = ", ".join(self.files[split])
                raise NotFoundError("split", split, there, f"(in {printable_value(path)}; looked for {looked})")
            return check_readable(self._file_in(path, split) or path / self.files[split][0])
        told = self.split_named_by(path)
        if told not in (None, split):
            raise UsageError(f"{printable_value(path)} is the split {told} by its name, not {split}: say --split {told}.")
        return check_readable(path)

    def to_source(self, rows: ReadRows, split: str, origin: str, headings: bool) -> Source:
        """Its examples, of `rows` as they are in the data set. Raises UsageError for headings where it has none."""
        if self.row_kind is None:
            if headings:
                raise UsageError(f"{self.name} has no headings: --headings goes with wikitext2 and wikitext103.")
            return Source(self.dataset, self.config, split, origin, rows)
        wanted = (PARAGRAPHS, HEADINGS) if headings else (PARAGRAPHS,)
        selection = RowFilter(self.name, rows, self.row_kind, wanted)
        return Source(
            self.dataset,
            self.config,
            split,
            origin,
            selection,
            reads=" and ".join(wanted),
            description=selection.description,
        )


class RowFilter:
    """Rows of the kinds wanted, and how many there were of each kind."""

    def __init__(self, name: str, rows: ReadRows, kind: Callable[[str], str], wanted: tuple[str, ...]) -> None:
        self._name, self._rows, self._kind, self._wanted = name, rows, kind, wanted
        self._counts: Counter[str] = Counter()

    def __call__(self) -> Iterator[Row]:
        counts = self._counts = Counter()
        for row in self._rows():
            kind = self._kind(row.text)
            counts[kind] += 1
            if kind in self._wanted:
                yield row

    def description(self) -> str | None:
        """`wikitext2: 1,841 paragraphs; 620 headings and 1,299 blank rows left out`."""
        others = [k for k in (PARAGRAPHS, HEADINGS, BLANK) if k not in self._wanted]
        return f"{self._name}: {self._numbers(self._wanted)}; {self._numbers(others)} left out"

    def _numbers(self, kinds: tuple[str, ...] | list[str]) -> str:
        counts = [(self._counts[kind], kind) for kind in kinds]
        return " and ".join(f"{n:,} {kind.removesuffix('s') if n == 1 else kind}" for n, kind in counts)
