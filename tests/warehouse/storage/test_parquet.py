"""Files of a table that become one, sorted; rows that tell of a whole run, and that each of its parts has, are one row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from synthetic import columns

from warehouse.schema.arrow import arrow_schema
from warehouse.schema.tables import STORED
from warehouse.storage import parquet, parts
from warehouse.storage.parquet import (
    all_ascend,
    examples_hash,
    merge_table_parts,
    to_table,
    write_part,
    write_part_of,
    write_table_file,
)
from warehouse.storage.parts import merge_parts, read_part


def merged(folder: Path, table: str, *rows_of_parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    files = [folder / f"{table}-{i}.arrow" for i in range(len(rows_of_parts))]
    for file, rows in zip(files, rows_of_parts, strict=True):
        write_part(table, file, to_table(table, columns(table, rows)))
    n = merge_table_parts(table, files, folder / "one.parquet")
    found = pq.read_table(folder / "one.parquet")
    assert len(found) == n and found.schema.equals(arrow_schema(table), check_metadata=True)
    return found.to_pylist()


def test_the_errors_of_an_identity_in_parts_are_those_of_the_whole(tmp_path: Path) -> None:
    key = {"source_run_id": "r", "identity": "logit = sum of parts"}
    one = [key | {"n": 3, "max_error": 1e-6, "scale": 2.0}, key | {"layer": 1, "n": 1, "max_error": 0.5, "scale": 1.0}]
    other = [key | {"n": 4, "max_error": 1e-7, "scale": 5.0}]
    assert merged(tmp_path, "identity_errors", one, other) == [
        key | {"layer": 1, "n": 1, "max_error": 0.5, "scale": 1.0},
        key | {"layer": None, "n": 7, "max_error": 1e-6, "scale": 5.0},
    ]


def test_interventions_of_parts_are_there_once_and_those_that_differ_are_not_hidden(tmp_path: Path) -> None:
    same, differs = ({"intervention_id": 0, "spec": "L0H0=zero", "kind": kind} for kind in ("zero", "mean"))
    assert len(merged(tmp_path, "interventions", [same], [same])) == 1
    assert len(merged(tmp_path, "interventions", [same], [differs])) == 2


def test_effects_are_kept_as_they_are(tmp_path: Path) -> None:
    row = {"example_id": "e", "metric": "kl", "effect": 0.1}
    found = merged(tmp_path, "effects", [row], [row | {"example_id": "d"}])
    assert [r["example_id"] for r in found] == ["d", "e"] and found[0]["effect"] == 0.1


def random_rows(table: str, n: int, chance: np.random.Generator) -> list[dict[str, Any]]:
    """Rows whose keys are all different, some of them NULL where they may be, in no order."""
    fixed = {"source_run_id": "parent", "seq": 0}
    numbers = chance.permutation(n * 50)[:n]
    nullable = {c.name for c in STORED[table].columns if c.nullable}
    return [
        {key: fixed[key] for key in STORED[table].sort_key if key in fixed}
        | {"example_id": f"{i // 40:04x}" + "é" * (i % 3), "pos": int(i % 40)}
        | {key: None if i % 40 == 7 else int(i % 40) for key in ("layer",) if key in nullable}
        for i in numbers.tolist()
    ]


def of_a_file(table: str, part: Path, rows: Any) -> None:
    """A part made of a file, whose rows are in no order."""
    write_table_file(part.with_suffix(".parquet"), rows)
    write_part_of(table, part.with_suffix(".parquet"), part)


@pytest.mark.parametrize("table", ["tokens", "logit_lens", "tensors"])
@pytest.mark.parametrize("write", [write_part, of_a_file])
def test_parts_become_what_sorting_all_of_their_rows_gives_with_few_in_memory(
    table: str, write: Callable[[str, Path, Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_BATCH_BYTES", 1600)
    monkeypatch.setattr(parts, "_PIECE", 100)
    monkeypatch.setattr(parts, "_PIECE_OF_A_PART", 1)
    monkeypatch.setattr(parquet, "ROW_GROUP", 256)
    chance, files = np.random.default_rng(0), []
    rows = [r for r in random_rows(table, 3000, chance) if "layer" in r or table != "tensors"]
    known = {name: [r[name] for r in rows] for name in rows[0] if name in STORED[table].names}
    whole = to_table(
        table, columns(table, [dict(zip(known, v, strict=True)) for v in zip(*known.values(), strict=True)])
    )
    for i in range(10):
        files.append(tmp_path / f"{i}.arrow")
        write(table, files[-1], whole.slice(i * 334, 334))  # the last one has no row
    n = merge_table_parts(table, files, tmp_path / "one.parquet")
    found, keys = pq.ParquetFile(tmp_path / "one.parquet"), list(STORED[table].sort_key)
    plain = duckdb.sql(f"SELECT * FROM whole ORDER BY {', '.join(keys)}").to_arrow_table()
    assert n == len(plain) and found.read().select(keys).to_pylist() == plain.select(keys).to_pylist()
    assert found.read().schema.equals(arrow_schema(table), check_metadata=True)
    groups = [found.metadata.row_group(i).num_rows for i in range(found.num_row_groups)]
    assert set(groups[:-1]) == {256 // 4 if table == "tensors" else 256} and groups[-1] <= groups[0]
    assert max(len(piece) for piece in merge_parts(files, keys)) <= 100 + 40 + 40 * len(files)
    monkeypatch.setattr(parts, "_AT_ONCE", 2)  # so that the ten become five, three, two
    there = sorted(tmp_path.iterdir())
    assert merge_table_parts(table, files, tmp_path / "one.parquet") == n
    assert pq.read_table(tmp_path / "one.parquet").equals(found.read())
    assert sorted(tmp_path.iterdir()) == there


def test_a_part_of_a_sorted_file_has_its_rows_as_they_are_changed_and_is_written_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_PIECE", 7)
    rows = [{"example_id": f"{i:03}", "pos": p} for i in range(9) for p in range(3)]
    write_table_file(tmp_path / "tokens.parquet", to_table("tokens", columns("tokens", rows)))
    seen = list[int]()

    def change(rows: pa.Table) -> pa.Table:
        seen.append(len(rows))
        return rows.set_column(rows.schema.names.index("token"), rows.schema.field("token"), pa.repeat("x", len(rows)))

    write_part_of("tokens", tmp_path / "tokens.parquet", tmp_path / "0.arrow", change)
    found = read_part(tmp_path / "0.arrow")
    assert seen == [7, 7, 7, 6] and set(found["token"].to_pylist()) == {"x"}
    assert found.schema.equals(arrow_schema("tokens"), check_metadata=True)
    assert found.drop("token").equals(pq.read_table(tmp_path / "tokens.parquet").drop("token"))


def test_rows_of_several_files_ascend_where_no_key_is_the_same_or_less_than_the_one_before(tmp_path: Path) -> None:
    keys = STORED["tensors"].sort_key
    rows = to_table("tensors", columns("tensors", [{"example_id": e, "layer": i} for e in "ab" for i in (0, 1, None)]))

    def ascend(*order: int) -> bool:
        files = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
        for file, part in zip(files, (order[:2], order[2:]), strict=True):
            write_table_file(file, rows.take(np.array(part, np.int64)))
        return all_ascend(files, keys)

    assert ascend(0, 1, 2, 3, 4, 5) and ascend(0, 5)
    assert not any(ascend(*o) for o in [(0, 1, 1, 2), (2, 2, 3), (0, 1, 2, 2), (1, 0, 2), (2, 1, 3), (0, 3, 2)])


def test_long_texts_are_in_row_groups_of_few_and_their_hash_is_that_of_all_in_the_order_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, files = np.random.default_rng(0), []
    texts = [chr(97 + i % 26) * int(n) for i, n in enumerate(chance.integers(0, 2000, 500))]
    whole = [{"example_id": f"{i * 7919 % 500:04}", "idx": i, "text": text} for i, text in enumerate(texts)]
    joined = "".join(f"{row['example_id']}\x1f{row['text']}\x1e" for row in whole)
    plain = xxhash.xxh3_128(joined.encode()).hexdigest()
    monkeypatch.setattr(parquet, "GROUP_BYTES", 64_000)
    for rows in (whole[:200], whole[200:]):
        files.append(tmp_path / f"{len(files)}.arrow")
        write_part("examples", files[-1], to_table("examples", columns("examples", rows)))
    merge_table_parts("examples", files, tmp_path / "one.parquet")
    found = pq.ParquetFile(tmp_path / "one.parquet")
    assert max(found.read_row_group(i).nbytes for i in range(found.num_row_groups)) <= 64_000 * 1.5
    assert examples_hash([tmp_path / "one.parquet"]) == plain
