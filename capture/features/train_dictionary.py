"""Train a dictionary on a run's stored states, and write it as a folder that SAELens loads.

    OUT/cfg.json, OUT/sae_weights.safetensors    the dictionary, a top-k autoencoder; `metadata` says on what and how it was trained
    OUT/training.jsonl                           what was measured while it was trained, a line a measurement

`topk_trainer` trains; the states come from `training_states`. Where each state is normalised by itself (`layer_norm`, as in the paper), cfg.json
says so; else all are scaled by one factor, which the weights have absorbed in the end. Meanwhile `OUT.training` holds a checkpoint: the
same call goes on from the last one, and its result equals that of an undisturbed training.

SAELens trains dictionaries too, of more kinds. It needs transformer-lens below 4, and gets its states from a model that it runs, or from a
data set of its own making; ours come from the warehouse, by SQL, and nothing is copied.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from capture.features.dictionary import Dictionary, layer_normalised
from capture.features.saelens_folder import CONFIG, WEIGHTS, is_dictionary, write_dictionary
from capture.features.topk_trainer import Recipe, TopKTrainer
from capture.features.training_states import TrainingStates, batches_from, find_states, some
from capture.jobs.job import check_option_values
from capture.model.failures import explain_memory_errors
from capture.model.loading import find_device
from warehouse.catalog.statements import check_target
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.storage import run_list, strict_json
from warehouse.storage.files import delete, sync_folder, temporary_beside, write_atomically
from warehouse.storage.manifest import folder_manifest_hash
from warehouse.warehouse import Warehouse

LOG = "training.jsonl"
DEFAULT_WHERE = "pos > 0 AND NOT is_special"
_NORMALISED = ("layer_norm", "none")
_DTYPES = ("float32", "float16", "bfloat16")
_SAMPLE, _MEASURED, _MEASURED_WHILE = 1 << 15, 1 << 15, 1 << 12
"""States that a training begins with, that the result is measured on, and that it is measured on meanwhile, at most."""
_MEASUREMENTS = 50
_CHECKPOINT_SECONDS = 30
_STATE = "state.safetensors"
_WHOLE_DEAD = 10_000_000


@dataclass(frozen=True)
class Options:
    """How a dictionary is trained."""

    site: str = "resid.post_mlp"
    layer: int | None = None
    where: str = DEFAULT_WHERE
    """A SQL condition on columns of `token_diagnostics`."""
    held_out: float = 0.1
    """The share of the examples that is measured on, and not trained on."""
    features: int = 4096
    k: int = 32
    tokens: int = 1_000_000
    """States that are trained on; more than there are: several times."""
    batch_size: int = 2048
    lr: float | None = None
    """The learning rate; None: by the number of features."""
    normalize: str = "layer_norm"
    seed: int = 0
    dtype: str = "float32"
    """The precision of the weights that are written; they are trained in float32."""
    device: str = "auto"

    def __post_init__(self) -> None:
        """Raise UsageError for a value that is none of an option's."""
        check_option_values(self, {"seed": (1 << 32) - 1, "tokens": 1 << 50})
        if not 0 < self.held_out < 1:
            raise UsageError(f"--held-out {self.held_out:g}: write a share above 0 and below 1.")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise UsageError(f"--lr {self.lr:g}: write a number above 0.")
        if self.normalize not in _NORMALISED:
            raise NotFoundError("normalisation", self.normalize, _NORMALISED)
        if self.dtype not in _DTYPES:
            raise NotFoundError("dtype", self.dtype, _DTYPES)
        if self.k > self.features:
            raise UsageError(f"--k {self.k}: there are only {self.features} features.")
        if self.batch_size > self.tokens:
            raise UsageError(f"--batch-size {self.batch_size}: more than --tokens {self.tokens}.")

    def recipe(self) -> Recipe:
        """Return what the trainer is to do."""
        steps = self.tokens // self.batch_size
        # It falls with the root of the width, as in EleutherAI's sparsify; ten times as high, as budgets are small here.
        lr = self.lr if self.lr is not None else 2e-3 / (self.features / 2**14) ** 0.5
        return Recipe(
            self.features, self.k, lr, steps, min(_WHOLE_DEAD, max(self.batch_size, self.tokens // 20)), self.seed
        )


@dataclass(frozen=True)
class DictionaryProgress:
    """How far a training is."""

    step: int
    steps: int
    loss: float
    """The squared error over that of the mean state, of the batch."""
    explained_variance: float | None
    """Of states held out, when that was last measured."""
    dead: int
    """Dead features."""
    resumed: int = 0
    """Steps that were done before this call."""


@dataclass(frozen=True)
class Trained:
    """What a training has made."""

    dictionary: Dictionary
    folder: Path
    explained_variance: float
    """Of the states held out: 1 - the squared error over the squared distance from their mean."""
    l0: float
    """Mean number of features that are active at one of them."""
    dead: int
    """Features that no token needed in the last twentieth of the training."""
    tokens: int
    """States that were trained on, each as often as it was."""
    held_out_tokens: int
    """States that it was measured on."""
    held_out_examples: int


def train(
    wh: Warehouse,
    runs: Sequence[str],
    options: Options,
    out: str | Path,
    *,
    force: bool = False,
    report: Callable[[DictionaryProgress], None] = lambda _: None,
) -> Trained:
    """Train a dictionary on states of runs, and write it.

    The same call resumes where an earlier one was interrupted.

    Args:
        wh: The warehouse.
        runs: Runs of one model that have stored the site.
        options: How to train.
        out: The folder that the dictionary becomes; it is named after it.
        force: Whether to replace a dictionary that is there, or another training that was not finished.
        report: Called after every step.

    Returns:
        The dictionary, and how well it does on states that it was not trained on.

    Raises:
        UsageError: The runs have no such states, or too few examples; or `out` is there already, or has no place to be.
        NotFoundError: There is no such run.
        TracesError: The training diverged, there is too little memory, or another process is training this dictionary.
    """
    out = Path(os.path.abspath(Path(out).expanduser()))  # noqa: PTH100  links stay as they are
    check_target(out, wh.root)
    _check_free(out, force)
    device = find_device(options.device)
    states = find_states(wh, runs, options.site, options.layer, options.where, options.held_out, options.seed)
    facts = {
        "runs": {run: folder_manifest_hash(run_list.find_run(wh.root, run)) for run in states.train.runs},
        **{k: v for k, v in asdict(options).items() if k not in ("device", "dtype")},
    }
    remedy = f"Lower --batch-size (now {options.batch_size}) or --features (now {options.features})."
    with _checkpoints(out, facts, force) as folder, explain_memory_errors(f"train {out.name}", remedy):
        trained, log = _train(states, options, device, out, folder, facts, report)
        _check_free(out, force)  # it is some time since
        _write(trained, {**facts, "lr": options.recipe().lr}, log)
    return trained


def _train(
    states: TrainingStates,
    options: Options,
    device: torch.device,
    out: Path,
    folder: Path,
    facts: dict[str, Any],
    report: Callable[[DictionaryProgress], None],
) -> tuple[Trained, list[dict[str, Any]]]:
    """Train from the last checkpoint on, and return the result and what was measured meanwhile."""
    recipe = options.recipe()
    sample = some(states.train, _SAMPLE).to(device)
    if not sample.isfinite().all():
        raise TracesError(
            f"{', '.join(states.train.runs)}: some stored states of {options.site} are no finite numbers. Leave them out with --where."
        )
    if bool((sample == sample[0]).all()):
        raise UsageError(f"All states that --where leaves are alike: {options.site} says nothing there.")
    scale = _Scale(options.normalize, sample)
    trainer = TopKTrainer(scale.applied(sample), recipe)
    held_out = some(states.held_out, _MEASURED).to(device)
    log = _resume(folder, trainer)
    begun, saved = trainer.done, time.monotonic()
    explained = log[-1]["explained_variance"] if log else None
    every = max(1, recipe.steps // _MEASUREMENTS)
    batches = batches_from(states.train, options.batch_size, skip=begun * options.batch_size)
    while trainer.done < recipe.steps:
        step = trainer.step(scale.applied(next(batches).to(device)))
        if not math.isfinite(step.unexplained):
            delete(folder)
            raise TracesError(
                f"The training of {out.name} diverged: its error is no number. Train with a smaller --lr than {recipe.lr:g}."
            )
        if trainer.done % every == 0:
            dictionary = scale.dictionary(out.name, trainer.weights, states, options)
            explained, l0 = measure(dictionary, held_out[:_MEASURED_WHILE])
            log.append({
                "step": trainer.done, "tokens": trainer.done * options.batch_size, "loss": step.unexplained,
                "explained_variance": explained, "l0": l0, "dead": step.dead,
            })  # fmt: skip
        report(DictionaryProgress(trainer.done, recipe.steps, step.unexplained, explained, step.dead, begun))
        if time.monotonic() - saved > _CHECKPOINT_SECONDS and trainer.done < recipe.steps:
            write_atomically(
                folder / _STATE, save(trainer.state(), {"log": json.dumps(log), "facts": json.dumps(facts)})
            )
            saved = time.monotonic()
    dictionary = scale.dictionary(out.name, trainer.weights, states, options).to("cpu", getattr(torch, options.dtype))
    explained, l0 = measure(dictionary.to(device), held_out)
    trained = Trained(
        dictionary, out, explained, l0, len(trainer.dead()), recipe.steps * options.batch_size, len(held_out), states.n_held_out
    )  # fmt: skip
    return trained, log


def measure(dictionary: Dictionary, x: Tensor) -> tuple[float, float]:
    """Return the explained variance of states, (n, d), and how many features are active at one of them on average."""
    error = active = 0.0
    for part in x.split(_MEASURED_WHILE):
        z = dictionary.encode(part)
        error += (part - dictionary.decode(z, part)).square().sum(dtype=torch.float64).item()
        active += (z > 0).sum().item()
    deviation = (x - x.mean(0)).square().sum(dtype=torch.float64).item()
    return 1 - error / deviation if deviation else math.nan, active / len(x)


class _Scale:
    """How states are brought to about one length before they are trained on."""

    def __init__(self, normalize: str, sample: Tensor) -> None:
        self.normalize = normalize
        length = sample.norm(dim=1).mean().item()
        self._factor = sample.shape[1] ** 0.5 / length if length else 1.0

    def applied(self, x: Tensor) -> Tensor:
        """Return states as they are trained on."""
        return layer_normalised(x) if self.normalize == "layer_norm" else x * self._factor

    def dictionary(self, name: str, weights: dict[str, Tensor], states: TrainingStates, options: Options) -> Dictionary:
        """Return the dictionary of weights in training, for states as they are stored."""
        w = {name: x.detach().clone() for name, x in weights.items()}
        if self.normalize == "none":  # the k largest of a state stay the k largest, and the rows of W_dec of length 1
            w |= {name: w[name] / self._factor for name in ("b_enc", "b_dec")}
        return Dictionary(
            name, "topk", w, hook_name=states.hook_name, model_name=states.model_name, prepend_bos=states.prepend_bos,
            context_size=states.context_size, k=options.k, normalize=self.normalize,
        )  # fmt: skip


def _write(trained: Trained, facts: dict[str, Any], log: list[dict[str, Any]]) -> None:
    """Write a dictionary beside its place, and rename it to it."""
    out = trained.folder
    result = {k: v for k, v in asdict(trained).items() if k not in ("dictionary", "folder")}
    temporary = temporary_beside(out)
    temporary.mkdir()
    try:
        write_dictionary(trained.dictionary, temporary, {"trace_warehouse": facts | result})
        write_atomically(temporary / LOG, "".join(f"{json.dumps(line)}\n" for line in log).encode())
        if out.exists():
            before = temporary_beside(out)
            out.rename(before)
            temporary.rename(out)
            delete(before)
        else:
            temporary.rename(out)
        sync_folder(out.parent)
    finally:
        delete(temporary)


def _check_free(out: Path, force: bool) -> None:
    """Raise UsageError where there is something at a place that is no dictionary to be replaced."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise UsageError(f"{out} is there already, and is no folder: choose another --out.")
    if not any(out.iterdir()):
        return
    if not is_dictionary(out) or any(
        p.name not in (CONFIG, WEIGHTS, LOG, "sparsity.safetensors") for p in out.iterdir()
    ):
        raise UsageError(f"{out} is there already, and holds other files than a dictionary: choose another --out.")
    if not force:
        raise UsageError(f"{out} is there already: choose another --out, or add --force.")


@contextmanager
def _checkpoints(out: Path, facts: dict[str, Any], force: bool) -> Iterator[Path]:
    """Give the folder for a training's checkpoints, which is gone when the block ends without an error.

    Yields:
        The folder, locked; with the last checkpoint, if there is one.

    Raises:
        UsageError: Another training has left a checkpoint there, or there is no place for one.
        TracesError: Another process is training this dictionary.
    """
    folder = out.with_name(f"{out.name}.training")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is where checkpoints go, and is no folder: choose another --out.")
    folder.mkdir(exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise TracesError(f"Another process is training {out.name}: {folder} is locked.") from None
    try:
        state = folder / _STATE
        if state.exists() and _said(state).get("facts") != json.loads(json.dumps(facts)):
            if not force:
                raise UsageError(
                    f"{folder} holds a training that was interrupted, with other data or options. Go on with those, choose another "
                    "--out, or start again with --force."
                )
            state.unlink()
        yield folder
        delete(folder)
    finally:
        lock.release()
        if folder.is_dir() and not (folder / _STATE).exists():
            delete(folder)


def _resume(folder: Path, trainer: TopKTrainer) -> list[dict[str, Any]]:
    """Go on from a checkpoint, if there is one, and return the log until there."""
    state = folder / _STATE
    if not state.exists():
        return []
    with safe_open(state, framework="pt") as f:
        trainer.restore({name: f.get_tensor(name) for name in f.keys()})  # noqa: SIM118  it is no dictionary
    log: list[dict[str, Any]] = _said(state)["log"]
    return log


def _said(state: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself; nothing where it is damaged."""
    try:
        with safe_open(state, framework="pt") as f:
            return {key: strict_json.parse(text) for key, text in (f.metadata() or {}).items()}
    except (SafetensorError, ValueError, OSError):
        return {}
