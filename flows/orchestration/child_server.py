"""Servers as child processes that end with this one: their sockets, their logs, and whether they answer."""

from __future__ import annotations

import base64
import http.client
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fewstep.util.errors import FewstepError
from flows.orchestration.own_server_environment import LOOPBACK, TOKEN_PARAMETER
from tasks.storage.workspace import child_environment
from tasks.tracking.redaction import redact

START_SECONDS = 180.0       # a first start migrates an empty database; many may start at once on a slow machine


@dataclass
class ChildServer:
    """A server process that was started here.

    Attributes:
        process: its process.
        url: of its pages, without the token.
        log: file with its output.
        token: what who asks it must know (flows.orchestration.page_guard).
    """

    process: subprocess.Popen
    url: str
    log: Path
    token: str

    def wait(self, path: str, name: str) -> None:
        """Until it answers at `path`. Raises FewstepError with the end of its log when it stops or stays silent."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.url + path):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise FewstepError(f"{name} did not start" + _reason(self.log),
                                   hint=f"its output is in {self.log}; `fewstep doctor` checks the installation")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends it; waits for what it still has to write, and kills it after 10 seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start_server(application: Literal["prefect", "mlflow"], environment: dict[str, str], log: Path, *, host: str,
                 port: int) -> ChildServer:
    """Starts a server that obeys its own pages and who knows its new token, and returns at once.

    Args:
        application: which (flows.orchestration.server_process).
        environment: its variables.
        log: file for its output.
        host: address to listen on.
        port: 0 takes a free one.

    Raises FewstepError when the port is taken.
    """
    token = secrets.token_urlsafe(24)
    with bind(host, port) as listening:
        url = f"http://{LOOPBACK[0] if host == '0.0.0.0' else host}:{listening.getsockname()[1]}"
        environment = environment | {"FEWSTEP_SERVER_TOKEN": token, "FEWSTEP_SERVER_HOST": host}
        arguments = ["-m", "flows.orchestration.server_process", application, str(listening.fileno())]
        return ChildServer(spawn(arguments, environment, log, keep=[listening.fileno()]), url, log, token)


def with_token(url: str, token: str) -> str:
    """The address that a person opens: `url`, which may end in a fragment, with the token of the session."""
    page, mark, fragment = url.partition("#")
    return f"{page.rstrip('/')}/?{TOKEN_PARAMETER}={token}{mark}{fragment}"


def _reason(log: Path) -> str:
    """The last line of `log` that looks like an exception."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    errors = [line for line in lines if "Error: " in line or line.endswith("Error")]
    return f": {redact(errors[-1])}" if errors else ""


def spawn(arguments: list[str], environment: dict[str, str], log: Path, *,
          keep: Sequence[int] = ()) -> subprocess.Popen:
    """Starts `python ARGUMENTS` in a process group of its own, its output appended to `log`.

    The child should call `die_with_parent` with the pid in FEWSTEP_PARENT first. `keep` are file descriptors that it
    inherits.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = child_environment(environment, FEWSTEP_PARENT=str(os.getpid()))
    with open(log, "ab") as output:
        return subprocess.Popen([sys.executable, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=output,
                                stderr=output, pass_fds=list(keep), process_group=0)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises FewstepError when the port is taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise FewstepError(f"cannot listen on {host}:{port}: {error.strerror}",
                           hint="choose another with --port, or leave it out to take a free one") from None
    listening.listen(128)
    return listening


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        bind(host, port).close()
    except FewstepError:
        return False
    return True


def answers(url: str, timeout: float = 5.0) -> bool:
    """Whether a GET of `url`, with the login that Prefect's variables name, is answered with a status below 400.

    By urllib: httpx, which Prefect brings, makes a TLS context for every call, 0.1 s of a processor that a starting
    server needs.
    """
    key, login = os.environ.get("PREFECT_API_KEY"), os.environ.get("PREFECT_API_AUTH_STRING")
    header = f"Bearer {key}" if key else f"Basic {base64.b64encode(login.encode()).decode()}" if login else None
    try:
        request = urllib.request.Request(url, headers={"Authorization": header} if header else {})
        with urllib.request.urlopen(request, timeout=timeout):
            return True
    except (OSError, http.client.HTTPException, ValueError):    # no answer, an error status, no address
        return False
