"""Names and paths of everything on disk: the only place that spells them.

<root>/warehouse.duckdb             the views (an index: rebuilt at any time)
<root>/.staging/<run>/run/          a run being written: what will be renamed to run_id=<run>
<root>/.staging/<run>/journal.jsonl what of it is safe; beside it parts/, the tables' rows shard by shard
<root>/.staging/.locks/, .merged/, .trash/   who is writing; merges to be finished; runs being deleted
<root>/run_id=<run>/run.json        a published run's manifest
<root>/run_id=<run>/<table>/*.parquet
<root>/run_id=<run>/blobs/00000.safetensors
<root>/data/<name>/<split>.parquet  a data set prepared for captures
<root>/vectors/<model>/<site>.L15.lance  a vector table; beside it .info.json, what is known of it
<root>/vectors/<model>/traits.lance  the vectors of all the model's traits
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from warehouse.errors import NotFoundError, UsageError

CATALOG = "warehouse.duckdb"
STAGING = ".staging"
MANIFEST = "run.json"
BLOBS = "blobs"
_JOURNAL = "journal.jsonl"
_PREPARED = "data"
_VECTORS = "vectors"
_INFO = ".info.json"
_LOCKS, _MERGED, _TRASH = ".locks", ".merged", ".trash"
"""Folders in `.staging`, whose names no run can have."""
TRAITS_TABLE = "traits"
"""The Lance table of a model's traits: no vector table, as its rows are no tokens."""
RUN_PREFIX = "run_id="

_PART_NAME = re.compile(r"(.+)\.shard-(\d+)-of-(\d+)")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
_READ_AS_A_VALUE = re.compile(
    r"null|none|true|false|nan|inf|infinity|\d[\d_]*(\.[\d_]*)?(e-?\d+)?[dfl]?|\d{4}-\d{1,2}(-\d{1,2}(t.*)?)?",
    re.IGNORECASE,
)
"""Names that Spark, Polars, Arrow or DuckDB read as NULL, a truth value, a number or a date, when they are a partition's value."""
_TABLE_FILE = re.compile(r"([a-z][a-z_]*)/\d{5,}\.parquet")
_BLOB_FILE = re.compile(rf"{BLOBS}/\d{{5,}}\.safetensors")
_VECTOR_FOLDER = re.compile(r"[A-Za-z0-9_]{1,200}")


def find_root(explicit: str | Path | None = None) -> Path:
    """The warehouse root: `explicit`, else `$TRACES_HOME`, else `./runs`. It need not exist yet."""
    return Path(explicit or os.environ.get("TRACES_HOME") or "runs").expanduser()


def check_run_name(run_id: str) -> str:
    """Returns the name of a run that is to be made. Raises UsageError for one that no run can be given."""
    if not _RUN_NAME.fullmatch(run_id):
        raise UsageError(
            f"'{run_id}' cannot name a run: use letters, digits, '.', '_' and '-', at most 120, starting with a letter or digit."
        )
    if _READ_AS_A_VALUE.fullmatch(run_id):
        raise UsageError(
            f"'{run_id}' cannot name a run: tools that read its folder would take {RUN_PREFIX}{run_id} for a value that is no "
            f"text. Add a word, as in run-{run_id}."
        )
    return run_id


def _safe_name(run_id: str) -> str:
    """Returns a run's name that is safe in a path: it stays in the folder that it is put in. A run that was renamed by hand may
    have a name that `check_run_name` would not give it. Raises UsageError.
    """
    if run_id in ("", ".", "..") or "/" in run_id or "\0" in run_id or os.sep in run_id:
        raise UsageError(
            f"'{run_id}' is not the name of a run: a run is named by its folder's name after '{RUN_PREFIX}'."
        )
    return run_id


def part_name(run_id: str, i: int, n: int) -> str:
    """The i-th, from 1, of the n runs that `traces runs merge` makes one run of."""
    return f"{run_id}.shard-{i}-of-{n}"


