"""A trait's vectors as objects of the libraries that steer with them: repeng and steering-vectors.

Both number blocks as we do: vector l is added to the output of block l, 0-based. Neither library is a dependency of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from warehouse.errors import UsageError, first_line
from warehouse.exports.trait_directions import trait_directions
from warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from repeng import ControlVector
    from steering_vectors import SteeringVector


def repeng_vector(
    wh: Warehouse,
    run: str,
    *,
    trait: str | None = None,
    method: str | None = None,
    layers: str | Sequence[int] = "all",
    scale: str = "unit",
) -> ControlVector:
    """Return a trait's vectors as a repeng `ControlVector`.

    Example:
        vector = exports.repeng_vector(wh, "capitals-smollm2-vectors", layers=[15], scale="gap")
        ControlModel(hf_model, [15]).set_control(vector, 2.0)

    Args:
        wh: The warehouse.
        run: A run of kind trait-vectors.
        trait: The trait; None where the run has one.
        method: How the vectors were made; None: `mean_diff`, or the only one.
        layers: `all`, or some.
        scale: `unit`, or `gap`: the length of one unit of `traces trait steer`.

    Returns:
        The object; its directions are float32 (D,).

    Raises:
        UsageError: repeng cannot be imported, or there is nothing of that kind.
    """
    try:
        from repeng import ControlVector
    except ModuleNotFoundError as e:
        raise UsageError(f"This needs {e.name}: pip install repeng") from None
    except AttributeError as e:  # repeng 0.4 names types that numpy 2 has no more
        raise UsageError(
            f"repeng cannot be imported beside this numpy ({first_line(e)}): pip install 'numpy<2'"
        ) from None
    found = trait_directions(wh, run, trait=trait, method=method, layers=layers, scale=scale)
    return ControlVector(model_type=found.model_hint, directions=found.vectors)


def steering_vector(
    wh: Warehouse,
    run: str,
    *,
    trait: str | None = None,
    method: str | None = None,
    layers: str | Sequence[int] = "all",
    scale: str = "unit",
) -> SteeringVector:
    """Return a trait's vectors as a `SteeringVector` of steering-vectors.

    Args:
        wh: The warehouse.
        run: A run of kind trait-vectors.
        trait: The trait; None where the run has one.
        method: How the vectors were made; None: `mean_diff`, or the only one.
        layers: `all`, or some.
        scale: `unit`, or `gap`: the length of one unit of `traces trait steer`.

    Returns:
        The object, of layer type `decoder_block`; its tensors are float32 (D,).

    Raises:
        UsageError: steering-vectors cannot be imported, or there is nothing of that kind.
    """
    try:
        import torch
        from steering_vectors import SteeringVector
    except ModuleNotFoundError as e:
        name = (e.name or "").replace("_", "-")
        raise UsageError(f"This needs {name}: pip install --no-deps steering-vectors") from None
    found = trait_directions(wh, run, trait=trait, method=method, layers=layers, scale=scale)
    return SteeringVector({layer: torch.from_numpy(vector) for layer, vector in found.vectors.items()}, "decoder_block")
