"""Judges behind an API: parameters, keys, faults, and answers of servers that are hostile or broken."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
import sys
import traceback
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from judge_server import (
    CHAT_TEMPLATE,
    Talk,
    completion,
    error,
    forward,
    free_port,
    garbage,
    late,
    message,
    serve,
    serve_raw,
    started,
)
from transformers import PreTrainedTokenizerFast

from capture.model.loading import Loaded
from capture.traits.judge import JudgeRequestError
from capture.traits.judge_clients import open_judge
from capture.traits.verdict import from_text
from warehouse.errors import UsageError

KEY = "sk-proj-not0a1real2key3"

# -- judges behind an address ------------------------------------------------------------------------------------------


def logprobs(token: str, **others: float) -> list[dict]:
    told = {token: 1 - sum(others.values()), **{k.removeprefix("n"): p for k, p in others.items()}}
    top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in told.items()]
    return [{**top[0], "top_logprobs": top}]


def test_probabilities_are_asked_for_and_used() -> None:
    with serve(lambda _: completion("80", logprobs("80", n90=0.25))) as front:
        found = open_judge(f"{front.url}/v1:any/model:tag").ask("How much?")
    assert found.score == pytest.approx(82.5)
    assert found.number_mass == pytest.approx(1)
    (sent,) = front.seen
    assert sent["messages"] == [{"role": "user", "content": "How much?"}]
    assert (sent["model"], sent["temperature"], sent["logprobs"], sent["top_logprobs"]) == (
        "any/model:tag",
        0,
        True,
        20,
    )


def test_a_server_that_refuses_a_parameter_is_asked_without_it() -> None:
    """As OpenAI's thinking models refuse temperature and max_tokens, and some servers fail where they have no probabilities."""
    refusals = (
        error(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        ),
        error(400, "Unsupported value: 'temperature' does not support 0 with this model."),
        error(500, "top_logprobs is not supported for models created with logits_all=False"),
    )
    with serve(lambda _: completion("70"), *refusals) as front:
        judge = open_judge(f"{front.url}/v1:m")
        assert judge.ask("?").score == 70
        assert judge.ask("?").score == 70
    assert len(front.seen) == 5
    assert set(front.seen[-1]) == {"model", "messages", "max_completion_tokens"}


def test_an_error_that_quotes_the_prompt_takes_no_parameter_away() -> None:
    flagged = error(400, "flagged: 'Is temperature about logprobs?'")
    with serve(lambda _: completion("70"), flagged, flagged) as front:
        judge = open_judge(f"{front.url}/v1:m")
        with pytest.raises(JudgeRequestError, match="HTTP 400: flagged"):
            judge.ask("Is temperature about logprobs?")
        assert judge.ask("?").score == 70
    assert {"temperature", "logprobs", "top_logprobs"} <= set(front.seen[-1])


@pytest.mark.slow
def test_openais_and_anthropics_own_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with serve(lambda body: message("30") if body["path"] == "/v1/messages" else completion("REFUSAL")) as front:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{front.url}/v1")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", front.url)
        assert open_judge("openai:gpt").ask("?").refused
        found = open_judge("anthropic:claude").ask("?")
    assert (found.score, found.scored_by, found.number_mass) == (30, "number", None)
    assert front.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY in {front.headers[1].get("x-api-key"), front.headers[1].get("authorization", "").removeprefix("Bearer ")}
    assert front.seen[1]["temperature"] == 0
    assert front.headers[1]["anthropic-version"] == "2023-06-01"  # the last that takes a temperature


def test_an_anthropic_model_without_temperature_is_asked_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with serve(lambda _: message("30"), error(400, "`temperature` is deprecated for this model.")) as front:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", front.url)
        assert open_judge("anthropic:m").ask("?").score == 30
    assert ["temperature" in sent for sent in front.seen] == [True, False]


