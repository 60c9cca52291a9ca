"""Loads a model and its tokenizer, by a packaged model's short name, a hub name, a folder, or a GGUF file.

No remote code runs unless the caller says so, no pickled weights are read, and every way in which loading can fail ends in one
line that says what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForMultipleChoice,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from capture.model import model_files
from capture.model.anatomy import Anatomy
from capture.model.examine import examine
from capture.model.failures import error_sentence, is_memory_error
from capture.model.in_memory import in_eval_mode
from capture.model.load_errors import explain_load_errors
from capture.model.sources import find_source
from capture.model.unchanged import unchanged
from capture.model.windows import Window, find_window
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.storage import paths, strict_json
from warehouse.storage.objects import AnyPath

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""accelerate's names for its ways to spread a model; any other --device-map names a device."""

_PREDICTS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Endings of the names of model classes that predict the next token."""

Places = str | dict[str, str | int]
"""Where a model's modules go: accelerate's way to find that, a device for all, or a device for each, by the modules' names."""

HeadKind = Literal["lm", "none", "multiple-choice"]
"""What a model is loaded with: its language-model head, none, or the head that gives a question and a choice a score."""

FINETUNED = "finetuned.json"
"""The file in a fine-tuned model's folder that says which run made it, and the hash of the weights that it made."""


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuned model's folder says of the run that made it."""

    run_id: str
    weights_hash: str


@dataclass(frozen=True)
class Loaded:
    """A model in memory, with its tokenizer and where both came from."""

    model: Any = field(repr=False)
    """A model of transformers, with or without its language-model head."""
    tokenizer: Any = field(repr=False)
    """None where the model's folder has none and none was demanded."""
    name: str
    revision: str | None
    device: str
    trust_remote_code: bool
    untrained: tuple[str, ...] = ()
    """Weights that the checkpoint lacks: random ones, of a head that was not trained."""
    finetuned: Finetuned | None = None
    """What the model's folder says of the run that made it."""

    @property
    def hf(self) -> Any:
        """The model of transformers, to be called as ever: `model.hf(**inputs)`."""
        return self.model

    @property
    def dtype(self) -> str:
        """The dtype that the model computes in, such as "bfloat16"."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def window(self) -> int | None:
        """The longest text that the model was made for, in tokens; None where there is no limit."""
        return self._window.text

    @property
    def target_window(self) -> int | None:
        """The longest sequence that an encoder-decoder's decoder was made for; of other models, `window`."""
        return self._window.target

    @cached_property
    def anatomy(self) -> Anatomy:
        """What the model is made of, found once; a capture finds it anew."""
        with in_eval_mode(self.model):
            return examine(self.model)

    @cached_property
    def _window(self) -> Window:
        return find_window(self.model)


