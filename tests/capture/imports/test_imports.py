"""Other tools' files as runs: every tensor is bit for bit what the file holds, and what cannot be read is one line and no run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from safetensors.numpy import save_file

import capture
from warehouse import TraceStore, Warehouse, exports
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

L, H, HK, T, D, W = 3, 4, 2, 6, 5, 8
"""Layers, heads, key-value heads, tokens, width of a head, width of the stream."""
LENGTHS = (6, 4)


def made(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def patterns(n: int, seed: int = 0, causal: bool = True) -> np.ndarray:
    """Rows of attention (n, H, T, T): over the tokens up to its own, or over those of the shortest text."""
    seen = np.tril(np.ones((T, T), bool)) if causal else np.arange(T) < min(LENGTHS)
    scores = np.where(seen, made(n, H, T, T, seed=seed), -np.inf)
    x = np.exp(scores)
    return (x / x.sum(-1, keepdims=True)).astype(np.float32)


def hooks(n: int = 2) -> dict[str, np.ndarray]:
    found = {"hook_embed": made(n, T, W, seed=1), "blocks.0.hook_resid_pre": made(n, T, W, seed=2)}
    for i in range(L):
        found |= {
            f"blocks.{i}.hook_resid_mid": made(n, T, W, seed=10 + i),
            f"blocks.{i}.hook_resid_post": made(n, T, W, seed=20 + i),
            f"blocks.{i}.attn.hook_q": made(n, T, H, D, seed=30 + i),
            f"blocks.{i}.attn.hook_rot_q": made(n, T, H, D, seed=40 + i),
            f"blocks.{i}.attn.hook_k": made(n, T, HK, D, seed=50 + i),
            f"blocks.{i}.attn.hook_pattern": patterns(n, seed=60 + i),
            f"blocks.{i}.attn.hook_z": made(n, T, H, D, seed=70 + i),
        }
    return found


def tensors(x: Any) -> Any:
    return {k: torch.from_numpy(v) for k, v in x.items()}


def imported(path: Path, root: Path, run: str = "i", **options: Any) -> TraceStore:
    store = capture.import_traces(path, run=run, root=root, **options)
    assert [c for c in validate(store.path) if c.passed is False] == []
    return store


def ids(store: TraceStore) -> list[str]:
    return [e for (e,) in store.query("SELECT example_id FROM examples ORDER BY idx").fetchall()]


TOKENS = np.arange(2 * T).reshape(2, T) + 3
MASK = np.arange(T) < np.asarray(LENGTHS)[:, None]


@pytest.mark.parametrize("ending", ["pt", "safetensors", "npz"])
def test_a_cache_of_transformer_lens_is_a_run_with_its_tensors(tmp_path: Path, ending: str) -> None:
    cache, path = hooks(), tmp_path / f"cache.{ending}"
    whole = cache | {"tokens": TOKENS, "attention_mask": MASK.astype(np.int64)}
    if ending == "pt":
        torch.save(tensors(whole), path)
    elif ending == "npz":
        np.savez(path, **whole)
    else:
        save_file(whole, path)
    store = imported(path, tmp_path / "runs")
    for row, (example, n) in enumerate(zip(ids(store), LENGTHS, strict=True)):
        assert store.encodings(example)["input_ids"].tolist() == TOKENS[row, :n].tolist()
        np.testing.assert_array_equal(store.resid(example, "embed"), cache["blocks.0.hook_resid_pre"][row, :n])
        for i in range(L):
            np.testing.assert_array_equal(
                store.resid(example, "post_attn", i), cache[f"blocks.{i}.hook_resid_mid"][row, :n]
            )
            np.testing.assert_array_equal(
                store.resid(example, "post_mlp", i), cache[f"blocks.{i}.hook_resid_post"][row, :n]
            )
            np.testing.assert_array_equal(
                store.qkv(example, "q", i), cache[f"blocks.{i}.attn.hook_rot_q"][row, :n].swapaxes(0, 1)
            )
            np.testing.assert_array_equal(
                store.attn(example, i), cache[f"blocks.{i}.attn.hook_pattern"][row, :, :n, :n]
            )
    assert store.meta.kind == "import"
    assert store.meta.options["format"] == "transformer-lens"
    assert "blocks.L.attn.hook_z: no site of ours" in store.meta.options["left_out"]
    assert (store.meta.model.name, store.meta.model.weights_hash) == ("unknown", "")
    assert (store.meta.model.n_layers, store.meta.model.n_heads, store.meta.model.n_kv_heads) == (L, H, HK)


def test_tokens_may_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    torch.save(tensors(hooks()), tmp_path / "cache.pt")
    (tmp_path / "tokens.json").write_text(json.dumps([TOKENS[0].tolist(), TOKENS[1, :4].tolist()]))
    np.save(tmp_path / "tokens.npy", TOKENS)
    store = imported(tmp_path / "cache.pt", tmp_path / "runs", tokens=tmp_path / "tokens.json")
    assert [store.encodings(e)["input_ids"].tolist() for e in ids(store)] == [
        TOKENS[0].tolist(),
        TOKENS[1, :4].tolist(),
    ]
    other = imported(tmp_path / "cache.pt", tmp_path / "runs", "j", tokens=tmp_path / "tokens.npy")
    assert other.meta.counts.tokens == 2 * T


def test_what_nnsight_saved_of_modules_is_a_run(tmp_path: Path) -> None:
    """Outputs of blocks, which are tuples in older models, of attention and MLP, under the names of transformers' modules."""
    saved: dict[str, Any] = {"model.embed_tokens.output": torch.from_numpy(made(1, T, W))}
    for i in range(L):
        saved[f"model.layers.{i}.output"] = (torch.from_numpy(made(1, T, W, seed=i + 1)),)
        saved[f"model.layers.{i}.mlp.output"] = torch.from_numpy(made(1, T, W, seed=i + 9)).bfloat16()
    saved |= {"input_ids": torch.arange(T)[None], "lm_head.output": torch.zeros(1, T, 20)}
    torch.save(saved, tmp_path / "saved.pt")
    store = imported(tmp_path / "saved.pt", tmp_path / "runs")
    (example,) = ids(store)
    assert store.meta.options["format"] == "nnsight"
    np.testing.assert_array_equal(store.resid(example, "embed"), made(1, T, W)[0])
    np.testing.assert_array_equal(store.resid(example, "post_mlp", 2), made(1, T, W, seed=3)[0])
    assert {s.dtype for s in store.meta.sites if s.site == "mlp_out"} == {"BF16"}
    expected = saved["model.layers.1.mlp.output"][0].float().numpy()
    np.testing.assert_array_equal(store.mlp_out(example, 1).astype(np.float32), expected)
    assert store.meta.options["left_out"] == ["lm_head.output: no site of ours"]


