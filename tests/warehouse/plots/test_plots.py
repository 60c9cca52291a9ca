"""Pictures are claims too: what is drawn is the run's own, read back from the Figure's artists."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from warehouse import Warehouse, plots
from warehouse.analysis import intervals
from warehouse.catalog.saved_queries import find_query, run_query
from warehouse.errors import NotFoundError, UncertainResultWarning, UsageError
from warehouse.plots.canvas import label
from warehouse.storage.run_list import find_run

pytest.importorskip("matplotlib")
from matplotlib import colormaps
from matplotlib.colors import to_rgba
from matplotlib.container import ErrorbarContainer

TOKENS = ["<s>", "$x_1$", "\n", " ", "日", "\ufffd", "\ufffd", " end"]
"""A token of a formula's marks, white space, one of another script, and two that are parts of one character."""
LOSSES = [1.0, 0.5, np.inf, 2.0, 3.0, 0.0, 4.0]
PROJECTIONS = [-400.0, 1.0, -2.0, 3.0, 0.5, 1.5, 4.0, -1.0]


@pytest.fixture(scope="module")
def wh(every_table: Path) -> Iterator[Warehouse]:
    """Runs of a tiny Llama, with a lens."""
    with Warehouse(every_table) as wh:
        yield wh


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """A response of odd tokens, which is projected on a trait, and two probes."""
    root = tmp_path_factory.mktemp("made") / "runs"
    text = "$x_1$\n 日🙂 end"
    spans = [(0, 0), (0, 5), (5, 6), (6, 7), (7, 8), (8, 9), (8, 9), (9, 13)]
    e = {"example_id": "abc1"}
    tokens = [
        e | {"side": "dec", "pos": pos, "token": token, "is_response": pos >= 4}
        | {"char_start": spans[pos][0], "char_end": spans[pos][1]}
        for pos, token in enumerate(TOKENS)
    ]  # fmt: skip
    predicted = [
        e | {"pos": pos, "loss": loss, "entropy": loss / 2 if np.isfinite(loss) else 1.0, "true_prob": np.exp(-loss)}
        for pos, loss in enumerate(LOSSES)
    ]
    other = {"example_id": "abc2"}
    examples = [
        e | {"idx": 0, "text": text, "n_tokens": len(TOKENS), "n_seqs": 1},
        other | {"idx": 1, "text": "", "n_tokens": 1, "n_seqs": 1},
    ]
    tokens.append(other | {"side": "dec", "token": "x"})
    predicted.append(other | {"loss": 4.0})
    synthetic.add_run(root, "said", "generate", {"examples": examples, "tokens": tokens, "next_token": predicted})
    vector = {"trait": "loud", "method": "probe", "component": "residual", "layer": 3}
    place = e | vector | {"source_run_id": "said", "vectors_run_id": "vectors"}
    rows = [
        place | {"pos": pos, "projection": x, "token_norm": 400.0 if x == -400 else 8.0}
        for pos, x in enumerate(PROJECTIONS)
    ]
    dynamics = [place | {"n_tokens": 4, "first_pos": 4, "peak_point": 2, "commitment_point_relative": 3}]
    synthetic.add_run(
        root, "vectors", "trait-vectors", {"trait_vectors": [vector | {"midpoint": 2.5, "vector": [1.0]}]}
    )
    synthetic.add_run(
        root, "projected", "trait-projection", {"trait_projections": rows, "trait_dynamics": dynamics}, parents=["said"]
    )
    synthetic.add_run(root, "states", "encode", {"examples": examples, "tokens": tokens})
    synthetic.add_run(root, "empty", "encode", {"examples": [e | {"n_seqs": 0}]})
    probes = [
        {"site": "resid.post_mlp", "layer": layer, "classes": ["a", "b"], "accuracy": accuracy, "accuracy_low": accuracy - 0.1,
         "accuracy_high": accuracy + 0.05, "shuffled_accuracy": 0.5, "shuffled_sd": 0.02, "majority_accuracy": 0.6}
        for layer, accuracy in ((None, 0.6), (1, 0.7), (2, 0.9))
    ]  # fmt: skip
    synthetic.add_run(root, "probe", "probe", {"probes": probes}, options={"target": "$y_1$"}, parents=["said"])
    with Warehouse(root) as wh:
        yield wh


