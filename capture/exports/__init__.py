"""Runs as objects of other libraries, and in formats that need torch or datasets; all others are in `warehouse.exports`.

>>> from warehouse import Warehouse
>>> from capture import exports
>>> wh = Warehouse("runs")                                                  # doctest: +SKIP
>>> exports.repeng_vector(wh, "capitals-smollm2-vectors", layers=[15])      # doctest: +SKIP
"""

from capture.exports.steering_objects import repeng_vector, steering_vector

__all__ = ["repeng_vector", "steering_vector"]
