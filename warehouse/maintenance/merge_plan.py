"""Check that the parts of a run (`--part i/n`) make one run, before `merge` writes it.

In: a warehouse, the parts' names or the name that they share. Out: a `MergePlan`, or an error that says which part is missing,
unfinished, altered or of another capture. Nothing is written.

Each part of a capture names the hash of all the data that it took its share of. Their examples together can so be proven to be that
data, neither more nor less.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from warehouse.catalog.listed import listed_parents
from warehouse.errors import CorruptRunError, NotFoundError, TracesError, UsageError
from warehouse.schema.tables import SCHEMA_VERSION, STORED
from warehouse.storage import paths, run_list
from warehouse.storage.files import file_checksum
from warehouse.storage.manifest import Manifest
from warehouse.storage.objects import AnyPath, ObjectPath
from warehouse.storage.parquet import examples_hash
from warehouse.storage.run_writer import differences


@dataclass(frozen=True)
class RunPart:
    """The published run of one part."""

    run_id: str
    folder: AnyPath
    meta: Manifest

    @property
    def blobs(self) -> list[str]:
        """The paths of its blobs in its folder."""
        return [f.path for f in self.meta.files if f.path.startswith(f"{paths.BLOBS}/")]

    @property
    def tables(self) -> list[str]:
        """The names of the tables that it has rows of."""
        return [name for name in STORED if (self.folder / paths.table_file(name)).is_file()]


@dataclass(frozen=True)
class MergePlan:
    """Parts that are known to make one run."""

    run_id: str
    """Name of the run that they are merged into."""
    parts: list[RunPart]
    """In the order of their numbers."""
    promoted: dict[str, str]
    """The wider dtypes of tensors that some part stored wider than the others."""
    derived: list[str]
    """Runs that were derived from one of the parts."""


def find_parts(root: AnyPath, run_id: str) -> list[str]:
    """Find the parts of a run by their names.

    Args:
        root: The warehouse.
        run_id: The name that the parts share.

    Returns:
        Names of the parts' runs, by number.

    Raises:
        NotFoundError: Where there are no parts of that name.
        UsageError: Where a part is missing or unfinished, or the parts are of different numbers.
    """
    published, staged = set(run_list.published_runs(root)), set(paths.staged_runs(root))
    all_parts = {name: part for name in sorted(published | staged) if (part := paths.part_of(name))}
    names = {(i, n): name for name, (whole, i, n) in all_parts.items() if whole == run_id}
    if not names:
        if run_id in published:
            raise UsageError(f"Run '{run_id}' exists, and has no parts beside it: there is nothing to merge.")
        raise NotFoundError("run in parts", run_id, dict.fromkeys(whole for whole, _, _ in all_parts.values()))
    counts = sorted({n for _, n in names})
    if len(counts) > 1:
        raise UsageError(
            f"Run '{run_id}' was captured in {' and in '.join(map(str, counts))} parts. Name the parts to merge: "
            f"traces runs merge RUN RUN … --run {run_id}"
        )
    (n,) = counts
    _check_complete({i for i, _ in names}, n, lambda i: f"there is no run {paths.part_name(run_id, i, n)}")
    parts = [names[i, n] for i in range(1, n + 1)]
    _check_finished(parts, staged - published)
    return parts


def plan_merge(root: AnyPath, runs: Sequence[str], run_id: str) -> MergePlan:
    """Check that runs are the parts of one run.

    Args:
        root: The warehouse.
        runs: Names of the parts' runs, in any order.
        run_id: Name of the run to merge them into.

    Returns:
        The plan that `merge` carries out.

    Raises:
        NotFoundError: Where one of the runs does not exist.
        RunExistsError: Where `run_id` does.
        UsageError: For runs that do not make one run.
        CorruptRunError: For a part with a file that is missing or altered.
    """
    run_list.check_free(root, run_id)
    _check_finished(runs, set(paths.staged_runs(root)) - set(run_list.published_runs(root)))
    if repeated := sorted({r for r in runs if runs.count(r) > 1}):
        raise UsageError(f"{repeated[0]} is named twice.")
    parts = [RunPart(r, folder, Manifest.read(folder)) for r in runs for folder in [run_list.find_run(root, r)]]
    by_number = _by_number(parts)
    parts = [by_number[i] for i in sorted(by_number)]
    for other in parts[1:]:
        _check_same_capture(parts[0], other)
    for part in parts:
        _check_files(part)
    if parts[0].meta.captured:
        _check_data(parts)
    promoted = {tensor: dtype for p in parts for site in p.meta.sites for tensor, dtype in site.promoted.items()}
    return MergePlan(run_id, parts, promoted, _derived_runs(root, set(runs)))


def is_part_of(part: Manifest, whole: Manifest) -> bool:
    """Tell whether a run's examples are in another run that was merged.

    Asked before a part is deleted: that some file names it is not enough.

    Args:
        part: Manifest of the run that may be a part.
        whole: Manifest of the merged run.

    Returns:
        Whether `part` is a part, `whole` is not, and both are of one capture.
    """
    if not part.options.get("shard") or whole.options.get("shard"):
        return False
    return not list(differences(_shared_facts(part), _shared_facts(whole)))


def _check_finished(runs: Sequence[str], unfinished: set[str]) -> None:
    for run in runs:
        if run in unfinished:
            raise UsageError(f"{run} is unfinished: run its capture again to go on, then merge.")


def _check_complete(numbers: Collection[int], n: int, reason: Callable[[int], str]) -> None:
    missing = [i for i in range(1, n + 1) if i not in numbers]
    if missing:
        reasons = "; ".join(map(reason, missing[:3])) + ("; …" if len(missing) > 3 else "")
        options = ", ".join(f"{i}/{n}" for i in missing)
        raise UsageError(f"Parts are missing: {reasons}. Capture with --part {options}, or copy the run's folder in.")


def _by_number(parts: list[RunPart]) -> dict[int, RunPart]:
    """Return the parts by number; raises UsageError where they are not 1 to n, each once."""
    by_number: dict[int, RunPart] = {}
    total = 0
    for part in parts:
        label = part.meta.options.get("shard")
        if not label:
            raise UsageError(f"Run '{part.run_id}' is not a part of a run: it was not captured with --part.")
        i, n = (int(x) for x in label.split("/"))
        if total and n != total:
            raise UsageError(f"{parts[0].run_id} is one of {total} parts, {part.run_id} one of {n}: not of one run.")
        if i in by_number:
            raise UsageError(
                f"{by_number[i].run_id} and {part.run_id} are the same part, {label}: their examples overlap."
            )
        total, by_number[i] = n, part
    _check_complete(by_number, total, lambda i: f"none of these runs is part {i}/{total}")
    return by_number


def _shared_facts(meta: Manifest) -> dict[str, Any]:
    """Return what the manifests of all parts of a run, and that of the merged run, have in common."""
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
            f"{one.run_id} has schema version {one.meta.schema_version}: only parts of version {SCHEMA_VERSION} can be merged."
        )
    differing = sorted(differences(_shared_facts(one.meta), _shared_facts(other.meta)))
    if not differing:
        return
    facts = [
        f"{name} ({_short(a)}, {_short(b)})" if name != "sites" else "the tensors that are stored"
        for name, a, b in differing
    ]
    raise UsageError(
        f"{one.run_id} and {other.run_id} are not of one run: they differ in {', '.join(facts)}. Capture one of them again."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _check_files(part: RunPart) -> None:
    """Check that no file of a part was altered, since merging gives files new checksums; sequences of tensors keep theirs."""
    for f in part.meta.files:
        path = part.folder / f.path
        if not path.is_file() or path.stat().st_size != f.bytes or (f.checksum and file_checksum(path) != f.checksum):
            raise CorruptRunError(f"{path} is missing or altered. Copy {part.run_id} in again, or capture it again.")


def _check_data(parts: list[RunPart]) -> None:
    """Check that all examples, in the order of the data, are the data that each part says it took a share of."""
    if examples_hash(p.folder / paths.table_file("examples") for p in parts) != parts[0].meta.data.hash:
        raise TracesError(
            "The examples of these parts together are not the data that they were captured from: some are missing or occur "
            "twice. Validate them: traces runs validate RUN"
        )


def _derived_runs(root: AnyPath, parts: set[str]) -> list[str]:
    """Return the runs that have one of the parts as a parent."""
    derived = []
    listed = listed_parents(root) if isinstance(root, ObjectPath) else {}
    for run in run_list.published_runs(root):
        try:
            parents = listed[run] if run in listed else Manifest.read(paths.run_dir(root, run)).parents
        except TracesError:  # a run that cannot be read is for traces runs validate
            continue
        if parts & set(parents):
            derived.append(run)
    return derived