def part_of(run_id: str) -> tuple[str, int, int] | None:
    """The other way round; None for a name that is no shard's."""
    found = _PART_NAME.fullmatch(run_id)
    return (found[1], int(found[2]), int(found[3])) if found else None


def run_dir(root: Path, run_id: str) -> Path:
    """Returns the folder of a run, whether it is there or not. Raises UsageError for what is not the name of one."""
    return root / f"{RUN_PREFIX}{_safe_name(run_id)}"


def run_id_of(folder: Path) -> str:
    """The run's name from its folder: `run_id=wt2` is `wt2`; a folder renamed by hand keeps its own name."""
    return folder.name.removeprefix(RUN_PREFIX)


def run_folders(root: Path) -> list[Path]:
    """The folders that are named as runs, sorted; what is in them is for the reader to find out."""
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if p.name.startswith(RUN_PREFIX) and p.is_dir())


def published_runs(root: Path) -> list[str]:
    """Names of the published runs: folders with a manifest in them."""
    return [name for p in run_folders(root) if (name := run_id_of(p)) and (p / MANIFEST).is_file()]


def _in_staging(root: Path, name: str) -> Path:
    """Raises UsageError where it, or `.staging` itself, is a symbolic link: what that leads to is not ours to write to."""
    for path in (root / STAGING, root / STAGING / name):
        if path.is_symlink():
            raise UsageError(
                f"{path} is a symbolic link, where the warehouse writes into a folder of its own. Remove it."
            )
    return root / STAGING / name


def staging_dir(root: Path, run_id: str) -> Path:
    """Where a run is written. Raises UsageError for a name that no run can be given: none of that name is staged."""
    if not _RUN_NAME.fullmatch(run_id):
        raise UsageError(f"'{run_id}' is not the name of a run that could be unfinished.")
    return _in_staging(root, run_id)


def is_staged(root: Path, run_id: str) -> bool:
    """Whether there is a folder of an unfinished capture of that name."""
    return bool(_RUN_NAME.fullmatch(run_id)) and staging_dir(root, run_id).is_dir()


def staged_run(staging: Path) -> Path:
    """The folder that becomes the run."""
    return staging / "run"


def journal_path(staging: Path) -> Path:
    return staging / _JOURNAL


def staged_table_path(staging: Path, table: str, shard: int) -> Path:
    """One shard's rows of a table, until all are merged at publication."""
    return staging / "parts" / table / f"{shard:05d}.parquet"


def staged_runs(root: Path) -> list[str]:
    """Names of the unfinished captures."""
    found = (p.parent.name for p in (root / STAGING).glob(f"*/{_JOURNAL}"))
    return sorted(name for name in found if _RUN_NAME.fullmatch(name))


def lock_path(root: Path, run_id: str) -> Path:
    """Held by the one process that writes this run. A dead process holds nothing."""
    return _in_staging(root, _LOCKS) / f"run.{_safe_name(run_id)}.lock"


def catalog_lock_path(root: Path) -> Path:
    return _in_staging(root, _LOCKS) / "catalog.lock"


def merged_path(root: Path, run_id: str) -> Path:
    """What is still to be done after a run has been merged: which shards go."""
    return _in_staging(root, _MERGED) / f"{_safe_name(run_id)}.json"


def trash_dir(root: Path) -> Path:
    """Where a run goes, in one rename, before its files are deleted one by one. Whatever is in it may be deleted."""
    return _in_staging(root, _TRASH)


def blob_file(shard: int) -> str:
    return f"{BLOBS}/{shard:05d}.safetensors"


def table_of_file(path: str) -> str | None:
    """The table that a file of a run holds rows of, from its path in the run's folder; None for a blob.

    Raises ValueError for what is neither, such as a path that leads out of the folder.
    """
    if _BLOB_FILE.fullmatch(path):
        return None
    found = _TABLE_FILE.fullmatch(path)
    if found is None:
        raise ValueError(f"{path!r} is no file of a run")
    return found[1]


def table_file(table: str) -> str:
    """All rows of a table, in the published run."""
    return f"{table}/00000.parquet"