def test_who_may_have_to_be_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    for spec in ("openai:m", "anthropic:m", "https://judge.example/v1:m", "http://10.0.0.1:80/v1:m"):
        assert open_judge(spec).paid
    for spec in ("http://127.0.0.1:9/v1:m", "http://localhost:9/v1:m", "http://[::1]:9/v1:m"):
        assert not open_judge(spec).paid


@pytest.mark.parametrize(
    ("fault", "again", "told"),
    [
        (error(429, "slow down", {"retry-after": "7"}), True, "HTTP 429"),
        (error(500, "oh"), True, "HTTP 500"),
        (error(529, "overloaded"), True, "HTTP 529"),
        (error(429, "quota", code="insufficient_quota"), False, "HTTP 429"),
        (error(401, "bad key"), False, "HTTP 401"),
        (error(404, "no such model"), False, "no such model"),
        (garbage(b'{"cho'), True, "not a completion"),
        (garbage(b"<html>", "text/html"), True, "not a completion"),
        (garbage(b"{}"), True, "not a completion"),
        (garbage(b'{"choices": []}'), True, "not a completion"),
        (garbage(b'{"choices": [{"message": {"content": 7}}]}'), True, "not a completion"),
        (garbage(b'{"choices": [{"message": null}]}'), True, "not a completion"),
        (garbage(b'[{"choices": 3}]'), True, "not a completion"),
        (garbage(b"null"), True, "not a completion"),
        (lambda _: (0, {}, b""), True, "cannot be reached"),
        (error(400, "flagged"), False, "HTTP 400: flagged"),
    ],
)
def test_a_fault_says_what_it_was_and_whether_to_ask_again(fault: Callable, again: bool, told: str) -> None:
    with serve(lambda _: completion("5"), fault) as front:
        judge = open_judge(f"{front.url}/v1:m")
        with pytest.raises(JudgeRequestError, match=told) as caught:
            judge.ask("?")
        assert caught.value.retryable == again
        assert caught.value.retry_after == (7 if told == "HTTP 429" and again else None)
        assert caught.value.this_prompt_only == (told in ("not a completion", "HTTP 400: flagged"))
        assert judge.ask("?").score == 5


def test_an_answer_that_is_late_is_none() -> None:
    with serve(lambda _: completion("5"), late(60, completion("1"))) as front:
        with pytest.raises(JudgeRequestError, match=r"^no answer within 0\.3 s$") as caught:
            open_judge(f"{front.url}/v1:m", timeout=0.3).ask("?")
        assert (caught.value.retryable, caught.value.this_prompt_only) == (True, False)


# -- hostile servers ---------------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (OK + b"content-length: 100000\r\n\r\n", b" "),
        (OK + b"transfer-encoding: chunked\r\n\r\n", chunked(b" ")),
        (OK + b"x: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 100000\r\n\r\n", b" "),
        (b"HTTP/1.1 307 There\r\nlocation: /\r\ncontent-length: 100000\r\n\r\n", b" "),
    ],
    ids=["body", "chunks", "headers", "100 Continue", "an error", "a redirect"],
)
def test_the_time_is_for_all_of_an_answer(head: bytes, piece: bytes) -> None:
    """However often a byte comes."""

    def speak(talk: Talk) -> None:
        talk.say(head)
        talk.drip(piece)

    with serve_raw(speak) as (url, _), pytest.raises(JudgeRequestError, match=r"^no answer within 0\.5 s$") as caught:
        open_judge(f"{url}/v1:m", timeout=0.5).ask("?")
    assert caught.value.retryable


BOMB = gzip.compress(bytes(200 << 20), 1)


