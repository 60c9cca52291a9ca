"""The commands of `traces runs`: list runs, show one, delete it, merge the parts of one, copy one elsewhere, compact small ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from warehouse.cli.app import App
from warehouse.cli.option_groups import Panel
from warehouse.cli.options import (
    DeleteDryRunOption,
    FormatOption,
    JsonOption,
    RunArgument,
    WarehouseOption,
    YesOption,
    dry_run_option,
    run_option,
)
from warehouse.cli.output import Format, human_age, human_bytes, write
from warehouse.cli.terminal import note, say, table_console
from warehouse.errors import NotFoundError, TracesError, UsageError, printable

if TYPE_CHECKING:
    from warehouse.storage.manifest import Manifest
    from warehouse.storage.objects import AnyPath

runs_app = App()


@runs_app.callback()
def list_runs(context: typer.Context, warehouse: WarehouseOption = None, fmt: FormatOption = Format.table) -> None:
    """List runs (as `traces runs` alone does), show, validate, merge and delete them.

    Examples:
        traces runs --format tsv
    """
    if context.invoked_subcommand is not None:
        if warehouse is not None:  # `traces runs -w DIR show RUN` means the same as `traces runs show RUN -w DIR`
            context.default_map = {context.invoked_subcommand: {"warehouse": str(warehouse)}}
        return
    from warehouse.storage import paths
    from warehouse.warehouse import Warehouse

    query = (
        "SELECT run_id, kind, model, concat_ws('/', dataset, split) AS data, n_examples, n_tokens, "
        "round(perplexity, 2) AS perplexity, round(bits_per_byte, 3) AS bits_per_byte, bytes, created_at, expired_at FROM runs ORDER BY created_at"
    )
    with Warehouse(warehouse, every_file=True) as wh:
        if fmt is not Format.table:
            wh.attempt(lambda: write(wh.sql(query), fmt, None))
            return
        _print_runs(wh.attempt(lambda: wh.sql(query).fetchall()))
        for name, fault in wh.damaged.items():
            say(f"damaged: {name} ({fault})")
        for name in paths.staged_runs(wh.root):
            say(f"unfinished: {name} (run its capture again to go on, or traces runs rm {name})")


def _print_runs(rows: list[tuple[Any, ...]]) -> None:
    """Print a line a run."""
    from datetime import UTC, datetime

    from rich.table import Table

    if not rows:
        say("No runs yet. Capture something: traces capture next-token --help")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "kind", "model", "data"):
        table.add_column(name, overflow="fold")
    for name in ("examples", "tokens", "perplexity", "bits/byte", "size", "age"):
        table.add_column(name, justify="right", no_wrap=True)
    for run, kind, model, data, examples, tokens, perplexity, bits, size, created, expired in rows:
        age = (datetime.now(UTC) - created.replace(tzinfo=UTC)).total_seconds()
        table.add_row(*map(printable, (run, kind, model, data)), f"{examples:,}", f"{tokens:,}",
                      "" if perplexity is None else f"{perplexity:,.2f}", "" if bits is None else f"{bits:.3f}", human_bytes(size) + (" (tensors expired)" if expired else ""), human_age(age))  # fmt: skip
    table_console(160).print(table)


@runs_app.command("show")
def show_run(
    run: RunArgument,
    warehouse: WarehouseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run holds: model, data, options, counts, perplexity, and the tensors that can be read.

    As JSON it is the whole manifest.

    Examples:
        traces runs show wt2
    """
    from warehouse.storage import paths
    from warehouse.storage.run_list import find_run
    from warehouse.storage.trace_store import TraceStore

    store = TraceStore(find_run(paths.find_root(warehouse), run))
    m = store.meta
    if as_json:
        typer.echo(m.model_dump_json(indent=1))
        return
    revision = f" @ {m.model.revision}" if m.model.revision else ""
    data = "/".join(filter(None, (m.data.dataset, m.data.config, m.data.split)))
    lines = {
        "run": f"{m.run_id} ({m.kind}, schema version {m.schema_version})",
        "model": f"{m.model.name}{revision}: {m.model.architecture}, {m.model.n_layers} layers, {m.model.n_heads} heads "
        f"({m.model.n_kv_heads} K/V), width {m.model.d_model}, {m.model.dtype} on {m.model.device}",
        "parents": ", ".join(m.parents),
        "weights": m.model.weights_hash,
        "untrained": ", ".join(m.model.untrained),
        "data": f"{data} from {m.data.source}",
        "options": ", ".join(f"{k}={_on_a_line(v)}" for k, v in m.options.items() if v not in (None, False, "")),
        "counts": f"{m.counts.examples:,} examples ({m.counts.truncated:,} truncated, "
        f"{m.counts.altered:,} altered by the tokenizer), {m.counts.sequences:,} sequences, "
        f"{m.counts.tokens:,} tokens, {m.counts.predictions:,} predictions{_unpredicted(m)}",
        "begins": _beginning(m.options),
        "batches": _BATCHES.get(m.batches or "", ""),
        "loss": _losses(m),
        "expired": ""
        if m.expired is None
        else f"its tensors were deleted on {m.expired.at:%Y-%m-%d %H:%M} UTC (traces runs expire)",
        "rows": ", ".join(f"{table} {n:,}" for table, n in m.counts.rows.items() if n),
        "size": f"{human_bytes(m.bytes)} in {len(m.files)} files, captured in {m.seconds:.1f} s",
        "versions": ", ".join(f"{k} {v}" for k, v in m.versions.items()),
    }
    for name, text in lines.items():
        if text:
            say(f"{name:9} {text}")
    for s in m.sites:
        for tensor, dtype in s.promoted.items():
            say(f"promoted  {tensor} to {dtype}: {s.dtype} cannot hold its values")
    for side in dict.fromkeys(s.side for s in m.sites):
        stack = m.model.stack(side)
        if stack.convention == "post-norm":
            say(f"streams   {side}: those after the norms, since the block normalises after adding")
        for site, reason in stack.missing.items():
            say(f"not there {side}: {site}: {reason}")
    arrays = store.arrays()
    if len(arrays):
        say("")
        say(arrays.to_string(index=False))


