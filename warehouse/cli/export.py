"""`traces export`: a run in the formats of other tools, one command a format. `warehouse.exports` writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from warehouse.cli.app import App
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import LayersOption, RunArgument, WarehouseOption, parse_layers
from warehouse.cli.terminal import note, say

export_app = App(no_args_is_help=True, help="Write a run in the format of another tool.")


class VectorScale(StrEnum):
    """How long exported vectors are."""

    unit = "unit"
    gap = "gap"


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """Which examples are exported."""

    example: Annotated[
        str | None,
        typer.Option(
            metavar="ID,…",
            help="The examples, by id or the beginning of one; by default all.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    where: Annotated[
        str | None,
        typer.Option(
            help="Only examples for which this holds: a condition on the columns of the table examples, as in `idx < 100`.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None

    def to_arguments(self) -> dict[str, Any]:
        """Return the arguments that `warehouse.exports` takes for these."""
        return {"examples": _items(self.example), "where": self.where}


ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace an export that is there.", rich_help_panel=Panel.WRITTEN)
]
OutFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder.", rich_help_panel=Panel.WRITTEN)
]
OutFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The file.", rich_help_panel=Panel.WRITTEN)
]


@export_app.command("viewer")
@with_groups()
def viewer(
    run: RunArgument,
    chosen: ExampleOptions,
    output: OutFolder,
    documents: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="What is written: `attention`, `lens`, `projections`; by default all that the run has.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    force: ForceOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Write JSON documents that token-level viewers read: attention, a logit lens, projections on traits; one a sequence.

    Attention needs q and k or attn in the run, the lens a `traces lens` of it, projections a `traces trait project`: the newest ones are
    read. `index.json` lists the documents. Attention grows with the square of a text, times layers and heads: choose a few long ones.

    Examples:
        traces export viewer demo -o demo-json
        traces export viewer demo --documents attention --where "idx < 10" -o ten
    """
    from warehouse import exports

    with opened(warehouse, "examples") as (wh, report):
        counts = exports.viewer(
            wh, run, output, kinds=_items(documents), **chosen.to_arguments(), force=force, report=report
        )
    say(f"{output}: {', '.join(f'{n:,} of {kind}' for kind, n in counts.items())}")


@export_app.command("dataset")
@with_groups()
def dataset(
    run: RunArgument,
    chosen: ExampleOptions,
    output: OutFolder,
    tables: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…", help="Which tables; by default all.", show_default=False, rich_help_panel=Panel.READ
        ),
    ] = None,
    tensors: Annotated[
        bool,
        typer.Option(
            "--tensors", help="Copy the tensors too: the folder is then the run itself.", rich_help_panel=Panel.READ
        ),
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Push the folder to Hugging Face's hub, by the login of its client.",
            show_default=False,
            rich_help_panel=Panel.WRITTEN,
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option("--private", help="Make a new repository on the hub private.", rich_help_panel=Panel.WRITTEN),
    ] = False,
    force: ForceOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Write a run as a data set of Hugging Face: Parquet, a configuration a table, and a card.

    load_dataset(FOLDER, TABLE) reads it, offline too. The card says what is in it, with a comment on every column. Whoever has the folder
    has the texts.

    Examples:
        traces export dataset demo -o demo-dataset
        traces export dataset demo --tables examples,next_token --where "idx < 100" -o small
        traces export dataset demo --tensors -o demo-dataset --push me/demo --private
    """
    from warehouse import exports
    from warehouse.exports.hub import check_hub

    if push is not None:
        check_hub(push)
    with opened(warehouse, "files") as (wh, report):
        rows = exports.dataset(
            wh, run, output, tables=_items(tables), tensors=tensors, **chosen.to_arguments(), force=force, report=report
        )
    say(f"{output}: {', '.join(f'{table} {n:,}' for table, n in rows.items())}")
    if push is not None:
        say(exports.push(output, push, private=private))


@export_app.command("npz")
@with_groups()
def npz(
    run: RunArgument,
    chosen: ExampleOptions,
    output: OutFolder,
    sites: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="Sites, as in `resid.post_mlp,attn`, or groups of them, as `--capture` takes them; by default those two.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    layers: LayersOption = "all",
    force: ForceOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Write tensors as .npz files, one a sequence: an array (layers, …) a site, token ids, and JSON about it all.

    numpy reads them without anything of ours. Values are those that are stored; bfloat16, which numpy does not have, becomes float32.

    Examples:
        traces export npz demo -o arrays
        traces export npz demo --sites resid,attn --layers 0,15 --where "idx < 10" -o ten
    """
    from warehouse import exports

    which = parse_layers(layers)
    with opened(warehouse, "files") as (wh, report):
        n = exports.npz(
            wh, run, output, sites=_items(sites), layers=which, **chosen.to_arguments(), force=force, report=report
        )
    say(f"{output}: {n:,} files")


