"""`--part i/n`: what several processes capture, each its share, is once merged what one process captures.

A sequence a batch (`batch_tokens=1`), so that every value is computed in the same shapes and can be compared bit by bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from samples import DATA
from synthetic import add_run

from capture.data.example import Row, Source
from capture.data.registry import open_data
from capture.data.text import open_text
from capture.jobs import generate, job, job_batches, mcq_prompt, next_token
from capture.logit_lens import lens_run
from capture.model import loading
from capture.sequences import partition
from capture.traits import directions, judge_run, respond, response_activations
from capture.traits import project as projecting
from capture.traits.definition import Definition, Pair
from capture.traits.verdict import Verdict
from capture.verification.replay_check import recheck
from warehouse import TraceStore, Warehouse
from warehouse.errors import UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.schema import sites
from warehouse.schema.tables import STORED
from warehouse.storage import parquet, paths, run_list
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate
from warehouse.vectors.table_cache import all_tables

EVERYTHING = {
    "capture": "hidden,resid,qkv,attn,attn_out,mlp_out,mlp_act,heads",
    "index": "resid.post_mlp@1",
    "max_len": 40,
}

DEFINITION = Definition(
    name="windy",
    instruction=[Pair(pos="Speak of the wind.", neg="Speak of stones."), Pair(pos="Blow.", neg="Lie.")],
    questions=["What is the sea?", "Who keeps the lamp?", "Why?"],
    eval_prompt="{question} {answer} 0 to 100, or REFUSAL",
)


def merged(root: Path, run_id: str, keep: bool = False) -> TraceStore:
    merge.merge(root, merge_plan.plan_merge(root, merge_plan.find_parts(root, run_id), run_id), keep)
    return TraceStore(run_dir(root, run_id))


def capture_shards(
    kind: Any, loaded: loading.Loaded, source: Source, root: Path, run_id: str, n: int, **options: Any
) -> None:
    for i in range(1, n + 1):
        shard = f"{i}/{n}"
        kind.run(
            loaded,
            source,
            kind.Options(**options, shard=shard),
            root=root,
            run_id=partition.part_run_name(run_id, shard),
        )


def check_same(one: TraceStore, whole: TraceStore) -> None:
    """Equal, row by row and bit by bit; only the blobs are cut elsewhere."""
    for name, table in STORED.items():
        others = {"tensors": ("blob", "row_start", "row_end"), "heads": ("source_run_id",)}.get(name, ())
        columns = ", ".join(c for c in table.names if c not in ("run_id", *others))
        rows, expected = (
            s.query(f"SELECT {columns} FROM {name} ORDER BY {', '.join(table.sort_key)}").fetchall()
            for s in (one, whole)
        )
        assert rows == expected, name
    for store in (one, whole):
        assert {r for (r,) in store.query("SELECT DISTINCT source_run_id FROM heads").fetchall()} <= {store.meta.run_id}
    for site in whole.meta.sites:
        for layer in site.layers:
            key = sites.key_of(sites.tensor_name(site.side, site.site, layer))
            for s in whole.slices(key):
                assert np.array_equal(one.rows(key, s.example_id, s.seq), whole.rows(key, s.example_id, s.seq))
    volatile = {"run_id", "created_at", "seconds", "files", "bytes"}
    assert one.meta.model_dump(exclude=volatile) == whole.meta.model_dump(exclude=volatile)
    assert [(c.name, c.detail) for c in validate(one.path) if c.passed is False] == []


@pytest.mark.slow
def test_shards_merged_are_the_whole_run(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded], sample_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blank lines, a text that occurs again in another shard, several blobs a shard, one of them interrupted on the way."""
    text = tmp_path / "lines.txt"
    text.write_text("\n".join([*sample_lines[:7], "", sample_lines[1], " ", *sample_lines[7:14], "A"]))
    source, loaded = open_text(str(text), "text"), load_tiny()
    options = EVERYTHING | {"batch_tokens": 1}
    root = tmp_path / "runs"
    next_token.run(loaded, source, next_token.Options(**options), root=root, run_id="whole")
    monkeypatch.setattr(job_batches, "_SHARD_TOKENS", 60)

    def stop(progress: job.Progress) -> None:
        if progress.sequences == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next_token.run(
            loaded, source, next_token.Options(**options, shard="2/3"), root=root, run_id="w.shard-2-of-3", report=stop
        )
    assert paths.staged_runs(root) == ["w.shard-2-of-3"]
    capture_shards(next_token, loaded, source, root, "w", 3, **options)
    parts = [TraceStore(run_dir(root, f"w.shard-{i}-of-3")) for i in (1, 2, 3)]
    assert [p.tokens.idx.tolist() for p in parts] == [[*range(i, 16, 3)] for i in range(3)]
    assert len({p.meta.data.hash for p in parts}) == 1
    metas = [p.meta for p in parts]
    blobs = {b.stat().st_ino for p in parts for b in (p.path / "blobs").iterdir()}
    assert len(blobs) > 6
    one, whole = merged(root, "w"), TraceStore(run_dir(root, "whole"))
    check_same(one, whole)
    assert {b.stat().st_ino for b in (one.path / "blobs").iterdir()} == blobs  # linked, not copied
    assert one.meta.created_at > max(m.created_at for m in metas)  # the newest, where the shards are kept
    assert one.meta.seconds == sum(m.seconds for m in metas)
    assert one.meta.bytes == sum((one.path / f.path).stat().st_size for f in one.meta.files)
    assert run_list.published_runs(root) == ["w", "whole"]
    assert [c.name for c in recheck(one.path) if c.passed is False] == []
    (table,) = all_tables(root)
    assert sorted(table.info.runs) == ["w", "whole"] and len({r.rows for r in table.info.runs.values()}) == 1
    assert table.lance.count_rows() == table.info.rows == 2 * one.meta.counts.tokens
    with Warehouse(root) as wh:
        assert wh.sql("SELECT run_id FROM runs ORDER BY ALL").fetchall() == [("w",), ("whole",)]


