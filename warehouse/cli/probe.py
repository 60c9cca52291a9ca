"""`traces probe`: what of a label can be read off the vectors of each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from warehouse.cli.option_groups import Panel
from warehouse.cli.options import FormatOption, LayersOption, WarehouseOption, parse_layers, run_option
from warehouse.cli.output import Format, write
from warehouse.errors import UsageError


def probe(
    query: Annotated[
        str, typer.Argument(help="SQL that gives run_id, example_id, seq, pos of tokens, and their labels AS y.")
    ],
    site: Annotated[
        str, typer.Option(help="What to probe: `resid.post_mlp`, `hidden`, `q`, …", rich_help_panel=Panel.READ)
    ] = "resid.post_mlp",
    layers: LayersOption = "all",
    head: Annotated[
        int | None,
        typer.Option(help="For a site with heads: which query head.", show_default=False, rich_help_panel=Panel.READ),
    ] = None,
    target: Annotated[str, typer.Option(help="The column with the labels.", rich_help_panel=Panel.READ)] = "y",
    max_tokens: Annotated[
        int,
        typer.Option(
            min=10,
            help="The most tokens to look at; of more, a sample of examples is taken.",
            rich_help_panel=Panel.READ,
        ),
    ] = 10_000,
    test: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=0.99,
            help="Fraction held out to measure the probe on, in whole examples.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = 0.25,
    c: Annotated[
        float,
        typer.Option(
            "--c", help="Inverse strength of the penalty on the coefficients.", rich_help_panel=Panel.COMPUTED
        ),
    ] = 0.1,
    seed: Annotated[
        int,
        typer.Option(help="Seed for the split, the sample and the shuffled labels.", rich_help_panel=Panel.COMPUTED),
    ] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw accuracy by layer: .svg, .png or .pdf.", rich_help_panel=Panel.WRITTEN),
    ] = None,
    run: Annotated[
        str | None,
        run_option("made from the query and the options"),
    ] = None,
    warehouse: WarehouseOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """Fit a logistic probe a layer, measure it on examples that it has not seen, and keep it as a run with a table `probes`.

    Examples are split so that each label has its share on both sides. low and high are the accuracy's 95 % interval: Wilson's
    where each token is an example of its own, else the same for as many independent tokens as those examples are worth. majority
    is what the commonest training label gets on the held-out tokens; shuffled is the mean of ten probes fitted to shuffled
    labels, and sd their standard deviation.

    The query is one SELECT. What is written is the new run, and FILE, which must not lie in the warehouse. The same command
    again continues one that was interrupted.

    Examples:
        traces probe "SELECT run_id, example_id, seq, pos, upos AS y FROM token_diagnostics WHERE run_id = 'words'" --layers 0,15,29 --plot upos.svg

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError("Probes need scikit-learn: pip install 'trace-warehouse[capture]'") from None
    from warehouse import plots
    from warehouse.analysis import probes
    from warehouse.cli.picture_file import check_picture, save
    from warehouse.warehouse import Warehouse

    chosen = parse_layers(layers)

    def report(p: probes.ProbeProgress) -> None:
        result = "done before" if p.accuracy is None else f"accuracy {p.accuracy:.3f}"
        typer.echo(f"{p.run_id}: layer {p.layer} ({p.done} of {p.of}), {result}", err=True)

    options = probes.Options(query, site, chosen, head, None, target, test, max_tokens, c, seed)
    with Warehouse(warehouse) as wh:
        if plot is not None:
            check_picture(plot, wh.root)
        store = probes.probe(wh, options, run, report)
        if plot is not None:
            save(plots.probe(wh, store), plot)
        write(
            store.query(
                "SELECT layer, round(accuracy, 4) AS accuracy, round(accuracy_low, 4) AS low, round(accuracy_high, 4) AS high, "
                "round(majority_accuracy, 4) AS majority, round(shuffled_accuracy, 4) AS shuffled, round(shuffled_sd, 4) AS sd, "
                "n_train, n_test, n_test_examples AS examples, len(classes) AS classes FROM probes ORDER BY layer"
            ),
            fmt,
            None,
        )
    typer.echo(f"{store.meta.run_id}: traces runs show {store.meta.run_id}", err=True)
