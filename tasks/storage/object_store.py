"""Small objects in S3-compatible storage; boto3 is imported here alone.

Addresses and secrets come from boto3's usual environment variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …), never from
settings. What is tried again is tried again here: boto3 cannot tell a conditional write that was lost from one whose
answer was lost, so its own retries are off.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import boto3
import tenacity
from botocore.client import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
)

from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
from fewstep.util.files import replacing
from tasks.tracking.redaction import redact

T = TypeVar("T")
ATTEMPTS = 5
_MISSING_KEY = {"404", "NoSuchKey", "NotFound"}
_MISSING_BUCKET = "NoSuchBucket"
_OWNED = {"BucketAlreadyOwnedByYou"}
_TAKEN = {"412", "PreconditionFailed"}
_RETRIED = {"409", "429", "500", "502", "503", "504", "ConditionalRequestConflict", "InternalError", "OperationAborted",
            "RequestTimeout", "ServiceUnavailable", "SlowDown", "ThrottlingException"}  # fmt: skip


class Refused(FewstepError):
    """The store answered and said no; `code` is S3's name of the reason (AccessDenied, SignatureDoesNotMatch, …)."""

    def __init__(self, message: str, *, code: str, hint: str | None = None):
        super().__init__(message, hint=hint)
        self.code = code


class NoBucket(NotAvailable):
    """The store has no bucket of this name."""


@dataclass(frozen=True)
class Stored:
    """An object as it was found.

    Attributes:
        data: its bytes.
        etag: names this very content; another write of other bytes changes it.
        age: seconds since it was written, by the store's own clock at both ends, to the second.
    """

    data: bytes
    etag: str
    age: float


