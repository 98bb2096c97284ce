"""The section `stack` of params.yaml: what `fewstep stack render` fills the files of infra/ with. No run reads it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fewstep.util.config import Strict

Label = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,29}[a-z0-9])?$")]
Host = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?$")]


class Worker(Strict):
    """What one run gets. `memory_gib` and `disk_gib` in GiB; no GPU is asked for where `gpus` is 0."""

    gpus: Annotated[int, Field(ge=0, le=64)] = 1
    cpus: Annotated[int, Field(ge=1, le=512)] = 4
    memory_gib: Annotated[int, Field(ge=2, le=16384)] = 16
    disk_gib: Annotated[int, Field(ge=10, le=65536)] = 100


class Stack(Strict):
    """Where servers, bytes and runs are. Secrets are no settings: the files name them.

    image: repository of the image; its tag is the commit.
    namespace: of Kubernetes, name of the compose project and of the stack in AWS.
    bucket, region: of S3.
    database_host: of PostgreSQL outside the cluster, for the overlay `aws`.
    pool: Prefect's work pool.
    workers: runs at once, GPU nodes at most.
    storage_gib: GiB of the volume behind an S3 store of our own.
    grace_seconds: from being told to stop to being killed: a step, the checkpoint that is being written and its own
        must fit, and the upload.
    """

    image: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]*(:[0-9]{1,5}/[a-z0-9._/-]+)?[a-z0-9]$")] = "fewstep"
    namespace: Label = "fewstep"
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")] = "fewstep"
    region: Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[a-z]+)+-[0-9]$")] = "eu-central-1"
    database_host: Host = "database.example.org"
    pool: Label = "gpus"
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    storage_gib: Annotated[int, Field(ge=1, le=1048576)] = 200
    grace_seconds: Annotated[int, Field(ge=120, le=86400)] = 300
    worker: Worker = Worker()
