"""`traces model check`: does the recorder take from a model what it computes, and do interventions change what it computes?

In goes a model; out comes a `ModelReport`. The model runs on a few tokens, as a padded batch. `site_checker` compares every
site: hidden states with `output_hidden_states`, bit for bit; attention with eager `output_attentions`; what blocks add with
the identity that it must satisfy; everything with the same sequences alone. `intervention_check` puts other values in at every site, and
sees what follows; `edge_check` does so with edges. This file makes the batch, and adds whether the model is undisturbed by the recorder
and what a batch may hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from capture.model.anatomy import Anatomy
from capture.model.body import Tokens, padding_id, probe_ids
from capture.model.examine import examine
from capture.model.windows import find_window
from capture.recording import batch_independence
from capture.verification.edge_check import check_edges
from capture.verification.intervention_check import check_interventions
from capture.verification.model_report import Finding, ModelReport
from capture.verification.site_checker import SiteChecker
from warehouse.errors import TracesError

_LENGTHS = (23, 16, 9)
"""Tokens of the sequences of the padded batch."""
_LONG, _SHORT, _LONGEST = 64, 4, 512
"""Tokens of the two texts that are read together; the long one becomes longer, below the last, where that shows more."""

TEXT = (
    "The residual stream carries what every layer has written to the layers after it, and each of them reads from it.",
    "A head attends to the tokens before the one it stands at.",
    "One short line.",
)


def check(model: Any, tokenizer: Any = None, name: str = "") -> ModelReport:
    """Check what the recorder takes from a model, and that the model goes on with what interventions put in.

    Args:
        model: A transformers model, with or without a head.
        tokenizer: Its tokenizer, to check on text; without one, random token ids are used.
        name: What the report calls the model.

    Returns:
        One finding a site and side of what is recorded, and of what is changed, and those of edges; `report.passed` says whether all are right.

    Raises:
        TracesError: The model's blocks cannot be found.
    """
    anatomy = examine(model)
    result = check_recording(anatomy, tokenizer, name)
    result.interventions = check_interventions(anatomy)
    result.edges = check_edges(anatomy)
    return result


def check_recording(anatomy: Anatomy, tokenizer: Any = None, name: str = "") -> ModelReport:
    """Check what the recorder takes from a model, and nothing else; see `check`."""
    model = anatomy.body.model
    tokens = _tokens(anatomy, tokenizer)
    dtype = str(model.dtype).removeprefix("torch.")
    result = ModelReport(name, type(model).__name__, dtype, "of text" if tokenizer is not None else "random ids")
    checker = SiteChecker(anatomy, tokens, dtype)
    for side, stack in anatomy.stacks.items():
        result.attn[side] = "derived" if stack.derivable else "stored" if stack.attention_layers else "none"
        kind = "normalised after adding" if stack.post_norm else "normalised before reading"
        result.convention[side] = kind + (
            ", attention and MLP in parallel" if any(x.parallel for x in stack.layers) else ""
        )
        if not stack.embeds:
            result.convention[side] += (
                "; output_hidden_states begin with hidden[1]: hidden[0], what enters the first layer, is not among them"
            )
        result.findings += checker.findings(stack)
    result.findings.append(checker.undisturbed())
    result.findings.append(_batch_rule(anatomy, tokens))
    return result


def _batch_rule(anatomy: Anatomy, tokens: Tokens) -> Finding:
    """Find what a batch may hold, from two of the sequences, the first of them repeated."""
    body, reach = anatomy.body, find_window(anatomy.body.model)
    turns = _turning_points(body.model)
    longest = max([_LONG, *(n + 1 for n in turns if n < _LONGEST)])
    limits = {side: reach.target if side == "dec" and body.encoder_decoder else reach.text for side in body.sides}
    first = {side: ids[0, : int(mask[0].sum())].numpy() for side, (ids, mask) in tokens.items()}
    long = batch_independence.make_sequence(
        {s: np.resize(ids, min(longest, limits[s] or longest)) for s, ids in first.items()}
    )
    short = batch_independence.make_sequence(
        {s: ids[-1, : min(_SHORT, int(mask[-1].sum()))].numpy() for s, (ids, mask) in tokens.items()}
    )
    lengths = [max(s.lengths.values()) for s in (long, short)]
    beyond = [n for n in turns if n >= lengths[0]]
    basis = f"seen on a text of {lengths[0]} tokens and one of {lengths[1]}; a capture looks at its own"
    if beyond:
        basis += f", and beyond {min(beyond):,} tokens position factors follow from the longest in a batch"
    try:
        proof = batch_independence.prove(body, batch_independence.ExtremeSequences(long, short, (long, short)), "it")
    except TracesError as e:
        return Finding("", "batches", "wrong", str(e))
    if line := proof.line("it"):
        return Finding("", "batches", "close", f"{line} ({basis})", proof.error or None)
    return Finding(
        "",
        "batches",
        "close",
        f"a text gives the same alone, beside others and again: a batch holds texts of any length ({basis})",
    )


def _tokens(anatomy: Anatomy, tokenizer: Any) -> Tokens:
    """Return a padded batch of three sequences a side."""
    model, tokens = anatomy.body.model, {}
    padding = padding_id(model)
    for n, side in enumerate(anatomy.body.sides):
        lengths = [max(2, length - 3 * n) for length in _LENGTHS]
        if tokenizer is None:
            rows = [probe_ids(model, length, seed=10 * n + i)[0].cpu() for i, length in enumerate(lengths)]
        else:
            rows = [torch.tensor(tokenizer(text)["input_ids"])[: _LENGTHS[0]] for text in TEXT]
            rows = sorted((r for r in rows if len(r)), key=len, reverse=True)
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
        tokens[side] = (ids, mask)
    return tokens


def _turning_points(model: Any) -> list[int]:
    """Return the numbers of tokens beyond which position factors follow from the longest text of a batch.

    They are those of the two kinds of rotary embeddings that transformers computes again in each forward pass.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    lengths = []
    for settings in (rope, *(x for x in rope.values() if isinstance(x, dict))):
        if settings.get("rope_type") in ("longrope", "dynamic"):
            lengths.append(
                settings.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
            )
    return [n for n in lengths if isinstance(n, int)]
