"""Prompts → what a model answers: which tokens it reads of a prompt, and which it goes on with.

Every sequence is drawn with random numbers of its own, made from the seed and its keys, so that what it becomes depends neither
on the batch that it is in nor on the device, nor on what was generated before an interruption. That a batch of prompts of
different lengths gives what each gives alone is proven first; where it does not, only prompts of a length share a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
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

from capture.data.example import Example
from capture.model import loading
from capture.model.body import Body, padding_id, probe_ids, vocabulary_size
from capture.model.failures import error_sentence
from capture.model.tolerances import states_tolerance
from capture.model.unchanged import unchanged
from capture.sequences.batches import ONE_TEXT, PADDED, Batch, split_batch
from capture.sequences.bos import AUTO_BOS, BosPolicy, check_chat_template_bos
from capture.sequences.decoding import decode_sequences
from capture.sequences.encoding import encode, text_change_detector
from capture.sequences.sequence import SideTokens, TokenizedExample, TokenSequence
from capture.sequences.tokenize import group_examples
from warehouse.errors import UsageError

_COLDEST = 1e-5
"""Logits divided by less are no longer numbers."""

_CONTEXT = 4
"""Tokens of the prompt before a response that it is decoded with: some tokenizers drop a space where a text begins."""


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
        """Raises UsageError for values that cannot be."""
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


@dataclass(frozen=True)
class Chat:
    """How a prompt is put to a model: through its tokenizer's chat template where it has one, else as it is."""

    loaded: loading.Loaded
    growth: int
    """Most tokens of a response."""
    samples: int = 1
    bos: BosPolicy = AUTO_BOS

    def __post_init__(self) -> None:
        """Raises UsageError for a BOS where a chat template says what a prompt begins with."""
        if self.templated:
            check_chat_template_bos(self.bos, self.loaded.name)

    def text(self, example: Example) -> str:
        """What the model reads. A system message that the template refuses, or without a template any, stands before the prompt.

        Raises UsageError where the template fails.
        """
        system = example.row.metadata.get("system")
        if not self.templated:
            return example.text if system is None else f"{system}\n\n{example.text}\n\n"
        ways = [[{"role": "user", "content": example.text}]]
        if system is not None:
            ways = [
                [{"role": "system", "content": system}, *ways[0]],
                [{"role": "user", "content": f"{system}\n\n{example.text}"}],
            ]
        for turns in ways:
            try:
                found: str = self.loaded.tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=True
                )
                return found
            except Exception as e:  # a template is a program of its own: some refuse a system message
                why = e
        raise UsageError(f"{self.loaded.name}: its chat template fails on {example.text[:40]!r}: {error_sentence(why)}")

    @property
    def templated(self) -> bool:
        return bool(getattr(self.loaded.tokenizer, "chat_template", None))

    def tokenize(self, examples: Iterable[Example]) -> Iterator[TokenizedExample]:
        """A sequence for every sample, each the prompt alone. Raises UsageError for a prompt without tokens, or one that with its
        response would be longer than the model's window.
        """
        alters = text_change_detector(self.loaded.tokenizer)
        for group in group_examples(examples):
            asked = [self.text(e) for _, e in group]
            parts = encode(self.loaded.tokenizer, asked, special=not self.templated, bos=self.bos)
            for (idx, example), text, part in zip(group, asked, parts, strict=True):
                end = len(part)
                while not self.templated and end and part.is_special[end - 1]:
                    end -= 1  # an end token that the tokenizer adds: the model is to go on
                part = part.slice(0, end)
                self._check(example, part)
                sequences = [TokenSequence(example, seq, {"dec": part}, text) for seq in range(self.samples)]
                yield TokenizedExample(idx, example, sequences, False, alters(text))

    def _check(self, example: Example, part: SideTokens) -> None:
        where = f"Prompt {example.row.source_id}"
        if example.row.prompt_set:
            where += f" of {example.row.prompt_set}"
        if not len(part):
            raise UsageError(f"{where} has no tokens: there is nothing to go on with.")
        window = self.loaded.window
        if window is not None and len(part) + self.growth > window:
            raise UsageError(
                f"{where} has {len(part)} tokens; with {self.growth} more it is longer than {self.loaded.name} was made for "
                f"({window}). A prompt is not cut: shorten it, or lower --max-new-tokens."
            )


