"""Judging runs: as many requests in flight as asked for, tries that end, what is paid for is kept, nothing is paid for unasked, and a
hostile answer costs one response."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from judge_server import Front, Reply, completion, error, garbage, serve
from synthetic import add_run

from capture.traits import judge_retries, judge_run
from capture.traits.judge import JudgeRequestError
from capture.traits.judge_clients import open_judge
from capture.traits.judge_run import JudgeProgress
from capture.traits.ordered_threads import in_order
from capture.traits.verdict import Verdict
from warehouse import TraceStore, Warehouse
from warehouse.errors import RunExistsError, TracesError, UsageError
from warehouse.storage import paths
from warehouse.storage.journal import Journal
from warehouse.storage.paths import run_dir, staged_runs
from warehouse.validation.validate import validate

KEY = "sk-proj-not0a1real2key3"
DEFINITION = {
    "name": "loud",
    "instruction": [{"pos": "Shout.", "neg": "Whisper."}],
    "questions": ["What is it?"],
    "eval_prompt": "TRAIT {question} {answer}: 0 to 100 or REFUSAL",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a tenth."""
    monkeypatch.setattr(judge_retries, "_FIRST_WAIT", 0.05)


def responses(root: Path, n: int, run_id: str = "r", kind: str = "trait-responses", **options: object) -> Path:
    """A run of n responses, of which number i is to be scored i % 101 for its trait, and 100 less that for coherence; every
    seventh is a refusal."""
    rows = [
        {
            "example_id": f"e{i:04d}", "prompt": f"What is {i}?", "response": f"It is <{i}>.", "trait": "loud",
            "polarity": ("pos", "neg")[i % 2], "instruction_idx": 0, "question_idx": i,
        }
        for i in range(n)
    ]  # fmt: skip
    return add_run(root, run_id, kind, {"responses": rows}, options={"trait": DEFINITION, **options})


def answer(body: dict) -> Reply:
    """Of a judge that knows those scores."""
    prompt = body["messages"][0]["content"]
    i = int(re.search(r"<(\d+)>", prompt)[1])
    if prompt.startswith("TRAIT"):
        return completion("REFUSAL" if i % 7 == 6 else str(i % 101))
    return completion(str(100 - i % 101))


def run(root: Path, front: Front, run_id: str = "r", **options: object):
    judge = open_judge(f"{front.url}/v1:m", timeout=options.pop("timeout", 30))
    return judge_run.judge_run(root, run_id, judge, name=options.pop("name", f"{run_id}-judged"), **options)


def rows(root: Path, run_id: str = "r-judged") -> list[tuple]:
    store = TraceStore(run_dir(root, run_id))
    return store.query(
        "SELECT source_run_id, example_id, seq, trait, trait_score, coherence_score, refused, scored_by, trait_answer, "
        "coherence_answer FROM judgements ORDER BY example_id"
    ).fetchall()


def expected(n: int) -> list[tuple]:
    found = []
    for i in range(n):
        score = None if i % 7 == 6 else float(i % 101)
        told = ("REFUSAL", True, None) if score is None else (str(i % 101), False, "number")
        coherence = 100 - i % 101
        found.append(("r", f"e{i:04d}", 0, "loud", score, float(coherence), told[1], told[2], told[0], str(coherence)))
    return found


# -- what comes of it --------------------------------------------------------------------------------------------------


def test_every_response_gets_what_the_judge_said_of_it(tmp_path: Path) -> None:
    responses(tmp_path, 40)
    seen: list[JudgeProgress] = []
    with serve(answer) as front:
        manifest = run(tmp_path, front, report=lambda j: seen.append(JudgeProgress(**vars(j))))
    assert rows(tmp_path) == expected(40)
    with Warehouse(tmp_path) as wh:
        assert wh.sql("SELECT DISTINCT trait_rule, coherence_rule FROM judged_responses").fetchall() == [
            ("written", "written")
        ]
    assert (manifest.kind, manifest.parents, manifest.counts.rows["judgements"]) == ("judge", ["r"], 40)
    assert manifest.options["judge"] == f"{front.url}/v1:m"
    assert [j.done for j in seen] == list(range(1, 41))
    assert (seen[-1].refused, seen[-1].scored) == (5, 35)
    assert len(front.seen) == 80
    assert all(c.passed is not False for c in validate(run_dir(tmp_path, "r-judged")))
    with pytest.raises(RunExistsError), serve(answer) as front:
        run(tmp_path, front)
    assert not front.seen


