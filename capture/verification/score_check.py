"""The check of a multiple-choice run's scores: the model is asked again, question by question.

In goes a run and its model; out comes one `Check`, the largest difference between a stored score and the model's own. Here no
batch is shared between questions, and a decoder's texts are not padded, so that errors of batching show. `replay_check` calls it
for runs that have the table `choices`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from capture.data.example import Choice, Example, Row, Source
from capture.model import loading
from capture.model.body import padding_id
from capture.model.unchanged import unchanged
from capture.sequences.bos import resolve_bos
from capture.sequences.question_prompts import PromptMaker
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import Check, sample_sequences

_ALLOWED = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 0.5}
"""By the dtype that the model computes in: how far logits, and sums of log-probabilities of a few tokens in nats, may differ
between a text alone and the padded batches of a capture."""


def check_scores(store: TraceStore, loaded: loading.Loaded) -> Check:
    """Compare stored logits and log-probabilities of choices with those that the model gives question by question.

    Args:
        store: A run with the table `choices`.
        loaded: Its model.

    Returns:
        Whether all scores of a sample of questions agree, and by how much they differ at most.
    """
    sample = list(dict.fromkeys(example_id for example_id, _ in sample_sequences(store)))
    worst = 0.0
    for example_id in sample:
        query = (
            "SELECT e.text, list(label ORDER BY choice_idx), list(c.text ORDER BY choice_idx), list(logit ORDER BY choice_idx), "
            "list(logprob ORDER BY choice_idx) FROM choices AS c JOIN examples AS e USING (example_id) WHERE example_id = ? "
            "GROUP BY e.text"
        )
        (row,) = store.query(query, [example_id]).fetchall()
        text, letters, texts, logits, logprobs = row
        if store.meta.kind == "mcq-encoder":
            stored, expected = logits, _encoder_scores(store, loaded, example_id, len(logits))
        else:
            choices = [Choice(*c) for c in zip(letters, texts, strict=True)]
            stored, expected = [*logits, *logprobs], _decoder_scores(store, loaded, text, choices)
        worst = max(worst, float(np.abs(np.asarray(stored) - expected).max()))
    limit = _ALLOWED[loaded.dtype]
    detail = (
        f"at most {worst:.1e} from the model's own scores of choices (logits, nats), on {len(sample)} questions "
        f"(allowed: {limit:.1e})"
    )
    return Check("deep: scores", worst <= limit, detail)


def _encoder_scores(store: TraceStore, loaded: loading.Loaded, example_id: str, choices: int) -> np.ndarray:
    """Return an encoder's logits (C,) from the stored tokens, all choices in one padded batch as in transformers' examples."""
    rows = [store.encodings(example_id, seq) for seq in range(choices)]
    inputs = {
        name: pad_sequence(
            [torch.from_numpy(row[name].astype(np.int64)) for row in rows], batch_first=True, padding_value=filling
        )
        for name, filling in (("input_ids", padding_id(loaded.model)), ("token_type_ids", 0))
        if name in rows[0]
    }
    mask = pad_sequence([torch.ones(len(row["input_ids"]), dtype=torch.long) for row in rows], batch_first=True)
    device = loaded.model.device
    with torch.no_grad(), unchanged(loaded.model):
        given = {k: x[None].to(device) for k, x in (*inputs.items(), ("attention_mask", mask))}
        logits = loaded.model(**given).logits[0]
    return _array(logits)


def _decoder_scores(store: TraceStore, loaded: loading.Loaded, text: str, choices: list[Choice]) -> np.ndarray:
    """Return a decoder's scores (2 C,): the letters' logits, then the texts' log-probabilities in nats."""
    prompting = PromptMaker(
        loaded.tokenizer,
        loaded.name,
        store.meta.option("template"),
        store.meta.option("chat"),
        bos=resolve_bos(loaded, store.meta.options.get("prepend_bos", "auto")),
    )
    source = Source("", None, None, "", lambda: iter(()))
    example = Example(source, Row("", text, choices=tuple(choices)), "")
    ((prompt, letters),) = prompting.letters([example])
    with torch.no_grad():
        ids = torch.from_numpy(prompt.ids).to(loaded.model.device)
        logits = _array(loaded.model(input_ids=ids[None]).logits[0, -1])[letters]
    logprobs = []
    for c in prompting.choices([example])[0]:
        ids = torch.from_numpy(c.ids).to(loaded.model.device)
        with torch.no_grad():
            text_logits = loaded.model(input_ids=ids[None]).logits[0].float()
        chosen = text_logits.log_softmax(-1)[torch.arange(c.start - 1, len(ids) - 1), ids[c.start :]]
        logprobs.append(float(chosen.double().sum()))
    return np.concatenate([logits, logprobs])


def _array(x: torch.Tensor) -> np.ndarray:
    return x.float().cpu().numpy()
