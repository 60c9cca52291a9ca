"""The frame around the views: the token, the tabs, the runs that are there."""

from __future__ import annotations

import pytest
from console_browser import TOKEN

pytestmark = pytest.mark.slow


def test_the_token_leaves_the_address_and_every_run_is_listed(tab, server) -> None:
    runs = [run for (run,) in server.warehouse.sql("SELECT run_id FROM runs").fetchall()]
    for run in runs:
        tab.page.get_by_role("gridcell", name=run, exact=True).first.wait_for()
    assert TOKEN not in tab.page.url


def test_without_the_token_nothing_is_shown_and_the_page_says_why(browser, server) -> None:
    page = browser.new_page()
    page.goto(server.address)
    page.get_by_text("has no valid token").first.wait_for()
    page.close()
