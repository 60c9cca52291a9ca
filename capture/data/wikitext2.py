"""WikiText-2 (Merity et al. 2016): a paragraph or heading is an example; empty rows are none.

`wikitext2` is the tokenized form with `<unk>`, `wikitext2-raw` the untouched text. Rows keep their number in the split,
which is the same in the hub's copy and in a local file, so that examples have the same ids from either.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from capture.data.example import Row, Source
from capture.data.text import file_rows
from warehouse.errors import UsageError

CONFIGS = {"wikitext2": "wikitext-2-v1", "wikitext2-raw": "wikitext-2-raw-v1"}
_HUB_NAME = "Salesforce/wikitext"


def open_wikitext2(name: str, split: str, origin: str | None) -> Source:
    """From a local file, or a folder with `<split>.txt`, where `origin` names one; else from the hub.

    Raises UsageError, while reading, where neither can be read.
    """
    config = CONFIGS[name]

    def rows() -> Iterator[Row]:
        texts = _local(Path(origin).expanduser(), split) if origin else _hub(config, split)
        return (Row(str(number), text.strip()) for number, text in enumerate(texts))

    return Source("wikitext2", config, split, origin or _HUB_NAME, rows)


def _local(path: Path, split: str) -> Iterator[str]:
    found = file_rows(path / f"{split}.txt" if path.is_dir() else path)
    return (row.text for row in found)


def _hub(config: str, split: str) -> Iterator[str]:
    import datasets

    try:
        data = datasets.load_dataset(_HUB_NAME, config, split=split)
    except ValueError as e:
        raise UsageError(f"{_HUB_NAME}: {e}") from None
    except Exception as e:  # the hub's client raises its own, requests', httpx's and OS errors
        raise UsageError(
            f"The data set {_HUB_NAME} cannot be fetched ({type(e).__name__}). Check the network, "
            f"or name a local copy: --from {split}.txt"
        ) from e
    return (row["text"] for row in data)
