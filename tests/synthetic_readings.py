"""Runs that read a text with given tokens and losses, without a model: two of them can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synthetic import add_run


def reading(text: str, sizes: Sequence[int], losses: Sequence[float], first_id: int = 0) -> dict[str, Any]:
    """One text cut into tokens of so many characters each; a loss for every token but the first, which nothing predicts."""
    tokens, at = [], 0
    for place, size in enumerate(sizes):
        form = text[at : at + size]
        tokens.append(
            {"pos": place, "token_id": first_id + place, "token": form, "char_start": at, "char_end": at + size}
        )
        at += size
    assert len(losses) == len(tokens) - 1
    return {"text": text, "tokens": tokens, "losses": list(losses)}


def add_readings(root: Path, run: str, readings: Mapping[str, Mapping[str, Any]], **about: Any) -> None:
    """A run of kind next-token over texts by example."""
    examples, tokens, predictions = [], [], []
    for idx, (example, read) in enumerate(readings.items()):
        keys = {"example_id": example, "seq": 0}
        examples.append(
            {"example_id": example, "idx": idx, "text": read["text"], "n_seqs": 1, "n_tokens": len(read["tokens"])}
        )
        tokens += [{**keys, "side": "dec", **token} for token in read["tokens"]]
        for pos, loss in enumerate(read["losses"]):
            token = read["tokens"][pos + 1]
            predictions.append(
                {
                    **keys,
                    "pos": pos,
                    "true_id": token["token_id"],
                    "true_token": token["token"],
                    "loss": loss,
                    "entropy": 2 * loss,
                    "true_rank": 1,
                    "pred_token": "guess",
                    "topk_tokens": ["guess"],
                    "topk_probs": [0.5],
                }
            )
    add_run(root, run, "next-token", {"examples": examples, "tokens": tokens, "next_token": predictions}, **about)
