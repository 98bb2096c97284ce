"""Addresses of MLflow stores: servers, SQLite files, other databases."""

from pathlib import Path

import pytest

from tasks.tracking.store_uri import is_server, missing_database, sqlite_file


@pytest.mark.parametrize(("uri", "path"), [
    ("sqlite:////srv/mlflow.db", "/srv/mlflow.db"),
    ("sqlite:///mlflow.db", "mlflow.db"),
    ("sqlite+pysqlite:////srv/mlflow.db?timeout=9", "/srv/mlflow.db"),
    ("postgresql+psycopg2://me@host/mlflow", None),
    ("https://mlflow.example.org", None),
])
def test_the_file_of_a_database(uri, path):
    assert sqlite_file(uri) == (path and Path(path))
    assert is_server(uri) == uri.startswith("https")


def test_a_database_that_is_gone(tmp_path):
    path = tmp_path / "mlflow.db"
    assert missing_database(f"sqlite:///{path}") == path
    path.touch()
    assert missing_database(f"sqlite:///{path}") is None and missing_database("http://nowhere") is None
