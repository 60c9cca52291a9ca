"""What the console takes from a click to what is painted, in a real Chromium, beside the same answer without a page.

SmolLM2 over 200 paragraphs of WikiText-2, a text of 2,048 tokens, and the million residuals of `residuals.py` with their tokens. A click
is a real one; its time ends with the frame after the one that shows the answer. Needs the built page (`make console`), Playwright's
Python package and a Chromium.

    python benchmarks/console.py [--times 15] [--examples 10000] [--rows 1000000]
"""

from __future__ import annotations

import argparse
import http.client
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import residuals
from common import is_small, left_out, median_ms, parsed, record
from inputs import texts

from warehouse import TraceStore, Warehouse
from warehouse.console.page import is_built
from warehouse.storage import paths
from warehouse.vectors import index_spec, ingest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
LONG = 2048
WAIT = """() => {
    window.waited = new Promise((resolve) => {
        let began = 0;
        const begin = (event) => { if (!began) began = event.timeStamp; };
        for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, begin, { capture: true, once: true });
        const before = READ();
        const look = () => {
            const now = READ();
            if (!began || now === before || !now) return requestAnimationFrame(look);
            requestAnimationFrame(() => resolve(performance.now() - began));
        };
        look();
    });
}"""
"""Waits for an event of the reader, and then until what `READ` gives has changed and is painted: milliseconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=15, help="clicks of each kind")
    parser.add_argument("--examples", type=int, default=10_000, help="texts that are opened one after another")
    parser.add_argument("--rows", type=int, choices=(1_000_000,), default=1_000_000)
    args = parsed(parser, times=2, examples=20, rows=5_000)
    if CHROMIUM is None or find_spec("playwright") is None or not is_built():
        left_out("Chromium, Playwright's Python package and the built page (make console)")
    from playwright.sync_api import sync_playwright

    if args.small:
        residuals.shrink(args.rows)
    root, long_text = captured(8 if args.small else 200, 64 if args.small else LONG)
    many = residuals.million().path.parent
    ingest.add(many, "million", [index_spec.IndexSpec(None, residuals.KEY.site, (residuals.LAYER,))], note=print)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        with console(root) as (address, _):
            opening(browser, address, args.times)
            clicks(browser, address, longest(root), args.times)
            long_head(browser, address, root, long_text, args.times)
        with console(many) as (address, _):
            nearest(browser, address, many, args.times, args.rows)
            grouped(browser, address, many, args.times, args.rows)
        browser.close()
    memory(many, args.examples)


def captured(count: int, length: int) -> tuple[Path, str]:
    """The warehouse of 200 paragraphs and one long text, captured once; the long text's example."""
    root = residuals.root() / "console"
    if not paths.run_dir(root, "long").is_dir():
        import capture

        print("capturing the texts, once", flush=True)
        model = capture.load("smollm2")
        capture.next_token(
            model,
            texts()[:count],
            keep="hidden,qkv,heads",
            max_len=256,
            run="wt2",
            root=root,
            index="resid.post_mlp@15",
        )
        joined = " ".join(texts()[: 8 if length < LONG else 60])
        capture.next_token(model, [joined], keep="qkv", max_len=length, run="long", root=root)
    ((example,),) = TraceStore(paths.run_dir(root, "long")).query("SELECT example_id FROM examples").fetchall()
    return root, example


