"""Which errors may go away when the same work is tried again: the network, a busy file, a locked database."""

from __future__ import annotations

import errno
import http.client
import sqlite3
import sys

import httpx
import requests

from fewstep.util.errors import FewstepError

ERRNOS = {errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN,
          errno.EHOSTUNREACH, errno.EINTR, errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE, errno.ESTALE,
          errno.ETIMEDOUT}
TYPES = (ConnectionError, TimeoutError, http.client.IncompleteRead,
         httpx.TransportError,                          # Prefect's client
         requests.ConnectionError, requests.Timeout)    # MLflow's client
BUSY_SQLITE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
BUSY_SQL = ("08", "40", "53300", "55P03", "57P")
"""How the SQLSTATEs of PostgreSQL begin for: connection lost, transaction to be repeated (serialisation, deadlock), too
many connections, lock not available, server shutting down or starting."""


def is_transient(error: BaseException | None) -> bool:
    """Whether trying again may help.

    Never for a FewstepError (bad settings, corrupt data, NaN, a full disk, a server that was tried already), whatever
    caused it. Libraries wrap a database's errors in their own, so the causes of `error` are looked at too.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, FewstepError):
            return False
        if isinstance(error, (*TYPES, *_s3_types())) or (isinstance(error, OSError) and error.errno in ERRNOS):
            return True
        if isinstance(error, sqlite3.Error) and _primary_code(error) in BUSY_SQLITE:
            return True
        if (_sql_state(error) or "").startswith(BUSY_SQL) or getattr(error, "connection_invalidated", False) is True:
            return True     # the latter is SQLAlchemy's, where the connection broke before an answer
        seen.add(id(error))
        error = error.__cause__
    return False


def _s3_types() -> tuple[type[BaseException], ...]:
    """botocore's network errors. Only tasks.storage and DVC import botocore; where it is not loaded it raised none."""
    exceptions = sys.modules.get("botocore.exceptions")
    return () if exceptions is None else (exceptions.ConnectionError, exceptions.HTTPClientError)


def _primary_code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code, the low byte of the extended one; None for an error that is not SQLite's own."""
    code = getattr(error, "sqlite_errorcode", None)     # Python sets the attribute where SQLite gave a code
    return None if code is None else code & 0xFF


def _sql_state(error: BaseException) -> str | None:
    """The SQLSTATE that a PostgreSQL server answered with, as psycopg2 (`pgcode`) and asyncpg (`sqlstate`) hold it."""
    code = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    return code if isinstance(code, str) else None
