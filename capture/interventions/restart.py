"""Runs many edited versions of a sequence in one batch, each from the first layer that an edit changes.

In go the tokens of a few sequences; out come their states, and then the last states of any number of edited copies. Blocks below
the first edit are not run again: they return what they returned. Everything else is the model's own code, its embedding, masks
and position encodings included, so that no family needs code of its own; whether it works for one is proven on a probe.
`effects` runs every intervention through it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from capture.interventions.site_edits import Edit, edit_sites
from capture.model.anatomy import Anatomy
from capture.model.body import Tokens, replace_forward
from capture.model.forward_trace import first_output, probe_tokens
from warehouse.schema.sites import Key


@dataclass(frozen=True)
class Passed:
    """What a forward pass over B sequences left."""

    tokens: Tokens
    last: torch.Tensor
    """(B, T, D), after the final norm."""
    values: Mapping[Key, torch.Tensor]
    """(B, T, *row_shape) of each site that was to be kept; of k and v per kv head."""
    blocks: tuple[torch.Tensor, ...]
    """What each block returned, as the model exchanges it."""
    wrap: tuple[Callable[[torch.Tensor], Any], ...]
    """Makes of such a tensor what the block returned around it: a tuple, in some models."""


class Restart:
    """Forward passes of a model's main side, and edited ones that begin at a layer."""

    works: bool
    """Passes can begin at a layer; else they run in whole."""
    reason: str | None
    """Why they cannot."""

    def __init__(self, anatomy: Anatomy) -> None:
        """Prove on a probe that a pass that begins at a layer ends as one that runs in whole."""
        self._anatomy, self._stack = anatomy, anatomy.main
        self.works, self.reason = False, None
        if anatomy.body.encoder_decoder:
            self.reason = "its decoder reads an encoder"
        elif self._stack.time_first:
            self.reason = "its blocks exchange tokens first"
        else:
            self.works = self._proves()
            if not self.works:
                self.reason = "its blocks read more than the block below them leaves"

    def read(self, tokens: Tokens, keep: Collection[Key] = ()) -> Passed:
        """Run the model as it is, and keep values.

        Args:
            tokens: Right-padded ids and masks (B, T) of the main side.
            keep: The sites to keep, as `edit_sites` names them.

        Returns:
            What the pass left.

        Raises:
            UsageError: A site is not there.
        """
        values: dict[Key, torch.Tensor] = {}
        blocks: list[torch.Tensor] = []
        wraps: list[Callable[[torch.Tensor], Any]] = []

        def keeper(key: Key) -> Edit:
            def keep_value(x: torch.Tensor) -> torch.Tensor:
                values[key] = x.clone()  # the model may go on to change its own
                return x

            return keep_value

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            x = first_output(output)
            assert x is not None
            blocks.append(x.clone())
            wraps.append(_wrap(output, x))

        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(edit_sites(self._anatomy, {key: keeper(key) for key in keep}))
            for block in dict.fromkeys(layer.block for layer in self._stack.layers):
                stack.callback(block.register_forward_hook(after).remove)
            last = self._anatomy.body(tokens).last[self._stack.side]
        return Passed(tokens, last, values, tuple(blocks), tuple(wraps))

    def run(self, passed: Passed, rows: torch.Tensor, layer: int, edits: Mapping[Key, Edit]) -> torch.Tensor:
        """Run copies of sequences again under edits, from a layer on.

        Args:
            passed: The pass that they were read in.
            rows: (R,) which of its sequences each copy is of.
            layer: The first layer that an edit changes; `resid.pre_attn` of a layer and `resid.embed` are changes of that layer
                and of layer 0, `resid.post_mlp` too is one of its own layer.
            edits: What changes each site, (R, T, *row_shape).

        Returns:
            The last hidden states (R, T, D).
        """
        side = self._stack.side
        tokens = {name: (ids[rows], mask[rows]) for name, (ids, mask) in passed.tokens.items()}
        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(edit_sites(self._anatomy, edits))
            if self.works and layer > 0:
                stack.enter_context(self._skip(passed, rows, layer))
            return self._anatomy.body(tokens).last[side]

    @contextmanager
    def _skip(self, passed: Passed, rows: torch.Tensor, layer: int) -> Iterator[None]:
        """Have the blocks below a layer return what they returned; only the last of them is listened to."""
        entering = passed.blocks[layer - 1][rows.to(passed.blocks[layer - 1].device)]
        layers = self._stack.layers
        with ExitStack() as stack:
            for block in dict.fromkeys(x.block for x in layers[:layer]):
                own = [i for i, x in enumerate(layers) if x.block is block]
                stack.enter_context(replace_forward(block, _returning(block, own, passed, entering, layer)))
            yield

    def _proves(self) -> bool:
        """Return whether passes that begin at the second, the middle and the last layer end as one that runs in whole."""
        ids, mask = probe_tokens(self._anatomy.body)[self._stack.side]
        other = ids.flip(1)
        tokens = {self._stack.side: (torch.cat([ids, other]), torch.cat([mask, mask]))}
        passed = self.read(tokens)
        rows, n = torch.tensor([0, 1]), len(self._stack.layers)
        self.works = True  # as `run` asks
        try:
            return all(
                torch.equal(self.run(passed, rows, layer, {}), passed.last)
                for layer in {1, n // 2, n - 1}
                if 0 < layer < n
            )
        except (
            RuntimeError,
            TypeError,
            ValueError,
            KeyError,
            IndexError,
            AttributeError,
        ):  # a block takes part in more
            return False


def _returning(
    block: nn.Module, own: list[int], passed: Passed, entering: torch.Tensor, layer: int
) -> Callable[..., Any]:
    """Return a `forward` that returns `entering` for the layers below `layer` that a block is of, and runs it for the others."""
    forward, runs = block.forward, iter(own)

    def skipped(*args: Any, **options: Any) -> Any:
        i = next(runs)
        return passed.wrap[i](entering) if i < layer else forward(*args, **options)

    return skipped


def _wrap(output: Any, x: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    """Return what makes of another tensor what a block returned around `x`; other tensors in it are left out."""
    if isinstance(output, torch.Tensor):
        return lambda new: new
    if isinstance(output, tuple | list):
        kind, n = type(output), len(output)
        at = next(i for i, value in enumerate(output) if value is x)
        return lambda new: kind(new if i == at else None for i in range(n))
    kind, names = type(output), [name for name, value in output.items() if value is x]
    return lambda new: kind(**dict.fromkeys(names, new))
