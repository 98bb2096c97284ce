"""What the address of an MLflow store says about it. Imports no MLflow: commands ask before they decide to load it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit


def is_server(uri: str) -> bool:
    """Whether `uri` is the address of an MLflow server, as against a database."""
    return urlsplit(uri).scheme in ("http", "https")


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite database (`sqlite:///relative.db`, `sqlite:////absolute.db`); None for any other store."""
    parts = urlsplit(uri)
    return Path(parts.path[1:]) if parts.scheme.partition("+")[0] == "sqlite" else None


def missing_database(uri: str) -> Path | None:
    """The file of a SQLite database that does not exist; None for a store that exists or cannot be looked at here."""
    path = sqlite_file(uri)
    return path if path is not None and not path.exists() else None
