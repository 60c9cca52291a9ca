"""Questions: SQL to rows, rows to tokens, a column to its histogram, a brush to a condition, all of it in the address."""

from __future__ import annotations

from urllib.parse import quote

import pytest

pytestmark = pytest.mark.slow

LOSSES = "SELECT run_id, example_id, seq, pos, loss, true_token FROM next_token WHERE run_id = 'lighthouse' ORDER BY loss DESC"


def note(page) -> str:
    return page.locator(".panel[aria-label=rows] header .note").inner_text()


def ask(tab, sql: str, more: str = ""):
    page = tab.go(f"ask?q={quote(sql)}{more}")
    page.locator(".table-row").first.wait_for()
    return page


def test_a_question_that_is_written_is_answered_with_the_rows_of_the_warehouse(tab, server) -> None:
    page = tab.go("runs")
    page.locator(".table-row").first.wait_for()
    page.keyboard.press("/")
    editor = page.get_by_label("Question in SQL")
    editor.wait_for()
    page.wait_for_function("document.activeElement.classList.contains('cm-content')")
    page.keyboard.type("SELECT count(*) AS n, sum(loss) AS loss FROM next_tok")
    page.get_by_role("option").filter(has_text="next_token").first.click()
    page.keyboard.press("Control+Enter")
    n, loss = server.warehouse.sql("SELECT count(*), sum(loss) FROM next_token").fetchone()
    page.get_by_role("gridcell", name=f"{n:,}", exact=True).wait_for()
    assert float(page.locator(".table-row [role=gridcell]").nth(1).inner_text()) == pytest.approx(loss, rel=1e-4)
    assert "plain rows" in note(page)


def test_an_error_is_said_and_marked_where_it_is(tab) -> None:
    tab.expected = ["/api/sql", "status of 400"]
    wrong = "SELECT run_id,\n  lss FROM next_token"
    page = tab.go(f"ask?q={quote(wrong)}")
    page.get_by_role("alert").get_by_text("lss").wait_for()
    page.locator(".cm-lintRange-error").wait_for()
    assert page.locator(".cm-lintRange-error").all_inner_texts() == ["lss"]


def test_brushing_narrows_to_the_rows_of_the_range_and_the_address_reproduces_it(tab, open_tab, server) -> None:
    page = ask(tab, LOSSES)
    page.locator(".table-head button", has_text="loss").click()
    svg = page.locator(".histogram svg")
    svg.wait_for()
    bins = [int(bar.get_attribute("data-count")) for bar in svg.locator("rect[data-count]").all()]
    (total,) = server.warehouse.sql("SELECT count(*) FROM next_token WHERE run_id = 'lighthouse'").fetchone()
    assert sum(bins) == total
    box = svg.bounding_box()
    first, last = len(bins) // 4, len(bins) // 2
    middle = box["width"] / len(bins)
    page.mouse.move(box["x"] + middle * (first + 0.5), box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + middle * (last + 0.5), box["y"] + 50, steps=5)
    wanted = sum(bins[first : last + 1])
    page.get_by_role("cell", name=f"{wanted:,}", exact=True).wait_for()
    page.mouse.up()
    page.locator(".conditions code").wait_for()
    page.get_by_text(f"{wanted:,} rows in").wait_for()
    condition = page.locator(".conditions code").inner_text()
    losses = f"SELECT count(*), avg(loss), min(loss), max(loss), sum(loss) FROM ({LOSSES}) WHERE {condition}"
    expected = server.warehouse.sql(losses).fetchone()
    shown = [page.locator(f"[data-sum={name}]").inner_text() for name in ("count", "mean", "min", "max", "sum")]
    assert [float(text.replace(",", "")) for text in shown] == pytest.approx(expected, rel=1e-4)

    again = open_tab().page
    again.goto(page.url)
    again.get_by_text(f"{wanted:,} rows in").wait_for()
    assert again.locator(".conditions code").inner_text() == condition
    assert again.locator("[data-sum=sum]").inner_text() == shown[-1]
    again.get_by_label(f"Take off {condition}").click()
    again.get_by_text(f"{total:,} rows in").wait_for()


