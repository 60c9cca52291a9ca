"""Ablation and patching of a task: each effect is what the same model gives when it is changed by hand, one prompt at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import capture
from capture.effects import effects_run, task_pairs
from capture.model import loading
from warehouse import TraceStore, Warehouse
from warehouse.errors import NotFoundError, RunExistsError, UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.storage.paths import run_dir
from warehouse.validation.validate import validate

PAIRS = """clean,corrupted,answer,wrong
the keeper was with his lamp and the,the lamp was with his keeper and the, keeper, lamp
every keeper was with two lamps,every lamp was with two keepers, that, three
every keeper was with the two,every lamp was with the two, lamp, keeper
the keeper that was with the lamp was,the lamp that was with the keeper was, his, that
the keeper and his lamp,the lamp and his keeper, was, with
"""
ATOL = 2e-5
"""Batches of another shape sum in another order: float32 differences of logits of up to ten."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, make_llama: Callable, tokenizer: Any) -> loading.Loaded:
    """A tiny Llama whose logits are far apart."""
    folder = tmp_path_factory.mktemp("model") / "sharp"
    model = make_llama(seed=5)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.ndim == 2 else 1)
        model.lm_head.weight.mul_(8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loading.load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, loaded: loading.Loaded) -> Path:
    """A warehouse with the task, stored in float32."""
    folder = tmp_path_factory.mktemp("task")
    (folder / "pairs.csv").write_text(PAIRS)
    home = folder / "runs"
    capture.prepare_task(
        loaded, folder / "pairs.csv", run="task", root=home, store_dtype="float32", keep="resid,qkv,attn_out,mlp_out"
    )
    return home


@pytest.fixture(scope="module")
def pairs(root: Path) -> list[task_pairs.PromptPair]:
    return task_pairs.read_pairs(TraceStore(run_dir(root, "task")))


def score(
    loaded: loading.Loaded, pair: task_pairs.PromptPair, seq: int, *what: Any, metric: str = "logit_diff"
) -> float:
    """The metric of one prompt, by transformers alone, under interventions."""
    with capture.intervene(loaded, *what), torch.no_grad():
        logits = loaded.hf(input_ids=torch.from_numpy(pair.ids[seq])[None]).logits[0, -1].double()
    values = logits if metric == "logit_diff" else logits.softmax(-1)
    return sum(sign * float(values[token]) for token, sign in pair.targets.items())


def effects(store: TraceStore) -> dict[tuple[str, str], tuple[float, float, float, float | None]]:
    rows = store.query(
        "SELECT spec, example_id, baseline, value, effect, effect_normalised FROM effects JOIN interventions USING (intervention_id)"
    ).fetchall()
    assert all(effect == value - baseline for _, _, baseline, value, effect, _ in rows)
    return {(spec, example): tuple(numbers) for spec, example, *numbers in rows}


@pytest.mark.parametrize("metric", ["logit_diff", pytest.param("prob_diff", marks=pytest.mark.slow)])
def test_zeroing_is_what_the_model_gives_without_the_part(
    root: Path, loaded: loading.Loaded, pairs: list[task_pairs.PromptPair], metric: str
) -> None:
    store = capture.ablate(
        "task", kind="zero", what="heads,mlps,attns", metric=metric, model=loaded, root=root, run=f"zero-{metric}"
    )
    assert [(c.name, c.detail) for c in validate(store.path) if c.passed is False] == []
    found = effects(store)
    assert len(found) == 3 * (4 + 2) * len(pairs)
    for (spec, example), (baseline, value, _, _) in found.items():
        pair = next(p for p in pairs if p.example_id == example)
        assert baseline == pytest.approx(score(loaded, pair, 0, metric=metric), abs=ATOL)
        assert value == pytest.approx(score(loaded, pair, 0, spec, metric=metric), abs=ATOL)
    largest = {spec: max(abs(e) for (s, _), (_, _, e, _) in found.items() if s == spec) for spec, _ in found}
    assert min(largest.values()) > (1e-4 if metric == "logit_diff" else 1e-6)


