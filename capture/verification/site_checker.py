"""The checks of a model's sites: each recorded tensor against something that the model itself gives.

In go an anatomy and a padded batch; out come `Finding`s, one a site of a stack. `SiteChecker` runs the model plainly, recorded,
one sequence at a time, and with eager attention, and then compares: streams with `output_hidden_states`; what a block adds with
the identity stream + added = next stream; q, k and v with the output of the attention function; attention with
`output_attentions`; and each site with the same sequences alone. `model_check` calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from capture.model.anatomy import Anatomy, Stack
from capture.model.attention_formula import eager_error
from capture.model.attention_hook import AttentionCall, eager_attention
from capture.model.body import Tokens
from capture.model.forward_trace import attention_outputs
from capture.model.stored_values import as_tensor
from capture.model.tolerances import EAGER_PROBABILITIES_COMPUTED, SUMMATION_PROBABILITIES
from capture.recording.plan import available_sites, plan
from capture.recording.recorder import Recorder, Recording
from capture.verification.model_report import Finding
from warehouse.schema.sites import Key, row_kind
from warehouse.storage.attention import per_query_head, probabilities, unpack_pairs
from warehouse.storage.blobs import NAMES

_EVERYTHING = "hidden,resid,qkv,attn_out,mlp_out,mlp_act"
"""Names of --capture that together record every site but attention."""
_CLOSE = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
"""Relative to the tensor's largest value: matrix products over another number of rows may sum in another order, layer after
layer."""
_ON_THE_PROBE = (
    "seen on the probe alone: what modules read and give adds up there, bit for bit; they take more than rows"
)


class SiteChecker:
    """Compares every site of a model, on one padded batch."""

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
            self._batch = recorder.run(tokens)
            self._last = recorder.run(tokens).last
            self._alone = [recorder.run(sequence) for sequence in _sequences(tokens)]
        self._attention: Recording | None = None
        self._eager_calls: list[AttentionCall] = []
        if any(stack.attention_layers for stack in anatomy.stacks.values()):
            names = "attn,qkv" if "qkv" in everything else "attn"
            wanted = plan(anatomy, names, "stored", "F32")
            with eager_attention(body.model):
                with torch.no_grad():
                    self._given = body(tokens, output_attentions=True).attentions
                self._eager_calls = attention_outputs(body, tokens)
                with Recorder(anatomy, wanted.stored) as recorder:
                    self._attention = recorder.run(tokens)

    # -- one stack -------------------------------------------------------------------------------------------------

    def findings(self, stack: Stack) -> Iterator[Finding]:
        """Yield a finding for each site of a stack; none for a site that the model has no place for."""
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
        """Compare streams with output_hidden_states, which in some models begin with the first block's output."""
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
        for site, compared in pairs.items():
            if not compared:
                first = self._anatomy.stacks[stack.side].layers[0].block
                yield Finding(stack.side, site, "exact", f"the input of the first {type(first).__name__}", 0.0, 0.0)
                continue
            yield self._compare(stack, site, how, compared, 0.0)

    def _sums(self, stack: Stack, site: str) -> Iterator[Finding]:
        """Check a stream or what is added to one: stream + added = the next stream, normed in a post-norm block."""
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
        yield self._compare(stack, site, how, pairs, self._close)

    def _sum(self, stack: Stack, i: int, site: str) -> tuple[torch.Tensor, torch.Tensor, str] | None:
        """Return a sum, the stream that it must equal, and the formula; None where the norm after it cannot run on its own."""
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
            added = "mlp_out"  # the part before it is no module's output: the MLP proves it
        earlier = [s for s in ("resid.post_attn", "resid.post_cross") if s in layer.shapes and s != after[added]]
        start = (
            "resid.pre_attn" if added == "attn_out" else ["resid.pre_attn", *earlier][-1 if added == "mlp_out" else 1]
        )
        goal_site = after[added] if after[added] in layer.shapes else "resid.post_mlp"
        total = before if start == "resid.pre_attn" else self._tensor(stack, start, i)
        total = total + self._tensor(stack, added, i)
        tap = layer.hook_points[goal_site]
        if tap.end == "output" and tap.module is not layer.block:
            normed = apply_module(tap.module, total)
            if normed is None:
                return None
            total = normed
        names = [name.removeprefix("resid.") for name in (start, added, goal_site)]
        return total, self._tensor(stack, goal_site, i), f"{names[0]} + {names[1]} = {names[2]}"

    def _activations(self, stack: Stack) -> Finding:
        """Check that activations, put through the last projection, are what the MLP adds."""
        if not self._has(stack, "mlp_act"):
            return Finding(stack.side, "mlp_act", "absent", stack.missing.get("mlp_act", ""))
        pairs = []
        for i, layer in enumerate(stack.layers):
            if "mlp_act" in layer.shapes:
                x: torch.Tensor | None = self._tensor(stack, "mlp_act", i)
                for module in layer.hook_points["mlp_act"].modules_to_output:
                    x = None if x is None else apply_module(module, x)
                if x is not None:
                    pairs.append((x * layer.hook_points["mlp_out"].factor, self._tensor(stack, "mlp_out", i)))
        if not pairs:
            return Finding(stack.side, "mlp_act", "close", _ON_THE_PROBE, 0.0, 0.0, self._where(stack, "mlp_act"))
        return self._compare(stack, "mlp_act", "the last projection of it is mlp_out", pairs, self._close)

    def _interface(self, stack: Stack, site: str) -> Iterator[Finding]:
        """Check that recorded q, k and v give the attention function's output."""
        if not self._has(stack, site):
            if site in stack.missing:
                yield Finding(stack.side, site, "absent", stack.missing[site])
            return
        cross = site.startswith("cross.")
        given = "softmax(q·k)" if (stack.cross_derivable if cross else stack.derivable) else "stored attention"
        error, allowed = self._output_error(stack, "cross.attn" if cross else "attn"), self._close * 10
        how = f"{given} times v is what the attention function gave"
        status = "close" if error <= allowed else "wrong"
        yield self._compare_alone(
            stack, site, Finding(stack.side, site, status, how, error, allowed, self._where(stack, site))
        )

    def _output_error(self, stack: Stack, site: str) -> float:
        """Return how far recorded probabilities times recorded v are from the attention function's output, relative."""
        worst = 0.0
        for i, call in self._calls(stack, site).items():
            layer = stack.layers[i]
            formula = layer.cross_formula if site == "cross.attn" else layer.formula
            for b, (_, stored, (q, k, v)) in enumerate(self._matrices(stack, site, i)):
                attention = stored if formula is None else probabilities(q, per_query_head(k, len(q)), formula)
                out = np.matmul(attention, per_query_head(v, len(q))).swapaxes(0, 1)
                expected = call.out[b, : len(out)].float().cpu().numpy()
                worst = max(worst, float(np.abs(out - expected).max() / max(np.abs(expected).max(), 1e-30)))
        return worst

    def _calls(self, stack: Stack, site: str) -> dict[int, AttentionCall]:
        """Return the eager calls of the attention function, by layer."""
        layers = [i for i, layer in enumerate(stack.layers) if site in layer.shapes]
        modules = {
            stack.layers[i].cross_attention if site == "cross.attn" else stack.layers[i].attention for i in layers
        }
        return dict(zip(layers, (call for call in self._eager_calls if call.module in modules), strict=True))

    def _given_error(self, stack: Stack, site: str) -> float:
        """Return how far the probabilities that eager attention gives, times v, are from its output, relative."""
        return max((eager_error(call) for call in self._calls(stack, site).values()), default=0.0)

    def _probabilities(self, stack: Stack, site: str) -> Iterator[Finding]:
        """Check that stored attention is eager output_attentions bit for bit, and derived attention close to them."""
        if not self._has(stack, site):
            if site in stack.missing:
                yield Finding(stack.side, site, "absent", stack.missing[site])
            return
        cross = site.startswith("cross.")
        with_attention = [i for i, layer in enumerate(stack.layers) if site in layer.shapes]
        derivable = stack.cross_derivable if cross else stack.derivable
        stored, derived = 0.0, 0.0
        for i in with_attention:
            formula = stack.layers[i].cross_formula if cross else stack.layers[i].formula
            for expected, recorded, (q, k, _) in self._matrices(stack, site, i):
                stored = max(stored, _distance(recorded, expected))
                if derivable and formula is not None:
                    derived = max(derived, _distance(probabilities(q, per_query_head(k, len(q)), formula), expected))
        if stored > 0:
            how = "eager output_attentions"
            yield Finding(stack.side, site, "wrong", how, stored, 0.0, self._where(stack, site))
        elif derivable:
            allowed = max(SUMMATION_PROBABILITIES, EAGER_PROBABILITIES_COMPUTED.get(self._dtype, 0.0))
            how = "derived from q and k, against eager output_attentions (the same bits where stored)"
            if derived > allowed and self._given_error(stack, site) > self._close * 10:
                how = "derived from q and k, and times v the attention's output; its own output_attentions are not"
                derived, allowed = (stack.cross_error if cross else stack.attention_error), self._close * 10
            status = "close" if derived <= allowed else "wrong"
            yield Finding(stack.side, site, status, how, derived, allowed, self._where(stack, site))
        else:
            how = "stored, against eager output_attentions"
            yield Finding(stack.side, site, "exact", how, 0.0, 0.0, self._where(stack, site))

    def _matrices(
        self, stack: Stack, site: str, layer: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
        """Yield for each sequence the model's own probabilities (H, T, S), those recorded, and recorded q, k and v."""
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
            recorded = unpack_pairs(slices[0], row_kind(site, stack.causal), s)
            yield given[b, :, :n, :s].float().cpu().numpy(), recorded, [x.swapaxes(0, 1) for x in slices[1:]]

    # -- comparing -------------------------------------------------------------------------------------------------

    def _compare(
        self, stack: Stack, site: str, how: str, pairs: list[tuple[torch.Tensor, torch.Tensor]], allowed: float
    ) -> Finding:
        error = max((relative_error(a, b) for a, b in pairs), default=0.0)
        exact = all(torch.equal(a, b) for a, b in pairs)
        status = "exact" if exact else "close" if error <= allowed else "wrong"
        layers = "" if site in ("resid.embed", "hidden") else self._where(stack, site)
        return self._compare_alone(stack, site, Finding(stack.side, site, status, how, error, allowed, layers))

    def _compare_alone(self, stack: Stack, site: str, finding: Finding) -> Finding:
        """Compare a site, recorded in a padded batch, with the same sequences alone; the finding becomes wrong if they differ."""
        if finding.status == "wrong" or not self._anatomy.body.ignores_padding:
            return finding
        worst = 0.0
        for key, together in self._batch.tensors.items():
            if (key.side, key.site) == (stack.side, site):
                alone = np.concatenate([recording.tensors[key] for recording in self._alone])
                worst = max(
                    worst,
                    relative_error(
                        torch.from_numpy(together.astype(np.float32)), torch.from_numpy(alone.astype(np.float32))
                    ),
                )
        if worst > self._close * 20:
            finding.status, finding.error, finding.allowed = "wrong", worst, self._close * 20
            finding.how = "the same sequences one by one, without padding"
        return finding

    def undisturbed(self) -> Finding:
        """Return whether the model computes the same bits while it is recorded."""
        pairs = [(self._last[side], self._pack(x, side)) for side, x in self._expected.last.items()]
        exact = all(torch.equal(a, b) for a, b in pairs)
        error = max(relative_error(a, b) for a, b in pairs)
        how = "the last hidden state is the same with and without the recorder"
        return Finding("", "model", "exact" if exact else "wrong", how, error, 0.0)

    # -- what was recorded -----------------------------------------------------------------------------------------

    def _tensor(self, stack: Stack, site: str, layer: int | None) -> torch.Tensor:
        stored = as_tensor(self._batch.tensors[Key(stack.side, site, layer)])
        return stored.to(self._anatomy.body.model.device)

    def _pack(self, x: torch.Tensor, side: str) -> torch.Tensor:
        return x[self._tokens[side][1].bool().to(x.device)]


def _sequences(tokens: Tokens) -> Iterator[Tokens]:
    """Yield the sequences of a batch, one by one and without padding."""
    for b in range(len(next(iter(tokens.values()))[0])):
        lengths = {side: int(mask[b].sum()) for side, (_, mask) in tokens.items()}
        yield {
            side: (ids[b : b + 1, :n], mask[b : b + 1, :n])
            for side, (ids, mask) in tokens.items()
            for n in [lengths[side]]
        }


def apply_module(module: Any, x: torch.Tensor) -> torch.Tensor | None:
    """Return a norm's or projection's output for rows (N, D); None for a module that takes more than rows."""
    with torch.no_grad():
        try:
            y = module(x)
        except (TypeError, IndexError, ValueError, RuntimeError):
            return None
    return y if isinstance(y, torch.Tensor) and y.shape[0] == x.shape[0] else None


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value; infinite for other shapes."""
    if actual.shape != expected.shape:
        return float("inf")
    scale = float(expected.abs().max().float()) if expected.numel() else 1.0
    error = float((actual.float() - expected.float()).abs().max()) / max(scale, 1e-30) if actual.numel() else 0.0
    return error if error == error else float("inf")


def _distance(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max()) if actual.shape == expected.shape else float("inf")
