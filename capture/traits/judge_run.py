"""Judging a run's responses: each is put to a judge twice, for its trait and for its coherence, and what it says becomes a run of
kind `judge` with the table `judgements`.

Up to `concurrency` requests are in flight at any time, and answers are taken in the order of the responses; a window of requests
ahead of the one that is waited for keeps a slow answer from holding up the others. A shard is written every `SHARD` responses, and
what has come in when judging ends early is written too: the same call goes on from there.

Trying again is done here and not by the SDKs, so that it is the same for all judges, counts answers that are no answers, and ends
at once when the job does: theirs sleeps for up to two minutes in a thread that cannot be woken.

A prompt that a judge has no answer to (it is refused, or answered with garbage every time) costs one response: its row has no
score, and says why instead of the answer. What befalls every prompt (no server, no key, no money) ends the job. So does a run of
`IN_VAIN` responses without an answer, for then it is the judge; these are not kept, and are asked about again.
"""

from __future__ import annotations

import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import xxhash

from capture.sequences import partition
from capture.traits.definition import Definition, fill_template
from capture.traits.judge import ANSWER_TOKENS, Judge, JudgeRequestError
from capture.traits.judge_clients import to_printable_line
from capture.traits.verdict import Verdict
from warehouse.catalog.publish import publish
from warehouse.errors import RunExistsError, TracesError, UsageError
from warehouse.schema.tables import SCHEMA_VERSION
from warehouse.storage import paths
from warehouse.storage.journal import Journal
from warehouse.storage.manifest import Manifest, manifest_hash
from warehouse.storage.parquet import to_table
from warehouse.storage.paths import find_run
from warehouse.storage.run_writer import RecordedBatch, RunWriter
from warehouse.storage.trace_store import TraceStore

SHARD_RESPONSES = 16
"""Responses to a shard: what a kill can cost, beside what is in flight."""
TRIES = 6
MAX_UNANSWERED_IN_A_ROW = 16
"""Responses in a row without an answer, after which the judge is given up."""
CONCURRENCY = 20
JUDGEABLE_KINDS = ("trait-responses", "trait-steering")
"""Kinds of runs whose responses show a trait, or not."""

_FIRST_WAIT, _MAX_WAIT = 0.5, 30.0
"""Seconds before the second try, doubled for each one after it, and at most."""
_MAX_RETRY_AFTER = 600.0
"""Seconds that a server may ask to be left alone for; asked for more, the job ends."""
_WINDOW = 4
"""Requests ahead of the one that is waited for, in units of those in flight."""
_CHARACTERS_A_TOKEN = 4

COHERENCE_PROMPT = """\
Here is a question, and a text that was written in answer to it. Say how coherent the text is as a piece of language.

<question>
{question}
</question>

<text>
{answer}
</text>

Coherent text is made of sentences that can be understood, that follow from one another and that stay with what they are about. \
Loss of coherence shows in words without grammar, in the same words over and over, in a change of language or subject in the middle \
of a sentence, and in scraps of code or symbols that say nothing. A text that is wrong, rude, silly or off the question can be \
perfectly coherent, and one that merely stops early loses nothing by it.

Reply with one whole number from 0 (it cannot be understood at all) to 100 (every sentence makes sense), and nothing else.
"""

T = TypeVar("T")
R = TypeVar("R")


class Response(NamedTuple):
    example_id: str
    seq: int
    prompt: str
    response: str


@dataclass
class JudgeProgress:
    """How far a judging is; the job calls back with it after every response."""

    run_id: str
    done: int
    """Responses, those of earlier processes included."""
    total: int
    resumed: int
    """Those of earlier processes."""
    scored: int = 0
    """Responses of this process with a trait score."""
    refused: int = 0
    """Those that it took for a refusal, and that have no score."""
    unanswered: int = 0
    """Those that the judge could not be brought to answer one of the two prompts of."""


class JudgedResponse(NamedTuple):
    """What a judge says of a response."""

    response: Response
    trait: Verdict
    coherence: Verdict
    error: JudgeRequestError | None
    """Why one of the two is no answer."""


class Estimate(NamedTuple):
    """What is still to be asked of a judge."""

    requests: int
    tokens_in: int
    """About, at four characters to a token."""
    tokens_out: int
    """At most."""

    def dollars(self, price_in: float, price_out: float) -> float:
        """At prices for a million tokens."""
        return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6


def default_run_name(run_id: str) -> str:
    return f"{run_id}-judged"