def _unpredicted(m: Manifest) -> str:
    """Return why there are fewer predictions than tokens, in brackets."""
    if m.mean_loss is None or m.model.encoder is not None:
        return ""
    again = m.counts.tokens - m.counts.sequences - m.counts.predictions
    text = f" (the first tokens of {m.counts.sequences:,} sequences have none"
    return text + (f", nor have {again:,} others that are read again as context)" if again else ")")


def _beginning(options: dict[str, Any]) -> str:
    """Return what a decoder's sequences begin with."""
    if "bos_id" not in options:
        return ""
    bos, wanted = options["bos_id"], options.get("prepend_bos")
    text = "each sequence with its text: there is no BOS" if bos is None else f"each sequence with token {bos}, a BOS"
    return f"{text} (--prepend-bos {wanted})"


_BATCHES = {
    "padded": "of texts of any length, the shorter ones padded",
    "one length": "of texts of one length: what the model makes of one depends on the longest beside it",
    "one text": "of one text: what the model makes of it depends on those beside it",
}
"""What a capture's batches held, in words."""


def _losses(m: Manifest) -> str:
    """Return a run's mean loss in words: a large one has no finite perplexity, and an infinite one is no number."""
    from warehouse.storage.losses import bits_per_byte

    if m.mean_loss is None:
        infinite = "infinite: tokens came that the model rules out (next_token, loss = 'infinity')"
        return infinite if m.counts.predictions else ""
    of_text = bits_per_byte(m.mean_loss, m.counts.predictions, m.counts.predicted_bytes)
    text = (
        f"{m.mean_loss:.4f} nats" + ("" if m.perplexity is None else f", perplexity {m.perplexity:.3f}") + " per token"
    )
    return text + ("" if of_text is None else f"; {of_text:.4f} bits per byte of text")


def _on_a_line(value: Any) -> Any:
    """Return a value that fits on a line: a template has several."""
    return repr(value) if isinstance(value, str) and "\n" in value else value


