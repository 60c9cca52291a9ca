"""Judges behind an API: OpenAI's and Anthropic's own clients, or any OpenAI-compatible server.

`open_judge` makes a judge from its name, local ones (`local_judge`) included. A judge's `ask` puts one prompt, once; a
`JudgeRequestError` says why there was no answer, whether a retry may help, and whether the cause is this prompt. Retrying, waiting
and asking many at a time belong to `judge_run`; limits of time, size and redirects to `bounded_http`.

A server may be hostile or broken. What it sends is parsed with `strict_json`, by keys and types, and not by the SDKs' models, which
check nothing.

Keys come from the environment, or from a `.env` file in the working folder or above it. They leave this module only in requests:
the texts of answers and errors are scrubbed of them.
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
"""Limit of an answer in tokens for a model whose thinking counts towards it."""
_TOP_LOGPROBS = 20
"""Alternatives to each token that are requested: OpenAI's limit."""
_MAX_ANSWER_CHARACTERS = 20_000
"""Characters of an answer that are read and kept: more than its tokens can make."""
_ROUNDING = 1e-3
"""How far above 0 a log-probability may lie that was computed in half precision."""

_SPEC_FORMS = "openai:MODEL, anthropic:MODEL, http://host:port/v1:MODEL or local:MODEL"
_URL = re.compile(r"(https?://[^/\s]+/[^:\s]*):(.+)")
_KEYLIKE = re.compile(r"\bsk-[\w*.-]+")
_CREDENTIALS = re.compile(r"//[^/\s@]*@")
"""User name and password in an address."""
_RETRYABLE_STATUSES = (408, 409, 429)
"""HTTP statuses below 500 after which the same request may succeed."""
_PROMPT_STATUSES = (400, 413, 422)
"""Statuses that concern the prompt (too long, or flagged by a filter); others concern the sender or the server."""


def open_judge(
    spec: str, *, timeout: float = TIMEOUT, device: str = "auto", note: Callable[[str], None] = lambda _: None
) -> Judge:
    """Open a judge by its name; no request is sent yet.

    Args:
        spec: `openai:MODEL`, `anthropic:MODEL`, `http://host:port/v1:MODEL`, or `local:MODEL` with what `load` takes.
        timeout: Seconds that an answer may take.
        device: Where a local model runs.
        note: Called with a line before something slow.

    Returns:
        The judge.

    Raises:
        UsageError: The name has none of these forms, or a package or a key is missing.
    """
    if not 0 < timeout <= _MAX_TIMEOUT:
        raise UsageError(f"--timeout {timeout:g}: write seconds, at most {_MAX_TIMEOUT:,.0f}.")
    if not spec.isprintable():
        raise UsageError(
            f"No judge {spec!a}: its name is kept with its judgements, and contains unprintable characters."
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
                f"{spec} needs Python code of its own, which is never run for a judge: choose another judge."
            ) from None
    if kind == "openai" and model:
        return _open_openai(spec, model, find_key("OPENAI_API_KEY", spec), None, timeout)
    if kind == "anthropic" and model:
        return _open_anthropic(spec, model, find_key("ANTHROPIC_API_KEY", spec), timeout)
    match = _URL.fullmatch(spec)
    url = _parse_address(match[1]) if match is not None else None
    if match is None or url is None:
        raise UsageError(f"No judge '{spec}': write {_SPEC_FORMS}.")
    if "@" in url.netloc or url.query:
        raise UsageError(
            "A judge's address is kept with its judgements: leave user, password and query out of it, and set JUDGE_API_KEY."
        )
    # OpenAI's key is never sent to another server
    return _open_openai(spec, match[2], find_key("JUDGE_API_KEY") or "none", match[1], timeout)


def _parse_address(text: str) -> SplitResult | None:
    """Parse a judge's address; None where it has no host or an impossible port."""
    try:
        url = urlsplit(text)
        return url if url.hostname and url.port != 0 else None
    except ValueError:
        return None


