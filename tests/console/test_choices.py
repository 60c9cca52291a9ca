"""Questions: which were right, and one of them with what its choices scored."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_questions_are_counted_narrowed_and_shown_with_the_scores_of_their_choices(tab, server) -> None:
    page = tab.go("choices/questions")
    wh = server.warehouse
    page.locator(".scores").wait_for()
    for part, condition in (("right", "is_correct"), ("wrong", "NOT is_correct")):
        (count,) = wh.sql(f"SELECT count(*) FROM mcq_predictions WHERE run_id = 'questions' AND {condition}").fetchone()
        page.get_by_role("button", name=f"{part} {count}", exact=True).wait_for()
    example, text = wh.sql(
        "SELECT example_id, text FROM examples WHERE run_id = 'questions' ORDER BY idx LIMIT 1 OFFSET 1"
    ).fetchone()
    page.locator(".table-row", has_text=text[:20]).click()
    page.locator(".question-text", has_text=text).wait_for()
    assert example in page.url
    choices = wh.sql(
        f"SELECT label, logit, is_pred, is_label FROM choices WHERE run_id = 'questions' AND example_id = '{example}' ORDER BY choice_idx"
    ).fetchall()
    shown = page.locator(".scores tbody tr")
    assert shown.count() == len(choices)
    for place, (label, logit, is_pred, is_label) in enumerate(choices):
        row = shown.nth(place)
        assert row.locator("th code").inner_text() == label
        assert float(row.locator("td .number").first.inner_text().replace("−", "-")) == pytest.approx(logit, rel=1e-3)
        assert row.get_by_text("answer", exact=True).count() == is_pred
        assert row.get_by_text("right", exact=True).count() == is_label
    assert tab.violations() == []


def test_a_run_without_questions_offers_the_command(tab) -> None:
    page = tab.go("choices/lighthouse")
    page.get_by_text("traces capture mcq-prompt").wait_for()
