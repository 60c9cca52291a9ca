"""A run's states through sparse dictionaries: what is active where, in both orders, whole, in parts, and gone on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch

import capture
from capture.features import encode_run, state_encoder
from capture.features.dictionary import Dictionary
from warehouse import TraceStore, Warehouse
from warehouse.errors import UncertainResultWarning, UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.storage import paths
from warehouse.validation.validate import validate


def random_dictionary(
    name: str, width: int, *, n: int = 48, hook: str = "blocks.1.hook_resid_post", **more
) -> Dictionary:
    """Of as many random directions as `n`, top-k unless `more` says otherwise."""
    of = torch.Generator().manual_seed(len(name) + n)
    directions = torch.nn.functional.normalize(torch.randn(n, width, generator=of), dim=1)
    weights = {
        "W_enc": directions.T.contiguous(),
        "W_dec": directions,
        "b_enc": torch.randn(n, generator=of) / 10,
        "b_dec": torch.randn(width, generator=of) / 10,
    }
    options = {"architecture": "topk", "k": 5} | more
    return Dictionary(name, weights=weights, hook_name=hook, **options)


@pytest.fixture(scope="module")
def width(tiny_root: Path) -> int:
    return TraceStore(paths.run_dir(tiny_root, "llama")).meta.model.stack("dec").d_model


@pytest.fixture
def root(tmp_path: Path, tiny_root: Path) -> Path:
    """A warehouse with the tiny Llama's run."""
    import shutil

    shutil.copytree(paths.run_dir(tiny_root, "llama"), paths.run_dir(tmp_path, "llama"))
    return tmp_path


def pair(width: int) -> list[Dictionary]:
    return [random_dictionary("b", width), random_dictionary("a", width, architecture="standard", k=None, n=20)]


def states(
    store: TraceStore, site: str = "resid.post_mlp", layer: int | None = 1
) -> dict[tuple[str, int], torch.Tensor]:
    key = store.key(site, layer)
    return {
        (s.example_id, s.seq): torch.from_numpy(np.array(store.rows(key, s.example_id, s.seq), np.float32))
        for s in store.slices(key)
    }


def rows(store: TraceStore, table: str, columns: str) -> list[tuple]:
    return store.query(f"SELECT {columns} FROM {table} ORDER BY ALL").fetchall()


def test_every_active_feature_and_no_other_is_a_row(root: Path, width: int) -> None:
    source = TraceStore(paths.run_dir(root, "llama"))
    store = capture.encode_features(source, pair(width))
    expected = []
    for d in pair(width):
        for (example, seq), x in states(source).items():
            z = d.encode(x)
            for pos, feature in z.nonzero().tolist():
                expected.append((example, seq, pos, 1, d.name, feature))
    keys = "example_id, seq, pos, layer, sae, feature"
    assert [r[:6] for r in rows(store, "features", f"{keys}, activation")] == sorted(expected)
    assert rows(store, "features", f"{keys}, activation") == rows(store, "feature_tokens", f"{keys}, activation")
    # The values: one state at a time is multiplied in another order than many.
    for d in pair(width):
        for (example, seq), x in states(source).items():
            found = store.query(
                "SELECT pos, feature, activation FROM features WHERE sae = ? AND example_id = ? AND seq = ?",
                [d.name, example, seq],
            ).fetchnumpy()
            z = torch.zeros(len(x), d.n_features)
            z[found["pos"], found["feature"]] = torch.from_numpy(found["activation"])
            torch.testing.assert_close(z, d.encode(x), rtol=1e-5, atol=1e-6)
    assert not [check for check in validate(store.path) if check.passed is False]


def test_files_are_in_the_order_of_their_keys(root: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_run, "_SHARD_ROWS", 200)
    monkeypatch.setattr(encode_run, "_PIECE_TOKENS", 30)
    store = capture.encode_features(TraceStore(paths.run_dir(root, "llama")), pair(width))
    for table, keys in (
        ("features", "example_id, seq, pos, sae, feature"),
        ("feature_tokens", "sae, feature, example_id, seq, pos"),
        ("reconstructions", "example_id, seq, pos, sae"),
    ):
        file = store.path / paths.table_file(table)
        as_stored = duckdb.sql(f"SELECT {keys} FROM '{file}'").fetchall()
        assert len(as_stored) > 100 and as_stored == sorted(as_stored), table