@pytest.mark.parametrize(
    "site",
    [
        "resid.post_attn",
        *(pytest.param(f"resid.{s}", marks=pytest.mark.slow) for s in ("post_mlp", "pre_attn", "embed")),
    ],
)
def test_the_whole_stream_patched_is_the_other_prompt(
    root: Path, loaded: loading.Loaded, pairs: list[task_pairs.PromptPair], site: str
) -> None:
    for direction, seq, wanted in (("denoise", 1, 1.0), ("noise", 0, -1.0)):
        store = capture.patch(
            "task", site=site, direction=direction, positions="all", model=loaded, root=root, run=f"{site}-{direction}"
        )
        found = effects(store)
        assert len(found) == (1 if site == "resid.embed" else 3) * len(pairs)
        for (_, example), (baseline, value, _, normalised) in found.items():
            pair = next(p for p in pairs if p.example_id == example)
            assert baseline == pytest.approx(score(loaded, pair, seq), abs=ATOL)
            assert value == pytest.approx(score(loaded, pair, 1 - seq), abs=ATOL)
            assert (
                normalised == pytest.approx(wanted, abs=1e-3)
                or abs(score(loaded, pair, 0) - score(loaded, pair, 1)) < 0.1
            )
        assert any(n is not None for *_, n in found.values())


def test_patching_a_position_is_putting_in_the_other_prompts_state(
    root: Path, loaded: loading.Loaded, pairs: list[task_pairs.PromptPair]
) -> None:
    """The states are those that the task's run has stored, in float32. Before the prompts differ nothing happens."""
    task = TraceStore(run_dir(root, "task"))
    store = capture.patch("task", site="resid.post_mlp,mlp_out,v", layers=[1], model=loaded, root=root, run="each")
    found = effects(store)
    seen = 0
    for pair in pairs:
        first = int(np.flatnonzero(pair.ids[0] != pair.ids[1])[0])
        for pos in range(len(pair)):
            for place, site, head in (
                ("resid.post_mlp@1", "resid.post_mlp", None),
                ("M1", "mlp_out", None),
                ("v@1.H1", "v", 1),
            ):
                _, value, effect, _ = found[f"{place}[pos={pos}]=patch", pair.example_id]
                rows = task.rows(task.key(site, 1), pair.example_id, 0)[pos]
                state = capture.Intervention(
                    site, 1, "patch", head=head, positions=capture.Positions(pos, pos + 1),
                    value=rows if head is None else rows[head],
                )  # fmt: skip
                assert value == pytest.approx(score(loaded, pair, 1, state), abs=ATOL)
                if pos < first:
                    assert abs(effect) < ATOL
                seen += abs(effect) > 1e-3
    assert seen > 20
    assert ("resid.post_mlp@1[pos=9]=patch", pairs[0].example_id) not in found


def test_a_task_patched_with_its_own_stored_states_is_itself(root: Path, loaded: loading.Loaded) -> None:
    store = capture.patch(
        "task", site="resid.post_mlp,resid.post_attn,attn_out,mlp_out,heads,q,k,v", source="task", positions="all", model=loaded,
        root=root, run="self",
    )  # fmt: skip
    found = effects(store)
    assert len({spec for spec, _ in found}) == 3 * (4 + 4 + 4 + 2 + 2)
    assert max(abs(effect) for _, _, effect, _ in found.values()) < ATOL
    row = store.query("SELECT DISTINCT kind, direction, reference_run_id FROM interventions").fetchall()
    assert row == [("patch", None, "task")]
    assert store.meta.parents == ["task"]


def test_means_are_over_the_other_prompts_or_a_reference_run(
    root: Path, loaded: loading.Loaded, pairs: list[task_pairs.PromptPair]
) -> None:
    task = TraceStore(run_dir(root, "task"))
    own = effects(capture.ablate("task", kind="mean", what="mlps", model=loaded, root=root, run="mean-own"))
    length = sorted(map(len, pairs))
    longest = [p for p in pairs if len(p) <= length[-2]]
    assert {e for _, e in own} == {p.example_id for p in longest}
    key = task.key("mlp_out", 1)
    for pair in longest:
        others = [task.rows(key, p.example_id, 0) for p in pairs if p is not pair]
        mean = np.stack([np.mean([r[t] for r in others if len(r) > t], 0, dtype=np.float64) for t in range(len(pair))])
        by_hand = capture.Intervention("mlp_out", 1, "patch", value=mean)
        _, value, effect, _ = own["M1=mean:the task", pair.example_id]
        assert value == pytest.approx(score(loaded, pair, 0, by_hand), abs=ATOL)
        assert abs(effect) > 1e-4
    reference = capture.ablate(
        "task", kind="mean", what="M1", reference="task", model=loaded, root=root, run="mean-ref"
    )
    ((n, parents),) = {(n, tuple(reference.meta.parents)) for (n,) in reference.query(
        "SELECT n_reference FROM interventions").fetchall()}  # fmt: skip
    assert (n, parents) == (2 * len(pairs), ("task",))
    for (spec, example), (_, value, _, _) in effects(reference).items():
        pair = next(p for p in pairs if p.example_id == example)
        assert spec == "M1=mean:task"
        rows = [task.rows(key, p.example_id, seq) for p in pairs for seq in (0, 1)]
        mean = np.stack([np.mean([r[t] for r in rows if len(r) > t], 0, dtype=np.float64) for t in range(len(pair))])
        assert value == pytest.approx(
            score(loaded, pair, 0, capture.Intervention("mlp_out", 1, "patch", value=mean)), abs=ATOL
        )