def files(folder: Path) -> dict[str, bytes]:
    """A run's files but its blobs, with what is in them."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in found.items() if not name.startswith("blobs/")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["next-token", "mcq-prompt", "generate"])
def test_which_bytes_are_those_of_one_process(
    kind: str,
    tmp_path: Path,
    load_tiny: Callable[..., loading.Loaded],
    sample_lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every table's but those of the tensor index, whose slices lie in other blobs; of several row groups too."""
    monkeypatch.setattr(parquet, "ROW_GROUP", 2048)
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(f"{i} {line}" for i in range(3) for line in sample_lines[:20]))
    questions = open_data("csqa", origin=str(DATA / "questions.jsonl"))
    prompts = Source("prompts", "made", None, "-", lambda: (Row(str(i), t) for i, t in enumerate(sample_lines[:5])))
    job_of, source, options = {
        "next-token": (next_token, open_text(str(lines), "text"), {"capture": "resid,heads", "max_len": 40}),
        "mcq-prompt": (mcq_prompt, questions, {"capture": "resid", "limit": 5}),
        "generate": (generate, prompts, {"capture": "resid", "max_new_tokens": 8, "temperature": 1.0, "samples": 2}),
    }[kind]
    options |= {"batch_tokens": 1}
    loaded, away = load_tiny(), tmp_path / "whole"
    job_of.run(loaded, source, job_of.Options(**options), root=tmp_path, run_id="w")
    run_dir(tmp_path, "w").rename(away)
    capture_shards(job_of, loaded, source, tmp_path, "w", 3, **options)
    one, whole = merged(tmp_path, "w"), TraceStore(away)
    mine, known = files(one.path), files(away)
    assert mine.keys() == known.keys()
    assert {name for name in known if mine[name] != known[name]} == {"run.json", paths.table_file("tensors")}
    if kind == "next-token":
        assert pq.ParquetFile(away / paths.table_file("tokens")).num_row_groups > 1
    told, expected = json.loads(mine["run.json"]), json.loads(known["run.json"])
    assert {k for k in expected if told[k] != expected[k]} <= {"created_at", "seconds", "bytes", "files", "seal"}
    index, its = (pq.read_table(s.path / paths.table_file("tensors")) for s in (one, whole))
    places = ["blob", "row_start", "row_end"]
    assert index.drop_columns(places).equals(its.drop_columns(places))  # the values' checksums are in it
    assert one.query("SELECT count(DISTINCT blob) FROM tensors").fetchall() == [(3,)]


