"""A feature of a dictionary as something to change a model by: its direction, and how active it is at a state.

`add:FOLDER#FEATURE*FACTOR` adds the direction, `clamp:FOLDER#FEATURE*VALUE` holds the feature at an activation: 0 takes it out. What of a
state the dictionary does not give back stays as it is (Marks et al. 2024, "Sparse Feature Circuits", section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from capture.features.dictionary import Dictionary
from capture.features.saelens_folder import read_dictionary
from capture.interventions.intervention import Intervention
from capture.model.loading import Loaded
from warehouse.errors import UsageError


@dataclass(frozen=True)
class Feature:
    """A feature of a dictionary."""

    dictionary: Dictionary
    number: int

    @property
    def direction(self) -> Tensor:
        """What it adds to a state per unit of its activation, (D,); where each state is normalised by itself, its direction alone."""
        return self.dictionary.direction(self.number)

    def missing(self, x: Tensor, activation: float) -> Tensor:
        """Return what is to be added to states (…, D) for the feature to have an activation there that it has not."""
        wide = x.to(self.dictionary.dtype)
        least = activation - self.dictionary.encode(wide)[..., self.number, None]
        return (least * self.dictionary.scale(wide) * self.direction).to(x.dtype)


def find_feature(loaded: Loaded, intervention: Intervention) -> Feature | Tensor:
    """Find the feature that an intervention names.

    Args:
        loaded: The model.
        intervention: The intervention, whose source is FOLDER#FEATURE.

    Returns:
        The feature of a `clamp`, and of an `add` its direction (D,), where the model is.

    Raises:
        UsageError: The folder is no dictionary, has no such feature, or is of another site than what the intervention changes; a transcoder
            is clamped, whose features are not of the states that it gives back.
    """
    folder, _, number = intervention.source.rpartition("#")
    if not folder or not number.isdecimal():
        raise UsageError(f"{intervention}: name a feature as FOLDER#FEATURE, as in saes/mine#7.")
    dictionary = read_dictionary(folder).to(loaded.model.device)
    dictionary.direction(int(number))
    place = dictionary.site_out
    if place is None or (place.site, place.layer) != (intervention.site, intervention.layer):
        where = (
            "no site of ours" if place is None else f"{place.site}{'' if place.layer is None else f'@{place.layer}'}"
        )
        raise UsageError(f"{intervention}: the features of {dictionary.name} are directions of {where}.")
    if dictionary.head is not None or dictionary.flattens_heads:
        raise UsageError(f"{intervention}: {dictionary.name} reads heads, whose features are not added here.")
    if intervention.kind == "clamp" and dictionary.kind.transcoder:
        raise UsageError(
            f"{intervention}: {dictionary.name} is a transcoder, whose activations are not of what it gives back. Add the direction: "
            f"add:{intervention.source}*4"
        )
    feature = Feature(dictionary, int(number))
    return feature if intervention.kind == "clamp" else feature.direction
