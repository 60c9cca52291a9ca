"""Fine-tuning: what it leaves, that it goes on where it stopped, and that it learns."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
import zoo
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from capture.data.example import Choice, Row, Source
from capture.jobs import mcq_encoder
from capture.model import loading
from capture.training.finetune import finetune
from capture.training.options import Options, TrainingProgress
from capture.training.questions import choose_set_aside
from warehouse import TraceStore, Warehouse
from warehouse.errors import RunExistsError, TracesError, UncertainResultWarning, UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

COLOURS = ["red", "green", "blue", "white", "black"]
OPTIONS = Options(epochs=3, lr=3e-3, batch_size=4, seed=1)


def colours(split: str, count: int, answers: bool = True, off: int = 0) -> Source:
    """Questions that a small model learns at once: the answer stands in the question. Those of each split are about others; `off` by
    one, their keys are wrong."""

    def rows():
        for i in range(count):
            order = COLOURS[i % 5 :] + COLOURS[: i % 5]
            choices = tuple(Choice(x, text) for x, text in zip("ABCDE", order, strict=True))
            yield Row(
                f"{split}{i}",
                f"{split} {i}: {order[i % 4]}?",
                choices=choices,
                answer=(i + off) % 4 if answers else None,
            )

    return Source("colours", None, split, "colours", rows)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    """A small random BERT, without a multiple-choice head."""
    folder = tmp_path_factory.mktemp("base")
    config = zoo.small_config(transformers.BertConfig, {"vocab_size": len(tokenizer)})
    zoo._instantiate(transformers.BertModel, config, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def trained(base: str, out: Path, root: Path, options: Options = OPTIONS, run_id: str = "ft", **more: object):
    loaded = loading.load(base, head="multiple-choice", device="cpu", seed=options.seed)
    return finetune(
        loaded, colours("train", 16), colours("validation", 10), options, out=out, root=root, run_id=run_id, **more
    )


def test_what_it_leaves(tmp_path: Path, base: str) -> None:
    """An epoch's weights, a run with loss and accuracy by step, and captures that name it as their parent."""
    steps: list[TrainingProgress] = []
    manifest = trained(base, tmp_path / "out", tmp_path / "runs", report=steps.append)
    assert [s.step for s in steps] == list(range(1, 13))
    assert steps[-1].steps == 12
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "config.json", "finetuned.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    assert manifest.kind == "finetune"
    assert not [c for c in validate(run_dir(tmp_path / "runs", "ft")) if c.passed is False]
    rows = TraceStore(run_dir(tmp_path / "runs", "ft")).query("SELECT * FROM training ORDER BY step, split").df()
    train, held = rows[rows["split"] == "train"], rows[rows["split"] == "validation"]
    assert held["step"].tolist() == [4, 8, 12]
    assert train["step"].tolist() == list(range(1, 13))
    assert (train["learning_rate"].diff().dropna() < 0).all()
    assert train["loss"].iloc[-1] < train["loss"].iloc[0]

    loaded = loading.load(str(tmp_path / "out"), head="multiple-choice", device="cpu")
    assert not loaded.untrained
    captured = mcq_encoder.run(
        loaded, colours("validation", 10), mcq_encoder.Options(), root=tmp_path / "runs", run_id="c"
    )
    assert captured.parents == ["ft"]
    with Warehouse(tmp_path / "runs") as wh:
        (row,) = wh.sql("SELECT avg(is_correct::INT) FROM mcq_predictions WHERE run_id = 'c'").fetchall()
        assert wh.sql("SELECT run_id, parents, tables FROM runs WHERE kind = 'finetune'").fetchall() == [
            ("ft", [], ["training"])
        ]
    # too few questions to choose by: the model kept is the last, and its capture answers as the evaluation did
    assert row[0] == pytest.approx(held["accuracy"].iloc[-1])
    assert (manifest.options["set_aside"], manifest.options["kept_step"], manifest.options["held_out"]) == (0, 12, 10)

    loaded.model.base_model.embeddings.word_embeddings.weight += 1
    changed = mcq_encoder.run(
        loaded, colours("validation", 10), mcq_encoder.Options(), root=tmp_path / "runs", run_id="d"
    )
    assert changed.parents == []  # no longer what came out of it


class Stop(Exception):
    pass


