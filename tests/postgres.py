"""A real PostgreSQL for the tests: Debian's, on loopback, in a process that is ended by its id and dies with them.

SQLite has one writer; two hosts that insert one row at once meet on PostgreSQL.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg2
import pytest

from tasks.storage.locks import die_with_parent
from tests.s3_server import free_ports

USER, PASSWORD = "fewstep", "c@nary-6f1e0b/pg"
_SUPERUSER = "postgres"     # the account of Debian's package; the server refuses to run as root


def binary(name: str) -> Path | None:
    """A program of the newest PostgreSQL that is installed; Debian keeps the server's out of PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = [folder / name for folder in folders if (folder / name).exists()]
    on_path = shutil.which(name)
    return found[-1] if found else Path(on_path) if on_path else None


class Postgres:
    """A server with its files in a new folder, which `close` removes."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="fewstep-pg-"))
        self._account: dict[str, object] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam(_SUPERUSER)
            self._account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen | None = None
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        subprocess.run([binary("initdb"), "-D", self.folder / "data", "-U", USER, "--pwfile", password, "-E", "UTF8",
                        "--locale", "C", "-A", "scram-sha-256", "--no-sync"], check=True, capture_output=True,
                       cwd=self.folder, **self._account)  # fmt: skip
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder,
                    "fsync": "off", "max_connections": 200}  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [binary("postgres"), "-D", self.folder / "data", *options], cwd=self.folder, stdout=log, stderr=log,
                preexec_fn=functools.partial(die_with_parent, os.getpid()), **self._account)  # fmt: skip
        while True:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
            try:
                psycopg2.connect(self.url("postgres")).close()
                return
            except psycopg2.OperationalError:
                time.sleep(0.05)

    def stop(self) -> None:
        """Ends it and every connection at once, as `pg_ctl stop -m fast` does; `start` starts it again."""
        if self._process is not None:
            self._process.send_signal(2)    # SIGINT: fast shutdown
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str, driver: str = "postgresql") -> str:
        """The address of a database, with its login."""
        return f"{driver}://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def new(self, database: str) -> str:
        """Makes an empty database; returns its address."""
        connection = psycopg2.connect(self.url("postgres"))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{database}"')
        connection.close()
        return self.url(database)

    def dump(self, database: str) -> bytes:
        """What `pg_dump` writes of a database."""
        return subprocess.run([binary("pg_dump"), "--inserts", self.url(database)], check=True,
                              capture_output=True).stdout  # fmt: skip


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a process; a test makes databases of its own."""
    if binary("initdb") is None:
        pytest.skip("no PostgreSQL here: `make postgres` installs it")
    server = Postgres()
    yield server
    server.close()
