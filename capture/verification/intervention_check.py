"""Checks of interventions: does a model go on with what is put in at each site, as if it had computed it itself?

In goes an anatomy; out come `Finding`s, one a site of a side, whether passes can begin at a layer, and those of `parts_check`. Two
batches of random tokens of one shape are run, and then the first again with values of the second, or zeros, in every layer at once.
What arrives behind must be, bit for bit, what the second batch has there, or the stream as it was; a change that nothing sees is
wrong. The values of the first batch are put back further on, so that each layer is seen by itself. `model_check` calls this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from capture.interventions.restart import Restart
from capture.interventions.site_edits import SITES, Edit, edit_sites, why_not
from capture.model.anatomy import Anatomy, Stack
from capture.model.body import Tokens, probe_ids
from capture.model.failures import error_sentence, is_memory_error
from capture.model.forward_trace import DEC_TOKENS, ENC_TOKENS
from capture.model.head_outputs import HeadOutputs, find_head_outputs
from capture.model.tolerances import formula_tolerance
from capture.verification.model_report import Finding
from capture.verification.parts_check import check_head_parts, check_logit_parts
from capture.verification.site_checker import apply_module, relative_error
from warehouse.schema.sites import Key

_SITES = (*SITES[:5], *(f"cross.{site}" for site in SITES[:5]), *SITES[5:])
_ADDED = ("attn_out", "cross.attn_out", "mlp_out")
_STREAMS = ("resid.post_attn", "resid.post_cross", "resid.post_mlp")
_THEIRS = "another batch's put in: all that follows is theirs"
_HEADS_THEIRS = "another batch's q, k and v put in: heads give theirs"
_NOTHING = "zero for all that a block adds: the stream stays"
_MORE = "what follows is changed, and depends on more"
_SEEN = "what follows is changed"
_UNSEEN = "a change of it changes nothing"


class _Outcome(NamedTuple):
    """What a check of one layer found."""

    layer: int | None
    status: str
    how: str
    error: float = 0.0


@dataclass(frozen=True)
class _Pass:
    """What a forward pass showed."""

    last: Mapping[str, torch.Tensor]
    """Last hidden states (B, T, D), by side."""
    values: Mapping[Key, torch.Tensor]
    """What arrived at each site, (B, T, *row_shape), before anything was put in there."""


def check_interventions(anatomy: Anatomy) -> list[Finding]:
    """Check what can be changed in a model.

    Args:
        anatomy: The model's.

    Returns:
        A finding for each site of each side, `wrong` where the model does not go on with what is put in; then those of the model.
    """
    found: list[Finding] = []
    heads, restart = find_head_outputs(anatomy), Restart(anatomy)
    for side, stack in anatomy.stacks.items():
        try:
            found += _SideChecker(anatomy, stack, restart, heads if stack is anatomy.main else None).findings()
        except Exception as e:  # a model may fail with any error when it is given other values
            if is_memory_error(e):
                raise
            found.append(Finding(side, "edit", "wrong", f"the model fails when values are put in: {error_sentence(e)}"))
    return [*found, _check_restart(anatomy, restart), check_head_parts(anatomy, heads), check_logit_parts(anatomy)]


class _SideChecker:
    """Checks the sites of one side."""

    def __init__(self, anatomy: Anatomy, stack: Stack, restart: Restart, heads: list[HeadOutputs | str] | None) -> None:
        """Run both batches as they are.

        Args:
            anatomy: The model's.
            stack: The side's blocks.
            restart: Says whether blocks read more than the stream.
            heads: How heads add to the stream, by layer; None where that is not known.
        """
        self._anatomy, self._stack, self._heads = anatomy, stack, heads
        self._sealed = restart.works or anatomy.body.encoder_decoder or stack.time_first
        self._layers = range(len(stack.layers))
        self._keys = {key for site in _SITES for key in self._places(site) if not why_not(anatomy, key)}
        self._tokens = _probe(anatomy, ())
        self._own = self._run({}, self._keys)
        self._other = self._run({}, self._keys, _probe(anatomy, (stack.side,)))
        crosses = len(anatomy.body.sides) > 1
        self._elsewhere = self._run({}, self._keys, _probe(anatomy, anatomy.body.sides)) if crosses else self._other

    def findings(self) -> Iterator[Finding]:
        """Yield a finding for each site."""
        same = self._run({key: x.clone() for key, x in self._own.values.items()}, self._keys)
        undisturbed = _same(same.last, self._own.last) and _same(same.values, self._own.values)
        outcomes = self._check_streams() | self._check_added()
        for prefix in ("", "cross."):
            outcomes |= self._check_attention(prefix)
        for site in _SITES:
            places = [key for key in self._places(site) if key in self._keys]
            if not places and site.startswith("cross."):
                continue
            if not places:
                yield Finding(self._stack.side, f"edit {site}", "absent", self._why_not(site))
            elif not undisturbed:
                yield Finding(self._stack.side, f"edit {site}", "wrong", "the model's own values put in change others")
            else:
                yield self._merge(site, outcomes[site])

    def _places(self, site: str) -> list[Key]:
        return [Key(self._stack.side, site, i) for i in ((None,) if site == "resid.embed" else self._layers)]

    def _why_not(self, site: str) -> str:
        reasons = dict.fromkeys(why_not(self._anatomy, key) or "" for key in self._places(site))
        return "; ".join(reasons)

    def _merge(self, site: str, outcomes: list[_Outcome]) -> Finding:
        """Make one finding of a site's layers: the worst counts."""
        order = ("exact", "close", "wrong")
        status = max((o.status for o in outcomes), key=order.index)
        worst = [o for o in outcomes if o.status == status]
        how = "; ".join(dict.fromkeys(o.how for o in worst))
        if len(worst) < len(outcomes):
            how += f" (in layers {', '.join(str(o.layer) for o in worst)})"
        layers = [str(o.layer) for o in outcomes]
        where = "" if site == "resid.embed" or len(layers) == len(self._layers) else ", ".join(layers)
        return Finding(self._stack.side, f"edit {site}", status, how, max(o.error for o in outcomes), layers=where)

    # -- the residual stream -----------------------------------------------------------------------------------------

    def _check_streams(self) -> dict[str, list[_Outcome]]:
        """Put in the other batch's stream: at a block's input, between its halves, at its output."""
        n = len(self._layers)
        back = {key: self._own.values[key] for key in self._places("resid.pre_attn")[1:]}
        outputs = self._places("resid.post_mlp")
        into = self._run(
            self._others("resid.pre_attn") | {key: self._own.values[key] for key in outputs[:-1]}, self._keys
        )
        between = self._run(back | self._others("resid.post_attn"), outputs)
        found: dict[str, list[_Outcome]] = {"resid.pre_attn": [], "resid.post_attn": [], "resid.post_mlp": []}
        for i, key in enumerate(outputs):
            at_input = self._compare(i, key, into, self._other, must=False)
            found["resid.pre_attn"].append(at_input)
            if Key(self._stack.side, "resid.post_attn", i) in self._keys:
                must = at_input.status == "exact"
                found["resid.post_attn"].append(self._compare(i, key, between, self._other, must))
            if i < n - 1:
                behind = Key(self._stack.side, "resid.pre_attn", i + 1)
                found["resid.post_mlp"].append(self._compare(i, behind, into, self._own, must=True))
        exact = self._sealed and all(o.status == "exact" for o in found["resid.pre_attn"])
        found["resid.post_mlp"] = [
            *(o for o in found["resid.post_mlp"] if o.layer != n // 2),
            *(self._compare_last(Key(self._stack.side, "resid.post_mlp", i), exact) for i in {n // 2, n - 1}),
        ]
        found["resid.post_mlp"].sort(key=lambda o: o.layer or 0)
        return found | {"resid.embed": [self._compare_last(self._places("resid.embed")[0], exact)]}

    def _compare_last(self, key: Key, must: bool) -> _Outcome:
        """Put in the other batch's values at one place, and compare the last states."""
        last = self._run({key: self._other.values[key]}, ()).last
        if _same(last, self._own.last):
            return _Outcome(key.layer, "wrong", _UNSEEN)
        if _same(last, self._other.last):
            return _Outcome(key.layer, "exact", _THEIRS)
        return _Outcome(key.layer, "wrong", _not(_THEIRS)) if must else _Outcome(key.layer, "close", _MORE)

    def _compare(self, layer: int, key: Key, ran: _Pass, wanted: _Pass, must: bool) -> _Outcome:
        """Compare what arrived at a place with what another pass had there."""
        if torch.equal(self._own.values[key], self._other.values[key]):
            return _Outcome(layer, "wrong", "two batches of other tokens are alike here")
        if torch.equal(ran.values[key], wanted.values[key]):
            return _Outcome(layer, "exact", _THEIRS)
        error = relative_error(ran.values[key], wanted.values[key])
        if torch.equal(ran.values[key], self._own.values[key]):
            return _Outcome(layer, "wrong", _UNSEEN, error)
        return _Outcome(layer, "wrong", _not(_THEIRS), error) if must else _Outcome(layer, "close", _MORE)

    # -- what blocks add ---------------------------------------------------------------------------------------------

    def _check_added(self) -> dict[str, list[_Outcome]]:
        """Put in zero for all that a block adds: the stream stays as it was, but for the norms it goes through."""
        back = {key: self._own.values[key] for key in self._places("resid.pre_attn")[1:]}
        keys = [Key(self._stack.side, site, i) for site in _ADDED for i in self._layers]
        nothing = {key: torch.zeros_like(self._own.values[key]) for key in keys if key in self._keys}
        outputs = self._places("resid.post_mlp")
        ran = self._run(back | nothing, outputs)
        alone = {
            site: self._run(back | {key: x for key, x in nothing.items() if key.site == site}, outputs)
            for site in _ADDED
            if any(key.site == site for key in nothing)
        }
        found: dict[str, list[_Outcome]] = {site: [] for site in _ADDED}
        for key in nothing:
            assert key.layer is not None
            after = outputs[key.layer]
            unchanged = self._unchanged(key.layer)
            stays = unchanged is not None and torch.equal(ran.values[after], unchanged)
            if torch.equal(alone[key.site].values[after], self._own.values[after]):
                outcome = _Outcome(key.layer, "wrong", _UNSEEN)
            elif stays:
                outcome = _Outcome(key.layer, "exact", _NOTHING)
            else:
                outcome = _Outcome(key.layer, "close", _SEEN)
            found[key.site].append(outcome)
        return found

    def _unchanged(self, layer: int) -> torch.Tensor | None:
        """Return the stream after a block that adds nothing more, normed where norms stand in it; None where those take more.

        It begins between the block's halves where what attention adds cannot be changed.
        """
        side, block, streams = self._stack.side, self._stack.layers[layer], list(_STREAMS)
        x: torch.Tensor | None = self._own.values[Key(side, "resid.pre_attn", layer)]
        if Key(side, "attn_out", layer) not in self._keys and Key(side, "resid.post_attn", layer) in self._keys:
            x, streams = self._own.values[Key(side, "resid.post_attn", layer)], streams[1:]
        for point in (block.hook_points[site] for site in streams if site in block.hook_points):
            if x is not None and point.end == "output" and point.module is not block.block:
                x = apply_module(point.module, x)
        return x

    # -- attention ---------------------------------------------------------------------------------------------------

    def _check_attention(self, prefix: str) -> dict[str, list[_Outcome]]:
        """Put in the other batch's queries, keys and values, together and each alone, and then its heads' outputs, and zeros.

        Args:
            prefix: `cross.` for attention over the encoder's tokens.

        Returns:
            The outcomes by site.
        """
        sites = [prefix + site for site in ("q", "k", "v")]
        found: dict[str, list[_Outcome]] = {site: [] for site in (*sites, f"{prefix}heads")}
        heads = [key for key in self._places(f"{prefix}heads") if key in self._keys]
        if not heads:
            return found
        other = self._elsewhere if prefix else self._other
        back = {key: self._own.values[key] for key in heads}
        inputs = {key: other.values[key] for site in sites for key in self._places(site) if key in self._keys}
        own_inputs = {key: self._own.values[key] for key in inputs}
        together = self._run(back | inputs, heads)
        for site in sites:
            alone = self._run(back | own_inputs | {key: x for key, x in inputs.items() if key.site == site}, heads)
            for key in heads:
                found[site].append(self._attended(key, together, alone, other, prefix))
        return found | {f"{prefix}heads": self._check_heads(heads, other)}

    def _attended(self, key: Key, together: _Pass, alone: _Pass, other: _Pass, prefix: str) -> _Outcome:
        """Compare the heads of a layer that attended with values that were put in."""
        assert key.layer is not None
        if torch.equal(alone.values[key], self._own.values[key]):
            return _Outcome(key.layer, "wrong", _UNSEEN)
        if torch.equal(together.values[key], other.values[key]):
            return _Outcome(key.layer, "exact", _HEADS_THEIRS)
        layer = self._stack.layers[key.layer]
        derived = (layer.cross_formula if prefix else layer.formula) is not None
        error = relative_error(together.values[key], other.values[key])
        return (
            _Outcome(key.layer, "wrong", _not(_HEADS_THEIRS), error) if derived else _Outcome(key.layer, "close", _MORE)
        )

    def _check_heads(self, heads: list[Key], other: _Pass) -> list[_Outcome]:
        """Check that what attention adds follows from what heads are given: the others' outputs, zeros, all but one."""
        added = {key: key._replace(site=key.site.replace("heads", "attn_out")) for key in heads}
        stream = self._places("resid.pre_attn")[1:]
        back = {key: self._own.values[key] for key in (*stream, *added.values()) if key in self._own.values}
        look = {*added.values(), *self._places("resid.post_mlp")} & self._keys
        theirs = self._run(back | {key: other.values[key] for key in heads}, look)
        zeros = {key: torch.zeros_like(self._own.values[key]) for key in heads}
        none = self._run(back | zeros, look)
        without = {key: self._own.values[key].clone() for key in heads}
        for x in without.values():
            x[:, :, 0] = 0
        one = self._run(back | without, look)
        return [self._check_layer_heads(key, added[key], theirs, none, one, other) for key in heads]

    def _check_layer_heads(
        self, key: Key, added: Key, theirs: _Pass, none: _Pass, one: _Pass, other: _Pass
    ) -> _Outcome:
        assert key.layer is not None
        if added not in self._keys:
            added = Key(key.side, "resid.post_mlp", key.layer)
            if torch.equal(theirs.values[added], self._own.values[added]):
                return _Outcome(key.layer, "wrong", _UNSEEN)
            return _Outcome(key.layer, "close", _SEEN)
        own, zeroed = self._own.values[added], none.values[added]
        if any(torch.equal(x.values[added], own) for x in (theirs, none, one)):
            return _Outcome(key.layer, "wrong", _UNSEEN)
        how = "zeroed: attention adds the same to every token"
        if not torch.equal(zeroed, zeroed[:1, :1].expand_as(zeroed)):
            return _Outcome(key.layer, "close", _MORE)
        outputs = None if self._heads is None or "cross." in key.site else self._heads[key.layer]
        follows = torch.equal(theirs.values[added], other.values[added])
        if not isinstance(outputs, HeadOutputs):
            return _Outcome(
                key.layer, *(("exact", how) if follows else ("close", f"{how}; it depends on more than heads"))
            )
        if not follows:
            return _Outcome(key.layer, "wrong", "another batch's heads put in: attention does not add what theirs does")
        factor = self._stack.layers[key.layer].hook_points[added.site].factor
        part = self._own.values[key][:, :, 0].float() @ outputs.weight[0]
        error = max(
            relative_error(zeroed.float() * factor, outputs.bias.expand_as(zeroed)),
            relative_error(one.values[added].float() * factor + part, own.float() * factor),
        )
        good = error <= formula_tolerance(own.dtype)
        if good:
            return _Outcome(key.layer, "exact", f"{how}, its bias; one zeroed: its part is missing")
        return _Outcome(key.layer, "wrong", "one zeroed: something else than its part is missing", error)

    # -- running -----------------------------------------------------------------------------------------------------

    def _others(self, site: str) -> dict[Key, torch.Tensor]:
        return {key: self._other.values[key] for key in self._places(site) if key in self._keys}

    def _run(self, put: Mapping[Key, torch.Tensor], look: Collection[Key], tokens: Tokens | None = None) -> _Pass:
        """Run a batch, the first unless another is given, with values put in, and keep what arrives at places."""
        values: dict[Key, torch.Tensor] = {}

        def make(key: Key) -> Edit:
            def edit(x: torch.Tensor) -> torch.Tensor:
                if key in look:
                    values[key] = x.clone()
                return put.get(key, x)

            return edit

        edits = {key: make(key) for key in {*put, *look}}
        with torch.no_grad(), edit_sites(self._anatomy, edits):
            return _Pass(self._anatomy.body(self._tokens if tokens is None else tokens).last, values)


def _probe(anatomy: Anatomy, changed: Collection[str]) -> Tokens:
    """Return two sequences of random tokens a side; other ones on sides that are `changed`."""
    tokens = {}
    for side in anatomy.body.sides:
        length, seed = (DEC_TOKENS if side == "dec" else ENC_TOKENS), (100 if side in changed else 0)
        ids = torch.cat([probe_ids(anatomy.body.model, length, seed=seed + i) for i in range(2)])
        tokens[side] = (ids, torch.ones_like(ids))
    return tokens


def _check_restart(anatomy: Anatomy, restart: Restart) -> Finding:
    """Check that a changed pass that begins at a layer ends as one that runs in whole."""
    side, n = anatomy.main.side, len(anatomy.main.layers)
    if not restart.works:
        return Finding("", "restart", "absent", f"changed passes run in whole: {restart.reason}")
    tokens = _probe(anatomy, ())
    passed = restart.read(tokens)
    edits: dict[Key, Edit] = {Key(side, "resid.pre_attn", n - 1): lambda x: x.flip(-1)}
    ran = restart.run(passed, torch.arange(2), n - 1, edits)
    whole = restart.run(passed, torch.arange(2), 0, edits)
    right = torch.equal(ran, whole) and not torch.equal(whole, passed.last)
    how = "a changed pass that begins at its layer ends as one that runs in whole"
    return Finding("", "restart", "exact" if right else "wrong", how, relative_error(ran, whole))


def _same(a: Mapping[Any, torch.Tensor], b: Mapping[Any, torch.Tensor]) -> bool:
    return all(torch.equal(x, b[key]) for key, x in a.items())


def _not(how: str) -> str:
    return f"does not hold: {how}"
