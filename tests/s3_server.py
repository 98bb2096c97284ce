"""A real S3 server for the tests: SeaweedFS on loopback, in a process that is ended by its id and dies with the tests.

Moto's server says yes to conditional writes that a real store refuses, dates uploads to 2010 and knows no rights.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import boto3
import pytest
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from tasks.storage.locks import die_with_parent

BUCKET, _PROBE = "fewstep", "probe"
KEY, SECRET = "canary-6f1e0b-key", "canary-6f1e0b-secret"
READER, READER_SECRET = "canary-6f1e0b-reader", "canary-6f1e0b-reader-secret"
WORKER, WORKER_SECRET = "canary-6f1e0b-worker", "canary-6f1e0b-worker-secret"
_IDENTITIES = {"identities": [
    {"name": "writer", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]},
    {"name": "worker", "credentials": [{"accessKey": WORKER, "secretKey": WORKER_SECRET}],
     "actions": ["Read", "Write", "List", "Tagging"]},
    {"name": "reader", "credentials": [{"accessKey": READER, "secretKey": READER_SECRET}],
     "actions": [f"Read:{BUCKET}", f"List:{BUCKET}"]},
]}  # fmt: skip


class S3Server:
    """SeaweedFS with its files in `folder`.

    Attributes:
        url: its address, the same after `stop` and `start`.
        client: of boto3, with the right to do everything.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._process: subprocess.Popen | None = None
        self._ports = free_ports(8)
        self.url = f"http://127.0.0.1:{self._ports[0]}"
        config = Config(retries={"max_attempts": 1}, connect_timeout=5, read_timeout=60)
        self.client = boto3.client("s3", endpoint_url=self.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
                                   region_name="us-east-1", config=config)  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip

    @property
    def reader(self) -> dict[str, str]:
        """The environment of who may read and list the bucket, and nothing else."""
        return {**self.environment, "AWS_ACCESS_KEY_ID": READER, "AWS_SECRET_ACCESS_KEY": READER_SECRET}

    @property
    def worker(self) -> dict[str, str]:
        """The environment of who may do everything with objects and make no bucket."""
        return {**self.environment, "AWS_ACCESS_KEY_ID": WORKER, "AWS_SECRET_ACCESS_KEY": WORKER_SECRET}

    def start(self) -> None:
        """Returns when the bucket is there, and objects can be written and read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "s3.json").write_text(json.dumps(_IDENTITIES))
        names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
                 "filer.port", "filer.port.grpc")  # fmt: skip
        ports = [f"-{name}={port}" for name, port in zip(names, self._ports, strict=True)]
        command = [str(Path(sys.executable).with_name("weed")), "-logtostderr", "server", "-dir=.", "-ip=127.0.0.1",
                   "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.config=s3.json", "-s3.port.iceberg=0",
                   "-s3.port.lance=0", "-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock", "-volume.max=200",
                   "-master.volumeSizeLimitMB=64", "-master.volumePreallocate=false", *ports]  # fmt: skip
        with open(self.folder / "weed.log", "ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log,
                                             preexec_fn=die_with_parent)
        while not self._works():
            assert self._process.poll() is None, (self.folder / "weed.log").read_text()[-2000:]
            time.sleep(0.1)

    def stop(self) -> None:
        """Kills it; what it acknowledged is on the disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def names(self, prefix: str = "") -> list[str]:
        """Of all objects in the bucket that begin with `prefix`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, name: str) -> bytes:
        """The bytes of an object."""
        return self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()

    def put(self, name: str, data: bytes) -> None:
        """Writes an object, whatever is there."""
        self.client.put_object(Bucket=BUCKET, Key=name, Body=data)

    def _works(self) -> bool:
        """Whether it answers as it will from now on: a store of files comes up after the gateway before it."""
        try:
            for bucket in (BUCKET, _PROBE):
                try:
                    self.client.create_bucket(Bucket=bucket)
                except ClientError as error:
                    if error.response["Error"]["Code"] not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
                        return False
            self.client.put_object(Bucket=_PROBE, Key="probe", Body=b"probe")
            return self.client.get_object(Bucket=_PROBE, Key="probe")["Body"].read() == b"probe"
        except (BotoCoreError, ClientError):
            return False


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[S3Server]:
    """One server for all tests of a process; a test uses a prefix of its own (`s3_prefix`)."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def s3_prefix(s3_server, monkeypatch, request) -> str:
    """`s3://bucket/prefix` that is this test's own; the environment names the server and its keys."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/" + re.sub(r"[^a-z0-9]+", "-", request.node.nodeid.lower()).strip("-")
