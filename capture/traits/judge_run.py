"""Judge a run's responses: each is scored for its trait and for its coherence, in a run of kind `judge` (table `judgements`).

Up to `concurrency` requests are in flight at a time, and answers are taken in the order of the responses; a window of requests ahead
of the one awaited keeps a slow answer from holding up the others. A shard is written every `SHARD_RESPONSES` responses, and what has
arrived when judging ends early is written too: the same call resumes from there.

A prompt that a judge does not answer (it is refused, or every answer is garbage) costs one response: its row has no score, and gives
the reason in place of the answer. What affects every prompt (no server, no key, no money) ends the job. So do
`MAX_UNANSWERED_IN_A_ROW` unanswered responses in a row, as the cause is then the judge; they are not kept, and are asked again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import xxhash

from capture.sequences import partition
from capture.traits.definition import Definition, fill_template
from capture.traits.judge import ANSWER_TOKENS, Judge, JudgeRequestError
from capture.traits.judge_clients import to_printable_line
from capture.traits.judge_retries import ask_with_retries
from capture.traits.ordered_threads import in_order
from capture.traits.verdict import Verdict
from warehouse.catalog.publish import publish
from warehouse.errors import RunExistsError, TracesError, UsageError
from warehouse.storage import paths
from warehouse.storage.journal import Journal
from warehouse.storage.manifest import Manifest, manifest_hash
from warehouse.storage.objects import AnyPath
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_identity import RunIdentity
from warehouse.storage.run_list import find_run
from warehouse.storage.run_writer import RunWriter
from warehouse.storage.trace_store import TraceStore

SHARD_RESPONSES = 16
"""Responses in a shard: a killed process loses at most these and what is in flight."""
MAX_UNANSWERED_IN_A_ROW = 16
"""The job ends after this many responses in a row without an answer."""
CONCURRENCY = 20
JUDGEABLE_KINDS = ("trait-responses", "trait-steering")
"""Kinds of runs whose responses can be judged for a trait."""

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


class Response(NamedTuple):
    """A response to be judged, and the prompt it answers."""

    example_id: str
    seq: int
    prompt: str
    response: str


@dataclass
class JudgeProgress:
    """How far judging is, in responses; reported after every response."""

    run_id: str
    done: int
    """Judged so far, by earlier processes too."""
    total: int
    resumed: int
    """Judged by earlier processes."""
    scored: int = 0
    """Judged by this process, with a trait score."""
    refused: int = 0
    """Judged by this process to be a refusal, without a score."""
    unanswered: int = 0
    """Without an answer to one of their two prompts, in this process."""


class JudgedResponse(NamedTuple):
    """A judge's verdicts on a response."""

    response: Response
    trait: Verdict
    coherence: Verdict
    error: JudgeRequestError | None
    """Why one of the two prompts has no answer; None if both have."""


class Estimate(NamedTuple):
    """What is still to be asked of a judge."""

    requests: int
    tokens_in: int
    """Estimated at four characters a token."""
    tokens_out: int
    """Upper limit."""

    def dollars(self, price_in: float, price_out: float) -> float:
        """Return the cost at prices in dollars for a million tokens in and out."""
        return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6


def default_run_name(run_id: str) -> str:
    """Return the name that a run's judgements have unless the user gives one."""
    return f"{run_id}-judged"


