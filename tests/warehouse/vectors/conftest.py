"""Vector tables of few rows: recall is measured on few queries, but where a test is about it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from warehouse.vectors import ann_index

QUERIES = ann_index._SAMPLE


@pytest.fixture(scope="package", autouse=True)
def few_queries() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ann_index, "_SAMPLE", 20)
        yield


@pytest.fixture(autouse=True)
def all_queries_for_recall(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "recall" in request.node.name:
        monkeypatch.setattr(ann_index, "_SAMPLE", QUERIES)
