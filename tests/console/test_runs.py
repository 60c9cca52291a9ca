"""The runs: what each is, what it was made of, its texts; runs that come, go, and are not there."""

from __future__ import annotations

from urllib.parse import quote

import pytest
import synthetic

from warehouse.catalog.build import refresh
from warehouse.maintenance.remove import remove_run

pytestmark = pytest.mark.slow

ROWS = {"examples": [{"example_id": "one", "text": "once"}]}


def test_a_run_is_told_as_its_manifest_has_it(tab, server) -> None:
    page = tab.go("runs/lighthouse")
    manifest = server.warehouse.cached_run("lighthouse").meta
    facts = page.locator(".manifest")
    facts.wait_for()
    text = facts.inner_text()
    assert f"{manifest.counts.tokens:,}" in text
    assert manifest.model.weights_hash in text
    assert manifest.versions["duckdb"] in text
    for site in server.warehouse.cached_run("lighthouse").arrays()["site"]:
        page.locator(".panel[aria-label=arrays] code", has_text=site).first.wait_for()


def test_the_lineage_of_every_run_is_that_of_the_manifests(tab, server) -> None:
    parents = dict(server.warehouse.sql("SELECT run_id, parents FROM runs").fetchall())
    page = tab.go("runs/pairs")
    page.locator(".lineage").wait_for()
    shown = {(e.get_attribute("data-from"), e.get_attribute("data-to")) for e in page.locator(".lineage path").all()}
    family = {"pairs"}
    while more := {run for run, of in parents.items() if family & set(of)} - family:
        family |= more
    assert len(family) > 5
    assert shown == {(parent, run) for run in family for parent in parents[run] if parent in family}
    page.locator(".lineage [data-run=pairs-curve] a").click()
    page.get_by_role("heading", name="pairs-curve").wait_for()
    assert page.url.endswith("#/runs/pairs-curve")


def test_a_run_leads_to_the_pages_that_show_something_of_it(tab) -> None:
    page = tab.go("runs/pairs-patch")
    links = page.get_by_label("Where this run is shown").get_by_role("link")
    links.first.wait_for()
    assert links.all_inner_texts() == ["Effects"]
    tabs = page.get_by_label("Pages")
    tabs.get_by_role("link", name="Effects").click()  # opens on the run that was looked at
    page.wait_for_url("**/#/effects/pairs-patch")


def test_the_texts_of_a_run_are_ordered_and_open(tab, server) -> None:
    page = tab.go("runs/lighthouse?order=loss")
    losses = "SELECT example_id FROM next_token WHERE run_id = 'lighthouse' GROUP BY 1 ORDER BY avg(loss) DESC LIMIT 1"
    (worst,) = server.warehouse.sql(losses).fetchone()
    first = page.get_by_role("grid", name="Texts").locator(".table-row").first
    first.wait_for()
    assert worst in first.inner_text()
    first.click()
    page.wait_for_url(f"**/#/text/lighthouse/{worst}/0*")


def test_runs_come_and_go_while_the_page_is_open(serve, open_tab, tmp_path) -> None:
    root = tmp_path / "runs"
    synthetic.add_run(root, "first", "next-token", ROWS)
    tab = open_tab(serve(root))
    page = tab.go(f"runs?q={quote('SELECT 1 AS one')}")
    runs = page.get_by_role("grid", name="Runs")
    runs.get_by_role("gridcell", name="first", exact=True).wait_for()
    synthetic.add_run(root, "newcomer", "next-token", ROWS, parents=["first"])
    page.get_by_text("Run newcomer came.").wait_for()
    runs.get_by_role("gridcell", name="newcomer", exact=True).click()
    page.get_by_role("grid", name="Texts").get_by_role("gridcell", name="once", exact=True).wait_for()
    remove_run(root, "newcomer")
    refresh(root)
    page.get_by_text("Run newcomer is not here").wait_for()
    page.get_by_role("main").get_by_text("SELECT 1 AS one").wait_for()
    runs.get_by_role("gridcell", name="newcomer", exact=True).wait_for(state="detached")


def test_damaged_and_unfinished_runs_are_said(serve, open_tab, console_root, tmp_path) -> None:
    root = tmp_path / "runs"
    synthetic.add_run(root, "good", "next-token", ROWS)
    synthetic.add_run(root, "bad", "next-token", ROWS)
    (root / "run_id=bad" / "run.json").write_text("{")
    with pytest.warns(match="bad"):
        over = serve(root)
    page = open_tab(over).go("runs")
    page.get_by_label("Damaged and unfinished runs").get_by_text("damaged", exact=True).wait_for()
    assert page.get_by_role("gridcell", name="bad", exact=True).count() == 0


def test_an_empty_warehouse_says_what_fills_it(serve, open_tab, tmp_path) -> None:
    (tmp_path / "runs").mkdir()
    page = open_tab(serve(tmp_path / "runs")).go("runs")
    page.get_by_text("traces capture next-token").wait_for()


def test_the_log_has_the_statements_and_asks_them_again(tab, server) -> None:
    page = tab.go("runs/lighthouse?order=tokens")
    page.get_by_role("grid", name="Texts").locator(".table-row").first.wait_for()
    page.get_by_role("link", name="Log", exact=True).click()
    page.get_by_label("Search the log").fill("order by n_tokens")
    statement = page.locator(".log .statement").last
    asked = statement.locator("code").inner_text()
    assert server.warehouse.sql(asked).fetchall()
    statement.get_by_role("link", name="ask this").click()
    page.get_by_role("grid", name="Rows").locator(".table-row").first.wait_for()


@pytest.mark.parametrize(("place", "shown"), [("runs", ".table-row"), ("runs/pairs", ".manifest"), ("log", ".log li")])
def test_nobody_is_kept_from_the_runs(tab, place, shown) -> None:
    tab.page.locator(".table-row").first.wait_for()
    tab.go(place).locator(shown).first.wait_for()
    assert tab.violations() == []
