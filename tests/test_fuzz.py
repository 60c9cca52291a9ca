"""Every kind of file below a warehouse root, altered at random: nothing in it acts, and nothing ends in a traceback.

Whatever a file is made to say, commands end in an answer or in one line, no statement or command of the file's runs, nothing
outside of the root is written or deleted, and the other run goes on answering. The mutations are seeded: each is a case of its own.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import synthetic
import typer
from samples import DATA

from capture.cli import main
from capture.data import prepared
from capture.data.registry import find_dataset
from warehouse.errors import TracesError
from warehouse.maintenance import merge
from warehouse.schema.tables import STORED
from warehouse.storage import paths, run_list
from warehouse.storage.files import delete
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.sealed import seal
from warehouse.vectors import index_spec, ingest
from warehouse.vectors.reconcile import reconcile

ROUNDS, MANY_ROUNDS = 1, 6
"""Mutations of each kind of file: with one command after each, or, for CI, with all of them."""

HOSTILE: list[Any] = [
    "../../outside", "/outside/keep", "..", ".", "", "a/../../outside", "x'; COPY (SELECT 1) TO 'outside/sql'; --",
    'x"; DROP TABLE runs; --', "x\n.system touch outside/shell\n", "blobs/../../../outside/keep", "\ud800", "\x00", "x" * 100_000,
    -1, 10**30, 1e308, float("nan"), None, True, [], {}, [[]], {"a": {"b": 1}}, "null", "run_id=two", "two",
]  # fmt: skip
"""Values that a field is given."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a warehouse of every kind of file, and beside it what must stay as it is."""
    place = tmp_path_factory.mktemp("fuzz")
    root = place / "runs"
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float16)
    for run in ("one", "two"):
        synthetic.add_vectors(root, run, {1: vectors}, [8, 12], losses=np.ones(20, np.float32))
        ingest.add(root, run, index_spec.parse("resid.post_mlp@1"))
    vector = {"trait": "loud", "method": "probe", "component": "residual", "layer": 0, "norm": 2.0, "gap": 1.0}
    made = vector | {"n_pos": 2, "n_neg": 2, "vector": [0.6, 0.8, 0.0, 0.0]}
    synthetic.add_run(root, "traits", "trait-vectors", {"trait_vectors": [made]})
    reconcile(root)
    known = find_dataset("ud_ewt")
    sample = DATA / "harbour.conllu"
    prepared.write(
        paths.prepared_path(root, "ud_ewt", "validation"), known, "validation", "made", lambda: known.read_file(sample)
    )
    _stage(root)
    left = merge.PendingCleanup(
        manifest=merge.manifest_hash(root, "one"), delete={"two": merge.manifest_hash(root, "two")}
    )
    paths.merged_path(root, "one").parent.mkdir(exist_ok=True)
    left.write_to(paths.merged_path(root, "one"))
    (place / "outside").mkdir()
    (place / "outside" / "keep").write_text("as it was")
    return place


def _stage(root: Path) -> None:
    """Leaves an unfinished capture with a shard, as a kill does."""
    columns = synthetic.columns("tokens", [{"example_id": "e", "side": "dec"}])
    writer = RunWriter(root, "half", {"made": "half"})
    writer.begin_shard({}, {})
    writer.put(RecordedBatch([], {}, {}, {"tokens": to_table("tokens", columns)}))
    writer.end_shard("1")
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


def _resume(root: Path) -> None:
    with RunWriter(root, "half", {"made": "half"}) as writer:
        _ = writer.done[0].resume_point if writer.done else None


def _read_prepared(root: Path) -> None:
    for _ in prepared.read(paths.prepared_path(root, "ud_ewt", "validation"), find_dataset("ud_ewt"), "validation"):
        pass


COUNT = ("sql", "SELECT count(*) AS n FROM tokens WHERE run_id = 'two'", "-f", "tsv")
ONE_RUN = [("runs", "-f", "tsv"), ("runs", "validate", "one"), ("runs", "show", "one"), ("refresh",)]
VECTORS = [("refresh",), ("index", "list", "-f", "tsv"), ("runs", "validate", "one"),
           ("nearest", "one", "--example", "e0000", "--pos", "1", "-k", "3", "--format", "tsv")]  # fmt: skip

