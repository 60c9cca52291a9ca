"""What is found in a few row groups is what reading all of the table finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic

from warehouse import TraceStore
from warehouse.errors import CorruptRunError, NotFoundError, UsageError
from warehouse.schema.arrow import arrow_schema
from warehouse.schema.sites import Key
from warehouse.storage import parquet, paths, tensor_index
from warehouse.storage.sorted_table import SortedTable
from warehouse.storage.tensor_index import TensorIndex

Row = tuple[str, int, str, str, int, int]


@pytest.fixture
def table(tmp_path: Path) -> Callable[[list[Row], int], SortedTable]:
    def made(rows: list[Row], size: int) -> SortedTable:
        names = ("example_id", "seq", "tensor", "blob", "row_start", "row_end")
        told = [dict(zip(names, row, strict=True)) for row in rows]
        path = tmp_path / "tensors.parquet"
        pq.write_table(parquet.to_table("tensors", synthetic.columns("tensors", told)), path, row_group_size=size)
        return SortedTable([path], arrow_schema("tensors"))

    return made


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_every_sequence_is_found_whatever_the_row_groups(table: Callable, size: int) -> None:
    """Ids of several lengths, several sequences an example, tensors that are not asked for, rows that go on in the next row group."""
    chance = np.random.default_rng(size)
    known, rows = {}, []
    for example in sorted(
        {"a", "aa", "b", "e\u00e9", "\u4e00", *(f"{x:04x}" for x in chance.integers(1 << 16, size=40))}
    ):
        for seq in sorted(chance.choice(300, chance.integers(1, 4), replace=False).tolist()):
            start = int(chance.integers(1000))
            known[example, seq] = (f"blobs/0000{start % 3}.safetensors", start, start + 1 + seq)
            rows += [(example, seq, t, *known[example, seq]) for t in ("q.L00", "v.L00")]
    index = TensorIndex(table(rows, size), "v.L00")
    for (example, seq), place in known.items():
        assert index.known(example, seq) is None
        assert index.find(example, seq) == index.find(example, seq) == index.known(example, seq) == place
    for example, seq in (("a", 300), ("a", -1), ("a", 1 << 40), ("", 0), ("zz", 0), ("aaa", 0), ("0", 0)):
        assert index.find(example, seq) is None
    p = index.places()
    blobs = [p.blobs[i] for i in p.blob]
    found = {
        (e, s): (b, i, j) for e, s, b, i, j in zip(p.example_id.to_pylist(), p.seq, blobs, p.start, p.end, strict=True)
    }
    assert found == known
    assert list(zip(blobs, p.start, strict=True)) == sorted(zip(blobs, p.start, strict=True))
    assert not len(TensorIndex(table([], size), "v.L00").places().seq)


def test_places_are_remembered_up_to_a_number(table: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_index, "_RECENT", 3)
    rows = [(f"e{i}", 0, "q.L00", "b", i, i + 1) for i in range(8)]
    index = TensorIndex(table(rows, 5), "q.L00")
    assert [index.find(e, 0) for e, *_ in rows] == [("b", i, i + 1) for i in range(8)]
    assert len(index._recent) <= 3


def test_rows_that_are_not_sorted_are_refused(table: Callable) -> None:
    index = TensorIndex(table([(e, 0, "q.L00", "b", 0, 1) for e in ("b", "a", "c")], 3), "q.L00")
    with pytest.raises(CorruptRunError, match="out of order"):
        index.find("b", 0)


def test_rows_and_ids_of_a_table_by_example(tmp_path: Path) -> None:
    rows = [{"example_id": f"e{i // 3:02d}", "seq": i % 3} for i in range(30)]
    path = tmp_path / "t.parquet"
    whole = parquet.to_table("tensors", synthetic.columns("tensors", rows))
    pq.write_table(whole, path, row_group_size=4)
    table = SortedTable([path], arrow_schema("tensors"))
    for i in range(10):
        assert table.rows(f"e{i:02d}", ["seq"])["seq"].to_pylist() == [0, 1, 2]
    assert table.rows("e1", ["seq", "tensor"]).schema.names == ["seq", "tensor"] and not len(table.rows("x", ["seq"]))
    assert table.ids_near("e05", 0, 1) == ["e05"]
    near = table.ids_near("e05x", 2, 2)
    assert near[-2:] == ["e06", "e07"] and "e05" in near[:-2]
    assert isinstance(table.rows("e01", ["seq"]), pa.Table)


def test_a_run_is_read_by_example_without_reading_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP", 16)
    lengths = np.random.default_rng(0).integers(1, 6, 60)
    x = np.arange(lengths.sum() * 4, dtype=np.float32).reshape(-1, 4)
    synthetic.add_vectors(tmp_path, "r", {0: x, 1: -x}, lengths.tolist(), shards=3)
    store = TraceStore(paths.run_dir(tmp_path, "r"))
    assert len(store._table("tensors").row_groups) > 20
    at = np.cumsum(lengths) - lengths
    for i in np.random.default_rng(1).permutation(60).tolist():
        assert np.array_equal(store.resid(f"e{i:04d}", layer=1), -x[at[i] : at[i] + lengths[i]])
    assert [s.example_id for s in store.slices(Key("dec", "resid.post_mlp", 0))] == [f"e{i:04d}" for i in range(60)]
    with pytest.raises(NotFoundError, match=r"No example 'e0061'. Did you mean e00.*run 'r'"):
        store.resid("e0061", layer=1)
    assert store.find_example("e0041") == "e0041"
    with pytest.raises(UsageError, match="Several examples begin with e004: e0040, e0041, e0042, e0043, e0044."):
        store.find_example("e004")
    with pytest.raises(NotFoundError, match="No example 'f'"):
        store.find_example("f")
