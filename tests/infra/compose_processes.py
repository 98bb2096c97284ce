"""The services of the compose file as processes of this machine: their commands, environments and checks as they stand
there, with names of hosts and ports replaced by loopback and free ports. PostgreSQL is the tests' own, as its command
is its image's; the image's first start (user, database, scripts) is done by hand.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg2
import yaml

from tests.postgres import Postgres, binary
from tests.s3_server import free_ports

_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::[?-][^}]*)?\}")
_WEED = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
         "s3.port.grpc")  # fmt: skip


class Services:
    """Started and checked in the order of `depends_on`. Use as a context manager.

    Attributes:
        ports: of loopback, by service and port in the file.
        environment: what a process needs to use them, as the worker has it.
    """

    def __init__(self, file: Path, folder: Path, postgres: Postgres, secrets: dict[str, str]):
        self.folder, self.postgres, self.secrets = folder, postgres, secrets
        self.services = yaml.safe_load(file.read_text())["services"]
        self.databases = (file.parent / "databases.sql").read_text()
        wanted = [("s3", "8333"), ("s3", "9333"), ("prefect", "4200"), ("mlflow", "5000"), ("worker", "8080")]
        self.ports = dict(zip(wanted, free_ports(len(wanted)), strict=True)) | {("postgres", "5432"): postgres.port}
        self.environment = self._environment("worker")
        self._running: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Services:
        self._first_start_of_postgres()
        return self

    def __exit__(self, *of) -> None:
        for process in reversed(self._running.values()):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=120)

    def start(self, name: str, **environment: str) -> subprocess.Popen:
        """Start a service, after those that it depends on."""
        if name in self._running:
            return self._running[name]
        for other, how in self.services[name].get("depends_on", {}).items():
            if other == "postgres":
                continue
            process = self.start(other)
            if how["condition"] == "service_completed_successfully":
                assert process.wait() == 0, self.log(other)
            else:
                self.wait_until_healthy(other)
        home = self.folder / name
        home.mkdir()
        with open(home / "log", "w") as log:
            self._running[name] = subprocess.Popen(
                self._command(name), cwd=home, env=self._environment(name) | environment, stdout=log, stderr=log,
                start_new_session=True)  # fmt: skip
        return self._running[name]

    def wait_until_healthy(self, name: str) -> None:
        """Until the service's own check succeeds."""
        kind, *command = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        command = self._translated(command)
        if command[0] == "wget":    # of the image; here it may not be
            command = [sys.executable, "-c", f"import urllib.request as r; r.urlopen({command[-1]!r})"]
        while subprocess.run(command, env=self._environment(name), capture_output=True).returncode:
            assert self._running[name].poll() is None, self.log(name)
            time.sleep(0.5)

    def log(self, name: str) -> str:
        """The end of what a service printed."""
        return (self.folder / name / "log").read_text(errors="replace")[-3000:]

    def address(self, name: str, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[name, port]}"

    def _command(self, name: str) -> list[str]:
        command = self._translated(self.services[name]["command"])
        if name != "s3":
            return command
        extra = [f"-{flag}={port}" for flag, port in zip(_WEED, free_ports(len(_WEED)), strict=True)]
        extra[0] = f"-master.port={self.ports['s3', '9333']}"
        own = {"-dir=/data": "-dir=.", "-ip=s3": "-ip=127.0.0.1", "-volume.max=0": "-volume.max=50",
               "-master.volumeSizeLimitMB=1024": "-master.volumeSizeLimitMB=64"}  # fmt: skip
        sockets = ["-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock"]
        return ["weed", "-logtostderr", *(own.get(word, word) for word in command), *extra, *sockets]

    def _translated(self, words: list[str]) -> list[str]:
        plain = {port: str(ours) for (_, port), ours in self.ports.items()}
        return [plain.get(word, self._text(word)) for word in words]

    def _environment(self, name: str) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items()
                 if not key.startswith(("PREFECT_", "MLFLOW_", "AWS_", "FEWSTEP_", "OTEL_"))}  # fmt: skip
        said = self.services[name]["environment"]
        own = dict(zip(said, self._translated(list(map(str, said.values()))), strict=True))
        own = {key: value.replace("/work", str(self.folder / name)) for key, value in own.items() if value}
        path = f"{Path(sys.executable).parent}:{binary('pg_isready').parent}:{os.environ['PATH']}"
        return {**clean, "PATH": path, "OMP_NUM_THREADS": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **own}

    def _text(self, text: str) -> str:
        text = _VARIABLE.sub(lambda found: self.secrets.get(found[1], ""), text)
        for (name, port), ours in self.ports.items():
            text = re.sub(rf"\b(?:{name}|localhost|127\.0\.0\.1):{port}\b", f"127.0.0.1:{ours}", text)
            text = text.replace(f".port={port}", f".port={ours}")
        return text.replace("0.0.0.0", "127.0.0.1").replace("$$", "$")

    def _first_start_of_postgres(self) -> None:
        given = self._environment("postgres")
        connection = psycopg2.connect(self.postgres.url("postgres"))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER ROLE {given['POSTGRES_USER']} PASSWORD '{given['POSTGRES_PASSWORD']}'")
            cursor.execute(f"CREATE DATABASE {given['POSTGRES_DB']}")
            for statement in filter(str.strip, re.sub(r"--.*", "", self.databases).split(";")):
                cursor.execute(statement)
        connection.close()
