"""`traces nearest`: the tokens whose vectors are nearest to a token of a run, or to the last token of a new text.

For a new text the model is run.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.data_options import PrependBosOption
from capture.cli.options import LoadOptions
from capture.cli.values import parse_layers
from warehouse.catalog.statements import check_target
from warehouse.cli.index import Metric
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import AnswerOptions
from warehouse.cli.output import Format, format_of, write
from warehouse.cli.quotes import suggests_quotes
from warehouse.cli.terminal import table_console
from warehouse.errors import UsageError, printable

if TYPE_CHECKING:
    import duckdb

    from capture.model.loading import Loaded
    from warehouse.vectors.token_query import TokenQuery
    from warehouse.warehouse import Warehouse


class Show(StrEnum):
    """How a token that was found is shown."""

    context = "context"
    keys = "keys"


@with_groups(fixed={"device_map": None})
def nearest(
    *,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="The run with the token to start from.", show_default=False)
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(
            help="Its example, by id or the beginning of one.", show_default=False, rich_help_panel=Panel.READ
        ),
    ] = None,
    pos: Annotated[
        int | None, typer.Option(help="Its position.", show_default=False, rich_help_panel=Panel.READ)
    ] = None,
    seq: Annotated[int, typer.Option(help="Its sequence of the example.", rich_help_panel=Panel.READ)] = 0,
    text: Annotated[
        str | None,
        typer.Option(
            help="Instead of a token of a run: a new text, whose last token is the query; needs --model.",
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model that reads --text.",
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    prepend_bos: PrependBosOption = "auto",
    site: Annotated[
        str, typer.Option(help="Which vectors: `resid.post_mlp`, `q`, …", rich_help_panel=Panel.COMPUTED)
    ] = "resid.post_mlp",
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="`15`, or several, `4,15`; by default all that have a vector table.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None,
    head: Annotated[
        int | None,
        typer.Option(
            help="For a site with heads: which query head.", show_default=False, rich_help_panel=Panel.COMPUTED
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many tokens.", rich_help_panel=Panel.COMPUTED)] = 10,
    where: Annotated[
        str | None,
        typer.Option(
            help="Search only tokens for which this holds: a condition on the columns of token_diagnostics.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None,
    metric: Annotated[
        Metric, typer.Option(help="How distance is measured.", rich_help_panel=Panel.COMPUTED)
    ] = Metric.cosine,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Compare with every row, index or not.", rich_help_panel=Panel.COMPUTED),
    ] = False,
    show: Annotated[
        Show,
        typer.Option(help="Show the tokens in their sentences, or all their keys.", rich_help_panel=Panel.COMPUTED),
    ] = Show.context,
    loading: LoadOptions,
    answer: AnswerOptions,
) -> None:
    """Find where else the model thinks like this: the nearest tokens of all runs, best first.

    The token itself is left out. With several layers, its vector in each is compared with those of that layer. --where is one
    condition, which reads and writes nothing. The only file that is written is --output, which must not lie below the
    warehouse root.

    Examples:
        traces nearest wt2 --example 3f2a --pos 17 --layers 15 -k 20 --where "upos = 'VERB' AND NOT correct"
        traces nearest --text "The capital of France is" --model smollm2 --layers 15

    Raises:
        UsageError: Neither a token nor a text is named, or both are.
    """
    from warehouse.vectors import token_query
    from warehouse.warehouse import Warehouse

    fmt = format_of(answer.output, answer.fmt)
    if (text is None) == (run is None):
        raise UsageError("Name a token: RUN with --example and --pos, or --text with --model.")
    wanted_layers = parse_layers(layers)
    with Warehouse(answer.warehouse) as wh:
        if answer.output is not None:
            check_target(answer.output, wh.root)
        if text is not None:
            if model is None:
                raise UsageError("--text needs --model: the model that reads it.")
            query = _read(wh, text, model, loading, prepend_bos, site, wanted_layers, head)
        elif run is None or example is None or pos is None:
            raise UsageError(f"Run '{run}' needs --example and --pos: which of its tokens.")
        else:
            query = token_query.for_token(wh, wh.vectors, run, example, seq, pos, site, wanted_layers, head)
        with suggests_quotes(wh, where or ""):
            rows = token_query.nearest(wh, query, k, where, metric.value, exact)
        tokens = token_query.with_context(wh, rows) if show is Show.context else wh.relation(rows)
        if fmt is Format.table and show is Show.context and answer.output is None:
            _print(tokens)
        else:
            write(tokens, fmt, answer.output)


def _print(tokens: duckdb.DuckDBPyRelation) -> None:
    """Print a line a token, however long."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in tokens.columns:
        table.add_column(name, justify="right" if name in ("distance", "layer", "seq", "pos") else "left", no_wrap=True)
    for row in tokens.fetchall():
        table.add_row(*("" if v is None else f"{v:.4f}" if isinstance(v, float) else printable(str(v)) for v in row))
    table_console(240).print(table)


def _read(
    wh: Warehouse,
    text: str,
    model: str,
    loading: LoadOptions,
    prepend_bos: str,
    site: str,
    layers: list[int] | None,
    head: int | None,
) -> TokenQuery:
    """Return the last token of a text, read as a capture of that one text would read it; nothing is kept.

    Raises:
        UsageError: The text is empty, or too long for its last token to be read.
    """
    from tempfile import TemporaryDirectory

    from capture.cli.terminal import needs_capture_extra
    from warehouse import TraceStore
    from warehouse.schema import sites
    from warehouse.storage import paths
    from warehouse.vectors import token_query

    if not text.strip():
        raise UsageError("--text is empty: there is no last token.")
    capture = sites.capture_of(site.removeprefix("enc."))
    loaded: Loaded = loading.load(model, "none")
    with needs_capture_extra(), TemporaryDirectory() as folder:
        from capture.data.text import one_text
        from capture.jobs import encode

        root = Path(folder)
        encode.run(
            loaded,
            one_text(text),
            encode.Options(capture=capture, prepend_bos=prepend_bos),
            root=root,
            run_id="query",
        )
        store = TraceStore(paths.run_dir(root, "query"))
        if store.meta.counts.truncated:
            raise UsageError(
                f"--text is longer than the {loaded.window} tokens that {model} reads at once, so that its last token is not "
                "read: leave out its beginning."
            )
        return token_query.for_text(wh, wh.vectors, store, site, layers, head)
