"""The options that every kind of capture has: checked here before anything heavy is imported, for commands and Python alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from capture.data.files import check_not_empty
from capture.sequences import partition
from warehouse.errors import UsageError
from warehouse.schema import sites
from warehouse.vectors import index_spec


def shared_options(
    *,
    keep: str,
    attn: str,
    store_dtype: str,
    index: str | Sequence[str] | None,
    limit: int | None,
    max_len: int | None,
    batch_tokens: int,
    shard_mb: int,
    part: str,
    sample: float | None = None,
    keep_every: int = 1,
) -> dict[str, Any]:
    """Check what all kinds of capture share.

    Args:
        keep: The sites to store, comma-separated; `none` for none.
        attn: `auto` or `stored`.
        store_dtype: What tensors are stored in, or `auto`.
        index: What is made searchable; None: the middle of the residual stream, where that is kept.
        limit: Read only this many examples; None: all.
        max_len: The most tokens of a sequence; None: the model's window.
        batch_tokens: The most tokens of a batch.
        shard_mb: The size of a tensor file, MB.
        part: The part `i/n` of the run; empty: all of it.
        sample: The share of the examples that is read; None: all.
        keep_every: Tensors are kept of one example in so many.

    Returns:
        Arguments for the `Options` of any job.

    Raises:
        UsageError: A value that its option does not take.
    """
    from warehouse.storage.blobs import NAMES  # numpy comes with it

    check_not_empty(capture=keep)
    specs = [index] if isinstance(index, str) else list(index or ())
    for spec in specs:
        check_not_empty(index=spec)
    sites.resolve(keep)
    if part:
        partition.parse_part(part)
    index_spec.parse(" ".join(specs))
    if attn not in ("auto", "stored"):
        raise UsageError(f"--attn {attn}: use auto or stored.")
    if store_dtype not in ("auto", *NAMES):
        raise UsageError(f"--store-dtype {store_dtype}: use auto, {', '.join(NAMES)}.")
    return {
        "capture": keep,
        "attn": attn,
        "index": " ".join(specs) or "auto",
        "limit": limit,
        "max_len": max_len,
        "batch_tokens": batch_tokens,
        "store_dtype": store_dtype,
        "shard_mb": shard_mb,
        "shard": part,
        "sample": sample,
        "keep_every": keep_every,
    }