@runs_app.command("rm")
def remove(
    run: RunArgument, dry_run: DeleteDryRunOption = False, yes: YesOption = False, warehouse: WarehouseOption = None
) -> None:
    """Delete a run, or what is staged of an unfinished capture.

    Examples:
        traces runs rm wt2 --dry-run

    Raises:
        NotFoundError: There is no such run, published or staged.
        TracesError: The user did not agree.
    """
    from warehouse.catalog import build
    from warehouse.maintenance.remove import folders_of, locked_for_removal, remove_run
    from warehouse.storage import paths, run_list
    from warehouse.storage.files import folder_size
    from warehouse.vectors.table_cache import all_tables

    root = paths.find_root(warehouse)
    folders = folders_of(root, run)
    if not folders:
        raise NotFoundError("run", run, [*run_list.published_runs(root), *paths.staged_runs(root)])
    with locked_for_removal(root, run):
        for folder in folders:
            what = (
                f"a symbolic link: {folder.resolve()} stays"
                if folder.is_symlink()
                else human_bytes(folder_size(folder))
            )
            say(f"{'would delete' if dry_run else 'delete'} {folder} ({what})")
        tables = [t for t in all_tables(root) if run in t.info.runs]
        for table in tables:
            say(f"its {table.info.runs[run].rows:,} rows in the vector table {table.info.sql_name}")
        if dry_run:
            return
        if not yes and not typer.confirm("This cannot be undone. Delete?", default=False):
            raise TracesError("Nothing was deleted.")
        remove_run(root, run)
    build.refresh(root)
    if any(len(t.info.runs) > 1 for t in tables):
        say("traces index optimize gives back the space of those rows")


@runs_app.command("expire")
def expire(
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Only runs that began so long ago: `30d`, `12h`, `2w`.",
            rich_help_panel=Panel.READ,
        ),
    ],
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN...]", help="Runs, or patterns such as 'probe-*'; left out: all runs."),
    ] = None,
    tensors: Annotated[
        bool,
        typer.Option(
            "--tensors",
            help="What goes: tensors, their index, and their rows in vector tables.",
            rich_help_panel=Panel.READ,
        ),
    ] = False,
    dry_run: DeleteDryRunOption = False,
    yes: YesOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Delete the tensors of old captures and keep all their rows.

    Such a run answers every question in SQL as before, and none about vectors; its rows in vector tables go too, since they could
    not be made again. What was made from it (lenses, probes, trait vectors, ablations) stays as it is. A process that has opened
    its tensors goes on reading them. The same command again finishes what was interrupted.

    Examples:
        traces runs expire --tensors --older-than 30d --dry-run
        traces runs expire 'wt2-*' --tensors --older-than 2w --yes

    Raises:
        UsageError: `--tensors` is missing, or the age is none.
        TracesError: The user did not agree.
    """
    from warehouse.maintenance.expire import expire_tensors, find_expiring, parse_age, tensor_bytes
    from warehouse.storage import paths

    if not tensors:
        raise UsageError("Say what is to go: --tensors. Whole runs are deleted by traces runs rm.")
    root = paths.find_root(warehouse)
    found = find_expiring(root, runs or [], parse_age(older_than), note)
    for name, meta in found.items():
        size = human_bytes(tensor_bytes(paths.run_dir(root, name), meta))
        say(f"{'would delete' if dry_run else 'delete'} the tensors of {name} ({size})")
    if not found:
        say("no captured run of that age has tensors")
    if dry_run or not found:
        return
    if not yes and not typer.confirm("This cannot be undone. Delete?", default=False):
        raise TracesError("Nothing was deleted.")
    expire_tensors(root, found, note)


@runs_app.command("merge")
def merge_runs(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="The run whose parts are merged; or, with --run, the parts themselves."),
    ],
    run: Annotated[str | None, run_option("what the parts' names begin with")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the parts.", rich_help_panel=Panel.WRITTEN)] = False,
    dry_run: Annotated[bool, dry_run_option("Only say what would be done.")] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Make one run of parts that were made with `--part I/N`, with the rows and tensors that one process would have made.

    Numbers may differ in their last digits, because sequences shared their batches with others: with `--batch-tokens 1` in all
    parts, every table but `tensors` is byte for byte that of one process, and every slice of a tensor bit for bit. The blobs are
    the parts' own, so that `tensors` names other places in them. A tensor that one part had to store in a wider dtype is wide in
    all of the run, with the other parts' values as the narrower dtype rounded them.

    The parts' folders may come from several machines: copy them into the warehouse first. Once the run is published, the parts
    are deleted. The same command again continues a merge that was interrupted.

    Examples:
        traces runs merge wt2 --dry-run
        traces runs merge wt2.shard-1-of-2 wt2.shard-2-of-2 --run whole --keep

    Raises:
        UsageError: Several parts are named, but not the run that they become.
    """
    from warehouse.maintenance import merge, merge_plan
    from warehouse.storage import paths

    if len(runs) > 1 and run is None:
        raise UsageError("Several parts are named, but not the run that they become: add --run NAME.")
    root, name = paths.find_root(warehouse), run or runs[0]

    if not dry_run and merge.finish_merge(root, name, note) is not None:
        say(f"{name} was merged before; what was left to do is done")
        return
    planned = merge_plan.plan_merge(root, runs if len(runs) > 1 else merge_plan.find_parts(root, runs[0]), name)
    size = human_bytes(sum(s.meta.bytes for s in planned.parts))
    rows: dict[str, int] = {}
    for part in planned.parts:
        rows |= {table: rows.get(table, 0) + n for table, n in part.meta.counts.rows.items() if n}
    counts = ", ".join(f"{table} {n:,}" for table, n in rows.items())
    say(f"{'would publish' if dry_run else 'publish'} {name}: {counts} ({size})")
    for tensor, dtype in planned.promoted.items():
        say(
            f"{tensor} as {dtype} in all of it: a part has values that are too large for {planned.parts[0].meta.store_dtype}"
        )
    if not keep:
        for part in planned.parts:
            say(f"{'would delete' if dry_run else 'delete'} {part.folder}")
        for other in planned.derived:
            note(f"warning: {other} was made from a part that is deleted: make it again from {name}")
    if not dry_run:
        merge.merge(root, planned, keep, note)
        say(f"next: traces runs show {name}")


