"""The mcq-prompt job: multiple-choice questions put to a decoder as prompts.

Each choice gets three scores: the logit of its letter where the prompt ends, the log-probability of its text after the prompt
(summed over its tokens), and the same per byte. Tensors are of the prompt where the letter decides, else of the prompt with each
choice's text; `seq` then numbers the choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from capture.data.example import Example, Source
from capture.jobs import job, prepare, run_job
from capture.jobs.choice_scores import Scores, check_questions, score_tables
from capture.jobs.next_token import check_score_values
from capture.model import loading
from capture.model.anatomy import Anatomy
from capture.model.body import vocabulary_size
from capture.model.continuations import Continuation, ContinuationReader
from capture.model.examine import examine
from capture.model.lm_head import LMHead
from capture.recording.diagnostics import next_token_diagnostics
from capture.recording.recorder import Recording
from capture.recording.rows import Rows
from capture.sequences.batches import Batch
from capture.sequences.bos import resolve_bos
from capture.sequences.encoding import find_frame
from capture.sequences.question_prompts import TEMPLATE, PromptMaker
from capture.sequences.sequence import SideTokens
from capture.sequences.tokenize import SequenceMaker
from warehouse.errors import UsageError

KIND = "mcq-prompt"
SCORES = ("letter", "text", "byte")


@dataclass(frozen=True)
class Options(job.Options):
    """What the user chose, with how questions are put and scored."""

    score: str = "letter"
    """The score that decides: the letter's logit, the text's log-probability, or the same per byte."""
    template: str = TEMPLATE
    """How a question and its choices become a prompt."""
    chat: bool = False
    """Whether the prompt goes through the tokenizer's chat template."""


def _prepare(loaded: loading.Loaded, source: Source, options: Options) -> job.Job:
    check_questions(source)
    scorer = Scorer(loaded, options)
    prompting = scorer.prompting
    begins = None if prompting.chat else find_frame(loaded.tokenizer, prompting.bos).first_token
    sequencing = SequenceMaker(
        prompting.tokenize,
        ("dec",),
        prompting.max_len,
        keep_together=True,
        first_token=begins,
        chat_template=prompting.chat,
    )

    def tables(batch: Batch, recording: Recording) -> Mapping[str, pa.Table]:
        questions = list({s.example.example_id: s.example for s in batch.sequences}.values())
        return score_tables(questions, scorer.scores(questions, batch, recording), options.score)

    return prepare.prepare(
        KIND,
        loaded,
        source,
        options,
        Rows(loaded.tokenizer),
        tables,
        lambda _folder: None,
        anatomy=scorer.anatomy,
        sequencing=sequencing,
    )


run, forecast = run_job.define_kind(_prepare)


class Scorer:
    """Scores the choices of questions with a decoder."""

    def __init__(self, loaded: loading.Loaded, options: Options) -> None:
        """Examine the model; raises UsageError for one that is no decoder, and for an unknown --score."""
        if options.score not in SCORES:
            raise UsageError(f"--score {options.score}: use {', '.join(SCORES)}.")
        self.anatomy: Anatomy = examine(loaded.model)
        body = self.anatomy.body
        if body.encoder_decoder or body.side == "enc":
            raise UsageError(
                f"{loaded.name} is no decoder: it does not go on with a prompt. traces capture mcq-encoder asks an encoder, "
                "question and choice together."
            )
        self.prompting = PromptMaker(
            loaded.tokenizer,
            loaded.name,
            options.template,
            options.chat,
            job.resolve_max_len(loaded, options.max_len),
            sequence_per_choice=options.score != "letter",
            vocabulary=vocabulary_size(loaded.model),
            bos=resolve_bos(loaded, options.prepend_bos),
        )
        self._head = LMHead(body)
        self._continuer = ContinuationReader(self.anatomy, options.batch_tokens)

    def scores(self, questions: list[Example], batch: Batch, recording: Recording) -> list[Scores]:
        """Score the choices of a batch's questions.

        States come from the recording and, where it has only prompts, from forward passes of their choices.

        Args:
            questions: The examples of the batch, in its order.
            batch: The sequences that the model read.
            recording: Their states.

        Returns:
            One set of scores a question.
        """
        last = recording.last["dec"]
        sequence_states, start = {}, 0
        for s in batch.sequences:
            sequence_states[s.example.example_id, s.seq] = last[start : start + s.n_tokens]
            start += s.n_tokens
        letters = self.prompting.letters(questions)
        continuations = self.prompting.choices(questions)
        if self.prompting.sequence_per_choice:
            states = [
                [sequence_states[e.example_id, i][c.start - 1 : len(c) - 1] for i, c in enumerate(choices)]
                for e, choices in zip(questions, continuations, strict=True)
            ]
            ends = [
                self._prompt_end(sequence_states[e.example_id, 0], choices[0], part)
                for e, choices, (part, _) in zip(questions, continuations, letters, strict=True)
            ]
        else:
            states = self._continuer.states(continuations)
            ends = [sequence_states[e.example_id, 0][-1] for e in questions]
        self._head.check_targets(np.concatenate([ids for _, ids in letters]))
        with torch.no_grad():
            logits = self._head(torch.stack(ends)).float().cpu()
        chosen = [logits[i, torch.from_numpy(ids)].numpy() for i, (_, ids) in enumerate(letters)]
        logprobs = self._logprobs(continuations, states)
        check_score_values(np.concatenate([*chosen, *logprobs]), batch, self.anatomy)
        return [Scores(*pair) for pair in zip(chosen, logprobs, strict=True)]

    def _prompt_end(self, states: torch.Tensor, read: Continuation, prompt: SideTokens) -> torch.Tensor:
        """Return the state (D,) that a letter is predicted from.

        It is one of the prompt with a choice's text, if that begins like the prompt with a letter; else it takes a forward pass.
        """
        n = len(prompt)
        if np.array_equal(read.ids[:n], prompt.ids):
            return states[n - 1]
        letter = Continuation(np.append(prompt.ids, 0), n)
        return self._continuer.states([[letter]])[0][0][0]

    def _logprobs(self, continuations: list[list[Continuation]], states: list[list[torch.Tensor]]) -> list[np.ndarray]:
        """Return the log-probability of each choice, nats, summed over its tokens: (C,) for every question."""
        choice_ids = [c.ids[c.start :] for choices in continuations for c in choices]
        true_ids = np.concatenate(choice_ids)
        self._head.check_targets(true_ids)
        rows = torch.cat([s for question_states in states for s in question_states])
        diagnostics = next_token_diagnostics(self._head, rows, torch.from_numpy(true_ids), self._head.vocabulary, 1)
        loss = diagnostics.loss.astype(np.float64)
        ends = np.cumsum([len(ids) for ids in choice_ids])
        sums = -np.add.reduceat(loss, np.concatenate([[0], ends[:-1]]))
        cuts = np.cumsum([len(c) for c in continuations])[:-1]
        return np.split(sums, cuts)
