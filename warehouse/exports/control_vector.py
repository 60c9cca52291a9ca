"""A trait's vectors as a GGUF control vector, which llama.cpp adds to the residual stream (`--control-vector`).

The file has `general.architecture` = `controlvector`, and a float32 tensor `direction.N` (D,) a layer. N is the block to whose output it is
added, 0-based: it is our layer N, and that of repeng too. llama.cpp has no place for block 0 and refuses `direction.0`, so that layer 0
is left out, as is `resid.embed`. Keys that begin with `trace_warehouse.` say which run, trait and method it is of.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from warehouse.errors import UsageError
from warehouse.exports.lineage import lineage_texts
from warehouse.exports.target import new_file
from warehouse.exports.trait_directions import trait_directions
from warehouse.warehouse import Warehouse

ARCHITECTURE = "controlvector"
PREFIX = "trace_warehouse"


def control_vector(
    wh: Warehouse,
    run: str,
    file: str | Path,
    *,
    trait: str | None = None,
    method: str | None = None,
    layers: str | Sequence[int] = "all",
    scale: str = "unit",
    force: bool = False,
) -> list[int]:
    """Write the vectors of a trait as a GGUF control vector.

    Needs gguf (`trace-warehouse[capture]`).

    Example:
        exports.control_vector(wh, "capitals-smollm2-vectors", "capitals.gguf", layers=[15])

    Args:
        wh: The warehouse.
        run: A run of kind trait-vectors.
        file: The file that is written.
        trait: The trait; None where the run has one.
        method: How the vectors were made; None: `mean_diff`, or the only one.
        layers: `all`, or some; never layer 0.
        scale: `unit`, or `gap`: the length of one unit of `traces trait steer`.
        force: Whether to replace a file that is there.

    Returns:
        The layers that are in the file.

    Raises:
        UsageError: There is nothing to write, gguf is missing, or the file is there.
    """
    try:
        from gguf import GGUFWriter
    except ModuleNotFoundError:
        raise UsageError("Control vectors need gguf: pip install 'trace-warehouse[capture]'") from None
    found = trait_directions(wh, run, trait=trait, method=method, layers=layers, scale=scale)
    vectors = {layer: vector for layer, vector in found.vectors.items() if layer > 0}
    if not vectors:
        raise UsageError("llama.cpp adds nothing to the output of block 0: choose layers from 1 on.")
    about = {"run_id": found.run, "trait": found.trait, "method": found.method, "scale": found.scale}
    with new_file(Path(file), wh.root, force=force) as written:
        writer = GGUFWriter(written, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", found.model_hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        for name, value in (lineage_texts(wh.run(run)) | about).items():
            writer.add_string(f"{PREFIX}.{name}", value)
        for layer, vector in vectors.items():
            writer.add_tensor(f"direction.{layer}", vector)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return list(vectors)
