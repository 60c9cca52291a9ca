"""Names and paths of everything on disk: the only place that spells them.

<root>/warehouse.duckdb             the views (an index: rebuilt at any time)
<root>/.staging/<run>/run/          a run being written: the folder that is renamed to run_id=<run>
<root>/.staging/<run>/journal.jsonl what of it is durable; beside it parts/, the tables' rows shard by shard
<root>/.staging/.locks/, .merged/, .trash/   locks of writers; merges to be finished; runs being deleted
<root>/run_id=<run>/run.json        a published run's manifest
<root>/run_id=<run>/<table>/*.parquet
<root>/run_id=<run>/blobs/00000.safetensors
<root>/compacted/<group>/<table>.parquet  copies of small runs' tables, which the views read (an index: rebuilt at any time)
<root>/data/<name>/<split>.parquet  a data set prepared for captures
<root>/vectors/<model>/<site>.L15.lance  a vector table; beside it .info.json, what is known of it
<root>/vectors/<model>/traits.lance  the vectors of all the model's traits

A root in an object store has these too, and keeps its .staging/, data/ and warehouse.duckdb in a local folder (`objects.local_side`):

<root>/list/00000000000000000001.json  the first change of the list of runs; list/latest.json names the newest checkpoint of it
<root>/writers/<run>.json           who is writing a run: held until the run is published
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from warehouse.errors import UsageError
from warehouse.storage.objects import AnyPath, any_path, local_side, sorted_paths

CATALOG = "warehouse.duckdb"
STAGING = ".staging"
MANIFEST = "run.json"
BLOBS = "blobs"
_JOURNAL = "journal.jsonl"
_COMPACTED = "compacted"
_LIST = "list"
_WRITERS = "writers"
_PREPARED = "data"
_VECTORS = "vectors"
_INFO = ".info.json"
_LOCKS, _MERGED, _TRASH = ".locks", ".merged", ".trash"
"""Folders in `.staging`; no run can have these names."""
TRAITS_TABLE = "traits"
"""The Lance table of a model's traits, which is not a vector table: its rows are not tokens."""
RUN_PREFIX = "run_id="

_PART_NAME = re.compile(r"(.+)\.shard-(\d+)-of-(\d+)")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
_READ_AS_A_VALUE = re.compile(
    r"null|none|true|false|nan|inf|infinity|\d[\d_]*(\.[\d_]*)?(e-?\d+)?[dfl]?|\d{4}-\d{1,2}(-\d{1,2}(t.*)?)?",
    re.IGNORECASE,
)
"""Names that Spark, Polars, Arrow or DuckDB read as NULL, a truth value, a number or a date, as a partition's value."""
_TABLE_FILE = re.compile(r"([a-z][a-z_]*)/\d{5,}\.parquet")
_BLOB_FILE = re.compile(rf"{BLOBS}/\d{{5,}}\.safetensors")
_VECTOR_FOLDER = re.compile(r"[A-Za-z0-9_]{1,200}")


def find_root(explicit: str | AnyPath | None = None) -> AnyPath:
    """Return the warehouse root: `explicit`, else `$TRACES_HOME`, else `./runs`; it need not exist yet."""
    return any_path(explicit or os.environ.get("TRACES_HOME") or "runs").expanduser()


def check_run_name(run_id: str) -> str:
    """Return the name of a new run.

    Raises:
        UsageError: No run can be given that name.
    """
    if not _RUN_NAME.fullmatch(run_id):
        raise UsageError(
            f"'{run_id}' cannot name a run: use letters, digits, '.', '_' and '-', at most 120, starting with a letter or digit."
        )
    if _READ_AS_A_VALUE.fullmatch(run_id):
        raise UsageError(
            f"'{run_id}' cannot name a run: tools that read its folder would take {RUN_PREFIX}{run_id} for a value that is not "
            f"text. Add a word, as in run-{run_id}."
        )
    return run_id


def is_plain_name(run_id: str) -> bool:
    """Return whether a run has a name that it could be given, which all tools read from its folder's name as it is."""
    return bool(_RUN_NAME.fullmatch(run_id)) and not _READ_AS_A_VALUE.fullmatch(run_id)


def _safe_name(run_id: str) -> str:
    """Return a run's name that is safe in a path: it stays in the folder that it is put in.

    A run that was renamed by hand may have a name that `check_run_name` would refuse.

    Raises:
        UsageError: The name would lead to another folder.
    """
    if run_id in ("", ".", "..") or "/" in run_id or "\0" in run_id or os.sep in run_id:
        raise UsageError(
            f"'{run_id}' is not the name of a run: a run is named by its folder's name after '{RUN_PREFIX}'."
        )
    return run_id


def part_name(run_id: str, i: int, n: int) -> str:
    """Return the name of a part of a run: the i-th, from 1, of the n that `traces runs merge` joins."""
    return f"{run_id}.shard-{i}-of-{n}"


def part_of(run_id: str) -> tuple[str, int, int] | None:
    """Return the run, i and n from the name of a part; None for a name that is not a part's."""
    match = _PART_NAME.fullmatch(run_id)
    return (match[1], int(match[2]), int(match[3])) if match else None


