"""Converts GGUF models to transformers' own format, once: dequantizing takes many times as long as loading the copy."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

from capture.model.failures import error_sentence, is_memory_error
from warehouse.errors import TracesError
from warehouse.storage.files import delete, delete_stale_temporaries, file_checksum, temporary_beside
from warehouse.storage.paths import converted_models_dir

_MAGIC = b"GGUF"


def is_gguf(path: Path | str) -> bool:
    """Return whether a name ends as a GGUF file's does."""
    return str(path).lower().endswith(".gguf")


def convert(gguf: Path, note: Callable[[str], None]) -> Path:
    """Return the folder of a GGUF file's converted copy; convert it first where there is no copy yet.

    Args:
        gguf: The file.
        note: Receives a line when the conversion begins.

    Returns:
        A folder of a float32 model and its tokenizer, as `save_pretrained` writes them.

    Raises:
        TracesError: The file is no GGUF model, is cut short, or cannot be read; or memory or disk is short.
    """
    with gguf.open("rb") as f:
        if f.read(len(_MAGIC)) != _MAGIC:
            raise TracesError(f"{gguf} is not a GGUF model: it does not begin with the letters GGUF.")
    home = converted_models_dir()
    folder = home / f"{gguf.stem}-{file_checksum(gguf)[:12]}"
    if (folder / "config.json").is_file():
        return folder
    note(f"converting {gguf.name}, once: the copy stays in {home}")
    home.mkdir(parents=True, exist_ok=True)
    delete_stale_temporaries(home)  # what conversions that were killed left behind
    temporary = temporary_beside(folder)
    temporary.mkdir()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # The whole path, and an empty folder: no file of that name in the working folder is read, nor what lies beside the file.
    options: dict[str, Any] = {"gguf_file": str(gguf.resolve()), "trust_remote_code": False}
    try:
        with redirect_stderr(io.StringIO()):  # no switch turns its progress bar off
            model = AutoModelForCausalLM.from_pretrained(
                temporary, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(temporary, **options)
        tokenizer.save_pretrained(temporary)
        model.save_pretrained(temporary)
        temporary.rename(folder)
    except Exception as e:  # a reader of GGUF may raise anything for a broken file
        if (folder / "config.json").is_file():  # another process was faster
            return folder
        if is_memory_error(e):
            raise TracesError(f"There is not enough memory to convert {gguf} to float32.") from e
        if isinstance(e, OSError) and e.errno is not None and e.filename != str(gguf):
            raise TracesError(f"{gguf} cannot be converted: {error_sentence(e)}") from e
        raise TracesError(
            f"{gguf} is not a GGUF model that transformers can read, or it is cut short: {error_sentence(e)}"
        ) from e
    finally:
        delete(temporary)
    return folder
