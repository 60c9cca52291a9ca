"""Is what the recorder takes from a model what the model computes? Every site, each against something that can tell.

On a few tokens, as a padded batch: hidden states against `output_hidden_states`, bit for bit; attention against eager
`output_attentions`; what blocks add against the identity that it must satisfy; everything against the same sequences alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from capture.model.anatomy import Anatomy, Stack, examine
from capture.model.attention_formula import given_error
from capture.model.attention_hook import AttentionCall, eager
from capture.model.body import Tokens, padding_id, probe_ids
from capture.model.forward_trace import attention_outputs
from capture.model.windows import window
from capture.recording import batch_independence
from capture.recording.plan import available_sites, plan
from capture.recording.recorder import Recorder, Recording
from warehouse.errors import TracesError
from warehouse.schema.sites import Key, row_kind
from warehouse.storage.attention import per_query_head, probabilities, unpack_pairs
from warehouse.storage.blobs import NAMES

_LENGTHS = (23, 16, 9)
_LONG, _SHORT, _LONGER = 64, 4, 512
"""Tokens of texts that are read together; a longer one where that shows more."""
_EVERYTHING = "hidden,resid,qkv,attn_out,mlp_out,mlp_act"

_CLOSE = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
"""Relative to the tensor's largest value: matrix products over other numbers of rows may sum in another order, layer after
layer."""
_ATTENTION = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1}
"""Absolute, on probabilities: eager attention rounds scores to the dtype it computes in, what is derived does not."""

_ON_THE_PROBE = (
    "seen on the probe alone: what modules read and give adds up there, bit for bit; they take more than rows"
)

TEXT = (
    "The residual stream carries what every layer has written to the layers after it, and each of them reads from it.",
    "A head attends to the tokens before the one it stands at.",
    "One short line.",
)


@dataclass
class Finding:
    """What became of one site."""

    side: str
    site: str
    status: str
    """`exact`: bit for bit; `close`: within `allowed`; `absent`: the model has none; `wrong`"""
    how: str
    """What it was held against, or why it is not there."""
    error: float | None = None
    allowed: float | None = None
    layers: str = ""
    """Where it is, if not in all."""


@dataclass
class ModelReport:
    model: str
    architecture: str
    dtype: str
    tokens: str
    attn: dict[str, str] = field(default_factory=dict)
    """By side: whether attention will be `derived` or `stored`."""
    convention: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def lines(self, separator: str | None = None) -> Iterator[str]:
        """The report as text: in columns, or with a separator between fields and without what is not a finding."""
        if separator is None:
            yield f"{self.model}: {self.architecture}, {self.dtype}; tokens {self.tokens}"
            for side, how in self.convention.items():
                yield f"{side}: {how}; attention {self.attn[side]}"
        rows = [("side", "site", "status", "error", "layers", "how")]
        for f in self.findings:
            error = "" if f.error is None or f.status == "absent" else f"{f.error:.1e}" if f.error else "0"
            rows.append((f.side, f.site, f.status, error, f.layers or ("" if f.status == "absent" else "all"), f.how))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            yield separator.join(row) if separator is not None else "  ".join(padded).rstrip()

    @property
    def passed(self) -> bool:
        return all(f.status != "wrong" for f in self.findings)

    @property
    def whole(self) -> bool:
        """Whether every site is there, in every layer."""
        return all(f.status != "absent" and not f.layers for f in self.findings)


def check(model: Any, tokenizer: Any = None, name: str = "") -> ModelReport:
    """Raises TracesError where the model's blocks cannot be made out."""
    anatomy = examine(model)
    tokens = _tokens(anatomy, tokenizer)
    dtype = str(model.dtype).removeprefix("torch.")
    result = ModelReport(name, type(model).__name__, dtype, "of text" if tokenizer is not None else "random ids")
    checker = _Checker(anatomy, tokens, dtype)
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
    result.findings.append(_batches(anatomy, tokens))
    return result


