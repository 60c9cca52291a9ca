"""Models for the functions of this package: loaded from where they lie, or taken from memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture.api.arguments import in_python_terms
from warehouse.errors import UsageError

if TYPE_CHECKING:
    from capture.model.loading import HeadKind, Loaded


@in_python_terms
def load(
    name: str | Path,
    *,
    head: HeadKind | None = None,
    revision: str | None = None,
    device: str = "auto",
    device_map: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    seed: int = 0,
) -> Loaded:
    """Load a model and its tokenizer, in eval mode.

    Example:
        model = capture.load("smollm2")
        model.hf.config.num_hidden_layers

    Args:
        name: A packaged model (`smollm2`, `minilm`), a hub name, a folder, or a .gguf file.
        head: `lm`, `multiple-choice` or `none`: the head to load it with; None: the one that its configuration names.
        revision: A branch, tag or commit of a hub model.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        device_map: `auto` spreads a large model over all devices, as accelerate does; or a JSON object from the names of modules to
            devices, `{"model.embed_tokens": 0, …}`.
        dtype: Compute in `float32`, `float16` or `bfloat16`; `auto`: the weights' own.
        trust_remote_code: Run Python code that comes with the model, with your account's rights. Only for a publisher you trust.
        seed: Seed for the weights of a multiple-choice head that the checkpoint lacks.

    Returns:
        The model: `.hf` is transformers' own, `.tokenizer` its tokenizer.

    Raises:
        UsageError: There is no such model, revision or device, or the model needs what the call does not allow.
        NotFoundError: There is no such dtype.
    """
    from capture.api.runs import screen_note
    from capture.model import loading

    if head not in (None, "lm", "none", "multiple-choice"):
        raise UsageError(f"head {head!r}: use lm, multiple-choice or none.")
    return loading.load(
        str(name),
        head=head,
        revision=revision,
        device=device,
        device_map=device_map,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        seed=seed,
        note=screen_note,
    )


@in_python_terms
def wrap(hf_model: Any, tokenizer: Any, *, name: str | None = None) -> Loaded:
    """Take a model that is already in memory, such as one that was just trained.

    Nothing is copied: a capture records the model as it is then, in eval mode, and leaves it as it was.

    Example:
        model = capture.wrap(trainer.model, tokenizer, name="step-500")

    Args:
        hf_model: A model of transformers.
        tokenizer: Its tokenizer.
        name: What runs call the model; None: where it was loaded from, else its class.

    Returns:
        The model, as `load` returns one.

    Raises:
        UsageError: It is no model of transformers, or that is no tokenizer.
    """
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from capture.model.loading import Loaded

    if not isinstance(hf_model, PreTrainedModel):
        remedy = " Merge the adapter first: model.merge_and_unload()." if hasattr(hf_model, "merge_and_unload") else ""
        raise UsageError(f"A {type(hf_model).__name__} is no model of transformers (PreTrainedModel).{remedy}")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        inner = " Give its .tokenizer." if hasattr(tokenizer, "tokenizer") else ""
        raise UsageError(f"A {type(tokenizer).__name__} is no tokenizer of transformers.{inner}")
    name = name or str(getattr(hf_model.config, "_name_or_path", "") or "") or type(hf_model).__name__
    if not name.isprintable():
        raise UsageError(f"name {name!r}: give the model a name of printable characters.")
    return Loaded(hf_model, tokenizer, name, None, str(hf_model.device), trust_remote_code=False)
