"""Small objects in S3-compatible storage; boto3 is imported here alone.

Addresses and secrets come from boto3's usual environment variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …), never from
settings. boto3 retries too, but cannot tell a conditional write that was lost from one whose answer was lost.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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
from tasks.tracking.redaction import redact

T = TypeVar("T")
ATTEMPTS = 5
_MISSING = {"404", "NoSuchKey", "NotFound", "NoSuchBucket"}
_TAKEN = {"412", "PreconditionFailed"}
_RETRIED = {"409", "429", "500", "502", "503", "504", "ConditionalRequestConflict", "InternalError", "OperationAborted",
            "RequestTimeout", "ServiceUnavailable", "SlowDown", "ThrottlingException"}  # fmt: skip


class Store:
    """The objects below one `s3://bucket/prefix`.

    Args:
        url: bucket and prefix; one with credentials is refused (SettingsError).
        endpoint: address of the server; None: AWS_ENDPOINT_URL.
        attempts: how often a request is tried, with growing pauses, while errors say that it may pass.

    All methods raise NotAvailable where the store does not answer or the object is missing, and FewstepError where the
    store refuses. No message holds a secret.
    """

    def __init__(self, url: str, endpoint: str | None = None, attempts: int = ATTEMPTS):
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.username or parts.password:
            raise SettingsError(f"{redact(url)}: expected s3://bucket or s3://bucket/prefix, without credentials",
                                hint="credentials come from the environment (AWS_ACCESS_KEY_ID, …)")  # fmt: skip
        self.bucket, self.prefix, self.attempts = parts.netloc, parts.path.strip("/"), attempts
        config = Config(retries={"max_attempts": 1}, connect_timeout=10, read_timeout=60)
        self.client = boto3.client("s3", endpoint_url=endpoint, config=config)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write the object `name` unless there is one. Of many callers at once exactly one gets True, all others False.

        An attempt whose answer was lost may have written it: an object with these very bytes then counts as ours.
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

    def read(self, name: str) -> bytes:
        """The bytes of the object `name`. Raises NotAvailable if there is none."""
        return self._call(f"reading {name}", lambda: self._read(name))

    def find(self, name: str) -> bytes | None:
        """The bytes of the object `name`, None if there is none."""

        def read() -> bytes | None:
            try:
                return self._read(name)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

        return self._call(f"reading {name}", read)

    def abort_uploads(self, older_than: timedelta) -> list[str]:
        """End multipart uploads that a dead process left unfinished that long ago; returns their names."""
        limit, done = datetime.now(UTC) - older_than, []
        where = {"Bucket": self.bucket, "Prefix": self.prefix}
        answer = self._call("the list of unfinished uploads", lambda: self.client.list_multipart_uploads(**where))
        for item in answer.get("Uploads", []):
            if item["Initiated"] < limit:
                where = {"Bucket": self.bucket, "Key": item["Key"], "UploadId": item["UploadId"]}
                self._call(f"giving up {item['Key']}", lambda where=where: self.client.abort_multipart_upload(**where))
                done.append(item["Key"])
        return done

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _read(self, name: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=self._key(name))["Body"].read()

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
    return isinstance(error, (HTTPClientError, EndpointConnectionError, IncompleteReadError, ConnectionError))
