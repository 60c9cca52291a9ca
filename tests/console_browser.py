"""The console in a real browser: a server over a warehouse, and tabs that remember what the browser complained of."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from warehouse import Warehouse

TOKEN = "the-token-of-the-tests"
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
SECONDS = 15
"""For anything that the page should show."""
SHOWN = """() => document.querySelector('main')?.innerText
    + [...document.querySelectorAll('canvas')].map((c) => c.dataset.painted).join()"""
"""What a page shows: its text, and how often its pictures were drawn."""
AXE = Path(__file__).parents[1] / "console" / "node_modules" / "axe-core" / "axe.min.js"


class Server:
    """The console's server in a thread of its own, on a free port of loopback."""

    def __init__(self, root: Path, **options: Any) -> None:
        import uvicorn

        from warehouse.console.app import create_app

        self.warehouse = Warehouse(root)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(self.warehouse, TOKEN, **options), log_level="warning", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + SECONDS
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(SECONDS)
        self._socket.close()
        self.warehouse.close()


class Tab:
    """A page in a browser of its own, and what that complained of."""

    def __init__(self, browser: Any, address: str, scheme: str = "light", width: int = 1280, height: int = 800) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
        self.address = address
        self.complaints: list[str] = []
        self.expected: list[str] = []
        """Parts of complaints that the test means to cause."""
        self.page = self.context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.page.on("console", lambda m: self.complaints.append(f"console: {m.text}") if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.complaints.append(f"page: {e}"))
        self.page.on("response", lambda r: self.complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        self.page.on("request", self._look_at)
        self._pending: set[Any] = set()
        self.page.on("request", lambda r: self._pending.add(r))
        for end in ("requestfinished", "requestfailed"):
            self.page.on(end, lambda r: self._pending.discard(r))
        self.page.goto(f"{address}/#token={TOKEN}")

    def _look_at(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.complaints.append(f"a request to another host: {request.url}")

    def go(self, place: str) -> Any:
        """Open a place of the console, such as `text/lighthouse`, as a link would; returns Playwright's page."""
        self.page.goto(f"{self.address}/#/{place}")
        return self.page

    def settle(self, page: Any = None) -> None:
        """Wait until nothing is on its way, streams of events apart, and what is shown stays as it is."""
        page, before, still = page or self.page, "", 0
        deadline = time.monotonic() + SECONDS
        while still < 3:
            assert time.monotonic() < deadline, f"the page does not come to rest: {[r.url for r in self._pending]}"
            page.wait_for_timeout(100)
            now = page.evaluate(SHOWN)
            on_its_way = [r for r in self._pending if not r.url.endswith("/events")]
            still, before = (0 if on_its_way or not now.strip() or now != before else still + 1), now

    def check(self) -> None:
        unexpected = [c for c in self.complaints if not any(part in c for part in self.expected)]
        assert not unexpected, unexpected

    def violations(self) -> list[str]:
        """What axe finds fault with on the page once it is at rest: rows that are asked again are pale until they have come."""
        if not AXE.is_file():
            pytest.skip("axe-core is not installed (make console)")
        self.settle()
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found]
