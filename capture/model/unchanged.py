"""Undoes what a forward pass changed in a model, so that what it read before makes no difference to what it reads next.

Some models change themselves while they read: rotary frequencies that grow with the longest text so far, full attention in
place of sparse attention after one short text, tables made to measure. What a pass leaves behind is undone: in buffers,
replaced or overwritten, in the modules' attributes and hooks, in the list of modules, and in the configuration.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_not
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import PreTrainedConfig

from warehouse.errors import TracesError

_NO_STATE = frozenset({"forward", "_parameters", "_buffers", "_modules"})
"""Attributes that are no state: a `forward` is replaced around a pass, not by it; the others are compared separately."""

_CONTAINERS = (list, dict, set, OrderedDict)

_copies = WeakTensorKeyDictionary()
"""Tensor → its version and a copy of it, so that a pass that changes nothing copies nothing."""


_weights_changed: WeakSet[nn.Module] = WeakSet()
"""Models that have changed their weights."""


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Undo, when the context ends, what `model` changed in itself while it was open.

    It may change its weights once, in its first pass: RWKV divides them by powers of two, and remembers that it did. No second
    copy of the weights is kept.

    Yields:
        Nothing.

    Raises:
        TracesError: The model changed its weights again.
    """
    spaces = [_StateDictCopy(space) for space in _state_dicts(model)]
    weights = [(w, w._version) for w in model.parameters()]
    try:
        yield
    finally:
        changed = any(w._version != version for w, version in weights)
        if not changed:
            for space in spaces:
                space.restore()
    if changed and model in _weights_changed:
        raise TracesError(
            f"{type(model).__name__} changes its own weights while it reads: what it makes of a text depends on what it has read "
            "before, so that it cannot be recorded."
        )
    if changed:
        _weights_changed.add(model)


def _state_dicts(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield the dicts that a model keeps its state in, except its weights."""
    configs = {}
    for module in model.modules():
        yield from (module.__dict__, module._buffers, module._modules)
        if isinstance(config := module.__dict__.get("config"), PreTrainedConfig):
            configs[id(config)] = config
    for config in configs.values():
        yield config.__dict__


class _StateDictCopy:
    """One such dict as it was: its values, and what the lists, dicts, sets and tensors among them held."""

    def __init__(self, space: dict[str, Any]) -> None:
        self._space, self._values = space, space.copy()
        self._held, self._tensors = [], []
        for name, value in space.items():
            if isinstance(value, torch.Tensor):
                self._tensors.append((value, value._version, _copy(value)))
            elif type(value) in _CONTAINERS and name not in _NO_STATE:
                self._held.append((value, value.copy() if value else ()))

    def restore(self) -> None:
        """Put back what has changed since."""
        if len(self._space) != len(self._values) or any(map(is_not, self._space.values(), self._values.values())):
            self._restore_values()
        for container, held in self._held:
            if (container or held) and not _holds_same(container, held):
                container.clear()
                container.extend(held) if isinstance(container, list) else container.update(held)
        for tensor, version, copy in self._tensors:
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(copy)
                _copies[tensor] = (tensor._version, copy)

    def _restore_values(self) -> None:
        for name in [k for k in self._space if k not in self._values and k not in _NO_STATE]:
            del self._space[name]
        for name, value in self._values.items():
            if name not in _NO_STATE and self._space.get(name, self) is not value:
                self._space[name] = value


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a tensor, the last one where the tensor has not changed since."""
    versioned = _copies.get(tensor)
    if versioned is None or versioned[0] != tensor._version:
        versioned = (tensor._version, tensor.detach().clone())
        _copies[tensor] = versioned
    copy: torch.Tensor = versioned[1]
    return copy


def _holds_same(container: Any, held: Any) -> bool:
    """Return whether a list, dict or set holds the very same objects in the same order."""
    if len(container) != len(held):
        return False
    if isinstance(container, dict):
        pairs = zip(container.items(), held.items(), strict=True)
        return all(k == other and v is value for (k, v), (other, value) in pairs)
    if isinstance(container, set):
        return bool(container == held)
    return all(v is value for v, value in zip(container, held, strict=True))
