"""Batches of prompts → batches of prompts with responses, by the model's own `generate`.

In go token sequences of prompts; out come the same sequences with what the model went on with. Jobs that generate give a
`PromptCompleter` to `run_job`, which calls it before prompt and response are read together and recorded.

Every sequence is drawn with random numbers of its own, made from the seed and its keys. A response therefore depends neither on
its batch nor on what was generated before an interruption. On another device the draws are the same, and so is the response where the
logits are: float32 of a GPU and of a CPU gave the same texts, bfloat16 did not. Whether a batch of prompts of several lengths gives
what each gives alone is tried first; if not, only prompts of one length share a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from capture.model import loading
from capture.model.body import Body, padding_id, probe_ids, vocabulary_size
from capture.model.tolerances import states_tolerance
from capture.model.unchanged import unchanged
from capture.sequences.batches import ONE_TEXT, PADDED, Batch, split_batch
from capture.sequences.chat import PARTS
from capture.sequences.decoding import decode_sequences
from capture.sequences.sequence import SideTokens, TokenSequence
from warehouse.errors import UsageError

_COLDEST = 1e-5
"""The lowest temperature: logits divided by less overflow."""

_CONTEXT = 4
"""Tokens of the prompt that a response is decoded with, since some tokenizers drop a space where a text begins."""


@dataclass(frozen=True)
class Sampling:
    """How a next token is drawn."""

    max_new_tokens: int = 50
    temperature: float = 0.7
    """0: the most probable token."""
    top_p: float = 1.0
    """Draw among the fewest tokens whose probabilities sum to at least this."""
    top_k: int = 0
    """Draw among the k most probable tokens; 0: among all."""
    seed: int = 0

    def check(self) -> None:
        """Check values; raises UsageError for one out of range."""
        if self.max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens {self.max_new_tokens}: at least 1.")
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"--temperature {self.temperature}: 0 (the most probable token) or more.")
        if 0 < self.temperature < _COLDEST:
            raise UsageError(f"--temperature {self.temperature}: 0 (the most probable token), or at least {_COLDEST}.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p}: above 0, at most 1.")
        if self.top_k < 0:
            raise UsageError(f"--sample-top-k {self.top_k}: 0 (all tokens) or more.")


Watch = Callable[[np.ndarray], None]
"""Called with the tokens (B,) of each step as soon as they are drawn; a row that has ended goes on with padding."""


class Generator:
    """Has a model go on with prompts.

    Tokens are drawn by the inverse of the distribution function, with one number from 0 to 1 each.
    """

    def __init__(self, loaded: loading.Loaded, body: Body, sampling: Sampling, watch: Watch | None = None) -> None:
        sampling.check()
        self._watch = watch
        self._model, self._tokenizer, self._sampling = loaded.model, loaded.tokenizer, sampling
        ends = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
        if ends is None:
            ends = getattr(loaded.tokenizer, "eos_token_id", None)
        size = vocabulary_size(loaded.model)
        several = ends if isinstance(ends, list | tuple) else [ends]
        self._ends = [i for i in several if isinstance(i, int) and 0 <= i < size]  # others never come
        self._body = body
        self.ignores_padding = body.ignores_padding and self._gives_same_when_padded()

    @property
    def ignores_batch(self) -> bool:
        """Whether several prompts may share a batch."""
        return self._body.ignores_batch

    def answers(self, prompts: list[np.ndarray], keys: list[tuple[str, int]]) -> list[np.ndarray]:
        """Generate a response to each prompt.

        Args:
            prompts: Token ids (T,) of each.
            keys: The example_id and seq of each, which with the seed determine what is drawn.

        Returns:
            The token ids of each response, its end token included if it has one.
        """
        s = self._sampling
        processors = LogitsProcessorList()
        if s.temperature > 0:
            if s.temperature != 1:
                processors.append(TemperatureLogitsWarper(float(s.temperature)))
            if s.top_k:
                processors.append(TopKLogitsWarper(s.top_k))
            if s.top_p < 1:
                processors.append(TopPLogitsWarper(s.top_p))
            processors.append(_DrawToken(self._uniform(keys)))
        ids, mask = self._left_pad(prompts)
        with torch.no_grad(), unchanged(self._model), _without_generation_config(self._model):
            out: torch.Tensor = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=self._config(s.max_new_tokens),
                logits_processor=processors,
                streamer=None if self._watch is None else _Streamer(self._watch),
            )
        new = out[:, ids.shape[1] :].cpu().numpy()
        return [row[: self._length(row)] for row in new]

    def ends_with(self, token: int) -> bool:
        """Return whether a token ends a response."""
        return token in self._ends

    def _length(self, row: np.ndarray) -> int:
        ends = np.flatnonzero(np.isin(row, self._ends))
        return int(ends[0]) + 1 if len(ends) else len(row)

    def _uniform(self, keys: list[tuple[str, int]]) -> np.ndarray:
        """Return numbers from 0 to 1, (B, max_new_tokens), each row from its own keys."""
        n = self._sampling.max_new_tokens
        return np.stack([np.random.default_rng([self._sampling.seed, int(e, 16), seq]).random(n) for e, seq in keys])

    def _config(self, new: int) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=new,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=self._ends or None,
            pad_token_id=padding_id(self._model),
        )

    def _left_pad(self, prompts: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask, (B, T) each."""
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), padding_id(self._model))
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.from_numpy(prompt)
            mask[i, width - len(prompt) :] = 1
        return ids.to(self._model.device), mask.to(self._model.device)

    def _gives_same_when_padded(self) -> bool:
        """Return whether two prompts of different lengths give the logits that each gives alone, for two tokens."""
        ids = probe_ids(self._model, 12)[0].cpu().numpy()
        prompts = [ids, ids[:7]]
        try:
            together = self._first_logits(prompts)
            alone = torch.cat([self._first_logits([p]) for p in prompts], 1)
        except Exception:  # a model may refuse with any error: then only prompts of one length go together
            return False
        allowed = states_tolerance(self._model.dtype) * float(alone.abs().max())
        return bool((together - alone).abs().max() <= allowed)

    def _first_logits(self, prompts: list[np.ndarray]) -> torch.Tensor:
        """Return the logits (2, B, V) of the first two tokens; the first token is a given one, whatever its logits."""
        ids, mask = self._left_pad(prompts)
        config = self._config(2)
        config.eos_token_id = None
        config.update(return_dict_in_generate=True, output_logits=True)
        first = int(prompts[-1][0])
        with torch.no_grad(), unchanged(self._model), _without_generation_config(self._model):
            out: Any = self._model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=[_ForceToken(first)]
            )
        return torch.stack([x.float() for x in out.logits])


