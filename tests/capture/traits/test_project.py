"""Projections against plain products over the stored residuals; dynamics against those of each response alone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic
from synthetic import add_run
from synthetic_traits import LENGTH, PROMPT, RESPONSE, add_responses, grid

from capture.traits import project as projecting
from capture.traits.directions import Direction, Options, choose_directions
from capture.traits.dynamics import differences, summarize_sequences
from capture.traits.project import project
from warehouse import TraceStore, Warehouse
from warehouse.errors import NotFoundError, RunExistsError, UsageError
from warehouse.storage import paths
from warehouse.storage.manifest import Manifest
from warehouse.validation.check import ValidationFailure
from warehouse.validation.validate import CONTENT_CHECKS, validate

TRAITS = ("calm", "loud", "quick")
METHODS = ("mean_diff", "probe")


def vectors_of(store: TraceStore, traits: Sequence[str] = TRAITS, seed: int = 0) -> list[dict[str, Any]]:
    """A random vector for every trait, method, component and layer, the embedding's too."""
    rng = np.random.default_rng(seed)
    width, layers = store.meta.model.d_model, range(store.meta.model.n_layers)
    homes = [("residual", None), *((c, i) for c in ("residual", "attn_out") for i in layers)]
    return [
        {"trait": t, "method": m, "component": c, "layer": i, "vector": (rng.standard_normal(width) * 3).tolist()}
        for t in traits
        for m in METHODS
        for c, i in homes
    ]


def add_vectors(root: Path, run: str, store: TraceStore, rows: list[dict[str, Any]], minute: int = 0) -> None:
    add_run(root, run, "trait-vectors", {"trait_vectors": rows}, minute=minute, body=store.meta.model.space,
            d_model=store.meta.model.d_model)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Path:
    """A captured run `llama`, a run `vectors` for it, and a generation run `answers` with responses of its own."""
    root = tmp_path_factory.mktemp("project") / "runs"
    shutil.copytree(paths.run_dir(tiny_root, "llama"), paths.run_dir(root, "llama"))
    store = TraceStore(paths.run_dir(root, "llama"))
    add_vectors(root, "vectors", store, vectors_of(store))
    rng = np.random.default_rng(1)
    responses = grid(3, samples=2)
    tensors = {
        (site, layer): rng.standard_normal((len(responses), LENGTH, 8)).astype(np.float16)
        for site, layer in (("resid.post_mlp", 1), ("resid.post_mlp", 2), ("attn_out", 1))
    }
    answers = add_responses(root, "answers", responses, tensors, kind="generate", empty=[4])
    add_vectors(root, "answers-vectors", answers, vectors_of(answers))
    return root


@pytest.fixture
def home(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "runs"))


def made(wh: Warehouse, source: str, options: Options, name: str | None = None) -> TraceStore:
    manifest = project(wh, source, choose_directions(wh, source, options), options, name)
    return TraceStore(paths.run_dir(wh.root, manifest.run_id))


def rows(store: TraceStore, table: str) -> list[dict[str, Any]]:
    answer = store.query(f"SELECT * EXCLUDE (run_id) FROM {table} ORDER BY ALL")
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]


def state(store: TraceStore, row: dict[str, Any]) -> np.ndarray:
    if row["component"] == "attn_out":
        return store.attn_out(row["example_id"], row["layer"], seq=row["seq"])
    stage = "embed" if row["layer"] is None else "post_mlp"
    return store.resid(row["example_id"], stage, row["layer"], seq=row["seq"])


MOVING = ("projection", "velocity", "acceleration")

EVERYTHING = Options(TRAITS, methods=METHODS, components=("residual",), layers=(None, 0, 2))


