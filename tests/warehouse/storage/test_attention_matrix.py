"""Attention read in part is that part of attention, and a picture of it tells every peak to within its error."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from synthetic_attention import HEADS, add_attention

from warehouse import TraceStore
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage.attention_matrix import AttentionMatrix
from warehouse.storage.model_info import LayerAttention

LENGTHS = [0, 1, 2, 37, 150]
SOURCES = [3, 0, 1, 80, 20]
LAYERS = {
    "plain": LayerAttention(scale=0.35),
    "windowed": LayerAttention(scale=0.35, window=9),
    "capped": LayerAttention(scale=0.35, softcap=3.0),
    "sinks": LayerAttention(scale=0.35, window=20, sinks=[0.5, -1.0, 2.0, 9.0]),
}
FULL = LayerAttention(scale=0.35, causal=False)
NEAR = LayerAttention(scale=0.35, causal=False, window=4)
ROUNDING = 1e-5
"""Relative error of a derived probability: scores of up to 60, of float32 products that a library may add up in another order."""


@pytest.fixture(scope="module", params=["stored", "derived"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TraceStore:
    root = tmp_path_factory.mktemp("attention")
    layers = list(LAYERS.values())
    how = {"encoder": [FULL, NEAR], "cross": [FULL] * 4, "sources": SOURCES, "stored": request.param == "stored"}
    return add_attention(root, request.param, layers, LENGTHS, **how)


KINDS = [("dec", "self", 4), ("enc", "self", 2), ("dec", "cross", 4)]


@pytest.mark.parametrize(("side", "kind", "n_layers"), KINDS)
def test_a_part_is_that_part_of_the_whole(store: TraceStore, side: str, kind: str, n_layers: int) -> None:
    rng = np.random.default_rng(1)
    seen = 0
    for i in range(len(LENGTHS)):
        where = {"seq": 0, "side": side, "kind": kind}
        for layer in range(n_layers):
            for head in (None, 3):
                if side == "enc" and not SOURCES[i]:
                    continue
                whole = store.attn(f"e{i}", layer, head, **where)
                matrix = store.attn_matrix(f"e{i}", layer, head, **where)
                assert matrix.shape == whole.shape
                for _ in range(4):
                    rows, cols = (range(*sorted(rng.integers(0, n + 1, 2).tolist())) for n in whole.shape[-2:])
                    part = whole[..., rows.start : rows.stop, cols.start : cols.stop]
                    found = matrix.tile(rows, cols)
                    assert found.shape == part.shape and found.dtype == np.float32
                    if store.meta.run_id == "stored":
                        assert np.array_equal(found, part)
                    else:
                        np.testing.assert_allclose(found, part, rtol=ROUNDING, atol=1e-30)
                    seen += part.size > 0
    assert seen > 20


def test_a_row_and_a_column_of_all_heads(store: TraceStore) -> None:
    whole = store.attn("e4", 3)
    matrix = store.attn_matrix("e4", 3)
    np.testing.assert_allclose(matrix.tile(rows=range(97, 98))[:, 0], whole[:, 97], rtol=ROUNDING)
    np.testing.assert_allclose(matrix.tile(cols=range(5, 6))[:, :, 0], whole[:, :, 5], rtol=ROUNDING)


@pytest.mark.parametrize("size", [1, 7, 32, 149, 150, 1000])
def test_a_cell_of_a_picture_is_the_largest_probability_in_it(store: TraceStore, size: int) -> None:
    for (rows, cols), head in [((range(150), range(150)), 2), ((range(11, 140), range(3, 60)), None)]:
        picture = store.attn_matrix("e4", 1, head).pooled(size, rows, cols)
        whole = store.attn("e4", 1, head)[..., rows.start : rows.stop, cols.start : cols.stop]
        high, wide = picture.cell
        assert (high, wide) == (-(-len(rows) // size), -(-len(cols) // size))
        expected = np.zeros((*whole.shape[:-2], -(-len(rows) // high), -(-len(cols) // wide)), np.float32)
        for y, x in np.ndindex(*expected.shape[-2:]):
            expected[..., y, x] = whole[..., y * high : (y + 1) * high, x * wide : (x + 1) * wide].max((-2, -1))
        assert picture.values.shape == expected.shape and max(expected.shape[-2:]) <= size
        assert picture.values.dtype == np.uint8
        scale = picture.scale[..., None, None]
        np.testing.assert_allclose(picture.scale, whole.max((-2, -1)), rtol=ROUNDING)
        bound = (np.sqrt(expected / scale) + 1 / 510) * scale / 255 * (1 + 1e-4)
        assert (np.abs(picture.decode() - expected) <= bound).all()
        assert (picture.values.max((-2, -1)) == 255).all() and (picture.decode()[expected == 0] == 0).all()


def test_sequences_of_no_token_and_of_one(store: TraceStore) -> None:
    none, one = (store.attn_matrix(e, 0).pooled(32) for e in ("e0", "e1"))
    assert none.values.shape == (HEADS, 0, 0) and none.scale.tolist() == [0] * HEADS
    assert one.decode().tolist() == [[[1.0]]] * HEADS
    assert store.attn_matrix("e1", 0, kind="cross").pooled(32).values.size == 0, "its source has no token"


def test_what_is_not_there_is_said(store: TraceStore) -> None:
    with pytest.raises(UsageError, match=r"rows 3 to 38: attention has rows 0 to 37 here\."):
        store.attn_matrix("e3", 0, 0).tile(range(3, 38))
    with pytest.raises(UsageError, match="at least one cell"):
        store.attn_matrix("e3", 0, 0).pooled(0)
    with pytest.raises(UsageError, match="layer 4: made has layers 0 to 3"):
        store.attn_matrix("e3", 4, 0)
    with pytest.raises(UsageError, match="head 4: made has heads 0 to 3"):
        store.attn_matrix("e3", 0, 4)
    with pytest.raises(NotFoundError):
        store.attn_matrix("nowhere", 0, 0)


def test_a_long_sequence_is_never_there_as_a_whole() -> None:
    n = 4096
    matrix = AttentionMatrix((n, n), False, lambda some: np.ones((1, len(some), n), np.float32))
    tracemalloc.start()
    assert (matrix.pooled(64).values == 255).all() and matrix.tile(range(9), range(5)).all()
    assert tracemalloc.get_traced_memory()[1] < n * n * 4 / 10
    tracemalloc.stop()
