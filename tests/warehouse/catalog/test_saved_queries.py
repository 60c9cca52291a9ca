"""Every saved query runs, answers, and keeps to the house style."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import synthetic_causes
import synthetic_circuits
from synthetic import add_run

from warehouse import TraceStore, Warehouse
from warehouse.catalog import build
from warehouse.catalog.saved_queries import all_queries, find_query, run_query
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema.tables import STORED
from warehouse.storage.paths import data_dir, run_dir

CAPTURED = {"next_token", "heads", "tensors"}
"""Tables that the captured runs of the fixtures have rows in, of those that questions need."""

KINDS = {"first": "mcq-prompt", "second": "mcq-encoder", "third": "mcq-prompt", "tuned": "finetune",
         "steered": "trait-steering", "evaluated": "trait-evaluation", "pairs": "task", "compared": "comparison",
         "tested": "features-associations"}  # fmt: skip


@pytest.fixture(scope="module")
def made_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind that a question may ask for, with a row of every table that one may need."""
    root = tmp_path_factory.mktemp("made") / "runs"
    example = {"example_id": "e", "text": "Yes.", "metadata": '{"question_concept": "word"}'}
    token = {"example_id": "e", "token": "Yes", "char_start": 0, "char_end": 3, "word_idx": 0, "side": "dec"}
    token |= {"turn": 0, "role": "user", "part": "content"}
    rows = {
        "examples": [example],
        "tokens": [token, token | {"pos": 1, "char_start": 3, "char_end": 4, "word_idx": 1}],
        "next_token": [{"example_id": "e", "true_rank": 1}],
        "words": [{"example_id": "e", "word_idx": i, "upos": "X", "char_start": 3 * i, "char_end": 4} for i in (0, 1)],
        "labels": [{"example_id": "e", "label": "joy"}],
        "messages": [{"example_id": "e", "turn": 0, "role": "user", "content": "Yes."}],
        "evaluations": [{"example_id": "e", "scorer": "match", "metric": "score", "value": 0.0, "is_correct": False}],
        "mcq_predictions": [{"example_id": "e", "label_idx": 0, "is_correct": True}],
        "choices": [{"example_id": "e", "is_label": True, "is_pred": True}],
        "training": [{"split": "train"}],
        "trait_vectors": [
            {"trait": t, "method": "probe", "component": "residual", "vector": [0.6, 0.8]} for t in ("a", "b")
        ],
        "trait_evaluations": [{"trait": "a", "method": "probe", "component": "residual"}],
        "responses": [{"example_id": "e", "coefficient": 1.0}],
        "trait_projections": [
            {"source_run_id": r, "example_id": "e", "trait": "a", "pos": 1, "velocity": 0.0, "acceleration": 0.0}
            for r in KINDS
        ],
        "trait_dynamics": [{"source_run_id": r, "example_id": "e", "trait": "a", "n_tokens": 1} for r in KINDS],
        "comparisons": [{"source_run_id": "first", "other_run_id": "second", "example_id": "e", "kl": 0.5}],
        "layer_similarity": [{"source_run_id": "first", "other_run_id": "second", "layer": 0, "cka": 0.5}],
        "moved_directions": [{"source_run_id": "first", "other_run_id": "second", "rank": 1, "vector": [1.0]}],
        "head_changes": [{"source_run_id": "first", "other_run_id": "second", "js": 0.1}],
        "logit_lens": [
            {
                "source_run_id": "first",
                "example_id": "e",
                "actual_rank": 1,
                "topk_ids": [1],
                "topk_tokens": ["!"],
                "topk_probs": [1.0],
            }
        ],
    }
    tested = {"sae": "s", "feature": 1, "property": "upos", "value": "X"}
    rows["feature_associations"] = [tested | {"n_tokens": 2, "n_active": 1, "n_other_tokens": 2, "z": 3.0}]
    for minute, (run, kind) in enumerate(KINDS.items()):
        add_run(root, run, kind, rows, minute=minute)
    synthetic_causes.add_task(root)
    for minute, kind in enumerate(("zero", "resample")):
        synthetic_causes.add_ablation(root, kind, kind, synthetic_causes.ZERO, minute=minute)
    synthetic_causes.add_patching(root)
    synthetic_causes.add_influence(root)
    for circuit in ("circuit", "other"):
        synthetic_circuits.add_circuits(root, circuit, source="task")
    synthetic_circuits.add_evaluation(root)
    return root