class Store:
    """The objects below one `s3://bucket/prefix`.

    Args:
        url: bucket and prefix; one with credentials is refused (SettingsError).
        endpoint: address of the server; None: AWS_ENDPOINT_URL.
        attempts: how often a request is tried, with growing pauses, while errors say that it may pass.

    All methods raise NotAvailable where the store does not answer or the object or bucket (NoBucket) is missing, and
    Refused where the store refuses. No message holds a secret.
    """

    def __init__(self, url: str, endpoint: str | None = None, attempts: int = ATTEMPTS):
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.username or parts.password:
            raise SettingsError(f"{redact(url)}: expected s3://bucket or s3://bucket/prefix, without credentials",
                                hint="credentials come from the environment (AWS_ACCESS_KEY_ID, …)")  # fmt: skip
        self.bucket, self.prefix, self.attempts = parts.netloc, parts.path.strip("/"), attempts
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=60)
        self.client = boto3.Session().client("s3", endpoint_url=endpoint, config=config)  # of today's environment

    def make_bucket(self) -> bool:
        """Make the bucket; False where it is there already."""
        region = self.client.meta.region_name
        place = {} if region in (None, "us-east-1") else {"CreateBucketConfiguration": {"LocationConstraint": region}}

        def make() -> bool:
            try:
                self.client.create_bucket(Bucket=self.bucket, **place)
            except ClientError as error:
                if _code(error) not in _OWNED:
                    raise
                return False
            return True

        return self._call(f"making the bucket {self.bucket}", make)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write the object `name` unless there is one. Of many callers at once exactly one gets True, all others False.

        An attempt whose answer was lost may have written it: an object with these very bytes then counts as ours.
        """
        return self.write_if(name, data, None) is not None

    def write_if(self, name: str, data: bytes, etag: str | None) -> str | None:
        """Write the object `name` if what is there has this `etag` (None: if nothing is there).

        Returns the ETag of what was written, None where something else is there. Of many callers with one `etag`
        exactly one gets an answer, if their `data` differ.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        tries = 0

        def put() -> str | None:
            nonlocal tries
            tries += 1
            try:
                return self.client.put_object(Bucket=self.bucket, Key=self._key(name), Body=data, **condition)["ETag"]
            except ClientError as error:
                if _code(error) not in (_TAKEN if etag is None else _TAKEN | _MISSING_KEY):
                    raise
                there = self._look(name) if tries > 1 else None     # an answer that was lost
                return there.etag if there is not None and there.data == data else None

        return self._call(f"the conditional write of {name}", put)

    def look(self, name: str) -> Stored | None:
        """The object `name` as it is now; None if there is none."""
        return self._call(f"reading {name}", lambda: self._look(name))

    def upload(self, name: str, path: Path) -> None:
        """Write the bytes of the file `path` as the object `name`, whatever is there."""

        def send() -> None:
            with open(path, "rb") as file:
                self.client.upload_fileobj(file, self.bucket, self._key(name))

        self._call(f"writing {name}", send)

    def download(self, name: str, path: Path) -> None:
        """Copy the object `name` to the file `path`, which appears whole. Raises NotAvailable if there is none."""

        def fetch() -> None:
            with replacing(path) as temporary, open(temporary, "wb") as file:
                self.client.download_fileobj(self.bucket, self._key(name), file)

        self._call(f"reading {name}", fetch)

    def names(self, prefix: str) -> list[str]:
        """Names of all objects that begin with `prefix`, sorted."""
        start = len(self._key(""))

        def ask() -> list[str]:
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix))
            return sorted(item["Key"][start:] for page in pages for item in page.get("Contents", []))

        return self._call(f"the list of {prefix}", ask)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; one that is not there is none the less deleted."""
        for name in names:
            self._call(f"deleting {name}",
                       lambda name=name: self.client.delete_object(Bucket=self.bucket, Key=self._key(name)))

    def read(self, name: str) -> bytes:
        """The bytes of the object `name`. Raises NotAvailable if there is none."""
        return self._call(f"reading {name}", lambda: self._read(name))

    def find(self, name: str) -> bytes | None:
        """The bytes of the object `name`, None if there is none."""
        there = self.look(name)
        return None if there is None else there.data

    def abort_uploads(self, idle: timedelta) -> list[str]:
        """End multipart uploads to which nobody has added anything for so long; returns their names.

        An upload's begin says nothing of its end: another host may be at it for a day.
        """
        where = {"Bucket": self.bucket, "Prefix": self._key("")}
        answer = self._call("the list of unfinished uploads", lambda: self.client.list_multipart_uploads(**where))
        done = []
        for item in answer.get("Uploads", []):
            upload = {"Bucket": self.bucket, "Key": item["Key"], "UploadId": item["UploadId"]}
            if datetime.now(UTC) - item["Initiated"] < idle or self._quiet_for(upload) < idle:
                continue
            self._call(f"giving up {item['Key']}", lambda upload=upload: self.client.abort_multipart_upload(**upload))
            done.append(item["Key"])
        return done

    def _quiet_for(self, upload: dict[str, str]) -> timedelta:
        """How long ago the last part of an unfinished upload arrived; the largest there is if none has."""

        def ask() -> list[datetime]:
            pages = self.client.get_paginator("list_parts").paginate(**upload)
            return [part["LastModified"] for page in pages for part in page.get("Parts", [])]

        arrived = self._call(f"the parts of {upload['Key']}", ask)
        return datetime.now(UTC) - max(arrived) if arrived else timedelta.max

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _read(self, name: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=self._key(name))["Body"].read()

    def _look(self, name: str) -> Stored | None:
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=self._key(name))
        except ClientError as error:
            if _code(error) in _MISSING_KEY:
                return None
            raise
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return Stored(answer["Body"].read(), answer["ETag"], (now - answer["LastModified"]).total_seconds())

    def _call(self, what: str, action: Callable[[], T]) -> T:
        """The result of `action`, tried again after errors that may pass; `what` names it in messages."""
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts), retry=tenacity.retry_if_exception(_transient),
            reraise=True, wait=tenacity.wait_random_exponential(multiplier=0.2, max=8),
        )  # fmt: skip
        try:
            return retrying(action)
        except (ClientError, BotoCoreError) as error:
            text = redact(str(error))
            if _code(error) == _MISSING_BUCKET:
                raise NoBucket(f"{what} failed: there is no bucket {self.bucket!r}",
                               hint="make it, or mend the url of DVC's remote (`dvc remote list`)") from error
            if _code(error) in _MISSING_KEY:
                raise NotAvailable(f"{what} in s3://{self.bucket}/{self.prefix} failed: it is not there") from error
            if _transient(error):
                raise NotAvailable(f"{what} failed after {self.attempts} attempts: {text}",
                                   hint="finished work is kept; run it again when the store answers") from error
            raise Refused(f"{what} was refused: {text}", code=_code(error),
                          hint="check bucket, credentials and rights") from error


def _code(error: ClientError | BotoCoreError) -> str:
    """S3's code of an answer; botocore's own word where it did not even ask, such as NoCredentialsError."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) \
        else type(error).__name__


def _transient(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        return _code(error) in _RETRIED or status.startswith("5")
    return isinstance(error, (HTTPClientError, EndpointConnectionError, IncompleteReadError, ConnectionError))
