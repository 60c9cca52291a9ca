"""Sparse dictionaries from Python: they are trained on a run's states, read and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture.api.arguments import find_source_run, in_python_terms
from capture.api.progress import dictionary_progress
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from capture.features.dictionary import Dictionary
    from capture.features.train_dictionary import Trained


@in_python_terms
def read_dictionary(folder: str | Path) -> Dictionary:
    """Read a sparse autoencoder or transcoder that SAELens or `train_dictionary` has saved.

    Example:
        sae = capture.read_dictionary("saes/smollm2-15")
        sae.encode(states)  # (n, n_features); sae.direction(7) is what feature 7 adds to a state

    Args:
        folder: A folder with `cfg.json` and `sae_weights.safetensors`.

    Returns:
        The dictionary, on the CPU.

    Raises:
        UsageError: It is no such folder, damaged, or of a kind that is not supported.
    """
    from capture.features import saelens_folder

    return saelens_folder.read_dictionary(folder)


@in_python_terms
def train_dictionary(
    source: TraceStore | str | Sequence[TraceStore | str],
    out: str | Path,
    *,
    site: str = "resid.post_mlp",
    layer: int | None = None,
    where: str = "pos > 0 AND NOT is_special",
    held_out: float = 0.1,
    features: int = 4096,
    k: int = 32,
    tokens: int = 1_000_000,
    batch_size: int = 2048,
    lr: float | None = None,
    normalize: str = "layer_norm",
    seed: int = 0,
    dtype: str = "float32",
    device: str = "auto",
    root: str | AnyPath | None = None,
    force: bool = False,
) -> Trained:
    """Train a top-k autoencoder on stored states, and write it as a folder that SAELens loads too.

    No model is loaded. The same call again continues one that was interrupted.

    Example:
        trained = capture.train_dictionary("first", "saes/smollm2-15", layer=15)
        trained.explained_variance, trained.dictionary.direction(7)

    Args:
        source: A run that kept the states, its name, or several of one model.
        out: The folder that the dictionary becomes; it is named after it.
        site: What it reads: `resid.post_mlp`, `mlp_out`, ….
        layer: The layer of the site; None for a site without layers.
        where: A SQL condition on columns of `token_diagnostics`.
        held_out: The share of the examples that is measured on, and not trained on.
        features: How many features it has.
        k: How many of them are active at a token, at most.
        tokens: How many states are trained on; more than there are: several times.
        batch_size: States in a step.
        lr: Learning rate; None: by the number of features.
        normalize: `layer_norm`: each state by itself; `none`: all by one factor, which the weights absorb.
        seed: Decides the first weights, the order of the states and which examples are held out.
        dtype: The precision of the weights that are written.
        device: Where to train: `auto`, `cpu`, `cuda`, ….
        root: The warehouse's folder; None: that of the source, else `$TRACES_HOME`, else `./runs`.
        force: Whether to replace a dictionary that is there.

    Returns:
        The dictionary, and how well it does on the examples held out.

    Raises:
        UsageError: The runs have no such states or too few examples, or `out` is there already.
        NotFoundError: There is no such run.
        TracesError: The training diverged, or there is too little memory.
    """
    given: list[Any] = list(source) if isinstance(source, list | tuple) else [source]
    found = [find_source_run(run, root) for run in given]
    from capture.features.train_dictionary import Options, train

    options = Options(
        site, layer, where, held_out, features, k, tokens, batch_size, lr, normalize, seed, dtype, device
    )  # fmt: skip
    home = found[0][0] if found else paths.find_root(root)
    with Warehouse(home) as wh, dictionary_progress() as report:
        return train(wh, [paths.run_id_of(folder) for _, folder in found], options, out, force=force, report=report)
