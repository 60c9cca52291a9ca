"""The shards of a run (`--shard i/n`) → one run, with the rows and tensors that one process would have made.

Shards of a capture name the hash of all the data that they took their share of, so that their examples together can be proven to be that
data, neither more nor less. Tables are merged by their keys; blobs are linked under new numbers, and copied only where the file
system cannot link or a tensor has to be widened, because another shard met a value that its dtype cannot hold.

How equal it is: where a sequence is a batch (`--batch-tokens 1`) or nothing is computed (a judge's run), every table is byte for byte
that of one process, and every slice of a tensor bit for bit. Not so are the blobs, which are the shards' own, and with them the
places that the table `tensors` names (`blob`, `row_start`, `row_end`), and of the manifest `created_at`, `seconds`, `bytes`, `files` and
the seal. Two things change values: sequences that shared a batch share it with others in a shard (`tokens.batch` says with which), and
products of other shapes round otherwise, in the last digits; and a tensor that one shard stored wider has the other shards' values as the narrower dtype
rounded them, where one process would have rounded those before the large value alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from warehouse.catalog import build
from warehouse.catalog.publish import publish
from warehouse.errors import CorruptRunError, NotFoundError, RunExistsError, TracesError, UsageError
from warehouse.maintenance.remove import empty_trash, locked_for_removal, remove_run
from warehouse.schema.sites import tensor_name
from warehouse.schema.tables import SCHEMA_VERSION, STORED
from warehouse.storage import paths
from warehouse.storage.blobs import DTYPES, Blob, ShardFile, TensorSpec
from warehouse.storage.files import delete, file_checksum, link_or_copy
from warehouse.storage.losses import mean_loss, perplexity
from warehouse.storage.manifest import BATCHES, Counts, Manifest, StagedRun, manifest_hash
from warehouse.storage.parquet import examples_hash, rewrite_table_file
from warehouse.storage.run_writer import MakeFile, RunWriter, differences
from warehouse.storage.sealed import SealedFile
from warehouse.vectors import index_spec, ingest
from warehouse.vectors.reconcile import remove_run_rows

_PIECE = 1 << 24
"""Values that are widened at a time."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class RunPart:
    run_id: str
    folder: Path
    meta: Manifest

    @property
    def blobs(self) -> list[str]:
        return [f.path for f in self.meta.files if f.path.startswith(f"{paths.BLOBS}/")]

    @property
    def tables(self) -> list[str]:
        """Names of the tables that it has rows of."""
        return [name for name in STORED if (self.folder / paths.table_file(name)).is_file()]


@dataclass(frozen=True)
class MergePlan:
    """Shards that are known to make one run."""

    run_id: str
    parts: list[RunPart]
    """In the order of their numbers."""
    promoted: dict[str, str]
    """Tensors that some shard has in a wider dtype than the others."""
    derived: list[str]
    """Runs that were derived from one of the shards."""


def find_parts(root: Path, run_id: str) -> list[str]:
    """The runs that are the shards of `run_id` by their names. Raises NotFoundError where there is none, UsageError where one is missing
    or unfinished.
    """
    published, staged = set(paths.published_runs(root)), set(paths.staged_runs(root))
    named = {name: shard for name in sorted(published | staged) if (shard := paths.part_of(name))}
    mine = {(i, n): name for name, (whole, i, n) in named.items() if whole == run_id}
    if not mine:
        if run_id in published:
            raise UsageError(f"Run '{run_id}' is there, and no shard of it: there is nothing to merge.")
        raise NotFoundError("run with shards", run_id, dict.fromkeys(whole for whole, _, _ in named.values()))
    several = sorted({n for _, n in mine})
    if len(several) > 1:
        raise UsageError(
            f"There are shards of {run_id} by {' and by '.join(map(str, several))}. Name those to be merged: "
            f"traces runs merge RUN RUN … --run {run_id}"
        )
    (n,) = several
    _check_complete({i for i, _ in mine}, n, lambda i: f"there is no run {paths.part_name(run_id, i, n)}")
    names = [mine[i, n] for i in range(1, n + 1)]
    _check_finished(names, staged - published)
    return names


