"""Runs of a trait's responses and of their judge, made of arrays that a test writes down: no model, and no judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from synthetic import add_run, columns

from warehouse import TraceStore
from warehouse.catalog.publish import publish
from warehouse.schema.sites import MEAN, Key, row_kind
from warehouse.storage import paths
from warehouse.storage.blobs import TensorSpec
from warehouse.storage.manifest import Counts, DataInfo, Manifest, SiteInfo
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_writer import RunWriter

PROMPT, RESPONSE = 3, 4
"""Tokens of every sequence: so many of the prompt, so many of the response, and one that ends it."""
LENGTH = PROMPT + RESPONSE + 1


class Response(NamedTuple):
    example_id: str
    polarity: str
    question: int
    sample: int = 0

    @property
    def positive(self) -> bool:
        return self.polarity == "pos"


def grid(questions: int, samples: int = 1, instructions: int = 1) -> list[Response]:
    """Both polarities' responses to every question, by example."""
    return [
        Response(f"{polarity}{i}q{q:02d}", polarity, q, s)
        for q in range(questions)
        for polarity in ("pos", "neg")
        for i in range(instructions)
        for s in range(samples)
    ]


def add_responses(
    root: Path,
    run_id: str,
    responses: Sequence[Response],
    tensors: Mapping[tuple[str, int | None], np.ndarray],
    *,
    trait: str = "loud",
    kind: str = "trait-responses",
    n_layers: int = 4,
    body: str = "body",
    model: str = "made",
    minute: int = 0,
    empty: Sequence[int] = (),
    shards: int = 2,
) -> TraceStore:
    """A run of `responses`, with (site, layer) → a row a response, (n, D), where the site is a mean, else (n, LENGTH, D).
    `empty`: which of them have a special token only."""
    keys = {Key("dec", site, layer): x for (site, layer), x in tensors.items()}
    specs = {k: TensorSpec("F32" if x.dtype == np.float32 else "F16", x.shape[-1:]) for k, x in keys.items()}
    width = next(iter(keys.values())).shape[-1]

    def rows(key: Key, part: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(keys[key][part].reshape(-1, width))

    def count(key: Key) -> int:
        return 1 if key.site.startswith(MEAN) else LENGTH

    with RunWriter(root, run_id, {"made": run_id}) as writer:
        for part in np.array_split(np.arange(len(responses)), shards):
            writer.begin_shard({k: count(k) * len(part) for k in keys}, specs)
            sequences = [(responses[i].example_id, responses[i].sample) for i in part]
            found = {k: rows(k, part) for k in keys}
            told = {k: [count(k)] * len(part) for k in keys}
            writer.put(RecordedBatch(sequences, found, told, _tables(responses, part, trait, set(empty))))
            writer.end_shard(str(part[-1]))
        stack = {"n_layers": n_layers, "d_model": width, "n_heads": 1, "n_kv_heads": 1, "d_head": 4, "d_value": 4}
        info = ModelInfo(
            name=model, body_hash=body, architecture="None", weights_hash=body, tokenizer_hash="", dtype="float32",
            device="cpu", attn_implementation="eager", vocab_size=1, **stack,
        )  # fmt: skip
        n = len(responses)
        questions = [f"{i}?" for i in range(1 + max(r.question for r in responses))]
        definition = {
            "name": trait,
            "instruction": [{"pos": "a", "neg": "b"}],
            "questions": questions,
            "eval_prompt": "",
        }
        publish(
            writer,
            lambda p: Manifest(
                run_id=run_id,
                kind=kind,
                created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute),
                seconds=0,
                model=info,
                data=DataInfo(dataset="made", split="test", source="made", hash=""),
                options={"trait": definition},
                store_dtype="F32",
                sites=[
                    SiteInfo(site=k.site, layers=[k.layer], row_shape=[width], dtype=s.dtype, rows=row_kind(k.site, True))
                    for k, s in specs.items()
                ],
                counts=Counts(
                    examples=len({r.example_id for r in responses}), sequences=n, tokens=n * LENGTH, predictions=0,
                    truncated=0, rows=p.rows,
                ),
                bytes=sum(f.bytes for f in p.files),
                files=p.files,
                versions={},
            )
        )  # fmt: skip
    return TraceStore(paths.run_dir(root, run_id))


def _tables(responses: Sequence[Response], part: np.ndarray, trait: str, empty: set[int]) -> dict[str, Any]:
    examples: dict[str, dict[str, Any]] = {}
    tokens, told = [], []
    for i in part.tolist():
        r = responses[i]
        same = sum(x.example_id == r.example_id for x in responses)
        if r.sample == 0:
            examples[r.example_id] = {"example_id": r.example_id, "idx": i, "n_seqs": same, "n_tokens": same * LENGTH}
        key = {"example_id": r.example_id, "seq": r.sample}
        tokens += [
            key | {"side": "dec", "pos": pos, "token": "x", "is_response": pos >= PROMPT,
                   "is_special": pos in (0, LENGTH - 1) or (i in empty and pos >= PROMPT)}
            for pos in range(LENGTH)
        ]  # fmt: skip
        told.append(
            key | {"prompt": "?", "response": "!", "n_prompt_tokens": PROMPT, "n_response_tokens": RESPONSE + 1,
                   "trait": trait, "polarity": r.polarity, "instruction_idx": 0, "question_idx": r.question}
        )  # fmt: skip
    found = {"examples": list(examples.values()), "tokens": tokens, "responses": told}
    return {name: to_table(name, columns(name, rows)) for name, rows in found.items()}


def add_judge(
    root: Path,
    run_id: str,
    source: str,
    responses: Sequence[Response],
    scores: Sequence[float | None],
    coherence: Sequence[float | None] | None = None,
    *,
    trait: str = "loud",
    minute: int = 1,
) -> None:
    """A judge's run: a score a response, and a coherence score (100 if not given)."""
    rows = [
        {"source_run_id": source, "example_id": r.example_id, "seq": r.sample, "trait": trait, "judge": "local:made",
         "trait_score": s, "coherence_score": c}
        for r, s, c in zip(responses, scores, coherence or [100.0] * len(responses), strict=True)
    ]  # fmt: skip
    add_run(root, run_id, "judge", {"judgements": rows}, parents=[source], minute=minute)


def planted(
    responses: Sequence[Response], direction: np.ndarray, strength: float, seed: int = 0, offset: float = 3.0
) -> np.ndarray:
    """(n, D) float32: noise of size 1, an offset that all share, and ± `strength` along a unit direction by polarity."""
    rng = np.random.default_rng(seed)
    sign = np.array([1.0 if r.positive else -1.0 for r in responses])
    noise = rng.standard_normal((len(responses), len(direction)))
    return (noise + offset + strength * sign[:, None] * direction).astype(np.float32)
