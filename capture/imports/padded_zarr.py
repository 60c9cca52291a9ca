"""The padded Zarr stores of the first decision-trace tools: an array a site over texts, layers and positions, filled up to one length.

    dec_self_attn.zarr/attn (N, L, H, T, T)     dec_self_qkv.zarr/{q,k,v} (N, L, H, T, d_head)     dec_hidden.zarr/h (N, L+1, T, D)
    dec_res_embed.zarr/x (N, T, D)              dec_res_{pre_attn,post_attn,post_mlp}.zarr/x (N, L, T, D)
    enc_… the same of an encoder; enc_mc_… with a place for choices, (N, C, …); attn.zarr and qkv.zarr of earlier runs
    tokens.parquet (example_id, text, encodings, predictions)     meta.json

`encodings` has the token ids of a text (`input_ids`, with `attention_mask` where they are padded), or a list of them, one a choice. What
`tokens.parquet` has besides is kept as metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from capture.data.arrow import parquet_rows
from capture.data.files import printable_value, read_json
from capture.data.plain import plain
from capture.imports.traces import (
    TraceExample,
    Traces,
    TraceSequence,
    attention_rows,
    looks_ahead,
    stored_dtype,
    unknown_model,
)
from warehouse.errors import UsageError, first_line
from warehouse.schema.sites import SQUARE, TRIANGLE, Key
from warehouse.storage import strict_json
from warehouse.storage.blobs import TensorSpec

TOKENS, META = "tokens.parquet", "meta.json"
_STORE = re.compile(
    r"(?:(?P<side>dec|enc)_)?(?P<mc>mc_)?(?P<what>self_attn|self_qkv|attn|qkv|hidden|res_embed|res_pre_attn|res_post_attn|res_post_mlp)\.zarr"
)
_ARRAYS = {
    "attn": ("attn",),
    "self_attn": ("attn",),
    "qkv": ("q", "k", "v"),
    "self_qkv": ("q", "k", "v"),
    "hidden": ("h",),
}
_SITES = {
    "res_embed": "resid.embed",
    "res_pre_attn": "resid.pre_attn",
    "res_post_attn": "resid.post_attn",
    "res_post_mlp": "resid.post_mlp",
    "hidden": "hidden",
}
_FAST = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}
_CHECKED = 4
"""Texts whose states are compared where two arrays hold the same ones."""

Read = Callable[[int], np.ndarray]
"""Reads a text's rows of one layer's or all layers' tensors, the padding included."""


def is_padded_zarr(folder: Path) -> bool:
    """Whether a folder holds such stores."""
    return folder.is_dir() and any(_STORE.fullmatch(p.name) for p in folder.iterdir())


def open_padded_zarr(folder: Path) -> Traces:
    """Open a folder of padded stores.

    Needs zarr (`trace-warehouse[import]`).

    Args:
        folder: The folder.

    Returns:
        What it holds.

    Raises:
        UsageError: zarr is missing; or a store is damaged, or does not fit the others or the tokens.
    """
    rows = [fields for _, fields in parquet_rows(folder / TOKENS)] if (folder / TOKENS).is_file() else None
    if rows is None:
        raise UsageError(f"{printable_value(folder)} has no {TOKENS}, so that nothing says which tokens it is of.")
    meta = read_json(folder / META) if (folder / META).is_file() else {}
    stores = _Stores(folder, len(rows))
    encodings = [_encodings(fields, f"{printable_value(folder / TOKENS)}, row {n}") for n, fields in enumerate(rows)]
    for n, of_text in enumerate(encodings):
        longest = max(map(len, of_text), default=0)
        if longest > stores.length:
            raise UsageError(
                f"{printable_value(folder / TOKENS)}, row {n} has {longest} tokens, and the stores {stores.length} positions."
            )
        if stores.choices is None and len(of_text) > 1:
            raise UsageError(
                f"{printable_value(folder / TOKENS)}, row {n} has {len(of_text)} encodings, and the stores have no choices."
            )
        if stores.choices is not None and len(of_text) > stores.choices:
            raise UsageError(
                f"{printable_value(folder / TOKENS)}, row {n} has {len(of_text)} choices, and the stores {stores.choices}."
            )

    def examples() -> Iterator[TraceExample]:
        for n, (fields, of_text) in enumerate(zip(rows, encodings, strict=True)):
            known = {k: v for k, v in fields.items() if k not in ("encodings", "text")}
            text = fields.get("text")
            yield TraceExample(
                str(fields.get("example_id", n)),
                tuple(_sequence(stores, n, seq, ids) for seq, ids in enumerate(of_text)),
                text if isinstance(text, str) else None,
                metadata=plain(known),
            )

    return Traces(
        format="zarr",
        name=str(meta.get("dataset") or folder.name) if isinstance(meta, dict) else folder.name,
        model=stores.model(meta if isinstance(meta, dict) else {}),
        specs=stores.specs,
        examples=examples,
        count=len(rows),
        facts={"meta": strict_json.finite(meta)},
        left_out=tuple(stores.left_out),
    )