@pytest.fixture(scope="module")
def rowless_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind whose manifests say that they have rows in every table, and whose tables are empty."""
    root = tmp_path_factory.mktemp("rowless")
    for run, kind in KINDS.items():
        add_run(root, run, kind, dict.fromkeys(STORED, ()), claims=list(STORED))
    return root


@pytest.fixture(scope="module")
def opened() -> Iterator[Callable[[Path], Warehouse]]:
    """Warehouses that are opened once for all questions."""
    warehouses: dict[Path, Warehouse] = {}
    yield lambda root: warehouses.get(root) or warehouses.setdefault(root, Warehouse(root))
    for warehouse in warehouses.values():
        warehouse.close()


@pytest.mark.parametrize("name", list(all_queries()))
def test_it_answers(tiny_root: Path, real_root: Path, opened: Callable[[Path], Warehouse], name: str) -> None:
    question = find_query(name)
    assert question.title.endswith((".", "?")) or "?" in question.title
    if not CAPTURED.issuperset(question.needs):
        return  # test_it_answers_on_rows_made_up does
    assert opened(tiny_root).ask(name).fetchall(), "no rows"
    if "other_run" not in question.variables:
        assert opened(real_root).ask(name).fetchall(), "no rows on the real model"


@pytest.mark.parametrize("name", [n for n, q in all_queries().items() if not CAPTURED.issuperset(q.needs)])
def test_it_answers_on_rows_made_up(made_root: Path, opened: Callable[[Path], Warehouse], name: str) -> None:
    assert opened(made_root).ask(name).fetchall(), "no rows"


@pytest.mark.parametrize("name", list(all_queries()))
def test_a_run_without_rows_answers_with_none(
    rowless_root: Path, opened: Callable[[Path], Warehouse], name: str
) -> None:
    assert opened(rowless_root).ask(name).fetchall() == [] or name == "agreement"


@pytest.mark.parametrize("name", list(all_queries()))
def test_the_header_names_what_is_read(name: str) -> None:
    question = find_query(name)
    assert set(question.variables) == set(re.findall(r"getvariable\('(\w+)'\)", question.text))
    assert question.needs and set(question.needs) <= set(STORED)
    tables = set(re.findall(r"(?:FROM|JOIN) (\w+)", question.text)) & set(STORED)
    beside = {
        "examples",
        "tokens",
        "next_token",
        "prompts",
        "mcq_predictions",
    }  # every run has them, or they are left-joined
    assert tables <= {*question.needs, *beside}


def test_in_the_duckdb_shell_they_are_pasted_after_set_variable(made_root: Path) -> None:
    build.refresh(made_root)
    shell = Path(sys.executable).with_name("duckdb")
    variables = "SET VARIABLE run = 'third'; SET VARIABLE other_run = 'second';"
    for name in ("agreement", "correct_against_wrong", "mcq_scores", "loss_by_part_of_speech", "emotion_entropy"):
        text = f"{variables}\n{find_query(name).text}"
        done = subprocess.run(
            [shell, "-readonly", "-csv", "-noheader", made_root / "warehouse.duckdb"],
            input=text, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0 and done.stdout.strip() and not done.stderr, (name, done.stderr)


def test_the_run_asked_about_is_the_newest_that_has_what_is_needed(tmp_path: Path) -> None:
    words, predictions = {"words": [{}]}, {"next_token": [{}]}
    add_run(tmp_path, "both", "next-token", words | predictions, minute=1)
    add_run(tmp_path, "words", "encode", words, minute=2)
    add_run(tmp_path, "newer", "next-token", predictions, minute=3, parents=["tuned"])
    add_run(tmp_path, "tuned", "finetune", words | predictions | {"training": [{}]}, minute=4)

    def asked(wh: Warehouse, name: str, variable: str = "run", **settings: str) -> object:
        answer = run_query(wh.connection, find_query(name), settings)
        return answer.query("answer", f"SELECT getvariable('{variable}')").fetchone()[0]

    with Warehouse(tmp_path) as wh:
        assert asked(wh, "loss_by_part_of_speech") == "both"
        assert asked(wh, "calibration") == "newer", "a parent is not what makes a run a derived one"
        assert asked(wh, "training_curve") == "tuned", "fine-tuning, where it is asked about"
        assert asked(wh, "compare_runs", "other_run") == "both"
        assert asked(wh, "compare_runs", "run", other_run="newer") == "both"
        assert asked(wh, "calibration", run="tuned") == "tuned", "what is named is taken"


def test_a_run_that_lacks_what_is_needed_is_told_so(tmp_path: Path, made_root: Path) -> None:
    add_run(tmp_path / "few", "r", "next-token", {"next_token": [{}]})
    with Warehouse(tmp_path / "few") as wh:
        for name, settings, says in (
            (
                "loss_by_part_of_speech",
                {"run": "r"},
                "Run 'r' has no rows in words: capture an annotated data set, such as",
            ),
            (
                "loss_by_part_of_speech",
                {},
                "needs a run with rows in words and next_token, and there is none yet: capture an",
            ),
            (
                "emotion_entropy",
                {},
                "needs a run with rows in labels and next_token, and there is none yet: capture a lab",
            ),
            (
                "agreement",
                {},
                "needs a run of kind mcq-prompt with rows in mcq_predictions, and there is none yet: see ",
            ),
            ("stored_bytes", {}, "needs a run with rows in tensors, and there is none yet: capture with something"),
            (
                "compare_runs",
                {},
                "needs another run with rows in next_token, and there is none yet: see traces capture",
            ),
        ):
            with pytest.raises(UsageError, match=re.escape(says)) as found:
                run_query(wh.connection, find_query(name), settings)
            assert "\n" not in str(found.value)
    with (
        Warehouse(made_root) as wh,
        pytest.raises(UsageError, match="Run 'second' is of kind mcq-encoder: .* mcq-prompt"),
    ):
        run_query(wh.connection, find_query("agreement"), {"run": "second"})
    (tmp_path / "empty").mkdir()
    with Warehouse(tmp_path / "empty") as wh:
        for name in all_queries():
            with pytest.raises(UsageError, match="there is none yet"):
                run_query(wh.connection, find_query(name), {})


def test_heads_of_a_derived_run_are_its_sources_too(tmp_path: Path) -> None:
    """Named or not, the run that was captured and the one derived from it give the same heads."""
    add_run(tmp_path, "a", "next-token", {"next_token": [{}]})
    rows = [{"source_run_id": "a", "example_id": "e", "induction_mass": 0.5}]
    add_run(tmp_path, "b", "heads", {"heads": rows}, parents=["a"], minute=1)
    with Warehouse(tmp_path) as wh:
        found = [
            run_query(wh.connection, find_query("induction_heads"), s).fetchall()
            for s in ({}, {"run": "a"}, {"run": "b"})
        ]
        assert len(found[0]) == 1 and found[0] == found[1] == found[2]
        run_query(wh.connection, find_query("calibration"), {})
    shutil.rmtree(run_dir(tmp_path, "a"))
    with Warehouse(tmp_path) as wh:
        assert run_query(wh.connection, find_query("induction_heads"), {}).fetchall() == found[0]


@pytest.mark.parametrize(
    "kind", ["lens", "judge", "trait-projection", "ablation", "patching", "influence", "circuit-evaluation"]
)
def test_what_was_made_of_a_run_counts_as_its_own(tmp_path: Path, kind: str) -> None:
    """Its first parent is the run that its rows tell of; a second one, such as the vectors', is not asked about by them."""
    add_run(tmp_path, "a", "generate", {"next_token": [{}]})
    add_run(tmp_path, "vectors", "trait-vectors", {"trait_vectors": [{}]}, minute=1)
    rows = [{"source_run_id": "a", "example_id": "e", "topk_ids": [1], "topk_tokens": ["!"], "topk_probs": [1.0]}]
    add_run(tmp_path, "b", kind, {"logit_lens": rows}, parents=["a", "vectors"], minute=2)
    with Warehouse(tmp_path) as wh:
        for settings in ({}, {"run": "a"}, {"run": "b"}):
            assert len(run_query(wh.connection, find_query("decision_depth"), settings).fetchall()) == 1
        answer = run_query(wh.connection, find_query("decision_depth"), {})
        assert answer.query("answer", "SELECT getvariable('run')").fetchone() == ("a",)
        with pytest.raises(UsageError, match="no rows in logit_lens: see traces lens"):
            run_query(wh.connection, find_query("decision_depth"), {"run": "vectors"})