class Generator:
    """Has a model go on with prompts. Draws by the inverse of the distribution function, one number from 0 to 1 a token."""

    def __init__(self, loaded: loading.Loaded, body: Body, sampling: Sampling) -> None:
        sampling.check()
        self._model, self._tokenizer, self._sampling = loaded.model, loaded.tokenizer, sampling
        ends = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
        if ends is None:
            ends = getattr(loaded.tokenizer, "eos_token_id", None)
        size = vocabulary_size(loaded.model)
        several = ends if isinstance(ends, list | tuple) else [ends]
        self._ends = [i for i in several if isinstance(i, int) and 0 <= i < size]  # others never come
        self._body = body
        self.pads = body.ignores_padding and self._proven()

    @property
    def shares(self) -> bool:
        """Several prompts may share a batch."""
        return self._body.ignores_batch

    def answers(self, prompts: list[np.ndarray], keys: list[tuple[str, int]]) -> list[np.ndarray]:
        """The tokens that follow each of the prompts (T,), an end token included; `keys` are their example_id and seq."""
        s = self._sampling
        processors = LogitsProcessorList()
        if s.temperature > 0:
            if s.temperature != 1:
                processors.append(TemperatureLogitsWarper(float(s.temperature)))
            if s.top_k:
                processors.append(TopKLogitsWarper(s.top_k))
            if s.top_p < 1:
                processors.append(TopPLogitsWarper(s.top_p))
            processors.append(_Drawn(self._uniform(keys)))
        ids, mask = self._left_padded(prompts)
        with torch.no_grad(), unchanged(self._model), _without_own_settings(self._model):
            out: torch.Tensor = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=self._config(s.max_new_tokens),
                logits_processor=processors,
            )
        new = out[:, ids.shape[1] :].cpu().numpy()
        return [row[: self._length(row)] for row in new]

    def ends_with(self, token: int) -> bool:
        """Whether a token ends a response."""
        return token in self._ends

    def _length(self, row: np.ndarray) -> int:
        ends = np.flatnonzero(np.isin(row, self._ends))
        return int(ends[0]) + 1 if len(ends) else len(row)

    def _uniform(self, keys: list[tuple[str, int]]) -> np.ndarray:
        """(B, max_new_tokens), every row from its own keys."""
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

    def _left_padded(self, prompts: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), padding_id(self._model))
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.from_numpy(prompt)
            mask[i, width - len(prompt) :] = 1
        return ids.to(self._model.device), mask.to(self._model.device)

    def _proven(self) -> bool:
        """Whether two prompts of different lengths give the first logits that each gives alone, and a second time after a token."""
        ids = probe_ids(self._model, 12)[0].cpu().numpy()
        prompts = [ids, ids[:7]]
        try:
            together = self._first_logits(prompts)
            alone = torch.cat([self._first_logits([p]) for p in prompts], 1)
        except Exception:  # a model refuses in whatever way it likes: then prompts of a length go together
            return False
        allowed = states_tolerance(self._model.dtype) * float(alone.abs().max())
        return bool((together - alone).abs().max() <= allowed)

    def _first_logits(self, prompts: list[np.ndarray]) -> torch.Tensor:
        """(2, B, V), of the first two tokens, the first being the same whatever the logits are."""
        ids, mask = self._left_padded(prompts)
        config = self._config(2)
        config.eos_token_id = None
        config.update(return_dict_in_generate=True, output_logits=True)
        first = int(prompts[-1][0])
        with torch.no_grad(), unchanged(self._model), _without_own_settings(self._model):
            out: Any = self._model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=[_Forced(first)]
            )
        return torch.stack([x.float() for x in out.logits])