def test_hidden_states_of_a_server_are_layers_that_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    folder.mkdir()
    for n, length in enumerate((5, 3)):
        save_file(
            {"hidden_states": made(length, 3, W, seed=n), "token_ids": np.arange(length + 1)},
            folder / f"req-{n}.safetensors",
        )
    store = imported(folder, tmp_path / "runs", layers=[0, 2, 3])
    for n, example in enumerate(ids(store)):
        states = made((5, 3)[n], 3, W, seed=n)
        for place, layer in ((0, None), (1, 1), (2, 2)):
            mine = store.resid(example, "embed") if layer is None else store.resid(example, "post_mlp", layer)
            np.testing.assert_array_equal(mine, states[:, place])
    assert store.query("SELECT metadata FROM examples ORDER BY idx").fetchall()[0] == ('{"request": "req-0"}',)
    with pytest.raises(UsageError, match="does not say which: name those that the server saved"):
        capture.import_traces(folder, run="no", root=tmp_path / "runs")
    with pytest.raises(UsageError, match="has states of 3 layers; layers names 2|--layers names 2"):
        capture.import_traces(folder, run="no", root=tmp_path / "runs", layers=[1, 2])


def padded(
    folder: Path, choices: int = 0, causal: bool = True, side: str = "dec", **other: Any
) -> dict[str, np.ndarray]:
    """Writes padded stores; returns their arrays by site, (N, …) or (N, C, …)."""
    lead = (2, choices) if choices else (2,)
    states = made(*lead, L + 1, T, W, seed=1)
    arrays = {
        "attn": patterns(2 * max(choices, 1), causal=causal).reshape(*lead, 1, H, T, T).repeat(L, len(lead)),
        "q": made(*lead, L, H, T, D, seed=2), "k": made(*lead, L, HK, T, D, seed=3), "v": made(*lead, L, HK, T, D, seed=4),
        "h": states.copy(), "embed": states[..., 0, :, :], "pre_attn": states[..., :L, :, :],
        "post_attn": made(*lead, L, T, W, seed=5),
        "post_mlp": np.concatenate([states[..., 1:L, :, :], made(*lead, 1, T, W, seed=6)], len(lead)),
    }  # fmt: skip
    arrays |= other
    prefix = f"{side}_" + ("mc_" if choices else "")
    stores = {
        "self_attn": ("attn",), "self_qkv": ("q", "k", "v"), "hidden": ("h",),
        **{f"res_{stage}": (stage,) for stage in ("embed", "pre_attn", "post_attn", "post_mlp")},
    }  # fmt: skip
    for store, names in stores.items():
        group = zarr.open_group(str(folder / f"{prefix}{store}.zarr"), mode="w")
        for name in names:
            if arrays[name] is not None:
                x = arrays[name].astype(np.float16)
                inside = "x" if store.startswith("res_") else name
                group.create_array(inside, data=x, chunks=(1, *x.shape[1:]))
    encodings: list[Any] = [
        {"input_ids": TOKENS[n].tolist(), "attention_mask": MASK[n].astype(int).tolist()} for n in range(2)
    ]
    if choices:
        encodings = [[e] * choices for e in encodings]
    rows = [
        {"example_id": f"t{n}", "text": f"text {n}", "encodings": json.dumps(e), "prediction": n}
        for n, e in enumerate(encodings)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "tokens.parquet")
    (folder / "meta.json").write_text(json.dumps({"model": "tiny", "dataset": "decisions"}))
    return {k: v.astype(np.float16) for k, v in arrays.items() if v is not None}


