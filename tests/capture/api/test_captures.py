"""Captures from Python: the same runs as the commands make, on models that are in memory, and the same refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import DATA

import capture
from capture.model.loading import Loaded
from warehouse import TraceStore, Warehouse
from warehouse.errors import NotFoundError, RunExistsError, UsageError

TEXTS = ["The lamp was lit at dusk.", "Nobody came.", "The lamp was lit at dusk."]


def rows(store: TraceStore, table: str) -> list[tuple[Any, ...]]:
    return store.query(f"SELECT * EXCLUDE (run_id) FROM {table} ORDER BY ALL").fetchall()


@pytest.mark.slow
def test_a_run_from_python_is_the_run_that_the_command_makes(
    tmp_path: Path, tiny_folder: Callable[[str], Path], traces: Callable[..., Any]
) -> None:
    """The same rows and the same tensors, under the same example ids: the texts of a file and of a list are one and the same."""
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    folder, root = tiny_folder("llama"), tmp_path / "runs"
    command = ["capture", "next-token", "--model", folder, "--text", file, "--capture", "resid,qkv", "--run", "command"]
    assert traces(*command, "--top-k", 3, "--warehouse", root).code == 0
    theirs = TraceStore(root / "run_id=command")
    model = capture.load(str(folder))
    ours = capture.next_token(model, TEXTS, keep="resid,qkv", run="python", root=root, top_k=3)
    for table in ("next_token", "tokens"):
        assert rows(ours, table) == rows(theirs, table)
    assert ours.meta.options == theirs.meta.options
    for example_id in set(ours.tokens["example_id"]):
        for layer in range(3):
            assert np.array_equal(
                ours.resid(example_id, layer=layer).view(np.uint16),
                theirs.resid(example_id, layer=layer).view(np.uint16),
            )


def test_a_wrapped_model_is_recorded_as_it_is_and_left_as_it_was(
    tmp_path: Path, make_llama: Callable[..., Any], tokenizer: Any
) -> None:
    """In training mode with dropout, trained further between two captures: each has the states of its own moment, without dropout."""
    hf = make_llama(attention_dropout=0.5)
    hf.train()
    model = capture.wrap(hf, tokenizer, name="mine")
    first = capture.encode(model, TEXTS[:2], keep="resid", store_dtype="float32", root=tmp_path, run="first")
    assert hf.training and all(p.requires_grad for p in hf.parameters())
    with torch.no_grad():
        hf.model.embed_tokens.weight.mul_(2)
    second = capture.encode(model, TEXTS[:2], keep="resid", store_dtype="float32", root=tmp_path, run="second")
    assert first.meta.model.weights_hash != second.meta.model.weights_hash
    assert first.meta.model.name == "mine"
    for example_id in first.tokens["example_id"]:
        before, after = (s.resid(example_id, stage="embed") for s in (first, second))
        assert np.array_equal(2 * before, after)
    hf.eval()
    example_id = second.tokens["example_id"].iloc[0]
    ids = torch.from_numpy(second.encodings(example_id)["input_ids"].astype(np.int64))[None]
    states = hf(ids, output_hidden_states=True).hidden_states[2][0].detach().numpy()
    np.testing.assert_allclose(
        second.resid(example_id, layer=1), states, rtol=0, atol=1e-5
    )  # it read them in one batch


def test_the_same_call_goes_on_where_one_was_interrupted(
    tmp_path: Path, load_tiny: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_tiny()
    texts = [f"{text} {n}" for n in range(40) for text in TEXTS[:2]]
    options: dict[str, Any] = {"keep": "resid,qkv", "shard_mb": 1, "batch_tokens": 256}
    whole = capture.next_token(model, texts, root=tmp_path / "whole", run="a", **options)
    from capture.jobs import run_job

    record, seen = run_job._record, []

    def interrupted(*args: Any) -> Any:
        seen.append(args)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return record(*args)

    monkeypatch.setattr(run_job, "_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        capture.next_token(model, texts, root=tmp_path / "part", run="a", **options)
    monkeypatch.setattr(run_job, "_record", record)
    resumed = capture.next_token(model, texts, root=tmp_path / "part", run="a", **options)
    assert rows(resumed, "next_token") == rows(whole, "next_token")


def test_a_name_that_is_taken_is_an_error_or_returned_when_asked(
    tmp_path: Path, load_tiny: Callable[..., Loaded]
) -> None:
    model = load_tiny()
    made = capture.next_token(model, TEXTS, run="a", root=tmp_path)
    with pytest.raises(RunExistsError, match=r"Choose another name,.*traces runs rm a"):
        capture.next_token(model, TEXTS, run="a", root=tmp_path)
    again = capture.next_token(model, ["other"], run="a", root=tmp_path, skip_existing=True)
    assert again.meta.run_id == "a" and again.meta.counts == made.meta.counts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": "residual"}, "No site 'residual'.*keep takes"),
        ({"keep": ""}, "keep is empty"),
        ({"attn": "never"}, "attn never: use auto or stored"),
        ({"store_dtype": "int4"}, "store_dtype int4: use auto"),
        ({"index": "resid.pre_attn@3"}, "cannot be indexed"),
        ({"limit": 0}, "limit 0: at least 1"),
        ({"limit": "5"}, "limit '5': give a whole number or None, not a str"),
        ({"batch_tokens": 2.0}, "batch_tokens 2.0: give a whole number, not a float"),
        ({"max_len": 1}, "max_len 1: at least 2"),
        ({"max_len": 10_000}, "max_len 10000 is more than"),
        ({"chunk": "yes"}, "chunk 'yes': give True or False"),
        ({"top_k": 0}, "top_k 0: at least 1"),
        ({"stride": 0}, "stride 0: at least 1"),
        ({"prepend_bos": "maybe"}, "prepend_bos maybe: use"),
        ({"part": "3/2"}, "3/2"),
        ({"run": "a/b"}, "cannot name a run"),
    ],
)
def test_arguments_are_checked_as_the_commands_check_them_and_named_as_in_python(
    tmp_path: Path, load_tiny: Callable[..., Loaded], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as e:
        capture.next_token(load_tiny(), TEXTS, root=tmp_path / "runs", **arguments)
    assert "--" not in str(e.value).split("traces ")[0]
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("run_id=*"))


def test_what_is_no_model_and_no_data_is_refused_with_what_to_write(
    tmp_path: Path, load_tiny: Callable[..., Loaded], make_llama: Callable[..., Any], tokenizer: Any
) -> None:
    model = load_tiny()
    for wrong, message in (
        ("smollm2", r"model = capture.load\('smollm2'\)"),
        (model.hf, "capture.wrap"),
        (None, "A NoneType is no loaded model"),
    ):
        with pytest.raises(UsageError, match=message):
            capture.next_token(wrong, TEXTS, root=tmp_path)
    for data, message in (
        ("one text", r"Give a list of texts, \[text\]"),
        (Path("a.txt"), "capture.open_file"),
        ([], "no text"),
        ({"text": TEXTS}, r"frame\['text'\]"),
        ([1, 2], "text"),
        (["  "], "no text"),
    ):
        with pytest.raises(UsageError, match=message):
            capture.next_token(model, data, root=tmp_path)
    for hf, tok, message in (
        (torch.nn.Linear(2, 2), tokenizer, "A Linear is no model of transformers"),
        (make_llama(), None, "A NoneType is no tokenizer"),
    ):
        with pytest.raises(UsageError, match=message):
            capture.wrap(hf, tok)
    with pytest.raises(NotFoundError, match="nothing-there"):
        capture.open_file(tmp_path / "nothing-there.csv")
    with pytest.raises(UsageError, match="head 'lmm'"):
        capture.load("smollm2", head="lmm")


def test_labels_of_a_file_and_of_a_list_are_the_same_rows(tmp_path: Path, load_tiny: Callable[..., Loaded]) -> None:
    file = tmp_path / "reviews.csv"
    file.write_text("review,stars\nThe lamp was lit.,good\nNobody came.,bad\nThe sea was calm.,good\n")
    model = load_tiny()
    from_file = capture.encode(
        model, capture.open_file(file, text_column="review", label_column="stars"), root=tmp_path, run="file"
    )
    labelled = capture.open_texts(
        ["The lamp was lit.", "Nobody came.", "The sea was calm."], labels=["good", "bad", "good"]
    )
    from_list = capture.encode(model, labelled, root=tmp_path, run="list")
    assert rows(from_file, "labels") == rows(from_list, "labels") != []


@pytest.mark.slow
def test_questions_are_put_as_the_model_can_answer_them(
    tmp_path: Path, load_tiny: Callable[..., Loaded], smollm2: Loaded
) -> None:
    """A decoder gets prompts; what is predicted is the choice whose letter has the highest logit."""
    questions = capture.open_dataset("csqa", from_=DATA / "questions.jsonl", root=tmp_path)
    run = capture.mcq(smollm2, questions, limit=3, root=tmp_path, run="q")
    assert run.meta.kind == "mcq-prompt" and run.meta.counts.examples == 3
    for row in run.tokens.itertuples():
        assert row.pred_idx == int(np.argmax(row.choice_logits))
    with pytest.raises(UsageError, match="score vowel"):
        capture.mcq(smollm2, questions, score="vowel", root=tmp_path, run="r")


@pytest.mark.slow
def test_generating_keeps_the_residual_stream_and_projects_on_the_models_traits(
    tmp_path: Path, make_llama: Callable[..., Any], tokenizer: Any, traces: Callable[..., Any]
) -> None:
    model = capture.wrap(make_llama(max_position_embeddings=1024), tokenizer, name="tiny")
    plain = capture.generate(model, ["The lamp"], root=tmp_path, run="plain", max_new_tokens=4)
    assert {"resid.post_mlp", "resid.embed"} <= plain.sites
    runs = capture.run_traits(
        model, "capitals", n=16, max_new_tokens=4, temperature=0, coefficients=(0, 1), root=tmp_path
    )
    assert list(runs) == [
        f"capitals-tiny-{name}" for name in ("responses", "vectors", "vectors-evaluated", "vectors-steered")
    ]
    again: dict[str, Any] = {"max_new_tokens": 4, "temperature": 0, "coefficients": (0, 1), "root": tmp_path}
    steered = capture.steer(model, "capitals", layers="best", run="steered", **again)
    assert rows(steered, "responses") == rows(runs["capitals-tiny-vectors-steered"], "responses")
    assert capture.steer(model, "capitals", layers=0, run="steered", skip_existing=True, **again).path == steered.path
    with pytest.raises(RunExistsError):
        capture.steer(model, "capitals", **again)
    with pytest.raises(UsageError, match=r"^layers deep: use mid, best, or numbers"):
        capture.steer(model, "capitals", layers="deep", **again)
    capture.generate(model, ["The lamp"], root=tmp_path, run="answers", max_new_tokens=4)
    capture.generate(model, ["The lamp"], root=tmp_path, run="bare", max_new_tokens=4, project=False)
    with Warehouse(tmp_path) as wh:
        projected = wh.sql("SELECT DISTINCT parents[1] FROM runs WHERE kind = 'trait-projection'").fetchall()
        assert projected == [("answers",)]
        by_hand = capture.project("plain", "capitals", root=tmp_path)
        assert by_hand.meta.run_id == "plain-traits"
        n = wh.sql("SELECT count(*) FROM trait_projections WHERE run_id = 'answers-traits'").fetchall()
        assert n == [(capture_tokens(tmp_path, "answers"),)]
    model.hf.save_pretrained(tmp_path / "folder")
    tokenizer.save_pretrained(tmp_path / "folder")
    command = ["capture", "generate", "--model", tmp_path / "folder", "--prompt", "The lamp", "--max-new-tokens", 4]
    done = traces(*command, "--run", "command", "-w", tmp_path)
    assert done.code == 0 and "command-traits: " in done.out, done.err
    assert "resid.post_mlp" in TraceStore(tmp_path / "run_id=command").sites
    bare = traces(*command, "--run", "alone", "--no-project", "--capture", "none", "-w", tmp_path)
    assert bare.code == 0 and "projections" not in bare.out
    none = traces(*command, "--run", "unfit", "--capture", "none", "-w", tmp_path)
    assert none.code == 0 and "not projected on capitals: " in none.err


def capture_tokens(root: Path, run: str) -> int:
    return TraceStore(root / f"run_id={run}").meta.counts.tokens


@pytest.mark.slow
def test_a_lens_of_a_model_in_memory_is_that_of_the_model_on_disk(
    tmp_path: Path, make_llama: Callable[..., Any], tokenizer: Any, load_tiny: Callable[..., Loaded]
) -> None:
    loaded = load_tiny()
    run = capture.next_token(loaded, TEXTS[:2], keep="resid", root=tmp_path, run="a")
    on_disk = capture.lens(run, top_k=3)
    in_memory = capture.lens(run, model=capture.wrap(loaded.hf, loaded.tokenizer), top_k=3, run="memory")
    assert on_disk.meta.run_id == "a-lens"
    assert rows(on_disk, "logit_lens") == rows(in_memory, "logit_lens")
    some = capture.lens("a", root=tmp_path, layers=[0, "last"], positions=[0, 1], top_k=3, run="some")
    assert {(layer, pos) for layer, pos in some.query("SELECT DISTINCT layer, pos FROM logit_lens").fetchall()} == {
        (layer, pos) for layer in (0, 2) for pos in (0, 1)
    }
    stranger = capture.wrap(make_llama(seed=5), tokenizer, name="stranger")
    kept = capture.next_token(stranger, TEXTS[:1], keep="resid", root=tmp_path, run="kept")
    with pytest.raises(UsageError, match=r"If the model of run 'kept' lies elsewhere now: model=…"):
        capture.lens(kept, run="gone")
    with pytest.raises(UsageError, match="has other weights"):
        capture.lens(kept, model=loaded, run="gone")


def test_saved_queries_are_asked_by_name(tmp_path: Path, load_tiny: Callable[..., Loaded]) -> None:
    run = capture.next_token(load_tiny(), TEXTS, root=tmp_path, run="a")
    with Warehouse(tmp_path) as wh:
        names = wh.queries()
        assert {"calibration", "compare_runs"} <= set(names["query"]) and names["title"].str.len().min() > 0
        expected = wh.sql(
            "SELECT pos, count(*), avg(loss) FROM next_token WHERE run_id = 'a' GROUP BY pos ORDER BY pos"
        ).fetchall()
        asked = wh.ask("loss_by_position", run=run).fetchall()
        assert [row[0] for row in asked] == [row[0] for row in expected]
        assert wh.ask("loss_by_position", run="a").fetchall() == asked
        with pytest.raises(NotFoundError, match="calibration"):
            wh.ask("calibratoin")
        with pytest.raises(NotFoundError, match="variable"):
            wh.ask("calibration", runs="a")
