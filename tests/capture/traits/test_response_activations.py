"""Which responses count, and their means: of the response's own tokens and of nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from synthetic_traits import LENGTH, PROMPT, RESPONSE, add_judge, add_responses, grid

from capture.traits import response_activations
from capture.traits.response_activations import ResponseMeans
from warehouse import TraceStore, Warehouse
from warehouse.errors import NotFoundError, UsageError
from warehouse.storage import paths

D = 8
RESPONSES = grid(6)


def states(n: int = len(RESPONSES), seed: int = 0) -> np.ndarray:
    """(n, LENGTH, D): a state a token, those of prompt and end far from the response's."""
    x = np.random.default_rng(seed).standard_normal((n, LENGTH, D)).astype(np.float32)
    x[:, :PROMPT] += 1e4
    x[:, -1] -= 1e4
    return x


def means_of(x: np.ndarray) -> np.ndarray:
    return np.stack([rows[PROMPT : PROMPT + RESPONSE].mean(0, dtype=np.float32) for rows in x])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Run `r`: one response of each polarity to each of six questions."""
    add_responses(tmp_path, "r", RESPONSES, {("mean.resid.post_mlp", 1): means_of(states())})
    return tmp_path


def selected(root: Path, **options: object) -> response_activations.SelectedResponses:
    with Warehouse(root) as wh:
        return response_activations.select_responses(wh, "r", **options)


# -- which responses count ---------------------------------------------------------------------------------------------


def test_without_a_judge_or_a_threshold_all_count_and_it_says_so(root: Path) -> None:
    for judged in (False, True):
        if judged:
            add_judge(root, "j", "r", RESPONSES, [0.0] * 12)
        found = selected(root, threshold=None) if judged else selected(root)
        assert found.judge_run is None and len(found.keys) == 12 and found.questions == [0, 1, 2, 3, 4, 5]
        assert "no filter" in found.summary


def test_each_response_by_itself_is_filtered_by_score_and_coherence(root: Path) -> None:
    score = {r: 90.0 if r.positive else 10.0 for r in RESPONSES}
    coherence: dict = dict.fromkeys(RESPONSES, 80.0)
    by = {(r.polarity, r.question): r for r in RESPONSES}
    score[by["pos", 0]] = 50.0  # just enough
    score[by["neg", 1]] = 50.0  # too much
    score[by["pos", 2]] = None
    coherence[by["neg", 3]] = 49.9
    coherence[by["pos", 4]] = None  # not judged
    add_judge(root, "j", "r", RESPONSES, list(score.values()), list(coherence.values()))
    found = selected(root, rule="questions")
    assert found.judge_run == "j" and found.questions == [0, 4, 5]
    assert {(k[0], q) for k, q in zip(found.keys, found.question, strict=True)} == {
        (by[p, q].example_id, q) for p in ("pos", "neg") for q in (0, 4, 5)
    }
    assert found.positive.tolist() == [k[0].startswith("pos") for k in found.keys]
    assert found.dropped == {
        "empty": 0,
        "without a score": 1,
        "on the other side of the threshold": 1,
        "without a coherence score": 0,
        "with coherence below 50": 1,
        "to a question without one of the other polarity": 3,
    }
    assert (
        "3 positive and 3 negative responses to 3 questions" in found.summary and "1 without a score" in found.summary
    )
    assert "filter questions, each response by itself: positive 50 or more, negative below 50" in found.summary
    assert selected(root, rule="questions", threshold=51.0).questions == [1, 4, 5], (
        "at 51 a negative 50 is below, and a positive 50 not above"
    )


@pytest.mark.parametrize("threshold", [30, 50, 70])
def test_pairs_are_those_of_the_published_mask(tmp_path: Path, threshold: int) -> None:
    """Chen et al. 2025 keep row i of positive and negative responses where positive >= t, negative < 100 - t, and both coherences
    are at least 50; rows have the same question, pair of instructions and place among their samples."""
    responses = grid(4, samples=2, instructions=3)
    rng = np.random.default_rng(threshold)
    score, coherence = rng.integers(0, 101, (2, len(responses))).astype(float)
    score[::7], coherence[3::11] = np.nan, np.nan
    score = np.clip(score + np.array([25 if r.positive else -25 for r in responses]), 0, 100)
    coherence += 30
    add_responses(tmp_path, "r", responses, {("mean.resid.post_mlp", 1): means_of(states(len(responses)))})
    told = [[None if np.isnan(x) else x for x in of] for of in (score, np.minimum(coherence, 100))]
    add_judge(tmp_path, "j", "r", responses, *told)
    at = {(r.polarity, r.example_id[3:], r.sample): i for i, r in enumerate(responses)}
    rows = [(at["pos", name, s], at["neg", name, s]) for _, name, s in at if ("pos", name, s) in at]
    mask = [
        score[p] >= threshold and score[n] < 100 - threshold and coherence[p] >= 50 and coherence[n] >= 50
        for p, n in rows
    ]
    want = {
        (responses[i].example_id, responses[i].sample)
        for row, kept in zip(rows, mask, strict=True)
        if kept
        for i in row
    }
    found = selected(tmp_path, threshold=float(threshold))
    assert set(found.keys) == want and want and found.positive.sum() * 2 == len(found.keys)
    assert sum(found.dropped.values()) == len(responses) - len(want)
    says = f"filter pairs, a positive response .* positive {threshold} or more, negative below {100 - threshold}, both with"
    assert re.search(says, found.summary)


def test_where_no_pair_counts_it_is_said(root: Path) -> None:
    add_judge(root, "j", "r", RESPONSES, [(90.0 if r.question % 2 else 20.0) for r in RESPONSES])
    with pytest.raises(UsageError, match="No positive response of run 'r' counts together with .*--filter questions"):
        selected(root)
    with pytest.raises(UsageError, match="No question of run 'r' has both"):
        selected(root, rule="questions")


def test_the_newest_judge_decides_unless_another_is_named(root: Path) -> None:
    good = [90.0 if r.positive else 10.0 for r in RESPONSES]
    add_judge(root, "old", "r", RESPONSES, good, minute=1)
    add_judge(
        root, "new", "r", RESPONSES, [s if r.question else 50 for r, s in zip(RESPONSES, good, strict=True)], minute=2
    )
    add_judge(root, "elsewhere", "s", RESPONSES, good, minute=3)
    assert selected(root).judge_run == "new" and selected(root).questions == [1, 2, 3, 4, 5]
    assert selected(root, judge_run="old").questions == [0, 1, 2, 3, 4, 5]


def test_a_response_of_special_tokens_alone_does_not_count(tmp_path: Path) -> None:
    add_responses(tmp_path, "r", RESPONSES, {("mean.resid.post_mlp", 1): means_of(states())}, empty=[0])
    found = selected(tmp_path)
    assert found.dropped["empty"] == 1 and RESPONSES[0].question not in found.questions


def test_nothing_above_the_threshold_says_what_the_scores_were(root: Path) -> None:
    add_judge(root, "j", "r", RESPONSES, [float(r.question * 8) for r in RESPONSES])
    says = (
        "No positive response of run 'r' has a trait score of 50 or more and is coherent: of 6, 'j' scored 6, from 0 to 40 "
        "(quartiles 10, 20, 30), and found 0 incoherent, 0 without a coherence score. Lower --threshold"
    )
    with pytest.raises(UsageError, match=re.escape(says)):
        selected(root)
    add_judge(root, "k", "r", RESPONSES, [60.0 + r.question for r in RESPONSES], minute=2)
    for rule, remedy in (("questions", "Raise"), ("pairs", "Lower")):
        with pytest.raises(
            UsageError, match=f"No negative response of run 'r' has a trait score of below 50 .* {remedy} --thresh"
        ):
            selected(root, rule=rule)
    add_judge(root, "l", "r", RESPONSES, [None] * 12, minute=3)
    with pytest.raises(UsageError, match="'l' has a score for none of the 6"):
        selected(root)


def test_what_is_no_run_of_both_polarities_is_told(root: Path) -> None:
    one_sided = [r for r in RESPONSES if r.positive]
    mean = {("mean.resid.post_mlp", 1): means_of(states(6))}
    add_responses(root, "one", one_sided, mean)
    apart = [r for r in RESPONSES if r.positive == (r.question < 3)]
    add_responses(root, "apart", apart, mean)
    add_responses(root, "other", one_sided, mean, kind="generate")
    with Warehouse(root) as wh:
        for run, error, says in (
            ("one", UsageError, "Run 'one' has no responses of polarity neg"),
            ("apart", UsageError, "No question of run 'apart' has both"),
            ("other", UsageError, "Run 'other' is of kind generate: .* trait-responses"),
            ("nowhere", NotFoundError, "No run 'nowhere'"),
        ):
            with pytest.raises(error, match=says):
                response_activations.select_responses(wh, run)


def test_questions_are_held_out_by_a_seed(root: Path) -> None:
    found = selected(root)
    held = [response_activations.choose_held_out(found, 0.34, seed) for seed in range(20)]
    assert all(len(h) == 2 and set(h) < set(range(6)) for h in held) and len({tuple(h) for h in held}) > 5
    assert held[0] == response_activations.choose_held_out(found, 0.34, 0)
    assert response_activations.choose_held_out(found, 0, 0) == []
    assert (
        len(response_activations.choose_held_out(found, 0.01, 0)) == 1
        and len(response_activations.choose_held_out(found, 0.99, 0)) == 5
    )
    for gone in range(6):
        left = found.question != gone
        fewer = replace(found, positive=found.positive[left], question=found.question[left])
        kept = set(held[0]) - {gone}
        assert kept <= set(response_activations.choose_held_out(fewer, 0.34, 0)), (
            "a question that goes takes no other with it"
        )


# -- means -------------------------------------------------------------------------------------------------------------


def test_both_ways_give_the_mean_of_the_responses_own_tokens(tmp_path: Path) -> None:
    x, attn, embed = states(seed=1), states(seed=2), states(seed=3)
    tensors = {("resid.post_mlp", 1): x, ("attn_out", 1): attn, ("resid.embed", None): embed}
    add_responses(tmp_path, "tokens", RESPONSES, tensors)
    add_responses(
        tmp_path, "means", RESPONSES, {(f"mean.{s}", i): means_of(v) for (s, i), v in tensors.items()}, shards=3
    )
    order = np.random.default_rng(0).permutation(len(RESPONSES))[:9]
    keys = [(RESPONSES[i].example_id, 0) for i in order]
    for run in ("tokens", "means"):
        means = ResponseMeans(TraceStore(paths.run_dir(tmp_path, run)), keys)
        assert means.layers("residual") == [None, 1] and means.layers("attn_out") == [1]
        for component, layer, values in (("residual", 1, x), ("residual", None, embed), ("attn_out", 1, attn)):
            found = means.vectors(component, layer)
            assert found.dtype == np.float32 and np.abs(found).max() < 10, "prompt and end are far away"
            np.testing.assert_array_equal(found, means_of(values)[order])


def test_layer_l_is_the_output_of_block_l(tmp_path: Path, load_tiny, capture_tiny) -> None:
    """A real capture of a text, its second half marked as response: bit-equal to the mean of transformers' hidden_states[l + 1],
    and, as that of the last layer is normed, to that of the last block's output."""
    text = tmp_path / "one.txt"
    text.write_text("The keeper of the lighthouse counted the ships that came home.\n")
    loaded = load_tiny("llama")
    store = capture_tiny(tmp_path, "t", loaded=loaded, text=text, capture="hidden,attn_out", store_dtype="float32")
    (example,) = store.tokens.example_id
    path = store.path / paths.table_file("tokens")
    tokens = pq.read_table(path, partitioning=None)
    half = len(tokens) // 2
    marked = pa.array([i >= half for i in range(len(tokens))])
    pq.write_table(tokens.set_column(tokens.schema.get_field_index("is_response"), "is_response", marked), path)
    ids = torch.tensor(store.encodings(example)["input_ids"][None])
    blocks: list[torch.Tensor] = []
    hooks = [b.register_forward_hook(lambda m, i, o: blocks.append(o[0] if isinstance(o, tuple) else o))
             for b in loaded.model.model.layers]  # fmt: skip
    with torch.no_grad():
        hidden = loaded.model(ids, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    means = ResponseMeans(TraceStore(store.path), [(example, 0)])
    assert means.layers("residual") == [None, 0, 1, 2]
    for layer, out in ((None, hidden[0]), (0, hidden[1]), (1, hidden[2]), (2, blocks[2])):
        want = out.reshape(len(tokens), -1)[half:].numpy().mean(0, dtype=np.float32)
        np.testing.assert_array_equal(means.vectors("residual", layer)[0], want)
    assert (blocks[0].reshape(-1) == hidden[1].reshape(-1)).all()


def test_a_run_without_the_site_says_how_to_capture_it(root: Path) -> None:
    found = selected(root)
    means = ResponseMeans(TraceStore(paths.run_dir(root, "r")), found.keys)
    with pytest.raises(
        UsageError, match=r"neither mean.attn_out nor attn_out. .*traces trait respond --trait loud .*--capture me"
    ):
        means.vectors("attn_out", 1)
    with pytest.raises(UsageError, match="no resid.post_mlp in layer 3; it has 1"):
        means.vectors("residual", 3)
    with pytest.raises(UsageError, match=r"neither mean.resid.embed nor resid.embed"):
        means.vectors("residual", None)
    bad = means_of(states())
    bad[3, 2] = np.inf
    add_responses(root, "endless", RESPONSES, {("mean.resid.post_mlp", 1): bad})
    with pytest.raises(
        UsageError, match="Run 'endless': mean.resid.post_mlp has values in layer 1 that are not finite"
    ):
        ResponseMeans(TraceStore(paths.run_dir(root, "endless")), found.keys).vectors("residual", 1)


def test_two_samples_of_an_example_are_two_responses(tmp_path: Path) -> None:
    responses = grid(3, samples=2)
    x = means_of(states(len(responses)))
    store = add_responses(tmp_path, "r", responses, {("mean.resid.post_mlp", 1): x})
    found = selected(tmp_path)
    assert len(found.keys) == 12 and {s for _, s in found.keys} == {0, 1}
    at = {(r.example_id, r.sample): i for i, r in enumerate(responses)}
    np.testing.assert_array_equal(
        ResponseMeans(store, found.keys).vectors("residual", 1), x[[at[k] for k in found.keys]]
    )
