"""`--store-dtype int8`: a run of codes against the same run in float16, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from samples import DATA

from capture.data.text import open_text
from capture.jobs import job, job_batches, next_token
from capture.model import loading
from capture.sequences import partition
from capture.verification.replay_check import recheck
from warehouse import TraceStore, Warehouse
from warehouse.maintenance import merge, merge_plan
from warehouse.schema.sites import Key
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

OPTIONS = {
    "capture": "hidden,resid,qkv,attn_out,mlp_out,mlp_act,heads,means",
    "max_len": 40,
    "index": "resid.post_mlp@1",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, load_tiny: Callable[..., loading.Loaded]) -> Path:
    """One text in one process (in float16 and coded), and in two parts that were merged, several shards each."""
    folder, loaded = tmp_path_factory.mktemp("coded") / "runs", load_tiny()
    source = open_text(str(DATA / "lighthouse.txt"), "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_batches, "_SHARD_TOKENS", 200)
        for run, dtype, shard in (
            ("fp16", "float16", ""),
            ("int8", "int8", ""),
            ("w", "int8", "1/2"),
            ("w", "int8", "2/2"),
        ):
            options = next_token.Options(**OPTIONS, batch_tokens=1, store_dtype=dtype, shard=shard)
            next_token.run(loaded, source, options, root=folder, run_id=partition.part_run_name(run, shard))
    return folder


def test_every_value_is_half_a_step_from_the_recorded_one(root: Path) -> None:
    recorded, coded = (TraceStore(run_dir(root, name)) for name in ("fp16", "int8"))
    dtypes = {s.site: s.dtype for s in coded.meta.sites}
    assert {site for site, dtype in dtypes.items() if dtype == "F16"} == {"q", "k"}
    assert {site for site, dtype in dtypes.items() if dtype == "F32"} == {s for s in dtypes if s.startswith("mean.")}
    assert dict(coded.query("SELECT DISTINCT site, dtype FROM tensors").fetchall()) == dtypes
    for site in coded.meta.sites:
        for layer in site.layers:
            key = Key(site.side, site.site, layer)
            for s in recorded.slices(key):
                x, read = (store.rows(key, s.example_id, s.seq) for store in (recorded, coded))
                step = coded.step(key, s.example_id, s.seq)
                if site.dtype != "I8":
                    assert step is None and np.array_equal(x, read)
                    continue
                assert read.dtype == np.float32 and np.array_equal(read[0], x[0].astype(np.float32))
                assert (np.abs(read - x) <= 0.501 * step + 1e-6).all()
    for rows in ("* EXCLUDE run_id FROM next_token", "* EXCLUDE (run_id, source_run_id) FROM heads"):
        assert coded.query(f"SELECT {rows}").fetchall() == recorded.query(f"SELECT {rows}").fetchall()


def test_every_reader_sees_the_same_floats(root: Path) -> None:
    store, key = TraceStore(run_dir(root, "int8")), Key("dec", "resid.post_mlp", 1)
    rows = np.concatenate([store.rows(key, s.example_id, s.seq) for s in store.slices(key)])
    with Warehouse(root) as wh:
        where = "run_id = 'int8'"
        batches = wh.batches(site="resid.post_mlp", layer=1, where=where, size=64, shuffle=False)
        assert batches.dtype == np.float32
        assert np.array_equal(np.concatenate(list(batches)), rows)
        query = (
            "SELECT run_id, example_id, seq, pos FROM token_diagnostics WHERE run_id = 'int8' ORDER BY loss LIMIT 50"
        )
        picked = [store.resid(e, "post_mlp", 1, seq=s)[p] for _, e, s, p in wh.sql(query).fetchall()]
        assert np.array_equal(wh.matrix(query, site="resid.post_mlp", layer=1)[0], np.stack(picked))
        near = wh.nearest(picked[0], layer=1, k=1, where=where, exact=True).df()
        assert near.distance[0] < 1e-5


def test_sound_against_the_model_and_altered_companions_show(root: Path) -> None:
    for run in ("int8", "w"):
        if run == "w":
            merge.merge(root, merge_plan.plan_merge(root, merge_plan.find_parts(root, "w"), "w"), keep=True)
        folder = run_dir(root, run)
        assert [(c.name, c.detail) for c in (*validate(folder), *recheck(folder)) if c.passed is False] == []
    merged, parts = TraceStore(run_dir(root, "w")), [TraceStore(run_dir(root, f"w.shard-{i}-of-2")) for i in (1, 2)]
    key = Key("dec", "mlp_act", 0)
    for part in parts:
        for s in part.slices(key):
            assert np.array_equal(part.rows(key, s.example_id, s.seq), merged.rows(key, s.example_id, s.seq))
    blob = merged.blob(next(f.path for f in merged.meta.files if f.path.startswith("blobs/")))
    with blob.path.open("r+b") as f:
        f.seek(blob._starts["mlp_act.L00.scale"])
        value = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([value[0] ^ 1]))
    (found,) = [c for c in validate(merged.path) if c.passed is False]
    assert "a centre, a scale or an exact value" in found.detail


def test_killed_and_taken_up_again_it_is_the_same_run(
    root: Path, tmp_path: Path, load_tiny: Callable[..., loading.Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_batches, "_SHARD_TOKENS", 200)
    options = next_token.Options(**OPTIONS, batch_tokens=1, store_dtype="int8")
    source = open_text(str(DATA / "lighthouse.txt"), "text")

    def stop(progress: job.Progress) -> None:
        if progress.sequences == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next_token.run(load_tiny(), source, options, root=tmp_path, run_id="int8", report=stop)
    next_token.run(load_tiny(), source, options, root=tmp_path, run_id="int8")
    for path in sorted(run_dir(root, "int8").rglob("*")):
        if path.is_file() and path.name != "run.json":
            again = run_dir(tmp_path, "int8") / path.relative_to(run_dir(root, "int8"))
            assert again.read_bytes() == path.read_bytes(), path.name
