"""`traces features train`: a dictionary of a run's stored states."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from warehouse.cli.option_groups import Panel
from warehouse.cli.options import WarehouseOption, parse_layers
from warehouse.errors import UsageError


def train(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN…", help="Runs of one model that kept the states, as `traces runs` lists them."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The folder that the dictionary becomes; rows name it by the folder's name.",
            show_default=False,
            rich_help_panel=Panel.WRITTEN,
        ),
    ],
    site: Annotated[
        str, typer.Option(help="What it reads: `resid.post_mlp`, `mlp_out`, …", rich_help_panel=Panel.READ)
    ] = "resid.post_mlp",
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="The layer of the site; of several, each gets a dictionary of its own, DIR-L15 and so on.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    where: Annotated[
        str,
        typer.Option(
            metavar="SQL",
            help="A condition on columns of `token_diagnostics`; `true` takes all tokens.",
            rich_help_panel=Panel.READ,
        ),
    ] = "pos > 0 AND NOT is_special",
    held_out: Annotated[
        float,
        typer.Option(
            help="The share of the examples that is measured on, and not trained on.", rich_help_panel=Panel.READ
        ),
    ] = 0.1,
    features: Annotated[
        int, typer.Option(min=1, help="How many features it has.", rich_help_panel=Panel.COMPUTED)
    ] = 4096,
    k: Annotated[
        int,
        typer.Option(
            "-k", "--k", min=1, help="How many of them are active at a token.", rich_help_panel=Panel.COMPUTED
        ),
    ] = 32,
    tokens: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many states are trained on; more than there are: several times.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = 1_000_000,
    batch_size: Annotated[int, typer.Option(min=1, help="States in a step.", rich_help_panel=Panel.COMPUTED)] = 2048,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate; by default 0.004 for 4,096 features, and less with the root of more.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None,
    normalize: Annotated[
        str,
        typer.Option(
            help="`layer_norm`: each state by itself; `none`: all by one factor, which the weights absorb.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "layer_norm",
    seed: Annotated[
        int,
        typer.Option(
            help="Seed for the first weights, the order of the states and which examples are held out.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = 0,
    dtype: Annotated[
        str,
        typer.Option(
            help="The precision of the weights that are written: `float32`, `float16` or `bfloat16`.",
            rich_help_panel=Panel.WRITTEN,
        ),
    ] = "float32",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, …", rich_help_panel=Panel.RUNNING)
    ] = "auto",
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace a dictionary that is there, or another training that was interrupted.",
            rich_help_panel=Panel.WRITTEN,
        ),
    ] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Train a sparse dictionary on a run's stored states: a top-k autoencoder, in a folder that SAELens loads too.

    No model is loaded. Whole examples are held out, and the explained variance is that of their states. The folder has cfg.json,
    sae_weights.safetensors, and training.jsonl with what was measured meanwhile. The same command again continues one that was interrupted.

    Examples:
        traces features train first --layers 15 --out saes/smollm2-15
        traces features train first --site mlp_out --layers 3 --features 8192 -k 64 --tokens 10000000 --out saes/mlp3

    Raises:
        UsageError: `--layers` is not a list of layers.
    """
    from warehouse.warehouse import Warehouse

    with needs_capture_extra():
        from capture.api.progress import dictionary_progress
        from capture.features.train_dictionary import Options
        from capture.features.train_dictionary import train as train_dictionary
    chosen = (None,) if layers is None else parse_layers(layers)
    if isinstance(chosen, str):
        raise UsageError("--layers all: name the layers, as in 0,15; each gets a dictionary of its own.")
    for layer in chosen:
        target = out if len(chosen) == 1 else out.with_name(f"{out.name}-L{layer}")
        options = Options(
            site, layer, where, held_out, features, k, tokens, batch_size, lr, normalize, seed, dtype, device
        )  # fmt: skip
        with Warehouse(warehouse) as wh, stopped_by_signals(), dictionary_progress(note) as report:
            trained = train_dictionary(wh, runs, options, target, force=force, report=report)
        typer.echo(
            f"{trained.dictionary.name}: {trained.explained_variance:.1%} of the variance of {trained.held_out_tokens:,} tokens of "
            f"{trained.held_out_examples:,} examples held out is explained by {trained.l0:.1f} of {trained.dictionary.n_features:,} "
            f"features; {trained.dead:,} are dead"
        )
        typer.echo(f"next: traces features encode {runs[0]} --sae {target}")