def test_padded_stores_are_a_run_without_padding_and_with_each_state_once(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    arrays = padded(folder)
    store = imported(folder, tmp_path / "runs")
    for row, (example, n) in enumerate(zip(ids(store), LENGTHS, strict=True)):
        assert store.encodings(example)["input_ids"].tolist() == TOKENS[row, :n].tolist()
        np.testing.assert_array_equal(store.hidden(example), arrays["h"][row, :, :n])
        for i in range(L):
            np.testing.assert_array_equal(store.attn(example, i), arrays["attn"][row, i, :, :n, :n])
            np.testing.assert_array_equal(store.qkv(example, "q", i), arrays["q"][row, i, :, :n])
            np.testing.assert_array_equal(store.resid(example, "pre_attn", i), arrays["pre_attn"][row, i, :n])
            np.testing.assert_array_equal(store.resid(example, "post_mlp", i), arrays["post_mlp"][row, i, :n])
    assert "resid.pre_attn" not in {s.site for s in store.meta.sites}
    assert store.query("SELECT dataset, text, metadata FROM examples ORDER BY idx").fetchall()[1] == (
        "decisions", "text 1", '{"example_id": "t1", "prediction": 1}',
    )  # fmt: skip
    assert store.meta.model.name == "tiny"


def test_stores_with_choices_have_a_sequence_a_choice(tmp_path: Path) -> None:
    folder = tmp_path / "mc"
    folder.mkdir()
    arrays = padded(folder, choices=2, causal=False, side="enc")
    store = imported(folder, tmp_path / "runs")
    assert store.meta.model.side == "enc"
    for row, (example, n) in enumerate(zip(ids(store), LENGTHS, strict=True)):
        for seq in (0, 1):
            np.testing.assert_array_equal(store.attn(example, 1, seq=seq), arrays["attn"][row, seq, 1, :, :n, :n])
            np.testing.assert_array_equal(
                store.resid(example, "post_mlp", 2, seq=seq), arrays["post_mlp"][row, seq, 2, :n]
            )


def test_a_store_that_contradicts_another_is_refused(tmp_path: Path) -> None:
    for name, array in (("pre_attn", made(2, L, T, W, seed=9)), ("embed", made(2, T, W, seed=9))):
        folder = tmp_path / name
        folder.mkdir()
        padded(folder, **{name: array})
        with pytest.raises(UsageError, match="is not what .* says, though both are of the same states"):
            capture.import_traces(folder, run="no", root=tmp_path / "runs")
    folder = tmp_path / "short"
    folder.mkdir()
    padded(folder, post_attn=made(2, L + 1, T, W))
    with pytest.raises(UsageError, match="do not belong together"):
        capture.import_traces(folder, run="no", root=tmp_path / "runs")


def test_an_import_of_an_export_is_what_was_exported(
    tmp_path: Path, tiny_root: Path, load_tiny: Callable[..., Any]
) -> None:
    with Warehouse(tiny_root) as wh:
        exports.transformer_lens(wh, "llama", tmp_path / "cache")
    before, after = TraceStore(run_dir(tiny_root, "llama")), imported(tmp_path / "cache", tmp_path / "runs")
    assert sorted(ids(after)) == sorted(ids(before))
    for example in ids(before):
        assert after.encodings(example)["input_ids"].tolist() == before.encodings(example)["input_ids"].tolist()
        for layer in range(before.meta.model.n_layers):
            for stage in ("post_attn", "post_mlp"):
                np.testing.assert_array_equal(after.resid(example, stage, layer), before.resid(example, stage, layer))
            for name in ("q", "k", "v"):
                np.testing.assert_array_equal(after.qkv(example, name, layer), before.qkv(example, name, layer))
            for name in ("attn", "attn_out", "mlp_act"):
                mine, other = (getattr(s, name)(example, layer) for s in (after, before))
                np.testing.assert_array_equal(np.asarray(mine, np.float32), np.asarray(other, np.float32))
        np.testing.assert_array_equal(after.hidden(example), before.hidden(example))
    assert after.meta.model.weights_hash == before.meta.model.weights_hash
    assert after.meta.options["from"]["run_id"] == "llama"


def test_a_tokenizer_gives_texts_and_places(
    tmp_path: Path, tiny_root: Path, tiny_folder: Callable[[str], Path]
) -> None:
    """With the model's own tokenizer a text is the one that was captured, and each token stands where it stood."""
    before = TraceStore(run_dir(tiny_root, "llama"))
    example = ids(before)[0]
    tokens = before.encodings(example)["input_ids"]
    torch.save(
        {
            "blocks.0.hook_resid_post": torch.zeros(1, len(tokens), W),
            "tokens": torch.from_numpy(tokens.astype(np.int64))[None],
        },
        tmp_path / "c.pt",
    )
    store = imported(tmp_path / "c.pt", tmp_path / "runs", tokenizer=str(tiny_folder("llama")))
    columns = "SELECT token, char_start, char_end, is_special FROM tokens WHERE example_id = ? ORDER BY pos"
    (here,) = ids(store)
    assert store.query(columns, [here]).fetchall() == before.query(columns, [example]).fetchall()


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_files_that_are_none_are_one_line_and_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    whole = tensors(hooks() | {"tokens": TOKENS})

    def refused(name: str, said: str, **options: Any) -> None:
        with pytest.raises(TracesError, match=said) as caught:
            capture.import_traces(tmp_path / name, run="no", root=root, **options)
        assert "\n" not in str(caught.value)
        assert not run_dir(root, "no").exists()
        assert not list(root.glob(".staging/*"))

    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    refused("evil.pt", "holds Python objects, which would have to be executed")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Evil()))
    refused("pickle.pt", "holds Python objects|is no whole file")
    assert not (tmp_path / "executed").exists()
    torch.save(whole, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    refused("cut.pt", "cut.pt")
    save_file(hooks(), tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-9])
    refused("cut.safetensors", "no whole safetensors file")
    refused("whole.safetensors", "does not say which tokens it is of")
    refused("none.pt", "No file")
    (tmp_path / "empty").mkdir()
    refused("empty", "has neither padded Zarr stores nor files with tensors")
    (tmp_path / "a.bin").write_bytes(b"x")
    refused("a.bin", "tensors are read from")
    torch.save({"weights": torch.zeros(3), "tokens": torch.zeros(1, 3).long()}, tmp_path / "weights.pt")
    refused("weights.pt", "has no tensor with a name of TransformerLens .* it has weights")
    torch.save(whole | {"tokens": torch.zeros(2, T + 1).long()}, tmp_path / "long.pt")
    refused("long.pt", "has tokens of the shape")
    torch.save(whole | {"blocks.1.hook_resid_post": torch.full((2, T, W), torch.nan)}, tmp_path / "nan.pt")
    refused("nan.pt", r"resid\.post_mlp\.L01 holds NaN or infinity")
    torch.save(whole | {"blocks.1.hook_resid_post": torch.zeros(2, T - 1, W)}, tmp_path / "ragged.pt")
    refused("ragged.pt", "batches of several shapes")
    refused("whole.pt", "is not for files of the format", layers=[1])
    with pytest.raises(NotFoundError, match="No format 'pt'"):
        capture.import_traces(tmp_path / "whole.pt", run="no", root=root, format="pt")
    old = tmp_path / "old"
    old.mkdir()
    padded(old)
    (old / "tokens.parquet").unlink()
    refused("old", "has no tokens.parquet")
    other = tmp_path / "other"
    other.mkdir()
    padded(other)
    for chunk in sorted((other / "dec_self_qkv.zarr" / "k" / "c").rglob("*")):
        if chunk.is_file():
            chunk.write_bytes(b"not a chunk")
    refused("other", "k of text 0 cannot be read")