def estimate(root: Path, run_id: str, name: str, shard: str = "") -> Estimate:
    """What judging a run as `name` will ask for, less what an interrupted process has had. Raises as `judge_run` does."""
    _, definition, responses = _load_responses(root, run_id, shard)
    if (paths.run_dir(root, name) / paths.MANIFEST).exists():
        raise RunExistsError(name)
    shards = Journal(paths.journal_path(paths.staging_dir(root, name))).shards
    left = responses[shards[-1].resume_point_as(int) if shards else 0 :]
    characters = sum(len(p) for r in left for p in _make_prompts(definition, r))
    return Estimate(2 * len(left), characters // _CHARACTERS_A_TOKEN, 2 * len(left) * ANSWER_TOKENS)


def judge_run(
    root: Path,
    run_id: str,
    judge: Judge,
    *,
    name: str,
    concurrency: int = CONCURRENCY,
    shard: str = "",
    report: Callable[[JudgeProgress], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Judges every response of a run of kind `trait-responses` or `trait-steering`, and publishes it as run `name`; with `shard`,
    `i/n`, only every n-th from the i-th on.

    The same call goes on where an earlier one ended. `note` is told where a judge's first answers have no score in them, and at the
    end of responses without an answer. Raises UsageError for a run that has no responses to a trait, or a name that is taken, and
    TracesError where the judge cannot be brought to answer: what it has answered is kept.
    """
    store, definition, responses = _load_responses(root, run_id, shard)
    identity = {
        "kind": "judge",
        "schema_version": SCHEMA_VERSION,
        "parent": run_id,
        "parent_manifest": manifest_hash(root, run_id),
        "judge": judge.name,
        "shard": shard,
        "coherence_prompt": xxhash.xxh3_128_hexdigest(COHERENCE_PROMPT.encode()),
    }
    options = {"judge": judge.name, "trait": definition.name, "coherence_prompt": COHERENCE_PROMPT, "shard": shard}
    with RunWriter(root, name, identity) as writer:
        done = written = writer.done[-1].resume_point_as(int) if writer.done else 0
        counted = JudgeProgress(name, done, len(responses), done)
        rows: list[dict[str, Any]] = []
        unanswered: JudgedResponse | None = None
        try:
            asked = _judge_in_order(judge, definition, responses[done:], concurrency)
            for one in _stop_if_unanswered(asked, len(responses)):
                rows.append(_to_row(run_id, definition, judge, one))
                counted.done += 1
                counted.scored += one.trait.score is not None
                counted.refused += one.trait.refused and one.trait.score is None
                if one.error is not None:
                    counted.unanswered += 1
                    unanswered = unanswered or one
                if len(rows) == SHARD_RESPONSES:
                    if counted.done == done + SHARD_RESPONSES and not counted.scored + counted.refused:
                        note(
                            f"{judge.name} gave none of the first {SHARD_RESPONSES} responses a score; it answered, for one: "
                            f"'{to_printable_line(one.trait.answer)[:80]}'"
                        )
                    written += len(rows)
                    _write_shard(writer, rows, written)
                report(counted)
        except JudgeRequestError as e:
            if not counted.done:
                writer.discard()
                raise TracesError(f"{judge.name} does not answer: {e}. Nothing is judged, and nothing kept.") from None
            raise TracesError(
                f"{judge.name} does not answer: {e}. {counted.done} of {len(responses)} responses are judged, and kept: run the "
                f"same command again to go on, or drop them: traces runs rm {name}"
            ) from None
        finally:
            if rows:  # their own number, and not what is counted: a signal may come between the two
                _write_shard(writer, rows, written + len(rows))
        if unanswered:
            note(
                f"{judge.name} has no answer to {counted.unanswered} of {len(responses)} responses, which trait_answer and "
                f"coherence_answer say why of; the first, {unanswered.response.example_id} (seq {unanswered.response.seq}): "
                f"{unanswered.error}"
            )
        return publish(writer, lambda published: store.meta.derive("judge", name, [run_id], options, published))


def _load_responses(root: Path, run_id: str, shard: str) -> tuple[TraceStore, Definition, list[Response]]:
    """A run to judge, the trait that its responses are of, and these in order."""
    store = TraceStore(find_run(root, run_id))
    trait = store.meta.options.get("trait")
    if store.meta.kind not in JUDGEABLE_KINDS or not isinstance(trait, dict):
        raise UsageError(
            f"Run '{run_id}' is of kind {store.meta.kind}: judges look at responses to a trait, which traces trait respond and "
            "traces trait steer make."
        )
    found = store.query("SELECT example_id, seq, prompt, response FROM responses ORDER BY example_id, seq").fetchall()
    if not found:
        raise UsageError(f"Run '{run_id}' has no responses.")
    return store, Definition.model_validate(trait), [Response(*row) for row in partition.take_part(found, shard)]


def _make_prompts(definition: Definition, r: Response) -> tuple[str, str]:
    return definition.judging_prompt(r.prompt, r.response), fill_template(COHERENCE_PROMPT, r.prompt, r.response)


def _judge_in_order(
    judge: Judge, definition: Definition, responses: list[Response], concurrency: int
) -> Generator[JudgedResponse, None, None]:
    """What the judge says of each response, in their order. Raises a JudgeRequestError that is not one prompt's alone."""
    stop = threading.Event()
    prompts = (p for r in responses for p in _make_prompts(definition, r))
    workers = concurrency if judge.concurrent else 1
    answers = in_order(lambda prompt: _ask_with_retries(judge, prompt, stop), prompts, workers)
    try:
        with closing(answers):
            for response in responses:
                trait, coherence = next(answers), next(answers)
                fault = next((said for said in (trait, coherence) if isinstance(said, JudgeRequestError)), None)
                yield JudgedResponse(response, _to_verdict(trait), _to_verdict(coherence), fault)
    finally:
        stop.set()


def _to_verdict(said: Verdict | JudgeRequestError) -> Verdict:
    return said if isinstance(said, Verdict) else Verdict(f"[no answer: {said}]", None)


def _stop_if_unanswered(asked: Generator[JudgedResponse, None, None], of: int) -> Iterator[JudgedResponse]:
    """The same, those without an answer held back until one with an answer follows, or the end comes.

    Raises JudgeRequestError after `IN_VAIN` of them in a row, or where they are all `of` the run's: then it is the judge, and they are not kept.
    """
    held: list[JudgedResponse] = []
    with closing(asked):  # so that nothing more is asked
        for one in asked:
            held.append(one)
            if one.error is None:
                yield from held
                held.clear()
            elif len(held) in (MAX_UNANSWERED_IN_A_ROW, of):
                raise JudgeRequestError(f"{one.error}, {len(held)} responses in a row", again=False)
        yield from held


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Generator[R, None, None]:
    """`work` of every item, in their order, with as many at a time as there are workers. An error comes where its item's answer
    would. Threads are daemons: a process that is told to stop does not wait for a server.
    """
    if workers == 1:
        yield from map(work, items)
        return
    tasks: queue.SimpleQueue[tuple[Future[R], T] | None] = queue.SimpleQueue()

    def serve() -> None:
        while (task := tasks.get()) is not None:
            future, item = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work(item))
            except BaseException as e:  # raised where the answer is taken
                future.set_exception(e)

    for n in range(workers):
        threading.Thread(target=serve, name=f"judging {n}", daemon=True).start()
    ahead: deque[Future[R]] = deque()
    try:
        for item in items:
            if len(ahead) == _WINDOW * workers:
                yield ahead.popleft().result()
            future: Future[R] = Future()
            ahead.append(future)
            tasks.put((future, item))
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()
        for _ in range(workers):
            tasks.put(None)


def _ask_with_retries(judge: Judge, prompt: str, stop: threading.Event) -> Verdict | JudgeRequestError:
    """Asks up to `TRIES` times, waiting longer each time, or as long as the server says. The last JudgeRequestError is returned where it is this
    prompt's alone, and else raised.
    """
    for tried in range(1, TRIES + 1):
        try:
            return judge.ask(prompt)
        except JudgeRequestError as fault:
            if fault.retryable and tried < TRIES:
                if fault.retry_after is not None and fault.retry_after > _MAX_RETRY_AFTER:
                    raise JudgeRequestError(
                        f"{fault}; it asks to wait {fault.retry_after:,.0f} s", again=False
                    ) from None
                wait = min(_FIRST_WAIT * 2 ** (tried - 1), _MAX_WAIT) * random.uniform(0.75, 1)
                if stop.wait(wait if fault.retry_after is None else fault.retry_after):
                    raise
                continue
            last = (
                JudgeRequestError(f"{fault} ({TRIES} tries)", again=False, this_prompt=fault.this_prompt_only)
                if fault.retryable
                else fault
            )
            if last.this_prompt_only:
                return last
            raise last from None
    raise AssertionError


def _to_row(run_id: str, definition: Definition, judge: Judge, one: JudgedResponse) -> dict[str, Any]:
    return {
        "source_run_id": run_id,
        "example_id": one.response.example_id,
        "seq": one.response.seq,
        "trait": definition.name,
        "judge": judge.name,
        "trait_score": one.trait.score,
        "coherence_score": one.coherence.score,
        "refused": one.trait.refused,
        "scored_by": one.trait.scored_by,
        "number_mass": one.trait.number_mass,
        "trait_rule": one.trait.rule,
        "coherence_rule": one.coherence.rule,
        "trait_answer": one.trait.answer,
        "coherence_answer": one.coherence.answer,
    }


def _write_shard(writer: RunWriter, rows: list[dict[str, Any]], done: int) -> None:
    """A shard of these rows; what is done then is its mark. Takes the rows out of the list."""
    table = to_table("judgements", {column: [row[column] for row in rows] for column in rows[0]})
    rows.clear()
    writer.begin_shard({}, {})
    writer.put(RecordedBatch([], {}, {}, {"judgements": table}))
    writer.end_shard(str(done))