def load(
    name: str,
    *,
    head: HeadKind | None = "lm",
    revision: str | None = None,
    device: str = "auto",
    device_map: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    tokenizer: bool = True,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> Loaded:
    """Load a model in eval mode, and its tokenizer.

    Args:
        name: A packaged model's short name, a folder, a .gguf file, or a name of the hub.
        head: What the model is loaded with; None: what its own configuration says.
        revision: A branch, tag or commit of the hub; None: the newest.
        device: auto, cpu, cuda, cuda:1 or mps.
        device_map: accelerate's way to spread a model over devices, a device, or a JSON object from the names of modules to devices,
            `{"": "cpu"}`; None: all of it on `device`.
        dtype: auto, or one of `DTYPES`.
        trust_remote_code: Run Python code that comes with the model.
        tokenizer: The model must have one.
        seed: The seed of a multiple-choice head's weights, where the checkpoint lacks them.
        note: Receives a line about what takes long.

    Returns:
        The model and its tokenizer.

    Raises:
        NotFoundError: There is no such dtype.
        UsageError: There is no such model, revision or device, or the model needs what the call does not allow.
    """
    target = find_device(device)
    places = None if device_map is None else _parse_map(device_map)
    if dtype != "auto" and dtype not in DTYPES:
        raise NotFoundError("dtype", dtype, ["auto", *DTYPES])
    source = find_source(name, note)
    if revision is not None and Path(source).is_dir():
        raise UsageError(f"--revision {revision} names a revision of the hub, and {name} is a folder: leave it out.")
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with explain_load_errors(name, source):
        model_files.check_files(name, source, revision, trust_remote_code)
        with model_files.without_pickles(name), torch.random.fork_rng():
            torch.manual_seed(seed)
            model, missing, head = _load_model(source, head, dtype, places, options)
        if device_map is None:
            model = model.to(target)
    untrained = _check_untrained(name, model, missing, head)
    if type(model.config) in AutoModelForMultimodalLM._model_mapping:
        _check_reads_text(name, model)
    loaded_tokenizer = _load_tokenizer(name, source, options, required=tokenizer)
    placed_on = str(target)
    if device_map is not None:
        placed_on = ", ".join(_check_in_memory(name, model))
    model = model.eval().requires_grad_(False)
    finetuned = _read_finetuned(Path(source))
    return Loaded(model, loaded_tokenizer, name, revision, placed_on, trust_remote_code, untrained, finetuned)


def _load_model(
    source: str, head: HeadKind | None, dtype: str, places: Places | None, options: dict[str, Any]
) -> tuple[Any, set[str], HeadKind]:
    """Load the model itself.

    Returns:
        The model, the names of weights that the checkpoint lacks, and what head it was loaded with.

    Raises:
        ValueError: Weights and configuration are not of one model.
    """
    config = AutoConfig.from_pretrained(source, **options)
    if head is None:
        head = head_of((config.architectures or [""])[0])
    more: dict[str, Any] = {} if places is None else {"device_map": places}
    text = config.get_text_config()
    padding, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if isinstance(padding, int) and isinstance(size, int) and not -size <= padding < size:
        text.pad_token_id = None  # an embedding refuses a padding token that it has no row for
        more["config"] = config
    model, info = _class_for(config, head).from_pretrained(
        source,
        dtype=DTYPES.get(dtype, "auto"),
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # else it raises without naming them
        **more,
        **options,
    )
    if other := sorted(info["mismatched_keys"]):
        weight, stored, configured = other[0]
        raise ValueError(
            f"{weight} is {tuple(stored)} in its weights, and {tuple(configured)} by its config.json: they are not of one model."
        )
    return model, set(info["missing_keys"]), head


def load_tokenizer(name: str, note: Callable[[str], None] = lambda _: None) -> Any:
    """Load a model's tokenizer alone.

    Args:
        name: The model, as `load` takes it.
        note: Receives a line when a conversion begins.

    Returns:
        The tokenizer.

    Raises:
        UsageError: There is no such model, or it has no tokenizer.
    """
    return _load_tokenizer(name, find_source(name, note), {}, required=True)


def _load_tokenizer(name: str, source: str, options: dict[str, Any], required: bool) -> Any:
    """Load a model's tokenizer; None where it has none that can be read and none is required."""
    try:
        with explain_load_errors(name, source), model_files.without_pickles(name):
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            if not tokenizer("The lamp")["input_ids"]:  # what transformers makes of a folder that has none
                raise ValueError("it has no tokenizer, so that it cannot read text")
    except TracesError:
        if required:
            raise
        return None
    return tokenizer


def head_of(architecture: str) -> HeadKind:
    """Return which head a class of transformers has, by its name."""
    if architecture.endswith("ForMultipleChoice"):
        return "multiple-choice"
    return "lm" if architecture.endswith(_PREDICTS) else "none"


def _class_for(config: Any, head: HeadKind) -> Any:
    """Return transformers' class to load a model with.

    A model that also reads images or sound is loaded as one that continues a text, whatever `head` says: its bare body begins with
    the stack that reads those.
    """
    if head == "multiple-choice":
        return AutoModelForMultipleChoice
    encoder_decoder = getattr(config, "is_encoder_decoder", False)
    if head == "none" and (encoder_decoder or config.get_text_config() is config):
        return AutoModel
    predicts = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    if _has_class(predicts, config):
        return predicts
    if _has_class(AutoModelForMultimodalLM, config):
        return AutoModelForMultimodalLM
    return AutoModel if head == "none" else predicts


def _has_class(auto: Any, config: Any) -> bool:
    """Return whether transformers, or the model's own code, has a class of this kind for the configuration."""
    return type(config) in auto._model_mapping or auto.__name__ in (getattr(config, "auto_map", None) or {})


def _check_reads_text(name: str, model: Any) -> None:
    """Check that a model reads a text without images or sound.

    Raises:
        UsageError: It does not.
        Exception: Whatever the allocator raised, where memory ran out.
    """
    ids = torch.ones((1, 4), dtype=torch.long, device=model.device)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    try:
        with torch.no_grad(), unchanged(model):
            model(**inputs)
    except Exception as e:  # a model may refuse with any error
        if is_memory_error(e):
            raise
        raise UsageError(
            f"{name} ({type(model).__name__}) does not read a text alone, without images or sound: {error_sentence(e)}"
        ) from e


def _check_untrained(name: str, model: Any, missing: set[str], head: HeadKind) -> tuple[str, ...]:
    """Return the weights that are random because the checkpoint lacks them, where they may be: those of a head yet to be trained.

    The pooler that a multiple-choice head reads is among them. Without such a head a pooler is dropped: it reads the last hidden
    state and changes nothing of it, and checkpoints of masked language models come without.

    Returns:
        The weights' names.

    Raises:
        TracesError: Other weights are missing.
    """
    pooler = {key for key in missing if "pooler." in key}
    if head == "multiple-choice":
        body = f"{model.base_model_prefix}."
        untrained = {key for key in missing if not key.startswith(body)} | pooler
        missing = missing - untrained
    else:
        untrained = set()
        if pooler:
            model.base_model.pooler = None
            missing = missing - pooler
    if missing:
        some = sorted(missing)
        raise TracesError(
            f"{name} lacks weights for {', '.join(some[:3])}{' and more' if len(some) > 3 else ''}: what it computes would be "
            "partly random. It may not be a language model (an encoder: traces capture encode), or not whole."
        )
    return tuple(sorted(untrained))


def _read_finetuned(folder: AnyPath) -> Finetuned | None:
    """Read what a model's folder says of the run that made it; None where it says nothing valid."""
    try:
        contents = strict_json.parse((folder / FINETUNED).read_bytes())
        return Finetuned(paths.check_run_name(contents["run_id"]), str(contents["weights_hash"]))
    except (OSError, ValueError, TypeError, KeyError, UsageError):
        return None


def _parse_map(device_map: str) -> Places:
    """Return what --device-map says; raises UsageError for a device that is not there, and for places that are no devices."""
    if device_map in _MAPS:
        return device_map
    if not device_map.lstrip().startswith("{"):
        find_device(device_map)
        return device_map
    try:
        places = strict_json.parse(device_map)
    except ValueError as e:
        raise UsageError(f"--device-map is not JSON: {e}.") from None
    for module, place in places.items():
        if place in ("disk", "meta"):
            raise UsageError(
                f"--device-map puts '{module}' on {place}: weights that are not in memory can be neither hashed nor recorded."
            )
        if not isinstance(place, str | int) or isinstance(place, bool):
            raise UsageError(f"--device-map: '{module}' goes to {place!r}, which is no device: write cpu, 0 or cuda:0.")
        find_device(f"cuda:{place}" if isinstance(place, int) else place)
    return dict(places)


def _check_in_memory(name: str, model: Any) -> list[str]:
    """Return the devices that a model was spread over; raises UsageError where some of it found no room on any."""
    found = {str(d) for d in getattr(model, "hf_device_map", {"": model.device}).values()}
    if found & {"disk", "meta"} or any(p.is_meta for p in model.parameters()):
        raise UsageError(
            f"{name} does not fit into the memory of the devices here, and --device-map would leave some of it on the disk: compute in a "
            "smaller dtype, such as bfloat16, or take more devices."
        )
    return sorted(found)


def find_device(device: str) -> torch.device:
    """Return the device of a name; `auto` is CUDA where there is one, else MPS, else the CPU.

    Raises:
        UsageError: There is no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise UsageError(f"No device '{device}': use auto, cpu, cuda, cuda:1 or mps.") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    # torch takes cuda:128 for cuda:-128
    if str(target) != device or (target.index or 0) >= count.get(target.type, 0):
        available = [kind for kind, n in count.items() if n]
        raise UsageError(f"There is no device '{device}'; there is {', '.join(available)}.")
    return target