def test_the_newest_judge_run_counts(tmp_path: Path) -> None:
    responses(tmp_path, 4)
    responses(tmp_path, 3, "other")
    judged = {"example_id": "e0001", "source_run_id": "r", "trait": "loud", "judge": "j"}
    old = [
        {**judged, "example_id": f"e000{i}", "trait_score": 1.0, "coherence_score": 2.0, "scored_by": "number"}
        for i in range(3)
    ]
    new = [{**judged, "trait_score": None, "refused": True}, {**judged, "trait": "quiet", "trait_score": 9.0}]
    add_run(tmp_path, "z-old", "judge", {"judgements": old}, parents=["r"], minute=1)
    add_run(tmp_path, "a-new", "judge", {"judgements": new}, parents=["r"], minute=2)
    with Warehouse(tmp_path) as wh:
        found = wh.sql("SELECT run_id, example_id, trait_score, coherence_score, refused, judge_run_id FROM judged_responses "
                       "ORDER BY run_id DESC, example_id").fetchall()  # fmt: skip
        columns, plain = wh.sql("FROM judged_responses").columns, wh.sql("FROM responses").columns
    assert found == [
        ("r", "e0000", 1.0, 2.0, False, "z-old"),
        ("r", "e0001", None, None, True, "a-new"),
        ("r", "e0002", 1.0, 2.0, False, "z-old"),
        ("r", "e0003", None, None, None, None),
        *(("other", f"e000{i}", None, None, None, None) for i in range(3)),
    ]
    assert columns[: len(plain)] == plain


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"trait_score": 101.0, "scored_by": "number"}, "a score outside 0 to 100"),
        ({"refused": True, "trait_score": 0.0, "scored_by": "number"}, "a refusal with a number for a trait score"),
        ({"trait_score": 5.0}, "a score without how it was found"),
        ({"number_mass": 1.5}, "probabilities outside 0 to 1"),
        ({"trait_score": 5.0, "scored_by": "probabilities", "number_mass": 0.2}, "fewer than a quarter"),
        ({"source_run_id": "elsewhere"}, "not among the parents"),
    ],
)
def test_validation_finds_what_cannot_be(tmp_path: Path, row: dict, told: str) -> None:
    sound = {"source_run_id": "r", "trait_score": 7.0, "scored_by": "number"}
    add_run(
        tmp_path,
        "j",
        "judge",
        {"judgements": [sound, {"example_id": "e1", "source_run_id": "r", **row}]},
        parents=["r"],
    )
    found = {c.name: c for c in validate(run_dir(tmp_path, "j"))}
    assert found["judgements"].passed is False
    assert told in found["judgements"].detail


# -- in flight ---------------------------------------------------------------------------------------------------------


def test_twenty_requests_are_in_flight(tmp_path: Path) -> None:
    """No answer before twenty are asked for: across the ends of shards too."""
    responses(tmp_path, 50)
    together = threading.Barrier(20)

    def when_all_are_there(body: dict) -> Reply:
        together.wait(60)
        return answer(body)

    with serve(when_all_are_there) as front:
        run(tmp_path, front, concurrency=20)
    assert rows(tmp_path) == expected(50)
    assert front.most == 20


def test_a_slow_answer_holds_up_no_other(tmp_path: Path) -> None:
    """The first answer comes once all are asked for that may be asked for ahead of it."""
    responses(tmp_path, 50)
    others = threading.Semaphore(0)

    def first_last(body: dict) -> Reply:
        if body["messages"][0]["content"].startswith("TRAIT What is 0?"):
            for _ in range(4 * 10 - 1):
                assert others.acquire(timeout=60)
        else:
            others.release()
        return answer(body)

    with serve(first_last) as front:
        run(tmp_path, front, concurrency=10)
    assert rows(tmp_path) == expected(50)


