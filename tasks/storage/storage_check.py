"""Whether the store behind DVC's remote takes what a run will ask of it, tried before any work is done."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fewstep.util.errors import FewstepError, SettingsError
from tasks.storage.dvc.dvc_config import default_remote
from tasks.storage.workspace import Workspace

if TYPE_CHECKING:
    from tasks.storage.object_store import Store

ATTEMPTS = 2
_WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "NoCredentialsError",
              "PartialCredentialsError", "AuthorizationHeaderMalformed"}  # fmt: skip
_WRONG_TIME = {"RequestTimeTooSkewed"}
_NO_RIGHT = {"AccessDenied", "AllAccessDisabled", "Forbidden", "403", "MethodNotAllowed"}


def try_storage(workspace: Workspace) -> str | None:
    """Tries the object store of DVC's default remote; its address, None where the remote is none or a folder.

    Raises:
        SettingsError: the store refuses what runs will do (a wrong secret, a key that may only read, no such bucket).
        NotAvailable: it does not answer.
    """
    remote = default_remote(workspace)
    if remote is None or not remote.url.startswith("s3://"):
        return None
    from tasks.storage.object_store import Store  # boto3

    try_store(Store(remote.url, remote.endpoint, ATTEMPTS))
    return remote.url


def try_store(store: Store) -> None:
    """Writes, reads, replaces by condition and deletes one object of its own. Raises as `try_storage` does."""
    name, place = f"fewstep/try-out/{uuid.uuid4().hex}", f"s3://{store.bucket}/{store.prefix}".rstrip("/")
    with in_words(place, "read"):
        store.look(name)        # a store may make a missing bucket for who writes
    with in_words(place, "write"):
        first = store.write_if(name, b"1", None)
    try:
        with in_words(place, "read"):
            found = store.look(name)
        with in_words(place, "replace"):
            keeps = store.write_if(name, b"2", None) is None and store.write_if(name, b"2", '"another"') is None
            replaced = first and store.write_if(name, b"3", first)
    except FewstepError:
        with contextlib.suppress(FewstepError):     # the first error is the one to mend
            store.delete([name])
        raise
    with in_words(place, "delete"):
        store.delete([name])
    if found is None or found.data != b"1" or not keeps or not replaced:
        raise SettingsError(f"{place}: the store does not keep to conditional writes (If-None-Match, If-Match)",
                            hint="hosts would overwrite each other's work there: use a store that does")


@contextlib.contextmanager
def in_words(place: str, what: str) -> Iterator[None]:
    """A refusal as the SettingsError that says which right or name is wrong."""
    from tasks.storage.object_store import NoBucket, Refused  # boto3

    try:
        yield
    except NoBucket as error:
        raise SettingsError(f"{place}: {error}", hint=error.hint) from error
    except Refused as error:
        if error.code in _WRONG_KEY:
            raise SettingsError(f"{place}: the store does not know this key, or its secret is wrong ({error.code})",
                                hint="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
        if error.code in _WRONG_TIME:
            raise SettingsError(f"{place}: this machine's clock and the store's differ by too much ({error.code})",
                                hint="set the clock, best by a time service (`timedatectl set-ntp true`)") from error
        if error.code in _NO_RIGHT:
            raise SettingsError(f"{place}: this key may not {what} objects there ({error.code})",
                                hint="the key needs the rights to read, write and delete objects") from error
        raise SettingsError(f"{place}: {error}", hint=error.hint) from error
