"""A real browser over a real server over a small warehouse of every kind of run.

What the browser complains of fails the test: an error on its console, a request that failed, a request to another host.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import console_home
import pytest
from console_browser import CHROMIUM, FLAGS, Server, Tab
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def console_root(
    tmp_path_factory: pytest.TempPathFactory, make_llama: Callable, tokenizer: Any, sample_lines: list[str]
) -> Path:
    """The warehouse of `console_home.py`. Read only: what changes runs takes a copy."""
    root = tmp_path_factory.mktemp("console") / "runs"
    words = PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(sample_lines), unk_token="<unk>", pad_token="<pad>")
    folder = tmp_path_factory.mktemp("models")
    console_home.make(
        root,
        load(folder / "model", sharp(make_llama(seed=5)), tokenizer),
        load(folder / "later", sharp(make_llama(seed=6)), tokenizer),
        load(folder / "other", make_llama(seed=7, vocab_size=len(words)), words),
    )
    return root


def load(folder: Path, model: Any, tokenizer: Any) -> Any:
    import capture

    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return capture.load(str(folder), device="cpu")


def sharp(model: Any) -> Any:
    """A random model whose logits are far apart, as a trained one's are."""
    import torch

    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.ndim == 2 else 1)
        model.lm_head.weight.mul_(8)
    return model


def word_tokenizer(lines: list[str]) -> Any:
    """A tokenizer by whole words, whose boundaries are not those of the others."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    t = Tokenizer(models.WordLevel(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.train_from_iterator(lines, trainers.WordLevelTrainer(vocab_size=300, special_tokens=["<pad>", "<unk>"]))
    return t


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian's package chromium)")
    from warehouse.console import page

    if "CONSOLE_STATIC" in os.environ:  # a page that is built elsewhere
        page.STATIC = Path(os.environ["CONSOLE_STATIC"])
    if not page.is_built():
        pytest.skip("the page is not built (make console)")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield started
        started.close()


@pytest.fixture(scope="session")
def server(browser: Any, console_root: Path) -> Iterator[Server]:
    """Over the warehouse of every kind of run; `browser` first, so that nothing is captured where there is none."""
    started = Server(console_root)
    yield started
    started.stop()


@pytest.fixture
def serve(browser: Any) -> Iterator[Callable[..., Server]]:
    """Starts a server over another warehouse; stopped when the test ends."""
    started: list[Server] = []

    def start(root: Path, **options: Any) -> Server:
        started.append(Server(root, **options))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def open_tab(browser: Any, server: Server) -> Iterator[Callable[..., Tab]]:
    """Opens the console in a fresh browser: `open_tab()`, or over another server."""
    opened: list[Tab] = []

    def start(over: Server | None = None, **options: Any) -> Tab:
        opened.append(Tab(browser, (over or server).address, **options))
        return opened[-1]

    yield start
    for tab in opened:
        tab.context.close()
    for tab in opened:
        tab.check()


@pytest.fixture
def tab(open_tab: Callable[..., Tab]) -> Tab:
    return open_tab()
