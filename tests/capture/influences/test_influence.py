"""Influence against the models themselves: parts against logits and cuts, shares against their definitions, a run against itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
import torch
import zoo
from samples import DATA

from capture.data.registry import open_data
from capture.data.text import one_text, open_text
from capture.influences import influence_run, occlusion, targets
from capture.influences.identities import IdentityErrors
from capture.influences.layers import take_apart
from capture.influences.options import Options
from capture.influences.rows import make_tables
from capture.interventions.site_edits import edit_sites
from capture.jobs import encode, generate, mcq_prompt, next_token
from capture.model.examine import examine
from capture.model.head_outputs import HeadOutputs
from capture.model.loading import Loaded, load
from capture.model.logit_direction import LogitReader
from capture.recording.plan import available_sites
from warehouse import TraceStore
from warehouse.errors import NotFoundError, RunExistsError, UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.schema.sites import Key
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

QUICK = ["llama", "gemma2"]
"""Gemma 2 norms what its heads add, and caps its logits."""
CAUSAL = [family for family in zoo.FAMILIES if zoo.kind(family) == "causal"]
TEXT = "The lamp burned in the tower, and the keeper slept."


def captured(root: Path, loaded: Loaded, text: str = TEXT, capture: str = "", **options: Any) -> TraceStore:
    """A run `a` of one text, with all that the model has of what influence reads, in float32."""
    stacks = [examine(loaded.model).main]
    names = capture or ",".join(n for n in ("resid", "qkv", "attn") if available_sites(stacks, n))
    options = {"capture": names, "store_dtype": "float32"} | options
    next_token.run(loaded, one_text(text), next_token.Options(**options), root=root, run_id="a")
    return TraceStore(run_dir(root, "a"))


def explained(root: Path, loaded: Loaded, source: str = "a", run_id: str = "i", **options: Any) -> TraceStore:
    influence_run.run(loaded, run_dir(root, source), Options(**options), root=root, run_id=run_id)
    return TraceStore(run_dir(root, run_id))


def rows(store: TraceStore, table: str) -> pd.DataFrame:
    return store.query(f"SELECT * FROM {table}").df()


def tables(root: Path, loaded: Loaded, source: str = "a", **options: Any) -> dict[str, pd.DataFrame]:
    """The tables that an influence run would have, without a run."""
    store, chosen, errors = TraceStore(run_dir(root, source)), Options(**options), IdentityErrors()
    influence_run.forecast(store.path, chosen)
    explainer = influence_run.Explainer(loaded, store, chosen)
    shards = targets.group_targets(store, chosen)
    found = [e for shard in shards for sequence in shard for e in explainer.explain(sequence, errors)]
    made = make_tables(source, loaded.tokenizer, found, "logit" in explainer.measures)
    return {name: t.to_pandas() for name, t in (made | {"identity_errors": errors.table(source)}).items()}


def model_ids(store: TraceStore) -> torch.Tensor:
    return torch.from_numpy(store.encodings(store.find_example(""))["input_ids"].astype(np.int64))[None]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[[str], tuple[Path, Loaded]]:
    """A warehouse with a run `a` of a family's tiny model, and that model."""
    made: dict[str, tuple[Path, Loaded]] = {}

    def make(name: str) -> tuple[Path, Loaded]:
        if name not in made:
            loaded = Loaded(zoo.build(name), tokenizer, name, None, "cpu", False)
            if examine(loaded.model).body.side == "enc":
                pytest.skip(
                    "it reads later tokens too where nothing tells it not to, so that no run of it has next tokens"
                )
            made[name] = tmp_path_factory.mktemp(name), loaded
            captured(*made[name])
        return made[name]

    return make


