"""A made-up capture of any size, written by the RunWriter as a real one would be, batch by batch: examples, tokens, predictions, tensors.

No model runs. Ids are as those of a hash, so that every shard has examples from everywhere in the sorted tables; texts are words of
four letters, and all that `validate` looks at fits together.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from warehouse.schema.sites import Key
from warehouse.storage.blobs import TensorSpec
from warehouse.storage.losses import mean_loss, perplexity
from warehouse.storage.manifest import Counts, DataInfo, Manifest, SiteInfo, StagedRun
from warehouse.storage.model_info import ModelInfo
from warehouse.storage.open_shard import RecordedBatch
from warehouse.storage.parquet import to_table
from warehouse.storage.run_writer import RunWriter

TOKENS = 8
"""Tokens of an example."""
BATCH = 1024
"""Examples that are handed over at once."""
SHARD = 8192
"""Examples of a shard: those of `_SHARD_TOKENS` of a capture."""
WORD, TOP = 5, 5
LAYERS, WIDTH = 2, 8
VOCABULARY = 1000
SPEC = TensorSpec("F16", (WIDTH,))
KEYS = [Key("dec", "resid.post_mlp", layer) for layer in range(LAYERS)]


def publish(root: Path, run_id: str, examples: int) -> Manifest:
    """Writes and publishes a run of so many examples, of eight tokens each; refreshing the views is left to who opens the warehouse."""
    digest = xxhash.xxh3_128()
    with RunWriter(root, run_id, {"kind": "made"}) as writer:
        for begin in range(0, examples, SHARD):
            past = min(begin + SHARD, examples)
            writer.begin_shard(dict.fromkeys(KEYS, (past - begin) * TOKENS), dict.fromkeys(KEYS, SPEC))
            for first in range(begin, past, BATCH):
                writer.put(batch(first, min(first + BATCH, past), digest))
            writer.end_shard(str(past))
        return writer.publish(lambda staged: _manifest(run_id, staged, digest.hexdigest()))


def batch(first: int, past: int, digest: xxhash.xxh3_128) -> RecordedBatch:
    """Examples `first` to `past` of the data, whose texts go into the digest, with all that a capture records of them."""
    n, chance = past - first, np.random.default_rng(first)
    ids, words = _ids(first, past), chance.integers(0, VOCABULARY, (n, TOKENS))
    rows = _Rows(n * TOKENS, chance)
    spelled = _spelled()
    texts = np.ascontiguousarray(spelled[words]).reshape(n, -1).view(f"S{WORD * TOKENS}")[:, 0]
    for example, text in zip(ids.tolist(), texts.tolist(), strict=True):
        digest.update(example + b"\x1f" + text + b"\x1e")
    names, place = pa.array(ids).cast(pa.string()), np.tile(np.arange(TOKENS, dtype=np.int32), n)
    strings = pa.array(spelled.view(f"S{WORD}")[:, 0]).cast(pa.string())
    example = names.take(pa.array(np.repeat(np.arange(n), TOKENS)))
    tokens = {
        "example_id": example, "seq": rows.zeros(), "pos": pa.array(place), "side": rows.same("dec"),
        "token_id": pa.array(words.ravel().astype(np.int32)), "token": strings.take(pa.array(words.ravel())),
        "char_start": pa.array(place * WORD), "char_end": pa.array(place * WORD + WORD), "word_idx": pa.array(place),
        "token_type_id": rows.none(pa.int32()), "is_special": rows.same(False), "is_response": rows.same(False),
        "is_context": rows.same(False), "role": rows.none(pa.string()), "turn": rows.none(pa.int32()),
        "part": rows.none(pa.string()), "batch": pa.repeat(f"{names[0]}.0", rows.n),
    }  # fmt: skip
    examples = {
        "example_id": names, "idx": pa.array(np.arange(first, past)), "dataset": pa.repeat("made", n),
        "config": pa.nulls(n, pa.string()), "split": pa.nulls(n, pa.string()),
        "source_id": pa.array(np.arange(first, past)).cast(pa.string()), "text": pa.array(texts).cast(pa.string()),
        "n_seqs": pa.array(np.ones(n, np.int32)), "n_tokens": pa.array(np.full(n, TOKENS, np.int32)),
        "truncated": pa.repeat(False, n), "altered": pa.repeat(False, n), "prompt_set": pa.nulls(n, pa.string()),
        "metadata": pa.repeat("{}", n),
    }  # fmt: skip
    return RecordedBatch(
        sequences=[(e.decode(), 0) for e in ids.tolist()],
        tensors={key: chance.random((rows.n, WIDTH), np.float32).astype(np.float16) for key in KEYS},
        rows={key: [TOKENS] * n for key in KEYS},
        tables={
            "examples": to_table("examples", examples),
            "tokens": to_table("tokens", tokens),
            "next_token": _predictions(example, words, strings, chance),
        },
    )


def _predictions(example: pa.Array, words: np.ndarray, strings: pa.Array, chance: np.random.Generator) -> pa.Table:
    """Predictions whose probabilities, ranks and top-k lists can be those of one distribution."""
    n = len(words) * (TOKENS - 1)
    kept = (np.arange(len(example)) % TOKENS < TOKENS - 1).nonzero()[0]
    true, pred = words[:, 1:].ravel(), chance.integers(0, VOCABULARY, n)
    right, top_prob = true == pred, chance.uniform(0.3, 0.9, n).astype(np.float32)
    true_prob = np.where(right, top_prob, top_prob * chance.random(n, np.float32) * 0.1 + 1e-6).astype(np.float32)
    top = (pred[:, None] + np.arange(TOP)) % VOCABULARY
    probs = (top_prob[:, None] * 0.1 ** np.arange(TOP)).astype(np.float32)
    offsets = pa.array(np.arange(0, n * TOP + 1, TOP, dtype=np.int32))
    columns = {
        "example_id": example.take(pa.array(kept)), "seq": pa.array(np.zeros(n, np.int32)),
        "pos": pa.array((kept % TOKENS).astype(np.int32)),
        "true_id": pa.array(true.astype(np.int32)), "true_token": strings.take(pa.array(true)),
        "pred_id": pa.array(pred.astype(np.int32)), "pred_token": strings.take(pa.array(pred)), "correct": pa.array(right),
        "true_prob": pa.array(true_prob), "pred_prob": pa.array(top_prob),
        "true_rank": pa.array(np.where(right, 1, chance.integers(2, VOCABULARY, n)).astype(np.int32)),
        "entropy": pa.array(chance.uniform(0, 6, n).astype(np.float32)), "loss": pa.array(-np.log(true_prob)),
        "topk_ids": pa.ListArray.from_arrays(offsets, pa.array(top.ravel().astype(np.int32))),
        "topk_tokens": pa.ListArray.from_arrays(offsets, strings.take(pa.array(top.ravel()))),
        "topk_probs": pa.ListArray.from_arrays(offsets, pa.array(probs.ravel())),
    }  # fmt: skip
    return to_table("next_token", columns)


class _Rows:
    """Columns that are the same in all of n rows."""

    def __init__(self, n: int, chance: np.random.Generator) -> None:
        self.n = n

    def zeros(self) -> pa.Array:
        return pa.array(np.zeros(self.n, np.int32))

    def same(self, value: str | bool) -> pa.Array:
        return pa.repeat(value, self.n)

    def none(self, kind: pa.DataType) -> pa.Array:
        return pa.nulls(self.n, kind)


def _ids(first: int, past: int) -> np.ndarray:
    """Names of 16 hex digits as a hash gives, no two alike: the finish of splitmix64, which is one to one."""
    x = np.arange(first + 1, past + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return np.frombuffer(x.astype(">u8").tobytes().hex().encode(), "S16")


def _spelled() -> np.ndarray:
    """The vocabulary: a space and four letters each, (VOCABULARY, WORD) uint8."""
    number = np.arange(VOCABULARY)[:, None] // 26 ** np.arange(WORD - 1) % 26
    return np.column_stack([np.full(VOCABULARY, ord(" ")), number + ord("a")]).astype(np.uint8)


def _manifest(run_id: str, staged: StagedRun, data_hash: str) -> Manifest:
    loss, rows = mean_loss(staged.folder), staged.rows
    names = dict.fromkeys(
        ("name", "architecture", "dtype", "device", "attn_implementation", "weights_hash", "tokenizer_hash"), ""
    )
    return Manifest(
        run_id=run_id,
        kind="next-token",
        created_at=staged.created_at,
        seconds=staged.seconds,
        model=ModelInfo(
            n_layers=LAYERS,
            d_model=WIDTH,
            n_heads=1,
            n_kv_heads=1,
            d_head=WIDTH,
            d_value=WIDTH,
            vocab_size=VOCABULARY,
            **names,
        ),
        data=DataInfo(dataset="made", source="made", hash=data_hash),
        options={},
        store_dtype="F16",
        sites=[
            SiteInfo(site="resid.post_mlp", layers=[key.layer for key in KEYS], row_shape=[WIDTH], dtype="F16"),
        ],
        counts=Counts(
            examples=rows["examples"],
            sequences=rows["examples"],
            tokens=rows["tokens"],
            predictions=rows["next_token"],
            predicted_bytes=rows["next_token"] * WORD,
            truncated=0,
            rows=rows,
        ),
        bytes=sum(f.bytes for f in staged.files),
        files=staged.files,
        versions={},
        mean_loss=loss,
        perplexity=perplexity(loss),
    )