def _batches(anatomy: Anatomy, tokens: Tokens) -> Finding:
    """What a batch may hold, told from two of the sequences, the first over and over."""
    body, reach = anatomy.body, window(anatomy.body.model)
    turns = _turning_points(body.model)
    longest = max([_LONG, *(n + 1 for n in turns if n < _LONGER)])
    limits = {side: reach.target if side == "dec" and body.encoder_decoder else reach.text for side in body.sides}
    first = {side: ids[0, : int(mask[0].sum())].numpy() for side, (ids, mask) in tokens.items()}
    long = batch_independence.sequence(
        {s: np.resize(ids, min(longest, limits[s] or longest)) for s, ids in first.items()}
    )
    short = batch_independence.sequence(
        {s: ids[-1, : min(_SHORT, int(mask[-1].sum()))].numpy() for s, (ids, mask) in tokens.items()}
    )
    lengths = [max(s.lengths.values()) for s in (long, short)]
    beyond = [n for n in turns if n >= lengths[0]]
    said = f"told from a text of {lengths[0]} tokens and one of {lengths[1]}; a capture looks at its own"
    if beyond:
        said += f", and beyond {min(beyond):,} tokens position factors follow from the longest in a batch"
    try:
        found = batch_independence.prove(body, batch_independence.Extremes(long, short, (long, short)), "it")
    except TracesError as e:
        return Finding("", "batches", "wrong", str(e))
    if line := found.line("it"):
        return Finding("", "batches", "close", f"{line} ({said})", found.error or None)
    return Finding(
        "",
        "batches",
        "close",
        f"a text is read alike alone, beside others and again: a batch holds texts of any length ({said})",
    )


def _tokens(anatomy: Anatomy, tokenizer: Any) -> Tokens:
    """A padded batch of three sequences a side."""
    model, found = anatomy.body.model, {}
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
        found[side] = (ids, mask)
    return found


