"""Checks a model's files before transformers opens them: what is in them must not decide what is run or read.

transformers follows names in files: an index may name pickled shards, or files in other folders; a configuration may name the
weights' file, or code for attention; an adapter names a base model. Such names are checked here first, for folders and for
models of the hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers.utils.hub import cached_file

from warehouse.errors import TracesError, UsageError
from warehouse.storage import strict_json

_WEIGHTS = "model.safetensors"
_INDEX = ".index.json"
_CODE = ("attn_implementation", "experts_implementation")
"""Fields of a configuration that may name a repository of the hub whose code computes attention or experts."""


def check_files(name: str, source: str, revision: str | None, trusted: bool) -> None:
    """Check that a model's files ask for nothing but reading safetensors in the model's own folder.

    Args:
        name: The model as the user named it, for messages.
        source: A folder or a hub name.
        revision: A revision of the hub; None: the newest.
        trusted: Code of the hub may be run.

    Raises:
        UsageError: The files name pickles, files elsewhere, an adapter, or code of the hub that is not trusted.
        TracesError: The files cannot be read.
    """
    # only this read waits for a hub that cannot be reached
    config = _read_json(name, source, "config.json", revision, reach=True)
    check_adapter(name, source, revision, alone=config is None)
    if config is None:
        return  # transformers explains better why there is none
    if not trusted and (code := next(_code_repositories(config), None)):
        raise UsageError(
            f"{name}: its config.json has code of '{code}' on the hub compute attention or experts. If you trust whoever wrote it "
            "with your account and your files, add --trust-remote-code."
        )
    weights = config.get("transformers_weights") or _WEIGHTS
    if not isinstance(weights, str) or not _is_safe(weights.removesuffix(_INDEX)):
        _refuse(name, "config.json", weights)
    index = weights if weights.endswith(_INDEX) else None
    if index is None and _find_file(source, weights, revision) is None:
        index = weights + _INDEX
    if index is not None and (contents := _read_json(name, source, index, revision)) is not None:
        shards = contents.get("weight_map")
        if not isinstance(shards, dict):
            raise TracesError(f"{name} cannot be loaded: {index} has no weight_map.")
        for shard in shards.values():
            if not _is_safe(shard):
                _refuse(name, index, shard)


def check_adapter(name: str, source: str, revision: str | None, alone: bool = True) -> None:
    """Check that a model has no adapter, `alone` or beside its weights.

    Args:
        name: The model as the user named it, for messages.
        source: A folder or a hub name.
        revision: A revision of the hub; None: the newest.
        alone: There is no model beside it.

    Raises:
        UsageError: There is an adapter.
    """
    adapter = _read_json(name, source, "adapter_config.json", revision)
    if adapter is None:
        return
    base = repr(adapter.get("base_model_name_or_path"))[:200]
    if alone:
        raise UsageError(
            f"{name} is an adapter without a model (adapter_config.json, made for {base}), and adapters are not loaded: merge it into "
            "its base model first (peft's merge_and_unload, then save_pretrained of model and tokenizer), and name that folder."
        )
    raise UsageError(
        f"{name} has an adapter beside its weights (adapter_config.json, made for {base}), and adapters are not loaded: the weights "
        "alone would be another model. Merge it into them (peft's merge_and_unload, then save_pretrained), or delete "
        "adapter_config.json to have the weights without it."
    )


@contextmanager
def without_pickles(name: str) -> Iterator[None]:
    """Make torch.load refuse while the context is open: whatever files transformers comes upon, it reads no pickle.

    Yields:
        Nothing.
    """
    before = torch.load

    def refuse(file: Any, *args: Any, **kw: Any) -> NoReturn:
        _refuse(name, None, file if isinstance(file, str | Path) else "a file")

    torch.load = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = before


def _refuse(name: str, where: str | None, file: object) -> NoReturn:
    subject = f"{where} names {str(file)[:200]!r} as" if where else f"{Path(str(file)).name!r} is"
    raise UsageError(
        f"{name} is not loaded: {subject} a file of its weights, and they are read only from .safetensors files in the model's own "
        "folder, as a pickle can run whatever is in it. Save the model again with save_pretrained."
    )


def _is_safe(file: object) -> bool:
    """Return whether `file` is the plain name of a safetensors file."""
    return isinstance(file, str) and file.endswith(".safetensors") and not set("/\\\0") & set(file)


def _find_file(source: str, file: str, revision: str | None, reach: bool = False) -> Path | None:
    """Find a file of a model, and fetch it from the hub if need be.

    Returns:
        Its path; None where there is no such file.

    Raises:
        OSError: The hub cannot be reached, and `reach` is set.
    """
    try:
        path = cached_file(
            source,
            file,
            revision=revision,
            _raise_exceptions_for_missing_entries=reach,
            _raise_exceptions_for_connection_errors=reach,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError as e:
        missing = isinstance(e.__cause__, EntryNotFoundError) and not isinstance(e.__cause__, LocalEntryNotFoundError)
        if missing or Path(source).is_dir():
            return None
        raise
    return None if path is None else Path(path)


def _read_json(name: str, source: str, file: str, revision: str | None, reach: bool = False) -> dict[str, Any] | None:
    """Read a JSON object from a file of a model.

    Returns:
        The object; None where there is no such file.

    Raises:
        TracesError: The file holds something else.
    """
    path = _find_file(source, file, revision, reach)
    if path is None:
        return None
    try:
        value = strict_json.parse(path.read_bytes())
    except ValueError as e:
        raise TracesError(f"{name} cannot be loaded: {file}: {e}.") from None
    if not isinstance(value, dict):
        raise TracesError(f"{name} cannot be loaded: {file} holds no JSON object.")
    return value


def _code_repositories(config: dict[str, Any]) -> Iterator[str]:
    """Yield the repositories that a configuration, or one within it, would take code from."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _code_repositories(value)
        if key.removeprefix("_") in _CODE:
            named = value.values() if isinstance(value, dict) else [value]
            yield from (v for v in named if isinstance(v, str) and "/" in v)
