"""Merge the parts of a run (`--part i/n`) into one run, with the rows and tensors that one process would have made.

In: a `MergePlan`. Out: the published run; the parts are deleted. `traces runs merge` calls it.

Tables are merged by their keys. Blobs are linked under new numbers. They are copied only where the file system cannot link, or where
a tensor has to be widened because another part met a value that its dtype cannot hold.

How equal the run is to that of one process: where a sequence is a batch (`--batch-tokens 1`) or nothing is computed (a judge's run),
every table is the same byte for byte, and every slice of a tensor bit for bit. Not the same are the blobs, which are the parts' own,
the places in them that the table `tensors` names (`blob`, `row_start`, `row_end`), and in the manifest `created_at`, `seconds`,
`bytes`, `files` and the seal. Two things change values. Sequences share batches with other sequences than in one process (`tokens.batch`
says with which), and products of other shapes round otherwise, in the last digits. And where one part stored a tensor wider, the other
parts' values are as the narrower dtype rounded them, while one process would have rounded only those before the large value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from warehouse.catalog import build
from warehouse.catalog.publish import publish
from warehouse.errors import CorruptRunError
from warehouse.maintenance.merge_plan import MergePlan, RunPart, is_part_of
from warehouse.maintenance.remove import empty_trash, is_half_removed, locked_for_removal, remove_run
from warehouse.schema.sites import tensor_name
from warehouse.schema.tables import STORED
from warehouse.storage import paths, run_list
from warehouse.storage.blobs import DTYPES, Blob, ShardFile, TensorSpec
from warehouse.storage.files import delete, parquet_source
from warehouse.storage.int8 import CODED
from warehouse.storage.losses import mean_loss, perplexity
from warehouse.storage.manifest import BATCHES, Counts, Manifest, StagedRun, manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.parquet import write_part_of
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_writer import MakeFile, RunWriter
from warehouse.storage.sealed import SealedFile
from warehouse.storage.sequence_checksums import SequenceSums, from_hex, slice_digests, to_hex
from warehouse.vectors import index_spec, ingest
from warehouse.vectors.reconcile import remove_run_rows

_PIECE = 1 << 24
"""Values that are widened at a time."""

Note = Callable[[str], None]
"""Takes a line that says what is being done."""


def merge(root: AnyPath, planned: MergePlan, keep: bool = False, note: Note = lambda _: None) -> Manifest:
    """Publish the run, make it searchable as its options ask, and delete the parts.

    If it is killed, either the parts are as they were, or the whole run is published; the same call, or `finish_merge`, does the
    rest.

    Args:
        root: The warehouse.
        planned: The parts.
        keep: Whether the parts stay.
        note: Called with what is being done.

    Returns:
        The run's manifest.
    """
    hashes = {part.run_id: manifest_hash(root, part.run_id) for part in planned.parts}
    with ExitStack() as stack:
        for part in planned.parts:
            stack.enter_context(locked_for_removal(root, part.run_id))
        writer = stack.enter_context(RunWriter(root, planned.run_id, RunIdentity("merge", {}, hashes).to_dict()))
        first = 0
        for number, part in enumerate(planned.parts):
            if number >= len(writer.done):
                _adopt(writer, planned, part, first)
            first += len(part.blobs)

        def describe(staged: StagedRun) -> Manifest:
            manifest = _make_manifest(planned, staged)
            pending = PendingCleanup(manifest=_hash_manifest(manifest), delete={} if keep else hashes)
            path = paths.merged_path(root, planned.run_id)
            path.parent.mkdir(exist_ok=True)
            pending.write_to(path)
            return manifest

        manifest = publish(writer, describe)
    finish_merge(root, planned.run_id, note)
    return manifest


def finish_merge(root: AnyPath, run_id: str, note: Note = lambda _: None) -> Manifest | None:
    """Finish a merge that has published its run: add the run to vector tables, and delete the parts.

    Args:
        root: The warehouse.
        run_id: The merged run.
        note: Called with what is being done.

    Returns:
        The run's manifest; None where nothing is left to do.

    Raises:
        CorruptRunError: Where the note of what is left to do is damaged.
    """
    path = paths.merged_path(root, run_id)
    folder = paths.run_dir(root, run_id)
    try:
        pending = PendingCleanup.read_from(path)
    except FileNotFoundError:
        return None
    except CorruptRunError as e:
        raise CorruptRunError(f"{e} Delete it: the parts stay, to be deleted with traces runs rm.") from None
    if not (folder / paths.MANIFEST).is_file() or manifest_hash(root, run_id) != pending.manifest:
        path.unlink()  # left by a merge that was killed before it published
        return None
    meta = Manifest.read(folder)
    changed = bool(ingest.add(root, run_id, index_spec.for_run_options(meta), note=note) or pending.delete)
    for part, known_hash in pending.delete.items():
        with locked_for_removal(root, part):
            if is_half_removed(root, part):
                remove_run(root, part)
            elif not run_list.is_published(root, part):
                remove_run_rows(root, part)
            elif manifest_hash(root, part) == known_hash and is_part_of(Manifest.read(paths.run_dir(root, part)), meta):
                remove_run(root, part)
    empty_trash(root)  # left by a removal that was killed
    path.unlink()
    delete(paths.staging_dir(root, run_id))
    if changed:
        build.refresh(root)
    return meta


class PendingCleanup(SealedFile):
    """What is left to do after a merge has published its run: a file beside the staging folders."""

    manifest: str
    """Hash of that run's manifest."""
    delete: dict[str, str]
    """The parts to delete, and the hashes of their manifests."""