def test_every_token_is_the_product_with_its_own_state(home: Path) -> None:
    with Warehouse(home) as wh:
        source, found = wh.run("llama"), made(wh, "llama", EVERYTHING)
        there = {(r["trait"], r["method"], r["component"], r["layer"]): np.array(r["vector"])
                 for r in rows(wh.run("vectors"), "trait_vectors")}  # fmt: skip
    told = rows(found, "trait_projections")
    assert len(told) == source.meta.counts.tokens * len(TRAITS) * len(METHODS) * 3
    states: dict[Any, np.ndarray] = {}
    for r in told:
        key = (r["example_id"], r["seq"], r["layer"])
        if key not in states:
            states[key] = state(source, r).astype(np.float64)
        h, v = states[key][r["pos"]], there[r["trait"], r["method"], r["component"], r["layer"]]
        norm = np.linalg.norm(h)
        # float32 products of 32 numbers, summed in another order
        assert abs(r["projection"] - h @ v / np.linalg.norm(v)) < 1e-5 * norm
        assert r["token_norm"] == pytest.approx(norm, rel=1e-6)
        assert (r["source_run_id"], r["vectors_run_id"]) == ("llama", "vectors")
    assert all(check.passed is not False for check in validate(found.path))
    assert (found.meta.kind, found.meta.parents) == ("trait-projection", ["llama", "vectors"])


@pytest.mark.slow
def test_several_in_one_pass_are_each_alone(home: Path) -> None:
    with Warehouse(home) as wh:
        every = made(wh, "llama", EVERYTHING, "every")
        for trait in TRAITS:
            one = Options((trait,), methods=("probe",), components=("residual",), layers=(2,))
            alone = rows(made(wh, "llama", one, trait), "trait_projections")
            same = [r for r in rows(every, "trait_projections")
                    if (r["trait"], r["method"], r["layer"]) == (trait, "probe", 2)]  # fmt: skip
            assert len(alone) == len(same) > 0
            for a, b in zip(alone, same, strict=True):
                for name in a:
                    if name in MOVING:  # a product with one column sums in another order
                        assert a[name] == pytest.approx(b[name], abs=1e-4)
                    else:
                        assert a[name] == b[name]


def test_dynamics_are_of_the_response_without_what_is_special(home: Path) -> None:
    """Every response begins after PROMPT tokens and ends in a special one; one has nothing else."""
    options = Options(TRAITS, methods=("probe",), components=("residual",), layers=(1, 2), threshold=0.5)
    with Warehouse(home) as wh:
        found = made(wh, "answers", options)
        n = wh.run("answers").meta.counts.sequences
    told = {(r["trait"], r["layer"], r["example_id"], r["seq"]): r for r in rows(found, "trait_dynamics")}
    assert len(told) == (n - 1) * len(TRAITS) * 2
    groups: dict[Any, list[dict[str, Any]]] = {}
    for r in rows(found, "trait_projections"):
        groups.setdefault((r["trait"], r["layer"], r["example_id"], r["seq"]), []).append(r)
    assert len(groups) == n * len(TRAITS) * 2
    for key, tokens in groups.items():
        tokens.sort(key=lambda r: r["pos"])
        inside = tokens[PROMPT : PROMPT + RESPONSE]
        known = [r["velocity"] is not None for r in tokens]
        assert known == [key in told and PROMPT < i < PROMPT + RESPONSE for i in range(LENGTH)]
        if key not in told:
            continue
        p = np.array([[r["projection"] for r in inside]], np.float32)
        v, a = differences(p, np.array([RESPONSE]))
        assert [r["velocity"] for r in inside] == [None, *v[0, 1:].tolist()]
        assert [r["acceleration"] for r in inside] == [None, None, *a[0, 2:].tolist()]
        d, row = summarize_sequences(p, np.array([RESPONSE]), v, a, 0.5), told[key]
        assert (row["n_tokens"], row["first_pos"]) == (RESPONSE, PROMPT)
        assert row["mean_projection"] == pytest.approx(d.mean[0, 0], rel=1e-6)
        assert row["spread"] == pytest.approx(d.spread[0, 0], rel=1e-6)
        assert row["mean_cosine"] == pytest.approx(
            np.mean([r["projection"] / r["token_norm"] for r in inside]), rel=1e-5
        )
        assert row["peak_velocity"] == d.peak_velocity[0, 0]
        for column, value in (("commitment_point", d.commitment), ("commitment_point_relative", d.commitment_relative),
                              ("peak_point", d.peak), ("persistence", d.persistence)):  # fmt: skip
            assert row[column] == (None if value[0, 0] < 0 else value[0, 0]), column


