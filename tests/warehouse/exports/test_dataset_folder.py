"""What `datasets` loads from an exported folder are the run's rows, offline, table by table; with tensors the folder is a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from synthetic import add_run

from warehouse import TraceStore, Warehouse, exports
from warehouse.errors import CorruptRunError, UsageError

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def wh(every_table: Path) -> Iterator[Warehouse]:
    with Warehouse(every_table) as wh:
        yield wh


def load(folder: Path, table: str | None, cache: Path) -> list[dict]:
    return datasets.load_dataset(str(folder), table, split="train", cache_dir=str(cache)).to_list()


def rows(wh: Warehouse, run: str, table: str, where: str = "true") -> list[dict]:
    query = f"SELECT * EXCLUDE run_id FROM {table} WHERE run_id = '{run}' AND {where}"
    return wh.sql(query).to_arrow_table().to_pylist()


def alike(a: list[dict], b: list[dict]) -> bool:
    def keys(found: list[dict]) -> list[str]:
        return sorted(json.dumps(row, sort_keys=True, default=str) for row in found)

    return keys(a) == keys(b)


def test_every_table_of_a_run_is_loaded_as_it_is(wh: Warehouse, tmp_path: Path) -> None:
    written = exports.dataset(wh, "ud_ewt", tmp_path / "out")
    assert set(written) >= {"examples", "tokens", "words", "next_token"} and "tensors" not in written
    for table, n in written.items():
        loaded = load(tmp_path / "out", table, tmp_path / "cache")
        assert len(loaded) == n and alike(loaded, rows(wh, "ud_ewt", table)), table
    assert alike(load(tmp_path / "out", None, tmp_path / "cache"), rows(wh, "ud_ewt", "next_token"))


def test_every_kind_of_table_can_be_loaded(wh: Warehouse, tmp_path: Path) -> None:
    for run in ("csqa", "llama-lens", "vectors", "judged", "projected", "probe", "ablated"):
        for table in exports.dataset(wh, run, tmp_path / run):
            assert alike(load(tmp_path / run, table, tmp_path / "cache"), rows(wh, run, table)), (run, table)


def test_chosen_examples_alone_are_written(wh: Warehouse, tmp_path: Path) -> None:
    kept = "example_id IN (SELECT example_id FROM examples WHERE idx < 2)"
    written = exports.dataset(wh, "llama", tmp_path / "out", tables=["examples", "next_token"], where="idx < 2")
    assert written["examples"] == 2
    for table in ("examples", "next_token"):
        assert alike(load(tmp_path / "out", table, tmp_path / "cache"), rows(wh, "llama", table, kept)), table


def test_with_tensors_the_folder_is_the_run(wh: Warehouse, tmp_path: Path) -> None:
    exports.dataset(wh, "llama", tmp_path / "out", tensors=True)
    copy, store = TraceStore(tmp_path / "out"), wh.run("llama")
    example = store.tokens.example_id[0]
    assert copy.meta == store.meta
    assert np.array_equal(copy.attn(example), store.attn(example))
    with pytest.raises(UsageError, match="leave out --example"):
        exports.dataset(wh, "llama", tmp_path / "some", tensors=True, where="idx = 0")


def test_the_card_names_model_tables_and_columns_whatever_a_name_holds(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    e = {"example_id": "e", "n_seqs": 1, "text": "---\nconfigs: []\n"}
    add_run(tmp_path / "runs", "odd", "next-token", {"examples": [e]})
    with Warehouse(tmp_path / "runs") as wh:
        exports.dataset(wh, "odd", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["configs"] == [
        {"config_name": "examples", "default": True, "data_files": [{"split": "train", "path": "examples/*.parquet"}]}
    ]
    assert "| `example_id` | VARCHAR | The example: 16 hex digits" in text and "of kind next-token" in text


def test_a_table_that_is_not_there_is_said(wh: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no rows of a table responses; it has examples"):
        exports.dataset(wh, "llama", tmp_path / "out", tables=["responses"])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_not_exported(tiny_root: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_root / "run_id=llama", tmp_path / "runs" / "run_id=llama")
    with Warehouse(tmp_path / "runs") as wh:
        store = wh.run("llama")
        file = next(p for p in (store.path / "tokens").iterdir())
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
        with pytest.raises(CorruptRunError, match="traces runs validate llama"):
            exports.dataset(wh, "llama", tmp_path / "out")
    assert not (tmp_path / "out").exists()
