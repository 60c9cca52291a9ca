"""Who judges: OpenAI's and Anthropic's own clients, any OpenAI-compatible server, or a local transformers model.

`open_judge` makes one from its name. A judge's `ask` puts one prompt, once; a `Fault` says why there was no answer, and whether
asking again may help. Trying again, waiting and asking many at a time are `capture.traits.judging`'s.

Keys are read from the environment, or from a `.env` file in the working folder or above it, and leave this module in requests
alone: the texts of answers and errors are scrubbed of them.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol
from urllib.parse import SplitResult, urlsplit

from capture.traits.answers import Token, Verdict, from_text, from_tokens
from warehouse.errors import UsageError

TIMEOUT = 60.0
"""Seconds that a judge has for an answer."""
ANSWER_TOKENS = 16
"""Most tokens of an answer: a number or REFUSAL, with a little around it."""
_THINKING_TOKENS = 4096
"""The same for a model that wants its thinking counted among them."""
_TOP = 20
"""Alternatives to a token that are asked for, the most that OpenAI tells."""

_SPECS = "openai:MODEL, anthropic:MODEL, http://host:port/v1:MODEL or local:MODEL"
_URL = re.compile(r"(https?://[^/\s]+/[^:\s]*):(.+)")
_KEYLIKE = re.compile(r"\bsk-[\w*.-]+")
_SAME_AGAIN = (408, 409, 429)
"""HTTP statuses under 500 after which the same request may succeed."""


class Fault(Exception):
    """A request that brought no answer."""

    def __init__(self, text: str, *, again: bool, after: float | None = None) -> None:
        super().__init__(text)
        self.again = again
        """Asking again may help."""
        self.after = after
        """Seconds that the server asks to be left alone for."""


class Judge(Protocol):
    @property
    def name(self) -> str:
        """As it was asked for, and as the table `judgements` has it."""

    @property
    def paid(self) -> bool:
        """Somebody may have to pay for its answers: it is not on this machine."""

    @property
    def concurrent(self) -> bool:
        """It gains by being asked many things at a time, from several threads."""

    def ask(self, prompt: str) -> Verdict:
        """Raises Fault."""


def open_judge(
    spec: str, *, timeout: float = TIMEOUT, device: str = "auto", note: Callable[[str], None] = lambda _: None
) -> Judge:
    """A judge by its name: `openai:MODEL`, `anthropic:MODEL`, `http://host:port/v1:MODEL` or `local:MODEL`, where MODEL is what
    `capture.models.load` takes. Nothing is sent yet. Raises UsageError for a name that is none of these, a missing package and a
    missing key. `device` is a local model's, `note` is told of what takes long."""
    kind, _, model = spec.partition(":")
    if kind == "local" and model:
        from capture.models import load
        from capture.traits.local_judge import LocalJudge

        note(f"loading {model}")
        return LocalJudge(spec, load(model, device=device, note=note))
    if kind == "openai" and model:
        return _openai(spec, model, find_key("OPENAI_API_KEY", spec), None, timeout)
    if kind == "anthropic" and model:
        return _anthropic(spec, model, find_key("ANTHROPIC_API_KEY", spec), timeout)
    found = _URL.fullmatch(spec)
    url = _address(found[1]) if found is not None else None
    if found is None or url is None:
        raise UsageError(f"No judge '{spec}': write {_SPECS}.")
    if "@" in url.netloc or url.query:
        raise UsageError(
            "A judge's address is kept with its judgements: leave user, password and query out of it, and set JUDGE_API_KEY."
        )
    # a key of OpenAI's is never sent to another server
    return _openai(spec, found[2], find_key("JUDGE_API_KEY") or "none", found[1], timeout)


def _address(text: str) -> SplitResult | None:
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

        key = (dotenv_values(find_dotenv(usecwd=True)).get(variable) or "").strip()
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


def _openai(spec: str, model: str, key: str, base_url: str | None, timeout: float) -> Judge:
    with _needs_judge_extra():
        import openai

    client = openai.OpenAI(api_key=key, base_url=base_url, timeout=timeout, max_retries=0)
    return _OpenAI(spec, model, key, client, openai, timeout)


def _anthropic(spec: str, model: str, key: str, timeout: float) -> Judge:
    with _needs_judge_extra():
        import anthropic

    # later versions of the API refuse a temperature whatever the model, and answer in the same form
    version = {"anthropic-version": "2023-06-01"}
    client = anthropic.Anthropic(api_key=key, timeout=timeout, max_retries=0, default_headers=version)
    return _Anthropic(spec, model, key, client, anthropic, timeout)