@pytest.mark.slow
def test_dynamics_only_are_the_same_dynamics(home: Path) -> None:
    with Warehouse(home) as wh:
        whole = made(wh, "llama", Options(("loud",)), "whole")
        only = made(wh, "llama", Options(("loud",), dynamics_only=True), "only")
    assert rows(whole, "trait_dynamics") == rows(only, "trait_dynamics") != []
    assert only.meta.counts.rows["trait_projections"] == 0 < whole.meta.counts.rows["trait_projections"]
    assert rows(whole, "trait_dynamics")[0]["n_tokens"] == sum(
        r["example_id"] == rows(whole, "trait_dynamics")[0]["example_id"] for r in rows(whole, "trait_projections")
    ), "a run that generated nothing is looked at whole"


def test_interrupted_it_goes_on_as_if_it_had_not_been(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projecting, "_SHARD_ROWS", 600)
    options = Options(TRAITS, layers=(1,))

    class Stop(Exception):
        pass

    with Warehouse(home) as wh:
        chosen = choose_directions(wh, "llama", options)
        seen = []

        def stop(counted: Any) -> None:
            seen.append(counted.begun)
            if len(seen) == 3:
                raise Stop

        with pytest.raises(Stop):
            project(wh, "llama", chosen, options, report=stop)
        assert paths.staged_runs(home) == ["llama-traits"]
        resumed: list[int] = []
        project(wh, "llama", chosen, options, report=lambda c: resumed.append(c.resumed_tokens))
        assert resumed[0] > 0 and len(resumed) > 3
        project(wh, "llama", chosen, options, "undisturbed")
        for table in ("trait_projections", "trait_dynamics"):
            a, b = (paths.run_dir(home, run) / paths.table_file(table) for run in ("llama-traits", "undisturbed"))
            assert a.read_bytes() == b.read_bytes()


def test_other_vectors_make_another_run_and_the_view_shows_the_newest(home: Path) -> None:
    with Warehouse(home) as wh:
        source = wh.run("llama")
        first = made(wh, "llama", Options(TRAITS, layers=(1,)))
        again = made(wh, "llama", Options(TRAITS, layers=(1,)))
        assert first.meta == again.meta, "the very same is there already"
        add_vectors(home, "newer", source, vectors_of(source, ("loud",), seed=5), minute=60)
        second = made(wh, "llama", Options(("loud",), layers=(1,)))
        assert (first.meta.run_id, second.meta.run_id) == ("llama-traits", "llama-traits-2")
        assert second.meta.parents == ["llama", "newer"]
        made(wh, "llama", Options(("calm",), layers=(2,), dynamics_only=True), "newest")
    with Warehouse(home) as wh:
        assert wh.sql(
            "SELECT trait, any_value(run_id), count(DISTINCT run_id), count(*) FROM newest_trait_projections "
            "GROUP BY trait ORDER BY trait"
        ).fetchall() == [
            ("calm", "llama-traits", 1, source.meta.counts.tokens),
            ("loud", "llama-traits-2", 1, source.meta.counts.tokens),
            ("quick", "llama-traits", 1, source.meta.counts.tokens),
        ]  # fmt: skip
        assert wh.sql("SELECT DISTINCT trait, run_id FROM newest_trait_dynamics ORDER BY trait").fetchall() == [
            ("calm", "newest"), ("loud", "llama-traits-2"), ("quick", "llama-traits"),
        ]  # fmt: skip
        with pytest.raises(RunExistsError):
            made(wh, "llama", Options(("loud",), layers=(2,)), "llama-traits")


