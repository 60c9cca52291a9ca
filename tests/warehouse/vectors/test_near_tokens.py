"""Found tokens in their texts: the same as `token_diagnostics` tells of them, in the order in which they were found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from synthetic import add_run

from warehouse import Warehouse
from warehouse.catalog.ask import asker
from warehouse.vectors import index_spec, ingest, token_query
from warehouse.vectors.near_tokens import near_tokens


@pytest.fixture(scope="module")
def home(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("near") / "runs"
    shutil.copytree(tiny_root, root)
    ingest.add(root, "llama", index_spec.parse("resid.post_mlp@1"))
    return root


@pytest.mark.parametrize("k", [1, 200])
def test_before_token_and_after_are_the_context_and_the_token_itself_is_left_out(home: Path, k: int) -> None:
    with Warehouse(home) as wh:
        example = wh.sql("SELECT example_id FROM examples WHERE run_id = 'llama' AND idx = 3").fetchone()[0]
        query = token_query.for_token(wh, wh.vectors, "llama", example, 0, 7, "resid.post_mlp", [1], None)
        found = token_query.nearest(wh, query, k, None, "cosine", False)
        rows = near_tokens(asker(wh), wh, found, 40).to_pylist()
        assert (
            [row["distance"] for row in rows] == found["distance"].to_pylist() == sorted(found["distance"].to_pylist())
        )
        assert len(rows) == k and ("llama", example, 0, 7) not in {
            (r["run_id"], r["example_id"], r["seq"], r["pos"]) for r in rows
        }
        for row in rows[:: max(1, k // 10)]:
            where = f"run_id = '{row['run_id']}' AND example_id = '{row['example_id']}' AND pos = {row['pos']}"
            asked = f"SELECT context, token, pred_token FROM token_diagnostics WHERE {where}"
            ((context, token, pred),) = wh.sql(asked).fetchall()
            before, after = (row[name].replace("\n", " ") for name in ("before", "after"))
            assert context.startswith(f"{before}«") and context.endswith(f"»{after}")
            assert (row["token"], row["pred_token"]) == (token, pred)


def test_prompts_targets_sides_and_tokens_without_a_place(tmp_path: Path) -> None:
    sides = [("p", 1, "dec"), ("e", 0, "dec"), ("e", 0, "enc")]
    rows = {
        "examples": [{"example_id": e, "text": "0123456789", "metadata": '{"to": "abcdefghij"}'} for e in "pe"],
        "prompts": [{"example_id": "p", "seq": 1, "text": "ABCDEFGHIJ"}],
        "tokens": [
            {"example_id": e, "seq": seq, "side": side, "pos": i, "token": f"{side}{i}", "char_start": start, "char_end": start and start + 1}
            for e, seq, side in sides
            for i, start in enumerate([None, 4, 9])
        ],
        "next_token": [{"example_id": e, "seq": seq, "pos": 1, "pred_token": f"after {e}"} for e, seq in (("p", 1), ("e", 0))],
    }  # fmt: skip
    add_run(tmp_path, "plain", "next-token", rows)
    add_run(
        tmp_path, "to", "next-token", {k: v for k, v in rows.items() if k != "prompts"}, options={"target_column": "to"}
    )
    keys = [
        ("plain", "p", 1, "dec", 1),
        ("to", "e", 0, "enc", 1),
        ("plain", "e", 0, "dec", 0),
        ("to", "e", 0, "dec", 2),
    ]
    names = ("run_id", "example_id", "seq", "side", "pos")
    near = pa.Table.from_pylist([dict(zip(names, key, strict=True)) for key in keys])
    for name, kind in (
        ("distance", pa.float32()),
        ("layer", pa.int64()),
        ("head", pa.int64()),
        ("kv_head", pa.int64()),
    ):
        near = near.append_column(name, pa.nulls(len(keys), kind))
    near = near.append_column("search", pa.repeat("exact", len(keys)))
    with Warehouse(tmp_path) as wh:
        found = near_tokens(asker(wh), wh, near, 3).to_pylist()
        nothing = near_tokens(asker(wh), wh, near.slice(0, 0))
    assert [tuple(row[name] for name in ("before", "token", "after", "pred_token")) for row in found] == [
        ("BCD", "dec1", "FGH", "after p"),
        ("123", "enc1", "567", None),
        (None, "dec0", None, None),
        ("ghi", "dec2", "", None),
    ]
    assert not len(nothing) and nothing.column_names == list(found[0])
