"""Reads the logs of Inspect (https://inspect.aisi.org.uk): `.eval`, a zip of JSON files, and `.json`, all of it in one.

Nothing of Inspect is imported. A `.eval` has `header.json` once the evaluation is over, before that `_journal/start.json`, and a sample's
every epoch in a file of its own, or in chunks where it is large. A sample's transcript is its messages, in the form that chat templates
take; what it was told of tools is in the calls of the model among its events.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from capture.data.evaluation import Evaluation, as_text, correctness, joined, number, parts
from capture.data.evaluations.log import Answer, Sample
from capture.data.evaluations.zip_entries import ZipEntries
from capture.data.files import printable_value
from capture.data.transcript import parse_chat
from warehouse.errors import UsageError
from warehouse.storage import strict_json

VERSIONS = (1, 2)
"""The versions of the format that can be read."""
_SAMPLE = re.compile(r"samples/(?P<id>.+)_epoch_(?P<epoch>[0-9]+)(?P<chunked>/sample)?\.json", re.DOTALL)
_Place = tuple[str, int, Callable[[], Any]]
"""A sample's id, its epoch, and what reads it."""
_ATTACHMENT = "attachment://"
_TEXT_PARTS = ("text", "reasoning")


class InspectLog:
    """A log of Inspect."""

    kind = "inspect"

    def __init__(self, path: Path, header: dict[str, Any], samples: list[_Place]) -> None:
        """Check the header.

        Raises:
            UsageError: It is of another version, or two samples are the same.
        """
        self._where, self._samples = printable_value(path), samples
        version, spec = header.get("version"), header.get("eval")
        if version not in VERSIONS:
            raise UsageError(
                f"{self._where} is a log of Inspect in format {printable_value(version, 20)}, and formats 1 and 2 can be read. "
                "A newer trace-warehouse may: pip install -U trace-warehouse"
            )
        if not isinstance(spec, dict) or not isinstance(spec.get("task"), str) or not spec["task"].strip():
            raise UsageError(f"{self._where} has no `eval` with a `task`: it is no log of Inspect, or damaged.")
        self.task: str = spec["task"]
        self.model: str | None = spec["model"] if isinstance(spec.get("model"), str) else None
        self.remarks = _remarks(header)
        self._scorer = _only_scorer(header)
        seen = set[tuple[str, int]]()
        for sample_id, epoch, _ in samples:
            if (sample_id, epoch) in seen:
                raise UsageError(
                    f"{self._where} has the sample {printable_value(sample_id, 60)} twice in epoch {epoch}: it is damaged."
                )
            seen.add((sample_id, epoch))
        order = {str(x): i for i, x in enumerate(_object(spec.get("dataset")).get("sample_ids") or ())}
        samples.sort(key=lambda s: (order.get(s[0], len(order)), s[1]))

    def samples(self) -> Iterator[Sample]:
        """Yield each epoch of each sample, in the order of the data set."""
        for sample_id, epoch, read in self._samples:
            yield Sample(sample_id, partial(self._answers, sample_id, epoch, read))

    def _answers(self, sample_id: str, epoch: int, read: Callable[[], Any], left_out: Counter[str]) -> Iterator[Answer]:
        """Yield the answer of a sample's epoch, unless it failed or is not of text alone; count it then."""
        where = f"{self._where}, sample {printable_value(sample_id, 60)}, epoch {epoch}"
        sample = read()
        if not isinstance(sample, dict) or not isinstance(sample.get("messages", []), list):
            raise UsageError(f"{where} is not a sample of Inspect: the log is damaged.")
        attachments = sample.get("attachments") or {}
        messages = _attached(sample.get("messages") or [], attachments)
        scores = sample.get("scores")
        if not isinstance(scores, dict):
            scores = {self._scorer: sample["score"]} if isinstance(sample.get("score"), dict) else {}
        if sample.get("error") and not scores:
            left_out["ended in an error"] += 1
        elif kind := next((k for m in messages if (k := _not_text(m))), None):
            left_out[f"with a part that is no text ({kind})"] += 1
        elif not messages:
            left_out["without messages"] += 1
        else:
            chat = parse_chat([_message(m, where) for m in messages], _tools(sample, messages, attachments), where)
            if not scores:
                left_out["__unscored"] += 1
            yield Answer(
                _question(sample.get("input"), attachments, where) or chat.text,
                (chat,),
                tuple(self._evaluations(scores, sample, epoch, where)),
                _object(_attached(sample.get("metadata"), attachments)),
            )

    def _evaluations(
        self, scores: dict[str, Any], sample: dict[str, Any], epoch: int, where: str
    ) -> Iterator[Evaluation]:
        target = joined(sample.get("target"))
        for scorer, score in scores.items():
            if not isinstance(score, dict) or "value" not in score:
                raise UsageError(f"{where}: its score {printable_value(scorer, 40)} has no value: the log is damaged.")
            said = _object(score.get("metadata"))
            if score.get("reason") is not None:
                said = {**said, "reason": score["reason"]}
            for metric, value in parts(score["value"]):
                yield Evaluation(
                    seq=0,
                    scorer=scorer,
                    metric=metric,
                    score=as_text(value),
                    value=number(value),
                    is_correct=correctness(value),
                    target=target,
                    answer=joined(score.get("answer")),
                    explanation=joined(score.get("explanation")),
                    task=self.task,
                    epoch=epoch,
                    answered_by=self.model,
                    details=as_text(said) if said else None,
                )