def plan_merge(root: Path, runs: Sequence[str], run_id: str) -> MergePlan:
    """Looks at the shards. Raises NotFoundError, RunExistsError, or UsageError for what does not make one run; CorruptRunError for a shard whose
    files are not what they were.
    """
    paths.check_run_name(run_id)
    if paths.run_dir(root, run_id).exists():
        raise RunExistsError(run_id)
    _check_finished(runs, set(paths.staged_runs(root)) - set(paths.published_runs(root)))
    if twice := sorted({r for r in runs if runs.count(r) > 1}):
        raise UsageError(f"{twice[0]} is named twice.")
    shards = [RunPart(r, folder, Manifest.read(folder)) for r in runs for folder in [paths.find_run(root, r)]]
    by_number = _by_number(shards)
    shards = [by_number[i] for i in sorted(by_number)]
    for other in shards[1:]:
        _check_same_capture(shards[0], other)
    for shard in shards:
        _check_files(shard)
    if shards[0].meta.captured:
        _check_data(shards)
    promoted = {tensor: dtype for s in shards for site in s.meta.sites for tensor, dtype in site.promoted.items()}
    return MergePlan(run_id, shards, promoted, _derived_runs(root, set(runs)))


def merge(root: Path, planned: MergePlan, keep: bool = False, note: Note = lambda _: None) -> Manifest:
    """Publishes the run, makes it searchable as its options ask, and deletes the shards unless `keep`.

    Killed, it leaves either the shards as they were, or the whole run: `finish`, or the same again, then does the rest.
    """
    shards = {s.run_id: manifest_hash(root, s.run_id) for s in planned.parts}
    job = {"kind": "merge", "shards": shards}
    with ExitStack() as stack:
        for shard in planned.parts:
            stack.enter_context(locked_for_removal(root, shard.run_id))
        writer = stack.enter_context(RunWriter(root, planned.run_id, job))
        first = 0
        for number, shard in enumerate(planned.parts):
            if number >= len(writer.done):
                _adopt(writer, planned, shard, first)
            first += len(shard.blobs)

        def describe(published: StagedRun) -> Manifest:
            made = _make_manifest(planned, published)
            left = PendingCleanup(manifest=_hash_manifest(made), delete={} if keep else shards)
            path = paths.merged_path(root, planned.run_id)
            path.parent.mkdir(exist_ok=True)
            left.write_to(path)
            return made

        manifest = publish(writer, describe)
    finish_merge(root, planned.run_id, note)
    return manifest


def finish_merge(root: Path, run_id: str, note: Note = lambda _: None) -> Manifest | None:
    """What is left to do for a run that has been merged: its rows of vector tables, and the shards' end. None: nothing is."""
    path = paths.merged_path(root, run_id)
    folder = paths.run_dir(root, run_id)
    try:
        left = PendingCleanup.read_from(path)
    except FileNotFoundError:
        return None
    except CorruptRunError as e:
        raise CorruptRunError(f"{e} Delete it: the shards stay, to be deleted with traces runs rm.") from None
    if not (folder / paths.MANIFEST).is_file() or manifest_hash(root, run_id) != left.manifest:
        path.unlink()  # of a merge that was killed before it published
        return None
    meta = Manifest.read(folder)
    changed = bool(ingest.add(root, run_id, index_spec.for_run_options(meta), note=note) or left.delete)
    for shard, known in left.delete.items():
        with locked_for_removal(root, shard):
            if not paths.run_dir(root, shard).is_dir():
                remove_run_rows(root, shard)
            elif manifest_hash(root, shard) == known and _is_part_of(Manifest.read(paths.run_dir(root, shard)), meta):
                remove_run(root, shard)
    empty_trash(root)  # of a removal that was killed
    path.unlink()
    delete(paths.staging_dir(root, run_id))
    if changed:
        build.refresh(root)
    return meta


class PendingCleanup(SealedFile):
    """What is left to do after a merge has published its run."""

    manifest: str
    """Hash of that run's manifest."""
    delete: dict[str, str]
    """The shards that go, and the hashes of their manifests."""


def _is_part_of(part: Manifest, whole: Manifest) -> bool:
    """Whether the examples of a run are in another that was merged: a file that names it is not enough to delete it."""
    if not part.options.get("shard") or whole.options.get("shard"):
        return False
    return not list(differences(_shared_facts(part), _shared_facts(whole)))


# -- do they make one run? ---------------------------------------------------------------------------------------------


def _check_finished(runs: Sequence[str], unfinished: set[str]) -> None:
    for run in runs:
        if run in unfinished:
            raise UsageError(f"{run} is unfinished: run its capture again to go on, then merge.")


def _check_complete(there: set[int], n: int, reason: Callable[[int], str]) -> None:
    missing = [i for i in range(1, n + 1) if i not in there]
    if missing:
        told = "; ".join(map(reason, missing[:3])) + ("; …" if len(missing) > 3 else "")
        which = ", ".join(f"{i}/{n}" for i in missing)
        raise UsageError(f"Not all shards are there: {told}. Capture it with --shard {which}, or copy its folder in.")


