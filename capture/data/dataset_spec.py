"""What a known data set is: where it comes from, under which licence, and how its rows are read from a file or the hub.

Each file of a data set beside this one defines a `DatasetSpec`; `registry` has them by name. Nothing here reads data by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capture.data.example import Row, Source
from capture.data.files import UnreadableFileError, check_readable, printable_value
from warehouse.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import datasets

ReadRows = Callable[[], Iterator[Row]]
"""Reads the rows of a split from the start, each time it is called."""

PARAGRAPHS, HEADINGS, BLANK = "paragraphs", "headings", "blank rows"
"""The kinds of rows of a data set that has headings."""


@dataclass(frozen=True)
class DatasetSpec:
    """A data set that `--data NAME` knows."""

    name: str
    """The name that users know it by."""
    dataset: str
    """The name that example ids are made of, the same for every form of a family."""
    config: str | None
    """Which of the family's forms it is, where there are several."""
    about: str
    """One line on what it holds."""
    licence: str
    hub_name: str
    hub_config: str | None
    files: Mapping[str, tuple[str, ...]]
    """Split → the usual names of its file, in the original format."""
    read_file: Callable[[Path], Iterator[Row]]
    read_hub: Callable[[datasets.Dataset], Iterator[Row]]
    labels: tuple[str, ...] = ()
    """The names of its labels: a label's id is its place."""
    n_choices: int = 0
    """The number of choices of each question."""
    row_kind: Callable[[str], str] | None = None
    """Says of a row's text whether it is one of `paragraphs`, `headings` or `blank rows`; None where all rows are read."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of its splits."""
        return tuple(self.files)

    def resolve_split(self, name: str) -> str:
        """Return a split's name in this data set; `dev` is `validation`.

        Raises:
            NotFoundError: There is no such split.
        """
        split = "validation" if name == "dev" else name
        if split not in self.files:
            raise NotFoundError(f"split of {self.name}", name, self.splits)
        return split

    def split_named_by(self, path: Path) -> str | None:
        """Return the split whose usual file name this is; None where it is no usual name."""
        return next((split for split, names in self.files.items() if path.name.lower() in names), None)

    def find_splits(self, folder: Path) -> list[str]:
        """Return the splits whose files are in a folder.

        Raises:
            UsageError: There are none.
        """
        splits = [split for split in self.files if self._file_in(folder, split)]
        if not splits:
            usual = ", ".join(n for names in self.files.values() for n in names)
            raise UsageError(
                f"{printable_value(folder)} has no file of {self.name} under a usual name ({usual}). Name the file itself."
            )
        return splits

    def _file_in(self, folder: Path, split: str) -> Path | None:
        """Return a split's file in a folder under the first usual name that exists, in capitals or not."""
        try:
            files = {p.name.lower(): p for p in sorted(folder.iterdir()) if p.is_file()}
        except OSError as e:
            raise UnreadableFileError(folder, e) from None
        return next((files[name] for name in self.files[split] if name in files), None)

    def find_file(self, path: Path, split: str) -> Path:
        """Find a split's file.

        Args:
            path: The file itself, or the folder that it is in.
            split: The split.

        Returns:
            The file, which can be read.

        Raises:
            NotFoundError: The folder does not hold the split.
            UsageError: The file's name is that of another split: its examples would get wrong ids.
        """
        if path.is_dir():
            splits = self.find_splits(path)
            if split not in splits:
                usual = ", ".join(self.files[split])
                raise NotFoundError("split", split, splits, f"(in {printable_value(path)}; looked for {usual})")
            return check_readable(self._file_in(path, split) or path / self.files[split][0])
        named = self.split_named_by(path)
        if named not in (None, split):
            raise UsageError(
                f"{printable_value(path)} is the split {named} by its name, not {split}: say --split {named}."
            )
        return check_readable(path)

    def to_source(self, rows: ReadRows, split: str, origin: str, headings: bool) -> Source:
        """Return the source of a split's examples.

        Args:
            rows: Reads the split's rows, as they are in the data set.
            split: The split.
            origin: Where they are read from, as the user named it.
            headings: Read headings as well as paragraphs.

        Returns:
            The source, without the kinds of rows that are not read.

        Raises:
            UsageError: Headings are asked for, and the data set has none.
        """
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
    """Keeps the rows of the kinds wanted, and counts the rows of each kind."""

    def __init__(self, name: str, rows: ReadRows, kind: Callable[[str], str], wanted: tuple[str, ...]) -> None:
        self._name, self._rows, self._kind, self._wanted = name, rows, kind, wanted
        self._counts: Counter[str] = Counter()

    def __call__(self) -> Iterator[Row]:
        """Read the rows from the start, and yield those of the kinds wanted."""
        counts = self._counts = Counter()
        for row in self._rows():
            kind = self._kind(row.text)
            counts[kind] += 1
            if kind in self._wanted:
                yield row

    def description(self) -> str | None:
        """Say what was left out: `wikitext2: 1,841 paragraphs; 620 headings and 1,299 blank rows left out`."""
        others = [k for k in (PARAGRAPHS, HEADINGS, BLANK) if k not in self._wanted]
        return f"{self._name}: {self._numbers(self._wanted)}; {self._numbers(others)} left out"

    def _numbers(self, kinds: tuple[str, ...] | list[str]) -> str:
        counts = [(self._counts[kind], kind) for kind in kinds]
        return " and ".join(f"{n:,} {kind.removesuffix('s') if n == 1 else kind}" for n, kind in counts)
