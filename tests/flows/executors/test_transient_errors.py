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


def test_postgresql_says_by_its_state_whether_trying_again_may_help(postgres):
    """A row that another transaction holds, a deadlock's end, a server that was stopped; not a row that exists."""
    engine = sqlalchemy.create_engine(postgres.new("transient"), pool_pre_ping=False)

    def says(connection, sql):
        with pytest.raises(sqlalchemy.exc.DBAPIError) as raised:
            connection.execute(sqlalchemy.text(sql))
        return raised.value

    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (x int PRIMARY KEY)"))
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
    with engine.connect() as holder, engine.connect() as other:
        holder.execute(sqlalchemy.text("SELECT * FROM t FOR UPDATE"))
        busy = says(other, "SELECT * FROM t FOR UPDATE NOWAIT")
        other.rollback()
        taken = says(other, "INSERT INTO t VALUES (1)")
        other.rollback()
        absent = says(other, "SELECT * FROM absent")
        other.rollback()
        me = other.execute(sqlalchemy.text("SELECT pg_backend_pid()")).scalar()
        holder.execute(sqlalchemy.text(f"SELECT pg_terminate_backend({me})"))
        ended = says(other, "SELECT 1")
        other.invalidate()
    engine.dispose()
    wrapped = RuntimeError("as MLflow does")
    wrapped.__cause__ = busy
    assert is_transient(busy) and is_transient(wrapped) and is_transient(ended)
    assert not is_transient(taken) and not is_transient(absent)