def _turning_points(model: Any) -> list[int]:
    """The numbers of tokens beyond which position factors follow from the longest text of a batch, by the kinds of rotary embeddings
    that a configuration names: transformers computes those two anew in each pass.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    found = []
    for one in (rope, *(x for x in rope.values() if isinstance(x, dict))):
        if one.get("rope_type") in ("longrope", "dynamic"):
            found.append(
                one.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
            )
    return [n for n in found if isinstance(n, int)]


class _Checker:
    def __init__(self, anatomy: Anatomy, tokens: Tokens, dtype: str) -> None:
        self._anatomy, self._tokens, self._dtype = anatomy, tokens, dtype
        self._close = _CLOSE.get(dtype, 1e-5)
        body = anatomy.body
        store = NAMES.get(dtype, "F32")
        everything = [name for name in _EVERYTHING.split(",") if available_sites(anatomy.stacks.values(), name)]
        tensors = plan(anatomy, ",".join(everything), "auto", store).stored
        with torch.no_grad():
            self._expected = body(tokens, output_hidden_states=True)
        with Recorder(anatomy, tensors) as recorder:
            self._seen = recorder.run(tokens)
            self._within = recorder.run(tokens).last
            self._alone = [recorder.run(one) for one in _each(tokens)]
        self._attention: Recording | None = None
        self._heard: list[AttentionCall] = []
        if any(stack.attention_layers for stack in anatomy.stacks.values()):
            names = "attn,qkv" if "qkv" in everything else "attn"
            wanted = plan(anatomy, names, "stored", "F32")
            with eager(body.model):
                with torch.no_grad():
                    self._given = body(tokens, output_attentions=True).attentions
                self._heard = attention_outputs(body, tokens)
                with Recorder(anatomy, wanted.stored) as recorder:
                    self._attention = recorder.run(tokens)

    # -- one stack -------------------------------------------------------------------------------------------------

    def findings(self, stack: Stack) -> Iterator[Finding]:
        yield from self._streams(stack)
        for site in ("resid.post_attn", "resid.post_cross"):
            yield from self._sums(stack, site)
        for site in ("q", "k", "v", "cross.q", "cross.k", "cross.v"):
            yield from self._interface(stack, site)
        for site in ("attn", "cross.attn"):
            yield from self._probabilities(stack, site)
        for site in ("attn_out", "cross.attn_out", "mlp_out"):
            yield from self._sums(stack, site)
        yield self._activations(stack)

    def _has(self, stack: Stack, site: str) -> bool:
        return any(site in layer.shapes for layer in stack.layers)

    def _where(self, stack: Stack, site: str) -> str:
        layers = [str(i) for i, layer in enumerate(stack.layers) if site in layer.shapes]
        return "" if len(layers) == len(stack.layers) else ", ".join(layers)

    def _streams(self, stack: Stack) -> Iterator[Finding]:
        """Against output_hidden_states; where those begin with the first block's output, one further on."""
        n, hidden = len(stack.layers), [self._pack(h, stack.side) for h in self._expected.hidden[stack.side]]
        shift = 0 if stack.embeds else 1
        how = "output_hidden_states"
        pairs = {
            "resid.embed": [(self._tensor(stack, "resid.embed", None), hidden[0])] if not shift else [],
            "resid.post_mlp": [
                (self._tensor(stack, "resid.post_mlp", i), hidden[i + 1 - shift]) for i in range(n - 1 + shift)
            ],
            "hidden": [
                (
                    self._tensor(stack, "hidden", n)
                    if stack.final_norm
                    else self._tensor(stack, "resid.post_mlp", n - 1),
                    hidden[-1],
                )
            ],
        }
        for site, found in pairs.items():
            if not found:
                first = self._anatomy.stacks[stack.side].layers[0].block
                yield Finding(stack.side, site, "exact", f"the input of the first {type(first).__name__}", 0.0, 0.0)
                continue
            yield self._compared(stack, site, how, found, 0.0)

    def _sums(self, stack: Stack, site: str) -> Iterator[Finding]:
        """A stream after an addition, or what is added to it: stream + added = the next stream, normed in a post-norm block."""
        if not self._has(stack, site):
            if site in stack.missing:
                yield Finding(stack.side, site, "absent", stack.missing[site])
            return
        sums = [self._sum(stack, i, site) for i, layer in enumerate(stack.layers) if site in layer.shapes]
        pairs = [(total, goal) for total, goal, _ in filter(None, sums)]
        if not pairs:
            yield Finding(stack.side, site, "close", _ON_THE_PROBE, 0.0, 0.0, self._where(stack, site))
            return
        formula = next(formula for _, _, formula in filter(None, sums))
        how = formula + (" (normed)" if stack.post_norm else "")
        yield self._compared(stack, site, how, pairs, self._close)

    def _sum(self, stack: Stack, i: int, site: str) -> tuple[torch.Tensor, torch.Tensor, str] | None:
        """The sum, the stream that it must be, and the formula; None where the norm after it cannot be run on its own."""
        layer = stack.layers[i]
        after = {"attn_out": "resid.post_attn", "cross.attn_out": "resid.post_cross", "mlp_out": "resid.post_mlp"}
        before = self._tensor(stack, "resid.post_mlp", i - 1) if i else self._tensor(stack, "resid.embed", None)
        if layer.parallel:
            goal = self._tensor(stack, "resid.post_mlp", i)
            a, m = (self._tensor(stack, name, i) for name in ("attn_out", "mlp_out"))
            total = min(((before + a) + m, (a + m) + before), key=lambda x: float((x - goal).abs().max()))
            return total, goal, "pre_attn + attn_out + mlp_out = post_mlp"
        added = next((name for name, stream in after.items() if site in (name, stream)), "")
        if added not in layer.shapes:
            added = "mlp_out"  # what comes before it did not come out: the MLP is the proof
        earlier = [s for s in ("resid.post_attn", "resid.post_cross") if s in layer.shapes and s != after[added]]
        start = (
            "resid.pre_attn" if added == "attn_out" else ["resid.pre_attn", *earlier][-1 if added == "mlp_out" else 1]
        )
        goal_site = after[added] if after[added] in layer.shapes else "resid.post_mlp"
        total = before if start == "resid.pre_attn" else self._tensor(stack, start, i)
        total = total + self._tensor(stack, added, i)
        tap = layer.taps[goal_site]
        if tap.at == "output" and tap.module is not layer.block:
            normed = _passed(tap.module, total)
            if normed is None:
                return None
            total = normed
        names = [name.removeprefix("resid.") for name in (start, added, goal_site)]
        return total, self._tensor(stack, goal_site, i), f"{names[0]} + {names[1]} = {names[2]}"

    def _activations(self, stack: Stack) -> Finding:
        """Passed on through the last projection, they are what the MLP adds."""
        if not self._has(stack, "mlp_act"):
            return Finding(stack.side, "mlp_act", "absent", stack.missing.get("mlp_act", ""))
        found = []
        for i, layer in enumerate(stack.layers):
            if "mlp_act" in layer.shapes:
                x: torch.Tensor | None = self._tensor(stack, "mlp_act", i)
                for module in layer.taps["mlp_act"].through:
                    x = None if x is None else _passed(module, x)
                if x is not None:
                    found.append((x * layer.taps["mlp_out"].factor, self._tensor(stack, "mlp_out", i)))
        if not found:
            return Finding(stack.side, "mlp_act", "close", _ON_THE_PROBE, 0.0, 0.0, self._where(stack, "mlp_act"))
        return self._compared(stack, "mlp_act", "the last projection of it is mlp_out", found, self._close)

    def _interface(self, stack: Stack, site: str) -> Iterator[Finding]:
        """What was recorded as q, k and v gives the attention function's output."""
        if not self._has(stack, site):
            if site in stack.missing:
                yield Finding(stack.side, site, "absent", stack.missing[site])
            return
        cross = site.startswith("cross.")
        given = "softmax(q·k)" if (stack.cross_derivable if cross else stack.derivable) else "stored attention"
        error, allowed = self._output_error(stack, "cross.attn" if cross else "attn"), self._close * 10
        how = f"{given} times v is what the attention function gave"
        status = "close" if error <= allowed else "wrong"
        yield self._single(
            stack, site, Finding(stack.side, site, status, how, error, allowed, self._where(stack, site))
        )

    def _output_error(self, stack: Stack, site: str) -> float:
        """How far probabilities times v, both as recorded, are from what the attention function gave."""
        worst = 0.0
        for i, call in self._calls(stack, site).items():
            layer = stack.layers[i]
            formula = layer.cross_attends if site == "cross.attn" else layer.attends
            for b, (_, stored, (q, k, v)) in enumerate(self._matrices(stack, site, i)):
                attention = stored if formula is None else probabilities(q, per_query_head(k, len(q)), formula)
                out = np.matmul(attention, per_query_head(v, len(q))).swapaxes(0, 1)
                expected = call.out[b, : len(out)].float().cpu().numpy()
                worst = max(worst, float(np.abs(out - expected).max() / max(np.abs(expected).max(), 1e-30)))
        return worst

    def _calls(self, stack: Stack, site: str) -> dict[int, AttentionCall]:
        """The eager calls of the attention function, by layer."""
        layers = [i for i, layer in enumerate(stack.layers) if site in layer.shapes]
        modules = {stack.layers[i].cross if site == "cross.attn" else stack.layers[i].attention for i in layers}
        return dict(zip(layers, (call for call in self._heard if call.module in modules), strict=True))

    def _given_error(self, stack: Stack, site: str) -> float:
        """How far the attention function's output is from the probabilities that eager attention gives times v."""
        return max((given_error(call) for call in self._calls(stack, site).values()), default=0.0)

    def _probabilities(self, stack: Stack, site: str) -> Iterator[Finding]:
        """Stored: the same bits as eager output_attentions. Derived: close to them."""
        if not self._has(stack, site):
            if site in stack.missing:
                yield Finding(stack.side, site, "absent", stack.missing[site])
            return
        cross = site.startswith("cross.")
        with_attention = [i for i, layer in enumerate(stack.layers) if site in layer.shapes]
        derivable = stack.cross_derivable if cross else stack.derivable
        stored, derived = 0.0, 0.0
        for i in with_attention:
            formula = stack.layers[i].cross_attends if cross else stack.layers[i].attends
            for expected, found, (q, k, _) in self._matrices(stack, site, i):
                stored = max(stored, _distance(found, expected))
                if derivable and formula is not None:
                    derived = max(derived, _distance(probabilities(q, per_query_head(k, len(q)), formula), expected))
        if stored > 0:
            how = "eager output_attentions"
            yield Finding(stack.side, site, "wrong", how, stored, 0.0, self._where(stack, site))
        elif derivable:
            allowed = _ATTENTION.get(self._dtype, 1e-5)
            how = "derived from q and k, against eager output_attentions (the same bits where stored)"
            if derived > allowed and self._given_error(stack, site) > self._close * 10:
                how = "derived from q and k, times v what attention gave; its own output_attentions are not"
                derived, allowed = (stack.cross_error if cross else stack.attention_error), self._close * 10
            status = "close" if derived <= allowed else "wrong"
            yield Finding(stack.side, site, status, how, derived, allowed, self._where(stack, site))
        else:
            how = "stored, against eager output_attentions"
            yield Finding(stack.side, site, "exact", how, 0.0, 0.0, self._where(stack, site))

    def _matrices(
        self, stack: Stack, site: str, layer: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
        """Sequence by sequence: the model's own probabilities (H, T, S), those recorded, and q, k and v where they were."""
        assert self._attention is not None
        prefix = site.removesuffix("attn")
        matrices = self._given["cross" if prefix else stack.side]
        with_attention = [i for i, x in enumerate(stack.layers) if site in x.shapes]
        given = matrices[with_attention.index(layer) if len(matrices) == len(with_attention) else layer]
        keys = [Key(stack.side, prefix + x, layer) for x in ("attn", "q", "k", "v")]
        at = dict.fromkeys(keys, 0)
        for b in range(len(given)):
            n, s = (int(self._tokens[side][1][b].sum()) for side in (stack.side, "enc" if prefix else stack.side))
            slices = []
            for key in keys:
                rows = self._attention.rows[key][b] if key in self._attention.rows else 0
                none = np.empty((0, 0, 0), np.float32)
                slices.append(self._attention.tensors[key][at[key] : at[key] + rows] if rows else none)
                at[key] += rows
            found = unpack_pairs(slices[0], row_kind(site, stack.causal), s)
            yield given[b, :, :n, :s].float().cpu().numpy(), found, [x.swapaxes(0, 1) for x in slices[1:]]

    # -- comparing -------------------------------------------------------------------------------------------------

    def _compared(
        self, stack: Stack, site: str, how: str, pairs: list[tuple[torch.Tensor, torch.Tensor]], allowed: float
    ) -> Finding:
        error = max((_relative(a, b) for a, b in pairs), default=0.0)
        exact = all(torch.equal(a, b) for a, b in pairs)
        status = "exact" if exact else "close" if error <= allowed else "wrong"
        finding = Finding(stack.side, site, status, how, error, allowed, self._where_of(stack, site))
        return self._single(stack, site, finding)

    def _where_of(self, stack: Stack, site: str) -> str:
        return "" if site in ("resid.embed", "hidden") else self._where(stack, site)

    def _single(self, stack: Stack, site: str, finding: Finding) -> Finding:
        """Also holds a site, recorded in a padded batch, against the same sequences alone."""
        if finding.status == "wrong" or not self._anatomy.body.pads:
            return finding
        worst = 0.0
        for key, together in self._seen.tensors.items():
            if (key.side, key.site) == (stack.side, site):
                alone = np.concatenate([one.tensors[key] for one in self._alone])
                worst = max(
                    worst,
                    _relative(
                        torch.from_numpy(together.astype(np.float32)), torch.from_numpy(alone.astype(np.float32))
                    ),
                )
        if worst > self._close * 20:
            finding.status, finding.error, finding.allowed = "wrong", worst, self._close * 20
            finding.how = "the same sequences one by one, without padding"
        return finding

    def undisturbed(self) -> Finding:
        """The model computes the same bits while it is recorded."""
        pairs = [(self._within[side], self._pack(x, side)) for side, x in self._expected.last.items()]
        exact = all(torch.equal(a, b) for a, b in pairs)
        error = max(_relative(a, b) for a, b in pairs)
        how = "the last hidden state is the same with and without the recorder"
        return Finding("", "model", "exact" if exact else "wrong", how, error, 0.0)

    # -- what was recorded -----------------------------------------------------------------------------------------

    def _tensor(self, stack: Stack, site: str, layer: int | None) -> torch.Tensor:
        x = self._seen.tensors[Key(stack.side, site, layer)]
        if x.dtype.itemsize == 2 and x.dtype != np.float16:
            return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16).to(self._anatomy.body.model.device)
        return torch.from_numpy(x).to(self._anatomy.body.model.device)

    def _pack(self, x: torch.Tensor, side: str) -> torch.Tensor:
        return x[self._tokens[side][1].bool().to(x.device)]


def _each(tokens: Tokens) -> Iterator[Tokens]:
    """The sequences of a batch, one by one and without padding."""
    for b in range(len(next(iter(tokens.values()))[0])):
        lengths = {side: int(mask[b].sum()) for side, (_, mask) in tokens.items()}
        yield {
            side: (ids[b : b + 1, :n], mask[b : b + 1, :n])
            for side, (ids, mask) in tokens.items()
            for n in [lengths[side]]
        }


def _passed(module: Any, x: torch.Tensor) -> torch.Tensor | None:
    """What a norm or projection makes of rows; None for one that takes more than them."""
    with torch.no_grad():
        try:
            y = module(x)
        except (TypeError, IndexError, ValueError, RuntimeError):
            return None
    return y if isinstance(y, torch.Tensor) and y.shape[0] == x.shape[0] else None


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    if found.shape != expected.shape:
        return float("inf")
    scale = float(expected.abs().max().float()) if expected.numel() else 1.0
    error = float((found.float() - expected.float()).abs().max()) / max(scale, 1e-30) if found.numel() else 0.0
    return error if error == error else float("inf")


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
