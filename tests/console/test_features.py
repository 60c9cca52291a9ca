"""The features of a dictionary: from the list to the tokens that one is most active at, and from a token to its features and other pages."""

from __future__ import annotations

import pytest

from warehouse.analysis.feature_contexts import features_of_token, find_encoded, find_feature, top_contexts
from warehouse.catalog.ask import asker

pytestmark = pytest.mark.slow


def test_a_feature_is_shown_where_it_is_most_active_and_a_token_leads_on(tab, open_tab, server) -> None:
    wh = server.warehouse
    page = tab.go("features/lighthouse")
    lines = page.locator(".feature-contexts li")
    lines.first.wait_for()
    encoded = find_encoded(asker(wh), "lighthouse")
    contexts = top_contexts(wh.cached_run, find_feature(wh.cached_run, encoded, 2))
    assert lines.count() == len(contexts)
    for place, context in enumerate(contexts[:3]):
        tokens = lines.nth(place).locator(".token")
        assert tokens.count() == len(context.tokens)
        coloured = [bool(tokens.nth(at).get_attribute("style")) for at in range(tokens.count())]
        assert coloured == [activation is not None for activation in context.activations]
        assert lines.nth(place).locator(".foremost").get_attribute("data-pos") == str(context.pos - context.first_pos)
    top = contexts[0]
    lines.first.locator(".foremost").click()
    found = features_of_token(wh.cached_run, encoded, top.example_id, top.pos, top.seq)
    links = page.locator("[aria-label='Features of the token'] a")
    links.first.wait_for()
    assert links.all_inner_texts() == [str(feature) for feature in found["feature"].to_pylist()]
    page.get_by_text("1 row, 1 in this run").wait_for()
    assert tab.violations() == []
    again = open_tab()
    again.page.goto(page.url)
    again.page.locator(".feature-contexts .chosen").wait_for()
    page.get_by_role("link", name="open in Text").click()
    page.locator(f".strip .chosen.marked[data-pos='{top.pos}']").wait_for()
    assert top.example_id in page.url


def test_features_are_chosen_from_the_list_by_number_and_from_a_token(tab) -> None:
    page = tab.go("features/lighthouse")
    page.locator("[aria-label=features] header").get_by_text("3 of 3 shown; 5 are never active").wait_for()
    page.locator("[aria-label=features] .table-row").nth(1).click()
    page.get_by_role("heading", name="Feature 5").wait_for()
    page.get_by_label("order").select_option("rare")
    page.wait_for_function("location.hash.includes('order=rare')")
    tab.settle()
    assert page.locator("[aria-label=features] .table-row [role=gridcell]").first.inner_text() == "7"
    page.get_by_role("spinbutton", name="feature").fill("6")
    page.get_by_text("This feature is active at no token of the run.").wait_for()


def test_what_is_active_together_and_what_a_feature_goes_with_are_asked_when_they_are_looked_at(tab, server) -> None:
    asked = []
    tab.page.on("request", lambda r: asked.append(r.url.split("/api/")[-1].split("?")[0]))
    page = tab.go("features/lighthouse?f=2")
    tab.settle()
    assert {"features/together", "features/associations"}.isdisjoint(asked)
    page.get_by_role("button", name="Together").click()
    cells = page.locator("[aria-label=together] .table-row").first.locator("[role=gridcell]")
    cells.first.wait_for()
    other, both = server.warehouse.sql(
        "SELECT other_feature, n_both FROM feature_cooccurrences WHERE run_id = 'lighthouse-features' AND feature = 2 "
        "ORDER BY jaccard DESC LIMIT 1"
    ).fetchone()
    shown = cells.all_inner_texts()
    assert (shown[0], shown[2]) == (str(other), str(both))
    page.get_by_role("button", name="Goes with").click()
    row = page.locator("[aria-label=associations] .table-row").first
    row.wait_for()
    assert row.locator("[role=gridcell]").all_inner_texts()[:3] == ["upos", "NOUN", "0.001"]


def test_what_is_missing_comes_with_the_command_that_makes_it(tab) -> None:
    page = tab.go("features/later")
    page.get_by_text("traces features encode later --sae FOLDER").wait_for()
    tab.expected.append("404")
    page = tab.go("features/lighthouse?sae=none")
    page.get_by_text("No dictionary 'none'").wait_for()
    page = tab.go("features/lighthouse?f=8")
    page.get_by_text("No feature '8'").first.wait_for()
    page.get_by_text("traces features evaluate lighthouse --sae FOLDER").wait_for()
