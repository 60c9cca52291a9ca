"""Interventions on every family that can be built small: what must follow of a change, without a list of names.

Every fifteenth family is tried each time, all of them with what is slow. `traces model check` has claims of its own about each site of a
layer by itself; these are about whole passes, against weights changed by hand and against passes over other tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
import zoo
from torch import nn

from capture.interventions.restart import Passed, Restart
from capture.interventions.site_edits import SITES, Edit, edit_sites, why_not
from capture.model.anatomy import Anatomy
from capture.model.body import Tokens, probe_ids
from capture.model.examine import examine
from capture.model.forward_trace import first_input
from capture.model.tolerances import states_tolerance
from capture.verification.intervention_check import check_interventions
from capture.verification.model_report import Finding
from warehouse.errors import TracesError
from warehouse.schema.sites import Key

LENGTH, AT = 12, 7
"""Tokens of a sequence, and the one that is changed alone."""


class Case(NamedTuple):
    """A model, and two batches of two sequences each as it reads them: other tokens on its main side, the same on its encoder's."""

    anatomy: Anatomy
    restart: Restart
    own: Passed
    other: Passed
    found: list[Finding]
    """What `traces model check` says of it."""

    def last(self, edits: Mapping[Key, Edit], tokens: Tokens | None = None) -> torch.Tensor:
        """Last states (B, T, D) of the first batch, or of other tokens, under edits."""
        with torch.no_grad(), edit_sites(self.anatomy, edits):
            return self.anatomy.body(tokens or self.own.tokens).last[self.anatomy.main.side]

    def places(self, layer: int | None = None) -> list[Key]:
        """The sites that can be changed, of one layer or all."""
        return [key for key in self.own.values if layer is None or key.layer == layer]

    @property
    def sealed(self) -> bool:
        """A block reads nothing of its sequence but what the one below it leaves."""
        return self.restart.works or self.anatomy.body.encoder_decoder


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] if i % 15 else []) for i, name in enumerate(zoo.FAMILIES)],
)
def case(request: pytest.FixtureRequest) -> Case:
    try:
        anatomy = examine(zoo.build(request.param))
    except TracesError as e:
        pytest.skip(str(e))
    side, restart = anatomy.main.side, Restart(anatomy)
    keys = [Key(side, site, i) for site in (*SITES, "cross.heads", "cross.attn_out") for i in layers(anatomy, site)]
    keep = [key for key in keys if not why_not(anatomy, key)]
    own, other = (restart.read(read(anatomy, seed), keep) for seed in (0, 50))
    assert not torch.equal(own.last, other.last)
    return Case(anatomy, restart, own, other, check_interventions(anatomy))


def layers(anatomy: Anatomy, site: str) -> list[int | None]:
    return [None] if site == "resid.embed" else [*range(len(anatomy.main.layers))]


def read(anatomy: Anatomy, seed: int) -> Tokens:
    tokens = {}
    for side in anatomy.body.sides:
        first = seed if side == anatomy.main.side else 100
        ids = torch.cat([probe_ids(anatomy.body.model, LENGTH, seed=first + i) for i in range(2)])
        tokens[side] = (ids, torch.ones_like(ids))
    return tokens


def to(value: torch.Tensor) -> Edit:
    return lambda x: value.clone()


def test_every_site_that_can_be_changed_passes_its_check(case: Case) -> None:
    assert [f for f in case.found if f.status == "wrong"] == []
    assert all(f.how for f in case.found)
    assert {"exact", "close"} & {f.status for f in case.found if f.site == "edit resid.post_mlp"}


def test_no_intervention_changes_no_bit(case: Case) -> None:
    assert torch.equal(case.last({}), case.own.last)
    assert torch.equal(case.last({key: lambda x: x for key in case.places()}), case.own.last)
    assert torch.equal(case.last({key: to(x) for key, x in case.own.values.items()}), case.own.last), (
        "patched with itself"
    )
    assert not torch.equal(case.last({key: torch.zeros_like for key in case.places()}), case.own.last)


def test_everything_patched_is_the_other_pass(case: Case) -> None:
    assert torch.equal(case.last({key: to(x) for key, x in case.other.values.items()}), case.other.last)


