"""Which errors are tried again."""

import errno
import sqlite3

import botocore.exceptions
import httpx
import pytest
import requests
import sqlalchemy

from fewstep.util.errors import CorruptData, DiskFull, NonFinite, NotAvailable, SettingsError
from flows.executors.transient_errors import is_transient


@pytest.mark.parametrize(("error", "again"), [
    (ConnectionResetError(), True), (TimeoutError(), True), (OSError(errno.ESTALE, "stale"), True),
    (BrokenPipeError(), True), (httpx.ConnectError("no"), True), (httpx.ReadTimeout("late"), True),
    (requests.ConnectionError("no"), True), (botocore.exceptions.EndpointConnectionError(endpoint_url="s3"), True),
    (OSError(errno.ENOSPC, "no space"), False), (ValueError("bug"), False), (SettingsError("bad"), False),
    (CorruptData("bits"), False), (NonFinite("nan"), False), (DiskFull("full"), False), (NotAvailable("away"), False),
    (RuntimeError("database is locked"), False),     # by its type, never by its words
    (None, False),
])
def test_only_transient_errors_are_tried_again(error, again):
    assert is_transient(error) is again


def test_a_locked_database_is_transient_however_it_is_wrapped(tmp_path):
    path = tmp_path / "locked.db"
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("CREATE TABLE t (x)")
        holder.execute("BEGIN EXCLUSIVE")
        engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
        with pytest.raises(sqlalchemy.exc.OperationalError) as raised, engine.connect() as other:
            other.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
        wrapped = RuntimeError("as MLflow does")
        wrapped.__cause__ = raised.value
        assert is_transient(raised.value) and is_transient(wrapped)
        holder.execute("ROLLBACK")
        with pytest.raises(sqlalchemy.exc.OperationalError) as raised, engine.connect() as other:
            other.execute(sqlalchemy.text("INSERT INTO absent VALUES (1)"))
        assert not is_transient(raised.value)


def test_an_error_of_the_project_is_final_whatever_caused_it():
    error = NotAvailable("asked five times")
    error.__cause__ = ConnectionResetError()
    assert not is_transient(error)
    assert is_transient(RuntimeError()) is False