def lens_rows(tops: dict[int, list[int]], ranks: list[int], pos: int = 0) -> list[dict[str, object]]:
    """Rows of a token whose likeliest ids, layer by layer, are these (-1: the embedding)."""
    return [
        {
            "source_run_id": "a", "example_id": "e", "pos": pos, "layer": None if layer < 0 else layer,
            "topk_ids": ids, "topk_tokens": [str(i) for i in ids], "topk_probs": [0.5] * len(ids),
            "actual_id": 7, "actual_token": "7", "actual_rank": rank, "actual_prob": 0.5, "entropy": 1.0,
        }
        for (layer, ids), rank in zip(tops.items(), ranks, strict=True)
    ]  # fmt: skip


def test_decision_depth_is_the_first_layer_of_the_last_unbroken_stretch(tmp_path: Path) -> None:
    """Decided from the start; from layer 1; at the last layer, though the same token stood first before."""
    rows = lens_rows({-1: [7], 0: [7], 1: [7], 2: [7]}, [1, 1, 1, 1], pos=0)
    rows += lens_rows({-1: [3], 0: [4], 1: [7], 2: [7]}, [9, 5, 1, 1], pos=1)
    rows += lens_rows({-1: [8], 0: [8], 1: [7], 2: [8]}, [6, 6, 1, 11], pos=2)
    add_run(tmp_path, "a", "next-token", {"tokens": [{"example_id": "e", "side": "dec", "token": "t", "pos": 1}]})
    add_run(tmp_path, "older", "lens", {"logit_lens": rows[:4]}, parents=["a"], minute=1)
    add_run(tmp_path, "newer", "lens", {"logit_lens": rows}, parents=["a"], minute=2)
    with Warehouse(tmp_path) as wh:
        found = run_query(wh.connection, find_query("decision_depth"), {"run": "a"}).fetchall()
        assert [row[:5] for row in found] == [
            (None, 1, 0.3333, 0.3333, 1.0), (1, 1, 0.3333, 0.6667, 1.0), (2, 1, 0.3333, 1.0, 0.0)
        ]  # fmt: skip
        one = run_query(wh.connection, find_query("decision_depth"), {"run": "older"}).fetchall()
        assert [row[:2] for row in one] == [(None, 1)]
        hits = run_query(wh.connection, find_query("lens_hit_at_k"), {"run": "a"}).fetchall()
        assert [row[:6] for row in hits] == [
            (None, 3, 0.3333, 0.3333, 1.0, 6), (0, 3, 0.3333, 0.6667, 1.0, 5), (1, 3, 1.0, 1.0, 1.0, 1),
            (2, 3, 0.6667, 0.6667, 0.6667, 1),
        ]  # fmt: skip
        ranks = run_query(wh.connection, find_query("lens_ranks"), {"run": "a", "example": "e"}).fetchall()
        assert ranks == [
            (0, 0, None, "7", "7", None, 1, 0.5, [1, 1, 1, 1]),
            (0, 1, "t", "7", "7", 1, 1, 0.5, [9, 5, 1, 1]),
            (0, 2, None, "7", "8", 2, 11, 0.5, [6, 6, 1, 11]),
        ]


