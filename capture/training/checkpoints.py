"""The folder that a training writes to: what makes it a training that can be resumed, and where to resume it.

While a model is trained, `OUT/checkpoints` holds what identifies the training and a checkpoint an epoch. A folder that belongs to
another training, or holds anything else, is refused before anything is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from warehouse.errors import UsageError
from warehouse.storage import strict_json
from warehouse.storage.files import delete, write_atomically

_IDENTITY_FILE = "begun.json"
_STATE = "trainer_state.json"
_WEIGHTS = "model.safetensors"
_CHECKPOINT = re.compile(r"checkpoint-\d{1,18}")


@contextmanager
def prepare_folder(out: Path, checkpoints: Path, identity: dict[str, Any]) -> Iterator[None]:
    """Prepare `out` for training, and remove it again where training fails before its first checkpoint.

    Args:
        out: The folder of the model to be.
        checkpoints: The folder in it for checkpoints.
        identity: What must be equal for a second training to resume the first.

    Yields:
        Nothing; training happens inside.

    Raises:
        UsageError: `out` holds a model, or another training.
    """
    identity_file = checkpoints / _IDENTITY_FILE
    created = [p for p in (checkpoints, *checkpoints.parents) if not p.exists()]
    if not identity_file.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(
                f"{out} is not {'empty' if out.is_dir() else 'a folder'}. Choose another --out, or delete it."
            )
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(identity_file, json.dumps(identity, indent=1).encode())
    elif _read_identity(identity_file) != json.loads(json.dumps(identity)):
        raise UsageError(
            f"{out} holds a fine-tuning with other data or options. Resume it with those, choose another --out, or delete it."
        )
    try:
        yield
    except BaseException:
        if created and not complete_checkpoints(checkpoints):
            delete(checkpoints)
            for folder in created[1:]:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
        raise


def _read_identity(identity_file: Path) -> Any:
    """Read what identifies a training; None where that is damaged."""
    try:
        return strict_json.parse(identity_file.read_bytes())
    except ValueError:
        return None


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in order; they have a state, which is written after everything else."""
    complete = [p for p in folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(p.name) and (p / _STATE).is_file()]
    return sorted(complete, key=lambda p: int(p.name.rpartition("-")[2]))


def find_resume_checkpoint(folder: Path) -> Path | None:
    """Find the checkpoint to resume from, and delete incomplete ones that a killed process has left.

    Args:
        folder: The folder of the checkpoints.

    Returns:
        The last complete checkpoint; None where there is none.

    Raises:
        UsageError: The checkpoint is not one that this training leaves: its best weights lie elsewhere, or are pickled.
    """
    complete = complete_checkpoints(folder)
    for path in folder.glob("checkpoint-*"):
        if path not in complete:
            delete(path)
    if not complete:
        return None
    try:
        best = strict_json.parse((complete[-1] / _STATE).read_bytes())["best_model_checkpoint"]
        places = [complete[-1], Path(best) if best is not None else complete[-1]]
    except (ValueError, TypeError, KeyError):
        places = []
    inside = all(p.resolve().parent == folder.resolve() and (p / _WEIGHTS).is_file() for p in places)
    if not places or not inside:
        raise UsageError(
            f"{complete[-1]} cannot be resumed: it, or the best checkpoint that it names, has no {_WEIGHTS} in {folder}. "
            "Delete it to resume from the one before it, or delete the whole folder to start again."
        )
    return complete[-1]
