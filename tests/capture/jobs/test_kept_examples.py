"""`--sample` and `--keep-every`: which examples are read, and of which tensors are kept, whatever the run, the part or the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from samples import DATA

from capture.data.text import open_text
from capture.jobs import encode, job, job_batches, next_token
from capture.logit_lens import lens_run
from capture.model import loading
from capture.sequences import partition
from capture.verification.replay_check import recheck
from warehouse import TraceStore, Warehouse
from warehouse.errors import CorruptRunError, UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.schema.sites import Key
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate
from warehouse.vectors import index_spec, ingest

SOURCE = open_text(str(DATA / "lighthouse.txt"), "text")
OPTIONS = {"capture": "hidden,qkv,attn,means", "max_len": 40, "batch_tokens": 1}
KEY = Key("dec", "resid.post_mlp", 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, load_tiny: Callable[..., loading.Loaded]) -> Path:
    """All tensors, and those of one example in 3: in one process that was killed on the way, and in merged parts; and a sample."""
    folder, loaded = tmp_path_factory.mktemp("kept") / "runs", load_tiny()

    def capture(run: str, stop_at: int | None = None, **more: object) -> None:
        def report(progress: job.Progress) -> None:
            if progress.sequences == stop_at:
                raise KeyboardInterrupt

        options = next_token.Options(**OPTIONS | more)
        name = partition.part_run_name(run, options.shard)
        next_token.run(loaded, SOURCE, options, root=folder, run_id=name, report=report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_batches, "_SHARD_TOKENS", 200)
        capture("all")
        with pytest.raises(KeyboardInterrupt):
            capture("third", keep_every=3, stop_at=15)
        capture("third", keep_every=3)
        for shard in ("1/2", "2/2"):
            capture("w", keep_every=3, shard=shard)
        merge.merge(folder, merge_plan.plan_merge(folder, merge_plan.find_parts(folder, "w"), "w"))
        for run, share in (("half", 0.5), ("quarter", 0.25)):
            capture(run, sample=share)
    return folder


def ids(store: TraceStore) -> list[str]:
    return [e for (e,) in store.query("SELECT example_id FROM examples ORDER BY idx").fetchall()]


def test_rows_are_of_all_and_tensors_of_those_that_are_kept(root: Path) -> None:
    whole, kept = (
        TraceStore(run_dir(root, "all")),
        [e for e in ids(TraceStore(run_dir(root, "all"))) if int(e, 16) % 3 == 0],
    )
    assert 3 < len(kept) < 13
    for run in ("third", "w"):
        store = TraceStore(run_dir(root, run))
        rows = "SELECT * EXCLUDE run_id FROM next_token ORDER BY ALL"
        assert store.query(rows).fetchall() == whole.query(rows).fetchall()
        assert {s.example_id for s in store.slices(KEY)} == set(kept)
        for example in ids(whole):
            if example in kept:
                for key in (KEY, Key("dec", "q", 0), Key("dec", "mean.resid.post_mlp", 1)):
                    assert np.array_equal(store.rows(key, example), whole.rows(key, example))
                continue
            with pytest.raises(
                UsageError, match=rf"Run '{run}' keeps no tensors of example {example} \(--keep-every 3\)"
            ):
                store.attn(example, 0)
        assert [(c.name, c.detail) for c in (*validate(store.path), *recheck(store.path)) if c.passed is False] == []
    shapes = next(c.detail for c in validate(run_dir(root, "third")) if c.name == "shapes")
    assert "of one example in 3 (--keep-every)" in shapes


def test_what_is_made_of_tensors_is_made_of_those_that_are_kept(
    root: Path, load_tiny: Callable[..., loading.Loaded]
) -> None:
    store, notes = TraceStore(run_dir(root, "third")), list[str]()
    n = sum(s.n_rows for s in store.slices(KEY))
    lens_run.run(load_tiny(), store.path, lens_run.Options(top_k=1, layers="1"), root=root, run_id="lens")
    assert TraceStore(run_dir(root, "lens")).meta.counts.rows["logit_lens"] == n
    ingest.add(root, "third", index_spec.parse("resid.post_mlp@1"), note=notes.append)
    assert any(f"{24 - len({s.example_id for s in store.slices(KEY)})} of 24 are left out" in line for line in notes)
    with Warehouse(root) as wh:
        assert wh.batches(layer=1, where="run_id = 'third'", size=8).tokens == n


def test_a_share_of_the_examples_is_the_same_whatever_else_is_asked(root: Path) -> None:
    whole, half, quarter = (ids(TraceStore(run_dir(root, name))) for name in ("all", "half", "quarter"))
    assert half == [e for e in whole if int(e, 16) < 1 << 63]
    assert quarter == [e for e in half if int(e, 16) < 1 << 62] and 0 < len(quarter) < len(half) < len(whole)
    for run in ("half", "quarter"):
        assert [(c.name, c.detail) for c in validate(run_dir(root, run)) if c.passed is False] == []


def test_what_makes_no_sense_is_refused(root: Path, tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    for options, said in (
        ({"keep_every": 3}, "--keep-every 3 says of which examples tensors are kept, and none are"),
        ({"capture": "hidden", "keep_every": 0}, "--keep-every 0: at least 1"),
        ({"sample": 1.5}, "--sample 1.5: give a share"),
    ):
        with pytest.raises(UsageError, match=said):
            next_token.run(load_tiny(), SOURCE, next_token.Options(**options), root=tmp_path)
    encode.run(load_tiny(), SOURCE, encode.Options(capture="hidden", keep_every=10**6), root=tmp_path, run_id="few")
    store = TraceStore(run_dir(tmp_path, "few"))
    with pytest.raises(UsageError, match="keeps no tensors of example"):
        store.hidden(ids(store)[0])
    assert not store.slices(KEY) and [c.detail for c in validate(store.path) if c.passed is False] == []
    with pytest.raises((UsageError, CorruptRunError), match="tokens"):
        Warehouse(tmp_path).batches(layer=1)
