"""Everything that runs a model: text in, traces out. Imports `warehouse`, never the other way.

>>> import capture
>>> model = capture.load("smollm2")                                             # doctest: +SKIP
>>> run = capture.next_token(model, ["The capital of France is Paris."])        # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capture.api.captures import encode, generate, mcq, next_token
    from capture.api.circuit_files import export_circuit, import_circuit
    from capture.api.circuits import discover_circuit, evaluate_circuit
    from capture.api.comparison import compare
    from capture.api.derived import lens, project, run_traits
    from capture.api.dictionaries import read_dictionary, train_dictionary
    from capture.api.effects import ablate, patch
    from capture.api.features import encode_features, evaluate_features
    from capture.api.finetuning import finetune
    from capture.api.imports import import_traces
    from capture.api.influence import influence
    from capture.api.intervened import next_token_under
    from capture.api.interventions import intervene
    from capture.api.live import record
    from capture.api.models import load, wrap
    from capture.api.sources import open_chats, open_dataset, open_file, open_prompt_sets
    from capture.api.steering import steer
    from capture.api.tasks import prepare_task
    from capture.data.memory import open_texts
    from capture.interventions.intervention import Intervention, Positions

__all__ = [
    "Intervention",
    "Positions",
    "ablate",
    "compare",
    "discover_circuit",
    "encode",
    "encode_features",
    "evaluate_circuit",
    "evaluate_features",
    "export_circuit",
    "finetune",
    "generate",
    "import_circuit",
    "import_traces",
    "influence",
    "intervene",
    "lens",
    "load",
    "mcq",
    "next_token",
    "next_token_under",
    "open_chats",
    "open_dataset",
    "open_file",
    "open_prompt_sets",
    "open_texts",
    "patch",
    "prepare_task",
    "project",
    "read_dictionary",
    "record",
    "run_traits",
    "steer",
    "train_dictionary",
    "wrap",
]

_MODULES = {
    **dict.fromkeys(("encode", "generate", "mcq", "next_token"), "capture.api.captures"),
    **dict.fromkeys(("export_circuit", "import_circuit"), "capture.api.circuit_files"),
    **dict.fromkeys(("discover_circuit", "evaluate_circuit"), "capture.api.circuits"),
    "compare": "capture.api.comparison",
    **dict.fromkeys(("lens", "project", "run_traits"), "capture.api.derived"),
    **dict.fromkeys(("ablate", "patch"), "capture.api.effects"),
    **dict.fromkeys(("encode_features", "evaluate_features"), "capture.api.features"),
    **dict.fromkeys(("read_dictionary", "train_dictionary"), "capture.api.dictionaries"),
    "finetune": "capture.api.finetuning",
    **dict.fromkeys(("Intervention", "Positions"), "capture.interventions.intervention"),
    "import_traces": "capture.api.imports",
    "influence": "capture.api.influence",
    "intervene": "capture.api.interventions",
    "next_token_under": "capture.api.intervened",
    "record": "capture.api.live",
    **dict.fromkeys(("load", "wrap"), "capture.api.models"),
    **dict.fromkeys(("open_chats", "open_dataset", "open_file", "open_prompt_sets"), "capture.api.sources"),
    "steer": "capture.api.steering",
    "open_texts": "capture.data.memory",
    "prepare_task": "capture.api.tasks",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use, so that commands which run no model start without torch.

    Returns:
        What has that name.

    Raises:
        AttributeError: The package has no such name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'capture' has no attribute '{name}'")
    from importlib import import_module

    from warehouse.progress import import_tqdm

    import_tqdm()  # before transformers and datasets do, and warn of a notebook without ipywidgets
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
