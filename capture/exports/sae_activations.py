"""Activations of some layers in the format that SAELens caches them in, which its `ActivationsStore` trains from.

    FOLDER/                            a data set on disk of `datasets`: data-….arrow, dataset_info.json, state.json
    FOLDER/index.json                  which run, site and layers

A row is a piece of a text, `context_size` tokens long: a column a layer, named after its hook in
TransformerLens, (context_size, D), and `token_ids`.
A sequence gives as many pieces as it is long; what is left over at its end is not written. Every token keeps the state that it had in
its own text: those of a second piece have seen the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from warehouse.errors import NotFoundError, UsageError
from warehouse.exports.chosen import choose_examples, exported_side, sequences
from warehouse.exports.json_text import to_json
from warehouse.exports.lineage import lineage
from warehouse.exports.npz import examples_with_tensors
from warehouse.exports.site_arrays import choose_sites, read_layer
from warehouse.exports.target import INDEX, new_folder
from warehouse.exports.transformer_lens import hook_name
from warehouse.schema.sites import Key
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

VECTORS = ("resid.pre_attn", "resid.post_attn", "resid.post_mlp", "attn_out", "mlp_out", "mlp_act")
"""The sites with one vector a token and a hook in TransformerLens."""
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class SAEActivations:
    """What was written."""

    hooks: list[str]
    """The names of the columns, one of which SAELens is told as `hook_name`."""
    rows: int
    width: int
    """D, which SAELens is told as `d_in`."""
    left_out: int
    """Tokens at the ends of sequences that fill no row."""


def sae_activations(
    wh: Warehouse,
    run: str,
    folder: str | Path,
    *,
    layers: str | Sequence[int] = "all",
    site: str = "resid.post_mlp",
    context_size: int = 128,
    examples: Sequence[str] = (),
    where: str | None = None,
    force: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> SAEActivations:
    """Write activations of layers for training sparse autoencoders with SAELens.

    Example:
        exports.sae_activations(wh, "wt2", "activations", layers=[15], context_size=128)

    Args:
        wh: The warehouse.
        run: A run of a decoder.
        folder: The folder that is written.
        layers: `all`, or some: a column each.
        site: Their site, one with a vector a token.
        context_size: Tokens in a row.
        examples: Ids of examples, or beginnings of them; none: all that have tensors.
        where: A SQL condition on the columns of the table `examples`.
        force: Whether to replace an export that is there.
        report: Called with the examples that are read, and all of them.

    Returns:
        What was written.

    Raises:
        UsageError: The run does not have the site or the layer, all texts are shorter than a row, or the folder is there.
        NotFoundError: The site is none with a vector a token.
    """
    if site not in VECTORS:
        raise NotFoundError("site with a vector a token", site, VECTORS)
    if context_size < 1:
        raise UsageError(f"context size {context_size}: a row has at least one token.")
    store = wh.run(run)
    side = exported_side(store)
    stack = store.meta.model.stack(side)
    if side != "dec" or stack.convention != "pre-norm":
        raise UsageError(
            f"{store.meta.model.architecture} is no decoder that normalises before it reads: SAELens has no names for it."
        )
    (chosen_site,) = choose_sites(store, [site], side, layers)
    chosen = examples_with_tensors(store, choose_examples(wh, store, examples, where))
    hooks = {
        hook_name(Key(side, site, layer), stack, store.meta.model.architecture): layer for layer in chosen_site.layers
    }
    pieces = _Pieces(store, chosen, side, site, hooks, context_size, report)
    with new_folder(Path(folder), wh.root, force=force) as written:
        width = _write(written, context_size, iter(pieces))
        if not width:
            raise UsageError(
                f"No text of run '{run}' has {context_size} tokens: choose a smaller --context-size (the longest has {pieces.longest})."
            )
        about = {
            "format": "sae-lens",
            "n_layers": stack.n_layers,
            "hooks": hooks,
            "site": site,
            "context_size": context_size,
            "d_in": width,
        }
        (written / INDEX).write_bytes(to_json(lineage(store) | about, indent=True))
    return SAEActivations(list(hooks), pieces.rows, width, pieces.left_out)


class _Pieces:
    """The pieces of a run's texts, and how many there were."""

    def __init__(
        self,
        store: TraceStore,
        examples: Sequence[str],
        side: str,
        site: str,
        hooks: dict[str, int | None],
        size: int,
        report: Callable[[int, int], None],
    ) -> None:
        self._store, self._examples, self._side, self._site, self._hooks = store, examples, side, site, hooks
        self._size, self._report = size, report
        self.rows = self.left_out = self.longest = 0

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the columns of each piece: by hook (size, D), and `token_ids` (size,)."""
        seen: set[str] = set()
        for sequence in sequences(self._store, self._examples, self._side):
            ids = np.array(sequence.token_ids, np.int32)
            self.longest = max(self.longest, len(ids))
            self.left_out += len(ids) % self._size
            if len(ids) >= self._size:
                arrays = {
                    hook: read_layer(self._store, sequence, self._site, layer, self._side)
                    for hook, layer in self._hooks.items()
                }
                for start in range(0, len(ids) - self._size + 1, self._size):
                    self.rows += 1
                    yield {name: x[start : start + self._size] for name, x in (arrays | {"token_ids": ids}).items()}
            seen.add(sequence.example_id)
            self._report(len(seen), len(self._examples))


def _write(folder: Path, size: int, pieces: Iterator[dict[str, np.ndarray]]) -> int:
    """Write a data set on disk, some rows at a time; return D, 0 where there are no pieces."""
    from datasets import Array2D, Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter
    from datasets.info import DatasetInfo

    first = next(pieces, None)
    if first is None:
        return 0
    tokens = {"token_ids": Sequence(Value("int32"), length=size)}
    states = {name: Array2D(shape=x.shape, dtype=x.dtype.name) for name, x in first.items() if name not in tokens}
    features = Features(states | tokens)
    name = "data-00000-of-00001.arrow"
    with ArrowWriter(features=features, path=str(folder / name), writer_batch_size=_ROWS_AT_ONCE) as writer:
        row: dict[str, np.ndarray] | None = first
        while row is not None:
            writer.write(row)
            row = next(pieces, None)
        writer.finalize()
    DatasetInfo(features=features).write_to_directory(str(folder))
    state: dict[str, Any] = {
        "_data_files": [{"filename": name}],
        "_fingerprint": "0" * 16,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_bytes(to_json(state, indent=True))
    return int(next(iter(first.values())).shape[1])