def estimate(root: AnyPath, run_id: str, name: str, shard: str = "") -> Estimate:
    """Estimate what judging a run will ask for, less what an interrupted process has been answered.

    Args:
        root: The warehouse's folder.
        run_id: The run to judge.
        name: The name of the run of judgements.
        shard: `i/n`: only every n-th response, starting with the i-th; empty: all.

    Returns:
        Requests and tokens still to come.

    Raises:
        UsageError: The run has no responses to a trait.
        RunExistsError: Run `name` exists already.
    """
    _, definition, responses = _load_responses(root, run_id, shard)
    if (paths.run_dir(root, name) / paths.MANIFEST).exists():
        raise RunExistsError(name)
    shards = Journal(paths.journal_path(paths.staging_dir(root, name))).shards
    left = responses[shards[-1].resume_point_as(int) if shards else 0 :]
    characters = sum(len(p) for r in left for p in _make_prompts(definition, r))
    return Estimate(2 * len(left), characters // _CHARACTERS_A_TOKEN, 2 * len(left) * ANSWER_TOKENS)


def judge_run(
    root: AnyPath,
    run_id: str,
    judge: Judge,
    *,
    name: str,
    concurrency: int = CONCURRENCY,
    shard: str = "",
    report: Callable[[JudgeProgress], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Judge every response of a run, and publish the judgements as a run.

    The same call resumes where an earlier one ended.

    Args:
        root: The warehouse's folder.
        run_id: A run of kind `trait-responses` or `trait-steering`.
        judge: Who is asked.
        name: The new run's name.
        concurrency: Requests in flight at a time, if the judge gains by that.
        shard: `i/n`: only every n-th response, starting with the i-th; empty: all.
        report: Called after every response.
        note: Called with a line where the first answers contain no score, and about unanswered responses at the end.

    Returns:
        The new run's manifest.

    Raises:
        UsageError: The run has no responses to a trait.
        RunExistsError: Run `name` exists already.
        TracesError: The judge does not answer; what it has answered is kept.
    """
    store, definition, responses = _load_responses(root, run_id, shard)
    prompt_hash = xxhash.xxh3_128_hexdigest(COHERENCE_PROMPT.encode())
    identity = RunIdentity(
        "judge",
        {"judge": judge.name, "shard": shard, "coherence_prompt": prompt_hash},
        parents={run_id: manifest_hash(root, run_id)},
    )
    options = {"judge": judge.name, "trait": definition.name, "coherence_prompt": COHERENCE_PROMPT, "shard": shard}
    with RunWriter(root, name, identity.to_dict()) as writer:
        done = written = writer.done[-1].resume_point_as(int) if writer.done else 0
        progress = JudgeProgress(name, done, len(responses), done)
        rows: list[dict[str, Any]] = []
        unanswered: JudgedResponse | None = None
        try:
            judged = _judge_in_order(judge, definition, responses[done:], concurrency)
            for one in _stop_if_unanswered(judged, len(responses)):
                rows.append(_to_row(run_id, definition, judge, one))
                progress.done += 1
                progress.scored += one.trait.score is not None
                progress.refused += one.trait.refused and one.trait.score is None
                if one.error is not None:
                    progress.unanswered += 1
                    unanswered = unanswered or one
                if len(rows) == SHARD_RESPONSES:
                    if progress.done == done + SHARD_RESPONSES and not progress.scored + progress.refused:
                        note(
                            f"{judge.name} gave none of the first {SHARD_RESPONSES} responses a score; one of its answers: "
                            f"'{to_printable_line(one.trait.answer)[:80]}'"
                        )
                    written += len(rows)
                    _write_shard(writer, rows, written)
                report(progress)
        except JudgeRequestError as e:
            if not progress.done:
                writer.discard()
                raise TracesError(f"{judge.name} does not answer: {e}. Nothing was judged or kept.") from None
            raise TracesError(
                f"{judge.name} does not answer: {e}. {progress.done} of {len(responses)} responses are judged and kept. Run the "
                f"same command again to resume, or delete them: traces runs rm {name}"
            ) from None
        finally:
            if rows:  # counted by their own number: a signal may arrive before `progress` is updated
                _write_shard(writer, rows, written + len(rows))
        if unanswered:
            note(
                f"{judge.name} has no answer to {progress.unanswered} of {len(responses)} responses; trait_answer and "
                f"coherence_answer give the reasons. The first, {unanswered.response.example_id} (seq {unanswered.response.seq}): "
                f"{unanswered.error}"
            )
        return publish(writer, lambda published: store.meta.derive("judge", name, [run_id], options, published))


def _load_responses(root: AnyPath, run_id: str, shard: str) -> tuple[TraceStore, Definition, list[Response]]:
    """Load a run to judge: its store, the definition of its trait, and its responses in order."""
    store = TraceStore(find_run(root, run_id))
    trait = store.meta.options.get("trait")
    if store.meta.kind not in JUDGEABLE_KINDS or not isinstance(trait, dict):
        raise UsageError(
            f"Run '{run_id}' is of kind {store.meta.kind}: judges score responses to a trait, which traces trait respond and "
            "traces trait steer make."
        )
    rows = store.query("SELECT example_id, seq, prompt, response FROM responses ORDER BY example_id, seq").fetchall()
    if not rows:
        raise UsageError(f"Run '{run_id}' has no responses.")
    return store, Definition.model_validate(trait), [Response(*row) for row in partition.take_part(rows, shard)]


def _make_prompts(definition: Definition, r: Response) -> tuple[str, str]:
    return definition.judging_prompt(r.prompt, r.response), fill_template(COHERENCE_PROMPT, r.prompt, r.response)


def _judge_in_order(
    judge: Judge, definition: Definition, responses: list[Response], concurrency: int
) -> Generator[JudgedResponse, None, None]:
    """Yield the verdicts on each response, in order; raises a JudgeRequestError that concerns more than one prompt."""
    stop = threading.Event()
    prompts = (p for r in responses for p in _make_prompts(definition, r))
    workers = concurrency if judge.concurrent else 1
    answers = in_order(lambda prompt: ask_with_retries(judge, prompt, stop), prompts, workers)
    try:
        with closing(answers):
            for response in responses:
                trait, coherence = next(answers), next(answers)
                error = next((answer for answer in (trait, coherence) if isinstance(answer, JudgeRequestError)), None)
                yield JudgedResponse(response, _to_verdict(trait), _to_verdict(coherence), error)
    finally:
        stop.set()


def _to_verdict(answer: Verdict | JudgeRequestError) -> Verdict:
    return answer if isinstance(answer, Verdict) else Verdict(f"[no answer: {answer}]", None)


def _stop_if_unanswered(judged: Generator[JudgedResponse, None, None], total: int) -> Iterator[JudgedResponse]:
    """Pass judged responses on, holding unanswered ones back until an answered one follows or the run ends.

    Args:
        judged: The judged responses.
        total: How many responses the run has.

    Yields:
        The same responses in the same order.

    Raises:
        JudgeRequestError: `MAX_UNANSWERED_IN_A_ROW` of them, or all of the run's, have no answer: the cause is then the judge,
            and they are not kept.
    """
    held: list[JudgedResponse] = []
    with closing(judged):  # so that no more requests are sent
        for one in judged:
            held.append(one)
            if one.error is None:
                yield from held
                held.clear()
            elif len(held) in (MAX_UNANSWERED_IN_A_ROW, total):
                raise JudgeRequestError(f"{one.error}, {len(held)} responses in a row", retryable=False)
        yield from held


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
    """Write the rows as a shard, marked with the number of responses done, and empty the list."""
    table = to_table("judgements", {column: [row[column] for row in rows] for column in rows[0]})
    rows.clear()
    writer.begin_shard({}, {})
    writer.put(RecordedBatch([], {}, {}, {"judgements": table}))
    writer.end_shard(str(done))