def test_what_is_given_back_is_measured_against_the_state(root: Path, width: int) -> None:
    source = TraceStore(paths.run_dir(root, "llama"))
    store = capture.encode_features(source, pair(width))
    special = set(source.query("SELECT example_id, seq, pos FROM tokens WHERE is_special").fetchall())
    x = states(source)
    counted = [
        row for (e, s), rows in x.items() for pos, row in enumerate(rows) if pos > 0 and (e, s, pos) not in special
    ]
    mean = torch.stack(counted).double().mean(0)
    for d in pair(width):
        total = np.zeros(2)
        for (example, seq), state in x.items():
            found = store.query(
                "SELECT n_active, squared_error, squared_norm, squared_deviation FROM reconstructions "
                "WHERE sae = ? AND example_id = ? AND seq = ? ORDER BY pos",
                [d.name, example, seq],
            ).fetchnumpy()
            error = (d.reconstruct(state) - state).double().square().sum(1)
            deviation = (state.double() - mean).square().sum(1)
            np.testing.assert_allclose(found["squared_error"], error, rtol=1e-4)
            np.testing.assert_allclose(found["squared_norm"], state.double().square().sum(1), rtol=1e-5)
            np.testing.assert_allclose(found["squared_deviation"], deviation, rtol=1e-4)
            assert found["n_active"].tolist() == (d.encode(state) > 0).sum(1).tolist()
            kept = [pos for pos in range(1, len(state)) if (example, seq, pos) not in special]
            total += [error[kept].sum(), deviation[kept].sum()]
        with Warehouse(root) as wh:
            [(n, explained)] = wh.sql(
                f"SELECT n_tokens, explained_variance FROM dictionary_fit WHERE sae = '{d.name}'"
            ).fetchall()
        assert n == len(counted)
        assert explained == pytest.approx(1 - total[0] / total[1], rel=1e-4)


def test_a_transcoder_is_measured_against_what_it_gives_back(root: Path, width: int) -> None:
    source = TraceStore(paths.run_dir(root, "llama"))
    d = random_dictionary(
        "t", width, architecture="transcoder", k=None, hook="blocks.1.hook_resid_mid", hook_out="blocks.1.hook_mlp_out"
    )
    store = capture.encode_features(source, d)
    read, given_back = states(source, "resid.post_attn"), states(source, "mlp_out")
    for place, x in read.items():
        found = store.query(
            "SELECT squared_error FROM reconstructions WHERE example_id = ? AND seq = ? ORDER BY pos", list(place)
        ).fetchnumpy()
        error = (d.reconstruct(x) - given_back[place]).double().square().sum(1)
        np.testing.assert_allclose(found["squared_error"], error, rtol=1e-4)
    assert rows(store, "dictionaries", "site, output_site") == [("resid.post_attn", "mlp_out")]


def test_one_that_was_interrupted_goes_on_and_ends_the_same(
    root: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_run, "_SHARD_ROWS", 200)
    monkeypatch.setattr(encode_run, "_PIECE_TOKENS", 30)
    source = TraceStore(paths.run_dir(root, "llama"))
    whole = capture.encode_features(source, pair(width), run="whole")
    encode, calls = state_encoder.StateEncoder.__call__, []

    def fails(self, sequences):
        calls.append(len(sequences))
        if len(calls) == 6:
            raise OSError("gone")
        return encode(self, sequences)

    monkeypatch.setattr(state_encoder.StateEncoder, "__call__", fails)
    with pytest.raises(OSError, match="gone"):
        capture.encode_features(source, pair(width), run="again")
    before = len(calls)
    again = capture.encode_features(source, pair(width), run="again")
    assert len(calls) - before < len(source.slices(source.key("resid.post_mlp", 1)))
    for table in ("features", "feature_tokens", "reconstructions", "dictionaries"):
        assert rows(whole, table, "* EXCLUDE (run_id)") == rows(again, table, "* EXCLUDE (run_id)")


