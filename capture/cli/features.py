"""`traces features`: sparse dictionaries, and which of their features are active where."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capture.cli.options import LoadOptions, PartOptions, RunModelOption
from capture.cli.terminal import needs_capture_extra, note, stopped_by_signals
from capture.cli.workers import make_in_parts
from capture.sequences import partition
from warehouse.cli.app import App
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import FormatOption, RunArgument, WarehouseOption, dry_run_option, run_option
from warehouse.cli.output import Format, write

if TYPE_CHECKING:
    from warehouse.analysis.feature_contexts import Context

features_app = App(help="Sparse dictionaries: which of their features are active at which token.", no_args_is_help=True)


SaeOption = Annotated[
    list[Path],
    typer.Option(
        "--sae",
        metavar="FOLDER",
        help="A sparse autoencoder or transcoder in SAELens' format (cfg.json and sae_weights.safetensors); may be given several times.",
        rich_help_panel=Panel.READ,
    ),
]
OtherModelOption = Annotated[
    bool,
    typer.Option(
        "--other-model",
        help="Take a dictionary that was trained on a model of another name too.",
        rich_help_panel=Panel.READ,
    ),
]

FeaturesArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run of features, or the run that was encoded, for the newest.")
]
DictionaryOption = Annotated[
    str | None,
    typer.Option("--sae", metavar="NAME", help="The dictionary, where there are several.", rich_help_panel=Panel.READ),
]


@features_app.command("encode")
@with_groups()
def encode(
    run: RunArgument,
    part: PartOptions,
    sae: SaeOption,
    other_model: OtherModelOption = False,
    device: Annotated[
        str,
        typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps, …", rich_help_panel=Panel.RUNNING),
    ] = "auto",
    name: Annotated[
        str | None,
        run_option("RUN-features"),
    ] = None,
    dry_run: Annotated[
        bool,
        dry_run_option("Say which tensors would be read, and how many tokens; write nothing."),
    ] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Encode a run's stored states with sparse dictionaries: which features are active at which token.

    No model is loaded. The tables `features` and `feature_tokens` have a row for every feature that is active at a token, sorted by token and
    by feature; `reconstructions` has how much of each state the dictionary gives back. The result is a run of its own; the same command again
    continues one that was interrupted.

    Examples:
        traces features encode first --sae saes/smollm2-15
        traces sql "FROM feature_contexts WHERE feature = 7 ORDER BY activation DESC LIMIT 20"
    """
    from warehouse.storage import paths
    from warehouse.storage.run_list import check_free, find_run
    from warehouse.storage.trace_store import TraceStore

    root = paths.find_root(warehouse)
    folder = find_run(root, run)
    with needs_capture_extra():
        from capture.api.progress import capture_progress
        from capture.features import encode_run as job
        from capture.features.fit import fit
        from capture.features.saelens_folder import read_dictionary
    options = job.Options(other_model, device, part.chosen)
    store = TraceStore(folder)
    dictionaries = [read_dictionary(folder) for folder in sae]
    fitted = fit(store, dictionaries, other_model=other_model)
    if line := store.left_out():
        note(line)
    if dry_run:
        for f in fitted:
            where = f.read.site if f.read.layer is None else f"{f.read.site} of layer {f.read.layer}"
            typer.echo(
                f"{f.dictionary.name}: {f.dictionary.n_features:,} features ({f.dictionary.architecture}) of {where}"
            )
        tokens = sum(s.n_rows for s in store.slices(fitted[0].read))
        typer.echo(f"{tokens:,} tokens; nothing is written")
        return
    whole = name or f"{run}-features"
    if part.divided:
        manifest = make_in_parts(part, root, whole, unit="sequences")
    else:
        run_id = partition.part_run_name(whole, part.chosen)
        check_free(root, run_id)
        with stopped_by_signals(), capture_progress(say=note) as (report, _):
            manifest = job.run(folder, dictionaries, options, root=root, run_id=run_id, report=report)
    typer.echo(f"{manifest.run_id}: {manifest.counts.rows['features']:,} active features in {manifest.seconds:.1f} s")
    if part.chosen:
        typer.echo(f"next, when all parts are done: traces runs merge {whole}")
    else:
        typer.echo(f"next: traces sql \"FROM dictionary_fit WHERE run_id = '{manifest.run_id}'\"")