def test_the_stream_patched_at_any_layer_is_the_other_pass(case: Case) -> None:
    if not case.sealed:
        pytest.skip("its blocks read more of their sequence than the stream")
    read_more = any(f.site == "edit resid.embed" and f.status != "exact" for f in case.found)
    for key in (key for key in case.places() if key.site.startswith("resid.")):
        last = case.last({key: to(case.other.values[key])})
        assert not torch.equal(last, case.own.last), key
        assert torch.equal(last, case.other.last) or read_more, key


def test_heads_cut_are_slices_of_the_output_projection_zeroed(case: Case) -> None:
    """Cut one by one and all at once, against weights changed by hand."""
    found = 0
    for key in (key for key in case.places() if key.site == "heads" and key.layer is not None):
        heads, width = case.own.values[key].shape[2:]
        module = projection(case, key)
        if module is None:
            continue
        for cut in (range(1, 2), range(heads)):
            some = torch.zeros(heads * width, dtype=torch.bool)
            some[[i for h in cut for i in range(h * width, (h + 1) * width)]] = True

            def without(x: torch.Tensor, cut: range = cut) -> torch.Tensor:
                new = x.clone()
                new[:, :, cut] = 0
                return new

            last = case.last({key: without})
            with inputs_zeroed(module, some):
                expected = case.last({})
            assert not torch.equal(last, case.own.last), key
            torch.testing.assert_close(last, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
        found += 1
    shared = len({layer.block for layer in case.anatomy.main.layers}) == 1
    assert found or shared or all(f.status == "absent" for f in case.found if f.site == "head parts")


def projection(case: Case, key: Key) -> nn.Module | None:
    """The module with a matrix of weights that reads a layer's heads; None where something stands between, or it serves more layers."""
    joined = case.own.values[key].flatten(2)
    readers: list[nn.Module] = []

    def before(module: nn.Module, args: tuple[object, ...], options: dict[str, object]) -> None:
        x = first_input(args, options)
        if x is not None and x.shape == joined.shape and torch.equal(x, joined):
            readers.append(module)

    modules = [m for m in case.anatomy.body.model.modules() if getattr(getattr(m, "weight", None), "ndim", 0) == 2]
    handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in modules]
    try:
        case.last({})
    finally:
        for handle in handles:
            handle.remove()
    blocks = [layer.block for layer in case.anatomy.main.layers]
    assert key.layer is not None
    return readers[0] if readers and blocks.count(blocks[key.layer]) == 1 else None


@contextmanager
def inputs_zeroed(module: nn.Module, some: torch.Tensor) -> Iterator[None]:
    """The weights of some inputs of a module zeroed: columns of a Linear, rows of a Conv1D."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[(slice(None), some) if isinstance(module, nn.Linear) else some] = 0
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_a_change_at_a_token_changes_nothing_before_it(case: Case) -> None:
    if not case.anatomy.main.causal:
        pytest.skip("each of its tokens sees all of them")
    scale = float(case.own.last.abs().max())
    for key in case.places(len(case.anatomy.main.layers) // 2):
        if key.site.startswith("cross."):
            continue

        def changed(x: torch.Tensor) -> torch.Tensor:
            new = x.clone()
            new[:, AT] = new[:, AT].flip(-1) * 2
            return new

        difference = (case.last({key: changed}) - case.own.last).abs().amax(-1)
        assert float(difference[:, :AT].max()) <= 1e-5 * scale, (
            f"{key}: experts that get other rows may sum in another order"
        )
        assert float(difference[:, AT:].max()) > 1e-4 * scale, key


def test_an_effect_does_not_depend_on_what_else_is_in_the_batch(case: Case) -> None:
    """A copy changed at one layer, beside copies changed otherwise or not at all, and from that layer on; and alone."""
    n = len(case.anatomy.main.layers)
    key = Key(case.anatomy.main.side, "resid.pre_attn", n - 1)

    def doubled(row: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def edit(x: torch.Tensor) -> torch.Tensor:
            new = x.clone()
            new[row, AT] = new[row, AT].flip(-1)
            return new

        return edit

    alone = case.restart.run(case.own, torch.tensor([1]), 0, {key: doubled(0)})[0]
    beside = case.restart.run(case.own, torch.tensor([0, 1, 1, 0]), n - 1, {key: doubled(2)})
    scale = float(alone.abs().max())
    assert float((alone - beside[2]).abs().max()) <= states_tolerance(alone.dtype) * scale
    assert float((alone - beside[1]).abs().max()) > 1e-3 * scale, "it has an effect, and on its own row alone"
    assert float((beside[1] - case.own.last[1]).abs().max()) <= states_tolerance(alone.dtype) * scale