PlaceArgument = Annotated[
    str,
    typer.Argument(metavar="PLACE", help="The other warehouse: a folder, or s3://BUCKET/FOLDER.", show_default=False),
]


@runs_app.command("push")
def push(run: RunArgument, place: PlaceArgument, warehouse: WarehouseOption = None) -> None:
    """Copy a run, checked, from this warehouse to another one.

    The run is checked before it leaves, and is visible there only when it is whole. The same command again goes on where a copy was
    interrupted.

    Examples:
        traces runs push wt2 s3://bucket/runs
    """
    from warehouse.storage import paths

    _copy(paths.find_root(warehouse), paths.find_root(place), run)


@runs_app.command("pull")
def pull(run: RunArgument, place: PlaceArgument, warehouse: WarehouseOption = None) -> None:
    """Copy a run from another warehouse into this one, checked.

    Examples:
        traces runs pull wt2 s3://bucket/runs
    """
    from warehouse.storage import paths

    _copy(paths.find_root(place), paths.find_root(warehouse), run)


def _copy(source: AnyPath, target: AnyPath, run: str) -> None:
    """Copy a run from one warehouse to another, and say so."""
    from warehouse.maintenance.transfer import copy_run
    from warehouse.progress import ProgressBar
    from warehouse.storage.manifest import Manifest
    from warehouse.storage.run_list import find_run
    from warehouse.validation.validate import check_intact

    total = Manifest.read(find_run(source, run)).bytes
    with ProgressBar("bytes", total, note) as bar:
        done = 0

        def report(size: int) -> None:
            nonlocal done
            done += size
            bar.show(done)

        copied = copy_run(source, target, run, check_intact, report)
    say(f"{run}: {f'copied to {target} ({human_bytes(total)})' if copied else f'is in {target} already'}")


@runs_app.command("compact")
def compact(warehouse: WarehouseOption = None) -> None:
    """Copy the tables of all small runs into a few files, so that a query opens fewer.

    The warehouse does this by itself for every hundred small runs: this takes the rest, too, and deletes copies that no longer
    serve. Answers stay the same, and readers are not disturbed.

    Examples:
        traces runs compact

    Raises:
        UsageError: There is no warehouse.
    """
    from warehouse.catalog import build
    from warehouse.storage import paths, run_list

    root = paths.find_root(warehouse)
    if not run_list.exists(root):
        raise UsageError(f"There is no warehouse at {root}.")
    before = build.read_groups(root)
    build.refresh(root, compact_all=True)
    groups = build.read_groups(root)
    runs = sum(len(group.runs) for group in groups.values())
    say(f"{runs:,} runs in {len(groups):,} groups, of which {len(groups.keys() - before.keys()):,} are new")
