"""The exported file in a real browser, from the disk: its tokens, its pixels, and not one request."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warehouse.console import export as exporting
from warehouse.console.export import Head, export, page_of

pytestmark = pytest.mark.slow
HOSTILE = "</script><script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'>"


@pytest.fixture
def open_file(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    from warehouse.console.page import STATIC

    monkeypatch.setattr(exporting, "BUILT", STATIC / "export")
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    complaints: list[str] = []

    def start(content: str) -> Any:
        file = tmp_path / "example.html"
        file.write_bytes(content.encode())
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text))
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on(
            "request",
            lambda r: complaints.append(r.url) if r.url.split("#")[0] not in (file.as_uri(), "about:srcdoc") else None,
        )
        page.goto(file.as_uri())
        return page

    yield start
    context.close()
    assert not complaints, complaints


def test_the_file_shows_tokens_lens_and_the_pixels_of_a_head(open_file, server) -> None:
    wh = server.warehouse
    (example,) = wh.sql("SELECT example_id FROM examples WHERE run_id = 'lighthouse' ORDER BY idx LIMIT 1").fetchone()
    page = open_file(export(wh, "lighthouse", [example], heads=[Head(1, 2)]))
    page.locator(".strip [data-pos]").first.wait_for()
    tokens = [token for (token,) in wh.sql(
        f"SELECT token FROM tokens WHERE run_id = 'lighthouse' AND example_id = '{example}' AND seq = 0 ORDER BY pos"
    ).fetchall()]  # fmt: skip
    assert page.locator(".strip [data-pos]").all_inner_texts()[1:5] == tokens[1:5]
    assert page.locator(".strip [data-pos]").count() == len(tokens)
    page.get_by_text("1 of 12 heads: as asked for").wait_for()
    page.locator("canvas[aria-label^='Logit lens']").wait_for()
    picture = wh.run("lighthouse").attn_matrix(example, 1, 2).pooled(256)
    colours = page.evaluate(
        """() => { const c = document.querySelector("canvas[aria-label^='Attention']"); const n = c.dataset.rows;
        const x = c.getContext('2d').getImageData(0, 0, c.width, c.height); const at = (row, col) => {
          const p = (Math.floor((row + .5) * c.height / n) * c.width + Math.floor((col + .5) * c.width / n)) * 4;
          return [...x.data.slice(p, p + 3)]; };
        return Array.from({length: n}, (_, row) => Array.from({length: n}, (_, col) => at(row, col))); }"""
    )
    by_byte: dict[int, set[tuple[int, ...]]] = {}
    for row, line in enumerate(picture.values):
        for col, byte in enumerate(line):
            by_byte.setdefault(int(byte), set()).add(tuple(colours[row][col]))
    assert all(len(found) == 1 for found in by_byte.values()), "a byte has one colour wherever it is"
    assert by_byte[0] == {(0xFB, 0xFC, 0xFD)}
    assert by_byte[255] == {(0x0A, 0x2D, 0x57)}
    page.locator(".strip [data-pos='3']").click()
    page.get_by_label("chosen token").get_by_text("pos 3").wait_for()


def test_hostile_text_stays_text(open_file) -> None:
    picture = base64.b64encode(bytes([0, 255, 128, 0])).decode()
    strip = [["pos", "number", [0, 1]], ["token", "text", [HOSTILE, "b"]], ["loss", "number", [None, "Infinity"]]]
    example = {
        "example_id": HOSTILE, "seq": 0, "text": HOSTILE, "strip": strip, "lens": None, "heads_in_all": 1, "heads_rule": HOSTILE,
        "heads": [{"layer": 0, "head": 0, "shape": [2, 2], "cell": [1, 1], "scale": 1.0, "bytes": picture, "about": {HOSTILE: 1.0}}],
    }  # fmt: skip
    data = {"version": "0", "run": {"run_id": HOSTILE, "model": HOSTILE, "dataset": HOSTILE}, "examples": [example]}
    script, style = exporting._built()
    page = open_file(page_of(data, script, style))
    page.locator(".strip [data-pos='0']", has_text="window.stolen").wait_for()
    page.locator(".strip [data-pos='0']").hover()
    page.get_by_role("tooltip").wait_for()
    assert page.evaluate("window.stolen === undefined && document.images.length === 0")
    assert page.evaluate("document.scripts.length") == 2


def test_a_notebook_shows_the_page_in_a_frame_that_reaches_nothing(open_file, server) -> None:
    wh = server.warehouse
    (example,) = wh.sql("SELECT example_id FROM examples WHERE run_id = 'lighthouse' ORDER BY idx LIMIT 1").fetchone()
    page = open_file(f"<!doctype html><title>notebook</title>{export(wh, 'lighthouse', [example])._repr_html_()}")
    frame = page.frame_locator("iframe")
    frame.locator(".strip [data-pos='3']").click()
    frame.get_by_label("chosen token").get_by_text("pos 3").wait_for()
    frame.get_by_role("button", name="Dark colours").click()
    frame.get_by_role("button", name="Light colours").wait_for()
