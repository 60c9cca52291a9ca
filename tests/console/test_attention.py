"""Where heads look: pixels are the matrix through the palette, lists its exact values, and what is chosen is in the address."""

from __future__ import annotations

import numpy as np
import pytest
from console_pixels import cells, palette, steps

import capture

pytestmark = pytest.mark.slow

MAIN = ".attention-map canvas[data-painted]"


@pytest.fixture(scope="module")
def example(server) -> str:
    return server.warehouse.sql(
        "SELECT example_id FROM examples WHERE run_id = 'lighthouse' ORDER BY idx LIMIT 1"
    ).fetchone()[0]


def matrix(server, example: str, layer: int, head: int, run: str = "lighthouse") -> np.ndarray:
    return server.warehouse.run(run).attn(example, layer, head)


def as_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.sqrt(values / values.max()) * 255).astype(int)


def painted(page, place: int = 0):
    canvas = page.locator(MAIN).nth(place)
    canvas.wait_for()
    return canvas


def becomes(page, colours: np.ndarray) -> None:
    """Wait until the head's picture has these colours, as it has when its tile has come."""
    for _ in range(100):
        found = cells(painted(page))[..., :3]
        if found.shape == colours.shape and np.array_equal(found, colours):
            return
        page.wait_for_timeout(50)
    raise AssertionError("the picture never was that of the head")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_pixel_of_a_head_is_its_probability(open_tab, server, example, scheme) -> None:
    tab = open_tab(scheme=scheme)
    page = tab.go(f"attention/lighthouse/{example}/0?l=1&h=2")
    found = cells(painted(page))
    assert np.array_equal(found[..., :3], palette("mass", scheme)[as_bytes(matrix(server, example, 1, 2))])
    page.locator(".thumbnails canvas[data-painted]").nth(3).wait_for()
    page.locator(".labelled canvas[data-painted]").wait_for()
    assert tab.violations() == []


def test_a_head_is_chosen_by_key_by_thumbnail_and_in_the_grid(tab, server, example) -> None:
    page = tab.go(f"attention/lighthouse/{example}/0?l=1&h=2")
    painted(page)
    page.keyboard.press("]")
    page.wait_for_url("**l=1&h=3**")
    page.keyboard.press("ArrowUp")
    page.wait_for_url("**l=2&h=3**")
    page.get_by_role("button", name="Head 1 of layer 2").click()
    page.wait_for_url("**l=2&h=1**")
    page.get_by_role("heading", name="Layer 2, head 1").wait_for()
    becomes(page, palette("mass")[as_bytes(matrix(server, example, 2, 1))])
    grid = page.locator(".labelled canvas")
    box = grid.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5 / 4, box["y"] + box["height"] - 3)  # the lowest row is layer 0
    page.wait_for_url("**l=0&h=0**")


def test_a_click_chooses_the_row_whose_values_are_listed_exactly(tab, server, example) -> None:
    page = tab.go(f"attention/lighthouse/{example}/0?l=1&h=0&least=0")
    box = painted(page).bounding_box()
    values = matrix(server, example, 1, 0)
    pos, to, n = 9, 4, len(values)
    page.mouse.click(box["x"] + (to + 0.5) / n * box["width"], box["y"] + (pos + 0.5) / n * box["height"])
    page.wait_for_url(f"**pos={pos}&to={to}**")
    page.get_by_text(f"pos {pos}, layer 1, head 0").wait_for()
    for title, line in (("looks at", values[pos]), ("is looked at by", values[:, pos])):
        order = np.lexsort((np.arange(n), -line.astype(np.float64)))[: min(20, np.count_nonzero(line > 0))]
        items = page.locator(f"[data-links='{title}'] li")
        page.wait_for_function(
            "([title, order]) => JSON.stringify([...document.querySelectorAll(`[data-links='${title}'] li`)]"
            ".map(li => Number(li.dataset.pos))) === JSON.stringify(order)",
            arg=[title, order.tolist()],
        )
        shown = [float(i.locator(".number").last.inner_text().replace("−", "-")) for i in items.all()]
        assert shown == pytest.approx(line[order].tolist(), rel=6e-3)
    page.mouse.move(box["x"] + (to + 0.5) / n * box["width"], box["y"] + (pos + 0.5) / n * box["height"] + 1)
    exact = page.locator(".tooltip .number")
    page.wait_for_function("document.querySelector('.tooltip .number')?.textContent.match(/\\d/)")
    assert float(exact.inner_text()) == pytest.approx(float(values[pos, to]), rel=1e-3)


def test_dragging_shows_a_part_and_the_address_reproduces_it(tab, open_tab, server, example) -> None:
    page = tab.go(f"attention/lighthouse/{example}/0?l=0&h=1")
    box = painted(page).bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 2, steps=4)
    page.mouse.up()
    page.wait_for_url("**zoom=**")
    values = matrix(server, example, 0, 1)
    row0, row1, col0, col1 = map(int, page.url.split("zoom=")[1].split("&")[0].split(","))
    assert (row1, col0) == (len(values), 0)
    assert "pos=" not in page.url, "a drag chooses no token"
    again = open_tab()
    again.page.goto(f"{again.address}/{page.url.split('/', 3)[3]}")
    for each in (page, again.page):
        each.wait_for_function(
            "n => Number(document.querySelector('.attention-map canvas')?.dataset.rows) === n", arg=row1 - row0
        )
        part = values[row0:row1, col0:col1]
        assert np.array_equal(cells(painted(each))[..., :3], palette("mass")[as_bytes(part)])
    page.keyboard.press("0")
    page.wait_for_function("!location.hash.includes('zoom=')")


def test_two_heads_of_two_runs_are_compared_cell_by_cell(tab, server, example) -> None:
    page = tab.go(f"attention/lighthouse/{example}/0?l=1&h=0&run2=later&l2=2&h2=3")
    one, two = matrix(server, example, 1, 0), matrix(server, example, 2, 3, "later")
    painted(page, 2)
    assert page.locator(MAIN).count() == 3
    assert np.array_equal(cells(painted(page, 1))[..., :3], palette("mass")[as_bytes(two)])
    decoded = [(as_bytes(each) / 255) ** 2 * float(each.max()) for each in (one, two)]
    difference = decoded[0] - decoded[1]
    most = float(np.abs(difference).max())
    assert np.array_equal(cells(painted(page, 2))[..., :3], palette("difference")[steps(difference, -most, most)])


def test_two_thousand_tokens_are_shown_in_cells_of_several(serve, open_tab, make_llama, tokenizer, tmp_path) -> None:
    model = make_llama(seed=8, max_position_embeddings=2048)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    text = " ".join(f"the keeper lit lamp {i % 37}" for i in range(800))
    root = tmp_path / "runs"
    capture.next_token(
        capture.load(str(tmp_path / "model"), device="cpu"),
        [text],
        keep="qkv",
        run="long",
        root=root,
        max_len=2048,
    )
    tab = open_tab(serve(root))
    page = tab.go("attention/long?l=1&h=2")
    canvas = painted(page)
    cell = -(-2048 // int(page.locator(".attention-map .frame").evaluate("f => f.clientWidth")))
    rows = -(-2048 // cell)
    assert (canvas.get_attribute("data-rows"), canvas.get_attribute("data-cols")) == (str(rows), str(rows))
    page.get_by_text(f"a cell is the largest of {cell} × {cell} tokens").wait_for()
