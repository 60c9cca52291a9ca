"""`traces nearest`: the tokens whose vectors are nearest to a token of a run, or to the last token of a new text, for which
the model is run.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture.cli.arguments import Model
from capture.cli.options import DeviceOption, DtypeOption, PrependBosOption, RevisionOption, TrustOption
from warehouse.catalog.statements import check_target
from warehouse.cli.index import Metric
from warehouse.cli.options import AnswerFormatOption, OutputOption, WarehouseOption
from warehouse.cli.output import Format, format_of, write
from warehouse.cli.terminal import table_console
from warehouse.errors import UsageError, printable

if TYPE_CHECKING:
    import duckdb

    from warehouse.vectors.token_query import TokenQuery
    from warehouse.warehouse import Warehouse


class Show(StrEnum):
    context = "context"
    keys = "keys"


def nearest(
    run: Annotated[str | None, typer.Option("--run", help="The run with the token to start from.")] = None,
    example: Annotated[
        str | None, typer.Option(help="Its example, by id, or by the beginning of one.", show_default=False)
    ] = None,
    pos: Annotated[int | None, typer.Option(help="Its position.", show_default=False)] = None,
    seq: Annotated[int, typer.Option(help="Its sequence of the example.")] = 0,
    text: Annotated[
        str | None,
        typer.Option(help="Instead of a token of a run: a new text, whose last token is the query; needs --model."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The model that reads --text; else whose vectors to search, if not said by --run."
        ),
    ] = None,
    site: Annotated[str, typer.Option(help="Which vectors: `resid.post_mlp`, `q`, …")] = "resid.post_mlp",
    layer: Annotated[
        str | None, typer.Option(help="`15`, or several, `4,15`; all that have a vector table if left out.")
    ] = None,
    head: Annotated[
        int | None, typer.Option(help="Of a site with heads: which query head.", show_default=False)
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(help="Only among tokens for which this holds: a condition on the columns of token_diagnostics."),
    ] = None,
    metric: Annotated[Metric, typer.Option(help="What near means.")] = Metric.cosine,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every row, index or not.")] = False,
    show: Annotated[Show, typer.Option(help="The tokens in their sentences, or all their keys.")] = Show.context,
    prepend_bos: PrependBosOption = "auto",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    fmt: AnswerFormatOption = None,
    output: OutputOption = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Where else does the model think like this? The nearest tokens of all runs, best first.

    The token itself is left out. Of several layers, its vector in each is compared with those of that layer. --where is one
    condition, which reads and writes nothing; of files, --output alone is written, and not below the warehouse root.

    Examples: `traces nearest --run wt2 --example 3f2a --pos 17 --layer 15 -k 20 --where "upos = 'VERB' AND NOT correct"`,
    `traces nearest --text "The capital of France is" --model smollm2 --layer 15`
    """
    from warehouse.vectors import token_query
    from warehouse.warehouse import Warehouse

    chosen = format_of(output, fmt)
    if (text is None) == (run is None):
        raise UsageError("Give --run with --example and --pos, or --text with --model.")
    layers = _layers(layer)
    with Warehouse(warehouse) as wh:
        if output is not None:
            check_target(output, wh.root)
        if text is not None:
            if model is None:
                raise UsageError("--text needs --model: the model that reads it.")
            asked = Model(model, "none", device, None, dtype, revision, trust_remote_code)
            wanted = _read(wh, text, asked, prepend_bos, site, layers, head)
        elif run is None or example is None or pos is None:
            raise UsageError("--run needs --example and --pos: which token of it.")
        else:
            wanted = token_query.for_token(wh, wh.vectors, run, example, seq, pos, site, layers, head)
        found = token_query.nearest(wh, wanted, k, where, metric.value, exact)
        answer = token_query.with_context(wh, found) if show is Show.context else wh.relation(found)
        if chosen is Format.table and show is Show.context and output is None:
            _print(answer)
        else:
            write(answer, chosen, output)


def _print(answer: duckdb.DuckDBPyRelation) -> None:
    """A line a token, wherever it ends."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in answer.columns:
        table.add_column(name, justify="right" if name in ("distance", "layer", "seq", "pos") else "left", no_wrap=True)
    for row in answer.fetchall():
        table.add_row(*("" if v is None else f"{v:.4f}" if isinstance(v, float) else printable(str(v)) for v in row))
    table_console(240).print(table)


def _layers(text: str | None) -> list[int] | None:
    if text is None or text == "all":
        return None
    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        raise UsageError(f"--layer {text}: write a layer, or several as in 4,15.") from None


def _read(
    wh: Warehouse, text: str, asked: Model, prepend_bos: str, site: str, layers: list[int] | None, head: int | None
) -> TokenQuery:
    """The last token of a text, read as a capture of that one text would be, which is not kept. Raises UsageError where the text
    is too long for that token to be read.
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
    loaded = asked.load()
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
                f"--text is longer than the {loaded.window} tokens that {asked.name} reads at once, so that its last token is not "
                "read: leave out its beginning."
            )
        return token_query.for_text(wh, wh.vectors, store, site, layers, head)