def ticks(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def test_a_head_is_drawn_number_by_number(wh: Warehouse) -> None:
    store = wh.run("llama")
    example = store.tokens.example_id[0]
    axes, _ = plots.attention(wh, "llama", layers=1, head=2).axes
    attn, tokens = store.attn(example, 1, 2), store.encodings(example)["tokens"]
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array().filled(0), attn)
    np.testing.assert_array_equal(image.get_array().mask, np.triu(np.ones_like(attn), 1), "what cannot be seen is no 0")
    assert ticks(axes.xaxis) == ticks(axes.yaxis) == [label(token) for token in tokens]


def test_a_window_of_positions_is_that_part_of_the_matrix(wh: Warehouse) -> None:
    store = wh.run("llama")
    example = store.tokens.example_id[0]
    picture = plots.attention(wh, store, example[:6], layers=0, head=0, positions=range(3, 9))
    np.testing.assert_array_equal(picture.axes[0].images[0].get_array().filled(0), store.attn(example, 0, 0)[3:9, 3:9])
    n = len(store.encodings(example)["tokens"])
    assert f"tokens 3 to 8 of {n}" in picture.get_suptitle()


def test_all_heads_of_a_layer_and_of_all_layers(wh: Warehouse) -> None:
    store = wh.run("llama")
    attn = store.attn(store.tokens.example_id[0])
    *grid, _ = plots.attention(wh, "llama", layers=2).axes
    for head, axes in enumerate(grid):
        np.testing.assert_array_equal(axes.images[0].get_array().filled(0), attn[2, head])
    axes, _ = plots.attention(wh, "llama").axes
    mosaic, size = axes.images[0].get_array(), attn.shape[-1]
    step = mosaic.shape[0] // len(attn)
    for layer, head in np.ndindex(attn.shape[:2]):
        block = mosaic[layer * step :, head * step :][:size, :size]
        np.testing.assert_array_equal(block.filled(0), attn[layer, head])


@pytest.mark.parametrize(("by", "column"), [("loss", "loss"), ("entropy", "entropy"), ("prob", "true_prob")])
def test_the_colour_of_a_token_is_its_value(made: Warehouse, by: str, column: str) -> None:
    axes, bar = plots.tokens(made, "said", by=by).axes
    values = [
        v for (v,) in made.sql(f"SELECT {column} FROM next_token WHERE example_id = 'abc1' ORDER BY pos").fetchall()
    ]
    most = 1.0 if by == "prob" else max(v for v in values if np.isfinite(v))
    scale = colormaps["YlGnBu"]
    wanted = [scale(v / most) if np.isfinite(v) else to_rgba("black") for v in values]
    drawn = [patch.get_facecolor() for patch in axes.patches]
    assert drawn == [to_rgba("white"), *wanted], "no prediction is of the first token"
    assert bar.get_xlim() == (0, most)


def test_the_colour_of_a_token_on_a_trait(made: Warehouse) -> None:
    axes, bar = plots.tokens(made, "said", "abc1", by="loud").axes
    cosines = np.array([-1.0, *(np.array(PROJECTIONS[1:]) / 8)])
    np.testing.assert_array_equal([p.get_facecolor() for p in axes.patches], colormaps["PuOr"]((cosines + 1) / 2))
    assert bar.get_xlim() == (-1, 1), "white is 0"