def test_effects_do_not_depend_on_their_batch(root: Path, loaded: loading.Loaded) -> None:
    together = effects(capture.ablate("task", model=loaded, root=root, run="wide"))
    alone = effects(capture.ablate("task", model=loaded, root=root, batch_tokens=1, run="narrow"))
    assert together.keys() == alone.keys()
    for key, (_, value, _, _) in together.items():
        assert alone[key][1] == pytest.approx(value, abs=ATOL)
    assert len({value for _, value, _, _ in alone.values()}) > 30


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_parts_make_the_whole(
    root: Path, loaded: loading.Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_pairs, "_SHARD_ROWS", 1)
    options = effects_run.Options(what="heads,mlps", kind="zero", batch_tokens=16)
    folder = run_dir(root, "task")
    calls: list[int] = []

    def stop(progress: Any) -> None:
        calls.append(progress.resumed_tokens)
        if len(calls) == 2:
            raise KeyboardInterrupt

    effects_run.run(loaded, folder, options, root=root, run_id="undisturbed")
    with pytest.raises(KeyboardInterrupt):
        effects_run.run(loaded, folder, options, root=root, run_id="resumed", report=stop)
    resumed: list[int] = []
    effects_run.run(
        loaded, folder, options, root=root, run_id="resumed", report=lambda p: resumed.append(p.resumed_tokens)
    )
    assert resumed[-1] > 0
    for i in (1, 2):
        part = capture.ablate(
            "task", kind="zero", model=loaded, root=root, batch_tokens=16, run="parted", part=f"{i}/2"
        )
        assert part.meta.run_id == f"parted.part-{i}-of-2" or part.meta.run_id.startswith("parted")
    names = [p.name.removeprefix("run_id=") for p in root.glob("run_id=parted*")]
    merge.merge(root, merge_plan.plan_merge(root, names, "parted"))
    with Warehouse(root) as wh:
        for table in ("interventions", "effects"):
            tables = [
                wh.sql(f"SELECT * EXCLUDE run_id FROM {table} WHERE run_id = '{run}' ORDER BY ALL").fetchall()
                for run in ("undisturbed", "resumed", "parted")
            ]
            assert len(tables[0]) > 10
            assert tables[0] == tables[1] == tables[2]


def test_parts_of_a_task_that_is_one_batch_have_pairs_each(
    root: Path, loaded: loading.Loaded, pairs: list[task_pairs.PromptPair]
) -> None:
    assert len(list(task_pairs.group_pairs(pairs, effects_run.Options().batch_tokens))) == 1
    whole = effects(capture.ablate("task", what="M0", kind="zero", model=loaded, root=root, run="whole"))
    parts = [
        effects(capture.ablate("task", what="M0", kind="zero", model=loaded, root=root, run="few", part=f"{i}/2"))
        for i in (1, 2)
    ]
    assert all(parts) and parts[0].keys() | parts[1].keys() == whole.keys()
    for key, numbers in (*parts[0].items(), *parts[1].items()):
        assert numbers == pytest.approx(whole[key], abs=ATOL)


