"""Every check finds what it is for: a run is damaged on purpose, and the right check fails."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic
import xxhash

from warehouse import TraceStore
from warehouse.schema.arrow import arrow_schema
from warehouse.storage import sorted_table
from warehouse.storage.blobs import Blob
from warehouse.storage.files import file_checksum
from warehouse.storage.paths import run_dir
from warehouse.storage.sequence_checksums import SequenceSums, slice_digests, to_hex
from warehouse.validation.check import ValidationFailure, portions
from warehouse.validation.file_checks import check_tensor_checksums
from warehouse.validation.validate import validate


@pytest.fixture
def folder(tiny_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir(tiny_root, "gpt2"), tmp_path / "run_id=gpt2"))


def failed(folder: Path) -> dict[str, str]:
    return {c.name: c.detail for c in validate(folder) if c.passed is False}


def edit(folder: Path, table: str, change: Callable[[dict[str, list]], None]) -> None:
    """Rewrite a table and its checksums, so that only its contents are wrong."""
    path = folder / table / "00000.parquet"
    columns = pq.read_table(path, partitioning=None).to_pydict()
    change(columns)
    pq.write_table(pa.table(columns, schema=arrow_schema(table)), path, compression="zstd")

    def set_right(manifest: dict) -> None:
        for f in manifest["files"]:
            if f["path"] == f"{table}/00000.parquet":
                f["bytes"], f["checksum"] = path.stat().st_size, file_checksum(path)
        manifest["bytes"] = sum(f["bytes"] for f in manifest["files"])
        manifest["counts"]["rows"][table] = len(columns["example_id"])

    synthetic.alter(folder / "run.json", set_right)


def overwrite(folder: Path, tensor: str, row: int, values: np.ndarray) -> None:
    """Write into a blob, and leave its index as it is."""
    path = sorted((folder / "blobs").iterdir())[0]
    with Blob(path) as blob:
        at = blob.rows(tensor, row, row + 1)
        offset = at.__array_interface__["data"][0] - np.frombuffer(blob._map, np.uint8).__array_interface__["data"][0]
        data = values.astype(at.dtype).tobytes()
    with path.open("r+b") as f:
        f.seek(offset)
        f.write(data)


def test_a_sound_run_passes(tiny_root: Path) -> None:
    for run in ("gpt2", "llama"):
        checks = list(validate(run_dir(tiny_root, run)))
        assert [c.name for c in checks if c.passed is not True] == [
            "logit_lens",
            "comparisons",
            "layer similarity",
            "moved directions",
            "head changes",
            "words",
            "chats",
            "multiple choice",
            "trait vectors",
            "trait evaluations",
            "judgements",
            "trait projections",
            "task",
            "effects",
            "influence",
            "circuits",
            "circuit values",
            "features",
            "reconstruction losses",
            "feature associations",
            "vector tables",
            "compacted",
        ]
        assert len(checks) == 35


def test_sound_runs_of_annotated_data_and_of_questions_pass(every_table: Path) -> None:
    for run, checked in (("ud_ewt", "words"), ("go_emotions", "keys"), ("csqa", "multiple choice")):
        checks = {c.name: c.passed for c in validate(run_dir(every_table, run))}
        assert False not in checks.values()
        assert checks[checked]


def test_one_altered_bit_of_a_tensor_is_found_and_named(folder: Path) -> None:
    path = sorted((folder / "blobs").iterdir())[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = failed(folder)
    assert list(found) == ["tensor checksums"] and "of example" in found["tensor checksums"]


def test_every_slice_that_is_altered_is_named(folder: Path) -> None:
    path = sorted((folder / "blobs").iterdir())[0]
    whole = path.read_bytes()
    index = pq.read_table(folder / "tensors" / "00000.parquet", partitioning=None).to_pylist()
    with Blob(path) as blob:
        begins = {t: blob._starts[t] for t in blob.tensors}
        sizes = {t: blob.tensor(t)[:1].nbytes for t in blob.tensors}
    chosen = [r for r in index if r["blob"] == f"blobs/{path.name}"][::97]
    for r in chosen:
        at = begins[r["tensor"]] + sizes[r["tensor"]] * r["row_start"]
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        told = check_tensor_checksums_of(folder)
        assert f"{r['tensor']} of example {r['example_id']}, seq {r['seq']} is altered" in told
    other = chosen[0] | {"tensor": next(t for t in begins if t != chosen[0]["tensor"])}
    data = bytearray(whole)
    for r in (chosen[0], other):
        data[begins[r["tensor"]] + sizes[r["tensor"]] * r["row_start"]] ^= 1
    path.write_bytes(data)
    assert f"some of the tensors of example {other['example_id']}" in check_tensor_checksums_of(folder)


def check_tensor_checksums_of(folder: Path) -> str:
    with pytest.raises(ValidationFailure) as e:
        check_tensor_checksums(TraceStore(folder))
    return str(e.value)


def test_a_run_with_a_checksum_a_slice_is_checked_as_before(folder: Path) -> None:
    """As all runs before format 9 are."""

    def one_a_slice(columns: dict[str, list]) -> None:
        places = zip(*(columns[c] for c in ("blob", "tensor", "row_start", "row_end")), strict=True)
        blobs = {name: Blob(folder / name) for name in set(columns["blob"])}
        columns["checksum"] = [
            xxhash.xxh3_64_hexdigest(np.ascontiguousarray(blobs[b].rows(t, i, j)).view(np.uint8))
            for b, t, i, j in places
        ]

    edit(folder, "tensors", one_a_slice)
    synthetic.alter(folder / "run.json", lambda m: m.update(schema_version=8))
    assert not failed(folder)
    overwrite(folder, "resid.post_mlp.L01", 2, np.full(32, 7.0))
    assert "resid.post_mlp.L01 of example" in failed(folder)["tensor checksums"]


@pytest.mark.parametrize("what", ["blobs/00000.safetensors", "tokens/00000.parquet"])
def test_a_file_cut_short_or_gone_is_found(folder: Path, what: str) -> None:
    data = (folder / what).read_bytes()
    (folder / what).write_bytes(data[:-10])
    assert "cut short" in failed(folder)["files"]
    (folder / what).unlink()
    assert failed(folder)["files"] == f"{what} is missing"


def test_one_altered_bit_of_a_table_is_found(folder: Path) -> None:
    path = folder / "next_token" / "00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "is altered" in failed(folder)["table checksums"]


def test_nan_is_found(folder: Path) -> None:
    overwrite(folder, "resid.post_mlp.L01", 2, np.full(32, np.nan))
    assert "tensor checksums" in failed(folder)

    def forget(columns: dict[str, list]) -> None:  # and its checksum made to fit: only the value is wrong
        sequences = sorted({*zip(columns["example_id"], columns["seq"], strict=True)})
        sums = SequenceSums(len(sequences))
        blobs = {name: Blob(folder / name) for name in set(columns["blob"])}
        numbers = [sequences.index(s) for s in zip(columns["example_id"], columns["seq"], strict=True)]
        names = ("blob", "tensor", "row_start", "row_end")
        for n, b, t, i, j in zip(numbers, *(columns[c] for c in names), strict=True):
            sums.add(t, slice_digests(blobs[b].tensor(t), np.array([i]), np.array([j])), np.array([n]))
        columns["checksum"] = [to_hex(sums.values)[n].as_py() for n in numbers]

    edit(folder, "tensors", forget)
    assert "resid.post_mlp.L01 (F32) holds NaN" in failed(folder)["finite"]


@pytest.mark.parametrize(
    ("table", "change", "check", "finding"),
    [
        ("next_token", lambda c: c["loss"].__setitem__(0, c["loss"][0] + 1), "next_token", "a loss that is not"),
        ("next_token", lambda c: c["entropy"].__setitem__(0, 99.0), "next_token", "an entropy outside"),
        ("next_token", lambda c: c["true_rank"].__setitem__(0, 0), "next_token", "a rank outside"),
        ("next_token", lambda c: c["correct"].__setitem__(0, not c["correct"][0]), "next_token", "marked wrongly"),
        ("next_token", lambda c: c["topk_probs"][0].reverse(), "next_token", "top-k"),
        ("next_token", lambda c: c["topk_ids"][0].reverse(), "next_token", "does not begin with the prediction"),
        ("next_token", lambda c: c["true_prob"].__setitem__(0, 1.5), "next_token", "a probability outside"),
        (
            "next_token",
            lambda c: c["true_id"].__setitem__(0, c["true_id"][0] + 1),
            "keys",
            "not the one that came next",
        ),
        ("next_token", lambda c: [v.pop() for v in c.values()], "keys", "no prediction"),
        ("next_token", lambda c: [v.append(v[-1]) for v in c.values()], "keys", "two rows"),
        ("tokens", lambda c: [v.pop() for v in c.values()], "keys", "tokens are not all there"),
        ("tokens", lambda c: c["pos"].__setitem__(0, 500), "keys", "positions are not"),
        ("tokens", lambda c: c["char_end"].__setitem__(0, 10_000), "tokens", "outside the text"),
        ("tokens", lambda c: c["token"].__setitem__(c["token"].index(" the"), " tho"), "tokens", "not what stands"),
        ("tensors", lambda c: [v.pop() for v in c.values()], "keys", "tensors are not all there"),
        ("tensors", lambda c: c["shape"][0].__setitem__(0, 1), "shapes", "shape is not its rows"),
        ("tensors", lambda c: c["dtype"].__setitem__(0, "F16"), "shapes", "is F32; the index says F16"),
        ("examples", lambda c: [v.pop() for v in c.values()], "keys", "an example that is not there"),
    ],
)
def test_contents_that_contradict_each_other_are_found(
    folder: Path, table: str, change, check: str, finding: str
) -> None:
    edit(folder, table, change)
    found = failed(folder)
    assert check in found, found
    assert finding in found[check], found[check]


@pytest.mark.parametrize(
    ("table", "change", "check", "finding"),
    [
        ("next_token", lambda c: [v.pop() for v in c.values()], "keys", "no prediction"),
        ("tensors", lambda c: [v.pop() for v in c.values()], "keys", "tensors are not all there"),
        ("examples", lambda c: [v.pop(0) for v in c.values()], "keys", "an example that is not there"),
        ("examples", lambda c: c["n_seqs"].__setitem__(-1, 2), "keys", "tokens are not all there"),
    ],
)
def test_a_run_that_is_looked_at_in_portions_is_checked_as_one_that_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, table: str, change, check: str, finding: str
) -> None:
    path = folder / "tokens" / "00000.parquet"
    pq.write_table(pq.read_table(path, partitioning=None), path, row_group_size=200)
    synthetic.set_right(folder, path)
    monkeypatch.setattr(sorted_table, "_RANGE", 1)
    assert len(list(portions(TraceStore(folder)))) > 2
    assert not failed(folder)
    edit(folder, table, change)
    assert finding in failed(folder)[check]


def test_counts_that_are_wrong_are_found(folder: Path) -> None:
    synthetic.alter(folder / "run.json", lambda m: m["counts"].update(tokens=m["counts"]["tokens"] + 1))
    assert "tokens are not as many" in failed(folder)["counts"]


def test_a_manifest_with_other_shapes_is_found(folder: Path) -> None:
    synthetic.alter(folder / "run.json", lambda m: m["sites"][0].update(row_shape=[31]))
    assert "rows of other shapes than the manifest says" in failed(folder)["tensor checksums"]


def first(values: list, wanted: Callable[[object], bool] = lambda v: v is not None) -> int:
    return next(i for i, v in enumerate(values) if wanted(v))


@pytest.mark.parametrize(
    ("run", "table", "change", "check", "finding"),
    [
        ("ud_ewt", "words", lambda c: c["form"].__setitem__(0, "other"), "words", "a word that is not what stands"),
        ("ud_ewt", "words", lambda c: c["head"].__setitem__(first(c["head"]), 99), "words", "none of its sentence"),
        ("ud_ewt", "tokens", lambda c: c["word_idx"].__setitem__(0, 5), "words", "no character of its word"),
        ("ud_ewt", "tokens", lambda c: c["word_idx"].__setitem__(0, None), "words", "of no word, with a character"),
        ("go_emotions", "labels", lambda c: [v.append(v[-1]) for v in c.values()], "keys", "two rows"),
        ("csqa", "choices", lambda c: c["prob"].__setitem__(0, 0.9), "multiple choice", "don't sum to 1"),
        ("csqa", "choices", lambda c: c["logit"].__setitem__(0, 99.0), "multiple choice", "highest score|softmax"),
        (
            "csqa",
            "choices",
            lambda c: c["is_pred"].__setitem__(c["is_pred"].index(True), False),
            "multiple choice",
            "don't mark",
        ),
        (
            "csqa",
            "mcq_predictions",
            lambda c: c["is_correct"].__setitem__(0, None),
            "multiple choice",
            "marked wrongly",
        ),
        ("csqa", "mcq_predictions", lambda c: c["entropy"].__setitem__(0, 0.01), "multiple choice", "entropy"),
        ("csqa", "mcq_predictions", lambda c: c["pred_label"].__setitem__(0, "X"), "multiple choice", "a letter"),
        ("csqa", "prompts", lambda c: c["text"].__setitem__(0, "other"), "tokens", "outside the text|not what stands"),
    ],
)
def test_annotations_and_answers_that_contradict_are_found(
    every_table: Path, tmp_path: Path, run: str, table: str, change, check: str, finding: str
) -> None:
    folder = tmp_path / f"run_id={run}"
    shutil.copytree(run_dir(every_table, run), folder)
    edit(folder, table, change)
    found = failed(folder)
    assert check in found, found
    assert re.search(finding, found[check]), found[check]


@pytest.mark.parametrize(
    ("column", "value", "finding"),
    [
        ("topk_probs", lambda old: old[::-1], "not sorted"),
        ("topk_probs", lambda old: [1.0] * len(old), "exceed 1"),
        ("topk_probs", lambda old: [1.5, *old[1:]], "outside 0 to 1"),
        ("topk_tokens", lambda old: old[1:], "unequal length"),
        ("topk_ids", lambda old: [old[0]] * len(old), "a token twice"),
        ("actual_rank", lambda old: None, "known in part"),
        ("actual_rank", lambda old: 0, "outside the vocabulary"),
        ("actual_rank", lambda old: 401, "outside the vocabulary"),
        ("actual_rank", lambda old: 2 if old == 1 else 1, "not its place"),
        ("actual_prob", lambda old: 1.0, "not its place|likelier"),
        ("actual_id", lambda old: old + 1 if old < 399 else 0, "differs from layer to layer|not its place|not that"),
        ("entropy", lambda old: 6.1, "an entropy outside"),
        ("entropy", lambda old: float("nan"), "an entropy outside|NaN"),
        ("kl_to_final", lambda old: -0.01, "negative divergence"),
        ("layer", lambda old: 3, "that the model has not"),
    ],
)
def test_a_lens_that_contradicts_itself_is_found(
    every_table: Path, tmp_path: Path, column: str, value: Callable, finding: str
) -> None:
    folder = tmp_path / "run_id=llama-lens"
    shutil.copytree(run_dir(every_table, "llama-lens"), folder)
    assert not failed(folder)

    def change(columns: dict[str, list]) -> None:
        columns[column][0] = value(columns[column][0])

    edit(folder, "logit_lens", change)
    found = failed(folder)
    assert list(found) == ["logit_lens"] and re.search(finding, found["logit_lens"]), found


def test_a_lens_whose_last_layer_is_not_the_models_own_is_found(every_table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run_id=llama-lens"
    shutil.copytree(run_dir(every_table, "llama-lens"), folder)
    edit(folder, "logit_lens", lambda c: c["kl_to_final"].__setitem__(c["layer"].index(2), 0.5))
    assert "not the final distribution" in failed(folder)["logit_lens"]


@pytest.mark.parametrize(
    ("run", "column", "value", "finding"),
    [
        ("vectors", "vector", [0.6, 0.81, 0.0, 0.0], "length is not 1"),
        ("vectors", "vector", [0.6, 0.8, 0.0], "width, 4"),
        ("vectors", "gap", -0.1, "points away"),
        ("vectors", "layer", 1, "layer that the model has not"),
        ("vectors", "train_accuracy", 1.1, "outside 0 to 1"),
        ("vectors", "norm", 0.0, "made from nothing"),
        ("evaluated", "auc", 1.5, "auc outside 0 to 1"),
        ("evaluated", "overlap", float("nan"), "overlap outside 0 to 1"),
        ("evaluated", "effect_size_low", 1.0, "interval of effect_size that ends"),
        ("evaluated", "above_random", 0.5, "a difference to random directions"),
    ],
)
def test_vectors_and_evaluations_that_cannot_be_are_found(
    tmp_path: Path, run: str, column: str, value: object, finding: str
) -> None:
    table = {"vectors": "trait_vectors", "evaluated": "trait_evaluations"}[run]
    row = {"trait": "loud", "layer": 0, "n_pos": 2, "n_neg": 2, "norm": 2.0, "vector": [0.6, 0.8, 0.0, 0.0]}
    assert not failed(synthetic.add_run(tmp_path, "sound", "trait-vectors", {table: [row]}))
    found = failed(synthetic.add_run(tmp_path, "wrong", "trait-vectors", {table: [row | {column: value}]}))
    assert list(found) == [table.replace("_", " ")] and re.search(finding, *found.values()), found