@pytest.mark.slow
def test_other_batches_round_otherwise(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded], sample_lines: list[str]
) -> None:
    """Several sequences a batch, in each process others: numbers differ in their last digits, and nothing else does."""
    text = tmp_path / "lines.txt"
    text.write_text("\n".join(sample_lines[:20]))
    source, loaded = open_text(str(text), "text"), load_tiny()
    next_token.run(loaded, source, next_token.Options(capture="resid,heads"), root=tmp_path, run_id="w")
    whole = TraceStore(run_dir(tmp_path, "w").rename(tmp_path / "whole"))
    capture_shards(next_token, loaded, source, tmp_path, "w", 2, capture="resid,heads")
    one = merged(tmp_path, "w")
    mine, known = files(one.path), files(whole.path)
    assert mine[paths.table_file("examples")] == known[paths.table_file("examples")]
    tokens = "SELECT * EXCLUDE (run_id, batch) FROM tokens ORDER BY ALL"
    assert one.query(tokens).fetchall() == whole.query(tokens).fetchall()
    for query in (
        "SELECT loss FROM next_token ORDER BY example_id, seq, pos",
        "SELECT entropy FROM heads ORDER BY example_id, seq, layer, head",
    ):
        numbers, expected = (np.array(s.query(query).fetchall(), dtype=np.float64) for s in (one, whole))
        assert np.allclose(numbers, expected, rtol=1e-4, atol=1e-6, equal_nan=True)
    for site in whole.meta.sites:
        for layer in site.layers:
            key = sites.key_of(sites.tensor_name(site.side, site.site, layer))
            for s in whole.slices(key):
                numbers, expected = (x.rows(key, s.example_id, s.seq).astype(np.float32) for x in (one, whole))
                assert np.allclose(numbers, expected, rtol=2e-3, atol=1e-4)  # a float16 may round the other way


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "data", "file"), [(mcq_prompt, "csqa", "questions.jsonl"), (next_token, "ud_ewt", "harbour.conllu")]
)
def test_annotated_data_and_questions(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded], kind: Any, data: str, file: str
) -> None:
    source, loaded = open_data(data, origin=str(DATA / file)), load_tiny()
    options = {"capture": "resid", "batch_tokens": 1, "limit": 5}
    kind.run(loaded, source, kind.Options(**options), root=tmp_path, run_id="whole")
    capture_shards(kind, loaded, source, tmp_path, "w", 2, **options)
    check_same(merged(tmp_path, "w"), TraceStore(run_dir(tmp_path, "whole")))


