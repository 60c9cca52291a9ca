"""The documents of viewers hold the run's own numbers, under the names that those tools read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from synthetic import add_run

from warehouse import Warehouse, exports
from warehouse.errors import UsageError


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wh(every_table: Path) -> Iterator[Warehouse]:
    with Warehouse(every_table) as wh:
        yield wh


@pytest.fixture(scope="module")
def folder(wh: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "llama"
    exports.viewer(wh, "llama", folder, kinds=["attention", "lens"], where="idx < 3")
    return folder


def test_attention_is_that_of_the_run_to_the_bit(wh: Warehouse, folder: Path) -> None:
    store = wh.run("llama")
    files = sorted((folder / "attention").iterdir())
    assert len(files) == 3
    for file in files:
        example, _, seq = file.stem.rpartition("-")
        document = read(file)
        assert list(document) == ["tokens", "n_prompt_tokens", "n_response_tokens", "attention"]
        assert document["tokens"] == store.encodings(example, int(seq))["tokens"]
        assert document["n_prompt_tokens"] == len(document["tokens"]) and document["n_response_tokens"] == 0
        attn = store.attn(example, seq=int(seq))
        for t, entry in enumerate(document["attention"]):
            assert (entry["token_idx"], entry["context_size"]) == (t, t + 1)
            assert np.array_equal(np.array(entry["by_layer"], np.float32), attn[:, :, t, : t + 1])


def test_a_lens_has_every_layer_and_its_likeliest_tokens(wh: Warehouse, folder: Path) -> None:
    rows = wh.sql(
        "FROM logit_lens WHERE run_id = 'llama-lens' ORDER BY example_id, pos, layer NULLS FIRST"
    ).to_arrow_table()
    for file in (folder / "logit_lens").iterdir():
        document = read(file)
        of = rows.filter(pc.field("example_id") == file.stem.rpartition("-")[0]).to_pylist()
        assert [p["token_idx"] for p in document["predictions"]] == list(range(len(document["tokens"])))
        flat = [layer for p in document["predictions"] for layer in p["by_layer"]]
        assert len(flat) == len(of)
        for layer, row in zip(flat, of, strict=True):
            assert (layer["layer"], layer["actual_rank"]) == (row["layer"], row["actual_rank"])
            assert [x["token"] for x in layer["top_k"]] == row["topk_tokens"]
            assert [np.float32(x["prob"]) for x in layer["top_k"]] == row["topk_probs"]
        for p in document["predictions"][:-1]:
            assert p["actual_next_token"] == document["tokens"][p["token_idx"] + 1]
            assert p["by_layer"][0]["actual_prob"] is not None
        last = document["predictions"][-1]
        assert last["actual_next_token"] is None and last["by_layer"][0]["actual_prob"] is None


def test_the_index_names_the_run_its_model_and_every_document(wh: Warehouse, folder: Path) -> None:
    index = read(folder / "index.json")
    meta = wh.run("llama").meta
    assert (index["run_id"], index["weights_hash"]) == ("llama", meta.model.weights_hash)
    assert {d["file"] for d in index["documents"]} == {
        p.relative_to(folder).as_posix() for p in folder.rglob("*-*.json")
    }


@pytest.fixture
def projected(tmp_path: Path) -> Path:
    """A run with a response of three tokens after two of a prompt, projected on a trait, and then on it again."""
    root = tmp_path / "runs"
    e = {"example_id": "e1"}
    tokens = [
        e | {"side": "dec", "pos": i, "token_id": i, "token": t, "is_response": i >= 2}
        for i, t in enumerate("ab cd"[:5])
    ]
    rows = {
        "examples": [e | {"text": "ab", "n_seqs": 1, "n_tokens": 5, "prompt_set": "mine"}],
        "tokens": tokens,
        "responses": [e | {"prompt": "ab", "response": " cd", "n_prompt_tokens": 2, "n_response_tokens": 3}],
    }
    add_run(root, "said", "generate", rows)
    key = e | {"source_run_id": "said", "vectors_run_id": "v", "trait": "../loud", "method": "probe"}
    key |= {"component": "residual", "layer": 3}
    for minute, value in ((1, 9.0), (2, 0.1)):
        points = [
            key | {"pos": i, "projection": value * i, "velocity": value if i > 2 else None}
            | {"acceleration": 0.0 if i > 3 else None}
            for i in range(5)
        ]  # fmt: skip
        dynamics = key | {
            "n_tokens": 3,
            "first_pos": 2,
            "peak_velocity": value,
            "commitment_point": 2,
            "persistence": 0,
        }
        tables = {"trait_projections": points, "trait_dynamics": [dynamics]}
        add_run(root, f"p{minute}", "trait-projection", tables, minute=minute, parents=["said", "v"])
    return root


def test_a_projection_has_prompt_and_response_with_the_newest_projections(projected: Path, tmp_path: Path) -> None:
    with Warehouse(projected) as wh:
        assert exports.viewer(wh, "said", tmp_path / "out") == {"projections": 1}
    (file,) = (tmp_path / "out" / "projections").rglob("*.json")
    assert file.relative_to(tmp_path / "out").parts[2:] == ("probe-residual-L3", "e1-0.json")
    document = read(file)
    assert document["prompt"] == {"text": "ab", "tokens": ["a", "b"], "n_tokens": 2}
    assert document["response"] == {"text": " cd", "tokens": [" ", "c", "d"], "n_tokens": 3}
    assert document["projections"] == {"prompt": [0.0, 0.1], "response": [0.2, 0.3, 0.4]}
    assert document["dynamics"] == {
        "commitment_point": 2, "peak_velocity": 0.1, "persistence": 0,
        "velocity": [0.1, 0.1], "acceleration": [0.0],
    }  # fmt: skip
    about = document["metadata"]
    assert (about["inference_experiment"], about["prompt_id"], about["prompt_set"]) == ("said", "e1-0", "mine")
    assert about["vector_source"] | {"model": None} == {
        "model": None, "experiment": "v", "trait": "../loud", "method": "probe", "layer": 3, "component": "residual",
    }  # fmt: skip
    assert about["projection_date"][:2] == "20"


def test_names_from_outside_stay_in_the_folder(projected: Path, tmp_path: Path) -> None:
    with Warehouse(projected) as wh:
        exports.viewer(wh, "said", tmp_path / "a" / ".." / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"runs", "out"}
    (trait,) = (tmp_path / "out" / "projections").iterdir()
    assert "." not in trait.name


def test_what_is_there_is_replaced_only_if_it_is_an_export_and_that_is_wanted(wh: Warehouse, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exports.viewer(wh, "llama", out, kinds=["lens"], where="idx = 0")
    before = {p: p.read_bytes() for p in out.rglob("*.json")}
    with pytest.raises(UsageError, match="--force"):
        exports.viewer(wh, "llama", out, kinds=["lens"], where="idx = 1")
    assert {p: p.read_bytes() for p in out.rglob("*.json")} == before
    exports.viewer(wh, "llama", out, kinds=["lens"], where="idx = 1", force=True)
    assert not before.keys() - {out / "index.json"} & set(out.rglob("*.json"))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").touch()
    with pytest.raises(UsageError, match="no export"):
        exports.viewer(wh, "llama", theirs, force=True)
    assert [p.name for p in theirs.iterdir()] == ["thesis.tex"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "theirs"]


def test_nothing_is_left_where_an_export_fails(wh: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exports.viewer(wh, "llama", tmp_path / "out", report=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def rows_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """A run without tensors."""
    root = tmp_path_factory.mktemp("rows") / "runs"
    add_run(root, "rows", "next-token", {"examples": [{"example_id": "e", "n_seqs": 1}]})
    with Warehouse(root) as wh:
        yield wh


@pytest.mark.parametrize(
    "run, options, says",
    [
        ("nobody", {}, "No run 'nobody'"),
        ("llama", {"kinds": ["atention"]}, "Did you mean attention"),
        ("rows", {"kinds": ["lens"]}, "traces lens rows"),
        ("rows", {"kinds": ["attention"]}, "--capture attn"),
        ("rows", {}, "nothing to export"),
        ("llama", {"where": "idx > 1000000"}, "fits --where"),
        ("llama", {"where": "idx = 1; DROP TABLE x"}, "more than a condition"),
        ("llama", {"examples": ["zzz"]}, "No example 'zzz'"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(
    wh: Warehouse, rows_alone: Warehouse, tmp_path: Path, run: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as e:
        exports.viewer(rows_alone if run == "rows" else wh, run, tmp_path / "out", **options)
    assert says in str(e.value) and "\n" not in str(e.value)
    assert not (tmp_path / "out").exists()