def check_parts(root: Path, loaded: Loaded) -> None:
    """Parts add up to the model's own logit, heads to attention, or the model says why it cannot be taken apart."""
    store, anatomy = TraceStore(run_dir(root, "a")), examine(loaded.model)
    measures = ("logit", "ifr", "value-norm")
    try:
        made = tables(root, loaded, target="4,9", measures=measures)
    except UsageError as e:
        if anatomy.main.post_norm:
            assert "no sum of what its heads and MLPs add" in str(e)
            return
        if "IFR and value norms follow" not in str(e):
            assert "adds to the stream is not known" in str(e)
            assert any("resid.post_attn" not in layer.shapes for layer in anatomy.main.layers)
            return
        assert "--measure logit" in str(e)
        made = tables(root, loaded, target="4,9", measures=("logit",))
    with torch.no_grad():
        logits = loaded.model(input_ids=model_ids(store)).logits[0].double()
    found, parts, errors = (made[t] for t in ("influence_targets", "logit_parts", "identity_errors"))
    found = found.set_index("pos")
    heads = take_apart(anatomy, store)
    for pos in (4, 9):
        target = found.loc[pos]
        assert target.target_id == int(logits[pos].argmax()) and pd.isna(target.against_id)
        assert abs(target.logit) > 1e-2 and target.parts_sum == pytest.approx(target.logit, abs=2e-5)
        if target.quantity == "logit":
            assert target.logit == pytest.approx(float(logits[pos, target.target_id]), abs=2e-4)
        own = parts[parts.pos == pos]
        assert own.logit.sum() == pytest.approx(target.parts_sum, abs=1e-9)
        by_part = own.groupby("part").logit.apply(lambda x: float(np.abs(x).max()))
        assert all(by_part[p] > 1e-4 for p in by_part.index if p != "bias")
        assert ("head" in by_part) == any(x.heads is not None for x in heads)
        assert ("attn" in by_part) == any(x.heads is None and x.attends for x in heads)
    assert (errors.max_error <= 2e-6 * errors.scale + 2e-5).all() and (errors.n > 0).all()
    assert set(errors[errors.identity == "attn_out = sum of heads"].layer) == {
        i for i, x in enumerate(heads) if x.heads is not None
    }


@pytest.mark.parametrize("name", QUICK)
def test_parts_add_up_to_the_models_own_logit(name: str, family: Callable) -> None:
    root, loaded = family(name)
    check_parts(root, loaded)


@pytest.mark.slow
@pytest.mark.parametrize("name", [f for f in CAUSAL if f not in QUICK])
def test_parts_add_up_in_every_family(name: str, family: Callable) -> None:
    root, loaded = family(name)
    check_parts(root, loaded)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_source_tokens_part_is_what_is_gone_without_its_value(name: str, family: Callable) -> None:
    """At every layer: what attention no longer adds once a token's value is zero, in the direction of the logit."""
    root, loaded = family(name)
    store, anatomy = TraceStore(run_dir(root, "a")), examine(loaded.model)
    ids = model_ids(store)
    pos = ids.shape[1] - 1
    parts = tables(root, loaded, measures=("logit",))["logit_parts"].query("part == 'head'")
    reader = LogitReader(anatomy)
    final = torch.tensor(store.resid(store.find_example(""), layer=2)[pos])
    logits = reader.logits(final[None])[0]
    u = reader.direction(final, logits, [int(logits.argmax())], []).vector

    def attended(layer: int, without: int | None) -> torch.Tensor:
        seen: list[torch.Tensor] = []

        def keep(x: torch.Tensor) -> torch.Tensor:
            seen.append(x[0, pos].clone())
            return x

        def zero(x: torch.Tensor) -> torch.Tensor:
            y = x.clone()
            y[:, without] = 0
            return y

        edits = {Key("dec", "attn_out", layer): keep} | ({} if without is None else {Key("dec", "v", layer): zero})
        with torch.no_grad(), edit_sites(anatomy, edits):
            anatomy.body({"dec": (ids, torch.ones_like(ids))})
        return seen[0].double()

    for layer in range(3):
        whole = attended(layer, None)
        for j in (0, pos - 5, pos - 2, pos):
            gone = float(u @ (whole - attended(layer, j)))
            own = parts[(parts.layer == layer) & (parts.source_pos == j)]
            assert own.logit.sum() == pytest.approx(gone, abs=2e-5)
            assert len(own) == (4 if name == "llama" or j > pos - 4 else 0)
            assert abs(gone) > 1e-5 or not len(own)