def run_dir(root: AnyPath, run_id: str) -> AnyPath:
    """Return the folder of a run, whether it exists or not; raise UsageError for what is not the name of one."""
    return root / f"{RUN_PREFIX}{_safe_name(run_id)}"


def run_id_of(folder: AnyPath) -> str:
    """Return the run's name from its folder: `wt2` of `run_id=wt2`; a folder renamed by hand keeps its own name."""
    return folder.name.removeprefix(RUN_PREFIX)


def _in_staging(root: AnyPath, name: str) -> Path:
    """Return a path in `.staging`.

    Raises:
        UsageError: It, or `.staging` itself, is a symbolic link, whose target is not the warehouse's to write to.
    """
    for path in (staging_root(root), staging_root(root) / name):
        if path.is_symlink():
            raise UsageError(
                f"{path} is a symbolic link, where the warehouse writes into a folder of its own. Remove it."
            )
    return staging_root(root) / name


def catalog_path(root: AnyPath) -> Path:
    """Return the file of views, which is local wherever the root is."""
    return local_side(root) / CATALOG


def staging_root(root: AnyPath) -> Path:
    """Return the folder of all that is not published yet, which is local wherever the root is."""
    return local_side(root) / STAGING


def staging_dir(root: AnyPath, run_id: str) -> Path:
    """Return the folder where a run is written.

    Raises:
        UsageError: No run can be given that name, so that none of it is staged.
    """
    if not _RUN_NAME.fullmatch(run_id):
        raise UsageError(f"'{run_id}' is not the name of a run that could be unfinished.")
    return _in_staging(root, run_id)


def is_staged(root: AnyPath, run_id: str) -> bool:
    """Return whether there is a folder of an unfinished capture of that name."""
    return bool(_RUN_NAME.fullmatch(run_id)) and staging_dir(root, run_id).is_dir()


def staged_run(staging: Path) -> Path:
    """Return the folder that becomes the run, in a staging folder."""
    return staging / "run"


def journal_path(staging: Path) -> Path:
    """Return the journal of a capture, in its staging folder."""
    return staging / _JOURNAL


def recorded_rows_path(staging: Path) -> Path:
    """Return the file that a shard's rows are written to as they come, where they are coded once it is complete."""
    return staging / "recorded.safetensors"


def staged_table_path(staging: Path, table: str, shard: int) -> Path:
    """Return the file with one shard's rows of a table, which publishing merges with the others."""
    return staging / "parts" / table / f"{shard:05d}.arrow"


def staged_runs(root: AnyPath) -> list[str]:
    """Return the names of the unfinished captures, sorted."""
    names = (p.parent.name for p in staging_root(root).glob(f"*/{_JOURNAL}"))
    return sorted(name for name in names if _RUN_NAME.fullmatch(name))


def lock_path(root: AnyPath, run_id: str) -> Path:
    """Return the lock that the one process writing a run holds; a dead process holds nothing."""
    return _in_staging(root, _LOCKS) / f"run.{_safe_name(run_id)}.lock"


def catalog_lock_path(root: AnyPath) -> Path:
    """Return the lock that the one process making the catalog holds."""
    return _in_staging(root, _LOCKS) / "catalog.lock"


def merged_path(root: AnyPath, run_id: str) -> Path:
    """Return the note of what is left to do after a run has been merged: which parts to delete."""
    return _in_staging(root, _MERGED) / f"{_safe_name(run_id)}.json"


def trash_dir(root: AnyPath) -> Path:
    """Return the folder that a run is moved to, in one rename, before its files are deleted; all in it may be deleted."""
    return _in_staging(root, _TRASH)


def list_entry(root: AnyPath, number: int) -> AnyPath:
    """Return the object with a change of the list of runs, numbered from 1, of a root in an object store."""
    return root / _LIST / f"{number:020d}.json"


def list_checkpoint(root: AnyPath, number: int) -> AnyPath:
    """Return the object with the whole list of runs as it is after a change."""
    return root / _LIST / f"{number:020d}.checkpoint.json"


def list_latest(root: AnyPath) -> AnyPath:
    """Return the object that says which checkpoint of the list of runs is the newest, or was a moment ago."""
    return root / _LIST / "latest.json"


def list_copy(root: AnyPath) -> Path:
    """Return the local file that keeps the list of runs of a root in an object store, as it was last read."""
    return local_side(root) / "list.json"


def writers_dir(root: AnyPath) -> AnyPath:
    """Return the folder of the objects that say who is writing which run of a root in an object store."""
    return root / _WRITERS


def writer_path(root: AnyPath, run_id: str) -> AnyPath:
    """Return the one of a run."""
    return writers_dir(root) / f"{_safe_name(run_id)}.json"


def blob_file(shard: int) -> str:
    """Return the path of a safetensors file in its run's folder."""
    return f"{BLOBS}/{shard:05d}.safetensors"