def test_places_may_have_positions_of_their_own(
    root: Path, loaded: loading.Loaded, pairs: list[task_pairs.PromptPair]
) -> None:
    store = capture.ablate("task", what="M1[pos=2],L2H1[pos=-1],M0", kind="zero", model=loaded, root=root, run="places")
    found = effects(store)
    assert {spec for spec, _ in found} == {"M1[pos=2]=zero", "L2H1[pos=-1]=zero", "M0=zero"}
    for (spec, example), (_, value, effect, _) in found.items():
        pair = next(p for p in pairs if p.example_id == example)
        assert value == pytest.approx(score(loaded, pair, 0, spec), abs=ATOL)
        assert abs(effect) > 1e-6


def test_a_ratio_to_next_to_nothing_is_null(tmp_path: Path, load_tiny: Callable[..., loading.Loaded]) -> None:
    """A model that finds all of 400 tokens about equally likely: probabilities of 0.0025 are no 0.01 apart."""
    (tmp_path / "pairs.csv").write_text(PAIRS)
    capture.prepare_task(load_tiny(), tmp_path / "pairs.csv", run="even", root=tmp_path / "runs")
    store = capture.ablate("even", metric="prob_diff", kind="zero", what="M0", root=tmp_path / "runs")
    found = effects(store)
    assert {normalised for *_, normalised in found.values()} == {None}
    assert max(abs(effect) for _, _, effect, _ in found.values()) > 1e-5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda **o: capture.ablate("task", what="L1H9", **o), UsageError, "heads 0 to 3"),
        (lambda **o: capture.ablate("task", what="M7", **o), UsageError, "layers 0 to 2"),
        (lambda **o: capture.ablate("task", what="neurons", **o), NotFoundError, "No site to change 'neurons'"),
        (lambda **o: capture.ablate("task", what="M1[pos=2:4]", **o), UsageError, "name one position"),
        (lambda **o: capture.ablate("task", what="", **o), UsageError, "Name what to change"),
        (lambda **o: capture.ablate("task", kind="patch", **o), NotFoundError, "No kind of ablation 'patch'"),
        (lambda **o: capture.ablate("task", layers="9", **o), UsageError, "layers 9: use numbers from 0 to 2"),
        (lambda **o: capture.ablate("task", metric="accuracy", **o), NotFoundError, "No metric 'accuracy'"),
        (lambda **o: capture.ablate("task", kind="mean", reference="gone", **o), NotFoundError, "gone"),
        (lambda **o: capture.ablate("task", part="9/9", **o), UsageError, "use fewer parts"),
        (lambda **o: capture.ablate("absent", **o), NotFoundError, "absent"),
        (lambda **o: capture.patch("task", direction="up", **o), NotFoundError, "No direction 'up'"),
        (lambda **o: capture.patch("task", source="bare", site="mlp_out", **o), UsageError, "bare"),
        (lambda **o: capture.ablate("plain", **o), UsageError, "is of kind next-token.*traces task prepare"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_line(
    root: Path, loaded: loading.Loaded, capture_tiny: Callable, call: Callable, error: type[Exception], message: str
) -> None:
    if not run_dir(root, "plain").exists():
        capture_tiny(root, "plain", loaded=loaded, max_len=12, capture="resid")
        capture_tiny(root, "bare", loaded=loaded, max_len=12, capture="")
    before = sorted(p.name for p in root.iterdir())
    with pytest.raises(error, match=message):
        call(model=loaded, root=root)
    assert sorted(p.name for p in root.iterdir()) == before


def test_another_model_is_refused(root: Path, load_tiny: Callable[..., loading.Loaded], capture_tiny: Callable) -> None:
    with pytest.raises(UsageError, match="with other weights"):
        capture.ablate("task", model=load_tiny(), root=root, run="other")
    if not run_dir(root, "foreign").exists():
        capture_tiny(root, "foreign", max_len=12, capture="resid")
    with pytest.raises(UsageError, match="Reference run 'foreign'"):
        capture.ablate("task", kind="mean", reference="foreign", root=root, run="other")


def test_a_name_that_is_taken_is_refused_before_anything_runs(root: Path, loaded: loading.Loaded) -> None:
    capture.ablate("task", what="M0", kind="zero", model=loaded, root=root, run="taken")
    with pytest.raises(RunExistsError):
        capture.ablate("task", what="M0", kind="zero", model=loaded, root=root, run="taken")
    again = capture.ablate("task", what="M0", kind="zero", model=loaded, root=root, run="taken", skip_existing=True)
    assert again.meta.run_id == "taken"
