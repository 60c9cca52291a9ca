"""Dictionaries of tensors by the place in a model, a batch of texts or one each: activation caches of TransformerLens, what nnsight saved.

In go files of named tensors (of SAELens and of our own arrays after their readers have named them), and the tokens that they are of: in the file (`tokens`, `input_ids` or `token_ids`), in its metadata, or in a
file of their own. Out come `Traces`. A mask (`attention_mask`) says which tokens are padding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from capture.data.files import printable_value
from capture.imports.tensor_file import TensorFile
from capture.imports.traces import (
    TraceExample,
    Traces,
    TraceSequence,
    attention_rows,
    looks_ahead,
    stored_dtype,
    unknown_model,
)
from capture.model.hook_names import find_place, layer_of
from warehouse.errors import UsageError
from warehouse.schema.sites import SQUARE, TRIANGLE, Key, row_kind
from warehouse.storage.blobs import TensorSpec

TOKEN_NAMES = ("tokens", "input_ids", "token_ids")
_MASK = "attention_mask"
_HEADS = ("q", "k", "v")
_NUMBER = re.compile(r"\d{1,4}")
_NO_SITE, _TWICE = "no site of ours", "another tensor is of the same place"
"""Why a tensor is left out."""
_LINEAGE = (
    "run_id",
    "model",
    "revision",
    "architecture",
    "weights_hash",
    "tokenizer_hash",
    "dataset",
    "config",
    "split",
)


def open_caches(
    files: Sequence[TensorFile], format: str, name: str, tokens: Sequence[Sequence[int]] | None = None
) -> Traces:
    """Open caches.

    Args:
        files: The files, of one model.
        format: What they are called.
        name: What the data set of their run is called.
        tokens: Token ids of every text, where the files have none.

    Returns:
        What they hold.

    Raises:
        UsageError: A file is damaged, holds no place of a model that we know, or is without tokens; or files differ in what they have.
    """
    caches = [_Cache(file) for file in files]
    first = caches[0]
    for cache in caches[1:]:
        if cache.shapes != first.shapes:
            raise UsageError(f"{printable_value(cache.path)} has other tensors than {printable_value(first.path)}.")
    if tokens is not None:
        at = 0
        for cache in caches:
            cache.set_tokens(tokens[at : at + cache.batch])
            at += cache.batch
        if at != len(tokens):
            raise UsageError(f"There are tokens of {len(tokens):,} texts, and {at:,} texts in the files.")
    for cache in caches:
        cache.check_tokens()

    def examples() -> Iterator[TraceExample]:
        number = 0
        for cache in caches:
            for row in range(cache.batch):
                yield cache.example(row, str(number))
                number += 1

    return Traces(
        format=format,
        name=first.said.get("dataset") or name,
        model=_model(first),
        specs=first.specs,
        examples=examples,
        count=sum(cache.batch for cache in caches),
        facts={k: v for k, v in first.said.items() if k in _LINEAGE},
        left_out=first.left_out,
    )


class _Cache:
    """A file of a batch of texts."""

    def __init__(self, file: TensorFile) -> None:
        """Find out which tensor is of which place.

        Raises:
            UsageError: It has none that we know, or their shapes don't agree.
        """
        self.path, self.said = file.path, dict(file.metadata)
        own = {n: x for n, x in file.tensors.items() if n.rpartition(".")[2] in (*TOKEN_NAMES, _MASK)}
        named = {n: x for n, x in file.tensors.items() if n not in own}
        self.side = "enc" if self.said.get("side") == "enc" else "dec"
        self.n_layers = self._count_layers(named)
        self.final_norm = self.said.get("final_norm") != "false"
        normed = self.n_layers if self.final_norm else -1
        places = {name: place for name in named if (place := find_place(name, normed)) is not None}
        if not places:
            raise UsageError(
                f"{printable_value(self.path)} has no tensor with a name of TransformerLens (blocks.0.hook_resid_post) or of nnsight "
                f"(model.layers.0.output): it has {', '.join(map(printable_value, list(named)[:5])) or 'none'}."
            )
        by_key: dict[Key, list[str]] = {}
        for name, place in places.items():
            by_key.setdefault(Key(self.side, place.site, place.layer), []).append(name)
        found = {key: max(names, key=lambda name: places[name].rank) for key, names in by_key.items()}
        chosen = set(found.values())
        taken = set(map(_without_layer, chosen))
        left = {_without_layer(n): _TWICE if n in places else _NO_SITE for n in named if n not in chosen}
        self.left_out = tuple(f"{name}: {why}" for name, why in left.items() if why == _NO_SITE or name not in taken)
        self._arrays = {key: self._batched(named[name], key.site, name) for key, name in found.items()}
        self.batch, self.length = self._shape()
        self.causal = self._is_causal()
        self.specs = {key: self._spec(key, x) for key, x in self._arrays.items()}
        self.shapes = {key: (spec.row_shape, spec.row_kind) for key, spec in self.specs.items()}
        self._tokens = next((own[n] for n in own if n.rpartition(".")[2] in TOKEN_NAMES), None)
        if self._tokens is None and "token_ids" in self.said:
            self._tokens = np.asarray(self._said_list("token_ids"))
        if self._tokens is not None:
            self._tokens = self._tokens.reshape(-1, self._tokens.shape[-1])
        mask = next((own[n] for n in own if n.rpartition(".")[2] == _MASK), None)
        self._mask = None if mask is None else mask.reshape(-1, mask.shape[-1]).astype(bool)

    def _said_list(self, name: str) -> list[Any]:
        """Return a list that the file's metadata have as JSON; raise UsageError where it is none, or one of lists of several lengths."""
        try:
            value = json.loads(self.said[name])
            if isinstance(value, list) and np.asarray(value).size:
                return value
        except ValueError:
            pass
        raise UsageError(f"{printable_value(self.path)} has metadata `{name}` that are no list of JSON.")

    def _count_layers(self, names: Iterable[str]) -> int:
        """Return how many layers the model has: as the file says, or as many as are named."""
        named = max((n for n in map(layer_of, names) if n is not None), default=-1) + 1
        said = self.said.get("n_layers", "")
        return max(named, int(said)) if _NUMBER.fullmatch(said) else named

    def _batched(self, x: np.ndarray, site: str, name: str) -> np.ndarray:
        """Return a tensor with its batch first; raise UsageError where it has no such shape."""
        dims = 4 if site in (*_HEADS, "attn") else 3
        if x.ndim == dims - 1:
            x = x[None]
        if x.ndim != dims:
            raise UsageError(
                f"{printable_value(self.path)}: {printable_value(name)} has the shape {x.shape}, which is none of {site}."
            )
        stored_dtype(x.dtype, f"{printable_value(self.path)}: {printable_value(name)}")
        return x

    def _shape(self) -> tuple[int, int]:
        shapes = {(len(x), x.shape[2] if key.site == "attn" else x.shape[1]) for key, x in self._arrays.items()}
        if len(shapes) > 1:
            raise UsageError(
                f"{printable_value(self.path)}: its tensors are of batches of several shapes: {sorted(shapes)}."
            )
        return shapes.pop()

    def _is_causal(self) -> bool:
        """Whether no token attends to one after it."""
        return not any(looks_ahead(x) for key, x in self._arrays.items() if key.site == "attn")

    def _spec(self, key: Key, x: np.ndarray) -> TensorSpec:
        shape = (x.shape[1],) if key.site == "attn" else x.shape[2:]
        return TensorSpec(stored_dtype(x.dtype, key.site), tuple(shape), row_kind(key.site, self.causal))

    def set_tokens(self, tokens: Sequence[Sequence[int]]) -> None:
        """Take tokens that are not in the file; raise UsageError where there are fewer texts than here."""
        if len(tokens) != self.batch:
            raise UsageError(
                f"{printable_value(self.path)} has {self.batch:,} texts, and there are tokens of {len(tokens):,} for it."
            )
        lengths = np.asarray([len(t) for t in tokens])
        if (lengths > self.length).any():
            raise UsageError(
                f"A text has {lengths.max():,} tokens, and {printable_value(self.path)} states of {self.length:,}."
            )
        self._tokens = np.zeros((self.batch, self.length), np.int64)
        self._mask = np.arange(self.length) < lengths[:, None]
        for row, of_text in enumerate(tokens):
            self._tokens[row, : len(of_text)] = of_text

    def check_tokens(self) -> None:
        """Check that there are tokens, one for every state.

        Raises:
            UsageError: It is not so.
        """
        name = printable_value(self.path)
        if self._tokens is None:
            raise UsageError(
                f"{name} does not say which tokens it is of: save them beside it under the name `tokens`, or name a file of them: --tokens FILE"
            )
        for x in (self._tokens, self._mask):
            if x is not None and x.shape != (self.batch, self.length):
                raise UsageError(
                    f"{name} has tokens of the shape {x.shape}, and states of {(self.batch, self.length)}."
                )
        if not np.issubdtype(self._tokens.dtype, np.integer):
            raise UsageError(f"{name}: its tokens are {self._tokens.dtype}, not whole numbers.")

    def example(self, row: int, source_id: str) -> TraceExample:
        """Return a text of the batch."""
        assert self._tokens is not None
        kept = np.ones(self.length, bool) if self._mask is None else self._mask[row]
        places = np.flatnonzero(kept)
        span = slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)

        def tensors() -> Mapping[Key, np.ndarray]:
            return {key: self._rows(key, x[row], span) for key, x in self._arrays.items()}

        strings = self._said_list("tokens") if "tokens" in self.said and self.batch == 1 else None
        sequence = TraceSequence({self.side: self._tokens[row, span].astype(np.int64)}, tensors, strings)
        return TraceExample(source_id, (sequence,), example_id=self.said.get("example_id"))

    def _rows(self, key: Key, x: np.ndarray, span: slice) -> np.ndarray:
        """Return the rows of one text: tokens, or of attention pairs of tokens."""
        kind = self.specs[key].row_kind
        if kind not in (TRIANGLE, SQUARE):
            return np.ascontiguousarray(x[span])
        return attention_rows(x[:, span, span], kind)


def _model(cache: _Cache) -> Any:
    """Describe the model of a cache, as far as its names and shapes tell."""
    shapes = {key.site: spec.row_shape for key, spec in cache.specs.items()}
    width = next(
        (shape[0] for site, shape in shapes.items() if site.startswith(("resid", "hidden")) or site.endswith("_out")), 0
    )
    heads = shapes.get("q", shapes.get("attn", (0,)))[0]
    known = {
        k: cache.said[k]
        for k in ("revision", "architecture", "weights_hash", "tokenizer_hash", "dtype")
        if cache.said.get(k)
    }
    return unknown_model(
        n_layers=cache.n_layers,
        d_model=width,
        n_heads=heads,
        n_kv_heads=shapes.get("k", (heads,))[0],
        d_head=shapes.get("q", shapes.get("k", (0, 0)))[-1],
        d_value=shapes.get("v", (0, 0))[-1],
        causal=cache.causal,
        side=cache.side,
        final_norm=cache.final_norm,
        convention="post-norm" if cache.said.get("convention") == "post-norm" else "pre-norm",
        name=cache.said.get("model") or "unknown",
        **known,
    )


def _without_layer(name: str) -> str:
    return ".".join("L" if part.removeprefix("L").isdigit() else part for part in name.split("."))
