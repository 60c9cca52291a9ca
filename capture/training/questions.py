"""Multiple-choice questions as training reads them: the same pairs of tokens as a capture, with answers, and batches of them.

`load_questions` reads a split into memory, `choose_set_aside` picks the questions by which the epoch is chosen, and `collate` makes
the tensors of a step. Nothing here trains.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import xxhash
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from capture.data.example import Source
from capture.jobs.choice_scores import check_questions
from capture.model import loading
from capture.model.body import vocabulary_size
from capture.sequences.question_pairs import PairMaker
from capture.sequences.sequence import TokenSequence, check_ids
from capture.training.options import Options
from warehouse.errors import UsageError

_SET_ASIDE_EVERY = 10
"""One training question in this many is set aside to choose the epoch by."""
_MIN_SET_ASIDE = 20
"""With fewer, it is chance which epoch does best."""


@dataclass(frozen=True)
class Questions(Dataset[tuple[list[TokenSequence], int]]):
    """All questions of a split: a pair of question and choice for each choice, and the answers."""

    pairs: list[list[TokenSequence]]
    answers: list[int]
    texts: list[str]
    """Each question with its choices in alphabetical order, to find questions that two splits share."""
    hash: str
    truncated: int

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[list[TokenSequence], int]:
        return self.pairs[i], self.answers[i]

    @property
    def tokens(self) -> int:
        """The number of tokens in all pairs."""
        return sum(s.n_tokens for pair in self.pairs for s in pair)


def load_questions(source: Source, pairing: PairMaker, limit: int | None, loaded: loading.Loaded) -> Questions:
    """Read the questions of a split.

    Args:
        source: The split.
        pairing: Makes the pairs.
        limit: Read only this many questions, the first ones; None: all.
        loaded: The model to train.

    Returns:
        The questions.

    Raises:
        UsageError: There is no question, one has no answer or another number of choices, or a token that the model does not have.
    """
    check_questions(source)
    pairs: list[list[TokenSequence]] = []
    answers: list[int] = []
    texts: list[str] = []
    truncated, digest = 0, xxhash.xxh3_128()
    for t in pairing.tokenize(islice(source.read(), limit)):
        row = t.example.row
        if row.answer is None:
            raise UsageError(
                f"{source.origin}: question {row.source_id} has no answer key, so that nothing can be learnt from it."
            )
        if pairs and len(pairs[0]) != len(t.sequences):
            raise UsageError(
                f"{source.origin}: question {row.source_id} has another number of choices than those before it."
            )
        for sequence in t.sequences:
            where = f"{source.origin}, question {row.source_id}"
            check_ids(sequence.sides["enc"].ids, vocabulary_size(loaded.model), loaded.tokenizer, loaded.name, where)
        pairs.append(t.sequences)
        answers.append(row.answer)
        texts.append("\x1f".join([row.text, *sorted(c.text for c in row.choices)]))
        truncated += t.truncated
        digest.update(f"{t.example.example_id}\x1f{row.text}\x1e".encode("utf-8", "surrogatepass") + row.annotations())
    if not pairs:
        raise UsageError(f"{source.origin} contains no questions.")
    return Questions(pairs, answers, texts, digest.hexdigest(), truncated)


def choose_set_aside(answers: list[int], options: Options) -> list[int]:
    """Choose the training questions that are set aside, the same fraction for every answer; none where they would be too few."""
    if options.epochs < 2 or len(answers) < _SET_ASIDE_EVERY * _MIN_SET_ASIDE:
        return []
    random = np.random.default_rng((options.seed, 2)).permutation(len(answers))
    return sorted(np.lexsort((random, np.array(answers)))[::_SET_ASIDE_EVERY].tolist())


def collate(rows: Iterable[tuple[list[TokenSequence], int]], pad_id: int) -> dict[str, torch.Tensor]:
    """Collate B questions with C choices into (B, C, T) ids, mask and types, and (B,) answers."""
    rows = list(rows)
    parts = [s.sides["enc"] for pairs, _ in rows for s in pairs]

    def stacked(arrays: list[np.ndarray], fill: int) -> torch.Tensor:
        padded = pad_sequence([torch.from_numpy(a) for a in arrays], batch_first=True, padding_value=fill)
        return padded.unflatten(0, (len(rows), -1))

    batch = {
        "input_ids": stacked([p.ids for p in parts], pad_id),
        "attention_mask": stacked([np.ones(len(p), np.int64) for p in parts], 0),
        "labels": torch.tensor([answer for _, answer in rows]),
    }
    if parts[0].types is not None:
        batch["token_type_ids"] = stacked([p.types for p in parts if p.types is not None], 0)
    return batch
