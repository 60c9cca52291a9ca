"""A text token by token: its colours are its losses, its lists what was predicted there, its lens and neighbours the warehouse's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from console_pixels import cells, palette, steps

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def text(server) -> tuple[str, list[dict]]:
    """The first text of the run lighthouse: its id and its tokens, each with the loss of the token itself."""
    example = server.warehouse.sql(
        "SELECT example_id FROM examples WHERE run_id = 'lighthouse' ORDER BY idx LIMIT 1"
    ).fetchone()[0]
    rows = server.warehouse.sql(
        "SELECT t.pos, t.token, n.loss, n.topk_tokens FROM tokens AS t LEFT JOIN next_token AS n ON n.run_id = t.run_id "
        "AND n.example_id = t.example_id AND n.seq = t.seq AND n.pos = t.pos - 1 "
        f"WHERE t.run_id = 'lighthouse' AND t.example_id = '{example}' AND t.seq = 0 ORDER BY t.pos"
    ).to_arrow_table()  # fmt: skip
    return example, rows.to_pylist()


def strip(page):
    page.locator(".strip .token").first.wait_for()
    return page.locator(".strip")


def colours(page) -> list[str | None]:
    """The background of every token; None where it has none."""
    found = strip(page).evaluate("s => [...s.querySelectorAll('.token')].map(t => t.style.background)")
    return [c or None for c in found]


def css(name: str, values: list[float | None], low: float, high: float, scheme: str = "light") -> list[str | None]:
    colour = palette(name, scheme)
    step = [None if v is None else int(steps(np.float64(v), low, high)) for v in values]
    return [None if s is None else "rgb({}, {}, {})".format(*colour[s]) for s in step]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_token_is_coloured_by_its_own_loss_and_nothing_is_wrong_with_the_page(open_tab, text, scheme) -> None:
    example, tokens = text
    tab = open_tab(scheme=scheme)
    page = tab.go(f"text/lighthouse/{example}/0?pos=3")
    assert colours(page) == css("loss", [t["loss"] for t in tokens], 0, 10, scheme)
    shown = strip(page).evaluate("s => [...s.querySelectorAll('.token')].map(t => t.textContent)")
    assert shown == [t["token"].replace("\n", "↵\n") for t in tokens]
    page.locator(".lens canvas").wait_for()
    assert tab.violations() == []


def test_a_chosen_token_is_in_the_address_and_has_the_predictions_of_the_token_before(tab, text) -> None:
    example, tokens = text
    page = tab.go(f"text/lighthouse/{example}/0")
    strip(page).locator("[data-pos='5']").click()
    page.wait_for_url("**pos=5**")
    assert strip(page).locator("[aria-selected=true]").get_attribute("data-pos") == "5"
    here = page.locator(".panel[aria-label=token] .topk").first.locator("code").all_inner_texts()
    assert here == [t.replace(" ", "·").replace("\n", "↵") for t in tokens[5]["topk_tokens"]]
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**pos=6**")
    assert page.evaluate("document.activeElement.dataset.pos") == "6", (
        "the focus goes with the token: one of the grid has it"
    )
    assert strip(page).locator("[tabindex='0']").count() == 1
    page.go_back()  # over the step of the key, which replaced the address
    page.wait_for_function("!location.hash.includes('pos=')")


def test_every_cell_of_the_lens_has_the_colour_of_its_probability(tab, server, text) -> None:
    example, tokens = text
    page = tab.go(f"text/lighthouse/{example}/0?near=0&lens=prob")
    canvas = page.locator(".lens canvas[data-painted]")
    canvas.wait_for()
    rows = server.warehouse.sql(
        "SELECT actual_prob FROM logit_lens WHERE run_id = 'lighthouse-lens' "
        f"AND example_id = '{example}' AND seq = 0 ORDER BY layer DESC NULLS LAST, pos"
    ).to_arrow_table()["actual_prob"].to_numpy()  # fmt: skip
    found = cells(canvas)
    values = rows.reshape(-1, len(tokens)).astype(np.float64)
    there = ~np.isnan(values)
    assert np.array_equal(found[..., 3] > 0, there)
    assert np.array_equal(found[there][:, :3], palette("mass")[steps(values[there], 0, 1)])


def test_nearest_tokens_are_those_of_the_library_and_a_click_goes_there(tab, server, text) -> None:
    example, _ = text
    page = tab.go(f"text/lighthouse/{example}/0?pos=4")
    strip(page)
    page.keyboard.press("n")
    first = page.locator(".contexts a").first
    first.wait_for()
    vector = server.warehouse.run("lighthouse").resid(example, "post_mlp", 1)[4]
    near = server.warehouse.nearest(vector, layer=1, k=21, model="model").df()
    near = near[(near.example_id != example) | (near.pos != 4)]
    titles = [a.get_attribute("title") for a in page.locator(".contexts a").all()]
    assert titles == [f"{r.run_id} / {r.example_id} / {r.seq}, pos {r.pos}" for r in near.head(20).itertuples()]
    there = near.iloc[0]
    first.click()
    page.wait_for_url(f"**/text/{there.run_id}/{there.example_id}/{there.seq}?**pos={there.pos}**")


def test_two_runs_are_taken_apart_where_their_tokens_are_the_same(tab, server, text) -> None:
    example, tokens = text
    page = tab.go(f"text/lighthouse/{example}/0?vs=later")
    page.get_by_text("loss here − loss in later, nats").wait_for()
    later = server.warehouse.sql(
        f"SELECT loss FROM next_token WHERE run_id = 'later' AND example_id = '{example}' AND seq = 0 ORDER BY pos"
    ).fetchall()  # fmt: skip
    apart = [None if t["loss"] is None else t["loss"] - later[t["pos"] - 1][0] for t in tokens]
    most = max(abs(a) for a in apart if a is not None)
    assert colours(page) == css("difference", apart, -most, most)
    page.locator(".text-panel select").last.select_option("other")
    page.get_by_text("has other tokens there").wait_for()
    assert set(colours(page)) == {None}


def test_texts_are_searched_and_ordered_and_another_is_chosen(tab, server, text) -> None:
    page = tab.go("text/lighthouse")
    page.wait_for_url("**/text/lighthouse/*/0")  # the first text opens
    page.get_by_role("button", name="loss", exact=True).click()
    worst = server.warehouse.sql(
        "SELECT example_id FROM next_token WHERE run_id = 'lighthouse' GROUP BY 1 ORDER BY avg(loss) DESC LIMIT 1"
    ).fetchone()[0]
    page.wait_for_function(
        "id => document.querySelector('.texts-list [role=option]')?.dataset.example === id", arg=worst
    )
    page.get_by_role("listbox", name="Texts").focus()
    page.keyboard.press("ArrowDown")
    chosen = page.locator(".texts-list .at").get_attribute("data-example")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/text/lighthouse/{chosen}/0?**")
    page.get_by_label("Search these texts").fill("harbour")
    (n,) = server.warehouse.sql(
        "SELECT count(*) FROM examples WHERE run_id = 'lighthouse' AND text ILIKE '%harbour%'"
    ).fetchone()
    page.locator(".texts-foot", has_text=f"1–{n} of {n}").wait_for()
    assert page.locator(".texts-list [role=option]").count() == n > 0


def test_a_response_lies_along_a_trait_with_its_named_places(tab, server) -> None:
    example, peak, first = server.warehouse.sql(
        "SELECT example_id, peak_point, first_pos FROM trait_dynamics WHERE source_run_id = 'answers' ORDER BY example_id LIMIT 1"
    ).fetchone()  # fmt: skip
    page = tab.go(f"text/answers/{example}/0?panel=traits&color=trait")
    page.get_by_text("projection on loud").first.wait_for()
    page.get_by_text(f"peak at {first + peak}").wait_for()
    made = server.warehouse.sql(
        f"SELECT pos FROM trait_projections WHERE source_run_id = 'answers' AND example_id = '{example}' AND seq = 0 ORDER BY pos"
    ).fetchall()  # fmt: skip
    assert [pos for pos, colour in enumerate(colours(page)) if colour] == [pos for (pos,) in made]


def test_what_is_missing_says_which_command_makes_it(tab, server) -> None:
    example = server.warehouse.sql("SELECT example_id FROM examples WHERE run_id = 'later' LIMIT 1").fetchone()[0]
    page = tab.go(f"text/later/{example}/0")
    page.get_by_text("traces lens later").wait_for()


def test_tokens_of_the_selection_are_marked_and_counted(tab, server, text) -> None:
    example, _ = text
    sql = "SELECT run_id, example_id, seq, pos, loss FROM next_token WHERE run_id = 'lighthouse' AND loss > 11"
    page = tab.go(f"text/lighthouse/{example}/0?q={quote(sql)}")
    chosen = server.warehouse.sql(
        f"SELECT pos FROM ({sql}) WHERE example_id = '{example}' AND seq = 0 ORDER BY pos"
    ).fetchall()
    (n,) = server.warehouse.sql(f"SELECT count(*) FROM ({sql})").fetchone()
    page.get_by_text(f"{n} rows, {len(chosen)} in this example").wait_for()
    marked = strip(page).evaluate("s => [...s.querySelectorAll('.marked')].map(t => Number(t.dataset.pos))")
    assert marked == [pos for (pos,) in chosen] != []


def test_a_chat_has_a_row_a_message_under_who_says_it(
    serve: Callable, open_tab: Callable, load_tiny: Callable, tmp_path: Path
) -> None:
    import capture

    loaded = load_tiny()
    loaded.tokenizer.chat_template = "Now .\n{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    said = [{"role": "user", "content": "How far is it?"}, {"role": "assistant", "content": "Two miles."}]
    run = capture.next_token(loaded, capture.open_chats([said]), run="chats", root=tmp_path / "runs")
    (example,) = run.query("SELECT example_id FROM examples").fetchone()
    tab = open_tab(serve(tmp_path / "runs"))
    page = tab.go(f"text/chats/{example}/0?pos=3")
    strip(page)
    assert page.locator(".strip [role=rowheader]").all_inner_texts() == ["template", "0 user", "1 assistant"]
    shown = page.locator(".strip").evaluate(
        "s => [...s.querySelectorAll('[role=row]')].map(r => [...r.querySelectorAll('.token')].map(t => Number(t.dataset.pos)))"
    )
    turns = run.query("SELECT list(pos ORDER BY pos) FROM tokens GROUP BY turn ORDER BY turn NULLS FIRST").fetchall()
    assert shown == [positions for (positions,) in turns]
    assert tab.violations() == []
