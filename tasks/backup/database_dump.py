"""One database in one file, while it is in use: SQLite by its online backup, PostgreSQL by pg_dump and pg_restore."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
from fewstep.util.files import replacing
from tasks.tracking.redaction import redact
from tasks.tracking.store_uri import sqlite_file


def dump(address: str, path: Path) -> None:
    """Write the database at SQLAlchemy's `address` into the new file `path`, as it is at one instant.

    Raises:
        SettingsError: it is neither SQLite nor PostgreSQL.
        NotAvailable: its programs are not here, or it does not answer.
    """
    source = sqlite_file(address)
    if source is None:
        _postgresql("pg_dump", address, "--format=custom", "--no-owner", "--no-privileges", f"--file={path}")
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(source.resolve()))}?mode=ro", uri=True)) as database, \
                closing(sqlite3.connect(path)) as copy:  # fmt: skip
            database.backup(copy)
    except sqlite3.Error as error:
        raise NotAvailable(f"{source}: could not be copied: {error}") from error


def load(path: Path, address: str) -> None:
    """Put what `dump` wrote into the database at `address`, which must be empty: all of it, or nothing.

    Raises as `dump` does; FewstepError for a PostgreSQL that refuses, such as one with tables of these names.
    """
    target = sqlite_file(address)
    if target is None:
        _postgresql("pg_restore", address, "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error",
                    str(path))  # fmt: skip
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)


def relocate(database: Path, former: str, present: str) -> None:
    """In a SQLite database, let every text that begins with `former` begin with `present`."""
    with closing(sqlite3.connect(database)) as connection, connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in names:
            for _, column, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                connection.execute(f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '
                                   f'WHERE typeof("{column}") = \'text\' AND substr("{column}", 1, ?) = ?',
                                   (present, len(former) + 1, len(former), former))  # fmt: skip


def _postgresql(program: str, address: str, *arguments: str) -> None:
    """Runs one of PostgreSQL's programs; the password goes by the environment, where nobody sees it."""
    parts = urlsplit(address)
    if parts.scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise SettingsError(f"{redact(address)}: expected a database of SQLite or PostgreSQL")
    found = shutil.which(program)
    if found is None:
        raise NotAvailable(f"{program} is not here, which the PostgreSQL database {redact(address)} needs",
                           hint="install PostgreSQL's client programs (Debian: postgresql-client)")
    login, _, place = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    location = urlunsplit(("postgresql", f"{user}@{place}" if user else place, parts.path, "", ""))
    environment = os.environ | ({"PGPASSWORD": unquote(password)} if password else {})
    done = subprocess.run([found, *arguments, f"--dbname={location}"], env=environment, capture_output=True, text=True)
    if done.returncode:
        said = redact(" ".join(done.stderr.split()))
        kind = NotAvailable if "connection" in said else FewstepError
        raise kind(f"{program} of {redact(address)} failed: {said}")