@contextmanager
def _without_generation_config(model: Any) -> Iterator[None]:
    """Hide the model's own settings (penalties, banned tokens, least lengths): `generate` would use them unrecorded."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class _Streamer(BaseStreamer):
    """Hands what `generate` draws to a function; the prompt, which it is given first, is left out."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._begun = watch, False

    def put(self, value: torch.Tensor) -> None:
        """Take a step's tokens, the prompt's at first."""
        if self._begun:
            self._watch(value.numpy())
        self._begun = True

    def end(self) -> None:
        """Do nothing at the end."""


class PromptCompleter:
    """Generates responses to batches of prompts: the `Generation` of a job."""

    ignores_padding: bool

    def __init__(self, generator: Generator, tokenizer: Any, growth: int) -> None:
        """Take a generator whose responses have at most `growth` tokens."""
        self.generator, self._tokenizer, self.growth = generator, tokenizer, growth
        self.ignores_padding = generator.ignores_padding

    def complete(self, batch: Batch) -> Batch:
        """Return a batch of prompts with a response after each, the longest sequence first."""
        completed: dict[tuple[str, int], TokenSequence] = {}
        for part in split_batch(batch, PADDED if self.generator.ignores_batch else ONE_TEXT):
            keys = [(s.example.example_id, s.seq) for s in part.sequences]
            with self.generating(part):
                answers = self.generator.answers([s.sides["dec"].ids for s in part.sequences], keys)
            completed |= {key: self._append(s, a) for key, s, a in zip(keys, part.sequences, answers, strict=True)}
        examples = [
            replace(t, sequences=[completed[t.example.example_id, s.seq] for s in t.sequences]) for t in batch.examples
        ]
        longest_first = sorted(completed.values(), key=lambda s: s.n_tokens, reverse=True)
        return replace(batch, sequences=longest_first, examples=examples)

    def generating(self, batch: Batch) -> AbstractContextManager[Any]:
        """Return what has to be open while a batch is generated."""
        return nullcontext()

    def reading(self, batch: Batch) -> AbstractContextManager[Any]:
        """Return what has to be open while a completed batch is read."""
        return nullcontext()

    def _append(self, sequence: TokenSequence, answer: np.ndarray) -> TokenSequence:
        """Return a prompt's sequence with the tokens (n,) of a response."""
        prompt, text = sequence.sides["dec"], sequence.text or ""
        starts, response = _decode_response(self._tokenizer, prompt.ids, answer, len(text))
        n = len(prompt)
        none = np.full(len(answer), -1)
        special = np.zeros(len(answer), bool)
        if len(answer):
            special[-1] = self.generator.ends_with(int(answer[-1]))
        turn, part = prompt.turn, prompt.part
        if turn is not None and part is not None:  # the answer is one more message of the chat
            turn = np.concatenate([turn, np.full(len(answer), len(sequence.roles) - 1)])
            part = np.concatenate([part, np.where(special, -1, PARTS.index("content"))])
        whole = SideTokens(
            np.concatenate([prompt.ids, answer]).astype(np.int64),
            np.concatenate([prompt.char_start, starts[:-1]]),
            np.concatenate([prompt.char_end, starts[1:]]),
            np.concatenate([prompt.word_idx, none]),
            np.concatenate([prompt.is_special, special]),
            is_response=np.arange(n + len(answer)) >= n,
            turn=turn,
            part=part,
        )
        return replace(sequence, sides={"dec": whole}, text=text + response)