def test_there_are_at_least_ten() -> None:
    assert len(all_queries()) >= 10


def test_calibration_is_what_numpy_says(real_root: Path) -> None:
    store = TraceStore(run_dir(real_root, "real"))
    p, correct = map(np.array, zip(*store.query("SELECT pred_prob, correct FROM next_token").fetchall(), strict=True))
    with Warehouse(real_root) as wh:
        for start, n, mean, accuracy, _ in run_query(
            wh.connection, find_query("calibration"), {"run": "real"}
        ).fetchall():
            inside = np.minimum(np.floor(p * 10), 9) == round(start * 10)
            assert n == inside.sum()
            assert accuracy == pytest.approx(correct[inside].mean(), abs=6e-4)
            assert mean == pytest.approx(p[inside].mean(), abs=6e-4)


def test_two_runs_are_compared_on_the_same_examples(tiny_root: Path) -> None:
    """By what a byte of text costs: the losses of both, over the bytes that lie behind each one's first tokens."""
    with Warehouse(tiny_root) as wh:
        rows = run_query(wh.cursor(), find_query("compare_runs"), {"run": "llama", "other_run": "gpt2"}).fetchall()
        assert len(rows) > 2 and [abs(r[3]) for r in rows] == sorted((abs(r[3]) for r in rows), reverse=True)
        losses = wh.sql("SELECT run_id, example_id, sum(loss), avg(loss) FROM next_token GROUP BY ALL").fetchall()
        of = {(run, example_id): (total, mean) for run, example_id, total, mean in losses}
        tokens = {run: wh.run(run).tokens.set_index("example_id") for run in ("llama", "gpt2")}
        for example_id, ours, theirs, difference, *means in rows:
            found = []
            for run in ("llama", "gpt2"):
                total, mean = of[run, example_id]
                t = tokens[run].loc[example_id]
                size = len(t.text[t.offsets[0][1] : t.offsets[-1][1]].encode())
                found.append((total / math.log(2) / size, mean))
            assert (ours, theirs, *means[:2]) == pytest.approx(
                (found[0][0], found[1][0], found[0][1], found[1][1]), abs=1e-3
            )
            assert difference == pytest.approx(ours - theirs, abs=2e-3)


def test_the_real_model_foresees_the_rest_of_a_word_better_than_its_start(real_root: Path) -> None:
    with Warehouse(real_root) as wh:
        loss = {row[0]: row[2] for row in run_query(wh.connection, find_query("word_starts"), {}).fetchall()}
    assert loss["goes on with one"] < loss["starts a word"]


def test_variables_are_checked(tiny_root: Path, real_root: Path) -> None:
    question = find_query("compare_runs")
    with Warehouse(tiny_root) as wh, pytest.raises(NotFoundError, match="No run 'gpt'. Did you mean gpt2"):
        run_query(wh.connection, question, {"run": "gpt"})
    with Warehouse(real_root) as wh, pytest.raises(UsageError, match="needs another run"):
        run_query(wh.connection, question, {})


def test_sql_files_open_with_a_comment_and_have_keywords_in_capitals() -> None:
    for path in sorted(data_dir("sql").rglob("*.sql")):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("-- "), path
        code = "\n".join(line.split("--")[0] for line in text.splitlines())
        for word in ("select", "from", "where", "group by", "order by", "join"):
            assert f"\n{word} " not in code, f"{path}: {word}"
        assert "SELECT *" not in code, path