def test_one_at_a_time_where_that_is_asked_for(tmp_path: Path) -> None:
    responses(tmp_path, 3)
    with serve(answer) as front:
        run(tmp_path, front, concurrency=1)
    assert front.most == 1


def test_answers_come_in_order_and_never_too_many_ahead() -> None:
    begun: list[int] = []

    def work(i: int) -> int:
        begun.append(i)
        time.sleep(0.2 if i == 0 else 0.001)
        return i

    def items() -> Iterator[int]:
        yield from range(200)

    found = []
    for i in in_order(work, items(), 5):
        found.append(i)
        assert max(begun) <= i + 4 * 5
    assert found == list(range(200))


# -- faults ------------------------------------------------------------------------------------------------------------


def test_faults_are_tried_again_until_there_is_an_answer(tmp_path: Path) -> None:
    responses(tmp_path, 6)
    faults = [
        error(500, "oh"), garbage(b"<html>", "text/html"), garbage(b'{"choices": []}'), garbage(b"{"),
        lambda _: (0, {}, b""), error(503, "busy"), error(429, "slow down"),
    ]  # fmt: skip
    with serve(answer, *faults) as front:
        run(tmp_path, front)
    assert rows(tmp_path) == expected(6)
    assert len(front.seen) == 12 + len(faults)