def test_parts_merged_are_the_whole(root: Path, width: int) -> None:
    source = TraceStore(paths.run_dir(root, "llama"))
    whole = capture.encode_features(source, pair(width), run="whole")
    for part in ("1/2", "2/2"):
        capture.encode_features(source, pair(width), run="parts", part=part)
    merge.merge(root, merge_plan.plan_merge(root, merge_plan.find_parts(root, "parts"), "parts"))
    merged = TraceStore(paths.run_dir(root, "parts"))
    for table in ("features", "feature_tokens", "reconstructions", "dictionaries"):
        assert rows(whole, table, "* EXCLUDE (run_id)") == rows(merged, table, "* EXCLUDE (run_id)")
    assert not [check for check in validate(merged.path) if check.passed is False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_name": "gpt2-small"}, "was trained on gpt2-small, and run 'llama' is of .*: other_model"),
        ({"hook": "blocks.9.hook_resid_post"}, "reads layer 9, and .* has layers 0 to"),
        ({"hook": "blocks.1.attn.hook_z"}, "reads blocks.1.attn.hook_z, which is no site here"),
        ({"hook": None}, "does not say which part of the model it reads"),
        ({"hook": "blocks.1.attn.hook_pattern"}, "which run 'llama' has not stored"),
    ],
)
def test_a_dictionary_of_another_site_or_model_is_refused(root: Path, width: int, change: dict, message: str) -> None:
    d = random_dictionary("d", width, **change)
    with pytest.raises(UsageError, match=message):
        capture.encode_features(TraceStore(paths.run_dir(root, "llama")), d)
    assert not list(root.glob("run_id=llama-features*"))


def test_a_dictionary_of_another_width_is_refused(root: Path, width: int) -> None:
    with pytest.raises(UsageError, match=f"d is {width + 1} wide, and resid.post_mlp of run 'llama' .* {width}"):
        capture.encode_features(TraceStore(paths.run_dir(root, "llama")), random_dictionary("d", width + 1))


def test_two_of_one_name_are_refused(root: Path, width: int) -> None:
    both = [random_dictionary("d", width), random_dictionary("d", width, n=20)]
    with pytest.raises(UsageError, match="Two dictionaries are named d"):
        capture.encode_features(TraceStore(paths.run_dir(root, "llama")), both)


def test_a_derived_run_is_refused(root: Path, width: int) -> None:
    first = capture.encode_features(TraceStore(paths.run_dir(root, "llama")), random_dictionary("d", width))
    with pytest.raises(UsageError, match="is of kind features, and holds no states of a model: encode .* llama"):
        capture.encode_features(first, random_dictionary("d", width))


def test_texts_that_begin_otherwise_are_told(root: Path, width: int) -> None:
    source = TraceStore(paths.run_dir(root, "llama"))
    begins = bool(source.query("SELECT bool_and(is_special) FROM tokens WHERE pos = 0").fetchall()[0][0])
    with pytest.warns(UncertainResultWarning, match="trained on texts"):
        capture.encode_features(source, random_dictionary("d", width, prepend_bos=not begins))


def test_runs_in_every_stored_dtype_are_read(tmp_path: Path, capture_tiny: Callable, width: int) -> None:
    for dtype in ("float16", "bfloat16", "float32", "int8"):
        source = capture_tiny(tmp_path, dtype, "llama", max_len=32, capture="resid", store_dtype=dtype)
        store = capture.encode_features(source, random_dictionary("d", width))
        x = states(source)
        assert store.meta.counts.rows["reconstructions"] == sum(map(len, x.values()))
        d = random_dictionary("d", width)
        active = {(e, s, p, f) for (e, s), rows in x.items() for p, f in d.encode(rows).nonzero().tolist()}
        assert set(store.query("SELECT example_id, seq, pos, feature FROM features").fetchall()) == active
