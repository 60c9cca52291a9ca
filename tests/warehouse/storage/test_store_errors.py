"""A store that does not answer, or refuses, says nothing of what lies there: no run is gone or damaged by it, and a line says why."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import TokenRetrievalError
from console_client import console_client
from s3_server import Server

from warehouse import Warehouse
from warehouse.catalog import build
from warehouse.console.events import _look
from warehouse.errors import StoreError, StoreRefusedError, TracesError, UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.maintenance.remove import remove_run
from warehouse.storage import object_log, objects, paths, run_list
from warehouse.storage.manifest import Manifest
from warehouse.storage.object_log import RUNS
from warehouse.storage.objects import ObjectPath
from warehouse.storage.s3_credentials import s3_options
from warehouse.storage.store_errors import os_errors
from warehouse.validation.validate import validate
from warehouse.vectors import ingest
from warehouse.vectors.index_spec import IndexSpec
from warehouse.vectors.reconcile import reconcile
from warehouse.vectors.table_cache import all_tables


def denied(end: str) -> Callable[[dict], str | None]:
    """Refuse to show the objects whose addresses end so."""
    return lambda request: (
        "denied" if request["PATH_INFO"].endswith(end) and request["REQUEST_METHOD"] in ("GET", "HEAD") else None
    )


def test_a_run_that_is_not_shown_stays_on_the_list_without_a_fault(root: ObjectPath, s3: Server, capture_tiny) -> None:
    for name in ("one", "two"):
        capture_tiny(root, name, capture="none")
    for end in ("run_id=two/run.json", "run_id=two/tokens/00000.parquet"):
        manifest = root / "run_id=two" / "run.json"
        manifest.write_bytes(manifest.read_bytes() + b"\n")  # so that the list is made again of it
        with s3.faults(denied(end)), pytest.raises(StoreRefusedError):
            build.refresh(root, every_file=True)
        with Warehouse(root) as wh:
            assert wh.sql("SELECT run_id FROM runs ORDER BY 1").fetchall() == [("one",), ("two",)]
            assert not wh.damaged


def test_a_question_about_a_run_that_is_not_shown_is_refused_and_not_answered_without_it(
    root: ObjectPath, s3: Server, capture_tiny
) -> None:
    for name in ("one", "two"):
        capture_tiny(root, name, capture="none")
    with Warehouse(root) as wh, s3.faults(denied("run_id=two/tokens/00000.parquet")):
        assert wh.sql("SELECT count(DISTINCT run_id) FROM examples").fetchone() == (2,)
        with pytest.raises(StoreRefusedError):
            wh.attempt(lambda: wh.sql("SELECT count(*) FROM tokens WHERE token <> 'x'").fetchall())
        assert not wh.damaged


def test_the_console_says_so_and_goes_on_listening(root: ObjectPath, s3: Server, capture_tiny) -> None:
    capture_tiny(root, "one", capture="none")
    with Warehouse(root) as wh, console_client(wh) as client:
        version, known = _look(wh)
        assert known == ["one"]
        with s3.faults(lambda request: "denied" if "/list/" in request["PATH_INFO"] else None):
            answer = client.get("/api/runs")
            assert answer.status_code == 503
            assert answer.json()["kind"] == "store"
            assert "the credentials that there are do not allow it (AccessDenied)" in answer.json()["error"]
            assert _look(wh, version, known) == (version, known)
        assert client.get("/api/runs").status_code == 200


def test_who_may_not_write_is_told_so_where_he_asks_for_it(root: ObjectPath, s3: Server, capture_tiny) -> None:
    for name in ("one", "two"):
        capture_tiny(root, name, capture="none")
    may_only_read = s3.faults(lambda request: None if request["REQUEST_METHOD"] in ("GET", "HEAD") else "denied")
    with may_only_read:
        with pytest.raises(StoreRefusedError):
            build.refresh(root, compact_all=True)
        with pytest.raises(TracesError, match="^Writing failed: the credentials that there are do not allow it"):
            capture_tiny(root, "three", capture="none")
    assert not paths.staged_runs(root)


def test_vectors_of_a_run_that_is_not_shown_stay(root: ObjectPath, s3: Server, capture_tiny) -> None:
    capture_tiny(root, "one", capture="resid")
    ingest.add(root, "one", [IndexSpec(None, "resid.post_mlp", (0,))])
    [table] = all_tables(root)
    rows = table.info.rows
    with s3.watched() as seen:
        reconcile(root)
    assert not [path for _, path, _ in seen if "run_id=" in path], "the list says that the run is there"
    object_log.append(root, {RUNS: {"one": None}})  # so that the store itself is asked
    with s3.faults(denied("run.json")), pytest.raises(StoreError):
        reconcile(root)
    [table] = all_tables(root)
    assert table.count == table.info.rows == rows > 0
    remove_run(root, "one")
    assert not all_tables(root)


def test_other_runs_are_not_asked_for_where_parts_are_merged_and_deleted(
    root: ObjectPath, s3: Server, capture_tiny
) -> None:
    for i in (1, 2):
        capture_tiny(root, f"w.shard-{i}-of-2", shard=f"{i}/2", capture="none", limit=7)
    capture_tiny(root, "other", capture="none")
    with s3.watched() as seen:
        merge.merge(root, merge_plan.plan_merge(root, merge_plan.find_parts(root, "w"), "w"))
    assert run_list.published_runs(root) == ["other", "w"]
    assert not [path for _, path, _ in seen if "run_id=other" in path]


def test_a_run_that_is_not_shown_is_not_called_damaged(root: ObjectPath, s3: Server, capture_tiny) -> None:
    store = capture_tiny(root, "one", capture="resid")
    with s3.faults(denied("run.json")), pytest.raises(StoreRefusedError):
        Manifest.read(store.path)
    for end in ("tokens/00000.parquet", "00000.safetensors"):
        with s3.faults(denied(end)), pytest.raises(StoreRefusedError):
            list(validate(store.path))
    assert all(check.passed is not False for check in validate(store.path))


@pytest.mark.parametrize(
    ("key", "status", "word", "text"),
    [
        ("GET", "403 Forbidden", "InvalidAccessKeyId", "the credentials that there are do not allow it (InvalidAccessKeyId)"),
        ("LIST", "403 Forbidden", "AccessDenied", "the credentials that there are do not allow it (AccessDenied)"),
        ("GET", "400 Bad Request", "ExpiredToken", "the credentials have expired (ExpiredToken)"),
        ("HEAD", "400 Bad Request", "", "the store answers 400 Bad Request, as it does to credentials that have expired"),
        ("LIST", "404 Not Found", "NoSuchBucket", "there is no bucket s3://bucket"),
        ("GET", "404 Not Found", "NoSuchBucket", "there is no bucket s3://bucket"),
        ("GET", "409 Conflict", "OperationAborted", "the store answers 409 Conflict (OperationAborted)"),
    ],
)  # fmt: skip
def test_what_the_store_answers_is_said_in_a_line(
    root: ObjectPath, s3: Server, key: str, status: str, word: str, text: str
) -> None:
    def answer(_: object, start_response: Callable) -> list[bytes]:
        start_response(status, [("Content-Type", "application/xml")])
        body = f'<?xml version="1.0"?>\n<Error><Code>{word}</Code><AWSAccessKeyId>tests</AWSAccessKeyId></Error>'
        return [body.encode()] if word else []

    s3._app = answer
    ask = {"GET": root.read_bytes, "HEAD": root.stat, "LIST": root.iterdir}[key]
    with pytest.raises(StoreError) as raised:
        ask()
    assert (raised.value.strerror, raised.value.filename) == (text, "s3://bucket/runs")


def test_an_endpoint_where_nothing_listens_is_named(root: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(objects._TRIES, "max_retries", 0)
    objects._store.cache_clear()
    with pytest.raises(StoreError) as raised:
        root.read_bytes()
    assert raised.value.strerror == "no answer from http://127.0.0.1:9: Connection refused"


def test_a_large_object_may_take_long_and_a_silent_store_may_not(
    root: ObjectPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: Server, request: dict, start_response: Callable) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "8"), ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")])
        for k in range(8):
            time.sleep(30 if "silent" in request["PATH_INFO"] else 0.2)
            yield b"%d" % k

    monkeypatch.setattr(Server, "__call__", answer)
    monkeypatch.setattr(objects, "_PATIENCE", objects._PATIENCE | {"read_timeout": "0.5s"})
    monkeypatch.setitem(objects._TRIES, "max_retries", 0)
    objects._store.cache_clear()
    (root / "slow").download(tmp_path / "slow")
    assert (tmp_path / "slow").read_bytes() == b"01234567"
    with pytest.raises(StoreError, match="it took too long"):
        (root / "silent").read_bytes()


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("AWS_PROFILE", "nobody", "There are no credentials for S3: The config profile (nobody) could not be found"),
        ("AWS_SECRET_ACCESS_KEY", None, "There are no credentials for S3: Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY"),
    ],
)  # fmt: skip
def test_credentials_that_cannot_be_had_are_an_error_of_the_call(
    root: ObjectPath, monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None, text: str
) -> None:
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv(variable, value)
    for ask in (root.read_bytes, s3_options):
        with pytest.raises(UsageError) as raised:
            ask()
        assert str(raised.value) == text


def test_a_login_that_is_over_is_said(root: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    def renew() -> None:
        raise TokenRetrievalError(provider="sso", error_msg="Token has expired")

    monkeypatch.setattr(objects, "credential_provider", lambda: renew)
    objects._store.cache_clear()
    with pytest.raises(StoreRefusedError, match="the credentials cannot be renewed: TokenRetrievalError: .*expired"):
        root.read_bytes()


def test_errors_of_the_local_disk_stay_what_they_are() -> None:
    with pytest.raises(OSError, match="No space") as raised, os_errors("s3://bucket", "s3://bucket/x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not isinstance(raised.value, StoreError)