class Patience(threading.Event):
    """Notes how long it is to be waited for, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return False


def test_waits_grow_and_are_as_long_as_the_server_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_retries, "_FIRST_WAIT", 10.0)
    asked = Patience()
    faults = [*[error(500, "oh")] * 3, error(429, "slow down", {"retry-after": "1.2"}), garbage(b"{}")]
    with serve(lambda _: completion("7"), *faults) as front:
        found = judge_retries.ask_with_retries(open_judge(f"{front.url}/v1:m"), "?", asked)
    assert found.score == 7
    assert asked.seconds[3] == 1.2
    for wait, longest in zip([*asked.seconds[:3], asked.seconds[4]], (10, 20, 30, 30), strict=True):
        assert 0.75 * longest <= wait <= longest


@pytest.mark.parametrize(
    ("fault", "told", "asked"),
    [
        (error(500, f"oh {KEY}"), r"HTTP 500: oh \[key\] \(6 tries\)", 6),
        (lambda _: (307, {"location": "http://127.0.0.1:9/"}, b""), "HTTP 307: .* redirects are not followed", 1),
        (error(401, f"bad key {KEY}"), r"HTTP 401: bad key \[key\]\.", 1),
        (error(429, "later", {"retry-after": "7200"}), "it asks to wait 7,200 s", 1),
    ],
)
def test_a_judge_that_never_answers_ends_it_and_what_it_did_answer_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable, told: str, asked: int
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    monkeypatch.setattr(judge_retries, "_FIRST_WAIT", 0.01)
    responses(tmp_path, 40)
    with serve(fault, *[answer] * 46) as front:
        judge = open_judge(f"{front.url}/v1:m")
        with pytest.raises(TracesError, match=told) as caught:
            judge_run.judge_run(tmp_path, "r", judge, name="r-judged", concurrency=1)
        assert len(front.seen) == 46 + asked
        assert "23 of 40 responses are judged and kept. Run the same command again to resume" in str(caught.value)
        assert staged_runs(tmp_path) == ["r-judged"]
        assert judge_run.estimate(tmp_path, "r", "r-judged").requests == 34
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
        front.script += [answer] * 1000  # it has come to its senses
        seen: list[int] = []
        judge_run.judge_run(tmp_path, "r", judge, name="r-judged", report=lambda j: seen.append(j.resumed))
        assert len(front.seen) == 46 + asked + 34
    assert seen[0] == 23
    assert rows(tmp_path) == expected(40)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


HOSTILE = {
    3: garbage(b"<html>", "text/html"),
    5: garbage(b'{"choices": [{"message": {"content": [{"text": "80"}]}}]}'),
    8: garbage(b"[" * 100_000),
    11: garbage(bytes(2 << 20)),
    14: error(400, "flagged\n\x1b[2J by a filter"),
    17: error(413, "too long"),
    20: lambda _: (422, {}, b"\xff\xfe"),
    23: lambda _: (200, {"content-encoding": "gzip"}, b"no gzip"),
    25: garbage(rb'{"choices": [{"message": {"content": "80 \ud83d\u0000"}}]}'),
    27: lambda _: completion("80", [{"token": "80", "logprob": 1e308, "top_logprobs": []}]),
    29: lambda _: completion("80", [{"token": "80", "logprob": float("nan"), "top_logprobs": 7}]),
    31: lambda _: completion("9" * 5000),
}
"""To the trait of these responses, every time: an answer from a hostile server. The last four are read for what they say."""


def test_a_hostile_answer_costs_one_response(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_retries, "_FIRST_WAIT", 0.001)
    responses(tmp_path, 40)
    notes: list[str] = []
    seen: list[JudgeProgress] = []

    def hostile(body: dict) -> Reply:
        i = int(re.search(r"<(\d+)>", body["messages"][0]["content"])[1])
        trait = body["messages"][0]["content"].startswith("TRAIT")
        return HOSTILE[i](body) if trait and i in HOSTILE else answer(body)

    with serve(hostile) as front:
        run(tmp_path, front, note=notes.append, report=lambda j: seen.append(JudgeProgress(**vars(j))))
    found, sound = rows(tmp_path), expected(40)
    assert [row for i, row in enumerate(found) if i not in HOSTILE] == [
        row for i, row in enumerate(sound) if i not in HOSTILE
    ]
    for i in HOSTILE:
        assert (found[i][5], found[i][9]) == (sound[i][5], sound[i][9])  # its coherence was told
        assert found[i][4] == (80 if i in (25, 27, 29) else None)
        assert (found[i][6], found[i][7]) == (False, None if found[i][4] is None else "number")
    why = {i: found[i][8] for i in HOSTILE}
    garbled = "[no answer: its answer is not a completion (6 tries)]"
    assert why[3] == why[5] == why[8] == garbled
    assert why[11] == "[no answer: its answer has more than 1,048,576 bytes (6 tries)]"
    assert why[14] == "[no answer: HTTP 400: flagged \ufffd[2J by a filter]"
    assert why[17] == "[no answer: HTTP 413: too long]"
    assert why[20].startswith("[no answer: HTTP 422: ")
    assert why[23] == "[no answer: its answer cannot be decompressed (6 tries)]"
    assert (why[25], why[27], why[31]) == ("80 \ufffd\0", "80", "9" * 5000)
    assert notes == [
        f"{front.url}/v1:m has no answer to 8 of 40 responses; trait_answer and coherence_answer give the reasons. The first, e0003 "
        "(seq 0): its answer is not a completion (6 tries)"
    ]
    assert seen[-1].unanswered == 8
    assert all(c.passed is not False for c in validate(run_dir(tmp_path, "r-judged")))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (garbage(b"{}"), r"its answer is not a completion \(6 tries\), 16 responses in a row"),
        (error(400, "no such\nparameter"), "HTTP 400: no such parameter, 16 responses in a row"),
    ],
)
def test_a_judge_that_answers_nothing_any_more_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable, told: str
) -> None:
    """The responses that it did not answer are asked about again."""
    monkeypatch.setattr(judge_retries, "_FIRST_WAIT", 0.001)
    responses(tmp_path, 40)
    with serve(fault, *[answer] * 40) as front:
        with pytest.raises(TracesError, match=f"does not answer: {told}. 20 of 40 responses are judged and kept"):
            run(tmp_path, front, concurrency=1)
        asked = len(front.seen)
        assert judge_run.estimate(tmp_path, "r", "r-judged").requests == 40
        front.script += [answer] * (asked + 40)
        run(tmp_path, front, concurrency=1)
    assert rows(tmp_path) == expected(40)


def test_a_judge_that_answers_nothing_at_all_makes_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_retries, "_FIRST_WAIT", 0.001)
    responses(tmp_path, 3)
    with (
        serve(garbage(b"{}")) as front,
        pytest.raises(TracesError, match="3 responses in a row. Nothing was judged or"),
    ):
        run(tmp_path, front)


def test_the_last_responses_may_have_no_answer(tmp_path: Path) -> None:
    """Also where they are all that an interrupted job had left."""
    responses(tmp_path, 20)
    with serve(answer, *[answer] * 38, error(401, "no")) as front:
        with pytest.raises(TracesError, match="19 of 20"):
            run(tmp_path, front, concurrency=1)
        front.script += [error(400, "flagged")] * 2
        run(tmp_path, front, concurrency=1)
    assert rows(tmp_path)[:19] == expected(19)
    assert rows(tmp_path)[19][4:6] == (None, None)


def test_another_judge_does_not_go_on_with_it(tmp_path: Path) -> None:
    responses(tmp_path, 20)
    with serve(error(401, "no"), *[answer] * 33) as front:
        with pytest.raises(TracesError, match="16 of 20"):
            run(tmp_path, front, concurrency=1)
        with pytest.raises(UsageError, match="differs in judge"):
            judge_run.judge_run(tmp_path, "r", open_judge(f"{front.url}/v1:other"), name="r-judged")


def test_a_judge_without_numbers_is_told_of_early(tmp_path: Path) -> None:
    responses(tmp_path, 20)
    notes: list[str] = []
    with serve(lambda _: completion("As a judge, I like\nit.")) as front:
        run(tmp_path, front, note=notes.append)
    assert notes == [
        f"{front.url}/v1:m gave none of the first 16 responses a score; one of its answers: 'As a judge, I like it.'"
    ]
    found = rows(tmp_path)
    assert all(row[4:8] == (None, None, False, None) for row in found)
    assert all(c.passed is not False for c in validate(run_dir(tmp_path, "r-judged")))


def test_what_cannot_be_judged_is_said(tmp_path: Path) -> None:
    responses(tmp_path, 1, "plain", kind="generate")
    responses(tmp_path, 0, "empty")
    responses(tmp_path, 1, "untold", trait=None)
    with serve(answer) as front:
        for name, told in (
            ("plain", "is of kind generate"),
            ("empty", "has no responses"),
            ("untold", "judges score"),
            ("no", "No run 'no'"),
        ):
            with pytest.raises(UsageError, match=told):
                run(tmp_path, front, name)
    assert not front.seen


def test_responses_after_steering_are_judged_too(tmp_path: Path) -> None:
    responses(tmp_path, 3, kind="trait-steering")
    with serve(answer) as front:
        run(tmp_path, front)
    assert rows(tmp_path) == expected(3)


def test_a_local_judge_is_asked_in_this_thread(tmp_path: Path) -> None:
    responses(tmp_path, 5)

    class Here:
        name, paid, concurrent = "local:here", False, False

        def ask(self, prompt: str) -> Verdict:
            assert threading.current_thread() is threading.main_thread()
            return Verdict("1", 1.0, scored_by="probabilities", number_mass=0.5)

    judge_run.judge_run(tmp_path, "r", Here(), name="j", concurrency=20)
    assert [row[4] for row in rows(tmp_path, "j")] == [1.0] * 5


def test_a_fault_before_any_answer_keeps_nothing(tmp_path: Path) -> None:
    responses(tmp_path, 2)

    class Full:
        name, paid, concurrent = "local:full", False, False

        def ask(self, prompt: str) -> Verdict:
            raise JudgeRequestError(
                "the judging prompt has 9 tokens, and the model reads 4", retryable=False, this_prompt_only=True
            )

    with pytest.raises(TracesError, match="Nothing was judged or kept"):
        judge_run.judge_run(tmp_path, "r", Full(), name="j")
    assert not paths.staging_dir(tmp_path, "j").exists()


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_judges_and_tells(tmp_path: Path, traces: Callable[..., SimpleNamespace]) -> None:
    responses(tmp_path, 30)
    with serve(answer) as front:
        done = traces("trait", "judge", "r", "--judge", f"{front.url}/v1:m", "--format", "tsv", "-w", tmp_path)
    assert done.code == 0, done.err
    header, *lines = (line.split("\t") for line in done.out.splitlines())
    assert [(line[1], line[4]) for line in lines] == [("neg", "15"), ("pos", "15")]
    assert header[5:] == ["trait_score", "coherence_score", "refused", "without_score"]
    assert "60 requests, about" in done.err
    assert rows(tmp_path) == expected(30)


def test_a_paid_judge_is_not_asked_without_a_yes(tmp_path: Path, traces: Callable[..., SimpleNamespace]) -> None:
    """The address is nobody's (RFC 5737); the key is not even looked at by anyone."""
    responses(tmp_path, 30)
    asked = ("trait", "judge", "r", "--judge", "http://192.0.2.1:9/v1:m", "-w", tmp_path)
    done = traces(*asked)
    assert done.code == 2
    assert "no terminal to confirm that on: add --yes" in done.err
    done = traces(*asked, "--dry-run", "--price", "2.5,10")
    assert done.code == 0
    characters = sum(len(p) for i in range(30) for p in judge_run._make_prompts(
        judge_run.Definition.model_validate(DEFINITION), judge_run.Response("e", 0, f"What is {i}?", f"It is <{i}>.")))  # fmt: skip
    cost = (characters // 4 * 2.5 + 60 * 16 * 10) / 1e6
    assert f"60 requests, about {characters // 4:,} tokens in and at most 960 out, about ${cost:.2f}" in done.err
    assert not run_dir(tmp_path, "r-judged").exists()
    assert staged_runs(tmp_path) == []
    assert traces(*asked, "--price", "cheap").code == 2


def judge_command(judge: str, root: Path) -> list[str]:
    """The command that judges run `r`, for a process of its own."""
    asked = ["trait", "judge", "r", "--judge", judge, "-w", str(root)]
    return [sys.executable, "-m", "capture.cli.main", *asked]


@pytest.mark.slow
def test_no_ends_it_and_yes_goes_on(tmp_path: Path) -> None:
    responses(tmp_path, 2)
    command = judge_command("openai:m", tmp_path)
    with serve(answer) as front:
        # this address leads back to this machine, but is not known for one that does
        env = {
            **os.environ,
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": front.url.replace("127.0.0.1", "0.0.0.0") + "/v1",
        }
        for said, code, asked in ((b"n\n", 1, 0), (b"y\n", 0, 4)):
            master, slave = pty.openpty()
            process = subprocess.Popen(command, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
            os.write(master, said)
            out, err = process.communicate(timeout=60)
            os.close(master), os.close(slave)
            assert process.returncode == code, err
            assert b"Go on?" in err
            assert len(front.seen) == asked
            assert KEY.encode() not in out + err


@pytest.mark.slow
def test_killed_and_gone_on_with_it_is_as_if_undisturbed(tmp_path: Path) -> None:
    """SIGTERM ends it though the judge never answers; the same command asks for the rest alone."""
    responses(tmp_path, 100)
    hang = threading.Event()

    def until(body: dict) -> Reply:
        if len(front.seen) > 90 and not hang.is_set():
            hang.wait(300)
        return answer(body)

    with serve(until) as front:
        command = judge_command(f"{front.url}/v1:m", tmp_path)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        staged = paths.journal_path(paths.staging_dir(tmp_path, "r-judged"))
        while len(Journal(staged).shards) < 2:  # 32 responses: the first 90 answers are more
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)  # while what it has asked for hangs
        assert process.returncode == 130, err
        assert "What was complete is kept" in err
        hang.set()
        left = judge_run.estimate(tmp_path, "r", "r-judged").requests
        assert left <= 200 - 64
        before = len(front.seen)
        run(tmp_path, front)
        assert len(front.seen) == before + left
    assert rows(tmp_path) == expected(100)
