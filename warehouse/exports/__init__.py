"""Runs in the formats of other tools: functions that take a warehouse and a run, and write files. `traces export` calls them.

>>> from warehouse import Warehouse, exports
>>> wh = Warehouse("runs")                                  # doctest: +SKIP
>>> exports.viewer(wh, "demo", "pages/demo")                # doctest: +SKIP

A file or folder that is written is there whole or not at all, and one that is there is replaced only with `force`. What needs torch
(objects of other libraries) is in `capture.exports`.
"""

from warehouse.exports.control_vector import control_vector
from warehouse.exports.dataset_folder import dataset
from warehouse.exports.hub import push
from warehouse.exports.npz import npz
from warehouse.exports.responses import responses
from warehouse.exports.transformer_lens import transformer_lens
from warehouse.exports.viewer import viewer

__all__ = ["control_vector", "dataset", "npz", "push", "responses", "transformer_lens", "viewer"]
