"""What is exported and imported again has every array bit for bit, whatever the kind of model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zoo
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast

import capture
from capture import exports as capture_exports
from capture.verification.replay_check import recheck
from warehouse import TraceStore, Warehouse, exports
from warehouse.errors import UsageError
from warehouse.validation.validate import validate

EVERYTHING = ["resid", "hidden", "qkv", "attn", "attn_out", "mlp_out", "mlp_act"]
TEXTS = ["The lamp was lit every night.", "Rain."]


def imported(path: Path, root: Path, run: str = "back", **options: Any) -> TraceStore:
    store = capture.import_traces(path, run=run, root=root, **options)
    assert [c for c in validate(store.path) if c.passed is False] == []
    return store


def arrays(folder: Path) -> dict[tuple[str, str], np.ndarray]:
    found: dict[tuple[str, str], np.ndarray] = {}
    for file in folder.glob("*.npz"):
        with np.load(file) as f:
            found |= {(file.name, name): f[name] for name in f.files if name != "about"}
    return found


@pytest.mark.parametrize("run", ["llama", "gpt2"])
def test_arrays_of_every_site_come_back(tiny_root: Path, run: str, tmp_path: Path) -> None:
    with Warehouse(tiny_root) as wh:
        exports.npz(wh, run, tmp_path / "out", sites=EVERYTHING, where="idx < 3")
        meta = wh.run(run).meta
    back = imported(tmp_path / "out", tmp_path / "runs")
    assert back.meta.options["format"] == "npz"
    assert (back.meta.model.weights_hash, back.meta.model.n_layers) == (meta.model.weights_hash, meta.model.n_layers)
    with Warehouse(tmp_path / "runs") as wh:
        exports.npz(wh, "back", tmp_path / "again", sites=EVERYTHING)
    first, second = arrays(tmp_path / "out"), arrays(tmp_path / "again")
    assert set(first) == set(second) and len({name for name, _ in first}) == 3
    for key, array in first.items():
        assert array.dtype == second[key].dtype and np.array_equal(array, second[key]), key


@pytest.mark.parametrize("family", ["jamba", "t5", "bert"])
def test_models_without_attention_in_some_layers_and_encoders_come_back(
    family: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = capture.wrap(zoo.build(family, vocab_size=len(tokenizer)), tokenizer, name=family)
    capture_run = capture.next_token if family == "jamba" else capture.encode
    capture_run(model, TEXTS, keep="resid,hidden,qkv,attn", run="r", root=tmp_path / "runs")
    with Warehouse(tmp_path / "runs") as wh:
        sites = [s for s in EVERYTHING[:4] if not (s == "resid" and family == "bert")]
        exports.npz(wh, "r", tmp_path / "out", sites=sites)
    imported(tmp_path / "out", tmp_path / "runs")
    with Warehouse(tmp_path / "runs") as wh:
        exports.npz(wh, "back", tmp_path / "again", sites=sites)
    first, second = arrays(tmp_path / "out"), arrays(tmp_path / "again")
    assert set(first) == set(second)
    for key, array in first.items():
        assert np.array_equal(array, second[key]), key


@pytest.mark.parametrize("site", ["resid.post_mlp", "resid.pre_attn", "mlp_act"])
def test_rows_of_sae_lens_are_texts_with_their_states(tiny_root: Path, site: str, tmp_path: Path) -> None:
    with Warehouse(tiny_root) as wh:
        written = capture_exports.sae_activations(
            wh, "llama", tmp_path / "out", layers=[1, 2], site=site, context_size=8
        )
        store = wh.run("llama")
        back = imported(tmp_path / "out", tmp_path / "runs")
        assert (back.meta.options["format"], back.meta.counts.tokens) == ("sae-lens", written.rows * 8)
        assert back.meta.model.weights_hash == store.meta.model.weights_hash
        pieces = iter(back.query("SELECT example_id FROM examples ORDER BY idx").fetchall())
        for example in sorted(set(store.tokens.example_id)):
            ids = store.encodings(example)["input_ids"]
            for start in range(0, len(ids) // 8 * 8, 8):
                (piece,) = next(pieces)
                assert back.encodings(piece)["input_ids"].tolist() == ids[start : start + 8].tolist()
                for layer in (1, 2):
                    theirs, mine = _states(store, example, site, layer), _states(back, piece, site, layer)
                    assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs[start : start + 8])
        assert next(pieces, None) is None


def _states(store: TraceStore, example: str, site: str, layer: int) -> np.ndarray:
    if site == "mlp_act":
        return store.mlp_act(example, layer)
    if site == "resid.pre_attn":  # what leaves the layer before; one that is imported has no layer 0 to begin from
        return store.resid(example, "post_mlp", layer - 1)
    return store.resid(example, "post_mlp", layer)


def test_a_layer_alone_knows_how_many_there_are(tiny_root: Path, tmp_path: Path) -> None:
    with Warehouse(tiny_root) as wh:
        exports.transformer_lens(wh, "llama", tmp_path / "cache", sites=["resid.post_mlp", "hidden"], layers=[0])
        exports.npz(wh, "llama", tmp_path / "npz", sites=["hidden"], layers=[1])
    assert imported(tmp_path / "cache", tmp_path / "runs", "a").meta.model.n_layers == 3
    back = imported(tmp_path / "npz", tmp_path / "runs", "b")
    assert [(s.site, s.layers) for s in back.meta.sites] == [("resid.post_mlp", [0])]


@pytest.mark.slow
def test_the_model_that_a_file_names_is_run_again(real_root: Path, tmp_path: Path) -> None:
    """Attention too, which a model only tells when it computes it eagerly; but not of pieces, which had seen more than they have."""
    with Warehouse(real_root) as wh:
        exports.npz(wh, "real", tmp_path / "npz", sites=["resid", "attn"], layers=[3], where="idx < 2")
        exports.transformer_lens(wh, "real", tmp_path / "cache", sites=["attn"], layers=[3], where="idx < 2")
        capture_exports.sae_activations(wh, "real", tmp_path / "pieces", layers=[3], context_size=4)
    for source, names in (("npz", {"weights", "attention", "tensors"}), ("cache", {"weights", "attention", "tensors"})):
        checks = list(recheck(imported(tmp_path / source, tmp_path / "runs", source).path))
        assert all(c.passed for c in checks), checks
        assert {c.name.removeprefix("deep: ") for c in checks} == names
    (check,) = recheck(imported(tmp_path / "pieces", tmp_path / "runs", "pieces").path)
    assert check.passed is None and "pieces of longer ones" in check.detail


def damage_sae(folder: Path, what: str) -> None:
    (file,) = folder.glob("*.arrow")
    match what:
        case "truncated":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        case "no tokens" | "uneven":
            with pa.ipc.open_stream(file.read_bytes()) as reader:
                table = reader.read_all()
            table = (
                table.drop_columns(["token_ids"])
                if what == "no tokens"
                else table.set_column(
                    table.schema.get_field_index("token_ids"),
                    "token_ids",
                    pa.array([[1]] * (len(table) - 1) + [[1, 2]]),
                )
            )
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        case "missing":
            file.unlink()
        case "another folder":
            (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../x.arrow"}]}))


@pytest.mark.parametrize(
    "what, says",
    [
        ("truncated", "no whole file of a data set"),
        ("no tokens", "does not say which tokens"),
        ("uneven", "of several sizes"),
        ("missing", "No file"),
        ("another folder", "names no files of a data set"),
    ],
)
def test_a_damaged_data_set_is_one_line_and_no_run(tiny_root: Path, what: str, says: str, tmp_path: Path) -> None:
    with Warehouse(tiny_root) as wh:
        capture_exports.sae_activations(wh, "llama", tmp_path / "out", layers=[1], context_size=8)
    damage_sae(tmp_path / "out", what)
    with pytest.raises(UsageError, match=f"(?i){says}"):
        capture.import_traces(tmp_path / "out", run="no", root=tmp_path / "runs", format="sae-lens")
    assert not (tmp_path / "runs" / "no").exists()


@pytest.mark.parametrize("saved", [np.savez, np.savez_compressed])
def test_a_changed_byte_in_an_archive_is_found(saved: Any, tmp_path: Path) -> None:
    states = np.random.default_rng(0).standard_normal((1, 6, 8)).astype(np.float32)
    saved(tmp_path / "cache.npz", **{"blocks.0.hook_resid_post": states, "tokens": np.arange(6)[None]})
    back = imported(tmp_path / "cache.npz", tmp_path / "runs")
    (example,) = (e for (e,) in back.query("SELECT example_id FROM examples").fetchall())
    assert np.array_equal(back.resid(example, "post_mlp", 0), states[0])
    whole = bytearray((tmp_path / "cache.npz").read_bytes())
    whole[250] ^= 1
    (tmp_path / "cache.npz").write_bytes(whole)
    with pytest.raises(UsageError, match="cannot be read"):
        capture.import_traces(tmp_path / "cache.npz", run="no", root=tmp_path / "runs")


@pytest.mark.parametrize("name, value", [("token_ids", "1, 2"), ("token_ids", "[[1], [2, 3]]"), ("tokens", '"ab"')])
def test_metadata_that_are_no_list_are_one_line(name: str, value: str, tmp_path: Path) -> None:
    said = {"token_ids": "[1, 2]", name: value}
    save_file({"blocks.0.hook_resid_post": np.ones((1, 2, 4), np.float32)}, tmp_path / "c.safetensors", said)
    with pytest.raises(UsageError, match=f"metadata `{name}` that are no list"):
        capture.import_traces(tmp_path / "c.safetensors", run="no", root=tmp_path / "runs")


def test_another_file_is_no_tensor_of_means(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.ones((2, 3)))
    with pytest.raises(UsageError, match="is no single tensor of the shape"):
        capture.import_traces(tmp_path / "c.npz", run="no", root=tmp_path / "runs", format="trait-means")


def test_another_file_is_no_export_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", about=np.array("{}"), attn=np.zeros((1, 2, 3, 3), np.float32))
    with pytest.raises(UsageError, match="does not say which layers"):
        capture.import_traces(tmp_path / "x.npz", run="no", root=tmp_path / "runs")
