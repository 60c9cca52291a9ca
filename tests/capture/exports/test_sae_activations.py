"""The data set on disk that SAELens reads has the run's own states and tokens; tests/peers has SAELens read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from capture import exports
from warehouse import Warehouse
from warehouse.errors import UsageError


@pytest.fixture(scope="module")
def wh(tiny_root: Path) -> Iterator[Warehouse]:
    with Warehouse(tiny_root) as wh:
        yield wh


@pytest.mark.parametrize("run", ["llama", "gpt2"])
def test_rows_are_pieces_of_the_texts_in_order(wh: Warehouse, run: str, tmp_path: Path) -> None:
    import datasets

    written = exports.sae_activations(wh, run, tmp_path / "out", layers=[1, 2], context_size=8)
    assert written.hooks == ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
    found = datasets.load_from_disk(str(tmp_path / "out"))
    assert found.features[written.hooks[0]].shape == (8, written.width)
    found = found.with_format("numpy")
    store, at, left = wh.run(run), 0, 0
    for example in sorted(set(store.tokens.example_id)):
        states, ids = store.resid(example)[1:], store.encodings(example)["input_ids"]
        left += len(ids) % 8
        for start in range(0, len(ids) // 8 * 8, 8):
            row = found[at]
            for hook, of_layer in zip(written.hooks, states, strict=True):
                assert found.features[hook].dtype == of_layer.dtype.name
                assert np.array_equal(row[hook], of_layer[start : start + 8])
            assert np.array_equal(row["token_ids"], ids[start : start + 8])
            at += 1
    assert (at, left) == (len(found), written.left_out) == (written.rows, written.left_out)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"site": "attn"}, "No site with a vector a token 'attn'"),
        ({"layers": [9]}, "in these layers"),
        ({"context_size": 5000}, "choose a smaller --context-size"),
        ({"context_size": 0}, "at least one token"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_left(wh: Warehouse, options: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        exports.sae_activations(wh, "llama", tmp_path / "out", **({"layers": [1]} | options))
    assert list(tmp_path.iterdir()) == []