def rolled_back(matrices: list[np.ndarray], pos: int) -> np.ndarray:
    flow = np.eye(len(matrices[0]))[pos]
    for m in reversed(matrices):
        flow = flow @ m
    return flow


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "mistral"])
def test_shares_are_those_of_their_definitions(name: str, family: Callable) -> None:
    """Written out position by position, token by token, head by head."""
    root, loaded = family(name)
    store = TraceStore(run_dir(root, "a"))
    example = store.find_example("")
    pos = 8
    made = tables(root, loaded, target=str(pos), measures=("ifr", "value-norm"), least_flow=1e-9)
    assert "logit_parts" not in made
    ifr, norms, edge_shares = [], [], {}
    for layer, parts in enumerate(take_apart(examine(loaded.model), store)):
        assert isinstance(parts.heads, HeadOutputs)
        x, y = (store.resid(example, stage, layer).astype(np.float64) for stage in ("pre_attn", "post_attn"))
        v, attention = store.qkv(example, "v", layer).astype(np.float64), store.attn(example, layer)
        weight = parts.heads.weight.double().numpy()
        shares, lengths = np.zeros((pos + 1, pos + 1)), np.zeros((pos + 1, pos + 1))
        for i in range(pos + 1):
            whole = np.abs(y[i]).sum()
            importance = {(None, i): max(whole - np.abs(y[i] - x[i]).sum(), 1e-5)}
            for j in range(i + 1):
                parts_of_j = [attention[h, i, j] * (v[h, j] @ weight[h]) for h in range(len(weight))]
                lengths[i, j] = np.linalg.norm(sum(parts_of_j) + (x[i] if i == j else 0))
                for h, part in enumerate(parts_of_j):
                    if attention[h, i, j]:
                        importance[h, j] = max(whole - np.abs(y[i] - part).sum(), 1e-5)
            total = sum(importance.values())
            for (h, j), value in importance.items():
                shares[i, j] += value / total
                edge_shares[layer, -1 if h is None else h, i, j] = value / total
        ifr.append(shares)
        norms.append(lengths / lengths.sum(1, keepdims=True))
    found = made["influence"].pivot(index="source_pos", columns="measure", values="value")
    for measure, matrices in (("ifr", ifr), ("value-norm", norms)):
        wanted = rolled_back(matrices, pos)
        assert wanted.min() >= 0 and wanted.sum() == pytest.approx(1) and (wanted > 1e-3).sum() > 4
        np.testing.assert_allclose(found[measure], wanted, rtol=2e-3, atol=1e-6)
    edges = made["token_edges"]
    assert set(edges.target_pos) == {pos}
    np.testing.assert_allclose(edges.groupby("layer").flow.sum(), 1, atol=1e-6)
    keys = zip(edges.layer, edges["head"].fillna(-1).astype(int), edges.pos, edges.source_pos, strict=True)
    np.testing.assert_allclose(edges.share, [edge_shares[key] for key in keys], rtol=2e-3, atol=1e-6)
    flow = [np.eye(pos + 1)[pos]]
    for m in reversed(ifr):
        flow.insert(0, flow[0] @ m)
    passed = [flow[layer + 1][i] for layer, i in zip(edges.layer, edges.pos, strict=True)]
    np.testing.assert_allclose(edges.flow, edges.share * passed, rtol=2e-3, atol=1e-6)


def test_weak_edges_are_left_out(family: Callable) -> None:
    root, loaded = family("llama")
    every, some = (tables(root, loaded, least_flow=least)["token_edges"] for least in (1e-9, 0.05))
    assert 0 < len(some) < len(every) and some.flow.min() >= 0.05
    pd.testing.assert_frame_equal(some.reset_index(drop=True), every[every.flow >= 0.05].reset_index(drop=True))


