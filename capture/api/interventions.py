"""Interventions from Python: a model's values are changed while the user calls it, or has it generate; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from capture.api.arguments import check_loaded
from warehouse.errors import UsageError
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from capture.interventions.intervention import Intervention
    from capture.model.loading import Loaded


@contextmanager
def intervene(model: Loaded, *what: str | Intervention, root: str | AnyPath | None = None) -> Iterator[None]:
    """Change values inside a model while it is called: cut a head, put in another run's state, add a vector.

    Every forward pass in the context is changed, on every sequence of its batch; `generate` too, where tokens are counted from the
    beginning of each prompt. `capture.record` inside the context sees the changed values. A run is not captured inside it, as nobody could
    tell from the run what had been changed: `capture.next_token_under` makes one that says it.

    Example:
        inputs = model.tokenizer("The lamp", return_tensors="pt").to(model.hf.device)
        with capture.intervene(model, "L12H3=zero", "resid.post_mlp@5[pos=1]=patch:first/0a1b2c3d4e5f6071"):
            logits = model.hf(**inputs).logits

    Args:
        model: A model, from `load` or `wrap`.
        *what: Interventions, made in their order where several are at one place. As text: a place, perhaps positions, and what is done,
            `L12H3=zero`, `M5=mean:RUN` (MLP 5; A5 is its attention), `q@4.H2=zero`, `resid.post_mlp@5[pos=7]=patch:RUN`,
            `resid.post_mlp@15[pos=-1:]=add:TRAIT*2`, `resid.post_mlp@15=add:FOLDER#7*4` (four times the direction of feature 7 of a
            dictionary), `resid.post_mlp@15=clamp:FOLDER#7*0` (that feature held at 0: taken out). `mean` is by position over the sequences of a run, `patch` what a run has stored
            (RUN/EXAMPLE_ID.SEQ where it has several sequences), `add` the mean difference of a trait at this layer, as steering adds it.
            Or `capture.Intervention`s, which take tensors of your own.
        root: The warehouse's folder, for runs and traits that are named; None: `$TRACES_HOME`, else `./runs`.

    Yields:
        Nothing.

    Raises:
        UsageError: The model has no such layer or head, the site cannot be changed in this family (the message says why) or was not
            stored, or the run is of another model.
        NotFoundError: There is no such site, run, sequence or trait.
    """
    loaded = check_loaded(model)
    from capture.features.feature_edits import find_feature
    from capture.interventions.intervene import hold
    from capture.interventions.intervention import Intervention, parse_intervention

    home = paths.find_root(root)
    parsed = [x if isinstance(x, Intervention) else parse_intervention(_text(x)) for x in what]
    with hold(
        loaded,
        parsed,
        home,
        lambda name, x: find_feature(loaded, x) if x.of_feature else _trait_vector(loaded, home, name, x),
    ):
        yield


def _text(what: Any) -> str:
    if not isinstance(what, str):
        raise UsageError(f"An intervention is a text such as 'L12H3=zero', not a {type(what).__name__}.")
    return what


def _trait_vector(loaded: Loaded, root: AnyPath, trait: str, intervention: Intervention) -> Any:
    """Return what coefficient 1 of steering adds at a layer: a trait's mean difference, times its gap, (D,)."""
    from capture.model.hashes import has_weights
    from capture.traits.steer import choose_vectors

    components = {"resid.post_mlp": "residual", "attn_out": "attn_out"}
    if intervention.site not in components or intervention.layer is None:
        raise UsageError(f"{intervention}: a trait's vectors are of {' or '.join(components)}.")
    layer = intervention.layer
    choice = choose_vectors(root, trait, None, "mean_diff", components[intervention.site], [layer])
    if not has_weights(loaded.model, choice.model.space):
        raise UsageError(f"{loaded.name} has other weights than the model that the vectors of {trait} were made from.")
    return choice.vectors[layer].unit * choice.vectors[layer].gap
