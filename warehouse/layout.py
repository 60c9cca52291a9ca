"""Names and paths of everything on disk: the only place that spells them.

<root>/warehouse.duckdb             the views (an index: rebuilt at any time)
<root>/.staging/<run>/run/          a run being written: what will be renamed to run_id=<run>
<root>/.staging/<run>/journal.jsonl what of it is safe; beside it parts/, the tables' rows shard by shard
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

from warehouse.errors import UsageError
from warehouse.sites import Key

CATALOG = "warehouse.duckdb"
STAGING = ".staging"
MANIFEST = "run.json"
BLOBS = "blobs"
_JOURNAL = "journal.jsonl"
_PREPARED = "data"
_VECTORS = "vectors"
_INFO = ".info.json"
VECTOR_INFOS = f"*/*{_INFO}"
"""What is known of the vector tables, below `vectors_dir`."""
TRAITS_TABLE = "traits"
"""The Lance table of a model's traits: no vector table, as its rows are no tokens."""
RUN_PREFIX = "run_id="

_SHARD_NAME = re.compile(r"(.+)\.shard-(\d+)-of-(\d+)")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


def find_root(explicit: str | Path | None = None) -> Path:
    """The warehouse root: `explicit`, else `$TRACES_HOME`, else `./runs`. It need not exist yet."""
    return Path(explicit or os.environ.get("TRACES_HOME") or "runs").expanduser()


def check_run_name(run_id: str) -> str:
    if not _RUN_NAME.fullmatch(run_id):
        raise UsageError(
            f"'{run_id}' cannot name a run: use letters, digits, '.', '_' and '-', at most 120, starting with a letter or digit."
        )
    return run_id


def shard_name(run_id: str, i: int, n: int) -> str:
    """The i-th, from 1, of the n runs that `traces runs merge` makes one run of."""
    return f"{run_id}.shard-{i}-of-{n}"


def shard_of(run_id: str) -> tuple[str, int, int] | None:
    """The other way round; None for a name that is no shard's."""
    found = _SHARD_NAME.fullmatch(run_id)
    return (found[1], int(found[2]), int(found[3])) if found else None


def run_dir(root: Path, run_id: str) -> Path:
    return root / f"{RUN_PREFIX}{run_id}"


def run_id_of(folder: Path) -> str:
    """The run's name from its folder: `run_id=wt2` is `wt2`; a folder renamed by hand keeps its own name."""
    return folder.name.removeprefix(RUN_PREFIX)


def published_runs(root: Path) -> list[str]:
    """Names of the published runs: folders with a manifest in them."""
    if not root.is_dir():
        return []
    return sorted(run_id_of(p.parent) for p in root.glob(f"{RUN_PREFIX}*/{MANIFEST}"))


def staging_dir(root: Path, run_id: str) -> Path:
    return root / STAGING / run_id


def staged_run(staging: Path) -> Path:
    """The folder that becomes the run."""
    return staging / "run"


def journal_path(staging: Path) -> Path:
    return staging / _JOURNAL


def part_path(staging: Path, table: str, shard: int) -> Path:
    """One shard's rows of a table, until all are merged at publication."""
    return staging / "parts" / table / f"{shard:05d}.parquet"


def staged_runs(root: Path) -> list[str]:
    """Names of the unfinished captures."""
    return sorted(p.parent.name for p in (root / STAGING).glob(f"*/{_JOURNAL}"))


def lock_path(root: Path, run_id: str) -> Path:
    """Held by the one process that writes this run. A dead process holds nothing."""
    return root / STAGING / f"{run_id}.lock"


def catalog_lock_path(root: Path) -> Path:
    return root / STAGING / f"{CATALOG}.lock"


def merged_path(root: Path, run_id: str) -> Path:
    """What is still to be done after a run has been merged: which shards go."""
    return root / STAGING / f"{run_id}.merged.json"


def trash_dirs(root: Path, run_id: str) -> list[Path]:
    """What processes that were killed have left of deleting a run."""
    return [p for p in (root / STAGING).glob(f"deleted-{run_id}-*") if p.name.rpartition("-")[2].isdigit()]


def trash_dir(root: Path, run_id: str) -> Path:
    """Where a run goes, in one rename, before its files are deleted one by one."""
    return root / STAGING / f"deleted-{run_id}-{os.getpid()}"


def blob_name(shard: int) -> str:
    return f"{BLOBS}/{shard:05d}.safetensors"


def table_name(table: str) -> str:
    """All rows of a table, in the published run."""
    return f"{table}/00000.parquet"


def tensor_name(side: str, site: str, layer: int | None) -> str:
    """A tensor's name inside a shard: `resid.post_mlp.L16`, `resid.embed` where there is no layer, and with `enc.` before it
    on an encoder's side."""
    name = site if layer is None else f"{site}.L{layer:02d}"
    return f"enc.{name}" if side == "enc" else name


def key_of(tensor: str) -> Key:
    """The other way round."""
    side, name = ("enc", tensor.removeprefix("enc.")) if tensor.startswith("enc.") else ("dec", tensor)
    site, _, layer = name.rpartition(".L")
    return Key(side, site, int(layer)) if site and layer.isdigit() else Key(side, name, None)


def prepared_path(root: Path, data: str, split: str) -> Path:
    return root / _PREPARED / data / f"{split}.parquet"


def prepared_splits(root: Path, data: str) -> list[str]:
    """Names of a data set's splits that are prepared."""
    return sorted(p.stem for p in (root / _PREPARED / data).glob("*.parquet"))


def vectors_dir(root: Path) -> Path:
    return root / _VECTORS


def vector_model_path(root: Path, model: str) -> Path:
    """Says which weights the vector tables in its folder are of."""
    return root / _VECTORS / model / "model.json"


def vector_lance_path(root: Path, model: str, table: str) -> Path:
    return root / _VECTORS / model / f"{table}.lance"


def vector_info_path(root: Path, model: str, table: str) -> Path:
    return root / _VECTORS / model / f"{table}{_INFO}"


def vector_tables(root: Path) -> list[tuple[str, str]]:
    """(model, table) of every vector table."""
    found = (root / _VECTORS).glob(VECTOR_INFOS)
    return sorted((p.parent.name, p.name.removesuffix(_INFO)) for p in found)


def trait_table_folders(root: Path) -> list[str]:
    """The folders of models with a table of traits."""
    return sorted(p.parent.name for p in (root / _VECTORS).glob(f"*/{TRAITS_TABLE}.lance"))


def vector_lock_path(root: Path, model: str, table: str = "") -> Path:
    """Held by the one process that changes a vector table, or makes a model's folder."""
    return root / STAGING / f"vectors.{model}.{table}.lock"


def shell_init_path(root: Path) -> Path:
    """What `traces shell` has duckdb begin with."""
    return root / STAGING / "shell.sql"


def sql_name(text: str) -> str:
    """A name that SQL takes unquoted, from a model's or a table's."""
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "model"


def data_dir(name: str) -> Path:
    """`sql/` or `migrations/`: beside this file in an installed wheel, at the top level of a checkout."""
    installed = Path(__file__).parent / name
    return installed if installed.is_dir() else Path(__file__).parent.parent / name
