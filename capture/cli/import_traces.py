"""`traces import`: files of other tools become runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from warehouse.cli.option_groups import Panel
from warehouse.cli.options import WarehouseOption


def import_traces(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="The file; or a folder of stores, or of files that are read in the order of their names.",
        ),
    ],
    run: Annotated[
        str,
        typer.Option("--run", metavar="RUN", help="Name of the run that is written.", rich_help_panel=Panel.WRITTEN),
    ],
    format: Annotated[
        str,
        typer.Option(
            help="`transformer-lens` (caches: .pt, .safetensors, .npz), `nnsight` (saves of outputs of modules), `sae-lens` "
            "(cached activations), `npz` (of `traces export npz`), `vllm` (hidden states, a file a request), `zarr` (padded stores), "
            "`control-vector` (.gguf), `trait-vectors` and `trait-means` (of trait pipelines); `auto`: what it looks like.",
            rich_help_panel=Panel.READ,
        ),
    ] = "auto",
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Token ids of the texts, for tensors that come without: .json with a list for each text, .npy, .npz, .pt or .safetensors.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="1,15,30",
            help="For `vllm`: the layers that the server was told to save, as it counts them.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model whose tokenizer made the ids, for the texts of tokens and their places; its weights are not read.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="For vectors of traits: the model whose states they are directions of, so that its runs can be projected on them.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be imported, and write nothing.", rich_help_panel=Panel.WRITTEN),
    ] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Make a run of tensors that another tool wrote: their tokens, and every tensor of a place that we have a name for.

    Nothing in a file is executed. What it does not tell stays unknown: without `--tokenizer` tokens are the texts that the file has, or
    else their ids; there are no predictions; and attention is there where it was stored. The same command again goes on with an
    import that was interrupted.

    Examples:
        traces import cache.pt --tokenizer gpt2 --run cached
        traces import old-run/ --run old --dry-run
        traces import happy.gguf --model smollm2 --run happy
        traces import states/ --format vllm --layers 1,15,30 --tokenizer Qwen/Qwen3-8B --run served
    """
    with needs_capture_extra():
        from capture.api.imports import import_file

    from capture.imports.opened import open_traces
    from warehouse.storage import paths, run_list

    root = paths.find_root(warehouse)
    run_list.check_free(root, paths.check_run_name(run))
    numbers = None if layers is None else _numbers(layers)
    if dry_run:
        for line in open_traces(path, format, tokens, numbers).forecast():
            typer.echo(line)
        return
    with stopped_by_signals():
        manifest = import_file(
            path, format, tokens, numbers, tokenizer, None if model is None else lambda: _load(model), root, run, note
        )
    for what in manifest.options.get("left_out", ()):
        note(f"left out: {what}")
    counts = manifest.counts
    if vectors := counts.rows.get("trait_vectors"):
        typer.echo(f"{manifest.run_id}: {vectors:,} vectors of {', '.join(manifest.options['traits'])}")
        typer.echo(f"next: traces trait project RUN --vectors {manifest.run_id}")
        return
    typer.echo(
        f"{manifest.run_id}: {counts.examples:,} examples, {counts.tokens:,} tokens, {manifest.bytes / 1e6:,.1f} MB in {manifest.seconds:.1f} s"
    )
    typer.echo(f"next: traces runs show {manifest.run_id}")


def _load(model: str) -> Any:
    """Load a model by its name, and say so."""
    from capture.model import loading

    note(f"loading {model}")
    return loading.load(model)


def _numbers(text: str) -> list[int]:
    """Return the numbers in a text with commas; raise UsageError where it holds something else."""
    from capture.data.files import printable_value
    from warehouse.errors import UsageError

    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and len(word) < 6 for word in words):
        raise UsageError(f"--layers {printable_value(text)}: give numbers, such as 1,15,30.")
    return [int(word) for word in words]
