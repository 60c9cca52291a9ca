"""The commands of `traces export` that need torch or datasets; the others are in `warehouse/cli/export.py`."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.cli.terminal import needs_capture_extra
from warehouse.cli.export import ExampleOptions, ForceOption, OutFolder, opened
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import LayersOption, RunArgument, WarehouseOption, parse_layers
from warehouse.cli.terminal import say


@with_groups()
def sae_lens(
    run: RunArgument,
    chosen: ExampleOptions,
    output: OutFolder,
    layers: LayersOption,
    site: Annotated[
        str,
        typer.Option(
            help="The site: `resid.pre_attn`, `resid.post_attn`, `resid.post_mlp`, `attn_out`, `mlp_out` or `mlp_act`.",
            rich_help_panel=Panel.READ,
        ),
    ] = "resid.post_mlp",
    context_size: Annotated[
        int, typer.Option(help="Tokens in a row; texts are cut into pieces of so many.", rich_help_panel=Panel.READ)
    ] = 128,
    force: ForceOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Write activations of layers in the format that SAELens caches them in, to train sparse autoencoders from.

    SAELens reads the folder as cached_activations_path. What is left over at the end of a text is not written.

    Examples:
        traces export sae-lens wt2 --layers 15 -o activations
        traces export sae-lens wt2 --layers 10,15 --site mlp_out --context-size 64 -o activations
    """
    which = parse_layers(layers)
    with needs_capture_extra():
        from capture import exports

        with opened(warehouse, "examples") as (wh, report):
            written = exports.sae_activations(
                wh, run, output, layers=which, site=site, context_size=context_size, **chosen.to_arguments(), force=force,
                report=report,
            )  # fmt: skip
    say(
        f"{output}: {written.rows:,} rows of {context_size} tokens; hook_name={' or '.join(written.hooks)} d_in={written.width} "
        f"context_size={context_size}; {written.left_out:,} tokens at the ends of texts left out"
    )


@with_groups()
def trait_tensors(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run with responses, or with vectors of traits.")],
    chosen: ExampleOptions,
    output: OutFolder,
    force: ForceOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Write activations or vectors of a trait as files of torch, in the layout of trait pipelines.

    Of responses: activations/all_layers.pt, (examples, layers, width), a mean over each response's tokens. Of vectors: a file a layer. What is
    in them is beside them in JSON.

    Examples:
        traces export trait-tensors capitals-smollm2-responses -o activations
        traces export trait-tensors capitals-smollm2-vectors -o vectors
    """
    with needs_capture_extra():
        from capture import exports

        with opened(warehouse, "responses") as (wh, report):
            files = exports.trait_tensors(wh, run, output, **chosen.to_arguments(), force=force, report=report)
    say(f"{output}: {len(files):,} files of tensors")
