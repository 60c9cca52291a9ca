"""A task's capture: what a plain pass over each prompt gives, pair by pair, however it is batched, split or interrupted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import odd_tokenizers
import pyarrow.parquet as pq
import pytest
import torch
import zoo

import capture
from capture.data.repeated_words import WORDS
from capture.data.tasks.registry import TASKS, find_task
from capture.jobs import job, job_batches, task
from capture.model.loading import Loaded
from warehouse import TraceStore
from warehouse.errors import NotFoundError, RunExistsError, UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.schema import sites
from warehouse.storage import paths
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

OPTIONS = {"capture": "resid,qkv", "batch_tokens": 128}
ROWS = ("examples", "prompts", "tokens", "next_token", "task_pairs", "task_targets", "task_scores")


@pytest.fixture(scope="module")
def word_tokenizer():
    """One token for each word that the tasks use, and for each digit."""
    texts = [f"{word} {word}" for word in WORDS]
    for name in set(TASKS) - {"induction"}:
        for pair in islice(TASKS[name].pairs(None, 0), 400):
            texts += [pair.clean, *(pair.clean + text for text in pair.continuations)]
    return odd_tokenizers.of_words(texts, 1)


@pytest.fixture(scope="module")
def loaded(make_llama: Callable, word_tokenizer) -> Loaded:
    return capture.wrap(make_llama(vocab_size=len(word_tokenizer)), word_tokenizer, name="tiny")


def captured(loaded: Loaded, name: str, root: Path, run_id: str = "t", report=job.no_report, **options) -> TraceStore:
    chosen = task.Options(**({"n": 8} | OPTIONS | options))
    source = task.open_pairs(loaded, find_task(name), chosen)
    task.run(loaded, source, chosen, root=root, run_id=run_id, report=report)
    return TraceStore(run_dir(root, run_id))


def plain_scores(loaded: Loaded, store: TraceStore) -> dict[tuple[str, str], tuple[float, float]]:
    """Every metric of every pair, prompt by prompt, from the model's own logits."""
    scores = {}
    for (example_id,) in store.query("SELECT example_id FROM examples").fetchall():
        signs = store.query("SELECT token_id, sign FROM task_targets WHERE example_id = ?", [example_id]).fetchall()
        right, wrong = ([t for t, s in signs if s == sign] for sign in (1, -1))
        found, logps = [], []
        prompts = store.query("SELECT text FROM prompts WHERE example_id = ? ORDER BY seq", [example_id]).fetchall()
        for (text,) in prompts:
            ids = loaded.tokenizer(text, return_tensors="pt").input_ids
            with torch.no_grad():
                logits = loaded.model(ids).logits[0, -1].double()
            logp = logits.log_softmax(0)
            logps.append(logp)
            found.append(
                {
                    "logit_diff": (logits[right].mean() - logits[wrong].mean()).item(),
                    "prob_diff": (logp[right].exp().sum() - logp[wrong].exp().sum()).item(),
                    "logprob": logp[right].exp().sum().log().item(),
                    "kl": (logps[0].exp() * (logps[0] - logp)).sum().item(),
                }
            )
        scores |= {(example_id, name): (found[0][name], found[1][name]) for name in found[0]}
    return scores


def check_scores(loaded: Loaded, store: TraceStore, within: float) -> None:
    expected, metric = plain_scores(loaded, store), store.meta.option("metric")
    rows = store.query("SELECT example_id, metric, is_default, clean, corrupted, correct FROM task_scores").fetchall()
    assert len(rows) == len(expected) == 4 * store.meta.counts.examples
    for example_id, name, is_default, clean, corrupted, correct in rows:
        np.testing.assert_allclose((clean, corrupted), expected[example_id, name], atol=within, rtol=0)
        assert is_default == (name == metric)
        assert correct == (clean > 0 if name in ("logit_diff", "prob_diff") else None)
        assert corrupted != clean
    assert [c for c in validate(store.path) if c.passed is False] == []


@pytest.mark.parametrize(
    "name",
    [
        "greater_than",
        "indirect_object",
        pytest.param("agreement", marks=pytest.mark.slow),
        pytest.param("induction", marks=pytest.mark.slow),
    ],
)
def test_scores_are_those_of_a_plain_pass_over_each_prompt(tmp_path: Path, loaded: Loaded, name: str) -> None:
    """In float32 a padded batch sums in another order."""
    store = captured(loaded, name, tmp_path)
    check_scores(loaded, store, 1e-5)
    pairs = store.query(
        "SELECT role, seq, n_tokens, first_changed, n_changed, example_id, task FROM task_pairs ORDER BY example_id, seq"
    ).fetchall()
    assert len(pairs) == 16 and {p[-1] for p in pairs} == {name}
    for clean, corrupted in zip(pairs[::2], pairs[1::2], strict=True):
        assert (clean[0], corrupted[0], clean[2:]) == ("clean", "corrupted", corrupted[2:])
        query = "SELECT token_id FROM tokens WHERE example_id = ? AND seq = ? ORDER BY pos"
        first, second = (np.array(store.query(query, [clean[5], seq]).fetchall())[:, 0] for seq in (0, 1))
        assert len(first) == len(second) == clean[2]
        changed = np.flatnonzero(first != second)
        assert (changed[0], len(changed)) == clean[3:5]
    assert store.query("SELECT count(DISTINCT (example_id, seq)) FROM next_token").fetchone() == (16,)
    batches = store.query("SELECT count(DISTINCT batch) FROM tokens GROUP BY example_id").fetchall()
    assert set(batches) == {(1,)}, "both prompts of a pair are in one batch"
    assert store.query("SELECT count(DISTINCT batch) FROM tokens").fetchone()[0] > 1


