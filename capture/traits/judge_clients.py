"""Who judges: OpenAI's and Anthropic's own clients, any OpenAI-compatible server, or a local transformers model.

`open_judge` makes one from its name. A judge's `ask` puts one prompt, once; a `JudgeRequestError` says why there was no answer, whether
asking again may help, and whether it is this prompt's alone. Trying again, waiting and asking many at a time are
`capture.traits.judge_run`'s; how long and how large an answer may be, and where it may lead, is `capture.traits.bounded_http`'s.

A server may be hostile or broken. What it sends is read with `strict_json`, by its keys and types, and not by the SDKs' models,
which check nothing.

Keys are read from the environment, or from a `.env` file in the working folder or above it, and leave this module in requests
alone: the texts of answers and errors are scrubbed of them.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

from capture.traits.bounded_http import UnreadableResponse, http_client, run_within
from capture.traits.judge import ANSWER_TOKENS, TIMEOUT, Judge, JudgeRequestError
from capture.traits.verdict import Token, Verdict, from_text, from_tokens
from warehouse.errors import UsageError
from warehouse.storage import strict_json

_MAX_TIMEOUT = 86_400.0
_THINKING_TOKENS = 4096
"""The same for a model that wants its thinking counted among them."""
_TOP_LOGPROBS = 20
"""Alternatives to a token that are asked for, the most that OpenAI tells."""
_MAX_ANSWER_CHARACTERS = 20_000
"""Characters of an answer that are looked at and kept: more than the tokens that it may have make."""
_ROUNDING = 1e-3
"""How far above 0 a log-probability may be that was computed in half precision."""

_SPEC_FORMS = "openai:MODEL, anthropic:MODEL, http://host:port/v1:MODEL or local:MODEL"
_URL = re.compile(r"(https?://[^/\s]+/[^:\s]*):(.+)")
_KEYLIKE = re.compile(r"\bsk-[\w*.-]+")
_CREDENTIALS = re.compile(r"//[^/\s@]*@")
"""User and password in an address."""
_RETRYABLE_STATUSES = (408, 409, 429)
"""HTTP statuses under 500 after which the same request may succeed."""
_PROMPT_STATUSES = (400, 413, 422)
"""Statuses that are about what was sent: too long, or flagged by a filter. Others are about who sends, or about the server."""


def open_judge(
    spec: str, *, timeout: float = TIMEOUT, device: str = "auto", note: Callable[[str], None] = lambda _: None
) -> Judge:
    """A judge by its name: `openai:MODEL`, `anthropic:MODEL`, `http://host:port/v1:MODEL` or `local:MODEL`, where MODEL is what
    `capture.model.loading.load` takes. Nothing is sent yet. Raises UsageError for a name that is none of these, a missing package and a
    missing key. `timeout` is in seconds; `device` is a local model's, `note` is told of what takes long.
    """
    if not 0 < timeout <= _MAX_TIMEOUT:
        raise UsageError(f"--timeout {timeout:g}: write seconds, at most {_MAX_TIMEOUT:,.0f}.")
    if not spec.isprintable():
        raise UsageError(
            f"No judge {spec!a}: its name is kept with its judgements, and has characters that are no text."
        )
    kind, _, model = spec.partition(":")
    if kind == "local" and model:
        from capture.model.loading import load
        from capture.traits.local_judge import LocalJudge

        note(f"loading {model}")
        try:
            return LocalJudge(spec, load(model, device=device, note=note))
        except UsageError as e:
            if "--trust-remote-code" not in str(e):
                raise
            raise UsageError(
                f"{spec} needs Python code of its own to run, and no judge's is run: take another judge."
            ) from None
    if kind == "openai" and model:
        return _open_openai(spec, model, find_key("OPENAI_API_KEY", spec), None, timeout)
    if kind == "anthropic" and model:
        return _open_anthropic(spec, model, find_key("ANTHROPIC_API_KEY", spec), timeout)
    found = _URL.fullmatch(spec)
    url = _parse_address(found[1]) if found is not None else None
    if found is None or url is None:
        raise UsageError(f"No judge '{spec}': write {_SPEC_FORMS}.")
    if "@" in url.netloc or url.query:
        raise UsageError(
            "A judge's address is kept with its judgements: leave user, password and query out of it, and set JUDGE_API_KEY."
        )
    # a key of OpenAI's is never sent to another server
    return _open_openai(spec, found[2], find_key("JUDGE_API_KEY") or "none", found[1], timeout)


def _parse_address(text: str) -> SplitResult | None:
    """None where it is no address: without a host, or with a port that is none."""
    try:
        url = urlsplit(text)
        return url if url.hostname and url.port != 0 else None
    except ValueError:
        return None


def find_key(variable: str, needed_by: str | None = None) -> str:
    """From the environment, else from `.env`; empty where there is none, which is a UsageError if something needs it."""
    key = os.environ.get(variable, "").strip()
    if not key:
        with _needs_judge_extra():
            from dotenv import dotenv_values, find_dotenv

        path = ".env"
        try:
            path = find_dotenv(usecwd=True)
            key = (dotenv_values(path).get(variable) or "").strip()
        except UnicodeDecodeError as e:
            raise UsageError(
                f"{path} is not UTF-8 (byte {e.start}): write it so, or set {variable} in the environment."
            ) from None
        except OSError as e:
            raise UsageError(
                f"{path} cannot be read ({e.strerror}): let it be read, or set {variable} in the environment."
            ) from None
    if needed_by and not key:
        raise UsageError(f"{needed_by} needs a key: set {variable} in the environment, or in a file .env.")
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"{variable} holds characters that are in no key.")
    return key


@contextmanager
def _needs_judge_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as e:
        if e.name and e.name.split(".")[0] in ("openai", "anthropic", "dotenv"):
            raise UsageError(f"This judge needs {e.name}: pip install 'trace-warehouse[judge]'") from None
        raise


def _open_openai(spec: str, model: str, key: str, base_url: str | None, timeout: float) -> Judge:
    with _needs_judge_extra():
        import openai
    with _explain_bad_address(spec):
        client = openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, http_client=http_client(openai))
        return _OpenAIJudge(spec, model, key, client, openai, timeout)


def _open_anthropic(spec: str, model: str, key: str, timeout: float) -> Judge:
    with _needs_judge_extra():
        import anthropic

    # later versions of the API refuse a temperature whatever the model, and answer in the same form
    version = {"anthropic-version": "2023-06-01"}
    with _explain_bad_address(spec):
        client = anthropic.AsyncAnthropic(
            api_key=key, max_retries=0, default_headers=version, http_client=http_client(anthropic)
        )
        return _AnthropicJudge(spec, model, key, client, anthropic, timeout)


@contextmanager
def _explain_bad_address(spec: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:  # httpx raises what it likes for an address, a proxy or a file of certificates that is none
        raise UsageError(
            f"{spec} cannot be asked, because of its address, or of a proxy or certificates that the environment names: "
            f"{to_printable_line(_CREDENTIALS.sub('//', str(e)))}."
        ) from None


class _ApiJudge:
    """What the two SDKs have in common, down to the names of their errors."""

    concurrent = True
    _preferred: ClassVar[dict[str, Any]]
    """Parameters that a server may refuse, which it is then asked without."""
    _replacements: ClassVar[dict[str, dict[str, Any]]] = {}
    """What stands in for one that was refused."""

    def __init__(self, spec: str, model: str, key: str, client: Any, sdk: Any, timeout: float) -> None:
        self.name, self._model, self._key = spec, model, key
        self._client, self._sdk, self._timeout = client, sdk, timeout
        self._options = dict(self._preferred)
        self.paid = not _on_this_machine(client.base_url.host)

    def ask(self, prompt: str) -> Verdict:
        body = self._request([{"role": "user", "content": prompt}])
        try:
            return self._parse(strict_json.parse(body, repair=True))
        except (ValueError, TypeError, AttributeError, LookupError):
            raise _malformed_answer() from None

    def _request(self, messages: list[Any]) -> bytes:
        """What a server answers, asked without what it refuses. Raises JudgeRequestError."""
        options = self._options
        while True:
            try:
                raw = run_within(self._timeout, self._send(messages, options))
                self._options = options  # no sooner: an error may name a parameter and be about something else
                return bytes(raw.http_response.content)
            except TimeoutError:
                raise JudgeRequestError(f"no answer within {self._timeout:g} s", again=True) from None
            except self._sdk.APIStatusError as e:
                refused = _refused_parameters(e, options)
                if not refused:
                    raise self._status_error(e) from None
                instead = {k: v for name in refused for k, v in self._replacements.get(name, {}).items()}
                options = {k: v for k, v in options.items() if k not in refused} | instead
            except (
                Exception
            ) as e:  # the SDKs wrap some of what httpx raises, and trip in their own ways over errors' bodies
                raise self._connection_error(e) from None

    def _send(self, messages: list[Any], options: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        """The SDK's call for a raw response."""
        raise NotImplementedError

    def _parse(self, told: Any) -> Verdict:
        """What a body says. Raises what comes of looking for what is not there."""
        raise NotImplementedError

    def _clean_answer(self, answer: Any) -> str:
        if not isinstance(answer, str):
            raise TypeError
        return self._scrub(answer)[:_MAX_ANSWER_CHARACTERS]

    def _status_error(self, error: Any) -> JudgeRequestError:
        status, headers = error.status_code, error.response.headers
        if 300 <= status < 400:
            text = (
                f"it sends the request on to {headers.get('location', 'nowhere')}, and redirects are not followed, lest key "
                "and prompt go elsewhere"
            )
        else:
            text = _server_message(error)
        again = status in _RETRYABLE_STATUSES or status >= 500
        if getattr(error, "code", None) == "insufficient_quota":
            again = False
        return JudgeRequestError(
            f"HTTP {status}: {to_printable_line(self._scrub(text))}",
            again=again,
            after=_retry_after(headers) if again else None,
            this_prompt=status in _PROMPT_STATUSES,
        )

    def _connection_error(self, error: Exception) -> JudgeRequestError:
        cause = error.__cause__ or error
        if isinstance(cause, UnreadableResponse):
            return JudgeRequestError(str(cause), again=True, this_prompt=True)
        told = to_printable_line(self._scrub(str(cause)))
        if not isinstance(error, self._sdk.APIConnectionError):
            return JudgeRequestError(
                f"its answer is beyond the SDK ({type(cause).__name__}: {told})", again=True, this_prompt=True
            )
        if type(cause).__name__ == "RemoteProtocolError" and not re.search("closed|disconnected", told):
            return JudgeRequestError(f"its answer is not HTTP ({told})", again=True, this_prompt=True)
        return JudgeRequestError(f"it cannot be reached ({told})", again=True)

    def _scrub(self, text: str) -> str:
        if len(self._key) > 7:  # a shorter one is a made-up word, such as "none"
            text = text.replace(self._key, "[key]")
        return _CREDENTIALS.sub("//", _KEYLIKE.sub("[key]", text))


