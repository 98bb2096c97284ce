"""S3-compatible object storage, imported here alone (boto3): what goes up or comes down is verified by its SHA-256.

Servers differ in which checksums they look at (some accept wrong ones), so none is relied on. Addresses and secrets
come from boto3's usual environment variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …), never from settings.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import boto3
import tenacity
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from fewstep.util.errors import DataDiffers, FewstepError, NotAvailable, SettingsError
from tasks.engine.manifest import File, tree_digest
from tasks.storage.file_io import writing
from tasks.tracking.redaction import redact

ATTEMPTS = 5
_CHUNK = 1 << 20
_PART = 64 << 20  # from this size on an upload goes in parts
_MISSING = {"404", "NoSuchKey", "NotFound", "NoSuchBucket"}
_TAKEN = {"412", "PreconditionFailed"}
_RETRIED = {"409", "429", "500", "502", "503", "504", "ConditionalRequestConflict", "InternalError", "OperationAborted",
            "RequestTimeout", "ServiceUnavailable", "SlowDown", "ThrottlingException"}  # fmt: skip


class Store:
    """The objects below one `s3://bucket/prefix`. `endpoint` overrides AWS_ENDPOINT_URL."""

    def __init__(self, url: str, endpoint: str | None = None, attempts: int = ATTEMPTS):
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.username or parts.password:
            raise SettingsError(f"{redact(url)}: expected s3://bucket or s3://bucket/prefix, without credentials",
                                hint="credentials come from the environment (AWS_ACCESS_KEY_ID, …)")  # fmt: skip
        self.bucket, self.prefix, self.attempts = parts.netloc, parts.path.strip("/"), attempts
        config = Config(retries={"max_attempts": 1}, connect_timeout=10, read_timeout=60)
        self.client = boto3.client("s3", endpoint_url=endpoint, config=config)

    def put(self, name: str, source: Path) -> str:
        """Uploads the file `source` as `name`, reads it back and returns its SHA-256.

        Raises DataDiffers when what came back is not what was sent.
        """
        with open(source, "rb") as file:
            sent = hashlib.file_digest(file, "sha256").hexdigest()
        extra = {"Metadata": {"sha256": sent}}
        transfer = boto3.s3.transfer.TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART)
        self._call(f"the upload of {name}", lambda: self.client.upload_file(
            str(source), self.bucket, self._key(name), ExtraArgs=extra, Config=transfer))  # fmt: skip
        found = self._call(f"reading back {name}", lambda: self._hash(name))
        if found != sent:
            raise DataDiffers(f"{self.url(name)} holds other bytes than were sent "
                              f"(SHA-256 {found[:12]}, sent {sent[:12]})")  # fmt: skip
        return sent

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Writes a small object unless there is one: False when there is. Of many at once exactly one gets True.

        A try whose answer was lost may have won: an object with these very bytes counts as ours.
        """
        tries = 0

        def put() -> bool:
            nonlocal tries
            tries += 1
            try:
                self.client.put_object(Bucket=self.bucket, Key=self._key(name), Body=data, IfNoneMatch="*")
                return True
            except ClientError as error:
                if _code(error) not in _TAKEN:
                    raise
                return tries > 1 and self._read(name) == data

        return self._call(f"the conditional write of {name}", put)

    def get(self, name: str, target: Path, sha256: str) -> Path:
        """Downloads `name` to `target`, whole and with this SHA-256 or not at all.

        Raises NotAvailable when it is not there, DataDiffers when its bytes are others.
        """
        target = Path(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with writing(target):
                found = self._call(f"the download of {name}", lambda: self._hash(name, temporary))
            if found != sha256:
                raise DataDiffers(f"{self.url(name)} differs from what was recorded "
                                  f"(SHA-256 {found[:12]}, expected {sha256[:12]})")  # fmt: skip
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def read(self, name: str) -> bytes:
        """A small object. Raises NotAvailable when it is not there."""
        return self._call(f"reading {name}", lambda: self._read(name))

    def find(self, name: str) -> bytes | None:
        """A small object, or None when it is not there."""
        def read() -> bytes | None:
            try:
                return self._read(name)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

        return self._call(f"reading {name}", read)

    def put_tree(self, folder: Path, name: str) -> str:
        """Uploads all files of `folder` below `name`; returns their tree digest (tasks.engine.manifest)."""
        files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        sent = []
        for path in files:
            relative = path.relative_to(folder).as_posix()
            sent.append(File(relative, path.stat().st_size, self.put(f"{name}/{relative}", path)))
        return tree_digest(sent)

    def get_tree(self, name: str, files: list[File], target: Path) -> Path:
        """Downloads these files from below `name` into `target`, each verified. Refuses paths that lead out of it."""
        for file in files:
            path = PurePosixPath(file.path)
            if path.is_absolute() or ".." in path.parts:
                raise DataDiffers(f"{self.url(name)} lists a path outside of its folder: {file.path}")
            self.get(f"{name}/{file.path}", Path(target) / path, file.sha256)
        return Path(target)

    def names(self, below: str = "") -> Iterator[str]:
        """Names of all objects below a prefix, in order."""
        start = self._key(below) if below else self.prefix
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start)
        for page in self._call("the listing", lambda: list(pages)):
            for item in page.get("Contents", []):
                yield item["Key"][len(self.prefix) :].lstrip("/")

    def abort_uploads(self, older_than: timedelta) -> list[str]:
        """Gives up multipart uploads that a death left unfinished that long ago; returns their names."""
        limit, done = datetime.now(UTC) - older_than, []
        where = {"Bucket": self.bucket, "Prefix": self.prefix}
        answer = self._call("the list of unfinished uploads", lambda: self.client.list_multipart_uploads(**where))
        for item in answer.get("Uploads", []):
            if item["Initiated"] < limit:
                where = {"Bucket": self.bucket, "Key": item["Key"], "UploadId": item["UploadId"]}
                self._call(f"giving up {item['Key']}", lambda where=where: self.client.abort_multipart_upload(**where))
                done.append(item["Key"])
        return done

    def url(self, name: str) -> str:
        return f"s3://{self.bucket}/{self._key(name)}"

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _read(self, name: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=self._key(name))["Body"].read()

    def _hash(self, name: str, target: Path | None = None) -> str:
        """SHA-256 of the object's bytes, which go to `target` on the way. A body cut short is an error to retry."""
        digest = hashlib.sha256()
        answer = self.client.get_object(Bucket=self.bucket, Key=self._key(name))
        with open(target or os.devnull, "wb") as file:
            for chunk in answer["Body"].iter_chunks(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            if target is not None:
                os.fsync(file.fileno())
        return digest.hexdigest()

    def _call(self, what: str, action: Callable[[], Any]) -> Any:
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts), retry=tenacity.retry_if_exception(_transient),
            reraise=True, wait=tenacity.wait_random_exponential(multiplier=0.2, max=8),
        )  # fmt: skip
        try:
            return retrying(action)
        except (ClientError, BotoCoreError, boto3.exceptions.Boto3Error) as error:
            text = redact(str(error))
            if isinstance(error, ClientError) and _code(error) in _MISSING:
                raise NotAvailable(f"{what} in s3://{self.bucket}/{self.prefix} failed: it is not there") from error
            if _transient(error):
                raise NotAvailable(f"{what} failed after {self.attempts} attempts: {text}",
                                   hint="finished work is kept; run it again when the store answers") from error
            raise FewstepError(f"{what} was refused: {text}", hint="check bucket, credentials and rights") from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _transient(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        return _code(error) in _RETRIED or status.startswith("5")
    if isinstance(error, boto3.exceptions.S3UploadFailedError):
        cause = error.__cause__ or error.__context__
        return cause is None or _transient(cause)
    return isinstance(error, (HTTPClientError, ConnectionError)) or type(error).__name__ in (
        "EndpointConnectionError", "IncompleteReadError", "ResponseStreamingError", "ConnectionClosedError",
    )  # fmt: skip