KINDS: dict[str, tuple[str, list[Any]]] = {
    "manifest": ("run_id=one/run.json", ONE_RUN),
    "table": ("run_id=one/tokens/00000.parquet", ONE_RUN),
    "tensor index": ("run_id=one/tensors/00000.parquet", ONE_RUN),
    "blob": ("run_id=one/blobs/00000.safetensors", [("runs", "validate", "one")]),
    "vectors of traits": ("run_id=traits/trait_vectors/00000.parquet", [("refresh",), ("runs", "validate", "traits")]),
    "model of vector tables": ("vectors/made/model.json", VECTORS),
    "info of a vector table": ("vectors/made/resid.post_mlp.L01.info.json", VECTORS),
    "checksums of a vector table": ("vectors/made/resid.post_mlp.L01.files.json", VECTORS),
    "rows of a vector table": ("vectors/made/resid.post_mlp.L01.lance/data/*.lance", VECTORS),
    "version of a vector table": ("vectors/made/resid.post_mlp.L01.lance/_versions/*.manifest", VECTORS),
    "prepared data": ("data/ud_ewt/validation.parquet", [_read_prepared, ("refresh",)]),
    "journal": (".staging/half/journal.jsonl", [_resume, ("runs",), ("refresh",)]),
    "note of a merge": (".staging/.merged/one.json", [lambda root: merge.finish_merge(root, "one"), ("refresh",)]),
    "catalog": ("warehouse.duckdb", [COUNT]),
    "folder of a capture": (".staging/half", [_resume, ("runs", "rm", "half", "--yes"), ("refresh",)]),
    "folder in a capture": (".staging/half/run", [_resume, ("refresh",)]),
    "folder of a vector table": ("vectors/made/resid.post_mlp.L01.lance", [*VECTORS, ("index", "rebuild")]),
    "folder of a model's vector tables": ("vectors/made", [("refresh",), ("index", "rebuild")]),
    "folder of a run": ("run_id=one", [*ONE_RUN, ("runs", "rm", "one", "--yes")]),
}


