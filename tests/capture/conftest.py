"""What the tests of data sets share: the real samples, and a hub that is a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A file of the shared test data; skips where it is not here."""
    from conftest import SHARED

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.is_file():
            pytest.skip(f"the shared test data is not here: {path}")
        return path

    return find


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts rows where `datasets` finds a hub's data set: for a name `owner/name` it is led to a folder.

    `publish("owner/name", "config", {"validation": rows}, features)` writes the Parquet files and the card that a
    repository of the hub has, with several configurations where it is called again.
    """
    import datasets

    hub = tmp_path / "hub"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for function in (datasets.load_dataset, datasets.get_dataset_config_names):

        def led(name: str, *args: Any, function: Callable[..., Any] = function) -> Any:
            return function(str(hub / name) if (hub / name).exists() else name, *args)

        monkeypatch.setattr(datasets, function.__name__, led)
    cards: dict[str, str] = {}

    def write(name: str, config: str, splits: dict[str, list[dict]], features: datasets.Features | None = None) -> None:
        folder = hub / name
        card = cards.get(name, "configs:\n") + f"- config_name: {config}\n  data_files:\n"
        for split, rows in splits.items():
            path = folder / config / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_list(rows, features=features).to_parquet(path)
            card += f"  - split: {split}\n    path: {config}/{split}.parquet\n"
        (folder / "README.md").write_text(f"---\n{card}---\n")
        cards[name] = card

    return write