def _adopt(writer: RunWriter, planned: MergePlan, part: RunPart, first: int) -> None:
    """Hand a part's files to the writer, its blobs numbered from `first` on."""
    staging = paths.staged_run(paths.staging_dir(writer.root, writer.run_id))
    names = {old: paths.blob_file(first + k) for k, old in enumerate(part.blobs)}
    wider = {old: w for old in part.blobs if (w := _tensors_to_widen(part, old, planned.promoted))}
    blobs: dict[str, MakeFile | AnyPath] = {
        new: partial(_widen, part.folder / old, wider=wider[old]) if old in wider else part.folder / old
        for old, new in names.items()
    }
    tables: dict[str, MakeFile] = {}
    for name in part.tables:
        source = part.folder / paths.table_file(name)
        tables[name] = partial(write_part_of, name, source)
        if name == "tensors":
            tables[name] = partial(_rewrite_index, part=part, names=names, wider=wider, staged=staging)
        elif part.meta.captured and "source_run_id" in STORED[name].names:
            tables[name] = partial(write_part_of, name, source, change=partial(_set_source_run, run_id=planned.run_id))
    writer.adopt(part.run_id, blobs, tables)


def _tensors_to_widen(part: RunPart, blob: str, promoted: Mapping[str, str]) -> dict[str, str]:
    """Return the tensors of a blob that have to be wider, and their new dtypes."""
    with Blob(part.folder / blob) as opened:
        return {t: promoted[t] for t, (dtype, _) in opened.tensors.items() if promoted.get(t, dtype) != dtype != CODED}