class _Api:
    """What the two SDKs have in common, down to the names of their errors."""

    concurrent = True
    _wanted: ClassVar[dict[str, Any]]
    """Parameters that a server may refuse, which it is then asked without."""
    _instead: ClassVar[dict[str, dict[str, Any]]] = {}
    """What stands in for one that was refused."""

    def __init__(self, spec: str, model: str, key: str, client: Any, sdk: Any, timeout: float) -> None:
        self.name, self._model, self._key = spec, model, key
        self._client, self._sdk, self._timeout = client, sdk, timeout
        self._options = dict(self._wanted)
        self.paid = not _on_this_machine(client.base_url.host)

    def ask(self, prompt: str) -> Verdict:
        while True:
            options = self._options
            try:
                done = self._send([{"role": "user", "content": prompt}], options)
                break
            except self._sdk.APITimeoutError:
                raise Fault(f"no answer within {self._timeout:g} s", again=True) from None
            except self._sdk.APIConnectionError as e:
                raise Fault(self._scrubbed(f"it cannot be reached ({e.__cause__ or e})"), again=True) from None
            except self._sdk.APIStatusError as e:
                refused = _refused(e, options)
                if not refused:
                    raise self._fault(e) from None
                instead = {k: v for name in refused for k, v in self._instead.get(name, {}).items()}
                self._options = {k: v for k, v in options.items() if k not in refused} | instead
            except (self._sdk.APIResponseValidationError, ValueError):  # a body that is no JSON
                raise self._garbage() from None
        try:
            return self._read(done)
        except (ValueError, TypeError, AttributeError, LookupError):
            # the SDKs don't check what a body holds: it shows where that is looked for
            raise self._garbage() from None

    def _send(self, messages: list[Any], options: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _read(self, done: Any) -> Verdict:
        raise NotImplementedError

    def _garbage(self) -> Fault:
        return Fault("it answered with something else than a completion", again=True)

    def _fault(self, error: Any) -> Fault:
        status = error.status_code
        again = status in _SAME_AGAIN or status >= 500
        if getattr(error, "code", None) == "insufficient_quota":
            again = False
        text = self._scrubbed(" ".join(_message(error).split()))[:300]
        return Fault(
            f"HTTP {status}: {text}", again=again, after=_retry_after(error.response.headers) if again else None
        )

    def _scrubbed(self, text: str) -> str:
        if len(self._key) > 7:  # a shorter one is a made-up word, such as "none"
            text = text.replace(self._key, "[key]")
        return _KEYLIKE.sub("[key]", text)


class _OpenAI(_Api):
    """Chat completions, at OpenAI or wherever else they are spoken."""

    _wanted: ClassVar = {"temperature": 0, "max_tokens": ANSWER_TOKENS, "logprobs": True, "top_logprobs": _TOP}
    _instead: ClassVar = {"max_tokens": {"max_completion_tokens": _THINKING_TOKENS}}

    def _send(self, messages: list[Any], options: dict[str, Any]) -> Any:
        return self._client.chat.completions.create(model=self._model, messages=messages, **options)

    def _read(self, done: Any) -> Verdict:
        choice = done.choices[0]
        answer = self._scrubbed(choice.message.content or "")
        told = getattr(choice.logprobs, "content", None) if getattr(choice, "logprobs", None) else None
        if not told:
            return from_text(answer)
        return from_tokens(answer, [_token(t) for t in told])


class _Anthropic(_Api):
    """Messages; no token probabilities are told."""

    _wanted: ClassVar = {"temperature": 0}

    def _send(self, messages: list[Any], options: dict[str, Any]) -> Any:
        # the SDK has no argument for temperature any more, but models before it went still take one
        return self._client.messages.create(
            model=self._model, messages=messages, max_tokens=ANSWER_TOKENS, extra_body=options
        )

    def _read(self, done: Any) -> Verdict:
        return from_text(self._scrubbed("".join(part.text for part in done.content if part.type == "text")))


def _token(told: Any) -> Token:
    alternatives = {told.token: math.exp(told.logprob)}
    for other in told.top_logprobs or []:
        alternatives[other.token] = math.exp(other.logprob)
    return Token(told.token, alternatives)


def _message(error: Any) -> str:
    """What the server said, without what the SDKs put around it."""
    told = error.body
    for name in ("error", "message"):
        told = told.get(name, told) if isinstance(told, dict) else told
    return told if isinstance(told, str) and told else str(error.message)


def _refused(error: Any, options: dict[str, Any]) -> set[str]:
    """Parameters of ours that an error names. Some servers fail with 500 where they lack what a parameter asks for."""
    if error.status_code in (401, 403, *_SAME_AGAIN):
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