@pytest.mark.parametrize("changed", [False, True])
def test_an_import_that_was_stopped_goes_on_unless_its_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    from capture.imports import import_run

    monkeypatch.setattr(import_run, "_SHARD_BYTES", 1)  # a shard a text
    path, root, read = tmp_path / "cache.pt", tmp_path / "runs", import_run._Maker.recorded
    torch.save(tensors(hooks() | {"tokens": TOKENS}), path)

    def fails(maker: Any, example: Any, source: Any) -> Any:
        if source.source_id == "1":
            raise KeyboardInterrupt
        return read(maker, example, source)

    monkeypatch.setattr(import_run._Maker, "recorded", fails)
    with pytest.raises(KeyboardInterrupt):
        capture.import_traces(path, run="i", root=root)
    monkeypatch.setattr(import_run._Maker, "recorded", read)
    if changed:
        torch.save(tensors(hooks() | {"tokens": TOKENS + 1}), path)
        with pytest.raises(UsageError, match="is not what it was when the import 'i' began"):
            capture.import_traces(path, run="i", root=root)
        return
    whole = imported(path, tmp_path / "whole")
    store = imported(path, root)
    for example in ids(whole):
        np.testing.assert_array_equal(store.resid(example, "post_mlp", 1), whole.resid(example, "post_mlp", 1))
    assert len(list(store.path.glob("blobs/*"))) == 2


def test_the_command_says_what_it_will_import_and_what_it_did(
    traces: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    torch.save(tensors(hooks() | {"tokens": TOKENS}), tmp_path / "cache.pt")
    run = ("import", tmp_path / "cache.pt", "--run", "cached", "--warehouse", tmp_path / "runs")
    plan = traces(*run, "--dry-run")
    assert (plan.code, plan.err) == (0, "")
    assert plan.out.splitlines()[0] == f"transformer-lens: 2 texts, {2 * T} tokens"
    assert "resid.post_mlp (3 layers)" in plan.out
    assert not (tmp_path / "runs").exists()
    done = traces(*run)
    assert done.code == 0, done.err
    assert f"cached: 2 examples, {2 * T} tokens" in done.out
    again = traces(*run)
    assert again.code == 2
    assert "cached" in again.err
    shown = traces("runs", "show", "cached", "--warehouse", tmp_path / "runs")
    assert shown.code == 0, shown.err
    assert "import" in shown.out
