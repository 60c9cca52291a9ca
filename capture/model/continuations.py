"""The states from which a model predicts what comes after a prompt, for several continuations of each.

A prompt that all of a question's continuations begin with is read once, and they go on from its keys and values. That this gives
what reading each whole text gives is proven on a probe first; where it does not (layers that keep something else than keys and
values, positions that follow from padding), and in models with sliding windows, every text is read whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from capture.model.anatomy import Anatomy
from capture.model.body import padding_id, probe_ids
from capture.model.unchanged import unchanged

_SAME = {torch.float32: 1e-4, torch.float64: 1e-4}
_SAME_HALF = 0.05
"""How much states may differ, relative to their largest value: other shapes round otherwise."""


@dataclass(frozen=True)
class Continuation:
    """What a model reads of a prompt with something after it."""

    ids: np.ndarray
    """(T,)"""
    start: int
    """Place of the first token that is not of the prompt alone."""

    def __len__(self) -> int:
        return len(self.ids)


class ContinuationReader:
    def __init__(self, anatomy: Anatomy, batch_tokens: int) -> None:
        self._body = anatomy.body
        self._module = anatomy.body.module
        self._device = anatomy.body.model.device
        self._batch_tokens = batch_tokens
        formulas = [layer.formula for layer in anatomy.main.layers]
        self.reads_prompts_once = all(f is not None and f.window is None for f in formulas) and self._sharing_is_exact()
        """Whether prompts are read once."""

    def states(self, questions: list[list[Continuation]]) -> list[list[torch.Tensor]]:
        """Of each question and continuation (tokens, D), the last hidden states that its tokens after the prompt are predicted
        from.
        """
        if not (self.reads_prompts_once and self._body.ignores_padding and self._body.ignores_batch):
            return self._regroup(questions, self._states_of_whole_texts([c for found in questions for c in found]))
        shared = [i for i, found in enumerate(questions) if _common_prompt(found) is not None]
        found: dict[int, list[torch.Tensor]] = {}
        for group in self._groups(questions, shared):
            found |= dict(zip(group, self._states_sharing_prompts([questions[i] for i in group]), strict=True))
        rest = [i for i in range(len(questions)) if i not in found]
        whole = self._states_of_whole_texts([c for i in rest for c in questions[i]])
        found |= dict(zip(rest, self._regroup([questions[i] for i in rest], whole), strict=True))
        return [found[i] for i in range(len(questions))]

    def _groups(self, questions: list[list[Continuation]], chosen: list[int]) -> Iterator[list[int]]:
        """Questions of as many continuations, as many as fit, counting a prompt's keys for each of its continuations."""
        chosen = sorted(chosen, key=lambda i: (len(questions[i]), max(map(len, questions[i]))), reverse=True)
        while chosen:
            n, width = len(questions[chosen[0]]), max(map(len, questions[chosen[0]]))
            room = max(1, self._batch_tokens // (n * width))
            group = [i for i in chosen[:room] if len(questions[i]) == n]
            chosen = chosen[len(group) :]
            yield group

    def _states_sharing_prompts(self, questions: list[list[Continuation]]) -> list[list[torch.Tensor]]:
        """Prompts once, then what comes after them; as many continuations each."""
        n = len(questions[0])
        prompts = [found[0].ids[: found[0].start] for found in questions]
        ids, mask = self._pad(prompts)
        with torch.no_grad(), unchanged(self._body.model):
            out = self._module(input_ids=ids, attention_mask=mask, use_cache=True)
            lengths = mask.sum(1)
            ends = out.last_hidden_state[torch.arange(len(ids), device=self._device), lengths - 1]
            states = [[ends[b, None] for _ in found] for b, found in enumerate(questions)]
            # the last token of each is predicted, and not read
            after = [c.ids[c.start : -1] for found in questions for c in found]
            if max(map(len, after)):
                past = out.past_key_values
                past.batch_repeat_interleave(n)
                ids, read = self._pad(after)
                mask, lengths = mask.repeat_interleave(n, 0), lengths.repeat_interleave(n, 0)
                places = lengths[:, None] + torch.arange(ids.shape[1], device=self._device)
                last = self._module(
                    input_ids=ids,
                    attention_mask=torch.cat([mask, read], 1),
                    position_ids=places,
                    past_key_values=past,
                    use_cache=True,
                ).last_hidden_state
                for i, tokens in enumerate(after):
                    b, c = divmod(i, n)
                    states[b][c] = torch.cat([states[b][c], last[i, : len(tokens)]])
        return states

    def _states_of_whole_texts(self, texts: list[Continuation]) -> list[torch.Tensor]:
        """Every text from its beginning."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        found: dict[int, torch.Tensor] = {}
        while order:
            width = len(texts[order[0]])
            fitting = order if self._body.ignores_padding else [i for i in order if len(texts[i]) == width]
            group = fitting[: max(1, self._batch_tokens // width) if self._body.ignores_batch else 1]
            order = [i for i in order if i not in set(group)]
            with torch.no_grad():
                last = self._body({"dec": self._pad([texts[i].ids for i in group])}).last["dec"]
            for row, i in enumerate(group):
                found[i] = last[row, texts[i].start - 1 : len(texts[i]) - 1].clone()
        return [found[i] for i in range(len(texts))]

    def _regroup(self, questions: list[list[Continuation]], states: list[torch.Tensor]) -> list[list[torch.Tensor]]:
        left = iter(states)
        return [[next(left) for _ in found] for found in questions]

    def _pad(self, rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.full((len(rows), max(map(len, rows))), padding_id(self._body.model))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.from_numpy(row)
            mask[i, : len(row)] = 1
        return ids.to(self._device), mask.to(self._device)

    def _sharing_is_exact(self) -> bool:
        """Whether two prompts of different lengths, with two continuations each, get the states of the whole texts."""
        ids = probe_ids(self._body.model, 40)[0].cpu().numpy()
        texts = [(ids[:11], ids[11:14]), (ids[:11], ids[14:19]), (ids[20:27], ids[27:32]), (ids[20:27], ids[32:34])]
        found = [Continuation(np.concatenate(text), len(text[0])) for text in texts]
        questions = [found[:2], found[2:]]
        try:
            shared = self._states_sharing_prompts(questions)
        except Exception:  # a model refuses in whatever way it likes: then it is asked as usual
            return False
        for x, y in zip((s for of in shared for s in of), self._states_of_whole_texts(found), strict=True):
            allowed = _SAME.get(x.dtype, _SAME_HALF) * float(y.abs().max())
            if x.shape != y.shape or float((x - y).abs().max()) > allowed:
                return False
        return True


def _common_prompt(found: list[Continuation]) -> np.ndarray | None:
    """What all continuations of a question begin with, where that is the whole prompt."""
    first = found[0].ids[: found[0].start]
    same = all(np.array_equal(c.ids[: c.start], first) for c in found)
    return first if same and len(first) else None