@pytest.mark.slow
def test_parts_merge_into_the_whole_run(tmp_path: Path, loaded: Loaded) -> None:
    whole = captured(loaded, "ioi", tmp_path, "whole", batch_tokens=1)
    for i in (1, 2):
        captured(loaded, "ioi", tmp_path, paths.part_name("w", i, 2), batch_tokens=1, shard=f"{i}/2")
    merge.merge(tmp_path, merge_plan.plan_merge(tmp_path, merge_plan.find_parts(tmp_path, "w"), "w"), keep=False)
    check_same(TraceStore(run_dir(tmp_path, "w")), whole)


def test_an_interrupted_capture_ends_as_if_nothing_had_happened(
    tmp_path: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_batches, "_SHARD_TOKENS", 120)
    whole = captured(loaded, "ioi", tmp_path, "whole")

    def stop(progress: job.Progress) -> None:
        if progress.sequences > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        captured(loaded, "ioi", tmp_path, report=stop)
    with pytest.raises(UsageError, match=r"differs in options.(seed|pairs_hash)"):
        captured(loaded, "ioi", tmp_path, seed=1)
    resumed: list[int] = []
    store = captured(loaded, "ioi", tmp_path, report=lambda p: resumed.append(p.resumed_tokens))
    assert max(resumed) > 0, "it went on, it did not start over"
    check_same(store, whole)


def check_same(one: TraceStore, whole: TraceStore) -> None:
    for name in ROWS:
        found, expected = (pq.read_table(store.path / paths.table_file(name)) for store in (one, whole))
        assert found.num_rows and found.equals(expected), name
    for site in whole.meta.sites:
        for layer in site.layers:
            key = sites.key_of(sites.tensor_name(site.side, site.site, layer))
            for piece in whole.slices(key):
                found, expected = (store.rows(key, piece.example_id, piece.seq) for store in (one, whole))
                assert np.array_equal(found, expected)
    volatile = {"run_id", "created_at", "seconds", "files", "bytes"}
    assert one.meta.model_dump(exclude=volatile) == whole.meta.model_dump(exclude=volatile)


