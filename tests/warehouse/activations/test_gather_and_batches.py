"""Vectors that SQL picks, and batches of them: each row is the stored one, whatever the order, the run, the shard."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
import synthetic

from warehouse import TraceStore, Warehouse
from warehouse.activations.batches import Batches
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage import paths

LENGTHS = [13, 1, 40, 7, 29, 64, 5] * 30
N = sum(LENGTHS)
D = 6


def numbered(first: int = 0) -> np.ndarray:
    """Make rows whose columns 0 and 1 are the row's number."""
    x = np.zeros((N, D), np.float16)
    n = np.arange(N) + first
    x[:, 0], x[:, 1] = n // 1000, n % 1000
    return x


def number(rows: np.ndarray) -> np.ndarray:
    return (rows[:, 0].astype(int) * 1000 + rows[:, 1].astype(int)).astype(int)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("matrix") / "runs"
    for i, run in enumerate(("one", "two")):
        losses = np.random.default_rng(i).uniform(0, 10, N)
        synthetic.add_vectors(home, run, {1: numbered(i * N)}, LENGTHS, losses=losses, shards=3)
    return home


@pytest.fixture(scope="module")
def wh(root: Path):
    with Warehouse(root) as found:
        yield found


def places(keys) -> np.ndarray:
    """Return the number of the row that a key names."""
    starts = np.concatenate([[0], np.cumsum(LENGTHS)[:-1]])
    run = np.where(np.asarray(keys["run_id"]) == "two", N, 0)
    return run + starts[[int(e[1:]) for e in keys["example_id"]]] + np.asarray(keys["pos"])


@pytest.mark.parametrize(
    "query",
    [
        "SELECT run_id, example_id, seq, pos FROM tokens",
        "SELECT run_id, example_id, seq, pos, loss FROM token_diagnostics ORDER BY loss DESC",
        "SELECT pos, seq, example_id, run_id FROM next_token WHERE run_id = 'two' AND loss > 5 ORDER BY hash(example_id, pos)",
        "SELECT run_id, example_id, seq, 2::UTINYINT AS pos FROM examples, range(3) AS t(seq) WHERE n_tokens > 2 AND seq = 0",
        "SELECT run_id, example_id, seq, pos FROM tokens WHERE example_id = 'e0005' AND run_id = 'one' UNION ALL "
        "SELECT run_id, example_id, seq, pos FROM tokens WHERE example_id = 'e0005'",
        "SELECT run_id, example_id, seq, pos FROM tokens LIMIT 1",
    ],
)
def test_rows_belong_to_their_keys_in_the_querys_order(wh: Warehouse, query: str) -> None:
    x, keys = wh.matrix(query, layer=1)
    assert x.dtype == np.float16 and x.shape == (len(keys), D)
    np.testing.assert_array_equal(number(x), places(keys))
    assert list(keys.columns) == wh.sql(query).columns
    if "ORDER BY loss" in query:
        assert (np.diff(keys["loss"]) <= 0).all()


def test_every_site_with_a_vector_a_token(tiny_root: Path) -> None:
    with Warehouse(tiny_root) as wh:
        store = wh.run("llama")
        query = "SELECT run_id, example_id, seq, pos FROM tokens WHERE run_id = 'llama' ORDER BY hash(example_id, pos)"
        for site, layer, get in (
            ("resid.embed", None, lambda e: store.resid(e, "embed")),
            ("resid.pre_attn", 0, lambda e: store.resid(e, "pre_attn", 0)),
            ("resid.pre_attn", 2, lambda e: store.resid(e, "pre_attn", 2)),
            ("resid.post_attn", 1, lambda e: store.resid(e, "post_attn", 1)),
            ("hidden", 3, lambda e: store.hidden(e, 3)),
            ("hidden", 1, lambda e: store.hidden(e, 1)),
            ("mlp_act", 1, lambda e: store.mlp_act(e, 1)),
        ):
            x, keys = wh.matrix(query, site=site, layer=layer)
            for row, e, pos in zip(x[:50], keys.example_id, keys.pos, strict=False):
                np.testing.assert_array_equal(row, get(e)[pos])
        q, keys = wh.matrix(query, site="q", layer=1)
        assert q.shape[1:] == (4, 8)
        k, _ = wh.matrix(query, site="k", layer=1, head=3, dtype=np.float32)
        assert k.dtype == np.float32
        for row, heads, e, pos in zip(k[:50], q[:50], keys.example_id, keys.pos, strict=False):
            np.testing.assert_array_equal(row, store.qkv(e, "k", 1, 3)[pos])
            np.testing.assert_array_equal(heads[2], store.qkv(e, "q", 1, 2)[pos])