def test_responses_do_not_depend_on_the_shard(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    texts = ["The lamp", "Every night the keeper of the light", "Why?", "The sea was calm.", "A"]
    source = Source("prompts", "made", None, "-", lambda: (Row(str(i), t) for i, t in enumerate(texts)))
    loaded = load_tiny()
    options = {"max_new_tokens": 8, "temperature": 1.0, "seed": 3, "samples": 2, "capture": "means"}
    generate.run(loaded, source, generate.Options(**options), root=tmp_path, run_id="whole")
    capture_shards(generate, loaded, source, tmp_path, "w", 2, **options)
    one, whole = merged(tmp_path, "w"), TraceStore(run_dir(tmp_path, "whole"))
    assert [(c.name, c.detail) for c in validate(one.path) if c.passed is False] == []
    for query in (
        "SELECT example_id, idx, text FROM examples ORDER BY idx",
        "SELECT * EXCLUDE (run_id) FROM responses ORDER BY example_id, seq",
        "SELECT * EXCLUDE (run_id, batch) FROM tokens ORDER BY example_id, seq, pos",
        "SELECT * EXCLUDE (run_id) FROM prompts ORDER BY example_id, seq",
    ):
        assert one.query(query).fetchall() == whole.query(query).fetchall()
    assert one.meta.counts == whole.meta.counts and one.meta.data == whole.meta.data


def test_a_tensor_promoted_in_one_shard_is_so_in_the_whole(
    tmp_path: Path, make_llama: Callable, tokenizer: Any
) -> None:
    """Only the text with a `~` has values beyond float16's."""
    model = make_llama()
    (loud,) = tokenizer("~")["input_ids"]
    with torch.no_grad():
        model.model.embed_tokens.weight[loud] *= 1e7
    loaded = loading.Loaded(model, tokenizer, "loud", None, "cpu", False)
    text = tmp_path / "lines.txt"
    text.write_text("The lamp.\nThe ~ sea.\nA boat.\nThe keeper.")
    source, options = open_text(str(text), "text"), {"capture": "hidden,resid,qkv", "batch_tokens": 1}
    capture_shards(next_token, loaded, source, tmp_path, "w", 2, **options)
    parts = [TraceStore(run_dir(tmp_path, f"w.shard-{i}-of-2")) for i in (1, 2)]
    assert not any(s.promoted for s in parts[0].meta.sites) and any(s.promoted for s in parts[1].meta.sites)
    one = merged(tmp_path, "w", keep=True)
    assert [(c.name, c.detail) for c in validate(one.path) if c.passed is False] == []
    assert [s.promoted for s in one.meta.sites] == [s.promoted for s in parts[1].meta.sites]
    key = sites.key_of("resid.post_mlp.L00")
    for part in parts:
        for s in part.slices(key):
            rows = one.rows(key, s.example_id, s.seq)
            assert rows.dtype == np.float32 and np.array_equal(rows, part.rows(key, s.example_id, s.seq))


def test_the_default_name_is_the_same_for_all_shards(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    source, loaded = open_text(str(DATA / "lighthouse.txt"), "text"), load_tiny()
    names = []
    for i in (1, 2):
        options = next_token.Options(shard=f"{i}/2", limit=4)
        names.append(next_token.run(loaded, source, options, root=tmp_path).run_id)
    assert [paths.part_of(name) for name in names] == [(names[0].rpartition(".shard-")[0], i, 2) for i in (1, 2)]


def test_what_is_no_shard(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    for wrong in ("0/2", "3/2", "2", "a/b", "1/2/3", "-1/2", "1/0", " 1/2"):
        with pytest.raises(UsageError, match="--part .*: write i/n, such as 2/4"):
            partition.parse_part(wrong)
    source = open_text(str(DATA / "lighthouse.txt"), "text")
    with pytest.raises(UsageError, match="of part 4/4: there is no text in it. Use fewer parts"):
        next_token.run(load_tiny(), source, next_token.Options(shard="4/4", limit=3), root=tmp_path, run_id="r")
    assert paths.staged_runs(tmp_path) == []


@pytest.mark.slow
def test_runs_derived_in_shards(
    tmp_path: Path, load_tiny: Callable[..., loading.Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lens, judge and projection of a run, each whole and in three shards: their tables hold the same rows, and the judge's, who
    computes nothing, the same bytes."""
    loaded = load_tiny()
    traited = respond.Options(
        max_new_tokens=4, capture="resid,means", trait=DEFINITION.model_dump(), n=4, store_dtype="float32"
    )
    respond.run(loaded, respond.source(DEFINITION, 4), traited, root=tmp_path, run_id="r")
    source = TraceStore(run_dir(tmp_path, "r"))
    vectors = [
        {"trait": "windy", "method": "mean_diff", "component": "residual", "layer": 1, "vector": [1.0] * 31 + [2.0]}
    ]
    add_run(tmp_path, "vectors", "trait-vectors", {"trait_vectors": vectors}, body=source.meta.model.space, d_model=32)
    monkeypatch.setattr(projecting, "_SHARD_ROWS", 60)  # some groups of sequences, not one

    class Length:
        name, paid, concurrent = "local:length", False, False

        def ask(self, prompt: str) -> Verdict:
            return Verdict(str(len(prompt) % 101), float(len(prompt) % 101), scored_by="number")

    def make(shard: str) -> None:
        made = (partition.part_run_name(name, shard) for name in ("lens", "judged", "traits"))
        lens_run.run(loaded, source.path, lens_run.Options(3, "1,last", shard=shard), root=tmp_path, run_id=next(made))
        judge_run.judge_run(tmp_path, "r", Length(), name=next(made), shard=shard)
        with Warehouse(tmp_path) as wh:
            options = directions.Options(
                ("windy",), methods=("mean_diff",), components=("residual",), layers=(1,), shard=shard
            )
            chosen = directions.choose_directions(wh, "r", options)
            projecting.project(wh, "r", chosen, options, "traits")

    def rows_of_all() -> dict[str, list[tuple]]:
        found = {}
        for run, names in (
            ("lens", ["logit_lens"]), ("judged", ["judgements"]), ("traits", ["trait_projections", "trait_dynamics"])
        ):  # fmt: skip
            store = TraceStore(run_dir(tmp_path, run))
            assert [(c.name, c.detail) for c in validate(store.path) if c.passed is False] == []
            for name in names:
                key = ", ".join(STORED[name].sort_key)
                found[name] = store.query(f"SELECT * EXCLUDE (run_id) FROM {name} ORDER BY {key}").fetchall()
        return found

    make("")
    expected = rows_of_all()
    metas = {run: TraceStore(run_dir(tmp_path, run)).meta for run in ("lens", "judged", "traits")}
    for run in metas:
        run_dir(tmp_path, run).rename(tmp_path / run)
    for i in (1, 2, 3):
        make(f"{i}/3")
    with Warehouse(tmp_path) as wh, pytest.raises(UsageError, match="only a part of it: traces runs merge judged"):
        response_activations.find_newest_judge(wh, "r")
    volatile = {"created_at", "seconds", "files", "bytes"}
    for run, meta in metas.items():
        parts = [TraceStore(run_dir(tmp_path, f"{run}.shard-{i}-of-3")).meta.counts.rows for i in (1, 2, 3)]
        assert all(any(rows.values()) for rows in parts)
        assert merged(tmp_path, run, keep=True).meta.model_dump(exclude=volatile) == meta.model_dump(exclude=volatile)
    with Warehouse(tmp_path) as wh:  # the shards are there yet
        assert response_activations.find_newest_judge(wh, "r") == "judged"
        assert wh.sql("SELECT DISTINCT run_id FROM newest_trait_projections").fetchall() == [("traits",)]
        assert wh.sql("SELECT DISTINCT run_id FROM newest_trait_dynamics").fetchall() == [("traits",)]
    judgements = paths.table_file("judgements")
    assert (run_dir(tmp_path, "judged") / judgements).read_bytes() == (tmp_path / "judged" / judgements).read_bytes()
    for name, rows in rows_of_all().items():
        assert [r[:4] for r in rows] == [r[:4] for r in expected[name]], name
        for row, known in zip(rows, expected[name], strict=True):  # products of other shapes round otherwise
            for a, b in zip(row, known, strict=True):
                numbers = isinstance(b[0] if isinstance(b, list) else b, float)
                assert a == (pytest.approx(b, rel=1e-4, abs=1e-5) if numbers else b), name
