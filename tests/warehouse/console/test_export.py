"""One file that shows examples: its data is never markup, its policy names its own script and style and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from synthetic_readings import add_readings, reading

from warehouse import Warehouse
from warehouse.cli.console_export import export as command
from warehouse.console import export as exporting
from warehouse.console.export import export, page_of
from warehouse.console.export_data import Head, example_data
from warehouse.errors import NotFoundError, UsageError

HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\u2028&amp;\u202e\x00\"'"


class Elements(HTMLParser):
    """What a browser makes of a page: its elements, and the text of scripts, styles and the title."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style", "title"):
            self.texts.setdefault(self._open, []).append(data)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "export.js").write_text('(()=>{let a="<script></script><!--"})();\n', encoding="utf-8")
    (folder / "export.css").write_text("main{color:red}\n", encoding="utf-8")
    monkeypatch.setattr(exporting, "BUILT", folder)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    losses = [math.inf if i == 0 else 0.123456789 for i in range(len(HOSTILE) - 1)]
    add_readings(
        tmp_path / "runs",
        "mine",
        {"e1": reading(HOSTILE, [1] * len(HOSTILE), losses), "e2": reading("ab", [1, 1], [1.0])},
    )
    return tmp_path / "runs"


def test_a_hostile_text_comes_back_as_it_was_and_adds_no_element(root: Path, built: Path) -> None:
    with Warehouse(root) as wh:
        page = export(wh, "mine", ["e1"])
        plain = export(wh, "mine", ["e2"])
    found = Elements(page)
    assert [tag for tag, _ in found.found] == [tag for tag, _ in Elements(plain).found]
    data, _ = found.texts["script"]
    shown = json.loads(data)
    (example,) = shown["examples"]
    assert example["text"] == HOSTILE
    columns = {name: values for name, _, values in example["strip"]}
    assert "".join(columns["token"]) == HOSTILE
    assert columns["loss"][:3] == [None, "Infinity", 0.12346]
    assert not {"<", ">", "&", "\u2028", "\x00"} & set(data)


def test_the_policy_names_the_script_and_the_style_by_their_hashes_and_lets_nothing_else_through(built: Path) -> None:
    page = page_of(
        {"version": "1", "run": {"run_id": "<mine>"}, "examples": []},
        *(f.read_text() for f in sorted(built.iterdir())[::-1]),
    )
    found = Elements(page)
    policy = next(
        about["content"] for tag, about in found.found if about.get("http-equiv") == "Content-Security-Policy"
    )
    for kind, text in (("script", found.texts["script"][1]), ("style", found.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in (policy or "")
    assert (policy or "").startswith("default-src 'none'; ")
    assert not re.search(r"unsafe|https?:|\*", policy or "")
    assert not any("src" in about or "href" in about for _, about in found.found)
    assert found.texts["title"] == ["<mine> · traces"]


def test_pictures_decode_to_the_attention_and_the_heads_are_those_that_stand_out(tiny_root: Path) -> None:
    with Warehouse(tiny_root) as wh:
        (example,) = wh.sql("SELECT example_id FROM examples WHERE run_id = 'llama' ORDER BY idx LIMIT 1").fetchone()
        data = example_data(wh, "llama", example, heads=[Head(2, 3), Head(0, 1)])
        assert [(head["layer"], head["head"]) for head in data["heads"]] == [(2, 3), (0, 1)]
        for head in data["heads"]:
            values = np.frombuffer(base64.b64decode(head["bytes"]), np.uint8).reshape(head["shape"])
            exact = wh.run("llama").attn(example, head["layer"], head["head"])
            assert np.abs((values / 255.0) ** 2 * head["scale"] - exact).max() < 0.004
        chosen = example_data(wh, "llama", example)["heads"]
        told = wh.sql(
            f"SELECT layer, head FROM heads WHERE run_id = 'llama' AND example_id = '{example}' "
            "ORDER BY previous_token_mass DESC, layer, head LIMIT 2"
        ).fetchall()
        assert set(told) <= {(head["layer"], head["head"]) for head in chosen}
        assert data["heads_in_all"] == 12


def test_what_is_not_there_is_said_in_a_line(root: Path, built: Path, tmp_path: Path) -> None:
    with Warehouse(root) as wh:
        with pytest.raises(UsageError, match="has no attention"):
            export(wh, "mine", ["e2"], heads=[Head(0, 0)])
        with pytest.raises(NotFoundError, match="No example 'z'"):
            export(wh, "mine", ["z"])
    out = tmp_path / "file.html"
    out.write_text("mine")
    for problem, given in (
        ("is there already", {"out": out}),
        ("is a folder", {"out": tmp_path}),
        ("in the warehouse", {"out": root / "file.html"}),
        ("write layers and heads", {"out": tmp_path / "new.html", "heads": "20-3"}),
    ):
        with pytest.raises(UsageError, match=problem):
            command("mine", "e2", **given, warehouse=root)
    assert out.read_text() == "mine"
    command("mine", "e1,e2", out=out, force=True, warehouse=root)
    assert len(json.loads(Elements(out.read_text(encoding="utf-8")).texts["script"][0])["examples"]) == 2


def test_without_the_built_page_it_says_what_builds_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(exporting, "BUILT", tmp_path / "nothing")
    with Warehouse(root) as wh, pytest.raises(UsageError, match="make console"):
        export(wh, "mine", ["e1"])


def test_a_head_that_the_model_lacks_is_refused(tiny_root: Path, built: Path) -> None:
    with Warehouse(tiny_root) as wh:
        example = wh.sql("SELECT any_value(example_id) FROM examples WHERE run_id = 'llama'").fetchone()[0]
        for head in (Head(9, 0), Head(0, 9)):
            with pytest.raises(NotFoundError):
                export(wh, "llama", [example], heads=[head])
