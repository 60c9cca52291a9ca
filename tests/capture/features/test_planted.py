"""The whole way on planted features: states are written, a dictionary is trained on them, the run is encoded, and SQL finds what was planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch

import capture
from warehouse import Warehouse

D, PLANTED, ACTIVE = 32, 64, 3
LENGTHS = [40, 80, 60, 100] * 60


@pytest.mark.slow
def test_what_was_planted_is_what_is_active(tmp_path: Path) -> None:
    root, n = tmp_path / "runs", sum(LENGTHS)
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(PLANTED, D, generator=g), dim=1)
    chosen = torch.rand(n, PLANTED, generator=g).topk(ACTIVE).indices
    codes = torch.zeros(n, PLANTED).scatter_(1, chosen, torch.rand(n, ACTIVE, generator=g) * 1.5 + 0.5)
    states = codes @ directions + 0.02 * torch.randn(n, D, generator=g) + torch.randn(D, generator=g) * 2
    synthetic.add_vectors(root, "made", {1: states.numpy()}, LENGTHS, shards=3)
    options = {
        "features": 96,
        "k": 4,
        "tokens": 120_000,
        "batch_size": 512,
        "lr": 3e-3,
        "where": "true",
        "normalize": "none",
    }
    trained = capture.train_dictionary("made", tmp_path / "sae", layer=1, root=root, **options)
    capture.encode_features("made", tmp_path / "sae", root=root)
    with Warehouse(root) as wh:
        tokens = wh.sql("SELECT example_id, seq, pos FROM tokens WHERE run_id = 'made' ORDER BY ALL").fetchall()
        rows = wh.sql("SELECT example_id, seq, pos, feature, activation FROM features").fetchall()
        [(active, explained)] = wh.sql("SELECT mean_active, explained_variance FROM dictionary_fit").fetchall()
    number = {key: i for i, key in enumerate(tokens)}
    found = np.zeros((n, 96), np.float32)
    for *key, feature, activation in rows:
        found[number[tuple(key)], feature] = activation
    matched = (directions @ trained.dictionary.weights["W_dec"].T).max(1)
    agree = [np.corrcoef(codes[:, f].numpy(), found[:, m])[0, 1] for f, m in enumerate(matched.indices.tolist())]
    assert (matched.values > 0.95).float().mean() > 0.9
    # 64 directions in 32 dimensions are not at right angles: with the directions themselves, each would have a part of the others too.
    assert np.median(agree) > 0.9 and np.mean(np.array(agree) > 0.8) > 0.9
    assert active <= 4 and explained > 0.9
