"""Makes logs of evaluations with Inspect and lm-evaluation-harness, and says what those packages themselves read in them.

Runs in their environment, not in ours.

    python evaluate.py MODEL_FOLDER OUT

OUT gets a folder of logs a line here:

    mock/           Inspect's .eval: two samples, two epochs, a tool call, reasoning, scorers of one value and of several
    chunked/        the same log, with its samples in chunks as Inspect writes large ones
    whole/          Inspect's .json, of one epoch
    hf/             the model's own answers to two questions, through Inspect's provider hf
    failed/         an evaluation whose model failed at once
    harness/        lm-evaluation-harness on the model: choices, a likelihood, whole texts, and prompts it goes on with
    harness_chat/   the same with --apply_chat_template

and said.json: `scores`, for each folder of Inspect's the rows [sample, epoch, scorer, metric, value]; `prompts`, what its provider put
to the model, and `answers`; `means`, for each folder of the harness the mean of each task's metrics.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "INSPECT_DISPLAY": "none", "TQDM_DISABLE": "1"}

import yaml
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log
from inspect_ai.log._recorders.chunked.convert import convert_eval_logs_to_chunked
from inspect_ai.model import ChatMessageUser, ContentReasoning, ContentText, ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, match, mean, scorer, value_to_float
from inspect_ai.solver import generate, system_message, use_tools
from inspect_ai.tool import tool

QUESTIONS = MemoryDataset(
    [
        Sample(id="sum", input="What is 1 + 1?", target="2", metadata={"level": 1}),
        Sample(id="more", input=[ChatMessageUser(content="What is 2 + 2?")], target=["4", "four"]),
    ],
    name="sums",
)


@tool
def add():
    async def execute(x: int, y: int):
        """Add two numbers.

        Args:
            x: The first.
            y: The second.
        """
        return x + y

    return execute


@scorer(metrics=[mean()])
def style():
    async def score(state, target):
        value = {"wit": 0.5, "clarity": float("nan"), "kind": "C"}
        return Score(value=value, answer="x", explanation="As it seemed.", metadata={"words": 1})

    return score


def inspect_logs(model: str, out: Path) -> dict[str, Any]:
    """Make Inspect's logs, and return what it reads in them."""
    name = "mockllm/model"
    thought = [ContentReasoning(reasoning="It is the sum."), ContentText(text="2")]
    answers = [ModelOutput.for_tool_call(name, "add", {"x": 1, "y": 1}), ModelOutput.from_content(name, thought)]
    answers = [*answers, ModelOutput.from_content(name, "5")] * 2
    for answer in answers:  # what the mock would count by a tokenizer that it downloads
        answer.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    task = Task(
        dataset=QUESTIONS,
        solver=[system_message("Be brief."), use_tools(add()), generate()],
        scorer=[match(), style()],
        name="sums",
    )
    common = {"max_samples": 1, "display": "none"}
    mock = get_model(name, custom_outputs=answers)
    logs = {"mock": eval(task, model=mock, log_dir=str(out / "mock"), epochs=2, **common)[0]}
    mock = get_model(name, custom_outputs=answers)
    logs["whole"] = eval(task, model=mock, log_dir=str(out / "whole"), log_format="json", **common)[0]
    convert_eval_logs_to_chunked(str(out / "mock"), str(out / "chunked"), chunk_size=2)
    own = get_model(f"hf/{model}", device="cpu")
    plain = Task(dataset=QUESTIONS, solver=[system_message("Be brief."), generate()], scorer=match(), name="sums")
    logs["hf"] = eval(plain, model=own, log_dir=str(out / "hf"), max_tokens=6, **common)[0]
    failing = get_model(name, custom_outputs=[])
    eval(plain, model=failing, log_dir=str(out / "failed"), fail_on_error=True, **common)
    for folder, log in logs.items():
        assert log.status == "success", (folder, log.error)

    async def prompts() -> list[str]:
        return [own.api.hf_chat(s.messages[:-1], []) for s in logs["hf"].samples]

    return {
        "scores": {folder: scores(next((out / folder).iterdir())) for folder in logs},
        "prompts": asyncio.run(prompts()),
        "answers": [s.output.completion for s in logs["hf"].samples],
    }


def scores(path: Path) -> list[list[Any]]:
    """Return the scores that Inspect reads in a log."""
    number, found = value_to_float(), []
    for sample in read_eval_log(str(path)).samples:
        for name, score in sample.scores.items():
            values = score.value if isinstance(score.value, dict) else {"score": score.value}
            for metric, value in values.items():
                read = number(value)
                found.append([sample.id, sample.epoch, name, metric, read if math.isfinite(read) else None])
    return found


def harness_logs(model: str, out: Path) -> dict[str, Any]:
    """Make lm-evaluation-harness' logs, and return the means that it reports."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tasks = out / "tasks"
    tasks.mkdir()
    docs = [
        {"q": "The lamp was", "choices": ["lit", "a fish"], "gold": 0},
        {"q": "The keeper went", "choices": ["stone", "up"], "gold": 1},
    ]
    (tasks / "docs.jsonl").write_text("".join(json.dumps(d) + "\n" for d in docs), encoding="utf-8")
    written: dict[str, dict[str, Any]] = {
        "choices": {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "gold"},
        "likelihood": {"output_type": "loglikelihood", "doc_to_target": " {{choices[gold]}}"},
        "texts": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{q}} {{choices[gold]}}",
        },
        "answers": {
            "output_type": "generate_until",
            "doc_to_target": "{{choices[gold]}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
            "metric_list": [{"metric": "exact_match"}],
            "repeats": 2,
            "filter_list": [
                {"name": "first", "filter": [{"function": "take_first"}]},
                {"name": "lower", "filter": [{"function": "lowercase"}, {"function": "take_first"}]},
            ],
        },
    }
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tasks / "docs.jsonl")}}}
    for name, fields in written.items():
        common = {"task": name, **data, "test_split": "test", "doc_to_text": "{{q}}"}
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump(common | fields), encoding="utf-8")
    means = {}
    for folder, chat in (("harness", False), ("harness_chat", True)):
        tracker = EvaluationTracker(output_path=str(out / folder))
        found = lm_eval.simple_evaluate(
            model="hf", model_args={"pretrained": model, "dtype": "float32"}, tasks=list(written), device="cpu",
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False), batch_size=1, log_samples=True,
            apply_chat_template=chat, evaluation_tracker=tracker, bootstrap_iters=0,
        )  # fmt: skip
        samples = found.pop("samples")
        tracker.save_results_aggregated(results=found, samples=samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task_name=task, samples=rows)
        means[folder] = {task: {k: v for k, v in row.items() if "," in k} for task, row in found["results"].items()}
    return {"means": means}


if __name__ == "__main__":
    folder, target = sys.argv[1], Path(sys.argv[2])
    said = inspect_logs(folder, target) | harness_logs(folder, target)
    (target / "said.json").write_text(json.dumps(said), encoding="utf-8")
