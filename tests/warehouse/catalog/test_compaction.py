"""Small runs' tables in one file each: every view says what it said, whatever comes, goes or breaks afterwards."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from synthetic import add_run

from warehouse import Warehouse
from warehouse.catalog import build, compaction
from warehouse.schema.tables import STORED
from warehouse.storage import paths
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import ValidationFailure
from warehouse.validation.validate import check_compacted

COUNT = "SELECT run_id, count(*), sum(loss) FROM next_token GROUP BY run_id ORDER BY run_id"


@pytest.fixture(autouse=True)
def groups_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "RUNS", 3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Seven runs of a row each: two groups, and one run that waits for others."""
    root = tmp_path / "it's [a] *root"
    for n in range(7):
        add_run(root, f"r{n}", "next-token", {"next_token": [{"loss": n}], "labels": [] if n else [{"label_id": 1}]})
    build.refresh(root)
    return root


def counted(root: Path) -> list[tuple]:
    with Warehouse(root) as wh:
        return wh.sql(COUNT).fetchall()


def grouped(root: Path) -> list[list[str]]:
    return sorted(sorted(group.runs) for group in build.read_groups(root).values())


def folders(root: Path) -> set[str]:
    return {p.name for p in paths.compacted_dir(root).iterdir()}


def _text(value: object) -> str:
    """A row as text, numbers to nine digits: in which order threads add them up is seen in the last ones."""
    if isinstance(value, float):
        return f"{value:.9g}"
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list | tuple) else repr(value)


def test_every_view_says_the_same(every_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for runs in (1_000_000, 2):
        root = Path(shutil.copytree(every_table, tmp_path / str(runs), ignore=shutil.ignore_patterns(paths.CATALOG)))
        monkeypatch.setattr(compaction, "RUNS", runs)
        build.refresh(root)
        with Warehouse(root) as wh:
            views = build.all_view_texts(root)
            read = sum("compacted_files_of" in text for text in views.values())
            assert read == 0 if runs > 2 else read > len(STORED) / 2
            rows = {name: [wh.sql(f"DESCRIBE {name}").fetchall(), wh.sql(f"FROM {name}").fetchall()] for name in views}
            answers.append({name: [columns, sorted(map(_text, found))] for name, (columns, found) in rows.items()})
    assert answers[0] == answers[1]


def test_runs_that_were_renamed_by_hand_keep_their_names(root: Path) -> None:
    names = ["null", "a%20b", "it's", "x=y", "a b"]
    for n, name in enumerate(names):
        (root / f"{paths.RUN_PREFIX}r{n}").rename(root / f"{paths.RUN_PREFIX}{name}")
    build.refresh(root)
    assert len(grouped(root)) == 2
    assert {run for run, _, _ in counted(root)} == {*names, "r5", "r6"}


def test_a_run_that_goes_takes_its_rows_with_it_and_its_group(root: Path) -> None:
    assert grouped(root) == [["r0", "r1", "r2"], ["r3", "r4", "r5"]]
    shutil.rmtree(paths.run_dir(root, "r1"))
    assert counted(root) == [(f"r{n}", 1, n) for n in (0, 2, 3, 4, 5, 6)]
    assert grouped(root) == [["r0", "r2", "r6"], ["r3", "r4", "r5"]]


def test_a_run_that_changes_is_read_as_it_is(root: Path) -> None:
    shutil.rmtree(paths.run_dir(root, "r4"))
    add_run(root, "r4", "next-token", {"next_token": [{"loss": 40}, {"loss": 2, "pos": 1}]})
    assert counted(root)[4] == ("r4", 2, 42)


def test_a_damaged_run_is_left_out_though_its_copy_is_sound(root: Path) -> None:
    file = next(paths.run_dir(root, "r4").glob("next_token/*.parquet"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(match="r4"):
        build.refresh(root, every_file=True)
        assert [run for run, _, _ in counted(root)] == ["r0", "r1", "r2", "r3", "r5", "r6"]


def test_who_has_the_views_open_reads_on_after_a_group_has_gone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folders(root)
    with build.attach(root / paths.CATALOG) as con:
        shutil.rmtree(paths.run_dir(root, "r1"))
        add_run(root, "r1", "next-token", {"next_token": [{"loss": 10}]})
        build.refresh(root)
        assert before < folders(root)
        assert con.sql("SELECT sum(loss) FROM next_token").fetchall() == [(21,)]
    monkeypatch.setattr(compaction, "_KEPT", -1)
    build.refresh(root)
    assert folders(root) == build.read_groups(root).keys()
    assert counted(root) == [(f"r{n}", 1, 10 if n == 1 else n) for n in range(7)]


def test_a_refresh_that_dies_after_it_has_copied_is_made_up_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [*counted(root), ("r7", 1, 7), ("r8", 1, 8)]
    for n in (7, 8):
        add_run(root, f"r{n}", "next-token", {"next_token": [{"loss": n}]})
    with monkeypatch.context() as dying:
        dying.setattr(build, "create_views", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build.refresh(root)
    assert len(folders(root)) == 3
    assert counted(root) == expected
    assert folders(root) == build.read_groups(root).keys()


def test_missing_files_are_made_again(root: Path) -> None:
    expected = counted(root)
    for folder in paths.compacted_dir(root).iterdir():
        (folder / "next_token.parquet").unlink()
    assert counted(root) == expected
    shutil.rmtree(paths.compacted_dir(root))
    assert counted(root) == expected
    assert len(grouped(root)) == 2


def test_an_altered_file_is_found_and_made_again(root: Path) -> None:
    expected, file = counted(root), root / paths.compacted_file(next(iter(build.read_groups(root))), "next_token")
    run = TraceStore(paths.run_dir(root, "r0" if "r0" in build.read_groups(root)[file.parent.name].runs else "r3"))
    assert check_compacted(run) == "2 copies of tables, with those of 3 runs"
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ValidationFailure, match="altered: traces refresh"):
        check_compacted(run)
    build.refresh(root, every_file=True)
    assert check_compacted(run)
    assert counted(root) == expected


def test_a_file_that_breaks_under_an_open_warehouse_is_made_again(root: Path) -> None:
    with Warehouse(root) as wh:
        expected = wh.sql(COUNT).fetchall()
        for folder in paths.compacted_dir(root).iterdir():
            (folder / "next_token.parquet").write_bytes(b"PAR1 and nothing else")
        assert wh.sql(COUNT).fetchall() == expected


def test_large_runs_are_not_copied(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(paths.compacted_dir(root))
    monkeypatch.setattr(compaction, "_SMALL", 10)
    build.refresh(root)
    assert grouped(root) == []
    assert [run for run, _, _ in counted(root)] == [f"r{n}" for n in range(7)]


def test_a_link_in_the_place_of_the_folder_is_not_followed(root: Path, tmp_path: Path) -> None:
    elsewhere = paths.compacted_dir(root).rename(tmp_path / "elsewhere")
    paths.compacted_dir(root).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    assert [run for run, _, _ in counted(root)] == [f"r{n}" for n in range(7)]
    build.refresh(root, every_file=True)
    assert sorted(elsewhere.rglob("*")) == before
    assert grouped(root) == []