def _by_number(parts: list[RunPart]) -> dict[int, RunPart]:
    """By their numbers. Raises UsageError where they are not 1 to n, each once."""
    found: dict[int, RunPart] = {}
    parts = 0
    for shard in parts:
        told = shard.meta.options.get("shard")
        if not told:
            raise UsageError(f"Run '{shard.run_id}' is no shard: it was not made with --shard.")
        i, n = (int(x) for x in told.split("/"))
        if parts and n != parts:
            raise UsageError(f"{parts[0].run_id} is one of {parts} shards, {shard.run_id} one of {n}: not of one run.")
        if i in found:
            raise UsageError(
                f"{found[i].run_id} and {shard.run_id} are the same shard, {told}: their examples overlap."
            )
        parts, found[i] = n, shard
    _check_complete(set(found), parts, lambda i: f"none of these runs is shard {i}/{parts}")
    return found


def _shared_facts(meta: Manifest) -> dict[str, Any]:
    """What the shards of one run have in common."""
    model = meta.model.model_dump(
        include={"architecture", "weights_hash", "tokenizer_hash", "dtype", "attn_implementation"}
    )
    return {
        "kind": meta.kind,
        "schema_version": meta.schema_version,
        "model": model | {"device": meta.model.device.partition(":")[0]},
        "data": meta.data.model_dump(include={"dataset", "config", "split", "hash"}),
        "options": {k: v for k, v in meta.options.items() if k not in ("shard", "index")},
        "store_dtype": meta.store_dtype,
        "sites": [s.model_dump(exclude={"promoted"}) for s in meta.sites],
        "versions": {k: v for k, v in meta.versions.items() if k in ("torch", "transformers", "tokenizers")},
        "parents": None if meta.captured else meta.parents,
    }