def _sequence(stores: _Stores, n: int, seq: int, ids: np.ndarray) -> TraceSequence:
    return TraceSequence({stores.side: ids}, lambda: stores.read(n, seq, len(ids)))


class _Stores:
    """The arrays of a folder, by the tensors that they hold."""

    def __init__(self, folder: Path, count: int) -> None:
        """Open the arrays.

        Raises:
            UsageError: zarr is missing, there is no store of one side that we know, or shapes do not agree.
        """
        try:
            import zarr
        except ModuleNotFoundError:
            raise UsageError("Padded stores are read with zarr: pip install 'trace-warehouse[import]'") from None
        found = [(p, m) for p in sorted(folder.iterdir()) if (m := _STORE.fullmatch(p.name))]
        sides = {m["side"] or "dec" for _, m in found}
        self.side = "dec" if "dec" in sides else "enc"
        self.left_out = [
            f"{p.name}: another side than {self.side}" for p, m in found if (m["side"] or "dec") != self.side
        ]
        found = [(p, m) for p, m in found if (m["side"] or "dec") == self.side]
        arrays: dict[str, Any] = {}
        choices = {bool(m["mc"]) for _, m in found}
        if len(choices) > 1:
            raise UsageError(f"{printable_value(folder)} has stores with choices and without: import them apart.")
        for path, m in found:
            for name in _ARRAYS.get(m["what"], ("x",)):
                site = _SITES.get(m["what"], name)
                try:
                    with zarr.config.set(_FAST if find_spec("zarrs") else {}):
                        arrays[site] = zarr.open_group(str(path), mode="r")[name]
                except Exception as e:  # zarr raises its own errors, KeyError, and those of its codecs
                    raise UsageError(
                        f"{printable_value(path)} is no store with an array `{name}`: {first_line(e) or type(e).__name__}."
                    ) from None
        self._folder, self._arrays = folder, arrays
        lead = 1 + choices.pop()
        self.choices = next(iter(arrays.values())).shape[1] if lead == 2 else None
        for site, x in arrays.items():
            if x.ndim != lead + _dims(site):
                raise UsageError(
                    f"{printable_value(folder)}: the array of {site} has the shape {x.shape}, which is none of it."
                )
        self.length = {site: x.shape[-2] for site, x in arrays.items()}.pop("attn", None) or next(
            iter(arrays.values())
        ).shape[-2]
        layers = {x.shape[lead] - (site == "hidden") for site, x in arrays.items() if site != "resid.embed"}
        if len(layers) > 1 or any(x.shape[0] != count or x.shape[-2] != self.length for x in arrays.values()):
            raise UsageError(
                f"{printable_value(folder)}: stores and {TOKENS} ({count:,} rows) do not belong together: "
                + ", ".join(f"{site} {x.shape}" for site, x in arrays.items())
            )
        self.n_layers = layers.pop() if layers else 0
        self.causal = self._is_causal()
        self.specs = self._specs()

    def model(self, meta: Mapping[str, Any]) -> Any:
        """Describe the model, as far as shapes and `meta.json` tell."""
        shapes = {key.site: spec.row_shape for key, spec in self.specs.items()}
        heads = shapes.get("q", shapes.get("attn", (0,)))[0]
        name = next((meta[k] for k in ("model", "model_name", "model_id") if isinstance(meta.get(k), str)), "unknown")
        return unknown_model(
            n_layers=self.n_layers,
            d_model=next((s[0] for site, s in shapes.items() if site.startswith(("resid", "hidden"))), 0),
            n_heads=heads,
            n_kv_heads=shapes.get("k", (heads,))[0],
            d_head=shapes.get("q", (0, 0))[-1],
            d_value=shapes.get("v", (0, 0))[-1],
            causal=self.causal,
            side=self.side,
            name=name,
        )

    def _specs(self) -> dict[Key, TensorSpec]:
        """Return what is stored: each state once, though the arrays hold some of them two and three times."""
        specs: dict[Key, TensorSpec] = {}
        self._reads: dict[Key, tuple[str, int | None]] = {}

        def add(key: Key, site: str, layer: int | None) -> None:
            x = self._arrays[site]
            shape = (
                (x.shape[-3],)
                if key.site == "attn"
                else (x.shape[-3], x.shape[-1])
                if key.site in ("q", "k", "v")
                else x.shape[-1:]
            )
            kind = (TRIANGLE if self.causal else SQUARE) if key.site == "attn" else "token"
            specs[key] = TensorSpec(
                stored_dtype(x.dtype, f"{printable_value(self._folder)}: {site}"), tuple(shape), kind
            )
            self._reads[key] = site, layer

        has, last = self._arrays.__contains__, self.n_layers
        for site in ("resid.post_attn", "resid.post_mlp", "q", "k", "v", "attn"):
            for layer in range(last) if has(site) else ():
                add(Key(self.side, site, layer), site, layer)
        entering = next((s for s in ("resid.embed", "resid.pre_attn", "hidden") if has(s)), None)
        if entering is not None:
            add(Key(self.side, "resid.embed", None), entering, None if entering == "resid.embed" else 0)
        outputs = next((s for s in ("hidden", "resid.pre_attn") if has(s)), None)
        if not has("resid.post_mlp") and outputs is not None:
            for layer in range(last - 1):
                add(Key(self.side, "resid.post_mlp", layer), outputs, layer + 1)
        if has("hidden"):
            add(Key(self.side, "hidden", last), "hidden", last)
        self._check_derived()
        return specs

    def _check_derived(self) -> None:
        """Check that arrays that hold the same states are equal; raise UsageError where one would be lost."""
        pairs = [("hidden", "resid.embed", "resid.post_mlp"), ("resid.pre_attn", "resid.embed", "resid.post_mlp")]
        for n in range(min(_CHECKED, next(iter(self._arrays.values())).shape[0])):
            for twice, first, after in pairs:
                if twice not in self._arrays:
                    continue
                states = np.asarray(self._arrays[twice][n])
                axis = int(self.choices is not None)
                for other, layers in ((first, slice(0, 1)), (after, slice(1, self.n_layers))):
                    if other not in self._arrays:
                        continue
                    own = np.asarray(self._arrays[other][n])
                    own = np.expand_dims(own, axis) if other == first else np.take(own, range(self.n_layers - 1), axis)
                    same = np.take(states, range(*layers.indices(states.shape[axis])), axis)
                    if not np.array_equal(own, same.astype(own.dtype)):
                        raise UsageError(
                            f"{printable_value(self._folder)}: {twice} of text {n} is not what {other} says, though both are of the same states. "
                            f"Move the wrong store elsewhere."
                        )

    def _is_causal(self) -> bool:
        """Whether no token of the first texts attends to one after it."""
        if "attn" not in self._arrays:
            return self.side == "dec"
        x = self._arrays["attn"]
        return not any(looks_ahead(np.asarray(x[n])) for n in range(min(_CHECKED, x.shape[0])))

    def read(self, n: int, seq: int, length: int) -> dict[Key, np.ndarray]:
        """Read the tensors of a sequence, without padding.

        Returns:
            (rows, *row_shape) each.

        Raises:
            UsageError: A store is damaged.
        """
        boxes: dict[str, np.ndarray] = {}
        alone: dict[str, int | None] = {}
        for site, layer in self._reads.values():
            alone[site] = layer if site not in alone else None
        for site, layer in alone.items():
            where = (n,) if self.choices is None else (n, seq)
            try:
                boxes[site] = np.asarray(self._arrays[site][where if layer is None else (*where, layer)])
            except Exception as e:  # as above
                raise UsageError(
                    f"{printable_value(self._folder)}: {site} of text {n} cannot be read: {first_line(e) or type(e).__name__}."
                ) from None
        attention = self._pairs(boxes.get("attn"), length)
        return {
            key: attention[key.layer]
            if key.site == "attn" and key.layer is not None
            else self._rows(boxes[site], None if alone[site] is not None else layer, length)
            for key, (site, layer) in self._reads.items()
        }

    def _rows(self, box: np.ndarray, layer: int | None, length: int) -> np.ndarray:
        """Return the rows of one layer: (T, …), with heads before the width."""
        x = box if layer is None else box[layer]
        return np.ascontiguousarray(x[:length] if x.ndim == 2 else np.moveaxis(x[:, :length], 0, 1))

    def _pairs(self, box: np.ndarray | None, length: int) -> np.ndarray:
        """Return the rows of attention of all layers, (L, pairs, H)."""
        if box is None:
            return np.empty(0)
        patterns = box[:, :, :length, :length]
        if self.causal and looks_ahead(patterns):
            raise UsageError(
                f"{printable_value(self._folder)}: a token attends to one after it, though none of the first texts' do."
            )
        return attention_rows(patterns, TRIANGLE if self.causal else SQUARE)