def table_of_file(path: str) -> str | None:
    """Return the table whose rows a file of a run holds.

    Args:
        path: The file's path in the run's folder.

    Returns:
        The table; None for a safetensors file.

    Raises:
        ValueError: The path is neither's, such as one that leads out of the folder.
    """
    if _BLOB_FILE.fullmatch(path):
        return None
    match = _TABLE_FILE.fullmatch(path)
    if match is None:
        raise ValueError(f"{path!r} is not a file of a run")
    return match[1]


def table_file(table: str) -> str:
    """Return the path of the file with all rows of a table, in a published run's folder."""
    return f"{table}/00000.parquet"


def compacted_dir(root: AnyPath) -> AnyPath:
    """Return the folder of all compacted tables."""
    return root / _COMPACTED


def compacted_group(name: str) -> str:
    """Return the path of a group of compacted tables, below the root."""
    return f"{_COMPACTED}/{name}"


def compacted_file(name: str, table: str) -> str:
    """Return the path of a compacted table, below the root."""
    return f"{compacted_group(name)}/{table}.parquet"


def prepared_path(root: AnyPath, data: str, split: str) -> Path:
    """Return the file of a prepared data set's split."""
    return local_side(root) / _PREPARED / data / f"{split}.parquet"


def prepared_dirs(root: AnyPath) -> list[Path]:
    """Return the folders of prepared data sets; symbolic links are left out."""
    data = local_side(root) / _PREPARED
    if data.is_symlink() or not data.is_dir():
        return []
    return [p for p in data.iterdir() if p.is_dir() and not p.is_symlink()]


def prepared_splits(root: AnyPath, data: str) -> list[str]:
    """Return the names of a data set's prepared splits, sorted."""
    return sorted(p.stem for p in (local_side(root) / _PREPARED / data).glob("*.parquet"))


def vectors_dir(root: AnyPath) -> AnyPath:
    """Return the folder of all vector tables."""
    return root / _VECTORS


def vector_model_path(root: AnyPath, model: str) -> AnyPath:
    """Return the file that says which weights made the vectors in a model's folder."""
    return _vector_folder(root, model) / "model.json"


def vector_lance_path(root: AnyPath, model: str, table: str) -> AnyPath:
    """Return the Lance folder of a vector table."""
    return _vector_folder(root, model) / f"{_safe_name(table)}.lance"


def vector_info_path(root: AnyPath, model: str, table: str) -> AnyPath:
    """Return the info file of a vector table."""
    return _vector_folder(root, model) / f"{_safe_name(table)}{_INFO}"


def vector_files_path(root: AnyPath, model: str, table: str) -> AnyPath:
    """Return the file with the checksums of all files of a vector table."""
    return _vector_folder(root, model) / f"{_safe_name(table)}.files.json"


def _vector_folder(root: AnyPath, model: str) -> AnyPath:
    """Return the folder of a model's vector tables.

    Raises:
        UsageError: No such folder can have that name.
    """
    if not is_vector_folder(model):
        raise UsageError(f"'{model}' is not the name of a folder of vector tables.")
    return root / _VECTORS / model


def is_vector_folder(name: str) -> bool:
    """Return whether a folder below `vectors/` has a name that SQL takes as part of a table's, as all that we make have."""
    return bool(_VECTOR_FOLDER.fullmatch(name))


def vector_folders(root: AnyPath) -> list[str]:
    """Return the names of the models' folders of vector tables, sorted; symbolic links, whose targets may not be changed, are left out."""
    if vectors_dir(root).is_symlink() or not vectors_dir(root).is_dir():
        return []
    folders = (p for p in vectors_dir(root).iterdir() if p.is_dir() and not p.is_symlink())
    return sorted(p.name for p in folders if is_vector_folder(p.name))


def vector_tables(root: AnyPath) -> list[tuple[str, str]]:
    """Return (model, table) of every vector table, sorted."""
    return [
        (model, path.name.removesuffix(_INFO))
        for model in vector_folders(root)
        for path in sorted_paths((vectors_dir(root) / model).glob(f"*{_INFO}"))
    ]


def trait_table_folders(root: AnyPath) -> list[str]:
    """Return the names of the models' folders that have a table of traits, sorted."""
    return [model for model in vector_folders(root) if vector_lance_path(root, model, TRAITS_TABLE).is_dir()]


def vector_lock_path(root: AnyPath, model: str, table: str) -> Path:
    """Return the lock that the one process changing a vector table holds."""
    return _in_staging(root, _LOCKS) / f"vectors.{_safe_name(model)}.{_safe_name(table)}.lock"


def vector_folders_lock_path(root: AnyPath) -> Path:
    """Return the lock that the one process giving a model its folder of vector tables holds."""
    return _in_staging(root, _LOCKS) / "vectors.lock"


def sql_name(text: str) -> str:
    """Make a name that SQL takes unquoted, from a model's or a table's."""
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "model"


def converted_models_dir() -> Path:
    """Return the folder of GGUF models converted to transformers' own format, shared by all warehouses."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trace-warehouse" / "models"


def data_dir(name: str) -> Path:
    """Return `sql/` or `migrations/`: in the package `warehouse` of an installed wheel, at the top level of a checkout."""
    package = Path(__file__).parents[1]
    return package / name if (package / name).is_dir() else package.parent / name