@contextmanager
def console(root: Path) -> Iterator[tuple[str, int]]:
    """`traces console` over a warehouse: the address with its token and the process, until the block ends."""
    command = [sys.executable, "-m", "capture.cli.main", "console", "--no-browser", "-w", str(root)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        told = ""
        while not (found := re.search(r"http://\S+#token=\S+", told)):
            line = server.stdout.readline()
            if not line:
                raise SystemExit(f"traces console did not start: {told}")
            told += line
        time.sleep(0.5 if is_small() else 5)  # what it warms up in the background is no part of a click
        yield found[0], server.pid
    finally:
        server.terminate()
        server.wait(30)


class Page:
    """A tab that counts what a click takes."""

    def __init__(self, browser: Any, address: str) -> None:
        self.base, self.token = address.split("/#token=")
        self.tab = browser.new_page(viewport={"width": 1280, "height": 800})
        self.tab.goto(address)

    def go(self, place: str, ready: str) -> None:
        self.tab.goto(f"{self.base}/#/{place}")
        self.tab.locator(ready).first.wait_for()
        self.tab.wait_for_timeout(300)

    def timed(self, act: Callable[[], None], read: str) -> float:
        """Milliseconds from the event that `act` causes until what `read` (JavaScript) gives has changed and is painted."""
        self.tab.evaluate(WAIT.replace("READ()", f"({read})()"))
        act()
        return float(self.tab.evaluate("() => window.waited"))


def opening(browser: Any, address: str, times: int) -> None:
    """First paint, and the tokens of a text, in fresh browsers."""
    base, token = address.split("/#token=")
    with_tokens = f"{base}/#/text/wt2?token={token}"
    painted, visible, empty = [], [], []
    for _ in range(times):
        tab = browser.new_context().new_page()
        tab.goto("data:text/html,<p>nothing</p>")
        empty.append(_first_paint(tab))
        tab.close()
        tab = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        tab.goto(with_tokens)
        tab.locator(".strip [data-pos]").first.wait_for()
        visible.append(float(tab.evaluate("() => performance.now()")))
        painted.append(_first_paint(tab))
        tab.context.close()
    blank = f"{statistics.median(empty):.0f} ms"
    for key, what, found, target in (
        ("first", "first contentful paint of the console in a fresh browser", painted, "1 s"),
        ("tokens", "the tokens of a text visible, in a fresh browser", visible, "1.5 s"),
    ):
        ms = statistics.median(found)
        record(f"console#{key}", what, "a page with one word", f"{ms:.0f} ms", blank, f"{ms:.0f} ms", target)


def _first_paint(tab: Any) -> float:
    tab.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
    return float(tab.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime"))


def longest(root: Path) -> str:
    """The paragraph with the most tokens."""
    store = TraceStore(paths.run_dir(root, "wt2"))
    return str(store.query("SELECT example_id FROM examples ORDER BY n_tokens DESC, idx LIMIT 1").fetchall()[0][0])


def clicks(browser: Any, address: str, example: str, times: int) -> None:
    """What is clicked most: a token, another text, a head, a cell of the grid, another page; each time something that is new."""
    page = Page(browser, address)
    tab = page.tab
    found: dict[str, list[float]] = {}
    page.go(f"text/wt2/{example}/0?panel=nearest", ".strip [data-pos]")
    for n in range(times):
        token = tab.locator(f'.strip [data-pos="{n + 3}"]')
        chosen = "() => document.querySelector('.strip [aria-selected=true]')?.dataset.pos"
        found.setdefault("a token", []).append(page.timed(token.click, chosen))
    rows = tab.locator('[aria-label="Texts"] :is([role=row], [role=option]):not([aria-selected=true])')
    for n in range(min(times, rows.count())):
        words = "() => document.querySelector('.strip')?.textContent"
        found.setdefault("another text", []).append(page.timed(rows.nth(n).click, words))
    page.go(f"attention/wt2/{example}/0?l=10&h=0", ".heatmap canvas")
    large = "() => document.querySelector('canvas[aria-label*=\"each row looks\"]')?.dataset.painted"
    grid = tab.locator('canvas[aria-label*="by layer and head"]')
    box = grid.bounding_box()
    for n in range(times):
        at = {"x": box["width"] * ((n % 8) + 1.5) / 9, "y": box["height"] * ((n % 20) + 2.5) / 30}
        found.setdefault("a head", []).append(page.timed(lambda at=at: grid.click(position=at), large))
    for n in range(times):
        name = ("Text", "Attention")[n % 2]
        title = "() => document.querySelector('[aria-current=page]')?.textContent + !!document.querySelector('.strip, canvas')"
        found.setdefault("another page", []).append(
            page.timed(tab.get_by_role("link", name=name, exact=True).click, title)
        )
    tab.close()
    medians = {name: statistics.median(values) for name, values in found.items()}
    told = ", ".join(f"{name} {ms:.0f} ms" for name, ms in medians.items())
    blank = empty_click(browser, times)
    worst = max(medians.values())
    record(
        "console#click", f"click to painted, {len(medians)} kinds, 200 paragraphs", "a button of an empty page that writes a word",
        told, f"{blank:.0f} ms", f"{worst:.0f} ms for the slowest kind", "100 ms",
    )  # fmt: skip


def empty_click(browser: Any, times: int) -> float:
    """Milliseconds of a click on a page on which nothing is to do."""
    tab = browser.new_page()
    tab.set_content("<button onclick='this.textContent = this.textContent + 1'>n</button>")
    page = Page.__new__(Page)
    page.tab = tab
    read = "() => document.querySelector('button').textContent"
    found = [page.timed(tab.locator("button").click, read) for _ in range(times)]
    tab.close()
    return statistics.median(found)


def long_head(browser: Any, address: str, root: Path, example: str, times: int) -> None:
    """A head of a long text, beside matplotlib's picture of the same."""
    page = Page(browser, address)
    page.go(f"attention/long/{example}/0?l=3&h=0", 'canvas[aria-label*="each row looks"]')
    large = "() => document.querySelector('canvas[aria-label*=\"each row looks\"]')?.dataset.painted"
    heads = page.tab.locator('button[aria-label*="of layer"]')
    heads.first.wait_for()
    found = [page.timed(heads.nth(1 + n % (heads.count() - 1)).click, large) for n in range(times)]
    page.tab.close()
    store = TraceStore(paths.run_dir(root, "long"))

    def drawn() -> None:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(6, 6))
        figure.gca().imshow(store.attn(example, 3, 1) ** 0.5)
        figure.savefig("/dev/null", format="png")
        plt.close(figure)

    ms, theirs = statistics.median(found), median_ms(drawn, 3)
    length = len(store.encodings(example)["input_ids"])
    record(
        "console#head", f"a head at {length:,} tokens, click to painted", "matplotlib's picture of the same matrix",
        f"{ms:.0f} ms", f"{theirs:.0f} ms", f"{ms / theirs:.2f} of its time", "300 ms",
    )  # fmt: skip


def nearest(browser: Any, address: str, root: Path, times: int, rows: int) -> None:
    """The nearest of a token over a million vectors, beside the same question in Python."""
    page = Page(browser, address)
    page.go("text/million?panel=nearest&pos=1", "ol.contexts li")
    read = "() => document.querySelector('ol.contexts')?.textContent"
    found = [page.timed(page.tab.locator(f'.strip [data-pos="{n + 2}"]').click, read) for n in range(times)]
    page.tab.close()
    with Warehouse(root) as wh:
        store = TraceStore(paths.run_dir(root, "million"))
        ((example,),) = store.query("SELECT example_id FROM examples ORDER BY idx LIMIT 1").fetchall()
        vectors = store.resid(example, "post_mlp", residuals.LAYER)
        theirs = median_ms(lambda: wh.nearest(vectors[2], layer=residuals.LAYER, k=10).fetchall(), times)
    ms = statistics.median(found)
    record(
        "console#nearest", f"nearest over {rows:,} vectors with their context, click to painted", "`Warehouse.nearest` alone",
        f"{ms:.0f} ms", f"{theirs:.0f} ms", f"{ms:.0f} ms", "200 ms",
    )  # fmt: skip


def grouped(browser: Any, address: str, root: Path, times: int, rows: int) -> None:
    """A question over a million tokens, beside the same in Python."""
    page = Page(browser, address)
    page.go(f"ask?q={quote(grouping(64))}", "[role=gridcell]")
    read = "() => document.querySelector('.table [role=rowgroup]')?.textContent"
    found = []
    for n in range(times):
        page.tab.locator(".cm-content").click()
        page.tab.keyboard.press("Control+a")
        page.tab.keyboard.insert_text(grouping(63 - n))
        page.tab.wait_for_timeout(500)  # the editor checks what is typed
        found.append(page.timed(lambda: page.tab.keyboard.press("Control+Enter"), read))
    page.tab.close()
    with Warehouse(root) as wh:
        theirs = median_ms(lambda: wh.sql(grouping(64)).to_arrow_table(), times)
    ms = statistics.median(found)
    record(
        "console#sql", f"SQL over {rows:,} tokens with a group-by, click to painted", "`Warehouse.sql` alone",
        f"{ms:.0f} ms", f"{theirs:.0f} ms", f"{ms:.0f} ms", "400 ms",
    )  # fmt: skip


def grouping(width: int) -> str:
    """A question over all tokens; another width has another answer."""
    return (
        f"SELECT pos // {width} AS place, count(*) AS n, avg(loss) AS loss, avg(entropy) AS entropy FROM next_token "
        "GROUP BY place ORDER BY place"
    )


def memory(root: Path, examples: int) -> None:
    """The server's memory while texts are opened one after another: tokens, predictions, their vectors' neighbours are left out."""
    with Warehouse(root) as wh:
        names = [name for (name,) in wh.sql("SELECT example_id FROM examples ORDER BY idx").fetchall()]
    with console(root) as (address, pid):
        base, token = address.split("/#token=")
        connection = http.client.HTTPConnection(base.removeprefix("http://"))
        sizes = []
        for n in range(examples):
            query = urlencode({"run": "million", "example": names[n % len(names)]})
            for path in ("sequences", "strip"):
                connection.request("GET", f"/api/{path}?{query}", headers={"Authorization": f"Bearer {token}"})
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, answer.status
            if n + 1 in (max(examples // 10, 1), examples):
                sizes.append(_resident(pid))
    first, last = sizes[0], sizes[-1]
    record(
        "console#memory", f"memory of the server after {examples:,} texts were opened one after another", "after a tenth of them",
        f"{last / 2**20:.0f} MiB", f"{first / 2**20:.0f} MiB", f"{last / first:.3f} times", "flat within 5 %",
    )  # fmt: skip


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) * 1024


if __name__ == "__main__":
    main()