def test_runs_in_different_dtypes_come_as_float32(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
    for run, dtype in (("half", np.float16), ("brain", ml_dtypes.bfloat16)):
        synthetic.add_vectors(tmp_path, run, {1: x.astype(dtype)}, LENGTHS)
    with Warehouse(tmp_path) as wh:
        found, keys = wh.matrix("SELECT run_id, example_id, seq, pos FROM tokens ORDER BY pos, run_id", layer=1)
        at = places(keys.assign(run_id="one"))
        half = (keys.run_id == "half").to_numpy()
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found[half], x[at[half]].astype(np.float16).astype(np.float32))
        np.testing.assert_array_equal(found[~half], x[at[~half]].astype(ml_dtypes.bfloat16).astype(np.float32))
        brain = "SELECT run_id, example_id, seq, pos FROM tokens WHERE run_id = 'brain'"
        assert wh.matrix(brain, layer=1)[0].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("query", "more", "error", "words"),
    [
        (
            "SELECT run_id, example_id, seq, pos + 0.5 AS pos FROM tokens",
            {},
            UsageError,
            "gives a pos that cannot be one",
        ),
        ("SELECT run_id, example_id, seq + 1000000000000 AS seq, pos FROM tokens", {}, NotFoundError, "No seq"),
        ("FROM tokens", {"site": "resid.mlp"}, NotFoundError, "Did you mean"),
        ("FROM tokens", {"site": "attn"}, UsageError, "no vector for each token"),
        ("SELECT run_id, pos FROM tokens", {}, UsageError, "gives no example_id, seq"),
        ("SELECT NULL::VARCHAR AS run_id, example_id, seq, pos FROM tokens", {}, UsageError, "run_id is NULL"),
        ("SELECT * FROM tokens WHERE false", {}, UsageError, "picks no tokens"),
        ("SELECT run_id, example_id, seq, pos + 500 AS pos FROM tokens", {}, UsageError, "has positions 0 to"),
        ("SELECT run_id, example_id, seq, pos - 50 AS pos FROM tokens", {}, UsageError, "has positions 0 to"),
        ("SELECT run_id, 'nobody' AS example_id, seq, pos FROM tokens", {}, NotFoundError, "No example 'nobody'"),
        ("SELECT run_id, example_id, seq + 1 AS seq, pos FROM tokens", {}, NotFoundError, "No seq '1'"),
        ("SELECT run_id, example_id, seq - 1 AS seq, pos FROM tokens", {}, NotFoundError, "No seq '-1'"),
        ("SELECT 'three' AS run_id, example_id, seq, pos FROM tokens", {}, NotFoundError, "No run 'three'"),
        ("FROM tokens", {"layer": 3}, UsageError, "in layer 3"),
        ("FROM tokens", {"layer": 4}, UsageError, "layers 0 to 3"),
        ("FROM tokens", {"layer": None}, UsageError, "has layers: say which"),
        ("FROM tokens", {"site": "q"}, UsageError, "did not store q"),
        ("FROM tokens", {"head": 0}, UsageError, "has no heads"),
        ("FROM tokens", {"side": "enc"}, UsageError, "no encoder side"),
        ("SET VARIABLE x = 1", {}, UsageError, "One SELECT is needed"),
    ],
)
def test_bad_queries_are_told_what_is_wrong(wh: Warehouse, query: str, more: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        wh.matrix(query, **({"layer": 1} | more))


def test_runs_of_other_widths_or_groups_have_no_matrix_together(tmp_path: Path) -> None:
    for run, width, heads in (("narrow", 4, 1), ("wide", 8, 2)):
        synthetic.add_vectors(tmp_path, run, {1: np.ones((5, width), np.float16)}, [2, 3], body=run)
        synthetic.add_vectors(tmp_path, f"{run}-k", {1: np.ones((5, heads, 4), np.float16)}, [2, 3], site="k", body=run)
    with Warehouse(tmp_path) as wh:
        for site, words in (("resid.post_mlp", r"(4,) in run 'narrow' and (8,) in run 'wide'"), ("k", "(1, 4) in run")):
            of = "LIKE '%-k'" if site == "k" else "NOT LIKE '%-k'"
            query = f"SELECT run_id, example_id, seq, pos FROM tokens WHERE run_id {of} ORDER BY run_id"
            with pytest.raises(UsageError, match=re.escape(words)):
                wh.matrix(query, site=site, layer=1)
        with pytest.raises(UsageError, match="Head 3 reads another K/V head of k in each run"):
            wh.matrix(query, site="k", layer=1, head=3)
        assert wh.matrix(f"{query} LIMIT 5", site="k", layer=1, head=3)[0].shape == (5, 4)


# -- batches -----------------------------------------------------------------------------------------------------------


def passed(batches: Batches) -> np.ndarray:
    return np.concatenate([number(x) for x in batches])


@pytest.mark.parametrize("size", [1, 100, 999, 10_000])
def test_batches_in_order_are_all_that_is_stored(wh: Warehouse, size: int) -> None:
    batches = wh.batches(layer=1, size=size, buffer=max(size, 700))
    found = list(batches)
    assert len(batches) == len(found) and {len(x) for x in found[:-1]} <= {size} and 0 < len(found[-1]) <= size
    np.testing.assert_array_equal(np.concatenate([number(x) for x in found]), np.arange(2 * N))


@pytest.mark.parametrize("where", [None, "run_id = 'two' AND loss > 5", "pos % 3 = 1", "example_id = 'e0004'"])
@pytest.mark.parametrize("buffer", [64, 3000, 100_000])
def test_shuffled_batches_have_every_row_once_and_its_key(wh: Warehouse, where: str | None, buffer: int) -> None:
    batches = wh.batches(layer=1, size=64, buffer=buffer, shuffle=True, where=where)
    wanted = np.sort(places(wh.sql(f"SELECT * FROM token_diagnostics WHERE {where or 'true'}").df()))
    first = passed(batches)
    np.testing.assert_array_equal(np.sort(first), wanted)
    second, keys = [], []
    for batch in batches.with_keys():
        second.append(number(batch.vectors))
        keys.append(batch.keys)
    np.testing.assert_array_equal(np.concatenate(second), places(pa.concat_tables(keys).to_pandas()))
    np.testing.assert_array_equal(np.sort(np.concatenate(second)), wanted)
    if len(wanted) > 64:
        assert (np.concatenate(second) != first).any()  # another order each pass
    again = wh.batches(layer=1, size=64, buffer=buffer, shuffle=True, where=where)
    np.testing.assert_array_equal(passed(again), first)  # and the same for the same seed
    beside = wh.batches(layer=1, size=64, buffer=buffer, shuffle=True, where=where)
    pairs = list(zip(beside, beside, strict=True))  # two passes at once
    np.testing.assert_array_equal(np.concatenate([number(x) for x, _ in pairs]), first)
    if len(wanted) > 64:
        other = wh.batches(layer=1, size=64, buffer=buffer, shuffle=True, where=where, seed=1)
        assert (passed(other) != first).any()


def test_shuffling_mixes_examples_shards_and_runs(tmp_path: Path) -> None:
    """A batch holds about as many examples and shards as with a true permutation, and neighbours rarely stay neighbours."""
    lengths = [50] * 800
    n = sum(lengths)
    for run in ("one", "two"):
        synthetic.add_vectors(tmp_path, run, {1: np.zeros((n, 2), np.float16)}, lengths, shards=4)
    with Warehouse(tmp_path) as wh:
        batches = wh.batches(layer=1, size=512, shuffle=True, buffer=16_384)
        permuted = np.random.default_rng(0).permutation(2 * n)[: 512 * 10].reshape(10, 512)
        truly = np.mean([len(np.unique(p // 50)) for p in permuted])
        batch_means, together = [], []
        for number_of, batch in zip(range(10), batches.with_keys(), strict=False):
            keys = batch.keys.to_pandas()
            example = keys.run_id + keys.example_id
            assert example.nunique() > 0.65 * truly, number_of  # a window is a fifth of all
            assert 0.3 < (keys.run_id == "one").mean() < 0.7
            batch_means.append(keys.example_id.str[1:].astype(int).mean())
            together.append((example.to_numpy()[1:] == example.to_numpy()[:-1]).mean())
        assert np.std(batch_means) < 30 and abs(np.mean(batch_means) - 400) < 20  # every batch is of the whole run
        assert np.mean(together) < 0.03  # in a true permutation one in 1,600, by shard one in 200; in order 98 in 100


@pytest.mark.parametrize(
    "keep", [lambda x: x, lambda x: x[:40], lambda x: memoryview(x)], ids=["array", "view", "buffer"]
)
def test_a_kept_batch_is_never_overwritten(wh: Warehouse, keep: Callable[[np.ndarray], Any]) -> None:
    """Whatever part of every third batch is kept, it is still what it was when the pass has ended."""
    batches = wh.batches(layer=1, size=64, shuffle=True)
    kept = []
    for i, batch in enumerate(batches):
        if i % 3 == 0:
            kept.append((keep(batch), np.array(keep(batch))))
    assert len(kept) > 5
    for was_kept, copy in kept:
        np.testing.assert_array_equal(np.asarray(was_kept), copy)


def test_memory_of_batches_that_nobody_holds_is_used_again(wh: Warehouse) -> None:
    places = {x.__array_interface__["data"][0] for x in wh.batches(layer=1, size=64)}
    assert len(places) == 2  # one is held by the loop while the next is read


def test_memory_holds_no_vectors_but_a_batch(wh: Warehouse) -> None:
    """Between batches the object keeps a few numbers per stretch, and no vector."""
    batches = wh.batches(layer=1, size=64, shuffle=True)
    kept = sum(getattr(batches.spans, f).nbytes for f in batches.spans.__dataclass_fields__)
    assert kept <= 40 * len(LENGTHS) * 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"layer": 3}, "stored resid.post_mlp in layer 3"),
        ({"layer": 9}, "layers 0 to 3"),
        ({"size": 0}, "at least one token"),
        ({"size": 100, "buffer": 50}, "buffer at least a batch"),
        ({"where": "false"}, "leaves no tokens"),
        ({"where": "false) OR (true"}, "not SQL"),
        ({"where": "nonsense"}, "nonsense"),
        ({"model": "gpt5"}, "No run of gpt5 stored"),
        ({"head": 1}, "has no heads"),
    ],
)
def test_batches_that_cannot_be_are_told_why(wh: Warehouse, more: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        wh.batches(**({"layer": 1} | more))


def test_models_with_other_weights_are_not_mixed(tmp_path: Path) -> None:
    synthetic.add_vectors(tmp_path, "one", {1: numbered()}, LENGTHS)
    synthetic.add_vectors(tmp_path, "tuned", {1: numbered()}, LENGTHS, body="another", model="tuned")
    with Warehouse(tmp_path) as wh:
        with pytest.raises(UsageError, match=r"different weights \(made, tuned\)"):
            wh.batches(layer=1)
        assert wh.batches(layer=1, model="tuned").runs == ["tuned"]


def test_torch_and_datasets_see_the_same_vectors(root: Path) -> None:
    import torch
    from torch.utils.data import DataLoader

    from capture.training.torch_batches import TorchBatches, as_dataset

    with Warehouse(root) as wh:
        batches = wh.batches(layer=1, size=500, shuffle=True, where="run_id = 'one'")
        for workers in (0, 2):
            loader = DataLoader(TorchBatches(batches), batch_size=None, num_workers=workers)
            found = list(loader)
            assert all(isinstance(x, torch.Tensor) and x.dtype == torch.float16 for x in found)
            np.testing.assert_array_equal(np.sort(number(torch.cat(found).numpy())), np.arange(N))
        loader = DataLoader(TorchBatches(batches), batch_size=None, num_workers=1, persistent_workers=True)
        one, other = (torch.cat(list(loader)) for _ in range(2))
        assert (one != other).any() and (np.sort(number(one.numpy())) == np.sort(number(other.numpy()))).all()
        dataset = as_dataset(batches)
        assert len(dataset) == N
        row = dataset[17]
        assert number(row["vector"][None])[0] == places({k: [row[k]] for k in ("run_id", "example_id", "pos")})[0]
        chosen = dataset.shuffle(seed=0).select(range(40))
        rows = chosen[:]
        np.testing.assert_array_equal(number(np.stack(rows["vector"])), places(rows))


def test_bfloat16_reaches_torch_as_such(tmp_path: Path) -> None:
    import torch

    from capture.training.torch_batches import TorchBatches

    x = np.random.default_rng(0).standard_normal((N, D)).astype(ml_dtypes.bfloat16)
    synthetic.add_vectors(tmp_path, "brain", {1: x}, LENGTHS)
    with Warehouse(tmp_path) as wh:
        found = torch.cat(list(TorchBatches(wh.batches(layer=1))))
    assert found.dtype == torch.bfloat16
    np.testing.assert_array_equal(found.float().numpy(), x.astype(np.float32))


def test_a_store_says_where_rows_lie(root: Path) -> None:
    store = TraceStore(paths.run_dir(root, "one"))
    slices = store.slices(store.key("resid.post_mlp", 1))
    assert [s.end - s.start for s in slices] == LENGTHS and len({s.blob for s in slices}) == 3


def test_batches_of_some_runs_and_some_sequences(wh: Warehouse) -> None:
    of_two = wh.batches(layer=1, size=500, runs=["two"])
    assert of_two.runs == ["two"] and of_two.tokens == N
    assert np.array_equal(number(np.concatenate(list(of_two))), np.arange(N) + N)
    chosen = np.arange(len(of_two.sequences)) % 3 == 0
    parts = [of_two.of_sequences(chosen), of_two.of_sequences(~chosen)]
    assert sum(part.tokens for part in parts) == N
    assert not set(parts[0].keys()["example_id"].to_pylist()) & set(parts[1].keys()["example_id"].to_pylist())
    with pytest.raises(NotFoundError, match="No run 'three'"):
        wh.batches(layer=1, runs=["one", "three"])