def open_zip(path: Path) -> InspectLog:
    """Open a `.eval` file.

    Args:
        path: The file.

    Returns:
        The log.

    Raises:
        UsageError: It is no log of Inspect, of another version, cut short or damaged.
    """
    entries = ZipEntries(path)
    names = entries.names
    header = next((name for name in ("header.json", "_journal/start.json") if name in names), None)
    if header is None:
        raise UsageError(f"{printable_value(path)} is a zip file without header.json: it is no log of Inspect.")
    samples = list[_Place]()
    for name in names:
        if found := _SAMPLE.fullmatch(name):
            read = _chunked_sample if found["chunked"] else _entry
            samples.append((found["id"], int(found["epoch"]), partial(read, entries, name)))
    fields = _entry(entries, header)
    return InspectLog(path, fields if isinstance(fields, dict) else {}, samples)


def open_json(path: Path, log: dict[str, Any]) -> InspectLog:
    """Open a log that is one JSON file, as Inspect wrote them first and can still.

    Args:
        path: The file.
        log: Its contents.

    Returns:
        The log.

    Raises:
        UsageError: It is of another version, or damaged.
    """
    samples = log.get("samples") or []
    if not isinstance(samples, list) or not all(isinstance(s, dict) and "id" in s for s in samples):
        raise UsageError(f"{printable_value(path)} has samples without ids: it is no log of Inspect, or damaged.")
    known: list[_Place] = [(str(s["id"]), int(s.get("epoch", 1)), partial(_same, s)) for s in samples]
    return InspectLog(path, {name: value for name, value in log.items() if name != "samples"}, known)