def test_pieces_do_not_change_the_shares(family: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    root, loaded = family("llama")
    whole = tables(root, loaded)["influence"]
    monkeypatch.setattr("capture.influences.flows._PIECE_VALUES", 100)
    monkeypatch.setattr("capture.influences.flows._ATTENTION_VALUES", 1)
    cut = tables(root, loaded)["influence"]
    assert len(whole) and whole.value.max() > 0.05
    np.testing.assert_allclose(cut.value, whole.value, rtol=1e-5)


@pytest.mark.slow
def test_stored_attention_gives_what_derived_attention_gives(family: Callable, tmp_path: Path) -> None:
    _, loaded = family("gpt2")
    for folder, attn in (("derived", "auto"), ("stored", "stored")):
        captured(tmp_path / folder, loaded, capture="resid,qkv,attn", attn=attn)
    assert TraceStore(run_dir(tmp_path / "stored", "a")).has(Key("dec", "attn", 0))
    one, two = (
        tables(tmp_path / folder, loaded, target="6", measures=("logit", "ifr", "value-norm"))
        for folder in ("derived", "stored")
    )
    for table, value in (("logit_parts", "logit"), ("influence", "value")):
        a, b = one[table], two[table]
        assert len(a) == len(b) and a[value].abs().max() > 1e-2
        np.testing.assert_allclose(a[value], b[value], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [2048, 1])
def test_occlusion_is_the_model_with_another_embedding(
    family: Callable, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """… whether a pass has all tokens or one, in a row each."""
    monkeypatch.setattr(occlusion, "_BATCH_TOKENS", batch_tokens)
    root, loaded = family("llama")
    store = TraceStore(run_dir(root, "a"))
    ids = model_ids(store)
    pos = ids.shape[1] - 1
    made = tables(root, loaded, target=f"3,{pos}", measures=("occlusion",), token="a", against="b")["influence"]
    target, against = (loaded.tokenizer(t)["input_ids"][0] for t in "ab")
    with torch.no_grad():
        embedded = loaded.model.get_input_embeddings()(ids)
        plain = loaded.model(inputs_embeds=embedded).logits[0]
        for p in (3, pos):
            changes = made[made.pos == p].value.to_numpy()
            assert len(changes) == p + 1 and np.abs(changes).max() > 1e-2
            for j in range(p + 1):
                other = embedded.clone()
                other[0, j] = loaded.model.get_input_embeddings().weight.mean(0)
                lost = plain[p] - loaded.model(inputs_embeds=other).logits[0, p]
                assert changes[j] == pytest.approx(float(lost[target] - lost[against]), abs=2e-5)


# -- what is explained -------------------------------------------------------------------------------------------------


def test_tokens_that_are_named(family: Callable) -> None:
    root, loaded = family("llama")

    def target(**options: Any) -> Any:
        (row,) = tables(root, loaded, measures=("logit",), **options)["influence_targets"].itertuples()
        return row

    one, two, both = target(token="a"), target(token="b"), target(token="a", against="b")
    assert (both.target_token, both.against_token) == ("a", "b") and both.logit != 0
    assert both.logit == pytest.approx(one.logit - two.logit, abs=1e-5)
    against = target(against="b")
    assert against.target_id == target().target_id and against.against_token == "b"


@pytest.mark.slow
def test_of_a_task_its_targets_are_explained(tmp_path: Path, load_tiny: Callable) -> None:
    """At the end of both prompts, the right answer against the wrong one: the task's own metric."""
    import capture

    loaded, pairs = load_tiny("llama"), tmp_path / "pairs.csv"
    pairs.write_text("clean,corrupted,answer,wrong\nA b c d a,B a c d b,b,a\nA c b d a,A d b c a,c,d\n")
    task = capture.prepare_task(loaded, pairs, run="a", root=tmp_path, store_dtype="float32")
    found = tables(tmp_path, loaded, measures=("logit",))["influence_targets"].set_index(["example_id", "seq"])
    scores = task.query("FROM task_scores WHERE metric = 'logit_diff'").df().set_index("example_id")
    assert len(found) == 4 and set(found.target_token) == {"b", "c"} and set(found.against_token) == {"a", "d"}
    for (example_id, seq), target in found.iterrows():
        wanted = scores.loc[example_id, "corrupted" if seq else "clean"]
        assert target.logit == pytest.approx(wanted, abs=1e-4) and wanted != 0


def test_several_targets_are_explained_by_their_means(family: Callable) -> None:
    root, loaded = family("llama")
    store, anatomy = TraceStore(run_dir(root, "a")), examine(loaded.model)
    chooser = targets.TokenChooser(store, Options(), loaded.tokenizer, 400)
    example = store.find_example("")
    chooser._at_end[example] = targets.Tokens([5, 7], [9, 11, 12])
    tokens = chooser.choose(example, None, torch.zeros(400))
    final = torch.tensor(store.resid(example, layer=2)[-1])
    reader = LogitReader(anatomy)
    logits = reader.logits(final[None])[0]
    found = reader.direction(final, logits, *tokens)
    wanted = float(logits[[5, 7]].mean() - logits[[9, 11, 12]].mean())
    assert wanted != 0 and found.logit == pytest.approx(wanted, abs=1e-5)
    assert float(found.vector @ final.double()) + found.bias == pytest.approx(wanted, abs=1e-5)


@pytest.mark.slow
def test_of_multiple_choice_prompts_the_letter_is_explained(tmp_path: Path, load_tiny: Callable) -> None:
    loaded = load_tiny("gpt2")
    source = open_data("csqa", origin=str(DATA / "questions.jsonl"))
    options = mcq_prompt.Options(capture="resid,qkv", limit=2, store_dtype="float32")
    mcq_prompt.run(loaded, source, options, root=tmp_path, run_id="a")
    found = tables(tmp_path, loaded)["influence_targets"].set_index("example_id")
    choices = (
        TraceStore(run_dir(tmp_path, "a")).query("FROM choices ORDER BY example_id, is_pred DESC, logit DESC").df()
    )
    assert len(found) == 2
    for example_id, own in choices.groupby("example_id"):
        first, second = own.logit.to_numpy()[:2]
        assert found.target_token[example_id].strip() == own.label.iloc[0]
        assert found.against_token[example_id].strip() == own.label.iloc[1]
        assert found.logit[example_id] == pytest.approx(first - second, abs=1e-4) and first != second


@pytest.mark.slow
def test_of_responses_each_token_that_the_model_said(tmp_path: Path, load_tiny: Callable) -> None:
    loaded = load_tiny("gpt2")
    options = generate.Options(capture="resid,qkv", max_new_tokens=5, temperature=1.0, seed=3, store_dtype="float32")
    generate.run(loaded, one_text("The lamp burned."), options, root=tmp_path, run_id="a")
    said = (
        TraceStore(run_dir(tmp_path, "a"))
        .query("SELECT pos - 1, token_id FROM tokens WHERE is_response ORDER BY 1")
        .fetchall()
    )
    found = tables(tmp_path, loaded, target="response")["influence_targets"]
    assert list(zip(found.pos, found.target_id, strict=True)) == said and len(said) > 2
    assert not found.against_id.notna().any()


@pytest.mark.slow
def test_examples_limits_and_parts(tmp_path: Path, load_tiny: Callable) -> None:
    loaded, text = load_tiny("llama"), tmp_path / "t.txt"
    text.write_text("The lamp burned.\nFog.\nThe keeper slept.\nTwo and two.\nA quiet sea.\n")
    options = next_token.Options(capture="resid,qkv", store_dtype="float32")
    next_token.run(loaded, open_text(str(text), "text"), options, root=tmp_path, run_id="a")
    names = list(TraceStore(run_dir(tmp_path, "a")).tokens.example_id)
    every = explained(tmp_path, loaded, run_id="every")
    assert set(rows(every, "influence_targets").example_id) == set(names)
    first = tables(tmp_path, loaded, limit=2)["influence_targets"]
    assert set(first.example_id) == set(names[:2])
    one = tables(tmp_path, loaded, examples=(names[3][:10],))["influence_targets"]
    assert list(one.example_id) == [names[3]]
    for i in (1, 2):
        explained(tmp_path, loaded, run_id=f"w.shard-{i}-of-2", shard=f"{i}/2")
    parts = merge_plan.find_parts(tmp_path, "w")
    merge.merge(tmp_path, merge_plan.plan_merge(tmp_path, parts, "w"))
    merged = TraceStore(run_dir(tmp_path, "w"))
    for table in ("influence_targets", "logit_parts", "influence", "token_edges", "identity_errors"):
        whole, other = rows(every, table).drop(columns="run_id"), rows(merged, table).drop(columns="run_id")
        assert len(whole)
        pd.testing.assert_frame_equal(whole, other)
    assert not [check for check in validate(merged.path) if check.passed is False]


def test_an_interrupted_run_goes_on_to_the_same_end(
    tmp_path: Path, tiny_root: Path, load_tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "_SHARD_TOKENS", 100)
    loaded, folder, options = load_tiny("llama"), run_dir(tiny_root, "llama"), Options()

    def interrupted(counted: Any) -> None:
        if counted.begun >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        influence_run.run(loaded, folder, options, root=tmp_path, run_id="b", report=interrupted)
    assert not run_dir(tmp_path, "b").exists()
    with pytest.raises(UsageError, match="differs in options.least_flow"):
        influence_run.run(loaded, folder, Options(least_flow=0.5), root=tmp_path, run_id="b")
    seen: list[int] = []
    influence_run.run(
        loaded, folder, options, root=tmp_path, run_id="b", report=lambda c: seen.append(c.resumed_tokens)
    )
    assert max(seen) > 0
    influence_run.run(loaded, folder, options, root=tmp_path, run_id="c")
    for table in ("influence_targets", "logit_parts", "influence", "token_edges", "identity_errors"):
        one, two = (run_dir(tmp_path, r) / table / "00000.parquet" for r in "bc")
        assert one.read_bytes() == two.read_bytes()
    with pytest.raises(RunExistsError):
        influence_run.run(loaded, folder, options, root=tmp_path, run_id="c")


@pytest.mark.slow
def test_half_precision_is_told(tmp_path: Path, load_tiny: Callable) -> None:
    """What float16 costs stands in the run."""
    loaded = load_tiny("llama")
    captured(tmp_path, loaded, store_dtype="float16")
    errors = tables(tmp_path, loaded)["identity_errors"]
    stream = errors[errors.identity == "stream = embed + parts"].iloc[0]
    assert 1e-6 < stream.max_error / stream.scale < 5e-3


# -- what cannot be explained ------------------------------------------------------------------------------------------


def test_what_cannot_be_explained_says_so(
    tmp_path: Path, tiny_root: Path, load_tiny: Callable, capture_tiny: Callable, make_llama: Callable, tokenizer: Any
) -> None:
    loaded, folder = load_tiny("llama"), run_dir(tiny_root, "llama")
    for options, told in (
        ({"target": "first"}, "write last, response, or positions"),
        ({"target": "-1"}, "write last, response, or positions"),
        ({"target": "999"}, "no tokens at --target 999"),
        ({"target": "response"}, "generated none of its tokens"),
    ):
        with pytest.raises(UsageError, match=told):
            influence_run.forecast(folder, Options(**options))
    for options, told in (
        ({"measures": ("rollout",)}, "--measure rollout: use logit, ifr, value-norm, occlusion"),
        ({"measures": ("",)}, "--measure nothing: use logit"),
        ({"least_flow": 0.0}, "--least-flow 0: give a part"),
        ({"limit": 0}, "--limit 0: at least 1"),
    ):
        with pytest.raises(UsageError, match=told):
            Options(**options)
    with pytest.raises(NotFoundError, match="No example 'zzz'"):
        influence_run.forecast(folder, Options(examples=("zzz",)))
    with pytest.raises(UsageError, match=r"--token 'The lamp' is \d tokens \('T"):
        influence_run.run(loaded, folder, Options(token="The lamp"), root=tmp_path, run_id="x")
    capture_tiny(tmp_path, "bare", capture="hidden", max_len=16)
    with pytest.raises(
        UsageError,
        match=r"has not stored resid.post_attn of layer 0, .* traces capture next-token … --capture resid,qkv",
    ):
        influence_run.forecast(run_dir(tmp_path, "bare"), Options())
    capture_tiny(tmp_path, "half", capture="resid", max_len=16)
    with pytest.raises(UsageError, match="has not stored v of layer 0"):
        influence_run.forecast(run_dir(tmp_path, "half"), Options())
    capture_tiny(tmp_path, "no-k", capture="resid,q,v", max_len=16)
    with pytest.raises(UsageError, match="has not stored k of layer 0"):
        influence_run.run(loaded, run_dir(tmp_path, "no-k"), Options(), root=tmp_path, run_id="x")
    influence_run.run(loaded, folder, Options(limit=1), root=tmp_path, run_id="i")
    with pytest.raises(UsageError, match="of kind influence, and holds no states .* made from, llama"):
        influence_run.forecast(run_dir(tmp_path, "i"), Options())
    other = tmp_path / "other"
    make_llama(seed=9).save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(UsageError, match="other weights than those that run 'llama' was captured with"):
        influence_run.run(load(str(other), device="cpu"), folder, Options(), root=tmp_path, run_id="x")
    assert not run_dir(tmp_path, "x").exists()


@pytest.mark.slow
def test_models_that_cannot_be_taken_apart_say_so(tmp_path: Path, tokenizer: Any, family: Callable) -> None:
    for name, told in (("bert", "is of an encoder"), ("t5", "explains decoders alone")):
        folder, root = tmp_path / name, tmp_path / f"{name}-runs"
        zoo.build(name).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if name == "bert":
            loaded = load(str(folder), head="none", device="cpu")
            encode.run(loaded, one_text(TEXT), encode.Options(capture="resid"), root=root, run_id="a")
        else:
            pairs = tmp_path / "pairs.jsonl"
            pairs.write_text(json.dumps({"text": TEXT, "target": "A light."}))
            loaded = load(str(folder), device="cpu")
            options = next_token.Options(capture="resid,qkv", target_column="target")
            next_token.run(loaded, open_text(str(pairs), "text"), options, root=root, run_id="a")
        with pytest.raises(UsageError, match=told):
            influence_run.forecast(run_dir(root, "a"), Options())
    root, loaded = family("gemma2")
    with pytest.raises(UsageError, match=r"in layer 0 that is not known: no module .* Use --measure logit"):
        tables(root, loaded, measures=("logit", "ifr"))
    by_default = tables(root, loaded)
    assert len(by_default["logit_parts"]) and set(by_default) & {"influence", "token_edges"} == set()


@pytest.mark.slow
def test_the_real_model_on_two_names(tmp_path: Path, smollm2: Loaded) -> None:
    """The name that was said once is explained by the heads that read it; the parts are exact, and the first token is a sink."""
    captured(tmp_path, smollm2, "When Mary and John went to the store, John gave a bottle of milk to")
    made = tables(tmp_path, smollm2, token=" Mary", against=" John", measures=("logit", "ifr", "value-norm"))
    (target,) = made["influence_targets"].itertuples()
    assert target.logit > 3 and abs(target.parts_sum - target.logit) < 2e-6 * abs(target.logit)
    parts = made["logit_parts"]
    by_source = parts.groupby("source_pos").logit.sum()
    assert by_source.idxmax() == 1  # " Mary"
    shares = made["influence"].pivot(index="source_pos", columns="measure", values="value")
    assert shares["value-norm"][0] > 0.9 > 0.6 > shares["ifr"][0] > 0.3
    np.testing.assert_allclose(shares.sum(), 1, atol=1e-9)


@pytest.mark.slow
def test_the_command(tmp_path: Path, tiny_folder: Callable, traces: Callable, capture_tiny: Callable) -> None:
    root = tmp_path / "runs"
    store = capture_tiny(root, "a", "llama", capture="resid,qkv", max_len=24)
    n, place = store.meta.counts.sequences, ("--warehouse", root)
    told = traces("influence", "a", "--dry-run", "--target", "1,2", *place)
    assert told.code == 0 and f"{2 * n} predictions of {n} sequences, by logit, and ifr if possible" in told.out
    done = traces("influence", "a", "--limit", 2, "--device", "cpu", *place)
    assert done.code == 0, done.err
    assert "a-influence: 2 predictions explained" in done.out
    assert "traces sql --query why_this_token --set run=a-influence" in done.out
    answer = traces("sql", "--query", "why_this_token", "--set", "run=a-influence", *place)
    assert answer.code == 0 and answer.out.strip(), answer.err
    again = traces("influence", "a", "--model", tmp_path / "nowhere", *place)  # before a model is looked for
    assert again.code == 2 and "already exists" in again.err
    elsewhere = traces("influence", "a", "--run", "b", "--model", tiny_folder("gpt2"), *place)
    assert elsewhere.code == 2 and "other weights" in elsewhere.err
    synthetic.alter(run_dir(root, "a") / "run.json", lambda m: m["model"].update(name="/gone/away"))
    gone = traces("influence", "a", "--run", "b", *place)
    assert gone.code == 2 and "lies elsewhere now: --model PLACE" in gone.err
    shutil.rmtree(run_dir(root, "a-influence"))


@pytest.mark.slow
def test_from_python(tmp_path: Path, load_tiny: Callable) -> None:
    import capture

    run = capture.next_token(load_tiny("llama"), [TEXT], keep="resid,qkv", root=tmp_path)
    made = capture.influence(run, target=[2, 5], measures="logit", token="a", model=load_tiny("llama"))
    assert set(rows(made, "influence_targets").pos) == {2, 5}
    with pytest.raises(UsageError, match=r"^measures rollout: use"):
        capture.influence(run, measures="rollout", run="x")
    with pytest.raises(UsageError, match="^least_flow 2: give a part"):
        capture.influence(run, least_flow=2, run="x")
