"""WikiText-2 and WikiText-103 (Merity et al. 2016): paragraphs of Wikipedia. Licence: CC BY-SA 3.0.

Source: the release's files, or the hub's `Salesforce/wikitext`. An example's text is a paragraph, or a heading if asked for; it
holds nothing else. `wikitext2` and `wikitext103` are the tokenized form with `<unk>`; with `-raw` they are the untouched text.
Rows keep their number in the split, counted from 0 with headings and blank rows, which is the same on the hub and in a local
file, so that examples have the same ids from either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from capture.data.columns import Columns
from capture.data.dataset_spec import BLANK, HEADINGS, PARAGRAPHS, DatasetSpec
from capture.data.example import Row
from capture.data.files import file_lines
from capture.data.hub import hub_rows
from capture.data.text import file_rows

if TYPE_CHECKING:
    import datasets

_LINES = (".tokens", ".raw")
"""The release's own endings."""
_HEADING = re.compile(r"((?:= )+)\S.*?((?: =)+)")


def kind(text: str) -> str:
    """Return whether a row is one of the `paragraphs`, the `headings` (`= = Title = =`) or the `blank rows`."""
    if not text.strip():
        return BLANK
    match = _HEADING.fullmatch(text.strip())
    return HEADINGS if match and len(match[1]) == len(match[2]) else PARAGRAPHS


def _file(path: Path) -> Iterator[Row]:
    if path.suffix.lower() in _LINES:
        return _numbered(text for _, text in file_lines(path))
    return _numbered(row.text for row in file_rows(path, Columns()))


def _hub(data: datasets.Dataset) -> Iterator[Row]:
    return _numbered(fields["text"] for fields in hub_rows(data, "Salesforce/wikitext", {"text": str}))


def _numbered(texts: Iterable[str]) -> Iterator[Row]:
    return (Row(str(number), text.strip()) for number, text in enumerate(texts))


def _dataset(size: int, raw: bool) -> DatasetSpec:
    ending = "raw" if raw else "tokens"
    config = f"wikitext-{size}-raw-v1" if raw else f"wikitext-{size}-v1"
    files = {
        split: (f"{split}.txt", f"{short}.txt", f"wiki.{short}.{ending}", f"{split}.parquet")
        for split, short in {"train": "train", "validation": "valid", "test": "test"}.items()
    }
    return DatasetSpec(
        name=f"wikitext{size}-raw" if raw else f"wikitext{size}",
        dataset=f"wikitext{size}",
        config=config,
        about=f"paragraphs of Wikipedia, {size} million words, {'untouched' if raw else 'rare ones as <unk>'}",
        licence="CC BY-SA 3.0",
        hub_name="Salesforce/wikitext",
        hub_config=config,
        files={split: tuple(dict.fromkeys(names)) for split, names in files.items()},
        read_file=_file,
        read_hub=_hub,
        row_kind=kind,
    )


DATASETS = [_dataset(size, raw) for size in (2, 103) for raw in (False, True)]
