"""The states from which a decoder predicts what comes after a prompt, for several continuations of each prompt.

A prompt that all of a question's continuations begin with is read once, and the continuations are read from its keys and values.
A probe first proves that this gives what reading each whole text gives. Where it does not (layers that keep something other than
keys and values, positions that follow from padding), and in models with sliding windows, every text is read whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from capture.model.anatomy import Anatomy
from capture.model.body import padding_id, probe_ids
from capture.model.tolerances import states_tolerance
from capture.model.unchanged import unchanged


@dataclass(frozen=True)
class Continuation:
    """The tokens of a prompt with something after it."""

    ids: np.ndarray
    """(T,)"""
    start: int
    """Position of the first token after the prompt."""

    def __len__(self) -> int:
        return len(self.ids)


class ContinuationReader:
    """Computes the last hidden states that continuations of prompts are predicted from, in batches."""

    def __init__(self, anatomy: Anatomy, batch_tokens: int) -> None:
        self._body = anatomy.body
        self._module = anatomy.body.module
        self._device = anatomy.body.model.device
        self._batch_tokens = batch_tokens
        formulas = [layer.formula for layer in anatomy.main.layers]
        self.reads_prompts_once = all(f is not None and f.window is None for f in formulas) and self._sharing_is_exact()
        """Whether a prompt is read once for all of its continuations."""

    def states(self, questions: list[list[Continuation]]) -> list[list[torch.Tensor]]:
        """Compute the last hidden states that the tokens after each prompt are predicted from.

        Args:
            questions: For each question its continuations.

        Returns:
            For each question and continuation a tensor (tokens after the prompt, D).
        """
        if not (self.reads_prompts_once and self._body.ignores_padding and self._body.ignores_batch):
            return self._regroup(
                questions, self._states_of_whole_texts([c for question in questions for c in question])
            )
        shared = [i for i, question in enumerate(questions) if _common_prompt(question) is not None]
        states: dict[int, list[torch.Tensor]] = {}
        for group in self._groups(questions, shared):
            states |= dict(zip(group, self._states_sharing_prompts([questions[i] for i in group]), strict=True))
        rest = [i for i in range(len(questions)) if i not in states]
        whole = self._states_of_whole_texts([c for i in rest for c in questions[i]])
        states |= dict(zip(rest, self._regroup([questions[i] for i in rest], whole), strict=True))
        return [states[i] for i in range(len(questions))]

    def _groups(self, questions: list[list[Continuation]], chosen: list[int]) -> Iterator[list[int]]:
        """Yield groups of questions that fit a batch and have equally many continuations each.

        A prompt's keys count once for each of its continuations.
        """
        chosen = sorted(chosen, key=lambda i: (len(questions[i]), max(map(len, questions[i]))), reverse=True)
        while chosen:
            n, width = len(questions[chosen[0]]), max(map(len, questions[chosen[0]]))
            room = max(1, self._batch_tokens // (n * width))
            group = [i for i in chosen[:room] if len(questions[i]) == n]
            chosen = chosen[len(group) :]
            yield group

    def _states_sharing_prompts(self, questions: list[list[Continuation]]) -> list[list[torch.Tensor]]:
        """Read each prompt once, then all continuations; every question has equally many of them."""
        n = len(questions[0])
        prompts = [question[0].ids[: question[0].start] for question in questions]
        ids, mask = self._pad(prompts)
        with torch.no_grad(), unchanged(self._body.model):
            out = self._module(input_ids=ids, attention_mask=mask, use_cache=True)
            lengths = mask.sum(1)
            ends = out.last_hidden_state[torch.arange(len(ids), device=self._device), lengths - 1]
            states = [[ends[b, None] for _ in question] for b, question in enumerate(questions)]
            # the last token of each is predicted, and not read
            after = [c.ids[c.start : -1] for question in questions for c in question]
            if max(map(len, after)):
                past = out.past_key_values
                past.batch_repeat_interleave(n)
                ids, read = self._pad(after)
                mask, lengths = mask.repeat_interleave(n, 0), lengths.repeat_interleave(n, 0)
                positions = lengths[:, None] + torch.arange(ids.shape[1], device=self._device)
                last = self._module(
                    input_ids=ids,
                    attention_mask=torch.cat([mask, read], 1),
                    position_ids=positions,
                    past_key_values=past,
                    use_cache=True,
                ).last_hidden_state
                for i, tokens in enumerate(after):
                    b, c = divmod(i, n)
                    states[b][c] = torch.cat([states[b][c], last[i, : len(tokens)]])
        return states

    def _states_of_whole_texts(self, texts: list[Continuation]) -> list[torch.Tensor]:
        """Read every text from its beginning."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        states: dict[int, torch.Tensor] = {}
        while order:
            width = len(texts[order[0]])
            fitting = order if self._body.ignores_padding else [i for i in order if len(texts[i]) == width]
            group = fitting[: max(1, self._batch_tokens // width) if self._body.ignores_batch else 1]
            order = [i for i in order if i not in set(group)]
            with torch.no_grad():
                last = self._body({"dec": self._pad([texts[i].ids for i in group])}).last["dec"]
            for row, i in enumerate(group):
                states[i] = last[row, texts[i].start - 1 : len(texts[i]) - 1].clone()
        return [states[i] for i in range(len(texts))]

    def _regroup(self, questions: list[list[Continuation]], states: list[torch.Tensor]) -> list[list[torch.Tensor]]:
        left = iter(states)
        return [[next(left) for _ in question] for question in questions]

    def _pad(self, rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.full((len(rows), max(map(len, rows))), padding_id(self._body.model))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.from_numpy(row)
            mask[i, : len(row)] = 1
        return ids.to(self._device), mask.to(self._device)

    def _sharing_is_exact(self) -> bool:
        """Return whether two prompts of different lengths, with two continuations each, get the states of the whole texts."""
        ids = probe_ids(self._body.model, 40)[0].cpu().numpy()
        texts = [(ids[:11], ids[11:14]), (ids[:11], ids[14:19]), (ids[20:27], ids[27:32]), (ids[20:27], ids[32:34])]
        continuations = [Continuation(np.concatenate(text), len(text[0])) for text in texts]
        questions = [continuations[:2], continuations[2:]]
        try:
            shared = self._states_sharing_prompts(questions)
        except Exception:  # a model may refuse with any error: then whole texts are read
            return False
        whole = self._states_of_whole_texts(continuations)
        for x, y in zip((s for question in shared for s in question), whole, strict=True):
            allowed = states_tolerance(x.dtype) * float(y.abs().max())
            if x.shape != y.shape or float((x - y).abs().max()) > allowed:
                return False
        return True


def _common_prompt(question: list[Continuation]) -> np.ndarray | None:
    """Return the prompt's tokens where all of a question's continuations begin with the same ones, else None."""
    first = question[0].ids[: question[0].start]
    same = all(np.array_equal(c.ids[: c.start], first) for c in question)
    return first if same and len(first) else None