@features_app.command("evaluate")
@with_groups(fixed={"revision": None, "dtype": "auto", "device_map": None})
def evaluate(
    run: RunArgument,
    loading: LoadOptions,
    sae: SaeOption,
    other_model: OtherModelOption = False,
    model: RunModelOption = None,
    sequences: Annotated[
        int,
        typer.Option(min=1, help="How many sequences, the first by example.", rich_help_panel=Panel.READ),
    ] = 64,
    batch_tokens: Annotated[
        int,
        typer.Option("--batch-tokens", min=1, help="Tokens of a forward pass.", rich_help_panel=Panel.RUNNING),
    ] = 2048,
    name: Annotated[
        str | None,
        run_option("RUN-features-evaluation"),
    ] = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Measure how much worse the model predicts when a dictionary stands in the place of its states.

    Each sequence is read as it is, with what the dictionary gives back in the place of every state, and with 0 there: the table
    `reconstruction_losses`, and loss_recovered in `dictionary_fit`. The same command again continues one that was interrupted.

    Examples:
        traces features evaluate first --sae saes/smollm2-15 --sequences 32
        traces sql "SELECT sae, mean_active, explained_variance, loss_recovered FROM dictionary_fit"
    """
    from warehouse.storage import paths
    from warehouse.storage.run_list import check_free, find_run
    from warehouse.storage.trace_store import TraceStore

    root = paths.find_root(warehouse)
    folder = find_run(root, run)
    with needs_capture_extra():
        from capture.api.progress import capture_progress
        from capture.features import loss_run as job
        from capture.features.fit import fit
        from capture.features.saelens_folder import read_dictionary
    options = job.Options(sequences, batch_tokens, other_model)
    dictionaries = [read_dictionary(folder) for folder in sae]
    store = TraceStore(folder)
    fit(store, dictionaries, other_model=other_model, stored=False)
    run_id = name or f"{run}-features-evaluation"
    check_free(root, run_id)
    loaded = loading.load_of_run(folder, model)
    total = min(sequences, store.meta.counts.sequences)
    with stopped_by_signals(), capture_progress(total, say=note, unit="sequences") as (report, _):
        manifest = job.run(loaded, folder, dictionaries, options, root=root, run_id=run_id, report=report)
    typer.echo(f"{manifest.run_id}: {manifest.counts.rows['reconstruction_losses']:,} rows in {manifest.seconds:.1f} s")
    typer.echo('next: traces sql "SELECT sae, mean_active, explained_variance, loss_recovered FROM dictionary_fit"')


@features_app.command("show")
@with_groups()
def show(
    run: FeaturesArgument,
    feature: Annotated[int, typer.Argument(metavar="FEATURE", help="The feature.")],
    sae: DictionaryOption = None,
    n: Annotated[
        int, typer.Option("--n", "-n", min=1, help="How many sequences to show.", rich_help_panel=Panel.READ)
    ] = 20,
    before: Annotated[
        int, typer.Option(min=0, help="Tokens before the strongest one.", rich_help_panel=Panel.READ)
    ] = 12,
    after: Annotated[int, typer.Option(min=0, help="Tokens after it.", rich_help_panel=Panel.READ)] = 6,
    fmt: FormatOption = Format.table,
    warehouse: WarehouseOption = None,
) -> None:
    """Show where a feature is most active: the sequences with its strongest tokens, each once, in their context.

    The strongest token stands between » and «. As JSON, every token of the context comes with how active the feature is there.

    Examples:
        traces features show first 7
        traces features show first-features 7 --sae smollm2-15 -n 50 --format json
    """
    import pyarrow as pa

    from warehouse.analysis.feature_contexts import find_encoded, find_feature, top_contexts
    from warehouse.catalog.ask import asker
    from warehouse.warehouse import Warehouse

    with Warehouse(warehouse) as wh:
        found = find_feature(wh.cached_run, find_encoded(asker(wh), run, sae), feature)
        said = found.summary
        note(
            f"feature {feature} is active at {said['n_tokens']:,} tokens of {said['n_sequences']:,} sequences, on average "
            f"{said['mean_activation']:.3g}, at most {said['max_activation']:.3g}"
        )
        contexts = top_contexts(wh.cached_run, found, n=n, before=before, after=after)
        if contexts:
            rows = [asdict(c) if fmt is Format.json else _context_line(c) for c in contexts]
            write(wh.cursor().from_arrow(pa.Table.from_pylist(rows)), fmt, None)


def _context_line(context: Context) -> dict[str, Any]:
    """Return a context as a line of text."""
    at = context.pos - context.first_pos
    text = f"{''.join(context.tokens[:at])}»{context.tokens[at]}«{''.join(context.tokens[at + 1 :])}"
    return {
        "activation": round(context.activation, 3),
        "context": " ".join(text.split()),
        "example_id": context.example_id,
        "seq": context.seq,
        "pos": context.pos,
    }


@features_app.command("associate")
@with_groups()
def associate(
    run: FeaturesArgument,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="PROPERTY",
            help="upos, deprel (of annotated words), role (of chats), label (of examples), correct (the prediction made at a token), "
            "answer (to the example's question).",
            rich_help_panel=Panel.COMPUTED,
        ),
    ],
    sae: DictionaryOption = None,
    min_examples: Annotated[
        int,
        typer.Option(
            "--min-examples",
            min=2,
            help="Leave out features that are active in fewer examples, and values that fewer examples have.",
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = 10,
    name: Annotated[
        str | None,
        run_option("FEATURES-by-PROPERTY"),
    ] = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Test which features go with a property of tokens: a part of speech, a label, a role, being right.

    For each feature and each value: is it active at another share of the tokens with that value than of the others? Errors count examples,
    not tokens, and q_value is corrected for all that is tested. The result is a run with the table `feature_associations`.

    Examples:
        traces features associate ewt --by upos
        traces sql --query features_by_property
    """
    from warehouse.analysis.feature_associations import Options
    from warehouse.analysis.feature_associations import associate as test
    from warehouse.progress import ProgressBar
    from warehouse.warehouse import Warehouse

    options = Options(by, min_examples)
    with Warehouse(warehouse) as wh, ProgressBar("features", None, note) as bar:
        store = test(wh, run, options, sae=sae, run_id=name, report=bar.show)
    typer.echo(f"{store.meta.run_id}: {store.meta.counts.rows['feature_associations']:,} tests")
    typer.echo(f"next: traces sql --query features_by_property --set run={store.meta.run_id}")