def test_own_pairs_are_known_by_their_clean_text_and_keep_their_columns(tmp_path: Path, loaded: Loaded) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(
        "clean,corrupted,answer,wrong,topic\n"
        "The dog near the keys,The dogs near the keys, is, are,pets\n"
        "The dog near the keys,The cat near the keys, was, were,pets\n"
    )
    store = captured(loaded, str(file), tmp_path / "runs", n=None)
    check_scores(loaded, store, 1e-5)
    own = capture.next_token(loaded, ["The dog near the keys"], root=tmp_path / "runs", run="own")
    ids = store.query("SELECT example_id FROM examples ORDER BY idx").fetchall()
    assert len(set(ids)) == 2 and ids[:1] == own.query("SELECT example_id FROM examples").fetchall()
    (facts,) = store.query(
        "SELECT metadata ->> '$.topic', metadata ->> '$.corrupted' FROM examples WHERE idx = 0"
    ).fetchall()
    assert facts == ("pets", "The dogs near the keys")
    assert store.query("SELECT DISTINCT task, corruption, template FROM task_pairs").fetchall() == [
        ("mine", "own", None)
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [
                "The dog near the keys,The dogs near the keys, is, are",
                "The dog,The dog near, is, are",
                "The,The a, is, are",
            ],
            r"line 3: its clean prompt has 2 tokens, its corrupted one 3 \(2 of 3 pairs do not fit tiny\)",
        ),
        (["The dog,The dogs, isabelline, are"], "line 2: ' isabelline' is .* tokens after its prompt"),
        (["The dog,The dog, is, are"], "line 2: its two prompts are the same tokens"),
    ],
)
def test_own_pairs_that_do_not_fit_are_refused(tmp_path: Path, loaded: Loaded, rows: list[str], message: str) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(["clean,corrupted,answer,wrong", *rows]))
    with pytest.raises(UsageError, match=message):
        captured(loaded, str(file), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_labels_without_a_token_on_either_side_are_left_out_and_counted(tmp_path: Path, loaded: Loaded) -> None:
    """To a tokenizer with single digits no number is below those from 00 to 09."""
    file = tmp_path / "years.csv"
    rows = [
        f"The war began in 17{n:02d} and was over in 17,The war began in 1701 and was over in 17,{n}"
        for n in (5, 42, 77)
    ]
    file.write_text("\n".join(["clean,corrupted,label", *rows]))
    source = task.open_pairs(loaded, find_task(str(file)), task.Options())
    assert [row.text[17:21] for row in source.rows()] == ["1742", "1777"]
    line = "greater_than: 2 pairs kept, 1 left out: no token that is right, or none that is wrong (1)"
    assert source.description() == line


def test_pairs_are_drawn_until_there_are_enough(loaded: Loaded) -> None:
    source = task.open_pairs(loaded, find_task("greater_than"), task.Options(n=50))
    assert len(list(source.rows())) == 50 and "50 pairs kept, " in source.description()


def test_a_tokenizer_that_no_pair_fits_is_told_why(load_tiny: Callable) -> None:
    with pytest.raises(UsageError, match="indirect_object: no pair fits the tokenizer of .*: "):
        task.open_pairs(load_tiny(), find_task("ioi"), task.Options(n=3))


def test_only_a_decoder_goes_on_with_a_prompt(tmp_path: Path, word_tokenizer) -> None:
    for kind in ("bert", "t5"):
        model = capture.wrap(zoo.build(kind), word_tokenizer, name=kind)
        with pytest.raises(UsageError, match=f"{kind} is no decoder"):
            captured(model, "agreement", tmp_path)


def test_python_prepares_a_task_by_its_name(tmp_path: Path, loaded: Loaded) -> None:
    run = capture.prepare_task(loaded, "induction", n=4, keep="none", run="words", root=tmp_path)
    assert (run.meta.kind, run.meta.option("task"), run.meta.counts.examples) == ("task", "induction", 4)
    with pytest.raises(RunExistsError):
        capture.prepare_task(loaded, "induction", n=4, run="words", root=tmp_path)
    with pytest.raises(NotFoundError, match="No task 'induktion'"):
        capture.prepare_task(loaded, "induktion", root=tmp_path)


@pytest.mark.slow
def test_the_command_says_what_came_out_and_what_to_do_next(
    traces: Callable, loaded: Loaded, tiny_folder: Callable, tmp_path: Path
) -> None:
    listed = traces("task", "list", "--format", "tsv").out.splitlines()
    assert listed[0] == "name\tabout\tmetric" and len(listed) == 1 + len(TASKS)
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    words = (
        "task",
        "prepare",
        "ioi",
        "--model",
        tmp_path / "model",
        "--n",
        6,
        "--run",
        "t",
        "--warehouse",
        tmp_path / "runs",
    )
    assert "6 examples, 12 sequences" in traces(*words, "--dry-run").out
    lines = traces(*words).out.splitlines()
    assert lines[0].startswith("t: 6 examples, ") and lines[1].startswith("logit_diff on average: ")
    assert "right sign on " in lines[1] and lines[-1] == "next: traces ablate t --what heads"
    assert {s.site for s in TraceStore(run_dir(tmp_path / "runs", "t")).meta.sites} >= {"resid.post_mlp", "q", "k", "v"}
    refused = traces("task", "prepare", "ioi", "--model", tiny_folder("llama"), "--warehouse", tmp_path)
    assert refused.code == 2 and "no pair fits the tokenizer" in refused.err
    unknown = traces("task", "prepare", "nothing", "--model", tmp_path / "model")
    assert unknown.code == 2 and "There is: greater_than" in unknown.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "clean", "corrupted", "right"),
    [
        ("greater_than", 0.59, -0.51, 0.95),
        ("ioi", 5.1, -4.7, 0.97),
        ("agreement", 3.4, -3.3, 0.94),
        ("induction", 7.4, -7.6, 0.99),
    ],
)
def test_the_real_model_does_the_tasks(
    tmp_path: Path, smollm2: Loaded, name: str, clean: float, corrupted: float, right: float
) -> None:
    store = captured(smollm2, name, tmp_path, n=50, capture="", batch_tokens=1024)
    query = "SELECT avg(clean), avg(corrupted), avg(correct::INT) FROM task_scores WHERE is_default"
    ((found, spoilt, share),) = store.query(query).fetchall()
    assert found == pytest.approx(clean, rel=0.1) and spoilt == pytest.approx(corrupted, rel=0.1) and share >= right


@pytest.mark.slow
def test_pairs_of_years_from_a_file_count_by_their_tens(
    tmp_path: Path, smollm2: Loaded, shared: Callable[[str], Path]
) -> None:
    """SmolLM2 has single digits: 249 of 300 pairs have a right and a wrong one, and the answers come out as published for GPT-2."""
    file = str(shared("circuits/greater_than.csv"))
    source = task.open_pairs(smollm2, find_task(file), task.Options())
    assert len(list(source.rows())) == 249 and "51 left out" in source.description()
    store = captured(smollm2, file, tmp_path, n=24, capture="", batch_tokens=1024)
    check_scores(smollm2, store, 1e-3)
    query = "SELECT avg(clean), avg(corrupted), avg(correct::INT) FROM task_scores WHERE is_default"
    ((clean, corrupted, right),) = store.query(query).fetchall()
    assert 0.35 < clean < 0.6 and -0.9 < corrupted < -0.65 and right > 0.9
    assert {t for (t,) in store.query("SELECT DISTINCT token FROM task_targets").fetchall()} == set("0123456789")
