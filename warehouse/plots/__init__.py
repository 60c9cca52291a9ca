"""Pictures of runs: functions that take a warehouse and a run, and return a matplotlib Figure. `traces plot` draws them too.

>>> from warehouse import Warehouse, plots
>>> wh = Warehouse("runs")                                      # doctest: +SKIP
>>> plots.attention(wh, "demo", layers=15, head=3)              # doctest: +SKIP
>>> plots.lens(wh, "demo").savefig("lens.svg")                  # doctest: +SKIP

A notebook shows what a function returns. Wherever a run is asked for, its name or a TraceStore will do. matplotlib is imported by
the first picture only (`pip install 'trace-warehouse[plot]'`).
"""

from warehouse.plots.attention_maps import attention
from warehouse.plots.circuit_curve import curve
from warehouse.plots.circuit_map import circuit
from warehouse.plots.dependency_map import graph
from warehouse.plots.effect_map import effects
from warehouse.plots.lens_table import lens
from warehouse.plots.position_curve import loss_by_position
from warehouse.plots.probe_curve import probe
from warehouse.plots.token_text import tokens
from warehouse.plots.trait_curve import trait

__all__ = [
    "attention", "circuit", "curve", "effects", "graph", "lens", "loss_by_position", "probe", "tokens", "trait",
]  # fmt: skip
