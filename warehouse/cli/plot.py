"""`traces plot`: pictures of a run, one command a kind. `warehouse.plots` draws them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warehouse.cli.app import App
from warehouse.cli.graph import GraphOptions
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import LayersOption, RunArgument, WarehouseOption, parse_layers
from warehouse.cli.terminal import say
from warehouse.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from warehouse.warehouse import Warehouse

plot_app = App(no_args_is_help=True, help="Draw pictures of a run, as PNG, SVG or PDF.")


class CellColour(StrEnum):
    """What the cells of a lens are coloured by."""

    prob = "prob"
    entropy = "entropy"


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """Which tokens are drawn."""

    example: Annotated[
        str | None,
        typer.Option(
            help="The example, by id or the beginning of one; by default the run's first.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None
    seq: Annotated[
        int, typer.Option(min=0, help="Its sequence: the chunk, choice or sample.", rich_help_panel=Panel.READ)
    ] = 0
    positions: Annotated[
        str | None,
        typer.Option(
            metavar="FROM-TO",
            help="Its tokens, the last one included, as in `0-19`; by default as many of the first as can be read.",
            show_default=False,
            rich_help_panel=Panel.READ,
        ),
    ] = None

    @property
    def window(self) -> range | None:
        """The positions; raises UsageError for what is no window."""
        if self.positions is None:
            return None
        first, dash, last = self.positions.partition("-")
        if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise UsageError(f"--positions {self.positions}: write the first and the last, as in 0-19.")
        return range(int(first), int(last) + 1)


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Where a picture is written."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to this file: .png, .svg or .pdf; by default a .png in this folder, named after run and picture.",
            show_default=False,
            rich_help_panel=Panel.WRITTEN,
        ),
    ] = None
    warehouse: WarehouseOption = None


@plot_app.command("attention")
@with_groups()
def attention(
    run: RunArgument,
    tokens: SequenceOptions,
    picture: PictureOptions,
    layers: LayersOption = "all",
    head: Annotated[
        int | None,
        typer.Option(help="Which query head; by default all.", show_default=False, rich_help_panel=Panel.READ),
    ] = None,
) -> None:
    """Draw attention: one head with its tokens, the heads of a layer, or all heads of all layers.

    Rows attend, columns are attended to. The run has stored attention, or q and k.

    Examples:
        traces plot attention demo --layers 15 --head 3
        traces plot attention demo --layers 15 --example c1e0 -o heads.svg
    """
    from warehouse import plots

    chosen = parse_layers(layers)
    place = "" if layers == "all" else f"-L{layers.replace(',', '-')}"
    place += "" if head is None else f"-H{head}"
    _write(
        picture,
        f"{run}-attention{place}",
        lambda wh: plots.attention(
            wh, run, tokens.example, layers=chosen, head=head, seq=tokens.seq, positions=tokens.window
        ),
    )


@plot_app.command("tokens")
@with_groups()
def tokens(
    run: RunArgument,
    tokens: SequenceOptions,
    picture: PictureOptions,
    by: Annotated[
        str,
        typer.Option(
            help="What tokens are coloured by: their `loss`, `entropy` or `prob`, or a trait that the run was projected on.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = "loss",
) -> None:
    """Draw a text, its tokens coloured by how well the model foresaw them, or by a trait.

    Loss, entropy and probability are of the prediction of the token itself, which was made one position before.

    Examples:
        traces plot tokens demo
        traces plot tokens answers --by capitals -o capitals.svg
    """
    from warehouse import plots

    _write(
        picture,
        f"{run}-{by}",
        lambda wh: plots.tokens(wh, run, tokens.example, by=by, seq=tokens.seq, positions=tokens.window),
    )


@plot_app.command("lens")
@with_groups()
def lens(
    run: RunArgument,
    tokens: SequenceOptions,
    picture: PictureOptions,
    layers: LayersOption = "all",
    by: Annotated[
        CellColour,
        typer.Option(
            help="What cells are coloured by: the probability of their token, or the entropy.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = CellColour.prob,
) -> None:
    """Draw a logit lens: the token that each layer finds most probable, layer by layer and token by token.

    RUN is the captured run, whose newest lens is drawn, or a lens.

    Examples:
        traces lens demo
        traces plot lens demo --example f40c
        traces plot lens demo-lens --layers 0,10,20,29 --by entropy
    """
    from warehouse import plots

    chosen = parse_layers(layers)
    _write(
        picture,
        f"{run}-lens",
        lambda wh: plots.lens(
            wh, run, tokens.example, layers=chosen, by=by.value, seq=tokens.seq, positions=tokens.window
        ),
    )


@plot_app.command("trait")
@with_groups()
def trait(
    run: RunArgument,
    trait: Annotated[str, typer.Argument(metavar="TRAIT", help="A trait that the run was projected on.")],
    tokens: SequenceOptions,
    picture: PictureOptions,
) -> None:
    """Draw the projection of every token of a response on a trait's vector, and where it peaks and commits.

    RUN is the run that was projected, whose newest projection is drawn, or a projection.

    Examples:
        traces trait project answers --traits capitals
        traces plot trait answers capitals
    """
    from warehouse import plots

    _write(
        picture,
        f"{run}-{trait}-trait",
        lambda wh: plots.trait(wh, run, trait, tokens.example, seq=tokens.seq, positions=tokens.window),
    )


@plot_app.command("effects")
@with_groups()
def effects(run: RunArgument, picture: PictureOptions) -> None:
    """Draw what ablating or patching does to a task's metric: by layer and head or block, or by layer and position.

    RUN is an ablation or patching run, or the task's run, whose newest is drawn.

    Examples:
        traces ablate ioi --kind resample --run cut
        traces plot effects cut -o cut.svg
    """
    from warehouse import plots

    _write(picture, f"{run}-effects", lambda wh: plots.effects(wh, run))


@plot_app.command("circuit")
@with_groups()
def circuit(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN[/CIRCUIT]", help="A run with a circuit; of several, the circuit's name behind a /."
        ),
    ],
    picture: PictureOptions,
    edges: Annotated[
        int,
        typer.Option(min=1, help="The most edges that are drawn.", rich_help_panel=Panel.READ),
    ] = 40,
    selection: Annotated[
        str,
        typer.Option(
            help="`abs`: the largest scores; `signed`: the most negative, which is what helps; `greedy`: the largest that lead on to "
            "the logits.",
            rich_help_panel=Panel.READ,
        ),
    ] = "abs",
) -> None:
    """Draw a circuit, layer above layer: its strongest edges that lie on a path from the embedding to the logits.

    The colour of an edge says for what a head reads it (query, key, value), its width how large its score is; dashed it works against the
    metric.

    Examples:
        traces plot circuit ioi-circuit -o circuit.svg
        traces plot circuit ioi-circuit/eap-ig --edges 20 --selection greedy
    """
    from warehouse import plots

    _write(
        picture,
        f"{run.replace('/', '-').replace(' ', '-')}-circuit",
        lambda wh: plots.circuit(wh, run, edges=edges, selection=selection),
    )


@plot_app.command("curve")
@with_groups()
def curve(run: RunArgument, picture: PictureOptions) -> None:
    """Draw what a circuit keeps of a task's metric, by its size, beside random circuits of as many edges.

    RUN is an evaluation of a circuit, or the circuit's run, whose newest is drawn.

    Examples:
        traces circuit evaluate ioi-circuit --run tried
        traces plot curve tried -o curve.svg
    """
    from warehouse import plots

    _write(picture, f"{run}-curve", lambda wh: plots.curve(wh, run))


@plot_app.command("graph")
@with_groups()
def graph(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="An influence run, or the run that it explains, for the newest.")
    ],
    chosen: GraphOptions,
    picture: PictureOptions,
) -> None:
    """Draw a dependency graph: through which heads which tokens reached a prediction, layer by layer.

    Of one prompt, or without `--example` of the edges that recur over the prompts whose prediction is made from one position.

    Examples:
        traces influence demo --run why
        traces plot graph why --example c1e0 -o why.svg
    """
    from warehouse import plots

    _write(
        picture,
        f"{run}-graph",
        lambda wh: plots.graph(wh, run, chosen.example, seq=chosen.seq, pos=chosen.pos, least_flow=chosen.least_flow),
    )


@plot_app.command("loss-by-position")
@with_groups()
def loss_by_position(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs with next-token predictions.")],
    picture: PictureOptions,
) -> None:
    """Draw the mean loss by position, with an interval of two standard errors: a line a run.

    Examples:
        traces plot loss-by-position demo
        traces plot loss-by-position small large -o sizes.svg
    """
    from warehouse import plots

    _write(picture, f"{'-'.join(runs)}-loss-by-position", lambda wh: plots.loss_by_position(wh, *runs))


@plot_app.command("probe")
@with_groups()
def probe(run: RunArgument, picture: PictureOptions) -> None:
    """Draw what a probe found: accuracy by layer, with its interval, beside its baselines.

    Examples:
        traces plot probe upos
        traces plot probe upos -o upos.svg
    """
    from warehouse import plots

    _write(picture, f"{run}-accuracy", lambda wh: plots.probe(wh, run))


def _write(options: PictureOptions, name: str, draw: Callable[[Warehouse], Figure]) -> None:
    """Draw a picture and write it; `name` is the file's where the user gave none."""
    from warehouse.cli.picture_file import check_picture, save
    from warehouse.warehouse import Warehouse

    target = options.output or Path(f"{name}.png")
    with Warehouse(options.warehouse) as wh:
        check_picture(target, wh.root)
        save(draw(wh), target)
    say(str(target))