class _OpenAIJudge(_ApiJudge):
    """Chat completions, at OpenAI or wherever else they are spoken."""

    _wanted: ClassVar = {"temperature": 0, "max_tokens": ANSWER_TOKENS, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
    _instead: ClassVar = {"max_tokens": {"max_completion_tokens": _THINKING_TOKENS}}

    def _send(self, messages: list[Any], options: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        return self._client.chat.completions.with_raw_response.create(model=self._model, messages=messages, **options)

    def _read(self, told: Any) -> Verdict:
        choice = told["choices"][0]
        content = choice["message"].get("content")
        answer = self._clean_answer("" if content is None else content)
        return from_tokens(answer, _parse_tokens(choice.get("logprobs")))


class _AnthropicJudge(_ApiJudge):
    """Messages; no token probabilities are told."""

    _wanted: ClassVar = {"temperature": 0}

    def _send(self, messages: list[Any], options: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        # the SDK has no argument for temperature any more, but models before it went still take one
        return self._client.messages.with_raw_response.create(
            model=self._model, messages=messages, max_tokens=ANSWER_TOKENS, extra_body=options
        )

    def _read(self, told: Any) -> Verdict:
        if not isinstance(told["content"], list):
            raise TypeError
        return from_text(
            self._clean_answer("".join(part["text"] for part in told["content"] if part["type"] == "text"))
        )


def _parse_tokens(told: Any) -> list[Token]:
    """An answer's tokens with their probabilities; none where any of it is malformed, for half of it would weigh wrongly."""
    try:
        return [_parse_token(t) for t in (told or {}).get("content") or []]
    except (ValueError, TypeError, AttributeError, LookupError):
        return []


def _parse_token(told: Any) -> Token:
    every = [told, *(told.get("top_logprobs") or [])]
    alternatives = {str(t["token"]): _to_probability(t["logprob"]) for t in every}
    return Token(str(told["token"]), alternatives)


def _to_probability(logprob: Any) -> float:
    """Raises TypeError and ValueError for what is not the logarithm of a probability."""
    if not logprob <= _ROUNDING:  # NaN neither
        raise ValueError
    return math.exp(min(max(logprob, -1e4), 0.0))  # exp takes no integer that is no float


def _malformed_answer() -> JudgeRequestError:
    return JudgeRequestError("it answered with something else than a completion", again=True, this_prompt=True)


def to_printable_line(text: str) -> str:
    """What somebody else says, as part of a line that is printed: its beginning, without what a terminal would act on."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split())[:300])


def _server_message(error: Any) -> str:
    """What the server said, without what the SDKs put around it."""
    told = error.body
    for name in ("error", "message"):
        told = told.get(name, told) if isinstance(told, dict) else told
    return told if isinstance(told, str) and told else str(error.message)


def _refused_parameters(error: Any, options: dict[str, Any]) -> set[str]:
    """Parameters of ours that an error names. Some servers fail with 500 where they lack what a parameter asks for."""
    if error.status_code in (401, 403, *_RETRYABLE_STATUSES):
        return set()
    named = {name for name in options if re.search(rf"\b{name}\b", str(error.message))}
    return named | {"logprobs", "top_logprobs"} & options.keys() if named & {"logprobs", "top_logprobs"} else named


def _retry_after(headers: Any) -> float | None:
    """Seconds, as `Retry-After` gives them; servers that name a date instead are left to our own waiting."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _on_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