def _decode_response(tokenizer: Any, prompt: np.ndarray, answer: np.ndarray, at: int) -> tuple[np.ndarray, str]:
    """Return where each token of a response, and its end, is in the whole text, (n + 1,) from `at` on, and its text."""
    context = prompt[-_CONTEXT:].tolist()
    prefixes = decode_sequences(tokenizer, [context + answer[:i].tolist() for i in range(len(answer) + 1)])
    before = len(prefixes[0])
    # as far as the whole begins with it: a part of a character is decoded as another character
    ends = [_common_length(t, prefixes[-1]) - before for t in prefixes]
    return at + np.maximum.accumulate(np.maximum(ends, 0)), prefixes[-1][before:]


def _common_length(text: str, other: str) -> int:
    """Return how many characters two texts begin with in common."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(text), len(other)))


class _DrawToken(LogitsProcessor):
    """Leaves one token a row: the one that the row's number falls on."""

    def __init__(self, uniform: np.ndarray) -> None:
        self._uniform, self._step = uniform, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        x = scores.cpu() if scores.device.type == "mps" else scores  # mps has no float64
        sums = torch.softmax(x.float(), -1).double().cumsum(-1)
        u = torch.from_numpy(self._uniform[:, self._step, None]).to(sums.device) * sums[:, -1:]
        self._step += 1
        chosen = torch.searchsorted(sums, u, right=True).clamp(max=scores.shape[-1] - 1).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)


class _ForceToken(LogitsProcessor):
    """Leaves the same token in every row."""

    def __init__(self, token: int) -> None:
        self._token = token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self._token] = 0.0
        return forced