def _check_same_capture(one: RunPart, other: RunPart) -> None:
    if one.meta.schema_version != SCHEMA_VERSION:
        raise UsageError(
            f"{one.run_id} has schema version {one.meta.schema_version}: shards of {SCHEMA_VERSION} are merged."
        )
    differing = sorted(differences(_shared_facts(one.meta), _shared_facts(other.meta)))
    if not differing:
        return
    told = [
        f"{name} ({_short(a)}, {_short(b)})" if name != "sites" else "the tensors that are stored"
        for name, a, b in differing
    ]
    raise UsageError(
        f"{one.run_id} and {other.run_id} are not of one run: they differ in {', '.join(told)}. Capture one of them again."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _check_files(part: RunPart) -> None:
    """What is altered must not get new checksums by being merged; slices of tensors keep theirs."""
    for f in part.meta.files:
        path = part.folder / f.path
        if not path.is_file() or path.stat().st_size != f.bytes or (f.checksum and file_checksum(path) != f.checksum):
            raise CorruptRunError(f"{path} is missing or altered. Copy {part.run_id} in again, or capture it again.")


def _check_data(parts: list[RunPart]) -> None:
    """The examples of all, in the order of the data, must be those that each shard says the data has."""
    if examples_hash(s.folder / paths.table_file("examples") for s in parts) != parts[0].meta.data.hash:
        raise TracesError(
            "The examples of these shards together are not the data that they were captured from: some are missing, or there "
            "twice. Validate them: traces runs validate RUN"
        )


def _derived_runs(root: Path, parts: set[str]) -> list[str]:
    """Runs whose rows tell of a shard."""
    found = []
    for run in paths.published_runs(root):
        try:
            parents = Manifest.read(paths.run_dir(root, run)).parents
        except TracesError:  # a run that cannot be read is for traces runs validate
            continue
        if parts & set(parents):
            found.append(run)
    return found


# -- one run of them ---------------------------------------------------------------------------------------------------


def _adopt(writer: RunWriter, planned: MergePlan, part: RunPart, first: int) -> None:
    """Hands a shard's files to the writer, its blobs numbered from `first` on."""
    staged = paths.staged_run(paths.staging_dir(writer.root, writer.run_id))
    names = {old: paths.blob_file(first + k) for k, old in enumerate(part.blobs)}
    wider = {old: w for old in part.blobs if (w := _tensors_to_widen(part, old, planned.promoted))}
    blobs: dict[str, MakeFile] = {
        new: partial(_widen, part.folder / old, wider=wider[old])
        if old in wider
        else partial(link_or_copy, part.folder / old)
        for old, new in names.items()
    }
    tables: dict[str, MakeFile] = {}
    for name in part.tables:
        source = part.folder / paths.table_file(name)
        tables[name] = partial(link_or_copy, source)
        if name == "tensors":
            tables[name] = partial(
                rewrite_table_file, source, change=partial(_update_index, names=names, wider=wider, folder=staged)
            )
        elif part.meta.captured and "source_run_id" in STORED[name].names:
            tables[name] = partial(rewrite_table_file, source, change=partial(_set_source_run, run_id=planned.run_id))
    writer.adopt(part.run_id, blobs, tables)


def _tensors_to_widen(part: RunPart, blob: str, promoted: Mapping[str, str]) -> dict[str, str]:
    """The tensors of a blob that have to be in another dtype."""
    with Blob(part.folder / blob) as opened:
        return {t: promoted[t] for t, (dtype, _) in opened.tensors.items() if promoted.get(t, dtype) != dtype}


def _widen(source: Path, target: Path, wider: Mapping[str, str]) -> None:
    """Writes a blob with these tensors in wider dtypes."""
    with Blob(source) as blob:
        specs = {t: TensorSpec(wider.get(t, dtype), shape[1:]) for t, (dtype, shape) in blob.tensors.items()}
        out = ShardFile(target, specs, {t: shape[0] for t, (_, shape) in blob.tensors.items()})
        for tensor, spec in specs.items():
            rows = blob.tensor(tensor)
            step = max(1, _PIECE // max(1, math.prod(spec.row_shape)))
            for start in range(0, len(rows), step):
                out.put(tensor, start, rows[start : start + step].astype(DTYPES[spec.dtype]))
        out.close()


def _update_index(
    rows: pa.Table, names: Mapping[str, str], wider: Mapping[str, Mapping[str, str]], folder: Path
) -> pa.Table:
    """Rows of the tensor index, of the blobs' new names; what was widened has new bytes, and so another checksum."""
    columns = {name: rows[name].to_pylist() for name in ("blob", "dtype", "checksum")} if wider else {}
    if columns:
        blobs = {old: Blob(folder / names[old]) for old in wider}
        places = zip(*(rows[c].to_pylist() for c in ("tensor", "row_start", "row_end")), strict=True)
        for at, (old, (tensor, start, end)) in enumerate(zip(columns["blob"], places, strict=True)):
            if tensor in wider.get(old, ()):
                octets = blobs[old].rows(tensor, start, end).reshape(-1).view(np.uint8)
                columns["dtype"][at], columns["checksum"][at] = wider[old][tensor], xxhash.xxh3_64_hexdigest(octets)
        rows = _set_columns(rows, {name: pa.array(columns[name], pa.string()) for name in ("dtype", "checksum")})
    numbers = pc.index_in(rows["blob"], value_set=pa.array(list(names)))
    return _set_columns(rows, {"blob": pa.chunked_array([pa.array(list(names.values()))]).take(numbers)})


def _set_source_run(rows: pa.Table, run_id: str) -> pa.Table:
    """Rows that tell of the run that they are in."""
    return _set_columns(rows, {"source_run_id": pa.repeat(run_id, len(rows))})


def _set_columns(rows: pa.Table, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)
    return rows


def _make_manifest(planned: MergePlan, published: StagedRun) -> Manifest:
    metas = [s.meta for s in planned.parts]
    first = metas[0]
    counts = [m.counts for m in metas] if first.captured else [first.counts]  # a derived run has its parent's
    loss = None if first.mean_loss is None else mean_loss(published.folder)
    promoted = planned.promoted
    stored = []
    for s in first.sites:
        mine = (tensor_name(s.side, s.site, layer) for layer in s.layers)
        stored.append(s.model_copy(update={"promoted": {t: promoted[t] for t in mine if t in promoted}}))
    return first.model_copy(
        update={
            "run_id": planned.run_id,
            "parents": list(dict.fromkeys(parent for m in metas for parent in m.parents)),
            "created_at": published.created_at,  # after the shards: where they are kept, the newest is the whole
            "seconds": sum(m.seconds for m in metas),
            "options": first.options | {"shard": ""},
            "batches": max((m.batches for m in metas if m.batches), key=BATCHES.index, default=None),
            "sites": stored,
            "counts": Counts(
                examples=sum(c.examples for c in counts),
                sequences=sum(c.sequences for c in counts),
                tokens=sum(c.tokens for c in counts),
                predictions=sum(c.predictions for c in counts),
                predicted_bytes=_sum_if_known([c.predicted_bytes for c in counts]),
                truncated=sum(c.truncated for c in counts),
                altered=sum(c.altered for c in counts),
                rows=published.rows,
            ),
            "mean_loss": loss,
            "perplexity": perplexity(loss),
            "bytes": sum(f.bytes for f in published.files),
            "files": published.files,
        }
    )


def _sum_if_known(parts: Sequence[int | None]) -> int | None:
    """None where one is not known."""
    known = [n for n in parts if n is not None]
    return sum(known) if len(known) == len(parts) else None


def _hash_manifest(manifest: Manifest) -> str:
    """As `manifest_hash` finds it once the manifest is written."""
    return xxhash.xxh3_128_hexdigest(manifest.to_bytes())