def test_the_vector_is_the_best_one_where_one_is_known_to_be(home: Path) -> None:
    def picked(**options: Any) -> tuple[Any, ...]:
        with Warehouse(home) as wh:
            (d,) = choose_directions(wh, "llama", Options(("loud",), **options))
        return d.method, d.component, d.layer, d.reason

    middle = "the middle layer's mean difference, as nothing was evaluated or steered: traces trait evaluate"
    assert picked() == ("mean_diff", "residual", 1, middle)
    assert picked(methods=("probe",)) == ("probe", "residual", 1, f"method as requested, else {middle}")
    evaluations = [
        {"vectors_run_id": "vectors", "trait": "loud", "method": m, "component": c, "layer": i, "effect_size": e}
        for m, c, i, e in (
            ("mean_diff", "residual", 2, 1.0),
            ("probe", "residual", 0, 2.0),
            ("probe", "attn_out", 2, 3.0),
            ("random", "residual", 1, 9.0),
        )
    ]
    add_run(home, "evaluated", "trait-evaluation", {"trait_evaluations": evaluations}, parents=["vectors"], minute=5)
    assert picked() == (
        "probe", "residual", 0, "the residual stream's best by held-out effect size; one does better, and is passed over, "
        "of attn_out, which few runs keep, or of the embedding, which is before all blocks",
    )  # fmt: skip
    assert picked(layers=(2,))[:3] == ("probe", "residual", 2)
    assert picked(layers=(None,), components=("residual",), methods=("probe",)) == (
        "probe", "residual", None, "as requested",
    )  # fmt: skip


def test_what_is_asked_wrongly_is_told(home: Path) -> None:
    with Warehouse(home) as wh:
        other = TraceStore(paths.run_dir(home, "llama")).meta
        add_run(home, "wide", "trait-vectors", {"trait_vectors": [{"trait": "wide", "vector": [1.0] * 8}]}, d_model=8)
        add_run(home, "strange", "trait-vectors", {"trait_vectors": [{"trait": "strange", "vector": [1.0] * 32}]},
                d_model=other.model.d_model, body="others")  # fmt: skip
    with Warehouse(home) as wh:
        for source, options, error, says in (
            ("lama", Options(("loud",)), NotFoundError, "No run 'lama'. Did you mean llama"),
            ("llama", Options(()), UsageError, "No trait is named"),
            ("llama", Options(("lout",)), NotFoundError, "No vectors of trait 'lout'. Did you mean loud"),
            ("llama", Options(("loud",), vectors=("vectros",)), NotFoundError, "No run 'vectros'. Did you mean vectors"),
            ("llama", Options(("loud",), vectors=("wide",)), NotFoundError, "No vectors of trait 'loud'. There is: wide. in wide"),
            ("llama", Options(("wide",)), UsageError, "The vectors of run 'wide' have 8 dimensions (none), the states of run 'llama' 32"),
            ("llama", Options(("strange",)), UsageError, "The vectors of run 'strange' are of a model with other weights (none) than"),
            ("llama", Options(("loud",), methods=("prob",)), NotFoundError, "No method 'prob'. Did you mean probe"),
            ("llama", Options(("loud",), layers=(7,)), NotFoundError, "No layer '7'. There is: embed, 0, 1, 2. (vectors of loud, run 'vec"),
            ("llama", Options(("loud",), components=("mlp",)), NotFoundError, "No component 'mlp'."),
            ("llama", Options(("loud",), layers=(None,), components=("attn_out",)), UsageError,
             "has no vector of loud by mean_diff in attn_out, layer embed"),
            ("answers", Options(("loud",), layers=(3,)), UsageError, "has no resid.post_mlp in layer 3"),
            ("answers", Options(("loud",), layers=(None,)), UsageError, "did not store resid.embed; it has attn_out, resid.post_mlp. "
             "Capture it again with --capture"),
        ):  # fmt: skip
            with pytest.raises(error, match=re.escape(says)):
                choose_directions(wh, source, options)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_all_finite_values_are_widened_exactly(dtype: Any) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    x = (bits.astype(np.uint32) << 16).view(np.float32) if dtype == np.float32 else bits.view(dtype)
    x = x[np.isfinite(x.astype(np.float32))][None]
    wide = projecting._widen(x, np.zeros(x.shape, np.float32))
    np.testing.assert_array_equal(wide.view(np.uint32), x.astype(np.float32).view(np.uint32))


