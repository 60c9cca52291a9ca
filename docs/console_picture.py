"""Make the picture of the console in the README: SmolLM2 over the sample text, a token chosen, and what each layer would have said.

    python docs/console_picture.py [OUT.png]

It captures into a folder of its own, which is deleted again. Needs the built page (`make console`), Playwright's Python package and a
Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from urllib.parse import quote_plus

TOP = Path(__file__).parents[1]
sys.path.insert(0, str(TOP / "tests"))

from console_browser import CHROMIUM, FLAGS, Server, Tab  # noqa: E402

SURPRISE = (
    "SELECT run_id, example_id, seq, pos + 1 AS pos, true_token, loss FROM next_token WHERE loss > 8 ORDER BY loss DESC"
)
"""The selection: the tokens that surprised the model most."""


def main(out: Path) -> None:
    """Capture, open the page, and write what it shows."""
    from playwright.sync_api import sync_playwright

    import capture

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        model = capture.load("smollm2")
        texts = capture.open_file(TOP / "tests" / "data" / "lighthouse.txt")
        run = capture.next_token(model, texts, keep="hidden,resid,qkv,heads", run="demo", root=root)
        capture.lens(run, model=model, root=root, run="demo-lens")
        ((example, pos),) = run.query(
            "SELECT example_id, pos FROM tokens JOIN examples USING (example_id) WHERE text LIKE 'The capital of France%' AND token = ' Paris'"
        ).fetchall()
        server = Server(root)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
                tab = Tab(browser, server.address, width=1280, height=760)
                page = tab.go(f"text/demo/{example}/0?pos={pos}&q={quote_plus(SURPRISE)}")
                page.locator("canvas").first.wait_for()
                page.wait_for_timeout(1500)
                page.screenshot(path=out)
                tab.check()
                browser.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TOP / "docs" / "console.png")