@pytest.mark.parametrize(
    ("head", "piece", "told"),
    [
        (OK + b"content-length: 100000000000\r\n\r\n", bytes(1 << 16), "its answer has more than 1,048,576 bytes"),
        (OK + b"\r\n", bytes(1 << 16), "its answer has more than 1,048,576 bytes"),
        (b"HTTP/1.1 404 No\r\n\r\n", bytes(1 << 16), "its answer has more than 1,048,576 bytes"),
        (OK + b"content-encoding: gzip\r\n\r\n", BOMB, "its answer has more than 1,048,576 bytes"),
        (OK + b"content-encoding: gzip, gzip\r\n\r\n", gzip.compress(BOMB), "its answer is compressed more than once"),
        (OK + b"content-encoding: gzip\r\n\r\n", b"no gzip", "its answer cannot be decompressed"),
        (OK, b"x: " + b"x" * (1 << 16), "its answer is not HTTP"),
        (b"", b"SSH-2.0-OpenSSH_9.9\r\n", "its answer is not HTTP"),
    ],
    ids=["length", "no length", "an error", "bomb", "bomb in a bomb", "no gzip", "headers", "no HTTP"],
)
def test_an_answer_has_a_size_and_a_form(head: bytes, piece: bytes, told: str) -> None:
    """What is sent without end is read only so far: memory is flat."""

    def speak(talk: Talk) -> None:
        talk.say(head)
        while not talk.over.is_set() and talk.sent < 1 << 28:
            talk.say(piece)

    with serve_raw(speak) as (url, talks):
        judge = open_judge(f"{url}/v1:m")
        tracemalloc.start()
        try:
            with pytest.raises(JudgeRequestError, match=f"^{told}") as caught:
                judge.ask("?")
            assert tracemalloc.get_traced_memory()[1] < 32 << 20
        finally:
            tracemalloc.stop()
    assert talks[0].sent < 1 << 28
    assert (caught.value.retryable, caught.value.this_prompt_only) == (True, True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("spec", ["anthropic:m", "server"])
def test_a_redirect_is_not_followed(spec: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither key nor prompt go to whom a server names, not even to itself."""
    for name in ("ANTHROPIC_API_KEY", "JUDGE_API_KEY"):
        monkeypatch.setenv(name, KEY)
    with serve(lambda _: completion("1")) as other:
        place = other.url.replace("//", "//me:secret@") + "/v1/chat/completions"
        with serve(lambda _: (status, {"location": place}, b"")) as front:
            monkeypatch.setenv("ANTHROPIC_BASE_URL", front.url)
            judge = open_judge(spec if spec == "anthropic:m" else f"{front.url}/v1:m")
            with pytest.raises(
                JudgeRequestError, match=f"^HTTP {status}: it redirects to {other.url}.*not followed"
            ) as caught:
                judge.ask("?")
            assert len(front.seen) == 1
        assert not other.seen
    assert not caught.value.retryable
    assert "secret" not in str(caught.value)


def told_of(token: object, logprob: object, *others: object) -> list[dict]:
    return [{"token": token, "logprob": logprob, "top_logprobs": list(others)}]


@pytest.mark.parametrize(
    "logprobs",
    [
        told_of("80", 1e308), told_of("80", math.nan), told_of("80", math.inf), told_of("80", 2), told_of("80", "-0.1"),
        told_of("80", None), told_of("80", [0]), told_of("80", -0.1, 5), told_of("80", -0.1, {"token": "90"}),
        told_of("80", -0.1, {"token": "90", "logprob": 1e308}), told_of("80", -0.1, {"logprob": -3}), [7], [[]], [{}],
        [{"token": "80", "logprob": -0.1, "top_logprobs": {"90": -3}}], [{"token": "80", "logprob": -0.1, "top_logprobs": 20}],
    ],
)  # fmt: skip
def test_probabilities_that_are_none_are_not_told(logprobs: list) -> None:
    with serve(lambda _: completion("80", logprobs)) as front:
        found = open_judge(f"{front.url}/v1:m").ask("?")
    assert (found.score, found.scored_by, found.number_mass) == (80, "number", None)


def test_probabilities_that_round_to_more_or_to_nothing() -> None:
    others = ({"token": "90", "logprob": -math.inf}, {"token": "70", "logprob": -(10**400)})
    with serve(lambda _: completion("80", told_of("80", 1e-7, *others))) as front:
        found = open_judge(f"{front.url}/v1:m").ask("?")
    assert (found.score, found.scored_by, found.number_mass) == (80, "probabilities", 1)


@pytest.mark.parametrize(
    ("raw", "answer", "score"),
    [
        (rb'"80 \ud83d"', "80 \ufffd", 80), (rb'"\ude00\ud83d 80"', "\ufffd\ufffd 80", 80), (rb'"\ud83d\ude00 80"', "\U0001f600 80", 80),
        (rb'"80\u0000"', "80\0", 80), (rb'"\u0000 80"', "\0 80", 80), (rb'"\uff11\uff12"', "１２", None), (rb'"1e400"', "1e400", None),
        (b'"%b"' % (b"9" * 5000), "9" * 5000, None), (b'"80 %b"' % (b"x" * 500_000), "80 " + "x" * 19_997, 80), (b"null", "", None),
    ],
)  # fmt: skip
def test_what_an_answer_may_hold(raw: bytes, answer: str, score: float | None) -> None:
    with serve(garbage(b'{"choices": [{"message": {"content": %b}}]}' % raw)) as front:
        found = open_judge(f"{front.url}/v1:m").ask("?")
    assert (found.answer, found.score) == (answer, score)
    found.answer.encode()  # as Parquet wants it


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [{"message": {"content": [{"type": "text", "text": "80"}]}}]}', b'{"choices": {"0": 1}}', b"\xff\xfe", b"",
        b"[" * 100_000, b'{"a":' * 100_000, b'{"choices": [{"message": "80"}]}', b'{"choices": [{"message": {"content": true}}]}',
        b"9" * 5000, b"NaN", b'{"content": {}}', b'{"content": [{"type": "text", "text": 3}]}', b'{"content": ["80"]}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("spec", ["anthropic:m", "server"])
def test_what_is_no_answer(spec: str, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with serve(garbage(body)) as front:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", front.url)
        judge = open_judge(spec if spec == "anthropic:m" else f"{front.url}/v1:m")
        with pytest.raises(JudgeRequestError, match="^its answer is not a completion$") as caught:
            judge.ask("?")
    assert (caught.value.retryable, caught.value.this_prompt_only) == (True, True)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>\n<h1>No</h1>", b"", b"\xff\xfe", b"[" * 100_000, b'{"error": 3}', b'{"error": [{"message": {}}]}', b"null", b'"\\ud800"',
        b'{"error": {"message": "\\ud800\\u001b[2J\\u202e", "code": {}, "type": 3}}', b'{"error": {"message": "%b"}}' % (b"x" * 500_000),
        b'{"message": "no", "error": null}', b'{"error": {"message": "key %b\\nis bad"}}' % KEY.encode(),
        b'{"type": "error", "error": {"type": "api_error", "message": null, "details": 3}}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("spec", ["anthropic:m", "server"])
def test_an_errors_body_makes_one_line(spec: str, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "JUDGE_API_KEY"):
        monkeypatch.setenv(name, KEY)
    with serve(lambda _: (418, {"content-type": "application/json"}, body)) as front:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", front.url)
        judge = open_judge(spec if spec == "anthropic:m" else f"{front.url}/v1:m")
        with pytest.raises(JudgeRequestError, match="^HTTP 418: ") as caught:
            judge.ask("?")
    said = str(caught.value)
    assert said.isprintable() and said.encode() and len(said) < 320 and KEY not in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OPENAI_BASE_URL", "http://[::1"),
        ("HTTPS_PROXY", "nothing://me:secret@here"),
        ("SSL_CERT_FILE", "/no/such/file"),
    ],
)
def test_what_the_environment_names_wrongly(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match="^openai:m cannot be used, because of its address, or of a proxy") as caught:
        open_judge("openai:m")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("timeout", [math.nan, math.inf, 0, -1, 1e308])
def test_a_time_that_is_none(timeout: float) -> None:
    with pytest.raises(UsageError, match=r"^--timeout .*: write seconds, at most 86,400\.$"):
        open_judge("http://127.0.0.1:9/v1:m", timeout=timeout)


@pytest.mark.parametrize("body", [b'{"content": 3}', b"nonsense", b'{"content": [{"type": "text"}]}'])
def test_anthropics_garbage_is_garbage_too(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with serve(lambda _: message("5"), garbage(body)) as front:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", front.url)
        with pytest.raises(JudgeRequestError, match="not a completion"):
            open_judge("anthropic:m").ask("?")


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(JudgeRequestError, match="cannot be reached") as caught:
        open_judge(f"http://127.0.0.1:{free_port()}/v1:m").ask("?")
    assert caught.value.retryable


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["openai:m", "anthropic:m", "server"])
def test_a_key_is_in_no_error_and_no_answer(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "JUDGE_API_KEY"):
        monkeypatch.setenv(name, KEY)
    told = f"Incorrect API key provided: {KEY}. You used sk-other-key-9."
    answer = message(f"{KEY}: 4") if spec.startswith("anthropic") else completion(f"{KEY}: 4")
    with serve(lambda _: answer, error(401, told), error(500, told), lambda _: (0, {}, b"")) as front:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{front.url}/v1")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", front.url)
        judge = open_judge(f"{front.url}/v1:m" if spec == "server" else spec)
        for _ in range(3):
            with pytest.raises(JudgeRequestError) as caught:
                judge.ask("?")
            text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
            assert KEY not in text
            assert "sk-other" not in text
        assert KEY not in judge.ask("?").answer
    assert any(KEY in v for headers in front.headers for v in headers.values())  # it was sent
    assert KEY not in repr(judge) + judge.name


def test_a_key_may_lie_in_a_file_dot_env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match="openai:m needs a key: set OPENAI_API_KEY in the environment, or in a file .env"
    ):
        open_judge("openai:m")
    (tmp_path / ".env").write_text(f'OPENAI_API_KEY="{KEY}"\n')
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    with serve(lambda _: completion("1")) as front:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{front.url}/v1")
        open_judge("openai:m").ask("?")
    assert front.headers[0]["authorization"] == f"Bearer {KEY}"
    assert "OPENAI_API_KEY" not in os.environ


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"OPENAI_API_KEY=sk-\xff\xfe", r"\.env is not UTF-8 \(byte \d+\): save it as UTF-8, or set OPENAI_API_KEY in the environment\.$"),
        (b'OPENAI_API_KEY="sk-1\nsk-2"', r"^OPENAI_API_KEY contains characters that no key has\.$"),
        (b"OPENAI_API_KEY=sk-\0", r"^OPENAI_API_KEY contains characters that no key has\.$"),
        ("OPENAI_API_KEY=ключ".encode(), r"^OPENAI_API_KEY contains characters that no key has\.$"),
    ],
)  # fmt: skip
def test_a_file_dot_env_that_holds_no_key(
    content: bytes, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(UsageError, match=told):
        open_judge("openai:m")


def test_openais_key_goes_to_no_other_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    with serve(lambda _: completion("1")) as front:
        open_judge(f"{front.url}/v1:m").ask("?")
    assert KEY not in json.dumps(front.headers)


def test_a_key_that_no_header_can_hold_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "…")
    with pytest.raises(UsageError, match="OPENAI_API_KEY contains characters") as caught:
        open_judge("openai:m")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "gpt-4",
        "openai:",
        "local:",
        "http://host:80",
        "http://host:x/v1:m",
        "http://[::1/v1:m",
        "http://:80/v1:m",
        "ftp://host/v1:m",
        "mistral:large",
        "openai:a\nb",
        "openai:\udcff",
        "http://host:80/v1:m\x1b[2J",
    ],
)
def test_what_names_no_judge(spec: str) -> None:
    with pytest.raises(
        UsageError, match="No judge '.*': (write openai:MODEL, anthropic:MODEL|its name is kept)"
    ) as caught:
        open_judge(spec)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("spec", ["http://me:secret@host:80/v1:m", "http://host:80/v1?key=secret:m"])
def test_an_address_with_a_secret_in_it_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="JUDGE_API_KEY") as caught:
        open_judge(spec)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("package", ["openai", "anthropic"])
def test_a_missing_package_is_told_with_its_remedy(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{package.upper()}_API_KEY", KEY)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"This judge needs .*: pip install 'trace-warehouse\[judge\]'"):
        open_judge(f"{package}:m")


# -- real servers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def chat_folder(
    tmp_path_factory: pytest.TempPathFactory, make_llama: Callable, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """A tiny random model that has a chat template."""
    folder = tmp_path_factory.mktemp("chat")
    copied = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>", eos_token="<pad>")
    copied.chat_template = CHAT_TEMPLATE
    copied.save_pretrained(folder)
    make_llama(max_position_embeddings=512).save_pretrained(folder)
    return folder


def transformers_server(folder: Path):
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--host", "127.0.0.1", "--device", "cpu"]
    port = free_port()
    return started([*command, "--port", str(port)], port, "/health", {**os.environ, "HF_HUB_OFFLINE": "1"})


@pytest.mark.slow
def test_transformers_own_server_answers_in_text(chat_folder: Path) -> None:
    """It gives no token probabilities: the number is read from the answer. A random model's answer has none, or a few digits."""
    with transformers_server(chat_folder) as url:
        judge = open_judge(f"{url}/v1:{chat_folder}", timeout=120)
        found = judge.ask("How much?")
        assert found.answer
        assert found == judge.ask("How much?")
        assert (found.number_mass, found.refused) == (None, False)
        assert found == from_text(found.answer)
        with serve(forward(url), error(500, "not now"), garbage(b"<html>", "text/html")) as front:
            between = open_judge(f"{front.url}/v1:{chat_folder}", timeout=120)
            for _ in range(2):
                with pytest.raises(JudgeRequestError):
                    between.ask("How much?")
            assert between.ask("How much?") == found


@pytest.mark.slow
def test_the_packaged_model_judges_through_transformers_own_server(smollm2: Loaded) -> None:
    from capture.model.sources import packaged_folder

    folder = packaged_folder("smollm2")
    with transformers_server(folder) as url:
        found = open_judge(f"{url}/v1:{folder}", timeout=300).ask("Say a number from 0 to 100, and nothing else.")
    assert found.scored_by == "number"
    assert 0 <= found.score <= 100


@pytest.mark.llama_cpp
@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_llama_cpps_server_gives_probabilities() -> None:
    """The packaged model cuts numbers digit by digit, so that they are no probabilities of numbers; that they come is seen."""
    from capture.model.sources import PACKAGED, find_packaged_file

    port = free_port()
    command = [
        sys.executable,
        "-m",
        "llama_cpp.server",
        "--model",
        str(find_packaged_file("smollm2")),
        "--logits_all",
        "true",
    ]
    assert "smollm2" in PACKAGED
    with (
        started([*command, "--host", "127.0.0.1", "--port", str(port)], port, "/v1/models", dict(os.environ)) as url,
        serve(forward(url)) as front,
    ):
        judge = open_judge(f"{front.url}/v1:any", timeout=300)
        found = judge.ask("Say a number from 0 to 100, and nothing else.")
        assert front.seen[-1]["top_logprobs"] == 20  # not refused
        told = forward(url)({**front.seen[-1], "path": "/v1/chat/completions"})
    assert json.loads(told[2])["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert found.answer
