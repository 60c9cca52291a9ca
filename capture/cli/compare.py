"""`traces compare`: where two models that read the same texts differ, from what their runs have stored."""

from __future__ import annotations

from typing import Annotated

import typer

from capture.cli.options import LoadOptions
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import WarehouseOption, dry_run_option, run_option

_NEXT = {
    "comparisons": "compared_tokens",
    "head_changes": "changed_heads",
    "layer_similarity": "similar_layers",
    "moved_directions": "moved_layers",
}
"""What to ask next, by the table that it is asked of."""


@with_groups(fixed={"revision": None, "dtype": "auto", "device_map": None})
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A captured run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="A run of the same texts by another model.")],
    loading: LoadOptions,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Where the model of A lies now, if not where it was; it must have the same weights.",
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    other_model: Annotated[
        str | None,
        typer.Option("--other-model", help="Where the model of B lies now.", rich_help_panel=Panel.READ),
    ] = None,
    what: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="`predictions` (KL, top-1 and losses, token by token), `layers` (how alike states are), `directions` (along which they "
            "moved), `heads` (how attention changed). By default all that the two runs have stored enough for.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "",
    layers: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="Which layers' states and heads are compared: `0,5,mid`, `last`, `embed`, or `all` that are stored.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "all",
    tokens: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many tokens layers, directions and heads are compared over.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = 2048,
    pairs: Annotated[
        str,
        typer.Option(
            help="Which pairs of layers Procrustes compares: `same` numbers, `all`, or `none`; CKA compares all.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "same",
    directions: Annotated[
        int,
        typer.Option(min=1, help="How many directions of each layer are kept.", rich_help_panel=Panel.KEPT),
    ] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the tokens that are drawn.", rich_help_panel=Panel.COMPUTED)] = 0,
    name: Annotated[str | None, run_option("A-B")] = None,
    dry_run: Annotated[
        bool,
        dry_run_option("Say how many tokens the two share, and how large the comparison gets; write nothing."),
    ] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Compare two models by two runs of the same texts: a base and a fine-tuned model, two checkpoints, two precisions.

    Nothing is run through the models' blocks. At every token that both have read after the same text, their heads say from the stored
    last states what comes next, and the table `comparisons` has how far the two distributions are apart (KL, nats), the most probable
    token of both, and both losses. With other tokenizers losses alone are compared, by spans of text that both cut alike.

    Over a sample of these tokens, `layer_similarity` has how alike the states of each pair of layers are (debiased linear CKA, and
    orthogonal Procrustes), `moved_directions` along which directions a layer's states moved, and `head_changes` how differently each
    head attends. The result is a run of its own; the same command again continues one that was interrupted.

    Examples:
        traces compare base tuned
        traces sql --query compared_tokens --set run=base-tuned
        traces compare base tuned --what layers,heads --layers 0,mid,last --tokens 4096 --run closer
    """
    from warehouse.storage import paths
    from warehouse.storage.run_list import check_free, find_run
    from warehouse.storage.trace_store import TraceStore

    root = paths.find_root(warehouse)
    folders = find_run(root, a), find_run(root, b)
    with needs_capture_extra():
        from capture.api.progress import capture_progress
        from capture.comparisons import compare_run as job
    options = job.Options(what, layers, tokens, pairs, directions, seed)
    wanted = job.forecast(*folders, options)
    for folder in folders:
        if line := TraceStore(folder).left_out():
            note(line)
    if dry_run:
        typer.echo(f"{wanted.tokens:,} tokens of {wanted.sequences:,} sequences: {', '.join(wanted.plan.parts)}")
        for part, why in wanted.plan.left_out.items():
            typer.echo(f"{part} would not be compared: {why}")
        typer.echo(f"about {wanted.bytes / 1e6:,.1f} MB; nothing is written")
        return
    run_id = name or f"{a}-{b}"
    check_free(root, run_id)
    with stopped_by_signals(), capture_progress(wanted.sequences, note, "sequences") as (report, say):
        manifest = job.run(
            *folders,
            lambda side: loading.load_of_run(folders[side], (model, other_model)[side]),
            options,
            root=root,
            run_id=run_id,
            report=report,
            note=say,
        )
    made = ", ".join(f"{n:,} rows of {table}" for table, n in manifest.counts.rows.items() if n)
    typer.echo(f"{manifest.run_id}: {made} in {manifest.seconds:.1f} s")
    query = next(q for table, q in _NEXT.items() if manifest.counts.rows.get(table))
    typer.echo(f"next: traces sql --query {query} --set run={manifest.run_id}")