@contextmanager
def _without_own_settings(model: Any) -> Iterator[None]:
    """`generate` fills what it is not told with the model's own settings (penalties, tokens never said, least lengths), of which
    no manifest would tell.
    """
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class PromptCompleter:
    """Batches of prompts made whole: the `Generation` of a job."""

    pads: bool

    def __init__(self, generator: Generator, tokenizer: Any, growth: int) -> None:
        self.generator, self._tokenizer, self.growth = generator, tokenizer, growth
        self.pads = generator.pads

    def complete(self, batch: Batch) -> Batch:
        whole: dict[tuple[str, int], TokenSequence] = {}
        for part in split_batch(batch, PADDED if self.generator.shares else ONE_TEXT):
            keys = [(s.example.example_id, s.seq) for s in part.sequences]
            with self.generating(part):
                answers = self.generator.answers([s.sides["dec"].ids for s in part.sequences], keys)
            whole |= {key: self._whole(s, a) for key, s, a in zip(keys, part.sequences, answers, strict=True)}
        examples = [
            replace(t, sequences=[whole[t.example.example_id, s.seq] for s in t.sequences]) for t in batch.examples
        ]
        longest_first = sorted(whole.values(), key=lambda s: s.n_tokens, reverse=True)
        return replace(batch, sequences=longest_first, examples=examples)

    def generating(self, batch: Batch) -> AbstractContextManager[Any]:
        """What has to be open while a batch is generated."""
        return nullcontext()

    def reading(self, batch: Batch) -> AbstractContextManager[Any]:
        """What has to be open while a completed batch is read."""
        return nullcontext()

    def _whole(self, sequence: TokenSequence, answer: np.ndarray) -> TokenSequence:
        prompt, text = sequence.sides["dec"], sequence.text or ""
        starts, said = _places(self._tokenizer, prompt.ids, answer, len(text))
        n = len(prompt)
        none = np.full(len(answer), -1)
        special = np.zeros(len(answer), bool)
        if len(answer):
            special[-1] = self.generator.ends_with(int(answer[-1]))
        part = SideTokens(
            np.concatenate([prompt.ids, answer]).astype(np.int64),
            np.concatenate([prompt.char_start, starts[:-1]]),
            np.concatenate([prompt.char_end, starts[1:]]),
            np.concatenate([prompt.word_idx, none]),
            np.concatenate([prompt.is_special, special]),
            is_response=np.arange(n + len(answer)) >= n,
        )
        return replace(sequence, sides={"dec": part}, text=text + said)


def _places(tokenizer: Any, prompt: np.ndarray, answer: np.ndarray, at: int) -> tuple[np.ndarray, str]:
    """Where the tokens of a response stand in the whole text, (n + 1,) from `at` on, the last being its end; and its text."""
    context = prompt[-_CONTEXT:].tolist()
    found = decode_sequences(tokenizer, [context + answer[:i].tolist() for i in range(len(answer) + 1)])
    before = len(found[0])
    # as far as the whole begins with it: a part of a character shows as another one than the character
    ends = [_common(t, found[-1]) - before for t in found]
    return at + np.maximum.accumulate(np.maximum(ends, 0)), found[-1][before:]


def _common(text: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(text), len(other)))


class _Drawn(LogitsProcessor):
    """Leaves one token a row: the one that the row's number falls on."""

    def __init__(self, uniform: np.ndarray) -> None:
        self._uniform, self._step = uniform, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        x = scores.cpu() if scores.device.type == "mps" else scores  # which knows no float64
        sums = torch.softmax(x.float(), -1).double().cumsum(-1)
        u = torch.from_numpy(self._uniform[:, self._step, None]).to(sums.device) * sums[:, -1:]
        self._step += 1
        chosen = torch.searchsorted(sums, u, right=True).clamp(max=scores.shape[-1] - 1).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)


class _Forced(LogitsProcessor):
    def __init__(self, token: int) -> None:
        self._token = token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self._token] = 0.0
        return forced
