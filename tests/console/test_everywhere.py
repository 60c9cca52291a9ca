"""What holds of every page: nobody is kept from it, its address reproduces it, a hostile text is text, and two tabs do not meet."""

from __future__ import annotations

import re

import pytest

import capture
from warehouse.storage import paths

pytestmark = pytest.mark.slow

PLACES = (
    "runs/lighthouse",
    "ask?q=SELECT+run_id,+example_id,+pos,+loss+FROM+next_token+ORDER+BY+loss+DESC+LIMIT+50&col=loss",
    "text/lighthouse?pos=5",
    "attention/lighthouse?l=1&h=2&pos=5",
    "heads/lighthouse?l=1&h=2",
    "features/lighthouse?f=2&panel=together",
    "features/lighthouse?f=2&panel=goes",
    "effects/pairs-resample",
    "effects/pairs-patch",
    "effects/pairs-influence",
    "circuits/pairs-circuit",
    "diff/lighthouse/later",
    "diff/lighthouse/other",
    "choices/questions",
    "live",
    "log",
)
HOSTILE = (
    "<img src=x onerror=alert(1)> <script>document.title='taken'</script> ${alert(1)} {{7*7}}",
    "turned \u202e round \u0007 bell \u0000 nothing \u001b[31m red \ufeff mark",
    "'; DROP TABLE tokens; -- %s %00 &lt;b&gt; ]]> \\u0041",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_from_any_page(open_tab, scheme: str) -> None:
    tab = open_tab(scheme=scheme)
    found = {}
    for place in PLACES:
        tab.go(place)
        tab.settle()
        found[place] = tab.violations()
    assert {place: faults for place, faults in found.items() if faults} == {}


@pytest.mark.parametrize("place", [p for p in PLACES if not p.startswith(("live", "log", "runs"))])
def test_an_address_shows_the_same_in_a_fresh_browser(open_tab, place: str) -> None:
    first = open_tab()
    page = first.go(place)
    first.settle()
    address, shown = page.url, page.locator("main").inner_text()
    second = open_tab()
    second.page.goto(address)
    second.settle()
    assert without_times(second.page.locator("main").inner_text()) == without_times(shown)
    assert len(shown) > 50


def test_hostile_texts_are_text(serve, open_tab, tmp_path, make_llama, tokenizer) -> None:
    model = capture.wrap(make_llama(), tokenizer, name="tiny")
    texts = [text.replace("\0", "") for text in HOSTILE]
    run = capture.next_token(model, texts, keep="qkv,heads", run="hostile", root=tmp_path / "runs")
    tab = open_tab(over=serve(tmp_path / "runs"))
    tab.page.on("dialog", lambda dialog: pytest.fail(f"a text has run: {dialog.message}"))
    for (example,) in run.query("SELECT example_id FROM examples").fetchall():
        for place in (
            f"text/hostile/{example}/0?pos=3",
            f"attention/hostile/{example}/0?l=0&h=0&pos=3",
            "runs/hostile",
        ):
            page = tab.go(place)
            tab.settle()
            assert page.locator("img[src], main script").count() == 0
            assert "taken" not in page.title()
    page = tab.go(f"text/hostile/{example}/0")
    tab.settle()
    (text,) = run.query(f"SELECT text FROM examples WHERE example_id = '{example}'").fetchone()
    assert re.sub(r"\s", "", page.locator(".strip").inner_text()) == re.sub(r"\s", "", text)


def test_two_tabs_at_once_each_show_their_own(open_tab, server) -> None:
    examples = [
        e for (e,) in server.warehouse.sql("SELECT example_id FROM examples WHERE run_id = 'lighthouse'").fetchall()
    ]
    tabs = [open_tab(), open_tab()]
    for _ in range(5):
        for tab, example in zip(tabs, examples, strict=False):
            tab.go(f"text/lighthouse/{example}/0")
        for tab, example in zip(tabs, examples, strict=False):
            tab.settle()
            assert example in tab.page.locator(".strip").get_attribute("aria-label")


def test_a_run_that_is_gone_is_named_on_every_page_that_asks_for_it(serve, open_tab, console_root, tmp_path) -> None:
    import shutil

    root = tmp_path / "runs"
    shutil.copytree(paths.run_dir(console_root, "lighthouse"), paths.run_dir(root, "lighthouse"))
    shutil.copytree(paths.run_dir(console_root, "later"), paths.run_dir(root, "later"))
    tab = open_tab(over=serve(root))
    tab.go("text/lighthouse")
    tab.settle()
    tab.expected.append("404")
    shutil.rmtree(paths.run_dir(root, "lighthouse"))
    for place in (
        "text/lighthouse",
        "attention/lighthouse",
        "heads/lighthouse",
        "features/lighthouse",
        "runs/lighthouse",
        "effects/lighthouse",
        "circuits/lighthouse",
        "diff/lighthouse/later",
    ):
        page = tab.go(place)
        page.get_by_text(re.compile("lighthouse.*(is not here|not here)|No run 'lighthouse'")).first.wait_for()


def without_times(text: str) -> str:
    """A page's text without how long its questions took."""
    return re.sub(r"\b\d+(\.\d+)? m?s\b", "", text)
