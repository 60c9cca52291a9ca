"""A local transformers model as a judge: the exact probability that it gives to each number.

The numbers 0 to 100, as the model's own tokenizer splits them after the prompt, form a tree of tokens: `8`, below it `8 5`. The
probability of a number is the product over its tokens, times that of no further digit after them; so it is right for tokenizers
that have a token for each number and for those that split numbers into digits. One forward pass gives all of it: prompt and tree are
one sequence, with a mask in which a token of the tree sees the prompt and the tokens above it. When the judge is opened, one prompt
proves that this gives what reading every number by itself gives; where it does not, every number is read by itself.

The model's greedy answer follows from the same pass where it is a number; only otherwise are a few tokens generated. An answer that
begins with REFUSAL is a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from capture.model.continuations import Continuation, ContinuationReader
from capture.model.examine import examine
from capture.model.lm_head import LMHead
from capture.model.loading import Loaded
from capture.model.tolerances import states_tolerance
from capture.traits.judge import JudgeRequestError
from capture.traits.verdict import NUMBERS, Verdict, from_probabilities
from warehouse.errors import UsageError

_ANSWER_TOKENS = 8
"""Limit in tokens of an answer that is not a number."""
_BATCH_TOKENS = 4096
_PROOF = (0, 7, 10, 42, 85, 99, 100)
_CUE = "\n\nAnswer:"
"""Ends the prompt where the model has no chat template."""


@dataclass(frozen=True)
class NumberTree:
    """The numbers' tokens as a tree: node i belongs to row i + 1 of the states, and row 0 to the prompt's end."""

    paths: Mapping[int, tuple[int, ...]]
    """Number → its tokens."""
    rows: dict[tuple[int, ...], int]
    """Tokens after the prompt → their row."""

    @classmethod
    def from_paths(cls, paths: Mapping[int, tuple[int, ...]]) -> NumberTree:
        """Build the tree from each number's tokens."""
        rows: dict[tuple[int, ...], int] = {(): 0}
        for path in paths.values():
            for depth in range(1, len(path) + 1):
                rows.setdefault(path[:depth], len(rows))
        return cls(paths, rows)

    @property
    def nodes(self) -> list[tuple[int, ...]]:
        """The nodes in the order of their rows, each as its tokens from the top."""
        return list(self.rows)[1:]

    @property
    def depth(self) -> int:
        """The largest number of tokens of a number."""
        return max(map(len, self.rows))


