"""Runs as objects of other libraries, and in formats that need torch or datasets; all others are in `warehouse.exports`.

>>> from warehouse import Warehouse
>>> from capture import exports
>>> wh = Warehouse("runs")                                                  # doctest: +SKIP
>>> exports.repeng_vector(wh, "capitals-smollm2-vectors", layers=[15])      # doctest: +SKIP
"""

from capture.exports.sae_activations import sae_activations
from capture.exports.steering_objects import repeng_vector, steering_vector
from capture.exports.trait_tensors import trait_tensors

__all__ = ["repeng_vector", "sae_activations", "steering_vector", "trait_tensors"]
