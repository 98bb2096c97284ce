"""What the address of an MLflow store says about it. Imports no MLflow: commands ask before they decide to load it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit


def is_server(uri: str) -> bool:
    """Whether `uri` is the address of an MLflow server, as against a database."""
    return urlsplit(uri).scheme in ("http", "https")


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite database (`sqlite:///relative.db`, `sqlite:////absolute.db`); None for any other store.

    Also in SQLite's own syntax, `sqlite:///file:/a%20b.db?uri=true`.
    """
    scheme, _, rest = uri.partition("://")
    if scheme.partition("+")[0] != "sqlite":
        return None
    path = rest.partition("?")[0].removeprefix("/")  # as SQLAlchemy cuts it: a # or % is part of the path
    return Path(unquote(path.removeprefix("file:").removeprefix("//"))) if path.startswith("file:") else Path(path)


def missing_database(uri: str) -> Path | None:
    """The file of a SQLite database that does not exist; None for a store that exists or cannot be looked at here."""
    path = sqlite_file(uri)
    return path if path is not None and not path.exists() else None