class LocalJudge:
    """Scores responses with a local model, one prompt at a time."""

    paid = False
    concurrent = False
    """One forward pass fills the machine."""

    def __init__(self, name: str, loaded: Loaded) -> None:
        """Prepare the numbers' tree; raises UsageError for an encoder, or where numbers have no tokens of their own."""
        self.name = name
        self._model, self._tokenizer, self._window = loaded.model, loaded.tokenizer, loaded.window
        anatomy = examine(loaded.model)
        if anatomy.body.encoder_decoder or anatomy.main.side != "dec":
            raise UsageError(f"{name}: a judge has to be a decoder with a language-model head.")
        self._body, self._head = anatomy.body, LMHead(anatomy.body)
        self._anatomy = anatomy
        self._continuer: ContinuationReader | None = None
        windows = [layer.formula.window for layer in anatomy.main.layers if layer.formula and layer.formula.window]
        self._attention_window = min(windows, default=None)
        self._tree = NumberTree.from_paths(self._number_tokens())
        self._digits = torch.tensor(_digit_tokens(loaded.tokenizer), device=loaded.model.device)
        self._single_pass = self._is_single_pass_exact()
        """Whether all numbers are read in one pass."""

    def ask(self, prompt: str) -> Verdict:
        """Score one prompt; raises JudgeRequestError where it is longer than the model reads."""
        ids = self._token_ids(prompt)
        if self._window is not None and len(ids) + self._tree.depth > self._window:
            raise JudgeRequestError(
                f"the judging prompt has {len(ids)} tokens, and the model reads {self._window}: choose a judge with a "
                "longer window, or make shorter responses",
                retryable=False,
                this_prompt_only=True,
            )
        log_probs = self._log_probs(ids)
        return from_probabilities(self._answer(ids, log_probs), self._probabilities(log_probs))

    # -- input -----------------------------------------------------------------------------------------------------

    def _text(self, prompt: str) -> tuple[str, bool]:
        """Return the prompt as the model reads it, and whether the tokenizer is to add special tokens."""
        if not getattr(self._tokenizer, "chat_template", None):
            return prompt + _CUE, True
        turns = [{"role": "user", "content": prompt}]
        text: str = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return text, False

    def _token_ids(self, prompt: str, after: str = "") -> np.ndarray:
        text, special = self._text(prompt)
        ids = self._tokenizer(text + after, add_special_tokens=special)["input_ids"]
        eos = self._tokenizer.eos_token_id
        if special and len(ids) > 1 and ids[-1] == eos:  # some tokenizers end every text
            ids = ids[:-1]
        return np.asarray(ids)

    def _number_tokens(self) -> dict[int, tuple[int, ...]]:
        """Return each number's tokens after a prompt."""
        start = self._token_ids("?")
        space = "" if getattr(self._tokenizer, "chat_template", None) else " "
        tokens = {}
        for number in NUMBERS:
            ids = self._token_ids("?", f"{space}{number}")
            if len(ids) <= len(start) or not np.array_equal(ids[: len(start)], start):
                raise UsageError(f"{self.name} cannot judge: its tokenizer does not begin a number with a new token.")
            tokens[number] = tuple(ids[len(start) :].tolist())
        return tokens

    # -- output ----------------------------------------------------------------------------------------------------

    def _log_probs(self, ids: np.ndarray) -> torch.Tensor:
        """Return log-probabilities of the next token after the prompt and after every node, (1 + nodes, V)."""
        fits = self._attention_window is None or len(ids) + self._tree.depth <= self._attention_window
        with torch.no_grad():
            states = self._states(ids) if self._single_pass and fits else self._states_separately(ids, list(NUMBERS))
            return torch.log_softmax(self._head(states).float(), -1)

    def _states(self, ids: np.ndarray) -> torch.Tensor:
        """Return the states at the prompt's end and at every node, (1 + nodes, D), from one sequence."""
        nodes, n = self._tree.nodes, len(ids)
        total = n + len(nodes)
        sees = torch.ones((total, total), dtype=torch.bool).tril()
        sees[n:, n:] = False
        for i, node in enumerate(nodes, n):
            if len(node) > 1:
                sees[i] = sees[n - 1 + self._tree.rows[node[:-1]]]
            sees[i, i] = True
        device, dtype = self._model.device, self._model.dtype
        mask = torch.zeros((1, 1, total, total), dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
        sequence = torch.from_numpy(np.array([*ids, *(node[-1] for node in nodes)]))[None]
        places = torch.tensor([*range(n), *(n - 1 + len(node) for node in nodes)])[None]
        with torch.no_grad():
            last = self._body({"dec": (sequence.to(device), mask.to(device))}, position_ids=places).last["dec"]
        return last[0, n - 1 :]

    def _states_separately(self, ids: np.ndarray, numbers: list[int]) -> torch.Tensor:
        """Return the states as `_states` does, reading each of `numbers` by itself; other numbers' rows are zero."""
        if self._continuer is None:
            self._continuer = ContinuationReader(self._anatomy, _BATCH_TOKENS)
        # the last token is predicted, not read: any will do
        texts = [Continuation(np.array([*ids, *self._tree.paths[n], ids[0]]), len(ids)) for n in numbers]
        room = max(1, _BATCH_TOKENS // max(map(len, texts)))
        chunks = self._continuer.states([texts[i : i + room] for i in range(0, len(texts), room)])
        states = chunks[0][0].new_zeros((len(self._tree.rows), chunks[0][0].shape[1]))
        for number, rows in zip(numbers, (rows for chunk in chunks for rows in chunk), strict=True):
            path = self._tree.paths[number]
            for depth, state in enumerate(rows):
                states[self._tree.rows[path[:depth]]] = state
        return states

    def _is_single_pass_exact(self) -> bool:
        """Tell whether the tree in one sequence gives the states of numbers that are read by themselves."""
        ids = self._token_ids("How many of a hundred lamps are lit?")
        expected = self._states_separately(ids, list(_PROOF))
        try:
            states = self._states(ids)
        except Exception:  # models refuse a mask with errors of any type: their numbers are then read separately
            return False
        rows = [0, *(self._tree.rows[self._tree.paths[n]] for n in _PROOF)]
        allowed = states_tolerance(expected.dtype) * float(expected.abs().max())
        return float((states[rows] - expected[rows]).abs().max()) <= allowed

    def _probabilities(self, log_probs: torch.Tensor) -> dict[int, float]:
        """Return each number's probability, given the log-probabilities of `_log_probs`."""
        nodes, rows = self._tree.nodes, self._tree.rows
        parents, tokens = [rows[node[:-1]] for node in nodes], [node[-1] for node in nodes]
        steps = log_probs[parents, tokens].double().cpu().numpy()
        further = log_probs[:, self._digits].double().exp().sum(-1).cpu().numpy()
        above = np.zeros(len(rows))
        for row, (parent, step) in enumerate(zip(parents, steps, strict=True), 1):
            above[row] = above[parent] + step
        probabilities = np.exp(above) * np.clip(1 - further, 0, 1)
        return {number: float(probabilities[rows[path]]) for number, path in self._tree.paths.items()}

    def _answer(self, ids: np.ndarray, log_probs: torch.Tensor) -> str:
        """Return the model's greedy answer: a number if the tree contains it, else a few generated tokens."""
        rows, likeliest = self._tree.rows, log_probs.argmax(-1).tolist()
        path: tuple[int, ...] = ()
        while (below := (*path, likeliest[rows[path]])) in rows:
            path = below
        answer = next((number for number, tokens in self._tree.paths.items() if tokens == path), None)
        if answer is not None and likeliest[rows[path]] not in self._digits.tolist():
            return str(answer)
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        read = torch.from_numpy(ids)[None].to(self._model.device)
        eos = self._model.generation_config.eos_token_id
        padding = eos[0] if isinstance(eos, list) else eos
        out = self._model.generate(
            input_ids=read,
            attention_mask=torch.ones_like(read),
            max_new_tokens=_ANSWER_TOKENS,
            pad_token_id=padding,
            **options,
        )
        text: str = self._tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
        return text.strip()


def _digit_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that continue a number: their first character is a digit, not a space."""
    return sorted(i for token, i in tokenizer.get_vocab().items() if token[:1] in "0123456789" and token)
