"""The live page: a prompt becomes a run, a cut head is seen token by token, and what the page says of both is what the runs hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from warehouse import Warehouse

pytestmark = pytest.mark.slow

PATIENCE = 120_000
"""Milliseconds for a worker that imports torch, on a busy machine."""


def test_without_a_model_the_page_says_what_starts_one(tab) -> None:
    tab.go("live").get_by_text("traces console --model smollm2").wait_for()


def test_a_prompt_is_read_and_a_head_is_cut(
    serve: Callable, open_tab: Callable, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    tab = open_tab(serve(root, model=str(tiny_folder("llama"))))
    page = tab.go("live")
    text = "Every night the keeper <b>lit</b> the lamp."
    page.get_by_label("Prompt", exact=True).fill(text)
    page.get_by_role("button", name="Read it").click()
    page.get_by_text("Expected next").wait_for(timeout=PATIENCE)
    tokens = page.get_by_role("gridcell").all_inner_texts()
    with Warehouse(root) as wh:
        known = wh.sql("SELECT token FROM tokens WHERE run_id = 'live-1' ORDER BY pos").fetchall()
    assert tokens == [token for (token,) in known]
    assert "".join(tokens) == text

    page.get_by_label("layer", exact=True).first.fill("1")
    page.get_by_label("head", exact=True).fill("2")
    page.get_by_role("button", name="Read again without L1H2").click()
    page.get_by_role("heading", name="with the cut").wait_for(timeout=PATIENCE)
    assert page.url.split("#")[1].startswith("/live/live-2/")
    with Warehouse(root) as wh:
        ((more,),) = wh.sql(
            "SELECT sum(a.loss - b.loss) FROM next_token AS a JOIN next_token AS b USING (example_id, seq, pos) "
            "WHERE a.run_id = 'live-2' AND b.run_id = 'live-1'"
        ).fetchall()
    said = page.get_by_text("With the cut, the text costs").inner_text()
    assert float(said.split()[6].replace("−", "-")) == pytest.approx(more, rel=0.01)
    assert tab.violations() == []
