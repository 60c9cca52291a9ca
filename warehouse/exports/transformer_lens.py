"""A folder of activation caches for TransformerLens, a safetensors file a sequence.

    FOLDER/index.json                      which run, and the files
    FOLDER/EXAMPLE-SEQ.safetensors         a tensor a hook, with a batch of 1

    ActivationCache(load_file("FOLDER/EXAMPLE-0.safetensors"), model)

Names and shapes are those of a `HookedTransformer` whose weights are as published (`from_pretrained_no_processing`); what the run does not
have is not in the file:

    blocks.L.hook_resid_pre, hook_resid_mid, hook_resid_post, hook_attn_out, hook_mlp_out     (1, T, D)
    blocks.L.attn.hook_rot_q, hook_rot_k, hook_v, of a model without rotation hook_q, hook_k  (1, T, H, d_head), (1, T, H_kv, d_head)
    blocks.L.attn.hook_pattern                                                                (1, H, T, T)
    blocks.L.mlp.hook_post                                                                    (1, T, D_mlp)
    unembed.hook_in                                                                           (1, T, D), after the final norm

Values have the dtype that they are stored in. The file's metadata has run, model, example, token ids and tokens, and `sites`: which of our
tensors each hook is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from warehouse.errors import UsageError
from warehouse.exports.chosen import ExportedSequence, choose_examples, exported_side, sequences
from warehouse.exports.json_text import to_json
from warehouse.exports.lineage import lineage, lineage_texts
from warehouse.exports.npz import examples_with_tensors
from warehouse.exports.site_arrays import SiteLayers, choose_sites
from warehouse.exports.target import INDEX, new_folder, safe_name
from warehouse.schema.sites import Key, tensor_name
from warehouse.storage.model_info import StackInfo
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

SITES = (
    "resid.pre_attn", "resid.post_attn", "resid.post_mlp", "attn_out", "mlp_out", "q", "k", "v", "attn", "mlp_act", "hidden",
)  # fmt: skip
"""The sites that TransformerLens has a hook for."""
_UNROTATED = ("GPT2", "OPT", "GPTNeoForCausalLM", "Bloom", "MPT", "GPTBigCode", "XGLM")
"""Beginnings of the names of classes whose q and k no rotation has gone over: their `hook_q` is what attention receives."""
_BLOCK_HOOKS = {
    "resid.pre_attn": "hook_resid_pre",
    "resid.post_attn": "hook_resid_mid",
    "resid.post_mlp": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "v": "attn.hook_v",
    "attn": "attn.hook_pattern",
    "mlp_act": "mlp.hook_post",
}


def transformer_lens(
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
    """Write activation caches for TransformerLens, one a sequence.

    Args:
        wh: The warehouse.
        run: A run of a decoder.
        folder: The folder that is written.
        sites: Sites, or groups of them as `--capture` takes them; none: all that the run has and TransformerLens has a hook for.
        layers: `all`, or some.
        examples: Ids of examples, or beginnings of them; none: all that have tensors.
        where: A SQL condition on the columns of the table `examples`.
        force: Whether to replace an export that is there.
        report: Called with the files that are written, and about how many there will be.

    Returns:
        The number of files.

    Raises:
        UsageError: TransformerLens has no names for a model of this kind or for a site, the run does not have it, no example with tensors
            is chosen, or the folder is there.
    """
    store = wh.run(run)
    side = exported_side(store)
    stack = store.meta.model.stack(side)
    if side != "dec" or stack.convention != "pre-norm":
        raise UsageError(
            f"{store.meta.model.architecture} is no decoder that normalises before it reads: TransformerLens has other streams there. "
            f"Take the arrays by our names: traces export npz {run}."
        )
    chosen_sites = _mapped(choose_sites(store, sites or _mapped_names(store), side, layers), stack)
    chosen = examples_with_tensors(store, choose_examples(wh, store, examples, where))
    files: list[dict[str, Any]] = []
    with new_folder(Path(folder), wh.root, force=force) as written:
        for sequence in sequences(store, chosen, side):
            name = f"{safe_name(sequence.name)}.safetensors"
            hooks: dict[str, str] = {}
            tensors: dict[str, np.ndarray] = {}
            for key, hook, array in _activations(store, sequence, chosen_sites):
                hooks[hook] = tensor_name(*key)
                tensors[hook] = array
            about = lineage_texts(store) | {
                "n_layers": str(stack.n_layers),
                "example_id": sequence.example_id,
                "seq": str(sequence.seq),
                "n_prompt_tokens": str(sequence.n_prompt_tokens),
                "token_ids": json.dumps(sequence.token_ids),
                "tokens": json.dumps(sequence.tokens),
                "sites": json.dumps(hooks),
            }
            save_file(tensors, written / name, about)
            files.append({"file": name, "example_id": sequence.example_id, "seq": sequence.seq})
            report(len(files), max(len(chosen), len(files)))
        index = lineage(store) | {"format": "transformer-lens", "files": files}
        (written / INDEX).write_bytes(to_json(index, indent=True))
    return len(files)


def hook_name(key: Key, stack: StackInfo, architecture: str) -> str:
    """Return the name of the hook that has what a tensor of ours has.

    Args:
        key: The tensor; of `hidden`, the last state.
        stack: The stack of the model.
        architecture: The name of the model's class.

    Returns:
        The name.
    """
    if key.site == "hidden":
        return "unembed.hook_in"
    if key.site in ("q", "k"):
        rotated = not architecture.startswith(_UNROTATED)
        return f"blocks.{key.layer}.attn.hook_{'rot_' if rotated else ''}{key.site}"
    return f"blocks.{key.layer}.{_BLOCK_HOOKS[key.site]}"


def _mapped_names(store: TraceStore) -> list[str]:
    """Return the sites of a run that TransformerLens has a hook for.

    Raises:
        UsageError: There is none.
    """
    store.check_not_expired()
    found = [site for site in SITES if site in store.sites]
    if not found:
        raise UsageError(
            f"Run '{store.meta.run_id}' has no tensors that TransformerLens has a name for: capture it with --capture resid,qkv."
        )
    return found


def _mapped(chosen: Sequence[SiteLayers], stack: StackInfo) -> list[SiteLayers]:
    """Return the sites with the layers that have a hook of their own.

    Raises:
        UsageError: TransformerLens has no hook for any of them.
    """
    found = []
    for site, layers in chosen:
        if site == "hidden":  # all but the last are streams that have names already
            layers = [layer for layer in layers if layer == stack.n_layers and stack.final_norm]
        if layers and site in SITES and not (site == "resid.post_attn" and stack.parallel):
            found.append(SiteLayers(site, layers))
    if not found:
        raise UsageError(
            f"TransformerLens has no hook for {', '.join(x.site for x in chosen)}: it has {', '.join(SITES)}."
        )
    return found


def _activations(
    store: TraceStore, sequence: ExportedSequence, chosen: Sequence[SiteLayers]
) -> Iterator[tuple[Key, str, np.ndarray]]:
    """Yield the tensors of a sequence, each with its hook."""
    stack, architecture = store.meta.model.stack("dec"), store.meta.model.architecture
    for site, layers in chosen:
        for layer in layers:
            key = Key("dec", site, layer)
            if site == "attn":
                array = store.attn(sequence.example_id, layer, seq=sequence.seq)
            elif site.startswith("resid."):
                array = store.resid(sequence.example_id, site.removeprefix("resid."), layer, seq=sequence.seq)
            else:  # q, k and v have (T, heads, d_head) as they are stored, and so there
                array = store.rows(key, sequence.example_id, sequence.seq)
            yield key, hook_name(key, stack, architecture), np.ascontiguousarray(array)[None]
