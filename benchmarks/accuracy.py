"""What storing in float32, float16, bfloat16 or int8 costs in each number that is derived from stored tensors: docs/accuracy.md.

The same texts are captured once for each, and what is read from each run is held against what the model itself gives in memory,
text by text, with nothing stored: its own hidden states and eager attention, and its own norm and head on them.

    python benchmarks/accuracy.py [--texts 12] [--length 96] [--model smollm2] [--out docs/accuracy.md]
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import machine
from inputs import is_sample, texts

from capture.data.text import open_text
from capture.jobs import next_token
from capture.logit_lens import lens_run
from capture.model import loading
from capture.model.attention_hook import eager_attention
from capture.model.examine import examine
from capture.model.final_norm import FinalNorm
from warehouse.analysis import heads
from warehouse.storage.paths import run_dir
from warehouse.storage.trace_store import TraceStore

DTYPES = ("float32", "float16", "bfloat16", "int8")
NEIGHBOURS = 10


class Text(NamedTuple):
    """What the model itself gives of one."""

    example_id: str
    ids: np.ndarray
    hidden: np.ndarray
    """(L + 1, T, D); the last after the final norm"""
    attention: np.ndarray
    """(L, H, T, T)"""
    lens: dict[int, np.ndarray]
    """Layer → (T, V) log-probabilities, float64"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=12)
    parser.add_argument("--length", type=int, default=96, help="Tokens at most that are read of each.")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "accuracy.md")
    args = parser.parse_args(arguments)
    loaded = loading.load(args.model, device="cpu", dtype="float32")
    found = texts()
    # Headings apart: a text of its own that is long enough to look back in.
    chosen = [t for t in found if len(t) > 2 * args.length][: args.texts] or found[: args.texts]
    with tempfile.TemporaryDirectory() as folder:
        root, path = Path(folder) / "runs", Path(folder) / "texts.txt"
        path.write_text("\n".join(chosen), encoding="utf-8")
        for dtype in DTYPES:
            options = next_token.Options(capture="hidden,resid,qkv,attn", max_len=args.length, store_dtype=dtype)
            next_token.run(loaded, open_text(str(path), "text"), options, root=root, run_id=dtype)
        last = TraceStore(run_dir(root, DTYPES[0])).meta.model.n_layers - 1
        layers = sorted({*range(0, last, max(1, last // 6)), last})
        for dtype in DTYPES:
            asked = lens_run.Options(5, ",".join(map(str, layers)))
            lens_run.run(loaded, run_dir(root, dtype), asked, root=root, run_id=f"{dtype}-lens")
        cells = compared(root, loaded, layers)
        meta = TraceStore(run_dir(root, DTYPES[0])).meta
        read = f"{meta.counts.examples} paragraphs {'made of a sample of the tests' if is_sample('wikitext2') else 'of the WikiText-2 validation part'}"
        data = f"{read}, {meta.counts.tokens:,} tokens"
        promoted = [n for d in DTYPES for s in TraceStore(run_dir(root, d)).meta.sites for n in s.promoted]
    args.out.write_text(_page(cells, meta.model.name, data, last, len(layers), len(promoted)), encoding="utf-8")
    print(args.out.read_text(encoding="utf-8"))


def compared(root: Path, loaded: loading.Loaded, layers: list[int]) -> dict[str, dict[str, str]]:
    """Quantity → dtype → what it costs, in words."""
    stores = {d: TraceStore(run_dir(root, d)) for d in DTYPES}
    rows = {d: TraceStore(run_dir(root, f"{d}-lens")).query("SELECT * FROM logit_lens").df() for d in DTYPES}
    norm = FinalNorm(examine(loaded.model))
    differences: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    states: dict[str, list[np.ndarray]] = defaultdict(list)
    kl: dict[str, dict[int, list[np.ndarray]]] = {d: defaultdict(list) for d in DTYPES}
    middle = (layers[-1] + 1) // 2
    for example_id in stores[DTYPES[0]].tokens.example_id:
        text = _given(loaded, norm, stores[DTYPES[0]], example_id, layers)
        states["model"].append(text.hidden[middle][1:])
        for dtype, store in stores.items():
            states[dtype].append(store.hidden(example_id, middle)[1:].astype(np.float32))
            own = rows[dtype][rows[dtype].example_id == example_id]
            for name, found in {**_tensors(store, text), **_lens(own, text)}.items():
                differences[name][dtype].append(found)
            for layer, found in _own_kl(loaded, norm, store, text).items():
                kl[dtype][layer].append(found)
    cells = {
        name: {d: _said(name, np.concatenate([np.ravel(x) for x in found])) for d, found in by_dtype.items()}
        for name, by_dtype in differences.items()
    }
    own = np.concatenate(states["model"])
    direction = own[: len(own) // 2].mean(0) - own[len(own) // 2 :].mean(0)  # a difference of means, as traits have it
    direction /= np.linalg.norm(direction)
    near = _nearest(own)
    for dtype in DTYPES:
        stored = np.concatenate(states[dtype])
        off = np.abs((stored - own) @ direction) / (own @ direction).std()
        cells.setdefault(_PROJECTION, {})[dtype] = _said(_PROJECTION, off)
        shared = [len(set(a) & set(b)) / len(a) for a, b in zip(near, _nearest(stored), strict=True)]
        cells.setdefault(_NEAREST, {})[dtype] = f"{np.mean(shared) * 100:.2f} %"
        by_layer = [np.concatenate(found).mean() for found in kl[dtype].values()]
        cells.setdefault(_OWN_KL, {})[dtype] = f"{max(0, np.median(by_layer)):.0e} ({max(by_layer):.0e})"
    for dtype, store in stores.items():
        tokens = store.meta.counts.tokens
        cells.setdefault("size of the run", {})[dtype] = f"{store.meta.bytes / tokens / 1e3:.0f} KB a token"
    return cells


_PROJECTION = "projection on a direction, relative to its spread over tokens"
_NEAREST = f"nearest by cosine: how many of {NEIGHBOURS} are the same"
_OWN_KL = "logit lens: KL from the model's own distribution there, nats: median layer (worst layer)"
_RANKS = "logit lens: ranks 1 to 10 that differ"
_TOPS = "logit lens: likeliest tokens that differ"
_RELATIVE = (
    "hidden states, relative to their length",
    "logit lens: KL to the final distribution, relative",
    "logit lens: ranks, relative",
)


def _given(loaded: loading.Loaded, norm: FinalNorm, store: TraceStore, example_id: str, layers: list[int]) -> Text:
    """Runs the model on the text alone."""
    model = loaded.model
    ids = store.encodings(example_id)["input_ids"].astype(np.int64)
    batch = torch.from_numpy(ids)[None]
    with torch.no_grad():
        hidden = [h[0] for h in model(batch, output_hidden_states=True).hidden_states]
        with eager_attention(model):
            attention = torch.stack(model(batch, output_attentions=True).attentions)[:, 0].numpy()
        head = model.get_output_embeddings()
        normed = {i: hidden[-1] if i == layers[-1] else norm(hidden[i + 1]) for i in layers}
        seen = {i: torch.log_softmax(head(x).double(), -1).numpy() for i, x in normed.items()}
    return Text(example_id, ids, torch.stack(hidden).numpy(), attention, seen)


def _tensors(store: TraceStore, text: Text) -> dict[str, np.ndarray]:
    """Differences of what a run has stored, and of what is derived from it, by their names."""
    attention = np.stack([store.attn(text.example_id, layer) for layer in range(len(text.attention))])
    targets = heads.induction_targets(text.ids)
    stored, own = (np.stack([heads.statistics(a, targets) for a in x]) for x in (attention, text.attention))
    hidden = store.hidden(text.example_id).astype(np.float32)
    off = np.abs(stored - own)
    return {
        "hidden states: 1 - cosine": 1 - _cosine(hidden, text.hidden),
        _RELATIVE[0]: np.linalg.norm(hidden - text.hidden, axis=-1) / np.linalg.norm(text.hidden, axis=-1),
        "attention probabilities": np.abs(attention - text.attention)[:, :, *np.tril_indices(len(text.ids))],
        "heads: entropy, nats": off[:, :, 0],
        "heads: max_prob and masses": off[:, :, 1:][~np.isnan(off[:, :, 1:])],
    }


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    cosine: np.ndarray = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return cosine


def _own_kl(loaded: loading.Loaded, norm: FinalNorm, store: TraceStore, text: Text) -> dict[int, np.ndarray]:
    """Layer → KL(what the model's own state says || what the stored one says) of each token, (T,)."""
    head, found = loaded.model.get_output_embeddings(), {}
    for layer, log_p in text.lens.items():
        states = torch.from_numpy(store.hidden(text.example_id, layer + 1).astype(np.float32))
        with torch.no_grad():
            log_q = torch.log_softmax(head(states if layer == max(text.lens) else norm(states)).double(), -1).numpy()
        found[layer] = (np.exp(log_p) * (log_p - log_q)).sum(1)
    return found


def _lens(rows: object, text: Text) -> dict[str, np.ndarray]:
    """The same of a lens, `rows` being a text's rows of logit_lens as a frame."""
    final = text.lens[max(text.lens)]
    found = defaultdict(list)
    for layer, log_p in text.lens.items():
        mine = rows[rows.layer == layer].sort_values("pos")  # type: ignore[index]
        kl = (np.exp(final) * (final - log_p)).sum(1)
        if layer < max(text.lens):
            found[_RELATIVE[1]].append(np.abs(mine.kl_to_final.to_numpy() - kl) / kl)
        found["logit lens: entropy, nats"].append(np.abs(mine.entropy.to_numpy() + (np.exp(log_p) * log_p).sum(1)))
        top = mine.topk_ids.str[0].to_numpy() != log_p.argmax(1)
        found[_TOPS].append(top)
        at = log_p[np.arange(len(text.ids) - 1), text.ids[1:]]
        rank = (log_p[:-1] > at[:, None]).sum(1) + 1
        seen = mine.actual_rank.to_numpy()[:-1].astype(np.int64)
        found[_RELATIVE[2]].append(np.abs(seen - rank) / rank)
        found[_RANKS].append((seen != rank)[np.minimum(seen, rank) <= 10])
    return {name: np.concatenate(x) for name, x in found.items()}


def _nearest(x: np.ndarray) -> np.ndarray:
    """The nearest others of each row, (n, k), by cosine."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = x @ x.T
    np.fill_diagonal(cosine, -2)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :NEIGHBOURS]


def _said(name: str, x: np.ndarray) -> str:
    """`mean (largest)` of differences; of those that are true or false, the part that is true."""
    if x.dtype == bool:
        return f"{x.mean() * 100:.2f} %" if len(x) else "none"
    mean, most = ((_percent if name in (*_RELATIVE, _PROJECTION) else "{:.0e}".format)(v) for v in (x.mean(), x.max()))
    return f"{mean} ({most})"


def _percent(part: float) -> str:
    return "< 0.001 %" if part < 1e-5 else f"{part:.0%}".replace("%", " %") if part >= 0.1 else f"{part * 100:.1g} %"


def _page(cells: dict[str, dict[str, str]], model: str, data: str, last: int, looked: int, promoted: int) -> str:
    lines = [
        "# What storing costs",
        "",
        "Tensors are stored in float16 where the model is in float32 (`--store-dtype` says otherwise), and what is read later is",
        "derived from them. Here is what each number then loses, against the model's own outputs in memory, with nothing stored:",
        "mean difference (largest), or the part that differs. Diagnostics and scores of choices are made of the model's own states before",
        "anything is stored: they lose nothing in any column. Heads are of the tensors as stored, at capture and later.",
        "",
        f"| {model}, in float32 | stored in {' | '.join(DTYPES)} |",
        f"| --- |{' --- |' * len(DTYPES)}",
    ]
    lines += [f"| {name} | {' | '.join(by_dtype[d] for d in DTYPES)} |" for name, by_dtype in cells.items()]
    lines += [
        "",
        f"Attention, heads and hidden states are of all {last + 1} layers, the lens of {looked} of them, projections and neighbours of the",
        "middle one, without first tokens. The float32 column is what is left without any rounding: a text was captured in a batch,",
        "whose sums go in another order, and attention is computed once more from q and k. float16 ends at 65,504: a tensor with a",
        f"larger value is stored in float32, and the manifest names it (of these runs: {promoted or 'none'}).",
        "",
        "How to choose: float16 is for what is averaged, ranked, projected or searched. float32 is for differences between nearly",
        "equal states, for single ranks far down the vocabulary, and for tests of a model's own code; it takes twice the space.",
        "bfloat16 is for models that are in bfloat16 themselves, whose states it holds exactly; of a float32 model it keeps eight times",
        "less than float16 does, in the same space. int8 halves the space of residual streams, hidden states, v and what blocks add, for",
        "probes, directions, neighbours and lenses over many tokens: each dimension has a centre and a scale in each shard, first tokens and",
        "outliers (one value in some 2,000) stay in float16, and a value is at most half a scale off. q, k and attention stay in float16,",
        "since int8 would move probabilities; tables made at capture lose nothing. [How it lies on disk](guides/disk.md#int8).",
        "",
        f"Made by `make accuracy` (`python benchmarks/accuracy.py`) on {datetime.date.today().isoformat()}, of {data}.",
        f"Machine: {machine(('torch', 'transformers', 'numpy'))}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