@pytest.mark.parametrize("rounds", [ROUNDS, pytest.param(MANY_ROUNDS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_no_altered_file_acts_or_stops_the_others(
    kind: str,
    rounds: int,
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pattern, calls = KINDS[kind]
    monkeypatch.chdir(tmp_path)
    command = typer.main.get_command(main.app)  # which takes longer than what most of them do
    monkeypatch.setattr(main, "app", lambda **settings: command(**settings))
    for number in range(rounds):
        chance = random.Random(f"{kind} {number}")
        place = tmp_path / "place"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(sound, place, symlinks=True)
        root = place / "runs"
        monkeypatch.setenv("TRACES_HOME", str(root))
        path = chance.choice(sorted(root.glob(pattern)))
        done = _mutate(path, chance)
        told = f"{kind}, round {number}: {done}"
        for call in [*(calls if rounds == MANY_ROUNDS else [chance.choice(calls)]), COUNT]:
            capsys.readouterr()
            _call(call, root, monkeypatch, told)
        assert capsys.readouterr().out == "n\n20\n", told
        assert {p.name: p.read_text() for p in (place / "outside").iterdir()} == {"keep": "as it was"}, told
        assert sorted(p.name for p in place.iterdir()) == ["outside", "runs"], told
        assert run_list.published_runs(root)[-2:] == ["traits", "two"], told


def _call(call: Any, root: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    """Runs a command in this process as `traces` does; what escapes it is a traceback."""
    try:
        if callable(call):
            call(root)
            return
        monkeypatch.setattr("sys.argv", ["traces", *call])
        main.main()
    except TracesError as e:
        assert "\n" not in str(e), told
    except SystemExit as e:
        assert e.code in (0, 1, 2), told
    except BaseException as e:
        raise AssertionError(f"{told}: {call}") from e


# -- mutations ---------------------------------------------------------------------------------------------------------


def _mutate(path: Path, chance: random.Random) -> str:
    """Alters a file in one of many ways, and says how."""
    if path.is_dir():
        return _become_a_link(path, chance)
    ways: list[Callable[[Path, random.Random], str]] = [
        _flip,
        _cut,
        _overwrite,
        _grow,
        _become_a_folder,
        _become_a_link,
    ]
    if path.suffix in (".json", ".jsonl"):
        ways = [_field, _field, _field, _field, _field, _depth, *ways]
    elif path.suffix == ".parquet":
        ways = [_cell, _cell, _cell, *ways]
    return chance.choice(ways)(path, chance)


def _flip(path: Path, chance: random.Random) -> str:
    raw = bytearray(path.read_bytes())
    places = [chance.randrange(len(raw)) for _ in range(chance.choice([1, 4, 64]))]
    for at in places:
        raw[at] ^= 1 << chance.randrange(8)
    path.write_bytes(raw)
    return f"bits flipped at {places[:5]}"


def _cut(path: Path, chance: random.Random) -> str:
    size = chance.choice([0, 1, chance.randrange(path.stat().st_size)])
    path.write_bytes(path.read_bytes()[:size])
    return f"cut to {size} bytes"


def _overwrite(path: Path, chance: random.Random) -> str:
    path.write_bytes(chance.randbytes(path.stat().st_size))
    return "garbage of the same size"


def _grow(path: Path, chance: random.Random) -> str:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.choice([1, 1000])))
    return "longer"


def _become_a_folder(path: Path, chance: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return "a folder"


def _become_a_link(path: Path, chance: random.Random) -> str:
    target = chance.choice(["/nowhere", str(_outside(path)), str(_outside(path) / "keep")])
    delete(path)
    path.symlink_to(target)
    return f"a link to {target}"


def _outside(path: Path) -> Path:
    return next(p for p in path.parents if (p / "outside").is_dir()) / "outside"


def _depth(path: Path, chance: random.Random) -> str:
    path.write_text(chance.choice(["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000]) + "\n")
    return "nested deep"


def _field(path: Path, chance: random.Random) -> str:
    """Gives one field another value, or name, and seals the file anew as who means it would."""
    lines = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
    at = chance.randrange(len(lines))
    fields = json.loads(lines[at])
    fields.pop("seal", None)
    holder, key = chance.choice(list(_places(fields)))
    value = chance.choice(HOSTILE)
    if isinstance(holder, dict) and chance.random() < 0.2:
        holder[str(value)[:1000]] = holder.pop(key)
        told = f"field {key} renamed to {str(value)[:40]!r}"
    else:
        holder[key] = value
        told = f"field {key} is {str(value)[:40]!r}"
    lines[at] = seal(json.dumps(fields).encode())
    path.write_bytes(b"\n".join(lines) + b"\n")
    return told


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield value, key
        yield from _places(below)


def _cell(path: Path, chance: random.Random) -> str:
    """Gives one value of a table another value, and sets checksums and seal right where there are some."""
    table = path.parent.name
    with duckdb.connect() as con:
        con.execute(f"CREATE TABLE t AS FROM read_parquet('{path}', hive_partitioning = false)")
        column, kind = chance.choice(con.execute("SELECT name, type FROM pragma_table_info('t')").fetchall())
        values = {"VARCHAR": [v for v in HOSTILE if isinstance(v, str) and v != "\ud800"], "BOOLEAN": [None]}
        value = chance.choice(values.get(kind, [None, -1, 2**31 - 1]))
        if kind.endswith("]") or kind.startswith("STRUCT"):
            value = None
        con.execute(f'UPDATE t SET "{column}" = ? WHERE rowid = 0', [value])
        con.execute(f"COPY t TO '{path}' (FORMAT parquet)")
    manifest = path.parents[1] / paths.MANIFEST
    if table in STORED and manifest.is_file():
        synthetic.set_right(manifest.parent, path)
    return f"{column} of the first row is {str(value)[:40]!r}"