def _same(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def _entry(entries: ZipEntries, name: str) -> Any:
    try:
        return strict_json.parse(entries.read(name), repair=True)
    except ValueError as e:
        raise UsageError(f"{printable_value(entries.path)}: {printable_value(name)} in it is not JSON: {e}.") from None


def _chunked_sample(entries: ZipEntries, name: str) -> Any:
    """Read a large sample: a shell, and beside it messages, attachments and events in files named by their first item."""
    prefix = name.removesuffix("sample.json")
    sample, names = _entry(entries, name), entries.names

    def sequence(kind: str) -> list[Any]:
        start = re.compile(re.escape(f"{prefix}{kind}/") + r"([0-9]+)\.json")
        chunks = sorted((int(found[1]), n) for n in names if (found := start.fullmatch(n)))
        return [item for _, n in chunks for item in _entry(entries, n)]

    if isinstance(sample, dict):
        pool = sequence("messages")
        sample["messages"] = [m for first, end in sample.get("message_refs") or () for m in pool[first:end]]
        sample["attachments"] = {str(i): text for i, text in enumerate(sequence("attachments"))}
        sample["events"] = sequence("events")
        if f"{prefix}metadata.json" in names:
            sample["metadata"] = _entry(entries, f"{prefix}metadata.json")
    return sample


def _remarks(header: dict[str, Any]) -> tuple[str, ...]:
    """Say how the evaluation ended, where it did not end well."""
    status = header.get("status", "started")
    if status == "success":
        return ()
    reason = _object(header.get("error")).get("message")
    ended = {"error": "ended in an error", "cancelled": "was cancelled"}.get(str(status), "had not ended")
    return (f"the evaluation {ended}" + (f" ({printable_value(reason, 120)})" if reason else ""),)


def _only_scorer(header: dict[str, Any]) -> str:
    """Return the name of the scorer in logs whose samples have one score without a name."""
    results = _object(header.get("results"))
    scorer = _object(results.get("scorer")) or _object(next(iter(results.get("scores") or ()), None))
    return str(scorer.get("name") or "scorer")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _attached(value: Any, attachments: dict[str, str]) -> Any:
    """Return a value with the texts that it refers to in their places."""
    if isinstance(value, str):
        return attachments.get(value[len(_ATTACHMENT) :], value) if value.startswith(_ATTACHMENT) else value
    if isinstance(value, dict):
        return {k: _attached(v, attachments) for k, v in value.items()}
    return [_attached(v, attachments) for v in value] if isinstance(value, list) else value


def _question(given: Any, attachments: dict[str, str], where: str) -> str:
    """Return what was asked as text: the input, or its messages after their roles."""
    given = _attached(given, attachments)
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not given or any(_not_text(m) for m in given):
        return ""
    return parse_chat([_message(m, where) for m in given], None, where).text


def _not_text(message: Any) -> str | None:
    """Return the kind of the first part of a message that is neither text nor reasoning."""
    content = _object(message).get("content")
    kinds = (str(_object(part).get("type")) for part in content) if isinstance(content, list) else ()
    return next((kind for kind in kinds if kind not in _TEXT_PARTS), None)


def _message(message: Any, where: str) -> dict[str, Any]:
    """Return a message in the form that chat templates take."""
    if not isinstance(message, dict):
        raise UsageError(f"{where} has a message that is no object: the log is damaged.")
    kept = {"role": message.get("role"), "content": _content(message.get("content"))}
    if message.get("tool_calls"):
        kept["tool_calls"] = [
            {
                "id": _object(call).get("id"),
                "function": {"name": _object(call).get("function"), "arguments": _object(call).get("arguments")},
            }
            for call in message["tool_calls"]
        ]
    if message.get("role") == "tool":
        kept |= {"tool_call_id": message.get("tool_call_id"), "name": message.get("function")}
        if failed := _object(message.get("error")).get("message"):
            kept["content"] = f"Error: {failed}"  # what Inspect tells the model in the place of the result
    if kept["content"] is None and not kept.get("tool_calls"):
        kept["content"] = ""
    return kept


def _content(content: Any) -> Any:
    """Return a content without the encrypted parts of reasoning, in whose place stands its summary."""
    if not isinstance(content, list):
        return content
    kept = []
    for part in content:
        if part["type"] == "reasoning":
            reasoning = part.get("summary") if part.get("redacted") else part.get("reasoning")
            kept += [{"type": "reasoning", "reasoning": reasoning}] if reasoning else []
        else:
            kept.append({"type": "text", "text": part.get("text")})
    return kept or ""


def _tools(sample: dict[str, Any], messages: list[Any], attachments: dict[str, str]) -> list[dict[str, Any]] | None:
    """Return the tools that the model was told of, as JSON schemas: those of the last call that wrote one of the messages."""
    written = {m["id"] for m in messages if isinstance(m, dict) and m.get("role") == "assistant" and m.get("id")}
    found = None
    for event in sample.get("events") or ():
        if _object(event).get("event") != "model" or not event.get("tools"):
            continue
        choices = _object(event.get("output")).get("choices") or [{}]
        if not written or _object(_object(choices[0]).get("message")).get("id") in written:
            found = event["tools"]
    if not found:
        return None
    named = ("name", "description", "parameters")
    return [
        {"type": "function", "function": {k: tool[k] for k in named if tool.get(k) is not None}}
        for tool in _attached(found, attachments)
        if isinstance(tool, dict)
    ]