@export_app.command("transformer-lens")
@with_groups()
def transformer_lens(
    run: RunArgument,
    chosen: ExampleOptions,
    output: OutFolder,
    sites: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="Sites, or groups of them, as `--capture` takes them; by default all that TransformerLens has a hook for.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    layers: LayersOption = "all",
    force: ForceOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Write activation caches for TransformerLens, a safetensors file a sequence: ActivationCache(load_file(FILE), model).

    Names and shapes are those of HookedTransformer.from_pretrained_no_processing, with a batch of 1.

    Examples:
        traces export transformer-lens demo --where "idx < 10" -o caches
        traces export transformer-lens demo --sites resid --layers 15 -o caches
    """
    from warehouse import exports

    which = parse_layers(layers)
    with opened(warehouse, "files") as (wh, report):
        n = exports.transformer_lens(
            wh, run, output, sites=_items(sites), layers=which, **chosen.to_arguments(), force=force, report=report
        )
    say(f"{output}: {n:,} files")


@export_app.command("responses")
@with_groups()
def responses(
    run: RunArgument,
    chosen: ExampleOptions,
    output: OutFolder,
    force: ForceOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Write responses with their scores as CSV, in the columns of trait pipelines: one file a polarity.

    Columns: question, instruction, prompt, response, trait_score and coherence_score, of the newest judge; empty where none has judged.

    Examples:
        traces export responses capitals-smollm2-responses -o capitals-csv
        traces export responses answers -o answers-csv
    """
    from warehouse import exports

    with opened(warehouse, "rows") as (wh, _):
        counts = exports.responses(wh, run, output, **chosen.to_arguments(), force=force)
    for name, n in counts.items():
        say(f"{output / name}: {n:,} rows")


@export_app.command("control-vector")
@with_groups()
def control_vector(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run with vectors of traits: `traces trait extract`.")],
    output: OutFile,
    trait: Annotated[
        str | None,
        typer.Option(
            help="The trait; needed where the run has several.", show_default=False, rich_help_panel=Panel.READ
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="How the vectors were made; by default `mean_diff`, or the only one.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    layers: LayersOption = "all",
    scale: Annotated[
        VectorScale,
        typer.Option(
            help="How long vectors are: `unit`: 1; `gap`: one unit of `traces trait steer`, the distance between the polarities' means.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = VectorScale.unit,
    force: ForceOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Write a trait's vectors as a GGUF control vector, for llama.cpp and repeng.

    direction.N is added to the output of block N, 0-based: our layer N. llama.cpp has no place for block 0, which is left out.

    Examples:
        traces export control-vector capitals-smollm2-vectors --layers 15 -o capitals.gguf
        traces export control-vector capitals-smollm2-vectors --method probe --scale gap -o capitals.gguf
    """
    from warehouse import exports

    chosen = parse_layers(layers)
    with opened(warehouse, "vectors") as (wh, _):
        written = exports.control_vector(
            wh, run, output, trait=trait, method=method, layers=chosen, scale=scale.value, force=force
        )
    say(f"{output}: layers {', '.join(map(str, written))}")


@contextmanager
def opened(warehouse: str | None, unit: str) -> Iterator[tuple[Any, Callable[[int, int], None]]]:
    """Open the warehouse, and give it with what shows the progress."""
    from warehouse.progress import ProgressBar
    from warehouse.warehouse import Warehouse

    with Warehouse(warehouse) as wh, ProgressBar(unit, say=note) as bar:
        yield wh, lambda done, total: bar.show(done, total)


def _items(text: str | None) -> list[str]:
    """Return the items of a list with commas."""
    return [item.strip() for item in (text or "").split(",") if item.strip()]