def test_odd_tokens_are_drawn_as_they_are(made: Warehouse) -> None:
    axes, _ = plots.tokens(made, "said").axes
    assert [text.get_text() for text in axes.texts] == ["<s>", "$x_1$", "↵", "␣", "日", "🙂", "·", "end"]
    assert not any(text.get_parse_math() for text in axes.texts)
    boxes = [(p.get_y() // 1, p.get_x(), p.get_width()) for p in axes.patches]
    assert boxes[:5] == [(0, 0, 3), (0, 3, 5), (0, 8, 1), (1, 0, 1), (1, 1, 2)], (
        "a line ends at its break; 日 is two wide"
    )
    assert [label(t) for t in ("a\tb", "\x00", "", "   ", "x" * 20)] == ["a⇥b", "\\x00", "", "␣␣␣", "x" * 15 + "…"]


@pytest.mark.parametrize("by", ["prob", "entropy"])
def test_a_cell_of_a_lens_names_the_most_probable_token(wh: Warehouse, by: str) -> None:
    example = wh.run("llama").tokens.example_id[0]
    picture = plots.lens(wh, "llama", by=by, positions=range(12))
    axes, _ = picture.axes
    rows = wh.sql(
        f"""
        SELECT topk_tokens[1], topk_probs[1] AS prob, entropy, coalesce(actual_id = topk_ids[1], false), layer
        FROM logit_lens WHERE run_id = 'llama-lens' AND example_id = '{example}' AND pos < 12 ORDER BY layer NULLS FIRST, pos
        """
    ).fetchall()
    assert [text.get_text() for text in axes.texts] == [label(r[0], longest=9) for r in rows]
    assert [text.get_fontweight() == "bold" for text in axes.texts] == [r[3] for r in rows]
    values = np.array([r[1 if by == "prob" else 2] for r in rows])
    np.testing.assert_array_equal(axes.images[0].get_array().ravel(), values)
    assert ticks(axes.yaxis) == ["embed", "0", "1", "2"]
    (above,) = axes.child_axes
    tokens = [label(token) for token in wh.run("llama").encodings(example)["tokens"]]
    assert (ticks(axes.xaxis), ticks(above.xaxis)) == (tokens[:12], tokens[1:13])


def test_a_lens_is_found_by_its_own_name(wh: Warehouse) -> None:
    pictures = [plots.lens(wh, run, layers=(0, 2), positions=range(2, 5)) for run in ("llama", "llama-lens")]
    texts = [[text.get_text() for text in picture.axes[0].texts] for picture in pictures]
    assert texts[0] == texts[1] and len(texts[0]) == 2 * 3


@pytest.mark.parametrize("run", ["said", "projected"])
def test_a_trait_over_a_response(made: Warehouse, run: str) -> None:
    (axes,) = plots.trait(made, run, "loud").axes
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["projection"].get_xydata(), list(enumerate(PROJECTIONS)))
    assert lines["the response begins"].get_xdata() == [3.5, 3.5]
    assert lines["peak"].get_xydata().tolist() == [[6, 4.0]]
    assert lines["commitment point (relative)"].get_xydata().tolist() == [[7, -1.0]]
    assert lines["midpoint between showing the trait and not"].get_ydata() == [2.5, 2.5]
    low, high = axes.get_ylim()
    assert -4 < low < -2 and 4 < high < 6 and axes.texts[0].get_text() == "-400", "the first token is off the axis"


def test_loss_by_position_is_the_saved_query(wh: Warehouse) -> None:
    (axes,) = plots.loss_by_position(wh, "llama").axes
    answer = run_query(wh.cursor(), find_query("loss_by_position"), {"run": "llama"})
    assert answer is not None
    rows = answer.fetchall()
    line, band = axes.lines[0].get_xydata(), axes.collections[0].get_paths()[0].vertices
    np.testing.assert_array_equal(line[:, 0], [r[0] + 1 for r in rows])
    np.testing.assert_allclose(line[:, 1], [r[2] for r in rows], atol=5e-4)
    losses = wh.sql("SELECT loss::DOUBLE FROM next_token WHERE run_id = 'llama' AND pos = 0").fetchall()
    error = np.std(losses, ddof=1) / np.sqrt(len(losses))  # one prediction an example: the plain standard error
    drawn = band[band[:, 0] == 1][:, 1]
    assert (drawn.min(), drawn.max()) == pytest.approx((line[0, 1] - 2 * error, line[0, 1] + 2 * error))


def test_infinite_losses_are_left_out_and_counted(made: Warehouse) -> None:
    picture = plots.loss_by_position(made, "said", made.run("said"))
    (axes,) = picture.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["none · run said (1 infinite left out)"] * 2
    line = axes.lines[0].get_xydata().tolist()
    assert line == [[1, 2.5], [2, 0.5], [4, 2.0], [5, 3.0], [6, 0.0], [7, 4.0]]
    error = intervals.standard_error(np.array([[1.0], [4.0]]), np.array([1, 1]))[0]
    drawn = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (drawn.min(), drawn.max()) == pytest.approx((2.5 - 2 * error, 2.5 + 2 * error)), "one example: no interval"


def test_error_bars_of_a_probe_are_those_of_its_table(made: Warehouse) -> None:
    (axes,) = plots.probe(made, "probe").axes
    accuracy, shuffled = (c for c in axes.containers if isinstance(c, ErrorbarContainer))
    ends = [segment[:, 1].tolist() for segment in accuracy[2][0].get_segments()]
    assert ends == [pytest.approx([a - 0.1, a + 0.05]) for a in (0.6, 0.7, 0.9)]
    ends = [segment[:, 1].tolist() for segment in shuffled[2][0].get_segments()]
    assert ends == [pytest.approx([0.48, 0.52])] * 3
    assert accuracy[0].get_xdata().tolist() == [-1, 1, 2] and ticks(axes.xaxis) == ["embed", "1", "2"]
    (majority,) = (line for line in axes.lines if line.get_label() == "the commonest label")
    assert majority.get_ydata() == pytest.approx([0.6] * 3)


Draw = Callable[[Warehouse, Warehouse], Any]


@pytest.mark.parametrize(
    "draw",
    [
        lambda wh, made: plots.tokens(made, "said"),
        pytest.param(lambda wh, made: plots.attention(wh, "llama", layers=0, head=0), marks=pytest.mark.slow),
        pytest.param(lambda wh, made: plots.attention(wh, "llama"), marks=pytest.mark.slow),
        pytest.param(lambda wh, made: plots.lens(wh, "llama", positions=range(3)), marks=pytest.mark.slow),
        pytest.param(lambda wh, made: plots.trait(made, "said", "loud"), marks=pytest.mark.slow),
        pytest.param(lambda wh, made: plots.loss_by_position(made, "said"), marks=pytest.mark.slow),
        pytest.param(lambda wh, made: plots.probe(made, "probe"), marks=pytest.mark.slow),
    ],
)
def test_the_same_picture_is_the_same_bytes(wh: Warehouse, made: Warehouse, tmp_path: Path, draw: Draw) -> None:
    """In threads beside each other too: no picture touches matplotlib's global state."""

    def svg(name: str) -> bytes:
        draw(wh, made).savefig(tmp_path / name)
        return (tmp_path / name).read_bytes()

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(svg, ("a.svg", "b.svg"))
    assert one == other
    assert b"<dc:date>" not in one and b"<text" in one and len(one) < 150_000


def test_text_stays_text(made: Warehouse, tmp_path: Path) -> None:
    plots.tokens(made, "said").savefig(tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert all(f">{token}</text>" in svg for token in ("$x_1$", "日", "↵", "&lt;s&gt;"))


def test_a_notebook_shows_a_picture_and_fonts_that_lack_characters_are_told(made: Warehouse, tmp_path: Path) -> None:
    picture = plots.probe(made, "probe")
    assert picture._repr_png_().startswith(b"\x89PNG") and "matplotlib.pyplot" not in sys.modules
    words = plots.tokens(made, "said")
    words.axes[0].texts[0].set_text("\U0001e903")  # a letter of Adlam, which hardly a font has
    with pytest.warns(UncertainResultWarning, match="As .svg"):
        words.savefig(tmp_path / "p.png")


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda wh, made: plots.attention(wh, "lama"), "No run 'lama'. Did you mean llama"),
        (lambda wh, made: plots.attention(wh, "llama", "zzz"), "No example 'zzz'"),
        (lambda wh, made: plots.attention(wh, "llama", ""), "Several examples begin with"),
        (lambda wh, made: plots.attention(wh, "llama", seq=4), "No seq '4'"),
        (lambda wh, made: plots.attention(wh, "llama", layers=7), "layer 7: .* has layers 0 to 2"),
        (lambda wh, made: plots.attention(wh, "llama", layers=0, head=4), "head 4: .* has heads 0 to 3"),
        (lambda wh, made: plots.attention(wh, "llama", head=4), "head 4: .* has heads 0 to 3"),
        (lambda wh, made: plots.attention(wh, "llama", layers="some"), "'all' or numbers"),
        (lambda wh, made: plots.attention(wh, "llama", positions=range(500, 510)), "has positions 0 to"),
        (lambda wh, made: plots.attention(wh, "ud_ewt"), "Capture it again with --capture"),
        (lambda wh, made: plots.attention(wh, "llama-lens"), "of kind lens: it has no texts of its own.*made from: llama"),
        (lambda wh, made: plots.tokens(wh, "probe"), "of kind probe: it has no texts"),
        (lambda wh, made: plots.tokens(wh, "llama", by="looss"), "coloured by loss, entropy, prob, or a trait. No trait 'looss'"),
        (lambda wh, made: plots.tokens(made, "said", by="lod"), "No trait 'lod'. Did you mean loud"),
        (lambda wh, made: plots.tokens(made, "states"), "no next-token predictions. See traces capture next-token"),
        (lambda wh, made: plots.tokens(made, "empty"), "no texts|no tokens"),
        (lambda wh, made: plots.lens(wh, "gpt2"), "No run 'gpt2'"),
        (lambda wh, made: plots.lens(wh, "ud_ewt"), "no logit lens. Make one: traces lens ud_ewt"),
        (lambda wh, made: plots.lens(wh, "llama", layers=9), "No layer '9'. There is: embed, 0, 1, 2"),
        (lambda wh, made: plots.lens(wh, "llama", by="loss"), "prob or entropy"),
        (lambda wh, made: plots.lens(wh, "llama", positions=range(60)), "can show 24 tokens"),
        (lambda wh, made: plots.trait(wh, "ud_ewt", "loud"), "Project it: traces trait project ud_ewt"),
        (lambda wh, made: plots.trait(made, "said", "quiet"), "No trait 'quiet'"),
        (lambda wh, made: plots.loss_by_position(made), "Name a run"),
        (lambda wh, made: plots.loss_by_position(made, "said", "states"), "Run 'states' has no next-token predictions"),
        (lambda wh, made: plots.probe(made, "said"), "of kind generate, and not a probe. See traces probe"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said(wh: Warehouse, made: Warehouse, draw: Draw, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        draw(wh, made)
    assert "\n" not in str(error.value)


def test_without_matplotlib(made: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = "import sys; sys.modules['matplotlib'] = None; import warehouse.plots"
    subprocess.run([sys.executable, "-c", alone], check=True, timeout=60)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'trace-warehouse\[plot\]'"):
        plots.probe(made, "probe")


def test_an_example_is_found_by_its_beginning(made: Warehouse) -> None:
    store = made.run("said")
    assert store.find_example("abc1") == "abc1"
    with pytest.raises(UsageError, match="Several examples begin with abc: abc1, abc2"):
        store.find_example("abc")
    with pytest.raises(NotFoundError, match="Did you mean abc"):
        store.find_example("abc3")
    assert find_run(made.root, "said") == store.path
