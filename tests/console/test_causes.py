"""Heads, effects and circuits: pictures are the rows through the palette, a click leads from a mean to what is behind it."""

from __future__ import annotations

import numpy as np
import pytest
from console_pixels import cells, palette, steps

from warehouse.analysis.circuit_graph import circuit_graph

pytestmark = pytest.mark.slow


def picture(page, place: int = 0):
    canvas = page.locator(".labelled canvas[data-painted]").nth(place)
    canvas.wait_for()
    return canvas


def click_cell(page, canvas, layer: int, col: int) -> None:
    """Click on a cell of a picture whose lowest row is layer 0."""
    rows, cols = (int(canvas.get_attribute(f"data-{side}")) for side in ("rows", "cols"))
    box = canvas.bounding_box()
    page.mouse.click(
        box["x"] + (col + 0.5) / cols * box["width"], box["y"] + (rows - layer - 0.5) / rows * box["height"]
    )


def grid(rows: list[tuple[int, int, float]]) -> np.ndarray:
    """Rows of layer, head and value as a picture has them: the last layer on top."""
    found = np.full((1 + max(r[0] for r in rows), 1 + max(r[1] for r in rows)), np.nan)
    for layer, head, value in rows:
        found[layer, head] = value
    return found[::-1]


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_head_leads_from_its_mean_to_the_texts_and_the_pattern(open_tab, server, scheme) -> None:
    tab = open_tab(scheme=scheme)
    page = tab.go("heads/lighthouse?metric=previous_token_mass")
    means = server.warehouse.sql(
        "SELECT layer, head, avg(previous_token_mass) FROM heads WHERE run_id = 'lighthouse' GROUP BY ALL"
    ).fetchall()
    values = grid(means)
    found = cells(picture(page))[..., :3]
    assert np.array_equal(found, palette("mass", scheme)[steps(values, 0, values.max())])
    click_cell(page, picture(page), 1, 2)
    page.wait_for_url("**l=1&h=2**")
    texts = page.locator("[aria-label='examples'] .table-row")
    texts.first.wait_for()
    behind = server.warehouse.sql(
        "SELECT example_id, previous_token_mass FROM heads WHERE run_id = 'lighthouse' AND layer = 1 AND head = 2 "
        "ORDER BY previous_token_mass DESC, example_id"
    ).fetchall()
    assert number(texts.first.locator("span").first.inner_text()) == pytest.approx(behind[0][1], rel=1e-3)
    bars = page.locator(".bars .bar")
    assert sum(int(bar.get_attribute("data-count")) for bar in bars.all()) == len(behind)
    link = page.get_by_role("link", name="open in Attention")
    assert f"attention/lighthouse/{behind[0][0]}/0?l=1&h=2" in link.get_attribute("href")
    page.locator("[aria-label='pattern'] canvas[data-painted]").wait_for()
    assert tab.violations() == []
    page.keyboard.press("]")
    page.wait_for_url("**h=3**")


def test_the_rows_of_a_question_are_marked_among_the_heads(tab, server) -> None:
    question = "SELECT layer, head FROM heads WHERE run_id = 'lighthouse' GROUP BY ALL ORDER BY avg(entropy) LIMIT 3"
    page = tab.go(f"heads/lighthouse?q={question.replace(' ', '+')}")
    page.locator(".labelled .marked").nth(2).wait_for()
    assert page.locator(".labelled .marked").count() == 3
    page.get_by_text("3 rows, 3 in this run").wait_for()


def test_kinds_are_side_by_side_on_one_scale_and_the_strongest_leads_to_a_prompt(tab, server) -> None:
    page = tab.go("effects/pairs-zero")
    wh = server.warehouse
    query = "SELECT layer, head, effect FROM effect_means WHERE run_id = '{}' AND site = 'heads'"
    kinds = {run: grid(wh.sql(query.format(run)).fetchall()) for run in ("pairs-zero", "pairs-resample")}
    most = max(np.abs(values).max() for values in kinds.values())
    for place, values in enumerate(kinds.values()):
        found = cells(picture(page, place))[..., :3]
        assert np.array_equal(found, palette("difference")[steps(values, -most, most)])
    strongest = wh.sql(
        "SELECT layer, head, spec FROM head_effects WHERE run_id = 'pairs-zero' ORDER BY abs(effect) DESC LIMIT 1"
    ).fetchone()
    page.locator("[aria-label='strongest'] .table-row").first.click()
    page.wait_for_url(f"**l={strongest[0]}&h={strongest[1]}**")
    page.get_by_role("heading", name=f"{strongest[2]} on each pair").wait_for()
    link = page.locator("[aria-label='pair'] a")
    link.wait_for()
    page.locator("[aria-label='pair'] .strip [data-pos]").first.wait_for()
    assert tab.violations() == []
    link.click()
    page.wait_for_url("**#/attention/pairs/**")


