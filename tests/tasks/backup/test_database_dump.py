"""A database in a file and back: PostgreSQL by its own programs, SQLite while another process writes to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import psycopg2
import pytest

from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
from tasks.backup.database_dump import dump, load, relocate
from tests.postgres import PASSWORD


def rows(address: str) -> list[tuple]:
    with closing(psycopg2.connect(address)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM t ORDER BY x")
        return cursor.fetchall()


def test_postgresql_goes_whole_into_an_empty_database_and_not_over_another(postgres, tmp_path, monkeypatch):
    former, present = postgres.new("backup_former"), postgres.new("backup_present")
    with closing(psycopg2.connect(former)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (x int PRIMARY KEY, y text); INSERT INTO t VALUES (1, 'a'), (2, NULL)")
    dump(former.replace("postgresql://", "postgresql+asyncpg://"), tmp_path / "dump")
    load(tmp_path / "dump", present)
    assert rows(present) == rows(former) == [(1, "a"), (2, None)]
    with pytest.raises(FewstepError, match="already exists"):
        load(tmp_path / "dump", present)
    assert rows(present) == rows(former)
    for port, words in (("1", "failed: .*connection"), (str(postgres.port), "password authentication failed")):
        address = former.replace(str(postgres.port), port).replace("c%40nary", "c%40nary" if port == "1" else "wrong")
        with pytest.raises(NotAvailable, match=words) as away:
            dump(address, tmp_path / "never")
        assert PASSWORD not in str(away.value)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailable, match="pg_dump is not here") as absent:
        dump(former, tmp_path / "never")
    assert "postgresql-client" in absent.value.hint and "nary" not in str(absent.value)
    with pytest.raises(SettingsError, match="expected a database of SQLite or PostgreSQL"):
        dump("mysql://u:p@h/d", tmp_path / "never")


def test_sqlite_is_copied_as_it_is_at_one_instant_and_its_addresses_follow(tmp_path):
    path, copy = tmp_path / "a b.db", tmp_path / "sub" / "copy.db"
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE runs (id INTEGER, uri TEXT)")
        writer.execute("INSERT INTO runs VALUES (1, 'file:///old/mlartifacts/1'), (2, 's3://elsewhere')")
        writer.commit()
        writer.execute("INSERT INTO runs VALUES (3, 'not yet committed')")
        dump(f"sqlite:///{path}", tmp_path / "dump")
    load(tmp_path / "dump", f"sqlite:///{copy}")
    relocate(copy, "file:///old/mlartifacts", "file:///new/place")
    with closing(sqlite3.connect(copy)) as reader:
        assert reader.execute("SELECT * FROM runs").fetchall() == [(1, "file:///new/place/1"), (2, "s3://elsewhere")]
