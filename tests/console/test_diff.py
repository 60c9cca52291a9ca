"""Two runs on the same texts: what differs most comes first, by example and by token; other tokenizers by spans of characters."""

from __future__ import annotations

import re

import pytest

from warehouse.analysis.run_diff import compared_examples, compared_sequence
from warehouse.catalog.ask import asker

pytestmark = pytest.mark.slow


def visible(token: str) -> str:
    """A token as the page writes it."""
    return token.replace(" ", "·").replace("\n", "↵") or "∅"


def wait_for_text(page) -> None:
    page.locator("[aria-label='difference by token'] [role=grid]").wait_for()


def test_the_examples_and_tokens_that_differ_most_are_first_and_lead_to_both_predictions(tab, server) -> None:
    page = tab.go("diff/lighthouse/later")
    wait_for_text(page)
    wh = server.warehouse
    examples = compared_examples(asker(wh), "lighthouse", "later")
    example = examples.rows["example_id"][0].as_py()
    note = page.locator("[aria-label='examples in both'] header .note").inner_text()
    assert note == str(examples.total)
    rows = compared_sequence(asker(wh), wh.run("lighthouse"), wh.run("later"), example).rows.to_pylist()
    tokens = page.locator(".strip [data-pos]")
    assert tokens.count() == len(rows)
    most = max((row for row in rows if row["loss_difference"] is not None), key=lambda row: abs(row["loss_difference"]))
    chosen = page.locator("[aria-label='chosen token']")
    assert page.locator(".strip [aria-selected=true]").get_attribute("data-pos") == str(most["segment"])
    tokens.nth(7).click()
    page.wait_for_function("location.hash.includes('pos=7')")
    cells = chosen.locator(".compared tbody tr").first.locator("td").all_inner_texts()
    told = [rows[7]["a_loss"], rows[7]["b_loss"], rows[7]["loss_difference"]]
    assert [float(cell.replace("−", "-").replace(",", "")) for cell in cells] == pytest.approx(told, rel=0.01)
    guesses = chosen.locator(".topk").first.locator("code").all_inner_texts()
    assert guesses == [visible(token) for token in rows[7]["a_topk_tokens"]][: len(guesses)]
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash.includes('pos=8')")


def test_where_the_two_were_compared_the_text_is_coloured_by_their_divergence(tab, server) -> None:
    """`later` beside `lighthouse` the other way round too; `other` was not compared, and the command that does it stands there."""
    wh = server.warehouse
    (example, pos, kl) = wh.sql(
        "SELECT example_id, pos, kl FROM comparisons WHERE run_id = 'lighthouse-later' AND loss IS NOT NULL ORDER BY kl DESC LIMIT 1"
    ).fetchone()
    page = tab.go(f"diff/lighthouse/later/{example}/0?color=kl")
    wait_for_text(page)
    assert "KL is of lighthouse-later." in page.locator("[aria-label='difference by token'] .diff-note").inner_text()
    assert page.locator(".strip [aria-selected=true]").get_attribute("data-pos") == str(pos + 1)
    last = page.locator("[aria-label='chosen token'] .compared tbody tr").last
    assert last.locator("th").inner_text() == "KL, nats"
    assert float(last.locator("td").last.inner_text()) == pytest.approx(kl, rel=0.01)
    back = compared_sequence(asker(wh), wh.run("later"), wh.run("lighthouse"), example)
    (reverse,) = wh.sql(
        f"SELECT kl_reverse FROM comparisons WHERE example_id = '{example}' AND other_pos = {pos}"
    ).fetchone()
    assert back.comparison == "lighthouse-later" and back.rows["kl"][pos + 1].as_py() == reverse
    page = tab.go(f"diff/lighthouse/other/{example}/0?color=kl")
    wait_for_text(page)
    note = page.locator("[aria-label='difference by token'] .diff-note").inner_text()
    assert note.endswith("For KL by token: traces compare lighthouse other")


def test_a_run_alone_lists_the_runs_that_read_its_texts(tab, server) -> None:
    page = tab.go("diff/lighthouse")
    page.get_by_role("gridcell", name="other", exact=True).wait_for()
    page.get_by_role("gridcell", name="later", exact=True).click()
    page.wait_for_function("location.hash.startsWith('#/diff/lighthouse/later')")
    wait_for_text(page)


def test_a_run_beside_itself_has_nothing_to_tell(tab) -> None:
    page = tab.go("diff/lighthouse/lighthouse")
    page.get_by_text("Nothing differs here.").wait_for()
    assert page.locator("[aria-label='examples in both'] .table-row [role=gridcell]").first.inner_text() == "0"


def test_other_tokenizers_are_aligned_by_spans_and_their_sums_are_those_of_the_tokens(tab, open_tab, server) -> None:
    wh = server.warehouse
    (example,) = wh.sql(
        "SELECT example_id FROM examples WHERE run_id = 'lighthouse' AND text LIKE 'Die Katze%'"
    ).fetchone()
    page = tab.go(f"diff/lighthouse/other/{example}/0")
    wait_for_text(page)
    compared = compared_sequence(asker(wh), wh.run("lighthouse"), wh.run("other"), example)
    rows = compared.rows.to_pylist()
    texts = page.locator(".aligned .segment-text").all_inner_texts()
    (text,) = wh.sql(f"SELECT text FROM examples WHERE run_id = 'lighthouse' AND example_id = '{example}'").fetchone()
    assert len(texts) == len(rows) > 5
    assert "".join("".join(texts).split()) == "".join(text[rows[0]["char_start"] : rows[-1]["char_end"]].split())
    first = page.locator(".aligned .segment").first.locator(".pieces")
    assert [first.nth(side).locator("i").count() for side in (0, 1)] == [len(rows[0]["a_pos"]), len(rows[0]["b_pos"])]
    both = [row for row in rows if row["loss_difference"] is not None]
    note = page.locator("[aria-label='difference by token'] .diff-note").inner_text()
    sums = [float(found.replace(",", "")) for found in re.findall(r"([\d,.]+) nats, ", note)[:2]]
    assert sums == pytest.approx([sum(row[f"{side}_loss"] for row in both) for side in "ab"], rel=1e-3)
    page.locator(".aligned .segment").nth(2).click()
    page.wait_for_function("location.hash.includes('pos=')")
    again = open_tab()
    fresh = again.page
    fresh.goto(page.url)
    wait_for_text(fresh)
    assert fresh.locator(".aligned .segment.chosen").get_attribute("data-segment") == "2"
    assert again.violations() == []


def test_runs_of_other_texts_say_what_each_read(tab) -> None:
    page = tab.go("diff/lighthouse/words")
    page.get_by_text("they have no example in common").wait_for()
    page.get_by_text("traces capture next-token").wait_for()