def test_what_was_patched_is_told_by_layer_and_token_of_a_pair(tab, server) -> None:
    page = tab.go("effects/pairs-patch")
    picture(page)
    example = server.warehouse.sql(
        "SELECT example_id FROM task_pairs WHERE run_id = 'pairs' ORDER BY template, example_id LIMIT 1"
    ).fetchone()[0]
    page.locator("[aria-label='patching'] select").nth(1).select_option(f"e {example}")
    page.wait_for_url(f"**example={example}**")
    rows = server.warehouse.sql(
        "SELECT layer, pos, effect_normalised, token, other_token FROM effect_tokens "
        f"WHERE run_id = 'pairs-patch' AND example_id = '{example}' AND is_default ORDER BY layer, pos"
    ).fetchall()
    page.get_by_text("of the clean one, where it is another").wait_for()
    values = grid([row[:3] for row in rows])
    most = np.nanmax(np.abs(values))
    for _ in range(100):
        found = cells(picture(page))[..., :3]
        if np.array_equal(found, palette("difference")[steps(values, -most, most)]):
            break
        page.wait_for_timeout(50)
    else:
        raise AssertionError("the picture never was that of the pair")
    assert tab.violations() == []


def test_a_source_token_lists_the_heads_that_carry_it(tab, server) -> None:
    page = tab.go("effects/pairs-influence")
    example, seq, pos, source = server.warehouse.sql(
        "SELECT example_id, seq, pos, source_pos FROM influences WHERE run_id = 'pairs-influence' ORDER BY example_id, seq, pos, abs(logit) DESC "
        "LIMIT 1"
    ).fetchone()
    page.locator(f".strip [data-pos='{source}']").click()
    page.wait_for_url(f"**pos={source}**")
    page.get_by_role("heading", name=f"({source})").wait_for()
    heads = server.warehouse.sql(
        f"SELECT logit, layer, head FROM logit_parts WHERE run_id = 'pairs-influence' AND example_id = '{example}' AND seq = {seq} "
        f"AND pos = {pos} AND source_pos = {source} AND part = 'head' ORDER BY abs(logit) DESC"
    ).fetchall()
    page.locator(f"[aria-label='carrying-heads'] .table[aria-rowcount='{len(heads) + 1}']").wait_for()
    value, layer, head = heads[0]
    first = page.locator("[aria-label='carrying-heads'] .table-row").first
    first.wait_for()
    told = first.locator("span").all_inner_texts()
    assert (number(told[0]), told[2], told[3]) == (pytest.approx(value, rel=1e-3), str(layer), str(head))
    page.get_by_role("button", name="information flow").click()
    page.get_by_text("edges of small flow were not stored").wait_for()
    assert tab.violations() == []


def test_a_circuit_is_as_large_as_its_size_says_and_a_node_lists_its_edges(tab, server) -> None:
    page = tab.go("circuits/pairs-circuit?size=0.2")
    drawn = page.locator("svg.circuit")
    drawn.wait_for()
    for size in (0.2, 0.5):
        if size != 0.2:
            page.get_by_role("button", name=str(size), exact=True).click()
        graph = circuit_graph(server.warehouse, "pairs-circuit", size=size)
        page.locator(f"svg.circuit[data-nodes='{len(graph)}']").wait_for()
        lines = {line.get_attribute("data-edge") for line in page.locator("svg.circuit .edge").all()}
        assert lines == {f"{source} {sink}" for source, sink in graph.edges()}
    page.locator("svg.circuit [data-node='logits']").click()
    page.wait_for_url("**node=logits**")
    edges = page.locator("[aria-label='node'] .table-row")
    edges.first.wait_for()
    assert page.locator("[aria-label='Edges of logits']").get_attribute("aria-rowcount") == str(
        graph.in_degree("logits") + 1
    )
    page.get_by_text("Does it hold?").wait_for()
    page.locator(".holds li").first.wait_for()
    assert tab.violations() == []
    drawn.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("!location.hash.includes('node=logits')")
    page.locator("[aria-label='curve'] .u-over").click(position={"x": 3, "y": 40})
    page.wait_for_function("location.hash.includes('size=0.001')")


def test_a_place_of_any_of_them_is_the_same_in_a_fresh_browser(open_tab) -> None:
    for place, shown in (
        ("heads/lighthouse?metric=entropy&l=0&h=1", "L0H1, entropy"),
        ("effects/pairs-resample?l=0&h=1", "L0H1=resample on each pair"),
        ("circuits/pairs-circuit?size=0.5&node=embed", "Size and faithfulness"),
    ):
        page = open_tab().go(place)
        page.get_by_role("heading", name=shown).wait_for()


def test_what_is_not_there_says_the_command_that_makes_it(tab) -> None:
    for place, command in (
        ("heads/answers", "traces derive heads answers"),
        ("effects/words", "traces ablate words"),
        ("circuits/words", "traces circuit discover words"),
    ):
        tab.go(place).get_by_text(command).first.wait_for()