@pytest.mark.slow
def test_the_epoch_is_chosen_by_training_questions_that_are_set_aside(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the keys of the split that is reported, the same epoch is kept: its accuracy is that of questions which chose nothing.
    And a training that goes on after a kill keeps it too."""
    monkeypatch.setattr("capture.training.questions._MIN_SET_ASIDE", 4)
    options = Options(epochs=2, lr=3e-2, batch_size=12, seed=1)  # so fast that it gets worse on the way
    places = {"root": tmp_path / "runs"}
    found, told = [], []
    for name, off in (("right", 0), ("wrong", 1)):
        loaded = loading.load(base, head="multiple-choice", device="cpu", seed=options.seed)
        train, held = colours("train", 40), colours("validation", 5, off=off)
        found.append(finetune(loaded, train, held, options, out=tmp_path / name, run_id=name, **places))
        rows = TraceStore(run_dir(tmp_path / "runs", name)).query("SELECT * FROM training ORDER BY step, split").df()
        told.append({split: same.set_index("step").accuracy for split, same in rows.groupby("split")})
    for manifest, by_split in zip(found, told, strict=True):
        assert set(by_split) == {"train", "validation", "set aside"}
        assert list(by_split["set aside"].index) == list(by_split["validation"].index) == [3, 6]  # 36 questions
        assert (manifest.options["set_aside"], manifest.counts.examples) == (4, 40)
        assert manifest.options["kept_step"] == by_split["set aside"].idxmax()
    assert found[0].model.weights_hash == found[1].model.weights_hash
    assert not told[0]["validation"].equals(told[1]["validation"])

    def stop(step: TrainingProgress) -> None:
        if step.step == 4:
            raise Stop

    for report in (stop, lambda _: None):
        loaded = loading.load(base, head="multiple-choice", device="cpu", seed=options.seed)
        with nullcontext() if report is not stop else pytest.raises(Stop):
            resumed = finetune(
                loaded, train, held, options, out=tmp_path / "again", run_id="a", report=report, **places
            )
    assert resumed.model.weights_hash == found[0].model.weights_hash
    assert resumed.options["kept_step"] == found[0].options["kept_step"]


@pytest.mark.parametrize(("count", "epochs", "expected"), [(199, 3, 0), (200, 1, 0), (200, 2, 20), (1005, 2, 101)])
def test_a_tenth_of_every_answers_questions_is_set_aside(count: int, epochs: int, expected: int) -> None:
    answers = [min(i % 7, 4) for i in range(count)]
    aside = choose_set_aside(answers, Options(epochs=epochs))
    assert len(aside) == len(set(aside)) == expected and aside == choose_set_aside(answers, Options(epochs=epochs))
    for answer in range(5) if aside else ():
        assert sum(answers[i] == answer for i in aside) == pytest.approx(answers.count(answer) / 10, abs=1)


def test_a_split_that_was_seen_is_told(tmp_path: Path, base: str) -> None:
    loaded = loading.load(base, head="multiple-choice", device="cpu")
    places = {"out": tmp_path / "x", "root": tmp_path / "runs"}
    with pytest.raises(
        UsageError, match="evaluated on train, the split that it is trained on. Choose another --eval-split"
    ):
        finetune(loaded, colours("train", 4), colours("train", 4), OPTIONS, **places)
    same = replace(colours("train", 3), split="validation")
    with pytest.warns(UncertainResultWarning, match="ft: 3 of 3 questions of validation are training questions too"):
        finetune(loaded, colours("train", 4), same, replace(OPTIONS, epochs=1), run_id="ft", **places)


@pytest.mark.parametrize("at", [6, pytest.param(12, marks=pytest.mark.slow)])
def test_it_goes_on_after_the_last_whole_epoch(tmp_path: Path, base: str, at: int) -> None:
    undisturbed = trained(base, tmp_path / "a", tmp_path / "runs", run_id="a")

    def stop(step: TrainingProgress) -> None:
        seen.append(step.step)
        if step.step == at:
            raise Stop

    seen: list[int] = []
    with pytest.raises(Stop):
        trained(base, tmp_path / "b", tmp_path / "runs", run_id="b", report=stop)
    assert not (tmp_path / "b" / "model.safetensors").exists()
    with pytest.raises(UsageError, match="other data or options"):
        trained(base, tmp_path / "b", tmp_path / "runs", replace(OPTIONS, lr=1e-3), run_id="x")
    begun = len(seen)
    at = 0
    resumed = trained(base, tmp_path / "b", tmp_path / "runs", run_id="b", report=stop)
    assert seen[begun] == (5 if begun == 6 else 9)  # four steps an epoch
    assert resumed.model.weights_hash == undisturbed.model.weights_hash
    one, two = (load_file(tmp_path / x / "model.safetensors") for x in "ab")
    assert all(torch.equal(one[k], two[k]) for k in one)
    told = [
        TraceStore(run_dir(tmp_path / "runs", x)).query("SELECT * EXCLUDE (run_id) FROM training ORDER BY ALL").df()
        for x in "ab"
    ]
    assert told[0].equals(told[1])


@pytest.mark.slow
def test_a_checkpoint_cut_short_is_not_gone_on_from(tmp_path: Path, base: str) -> None:
    def stop(step: TrainingProgress) -> None:
        if step.step == 6:
            raise Stop

    with pytest.raises(Stop):
        trained(base, tmp_path / "out", tmp_path / "runs", report=stop)
    (whole,) = (tmp_path / "out" / "checkpoints").glob("checkpoint-*")
    half = whole.with_name("checkpoint-8")
    half.mkdir()
    (half / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:1000])
    found = trained(base, tmp_path / "out", tmp_path / "runs")
    assert found.model.weights_hash == trained(base, tmp_path / "b", tmp_path / "runs", run_id="b").model.weights_hash


def test_checkpoints_hold_no_pickle_that_is_read(tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever torch.load reads on the way is read as weights only."""
    asked = []
    load = torch.load

    def watched(*args: object, **kw: object):
        asked.append(kw.get("weights_only"))
        return load(*args, **kw)

    def stop(step: TrainingProgress) -> None:
        if step.step == 6:
            raise Stop

    with pytest.raises(Stop):
        trained(base, tmp_path / "out", tmp_path / "runs", report=stop)
    monkeypatch.setattr(torch, "load", watched)
    trained(base, tmp_path / "out", tmp_path / "runs")
    assert asked and all(asked)


class _Runs:
    """What leaves a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable, tuple[Path]]:
        return (Path.touch, (self.trace,))


def _state(checkpoint: Path, **fields: object) -> None:
    path = checkpoint / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


ALTERED: dict[str, Callable[[Path], object]] = {
    "pickled weights": lambda c: (
        (c / "model.safetensors").unlink() or torch.save(_Runs(c / "was run"), c / "pytorch_model.bin")
    ),
    "a pickled optimizer": lambda c: torch.save(_Runs(c / "was run"), c / "optimizer.pt"),
    "an optimizer cut short": lambda c: os.truncate(c / "optimizer.pt", 100),
    "weights cut short": lambda c: os.truncate(c / "model.safetensors", 1000),
    "a state that is no JSON": lambda c: (c / "trainer_state.json").write_text("{"),
    "a state of another kind": lambda c: (c / "trainer_state.json").write_text("[]"),
    "a best checkpoint elsewhere": lambda c: _state(c, best_model_checkpoint=str(c.parent.parent.parent / "other")),
    "a best checkpoint that is none": lambda c: _state(c, best_model_checkpoint=5),
    "steps that are none": lambda c: _state(c, global_step="x"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_a_checkpoint_that_was_altered_is_named_and_nothing_in_it_is_run(tmp_path: Path, base: str, what: str) -> None:
    def stop(step: TrainingProgress) -> None:
        if step.step == 5:
            raise Stop

    with pytest.raises(Stop):
        trained(base, tmp_path / "out", tmp_path / "runs", report=stop)
    (checkpoint,) = (tmp_path / "out" / "checkpoints").glob("checkpoint-*")
    (checkpoint.parent / "checkpoint-of-mine").mkdir()
    ALTERED[what](checkpoint)
    with pytest.raises(UsageError, match=f"{checkpoint} cannot be resumed:.*Delete it") as e:
        trained(base, tmp_path / "out", tmp_path / "runs")
    assert "\n" not in str(e.value)
    assert not (checkpoint / "was run").exists()
    assert not (tmp_path / "runs").exists()


def test_a_training_that_stopped_before_its_first_checkpoint_leaves_nothing(tmp_path: Path, base: str) -> None:
    def stop(step: TrainingProgress) -> None:
        raise Stop

    with pytest.raises(Stop):
        trained(base, tmp_path / "models" / "out", tmp_path / "runs", report=stop)
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_says_so(tmp_path: Path, base: str) -> None:
    with pytest.raises(TracesError, match=r"diverged: .*smaller --lr than 1e\+30"):
        trained(base, tmp_path / "out", tmp_path / "runs", replace(OPTIONS, lr=1e30, epochs=1))


@pytest.mark.slow
def test_gradient_checkpointing_computes_the_same(tmp_path: Path, base: str) -> None:
    plain = trained(base, tmp_path / "a", tmp_path / "runs", run_id="a")
    loaded = loading.load(base, head="multiple-choice", device="cpu", seed=OPTIONS.seed)
    options, seen = replace(OPTIONS, gradient_checkpointing=True), []
    less = finetune(
        loaded,
        colours("train", 16),
        colours("validation", 10),
        options,
        out=tmp_path / "b",
        root=tmp_path / "runs",
        report=lambda _: seen.append(loaded.model.is_gradient_checkpointing and loaded.model.training),
    )
    assert plain.model.weights_hash == less.model.weights_hash
    assert all(seen) and len(seen) == 12


def test_what_is_in_the_way(tmp_path: Path, base: str, load_tiny: Callable) -> None:
    trained(base, tmp_path / "out", tmp_path / "runs", replace(OPTIONS, epochs=1))
    with pytest.raises(UsageError, match="not empty"):
        trained(base, tmp_path / "out", tmp_path / "runs", run_id="other")
    with pytest.raises(RunExistsError):
        trained(base, tmp_path / "new", tmp_path / "runs")
    assert not (tmp_path / "new").exists()
    loaded = loading.load(base, head="multiple-choice", device="cpu")
    places = {"out": tmp_path / "x", "root": tmp_path / "runs"}
    with pytest.raises(UsageError, match="no answer key"):
        finetune(loaded, colours("train", 4, answers=False), colours("validation", 4), OPTIONS, **places)
    with pytest.raises(UsageError, match="is no encoder"):
        finetune(load_tiny(), colours("train", 4), colours("validation", 4), OPTIONS, **places)
    assert not (tmp_path / "x").exists()