def find_key(variable: str, needed_by: str | None = None) -> str:
    """Find an API key in the environment, else in a file `.env`.

    Args:
        variable: Its name there.
        needed_by: What cannot work without it; None if it is optional.

    Returns:
        The key; empty where there is none.

    Raises:
        UsageError: A needed key is missing, the file cannot be read, or the key has characters that no key has.
    """
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
                f"{path} is not UTF-8 (byte {e.start}): save it as UTF-8, or set {variable} in the environment."
            ) from None
        except OSError as e:
            raise UsageError(
                f"{path} cannot be read ({e.strerror}): make it readable, or set {variable} in the environment."
            ) from None
    if needed_by and not key:
        raise UsageError(f"{needed_by} needs a key: set {variable} in the environment, or in a file .env.")
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"{variable} contains characters that no key has.")
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
    except Exception as e:  # httpx has no common error for a bad address, proxy or certificate file
        raise UsageError(
            f"{spec} cannot be used, because of its address, or of a proxy or certificates that the environment names: "
            f"{to_printable_line(_CREDENTIALS.sub('//', str(e)))}."
        ) from None


class _ApiJudge:
    """What both SDKs have in common, down to the names of their errors."""

    concurrent = True
    _preferred: ClassVar[dict[str, Any]]
    """Parameters that a server may refuse; it is then asked without them."""
    _replacements: ClassVar[dict[str, dict[str, Any]]] = {}
    """Parameters that replace a refused one."""

    def __init__(self, spec: str, model: str, key: str, client: Any, sdk: Any, timeout: float) -> None:
        self.name, self._model, self._key = spec, model, key
        self._client, self._sdk, self._timeout = client, sdk, timeout
        self._options = dict(self._preferred)
        self.paid = not _on_this_machine(client.base_url.host)

    def ask(self, prompt: str) -> Verdict:
        """Put one prompt to the judge, once; raises JudgeRequestError where no answer comes."""
        body = self._request([{"role": "user", "content": prompt}])
        try:
            return self._parse(strict_json.parse(body, repair=True))
        except (ValueError, TypeError, AttributeError, LookupError):
            raise _malformed_answer() from None

    def _request(self, messages: list[Any]) -> bytes:
        """Return the body of the server's answer, leaving out parameters that it refuses; raises JudgeRequestError."""
        options = self._options
        while True:
            try:
                raw = run_within(self._timeout, self._send(messages, options))
                self._options = options  # not earlier: an error may name a parameter and be about something else
                return bytes(raw.http_response.content)
            except TimeoutError:
                raise JudgeRequestError(f"no answer within {self._timeout:g} s", retryable=True) from None
            except self._sdk.APIStatusError as e:
                refused = _refused_parameters(e, options)
                if not refused:
                    raise self._status_error(e) from None
                instead = {k: v for name in refused for k, v in self._replacements.get(name, {}).items()}
                options = {k: v for k, v in options.items() if k not in refused} | instead
            # The SDKs wrap only some of httpx's errors, and fail in their own ways on some bodies.
            except Exception as e:
                raise self._connection_error(e) from None

    def _send(self, messages: list[Any], options: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        """Make the SDK's call for a raw response."""
        raise NotImplementedError

    def _parse(self, body: Any) -> Verdict:
        """Parse a body; a malformed one raises whatever looking into it raises."""
        raise NotImplementedError

    def _clean_answer(self, answer: Any) -> str:
        if not isinstance(answer, str):
            raise TypeError
        return self._scrub(answer)[:_MAX_ANSWER_CHARACTERS]

    def _status_error(self, error: Any) -> JudgeRequestError:
        status, headers = error.status_code, error.response.headers
        if 300 <= status < 400:
            text = (
                f"it redirects to {headers.get('location', 'nowhere')}, and redirects are not followed, so that key and prompt "
                "go nowhere else"
            )
        else:
            text = _server_message(error)
        again = status in _RETRYABLE_STATUSES or status >= 500
        if getattr(error, "code", None) == "insufficient_quota":
            again = False
        return JudgeRequestError(
            f"HTTP {status}: {to_printable_line(self._scrub(text))}",
            retryable=again,
            retry_after=_retry_after(headers) if again else None,
            this_prompt_only=status in _PROMPT_STATUSES,
        )

    def _connection_error(self, error: Exception) -> JudgeRequestError:
        cause = error.__cause__ or error
        if isinstance(cause, UnreadableResponse):
            return JudgeRequestError(str(cause), retryable=True, this_prompt_only=True)
        description = to_printable_line(self._scrub(str(cause)))
        if not isinstance(error, self._sdk.APIConnectionError):
            return JudgeRequestError(
                f"the SDK cannot read its answer ({type(cause).__name__}: {description})",
                retryable=True,
                this_prompt_only=True,
            )
        if type(cause).__name__ == "RemoteProtocolError" and not re.search("closed|disconnected", description):
            return JudgeRequestError(f"its answer is not HTTP ({description})", retryable=True, this_prompt_only=True)
        return JudgeRequestError(f"it cannot be reached ({description})", retryable=True)

    def _scrub(self, text: str) -> str:
        if len(self._key) > 7:  # a shorter one is a placeholder, such as "none"
            text = text.replace(self._key, "[key]")
        return _CREDENTIALS.sub("//", _KEYLIKE.sub("[key]", text))


class _OpenAIJudge(_ApiJudge):
    """Chat completions, at OpenAI or at any server with the same API."""

    _preferred: ClassVar = {
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS,
        "logprobs": True,
        "top_logprobs": _TOP_LOGPROBS,
    }
    _replacements: ClassVar = {"max_tokens": {"max_completion_tokens": _THINKING_TOKENS}}

    def _send(self, messages: list[Any], options: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        return self._client.chat.completions.with_raw_response.create(model=self._model, messages=messages, **options)

    def _parse(self, body: Any) -> Verdict:
        choice = body["choices"][0]
        content = choice["message"].get("content")
        answer = self._clean_answer("" if content is None else content)
        return from_tokens(answer, _parse_tokens(choice.get("logprobs")))


class _AnthropicJudge(_ApiJudge):
    """Messages at Anthropic, which gives no token probabilities."""

    _preferred: ClassVar = {"temperature": 0}

    def _send(self, messages: list[Any], options: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        # the SDK dropped the argument temperature, but older models still take it
        return self._client.messages.with_raw_response.create(
            model=self._model, messages=messages, max_tokens=ANSWER_TOKENS, extra_body=options
        )

    def _parse(self, body: Any) -> Verdict:
        if not isinstance(body["content"], list):
            raise TypeError
        return from_text(
            self._clean_answer("".join(part["text"] for part in body["content"] if part["type"] == "text"))
        )


def _parse_tokens(logprobs: Any) -> list[Token]:
    """Parse an answer's tokens and probabilities; returns none if any is malformed, as a part would give wrong weights."""
    try:
        return [_parse_token(t) for t in (logprobs or {}).get("content") or []]
    except (ValueError, TypeError, AttributeError, LookupError):
        return []


def _parse_token(entry: Any) -> Token:
    every = [entry, *(entry.get("top_logprobs") or [])]
    alternatives = {str(t["token"]): _to_probability(t["logprob"]) for t in every}
    return Token(str(entry["token"]), alternatives)


def _to_probability(logprob: Any) -> float:
    """Convert a log-probability; raises TypeError or ValueError for anything else."""
    if not logprob <= _ROUNDING:  # true of NaN, too
        raise ValueError
    return math.exp(min(max(logprob, -1e4), 0.0))  # exp fails for integers beyond the floats


def _malformed_answer() -> JudgeRequestError:
    return JudgeRequestError("its answer is not a completion", retryable=True, this_prompt_only=True)


def to_printable_line(text: str) -> str:
    """Make foreign text safe to print in a line: its first 300 characters, without those that a terminal acts on."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split())[:300])


def _server_message(error: Any) -> str:
    """Return the server's own message, without what the SDKs put around it."""
    message = error.body
    for name in ("error", "message"):
        message = message.get(name, message) if isinstance(message, dict) else message
    return message if isinstance(message, str) and message else str(error.message)


def _refused_parameters(error: Any, options: dict[str, Any]) -> set[str]:
    """Return our parameters that an error names; some servers answer 500 where they do not support one."""
    if error.status_code in (401, 403, *_RETRYABLE_STATUSES):
        return set()
    named = {name for name in options if re.search(rf"\b{name}\b", str(error.message))}
    return named | {"logprobs", "top_logprobs"} & options.keys() if named & {"logprobs", "top_logprobs"} else named


def _retry_after(headers: Any) -> float | None:
    """Return the seconds that `Retry-After` gives; None for servers that name a date instead."""
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
