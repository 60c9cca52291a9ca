"""Looks at a model's files before transformers opens them: what is in them must not decide what is run or read.

transformers follows names in files: an index may name pickled shards, or files in other folders; a configuration may name the
weights' file, or code for attention; an adapter names a base model. Here such names are looked at first, for folders and models
of the hub alike.
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
"""Fields of a configuration that may name a repository of the hub whose code computes that."""


def check_files(name: str, source: str, revision: str | None, trusted: bool) -> None:
    """Raises UsageError where the files ask for what is not done: reading pickles or files elsewhere, adapters, and without
    `trusted` code of the hub; TracesError where they cannot be read. `source` is a folder or a hub name.
    """
    config = _read_json(
        name, source, "config.json", revision, reach=True
    )  # where the hub is away, it is waited for once
    check_adapter(name, source, revision, alone=config is None)
    if config is None:
        return  # transformers says better why there is none
    if not trusted and (code := next(_code_repositories(config), None)):
        raise UsageError(
            f"{name}: its config.json has '{code}' of the hub compute attention or experts, which is code of somebody's. If you "
            "trust whoever wrote it with your account and your files, add --trust-remote-code."
        )
    weights = config.get("transformers_weights") or _WEIGHTS
    if not isinstance(weights, str) or not _is_safe(weights.removesuffix(_INDEX)):
        _refuse(name, "config.json", weights)
    index = weights if weights.endswith(_INDEX) else None
    if index is None and _find_file(source, weights, revision) is None:
        index = weights + _INDEX
    if index is not None and (told := _read_json(name, source, index, revision)) is not None:
        shards = told.get("weight_map")
        if not isinstance(shards, dict):
            raise TracesError(f"{name} cannot be loaded: {index} has no weight_map.")
        for shard in shards.values():
            if not _is_safe(shard):
                _refuse(name, index, shard)


def check_adapter(name: str, source: str, revision: str | None, alone: bool = True) -> None:
    """Raises UsageError where there is an adapter, `alone` or beside the weights of a model."""
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
    """Has torch.load refuse while a model is loaded: whatever way transformers takes through its files, a pickle is not read."""
    before = torch.load

    def refuse(file: Any, *args: Any, **kw: Any) -> NoReturn:
        _refuse(name, None, file if isinstance(file, str | Path) else "a file")

    torch.load = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = before


def _refuse(name: str, where: str | None, file: object) -> NoReturn:
    told = f"{where} names {str(file)[:200]!r} as" if where else f"{Path(str(file)).name!r} is"
    raise UsageError(
        f"{name} is not loaded: {told} a file of its weights, and they are read from .safetensors files in the model's own folder "
        "alone, as a pickle can run whatever is in it. Save the model again with save_pretrained."
    )


def _is_safe(file: object) -> bool:
    """Whether it is the plain name of a safetensors file."""
    return isinstance(file, str) and file.endswith(".safetensors") and not set("/\\\0") & set(file)


def _find_file(source: str, file: str, revision: str | None, reach: bool = False) -> Path | None:
    """Where the file is, fetched from the hub if need be; None where there is none. With `reach`, an OSError where the hub cannot be
    reached.
    """
    try:
        found = cached_file(
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
    return None if found is None else Path(found)


def _read_json(name: str, source: str, file: str, revision: str | None, reach: bool = False) -> dict[str, Any] | None:
    """A JSON object, None where there is no such file. Raises TracesError for anything else, and as `_path` does."""
    path = _find_file(source, file, revision, reach)
    if path is None:
        return None
    try:
        found = strict_json.parse(path.read_bytes())
    except ValueError as e:
        raise TracesError(f"{name} cannot be loaded: {file}: {e}.") from None
    if not isinstance(found, dict):
        raise TracesError(f"{name} cannot be loaded: {file} holds no JSON object.")
    return found


def _code_repositories(config: dict[str, Any]) -> Iterator[str]:
    """Repositories that a configuration, or one within it, would take code from."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _code_repositories(value)
        if key.removeprefix("_") in _CODE:
            named = value.values() if isinstance(value, dict) else [value]
            yield from (v for v in named if isinstance(v, str) and "/" in v)
