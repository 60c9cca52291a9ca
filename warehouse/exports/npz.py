"""A folder of `.npz` files, one a sequence, that numpy alone reads.

    FOLDER/index.json                  which run, and the files
    FOLDER/EXAMPLE-SEQ.npz             an array a site, `token_ids` (T,), and `about`

An array has the site's name and shape (L, …), or (…) for a site without layers; where layers differ in shape, each has an array of its
own, `q.L03`. `about` is JSON in a 0-d array of text: run, model, example, tokens, and the layers of every site.

    with np.load("out/0de7ea9afe375237-0.npz") as f:
        f["resid.post_mlp"]                          # (L, T, D)
        json.loads(f["about"].item())["tokens"]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from warehouse.errors import UsageError
from warehouse.exports.chosen import ExportedSequence, choose_examples, exported_side, sequences
from warehouse.exports.json_text import to_json
from warehouse.exports.lineage import lineage
from warehouse.exports.site_arrays import SiteLayers, choose_sites, read_layer
from warehouse.exports.target import INDEX, new_folder, safe_name
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

DEFAULT_SITES = ("resid.post_mlp", "attn")


def npz(
    wh: Warehouse,
    run: str,
    folder: str | Path,
    *,
    sites: Sequence[str] = (),
    layers: str | Sequence[int] = "all",
    examples: Sequence[str] = (),
    where: str | None = None,
    force: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write tensors of a run as `.npz` files, one a sequence.

    Example:
        exports.npz(wh, "demo", "arrays", sites=["resid.post_mlp"], layers=[15])

    Args:
        wh: The warehouse.
        run: The run.
        folder: The folder that is written.
        sites: Sites, or groups of them as `--capture` takes them; none: `resid.post_mlp` and `attn`, those that the run has.
        layers: `all`, or some.
        examples: Ids of examples, or beginnings of them; none: all that have tensors.
        where: A SQL condition on the columns of the table `examples`.
        force: Whether to replace an export that is there.
        report: Called with the files that are written, and about how many there will be.

    Returns:
        The number of files.

    Raises:
        UsageError: The run does not have a site, no example with tensors is chosen, or the folder is there.
    """
    store = wh.run(run)
    side = exported_side(store)
    stack = store.meta.model.stack(side)
    chosen_sites = choose_sites(
        store, sites or [s for s in DEFAULT_SITES if s in store.sites] or DEFAULT_SITES, side, layers
    )
    chosen = examples_with_tensors(store, choose_examples(wh, store, examples, where))
    files: list[dict[str, Any]] = []
    with new_folder(Path(folder), wh.root, force=force) as written:
        for sequence in sequences(store, chosen, side):
            name = f"{safe_name(sequence.name)}.npz"
            arrays = _arrays(store, sequence, chosen_sites, side)
            about = lineage(store) | {
                "side": side,
                "n_layers": stack.n_layers,
                "convention": stack.convention,
                "final_norm": stack.final_norm,
                "example_id": sequence.example_id,
                "seq": sequence.seq,
                "n_prompt_tokens": sequence.n_prompt_tokens,
                "tokens": sequence.tokens,
                "layers": {s.site: s.layers for s in chosen_sites if s.layers != [None]},
            }
            np.savez(
                written / name, allow_pickle=False, **arrays,
                token_ids=np.array(sequence.token_ids, np.int32), about=np.array(json.dumps(about)),
            )  # fmt: skip
            files.append({"file": name, "example_id": sequence.example_id, "seq": sequence.seq})
            report(len(files), max(len(chosen), len(files)))
        index = lineage(store) | {"format": "npz", "sites": [s.site for s in chosen_sites], "files": files}
        (written / INDEX).write_bytes(to_json(index, indent=True))
    return len(files)


def examples_with_tensors(store: TraceStore, examples: Sequence[str]) -> list[str]:
    """Return those of some examples whose tensors the run keeps.

    Raises:
        UsageError: It keeps those of none.
    """
    kept = [e for e in examples if store.keeps(e)]
    if not kept:
        raise UsageError(f"There is nothing to export: {store.left_out()}.")
    return kept


def _arrays(
    store: TraceStore, sequence: ExportedSequence, chosen: Sequence[SiteLayers], side: str
) -> dict[str, np.ndarray]:
    """Return the arrays of a sequence by name."""
    arrays: dict[str, np.ndarray] = {}
    for site, layers in chosen:
        read = {layer: read_layer(store, sequence, site, layer, side) for layer in layers}
        if layers == [None]:
            arrays[site] = read[None]
        elif len({x.shape for x in read.values()}) == 1:
            arrays[site] = np.stack(list(read.values()))
        else:
            arrays |= {f"{site}.L{layer:02}": x for layer, x in read.items()}
    return arrays