def test_a_captured_run_in_another_dtype(tmp_path: Path) -> None:
    """bfloat16 and wide vectors, in two shards: the same as a product in float64."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 300, 40).tolist()
    x = (rng.standard_normal((sum(lengths), 96)) * 10).astype(ml_dtypes.bfloat16)
    v = rng.standard_normal((2, 96))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    store = synthetic.add_vectors(tmp_path, "source", {1: x}, lengths)
    chosen = [
        Direction(t, "probe", "residual", 1, "source", u.astype(np.float32), "") for t, u in zip("ab", v, strict=True)
    ]
    with Warehouse(tmp_path) as wh:
        found = project(wh, "source", chosen, Options(("a", "b")))
    with Warehouse(tmp_path) as wh:
        order = "example_id, seq, pos"
        for trait, u in zip("ab", v, strict=True):
            told = wh.sql(
                f"SELECT projection, token_norm FROM trait_projections WHERE trait = '{trait}' ORDER BY {order}"
            ).fetchnumpy()
            states = np.concatenate([store.resid(f"e{i:04d}", layer=1) for i in range(len(lengths))]).astype(np.float64)
            np.testing.assert_allclose(told["projection"], states @ u, atol=1e-4)
            np.testing.assert_allclose(told["token_norm"], np.linalg.norm(states, axis=1), rtol=1e-6)
    assert isinstance(found, Manifest)


@pytest.mark.slow
def test_the_command_line(home: Path, traces: Callable[..., Any]) -> None:
    """It says what it projects on, why, and that it may be no better than a random direction."""
    of_vector = {
        "vectors_run_id": "answers-vectors",
        "trait": "loud",
        "method": "mean_diff",
        "component": "residual",
        "layer": 1,
    }
    chance = {"accuracy": 0.5, "n_pos": 2, "n_neg": 2, "above_random_low": -0.25, "above_random_high": 0.25}
    add_run(home, "evaluated", "trait-evaluation", {"trait_evaluations": [of_vector | chance]}, minute=5)
    done = traces("trait", "project", "answers", "--traits", "loud,calm", "--layers", "1", "--warehouse", home)
    assert done.code == 0, done.err
    assert "answers-traits: 192 projections, 22 responses' dynamics" in done.out
    assert "loud: mean_diff, residual, layer 1, of run answers-vectors (layer as requested, else " in done.err
    assert (
        "warning: loud: mean_diff, residual, layer 1, is not known to separate better than a random direction: of 4"
        in done.err
    )
    assert "warning: calm" not in done.err
    asked = traces("sql", "--query", "trait_by_token", "--set", "run=answers", "--warehouse", home, "--format", "tsv")
    assert asked.code == 0 and len(asked.out.splitlines()) == 1 + 2 * 2 * (RESPONSE + 1), asked.err
    for arguments, says in (
        (("--layers", "one"), "--layers one: write numbers, as in 5,10, or embed."),
        (("--layers", "3"), "has no resid.post_mlp in layer 3"),
    ):
        wrong = traces("trait", "project", "answers", "--traits", "loud", *arguments, "--warehouse", home)
        assert wrong.code == 2 and says in wrong.err


@pytest.mark.parametrize(
    ("finding", "table", "column", "change"),
    [
        ("a projection longer than its state", "trait_projections", "token_norm", lambda x: x * 0),
        (
            "a velocity that is not the difference",
            "trait_projections",
            "projection",
            lambda x: x * (np.arange(len(x)) % 7 > 0),
        ),
        ("an acceleration that is not the difference", "trait_projections", "acceleration", lambda x: x + 1),
        ("dynamics of another number of tokens", "trait_dynamics", "n_tokens", lambda x: x + 1),
        ("a peak that persists longer", "trait_dynamics", "persistence", lambda x: x + 100),
    ],
)
def test_validate_finds_what_does_not_follow(home: Path, finding: str, table: str, column: str, change: Any) -> None:
    with Warehouse(home) as wh:
        found = made(wh, "answers", Options(("loud", "calm"), layers=(1, 2)))
    path = found.path / paths.table_file(table)
    told = pq.read_table(path, partitioning=None)
    at = told.column_names.index(column)
    values = told[column].to_numpy()
    altered = pa.array(change(values), told.schema.field(at).type, mask=np.isnan(values))
    pq.write_table(told.set_column(at, told.schema.field(at), altered), path)
    with pytest.raises(ValidationFailure, match=finding):
        CONTENT_CHECKS["trait projections"](TraceStore(found.path))
