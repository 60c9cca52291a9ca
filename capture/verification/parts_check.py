"""Checks of what influence adds up: heads' outputs to what attention adds, the last residual stream to a logit.

In goes an anatomy; out come `Finding`s, `absent` with the reason where a model's parts cannot be told apart. `intervention_check`
calls this.
"""

from __future__ import annotations

import torch

from capture.interventions.site_edits import edit_sites
from capture.model.anatomy import Anatomy
from capture.model.forward_trace import probe_tokens
from capture.model.head_outputs import HeadOutputs
from capture.model.logit_direction import LogitReader
from capture.model.tolerances import formula_tolerance
from capture.verification.model_report import Finding
from warehouse.errors import TracesError, UsageError
from warehouse.schema.sites import Key


def check_head_parts(anatomy: Anatomy, heads: list[HeadOutputs | str]) -> Finding:
    """Say in which layers heads add up to what attention adds; this was proven where the map was found."""
    side = anatomy.main.side
    whole = [i for i, x in enumerate(heads) if isinstance(x, HeadOutputs)]
    reasons = "; ".join(dict.fromkeys(x for x in heads if isinstance(x, str)))
    if not whole:
        return Finding(side, "head parts", "absent", f"attention is one source of a logit: {reasons}")
    layers = "" if len(whole) == len(heads) else ", ".join(map(str, whole))
    how = "heads' outputs, each times its weights, and a bias are what attention adds"
    return Finding(side, "head parts", "close", how if not reasons else f"{how}; else: {reasons}", layers=layers)


def check_logit_parts(anatomy: Anatomy) -> Finding:
    """Check that a logit is a direction times the last stream, with the final norm's scale as it is there."""
    side, model = anatomy.main.side, anatomy.body.model
    key = Key(side, "resid.post_mlp", len(anatomy.main.layers) - 1)
    kept: list[torch.Tensor] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.clone())
        return x

    try:
        reader = LogitReader(anatomy)
        with torch.no_grad(), edit_sites(anatomy, {key: keep}):
            anatomy.body(probe_tokens(anatomy.body))
        row = kept[0][0, -1]
        logits = reader.logits(row[None])[0]
        best, least = int(logits.argmax()), int(logits.argmin())
        direction = reader.direction(row, logits, [best], [least])
    except (UsageError, TracesError) as e:
        return Finding(side, "logit parts", "absent", str(e).removeprefix(f"{type(model).__name__}: "))
    found = float(direction.vector @ row.double().cpu()) + direction.bias
    error = abs(found - direction.logit) / max(abs(direction.logit), 1e-30)
    allowed = formula_tolerance(model.dtype)
    status = "close" if direction.logit and error <= allowed else "wrong"
    how = f"{reader.quantity} = direction times the last stream, the final norm's scale held"
    return Finding(side, "logit parts", status, how, error, allowed)
