"""Logs that Inspect and lm-evaluation-harness make, of a tiny model: what is read in them against what those packages read themselves.

That a text is read as the model saw it is said by numbers: where the harness scored a continuation, our loss over its tokens is minus
the log-probability in its log.

The packages live in a virtual environment of their own, made from requirements-evaluations.txt; its Python is named by
EVALUATIONS_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from other_pythons import other_python

from capture.data.evaluations.open_logs import find_logs, open_logs
from capture.data.example import Row, Source
from capture.data.transcript import Chat
from warehouse import Warehouse
from warehouse.errors import UsageError
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

EVALUATIONS_PYTHON, pytestmark = other_python(
    "EVALUATIONS_PYTHON", "requirements-evaluations.txt", pytest.mark.evaluations, pytest.mark.slow
)

TEMPLATE = """{{ bos_token }}{% if tools %}{{ '<|im_start|>system
' + tools|tojson + '<|im_end|>
' }}{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '
' }}{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m.content }}{% for c in m.tool_calls %}
{{ '<tool_call>' + (c.function|tojson) + '</tool_call>' }}{% endfor %}{{ '<|im_end|>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

NEAR = 1e-4
"""Of sums of a few float32 losses near 6, computed in batches there and here."""


@pytest.fixture(scope="module")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., Any], sample_lines: list[str]
) -> Path:
    """A tiny Llama whose tokenizer puts a BOS before every text, as its chat template does too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "<|im_start|>", "<|im_end|>"]
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    t.train_from_iterator(sample_lines, trainer)
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=t, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>", chat_template=TEMPLATE
    )
    folder = tmp_path_factory.mktemp("evaluated") / "tiny"
    make_llama(
        vocab_size=len(tokenizer), max_position_embeddings=512, bos_token_id=1, eos_token_id=3, pad_token_id=0
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """The logs of evaluate.py, made once."""
    out = tmp_path_factory.mktemp("logs")
    done = subprocess.run(
        [EVALUATIONS_PYTHON, "-I", str(Path(__file__).with_name("evaluate.py")), str(model_folder), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def said(logs: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((logs / "said.json").read_text(encoding="utf-8"))
    return found


def opened(folder: Path) -> Source:
    return open_logs(str(folder), find_logs(folder))


def rows(folder: Path) -> list[Row]:
    return [example.row for example in opened(folder).read()]


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, logs: Path, model_folder: Path) -> Path:
    """A warehouse with a run over the logs of the model's own answers, a run for each folder."""
    from capture.jobs import next_token
    from capture.model import loading

    root = tmp_path_factory.mktemp("captured") / "runs"
    loaded = loading.load(str(model_folder), device="cpu")
    for folder in ("hf", "harness", "harness_chat"):
        next_token.run(loaded, opened(logs / folder), next_token.Options(capture="resid"), root=root, run_id=folder)
    return root


@pytest.mark.parametrize("folder", ["mock", "whole", "hf"])
def test_every_score_is_the_number_that_inspect_makes_of_it(logs: Path, said: dict[str, Any], folder: str) -> None:
    found = [
        [row.source_id, x.epoch, x.scorer, x.metric, x.value] for row in rows(logs / folder) for x in row.evaluations
    ]
    assert sorted(found, key=str) == sorted(said["scores"][folder], key=str)


def test_samples_in_chunks_are_the_same_samples(logs: Path) -> None:
    assert rows(logs / "chunked") == rows(logs / "mock")


def test_a_tool_call_and_its_tool_are_as_chat_templates_take_them(logs: Path) -> None:
    (chat, _) = next(row.transcripts for row in rows(logs / "mock") if row.source_id == "sum")
    assert isinstance(chat, Chat)
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant", "tool", "assistant"]
    call, result, answer = chat.messages[2:]
    assert call["tool_calls"][0]["function"] == {"name": "add", "arguments": {"x": 1, "y": 1}}
    assert (result["content"], result["name"], result["tool_call_id"]) == ("2", "add", call["tool_calls"][0]["id"])
    assert (answer["content"], answer["reasoning_content"]) == ("2", "It is the sum.")
    (tool,) = chat.tools
    assert (tool["function"]["name"], tool["function"]["description"]) == ("add", "Add two numbers.")


def test_an_evaluation_that_failed_is_refused_with_its_reason(logs: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no sample to read of sums: left out: .* ended in an error; the evaluation ended in"
    ):
        opened(logs / "failed")


def test_a_chat_is_read_as_inspects_provider_put_it(captured: Path, said: dict[str, Any]) -> None:
    with Warehouse(captured) as wh:
        texts = dict(
            wh.sql("SELECT source_id, p.text FROM prompts AS p JOIN examples USING (run_id, example_id) "
                   "WHERE run_id = 'hf'").fetchall()
        )  # fmt: skip
    for sample_id, prompt, answer in zip(("more", "sum"), said["prompts"], said["answers"], strict=True):
        assert texts[sample_id] == f"{prompt}{answer}<|im_end|>\n"


@pytest.mark.parametrize("folder", ["harness", "harness_chat"])
def test_our_loss_of_a_continuation_is_the_harness_log_probability(captured: Path, folder: str) -> None:
    """Of choices and of likelihoods: the same tokens after the same tokens, one BOS before them all.

    Of whole texts it is but for the BOS: where a tokenizer adds one, the harness puts another before it, and scores the second.
    """
    with Warehouse(captured) as wh:
        found = wh.sql(
            "SELECT v.task, v.value, -sum(p.loss) AS ours FROM evaluations AS v JOIN next_token AS p USING (run_id, example_id, seq) "
            "JOIN tokens AS t ON t.run_id = p.run_id AND t.example_id = p.example_id AND t.seq = p.seq AND t.pos = p.pos + 1 "
            f"WHERE v.run_id = '{folder}' AND v.metric = 'logprob' AND v.task <> 'texts' AND t.is_response "
            "GROUP BY v.task, v.value, v.example_id, v.seq ORDER BY ALL"
        ).fetchall()
    assert [task for task, _, _ in found] == ["choices"] * 4 + ["likelihood"] * 2
    for _, theirs, ours in found:
        assert ours == pytest.approx(theirs, abs=NEAR)


@pytest.mark.parametrize("folder", ["harness", "harness_chat"])
def test_means_of_scores_are_those_that_the_harness_reports(captured: Path, said: dict[str, Any], folder: str) -> None:
    with Warehouse(captured) as wh:
        found = {
            (task, f"{metric},{scorer}"): value
            for task, metric, scorer, value in wh.sql(
                "SELECT task, metric, scorer, avg(value) FROM (SELECT DISTINCT example_id, task, metric, scorer, value FROM evaluations "
                f"WHERE run_id = '{folder}') GROUP BY ALL"
            ).fetchall()
        }
    for task, metrics in said["means"][folder].items():
        for name, value in metrics.items():
            if name.partition(",")[0] in ("acc", "acc_norm", "exact_match"):
                assert found[task, name] == value, (task, name)


@pytest.mark.parametrize("folder", ["hf", "harness", "harness_chat"])
def test_runs_over_logs_are_sound_and_can_be_asked(captured: Path, folder: str) -> None:
    assert [c.detail for c in validate(run_dir(captured, folder)) if c.passed is False] == []
    with Warehouse(captured) as wh:
        assert wh.ask("right_against_wrong", run=folder).fetchall()
        assert wh.ask("failures", run=folder).fetchall()