def test_every_row_leads_to_its_own_token_and_the_selection_goes_along(tab, server) -> None:
    page = ask(tab, LOSSES + " LIMIT 12")
    found = server.warehouse.sql(LOSSES + " LIMIT 12").fetchall()
    for row in (0, 5, 11):
        page.locator(f".table-row[data-row='{row}']").click()
        link = page.get_by_label("Where this row is").get_by_role("link", name="Text", exact=True).get_attribute("href")
        run, example, seq, pos, *_ = found[row]
        assert link.startswith(f"#/text/{run}/{example}/{seq}?")
        assert f"pos={pos}" in link.partition("?")[2].split("&")
    page.get_by_label("Where this row is").get_by_role("link", name="Text", exact=True).click()
    page.get_by_text("12 rows selected, at 12").wait_for()
    page.keyboard.press("k")
    page.get_by_text("12 rows selected, at 11").wait_for()
    run, example, seq, pos, *_ = found[10]
    assert f"#/text/{run}/{example}/{seq}?" in page.url
    assert f"pos={pos}" in page.url
    page.get_by_label("Let go of the selection").click()
    page.get_by_text("rows selected").wait_for(state="detached")
    assert "q=" not in page.url


def test_a_few_rows_stand_in_their_texts(tab, server) -> None:
    page = ask(tab, LOSSES + " LIMIT 3")
    page.locator(".card mark").nth(2).wait_for()
    came = [token for (token,) in server.warehouse.sql(f"SELECT true_token FROM ({LOSSES} LIMIT 3)").fetchall()]
    assert [shown.replace("·", " ") for shown in page.locator(".card u").all_inner_texts()] == came


def test_a_saved_query_is_asked_of_a_run_that_fits(tab, server) -> None:
    page = tab.go("ask")
    page.get_by_label("Search saved queries").fill("surest and wrong")
    page.get_by_role("button", name="Where was the model surest and wrong?").click()
    choice = page.locator(".saved-form select")
    fitting = set(choice.locator("option").all_inner_texts()) - {"the newest that fits"}
    with_rows = {run for (run,) in server.warehouse.sql("SELECT DISTINCT run_id FROM next_token").fetchall()}
    assert fitting == with_rows
    choice.select_option("lighthouse")
    page.locator(".saved-form button").click()
    page.locator(".table-row").first.wait_for()
    assert "'lighthouse'" in page.get_by_label("Question in SQL").inner_text()


def test_a_query_that_takes_long_can_be_stopped_and_the_next_one_is_answered(tab) -> None:
    page = tab.go(f"ask?q={quote('SELECT sum(a.range * b.range) AS n FROM range(10000000) AS a, range(1000000) AS b')}")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    ask(tab, "SELECT 41 + 1 AS n").get_by_role("gridcell", name="42").wait_for()


def test_ten_thousand_rows_scroll_and_what_is_left_out_is_said(tab) -> None:
    sql = "SELECT range AS n, 'row ' || range AS text FROM range(20000)"
    page = ask(tab, sql)
    assert "The first 10,000 rows are shown; there are more." in note(page)
    assert page.locator(".table-row").count() < 100
    table = page.get_by_role("grid", name="Rows")
    table.focus()
    page.keyboard.press("End")
    page.get_by_role("gridcell", name="row 9999", exact=True).wait_for()
    page.keyboard.press("k")
    page.get_by_text("10,000 rows selected, at 9,999").wait_for()


def test_nobody_is_kept_from_asking(tab) -> None:
    page = ask(tab, LOSSES + " LIMIT 20", "&col=loss&row=3")
    page.locator(".histogram svg").wait_for()
    assert tab.violations() == []
    page.locator(".table-head button", has_text="true_token").click()
    page.locator(".top-values").wait_for()
    assert tab.violations() == []