def _dims(site: str) -> int:
    """Return the number of axes of a site's array after texts and choices."""
    return {"attn": 4, "q": 4, "k": 4, "v": 4, "resid.embed": 2}.get(site, 3)


def _encodings(fields: Mapping[str, Any], where: str) -> list[np.ndarray]:
    """Return the token ids of a row, one array a sequence, padding left out.

    Raises:
        UsageError: There are none.
    """
    value = fields.get("encodings", fields.get("input_ids"))
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise UsageError(f"{where}: its encodings are a text that is not JSON.") from None
    several = value if isinstance(value, list) and value and isinstance(value[0], dict | list) else [value]
    if isinstance(value, dict) and value.get("input_ids") and isinstance(value["input_ids"][0], list):
        masks = value.get("attention_mask") or [None] * len(value["input_ids"])
        several = [{"input_ids": i, "attention_mask": m} for i, m in zip(value["input_ids"], masks, strict=True)]
    found = []
    for one in several:
        ids, mask = (one.get("input_ids"), one.get("attention_mask")) if isinstance(one, dict) else (one, None)
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise UsageError(f"{where} has no token ids in its encodings (input_ids).")
        if mask is not None and (len(mask) != len(ids) or 1 in mask[(n := sum(map(bool, mask))) :]):
            raise UsageError(f"{where}: its attention_mask is not ones followed by zeros, one for each token.")
        found.append(np.asarray(ids if mask is None else ids[:n], np.int64))
    return found