def prepared_path(root: Path, data: str, split: str) -> Path:
    return root / _PREPARED / data / f"{split}.parquet"


def prepared_dirs(root: Path) -> list[Path]:
    """The folders of prepared data sets; a symbolic link is none of ours."""
    data = root / _PREPARED
    if data.is_symlink() or not data.is_dir():
        return []
    return [p for p in data.iterdir() if p.is_dir() and not p.is_symlink()]


def prepared_splits(root: Path, data: str) -> list[str]:
    """Names of a data set's splits that are prepared."""
    return sorted(p.stem for p in (root / _PREPARED / data).glob("*.parquet"))


def vectors_dir(root: Path) -> Path:
    return root / _VECTORS


def vector_model_path(root: Path, model: str) -> Path:
    """Says which weights the vector tables in its folder are of."""
    return _vector_folder(root, model) / "model.json"


def vector_lance_path(root: Path, model: str, table: str) -> Path:
    return _vector_folder(root, model) / f"{_safe_name(table)}.lance"


def vector_info_path(root: Path, model: str, table: str) -> Path:
    return _vector_folder(root, model) / f"{_safe_name(table)}{_INFO}"


def vector_files_path(root: Path, model: str, table: str) -> Path:
    """The checksums of all the files that a vector table is kept in."""
    return _vector_folder(root, model) / f"{_safe_name(table)}.files.json"


def _vector_folder(root: Path, model: str) -> Path:
    if not is_vector_folder(model):
        raise UsageError(f"'{model}' is not the name of a folder of vector tables.")
    return root / _VECTORS / model


def is_vector_folder(name: str) -> bool:
    """Whether a folder below `vectors/` has a name that we give: one that SQL takes for a part of a table's."""
    return bool(_VECTOR_FOLDER.fullmatch(name))


def vector_folders(root: Path) -> list[str]:
    """The folders of models with vector tables. A symbolic link is none: what it leads to is not ours to change."""
    if vectors_dir(root).is_symlink() or not vectors_dir(root).is_dir():
        return []
    found = (p for p in vectors_dir(root).iterdir() if p.is_dir() and not p.is_symlink())
    return sorted(p.name for p in found if is_vector_folder(p.name))


def vector_tables(root: Path) -> list[tuple[str, str]]:
    """(model, table) of every vector table."""
    return [
        (model, path.name.removesuffix(_INFO))
        for model in vector_folders(root)
        for path in sorted((vectors_dir(root) / model).glob(f"*{_INFO}"))
    ]


def trait_table_folders(root: Path) -> list[str]:
    """The folders of models with a table of traits."""
    return [model for model in vector_folders(root) if vector_lance_path(root, model, TRAITS_TABLE).is_dir()]


def vector_lock_path(root: Path, model: str, table: str) -> Path:
    """Held by the one process that changes a vector table."""
    return _in_staging(root, _LOCKS) / f"vectors.{_safe_name(model)}.{_safe_name(table)}.lock"


def vector_folders_lock_path(root: Path) -> Path:
    """Held by the one process that gives a model its folder of vector tables."""
    return _in_staging(root, _LOCKS) / "vectors.lock"


def sql_name(text: str) -> str:
    """A name that SQL takes unquoted, from a model's or a table's."""
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "model"


def converted_models_dir() -> Path:
    """Where copies of GGUF models in transformers' own format are kept, for all warehouses."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trace-warehouse" / "models"


def data_dir(name: str) -> Path:
    """`sql/` or `migrations/`: in the package `warehouse` of an installed wheel, at the top level of a checkout."""
    package = Path(__file__).parents[1]
    return package / name if (package / name).is_dir() else package.parent / name


def find_run(root: Path, run_id: str) -> Path:
    """The folder of a published run. Raises NotFoundError with the nearest names."""
    folder = run_dir(root, run_id)
    if not (folder / MANIFEST).is_file():
        hint = "It is unfinished: run its capture again to go on." if run_id in staged_runs(root) else ""
        raise NotFoundError("run", run_id, published_runs(root), hint)
    return folder
