"""What a command line asks for: the model, the data, and the options that all kinds of capture share. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from capture.cli.terminal import needs_capture_extra, note
from capture.data.files import check_not_empty, printable_value
from capture.sequences import partition
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema import sites
from warehouse.vectors import index_spec

if TYPE_CHECKING:
    from capture.data.example import Source
    from capture.model.loading import HeadKind, Loaded


class Model(NamedTuple):
    name: str
    head: HeadKind | None
    device: str = "auto"
    device_map: str | None = None
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False

    def load(self, tokenizer: bool = True, seed: int = 0) -> Loaded:
        with needs_capture_extra():
            from capture.model import loading

        check_not_empty(revision=self.revision, device_map=self.device_map)
        note(f"loading {printable_value(self.name)}")
        return loading.load(
            self.name,
            head=self.head,
            revision=self.revision,
            device=self.device,
            device_map=self.device_map,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            tokenizer=tokenizer,
            seed=seed,
            note=note,
        )


class Data(NamedTuple):
    data: str | None
    split: str
    origin: str | None
    text: str | None = None
    text_column: str = "text"
    config: str | None = None
    headings: bool = False
    label_column: str | None = None
    questions: bool = False
    """Multiple-choice questions are asked for, which known data sets alone have."""

    def open(self, root: Path) -> Source:
        from capture.data import csqa
        from capture.data.registry import DATASETS, open_data

        if self.questions and self.data not in DATASETS:
            raise NotFoundError("data set of multiple-choice questions", printable_value(str(self.data)), [csqa.DATASET.name])
        with needs_capture_extra():
            return open_data(
                self.data, self.text, self.split, self.origin, self.text_column, root, self.config, self.headings,
                self.label_column,
            )  # fmt: skip


class Prompts(NamedTuple):
    texts: list[str]
    sets: list[str]

    def open(self, root: Path) -> Source:
        """Raises UsageError where nothing is asked for, or both."""
        from capture.data.prompt_sets import open_prompt_sets, open_prompts

        if bool(self.texts) == bool(self.sets):
            raise UsageError("Name what is asked: --prompt TEXT, or --prompt-set NAME, or --all-prompt-sets.")
        return open_prompts(self.texts) if self.texts else open_prompt_sets(self.sets)


def capture_options(
    capture: str,
    attn: str,
    index: list[str] | None,
    limit: int | None,
    max_len: str,
    batch_tokens: int,
    store_dtype: str,
    shard_mb: int,
    shard: str = "",
) -> dict[str, Any]:
    """The options that all kinds of capture share, looked at before anything heavy is imported. Raises UsageError."""
    from warehouse.storage.blobs import NAMES  # numpy comes with it

    check_not_empty(capture=capture)
    for asked_for in index or ():
        check_not_empty(index=asked_for)
    sites.resolve(capture)
    if shard:
        partition.parse_part(shard)
    index_spec.parse(" ".join(index or ()))
    if attn not in ("auto", "stored"):
        raise UsageError(f"--attn {attn}: use auto or stored.")
    if store_dtype not in ("auto", *NAMES):
        raise UsageError(f"--store-dtype {store_dtype}: use auto, {', '.join(NAMES)}.")
    return {
        "capture": capture,
        "attn": attn,
        "index": " ".join(index) if index else "auto",
        "limit": limit,
        "max_len": tokens(max_len),
        "batch_tokens": batch_tokens,
        "store_dtype": store_dtype,
        "shard_mb": shard_mb,
        "shard": shard,
    }


def split_list(text: str | None) -> tuple[str, ...]:
    """What commas part, each once."""
    return tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def tokens(max_len: str) -> int | None:
    """--max-len as a number; None: `auto`. Raises UsageError."""
    if max_len == "auto":
        return None
    if not max_len.isdecimal() or len(max_len) > 9 or int(max_len) < 2:
        raise UsageError(f"--max-len {max_len[:20]}: use 'auto' or a number of tokens from 2 up.")
    return int(max_len)