def _widen(source: AnyPath, target: Path, wider: Mapping[str, str]) -> None:
    """Write a copy of a blob with some tensors in wider dtypes."""
    with Blob(source) as blob:
        held = blob.tensors | blob.companions
        specs = {t: TensorSpec(wider.get(t, dtype), shape[1:]) for t, (dtype, shape) in held.items()}
        out = ShardFile(target, specs, {t: shape[0] for t, (_, shape) in held.items()}, blob.metadata)
        for tensor, spec in specs.items():
            rows = blob.tensor(tensor)
            step = max(1, _PIECE // max(1, math.prod(spec.row_shape)))
            for start in range(0, len(rows), step):
                out.put(tensor, start, rows[start : start + step].astype(DTYPES[spec.dtype]))
        out.close()


def _rewrite_index(
    target: Path, part: RunPart, names: Mapping[str, str], wider: Mapping[str, Mapping[str, str]], staged: Path
) -> None:
    """Write a part's tensor index, to be merged, with the blobs' new names, and the new dtypes and checksums of what was widened.

    Args:
        target: The file to write.
        part: The part.
        names: The blobs' old and new names.
        wider: For each blob with widened tensors, their new dtypes.
        staged: The folder with the new blobs.
    """
    source = part.folder / paths.table_file("tensors")
    changes = _checksum_changes(source, part, names, wider, staged) if wider else {}

    def change(rows: pa.Table) -> pa.Table:
        if wider:
            columns = [rows[c].to_pylist() for c in ("blob", "tensor", "dtype", "example_id", "seq", "checksum")]
            dtypes, checksums = [], []
            for blob, tensor, dtype, example_id, seq, checksum in zip(*columns, strict=True):
                dtypes.append(wider.get(blob, {}).get(tensor, dtype))
                checksums.append(from_hex([checksum])[0] + changes.get((example_id, seq), np.uint64(0)))
            rows = _set_columns(rows, {"dtype": pa.array(dtypes, pa.string()), "checksum": to_hex(np.array(checksums))})
        numbers = pc.index_in(rows["blob"], value_set=pa.array(list(names)))
        return _set_columns(rows, {"blob": pa.chunked_array([pa.array(list(names.values()))]).take(numbers)})

    write_part_of("tensors", source, target, change)


def _checksum_changes(
    source: AnyPath, part: RunPart, names: Mapping[str, str], wider: Mapping[str, Mapping[str, str]], staged: Path
) -> dict[tuple[str, int], np.ndarray]:
    """Return what widening adds to the checksum of every sequence that it touches, (2,) uint64."""
    changes: dict[tuple[str, int], np.ndarray] = {}
    index = pq.read_table(parquet_source(source), partitioning=None)
    for name, tensors in wider.items():
        old, new = Blob(part.folder / name), Blob(staged / names[name])
        for tensor in tensors:
            rows = index.filter((pc.field("blob") == name) & (pc.field("tensor") == tensor))
            place = rows["row_start"].to_numpy(), rows["row_end"].to_numpy()
            added = SequenceSums(len(rows))
            added.add(tensor, slice_digests(new.tensor(tensor), *place) - slice_digests(old.tensor(tensor), *place))
            for sequence, change in zip(
                zip(rows["example_id"].to_pylist(), rows["seq"].to_pylist(), strict=True), added.values, strict=True
            ):
                changes[sequence] = changes.get(sequence, np.uint64(0)) + change
    return changes


def _set_source_run(rows: pa.Table, run_id: str) -> pa.Table:
    """Make rows name the merged run as the run that they describe."""
    return _set_columns(rows, {"source_run_id": pa.repeat(run_id, len(rows))})


def _set_columns(rows: pa.Table, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)
    return rows


def _make_manifest(planned: MergePlan, staged: StagedRun) -> Manifest:
    """Make the run's manifest from those of its parts."""
    metas = [s.meta for s in planned.parts]
    first = metas[0]
    counts = [m.counts for m in metas] if first.captured else [first.counts]  # a derived run has its parent's
    loss = None if first.mean_loss is None else mean_loss(staged.folder)
    promoted = planned.promoted
    stored_sites = []
    for s in first.sites:
        tensors = (tensor_name(s.side, s.site, layer) for layer in s.layers)
        stored_sites.append(s.model_copy(update={"promoted": {t: promoted[t] for t in tensors if t in promoted}}))
    return first.model_copy(
        update={
            "run_id": planned.run_id,
            "parents": list(dict.fromkeys(parent for m in metas for parent in m.parents)),
            "created_at": staged.created_at,  # later than the parts: where they are kept, the newest run is the whole
            "seconds": sum(m.seconds for m in metas),
            "options": first.options | {"shard": ""},
            "expired": None,
            "batches": max((m.batches for m in metas if m.batches), key=BATCHES.index, default=None),
            "sites": stored_sites,
            "counts": Counts(
                examples=sum(c.examples for c in counts),
                sequences=sum(c.sequences for c in counts),
                tokens=sum(c.tokens for c in counts),
                predictions=sum(c.predictions for c in counts),
                predicted_bytes=_sum_if_known([c.predicted_bytes for c in counts]),
                truncated=sum(c.truncated for c in counts),
                altered=sum(c.altered for c in counts),
                rows=staged.rows,
            ),
            "mean_loss": loss,
            "perplexity": perplexity(loss),
            "bytes": sum(f.bytes for f in staged.files),
            "files": staged.files,
        }
    )


def _sum_if_known(parts: Sequence[int | None]) -> int | None:
    """Return the sum, or None where one of the numbers is not known."""
    known = [n for n in parts if n is not None]
    return sum(known) if len(known) == len(parts) else None


def _hash_manifest(manifest: Manifest) -> str:
    """Return what `manifest_hash` returns once the manifest is written."""
    return xxhash.xxh3_128_hexdigest(manifest.to_bytes())
