"""Reads the samples of lm-evaluation-harness (`--log_samples`): samples_TASK_DATE.jsonl, with results_DATE.json beside it.

A line is a document under one filter: what was put to the model (`arguments`), what came back (`resps`), and its metrics. Texts are read as
they were put, with a chat template's marks where the harness applied one. Where it scored continuations, white space at the end of a
context is read with the continuation, as the harness does it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from capture.data.evaluation import Evaluation, as_text, finite_float, joined, number
from capture.data.evaluations.log import Answer, Sample
from capture.data.files import json_lines, line_location, open_file, printable_value, read_json
from capture.data.transcript import Completion
from warehouse.errors import UsageError
from warehouse.storage import strict_json

FIELDS = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps")
"""Fields that every line has."""
_NAME = re.compile(r"samples_(?P<task>.+)_(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9.-]+)", re.DOTALL)
_RIGHT = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em"})
"""Metrics whose 1 and 0 mean right and wrong."""


class HarnessLog:
    """The samples of one task."""

    kind = "lm-evaluation-harness"

    def __init__(self, path: Path) -> None:
        """Find every document's lines.

        Raises:
            UsageError: A line is no sample, or a document has two under one filter.
        """
        self._path = path
        named = _NAME.fullmatch(path.stem)
        self.task: str = named["task"] if named else path.stem
        results = path.with_name(f"results_{named['date']}.json") if named else None
        found = read_json(results) if results is not None and results.is_file() else {}
        found = found if isinstance(found, dict) else {}
        self.model: str | None = found["model_name"] if isinstance(found.get("model_name"), str) else None
        self.remarks = _remarks(found)
        self._lines: dict[str, list[int]] = {}
        seen = set[tuple[str, str]]()
        for line, fields in json_lines(path):
            where = line_location(path, line)
            if missing := [name for name in FIELDS if name not in fields]:
                raise UsageError(f"{where} is no sample of lm-evaluation-harness: it has no `{missing[0]}`.")
            sample_id, judged_by = str(fields["doc_id"]), _filter(fields)
            if (sample_id, judged_by) in seen:
                raise UsageError(
                    f"{where}: document {printable_value(sample_id, 40)} is there twice (filter {printable_value(judged_by, 40)}): "
                    "two logs were written into one file. Keep one of them."
                )
            seen.add((sample_id, judged_by))
            self._lines.setdefault(sample_id, []).append(line)
        self._offsets = _offsets(path)

    def samples(self) -> Iterator[Sample]:
        """Yield each document, in the order of the file."""
        for sample_id, lines in self._lines.items():
            yield Sample(sample_id, partial(self._answers, lines))

    def _answers(self, lines: list[int], left_out: Counter[str]) -> Iterator[Answer]:
        """Yield a document with all that was put of it, and what every filter made of that."""
        read = [(line_location(self._path, n), self._read(n)) for n in lines]
        where, first = read[0]
        transcripts, scores = list[Completion](), list[Evaluation]()
        if any(len(request) > 2 for request in _requests(first, where)):
            left_out["with a part that is no text"] += 1
            return
        for arguments, responses in zip(_requests(first, where), _responses(first, where), strict=False):
            for transcript, logprob in _transcripts(arguments, responses, where):
                left_out["__opened"] += not transcript.prompt
                if logprob is not None:
                    scores += self._likelihoods(len(transcripts), *logprob)
                transcripts.append(transcript)
        if not any(t.text for t in transcripts):
            left_out["without a text"] += 1
            return
        shared = 0 if len(transcripts) == 1 else None
        for _, fields in read:
            scores += self._metrics(fields, shared)
        doc = first["doc"] if isinstance(first["doc"], dict) else {"doc": first["doc"]}
        asked = next((str(r[0]) for r in _requests(first, where) if r[0]), transcripts[0].text)
        yield Answer(asked, tuple(transcripts), tuple(scores), doc)

    def _metrics(self, fields: dict[str, Any], seq: int | None) -> Iterator[Evaluation]:
        generated = any(isinstance(r[-1], dict) for r in _requests(fields, "a line"))
        names = fields.get("metrics") or [n for n in fields if isinstance(fields[n], int | float) and n not in FIELDS]
        for name in filter(fields.__contains__, names):
            value = fields[name]
            yield self._evaluation(
                seq,
                _filter(fields),
                name,
                value,
                number(value),
                is_correct=bool(value) if name in _RIGHT and value in (0, 1) else None,
                target=joined(fields["target"]),
                answer=joined(fields["filtered_resps"]) if generated else None,
            )

    def _likelihoods(self, seq: int, logprob: Any, is_greedy: Any) -> Iterator[Evaluation]:
        """Yield what the model gave for a continuation: its log-probability, and whether it would have said it itself."""
        value = _float(logprob)
        yield self._evaluation(seq, "loglikelihood", "logprob", logprob, value)
        if is_greedy is not None:
            yield self._evaluation(seq, "loglikelihood", "is_greedy", is_greedy, number(is_greedy))

    def _evaluation(
        self, seq: int | None, scorer: str, metric: str, text: Any, value: float | None, **said: Any
    ) -> Evaluation:
        return Evaluation(seq, scorer, metric, as_text(text), value, task=self.task, answered_by=self.model, **said)

    def _read(self, line: int) -> dict[str, Any]:
        with open_file(self._path) as f:
            f.seek(self._offsets[line - 1])
            fields = strict_json.parse(f.readline())
        if not isinstance(fields, dict) or "doc_id" not in fields:
            raise UsageError(f"{line_location(self._path, line)} has changed while it was read.")
        return fields


def _offsets(path: Path) -> list[int]:
    """Return where each line begins, in bytes."""
    offsets, at = [], 0
    with open_file(path) as f:
        for line in f:
            offsets.append(at)
            at += len(line)
    return offsets


def _remarks(results: dict[str, Any]) -> tuple[str, ...]:
    """Say what the harness put before the texts, where that was not what the tokenizer does by itself."""
    config = results.get("config")
    arguments = config.get("model_args") if isinstance(config, dict) else None
    given = str(arguments)
    found = re.search(r"add_bos_token['\"]?\s*[=:]\s*(true|false)", given, re.IGNORECASE)
    if not found:
        return ()
    choice = "yes" if found[1].lower() == "true" else "no"
    return (f"it was evaluated with add_bos_token={found[1]}: read it with --prepend-bos {choice}",)


def _filter(fields: dict[str, Any]) -> str:
    return str(fields.get("filter", "none"))


def _requests(fields: dict[str, Any], where: str) -> list[list[Any]]:
    """Return the arguments of each request: by name, as logs have them now, or in lists, as before version 0.4.3."""
    given = fields["arguments"]
    requests = list(given.values()) if isinstance(given, dict) else given
    requests = [list(r.values()) if isinstance(r, dict) else r for r in requests] if isinstance(requests, list) else []
    if not requests or not all(isinstance(r, list) and r and isinstance(r[0], str) for r in requests):
        raise UsageError(f"{where}: its `arguments` are not texts that were put to a model, which alone can be read.")
    return requests


def _responses(fields: dict[str, Any], where: str) -> list[list[Any]]:
    given = fields["resps"]
    if not isinstance(given, list) or not all(isinstance(r, list) and r for r in given):
        raise UsageError(f"{where}: its `resps` are not a list for each request: the log is damaged.")
    return given


def _transcripts(
    arguments: list[Any], responses: list[Any], where: str
) -> Iterator[tuple[Completion, tuple[Any, Any] | None]]:
    """Yield what the model read of a request, and where it was to be scored its log-probability and whether it was the likeliest."""
    context, *rest = arguments
    if not rest:  # a text whose own likelihood was asked for
        yield Completion("", context), (responses[0][0] if isinstance(responses[0], list) else responses[0], None)
    elif isinstance(rest[0], str):
        prompt = context.rstrip()
        response = context[len(prompt) :] + rest[0]
        scored = responses[0]
        if not isinstance(scored, list) or len(scored) != 2:
            raise UsageError(f"{where}: a request for a likelihood has no log-probability: the log is damaged.")
        yield Completion(prompt, response), (scored[0], scored[1])
    else:
        for response in responses:
            if not isinstance(response, str):
                raise UsageError(f"{where}: a response is {type(response).__name__}, not a text: the log is damaged.")
            yield Completion(context, response), None


def _float(value: Any) -> float | None:
    try:
        return finite_float(value)
    except (TypeError, ValueError):
        return None
