"""Where Prefect's API is: a server this process starts for itself, the one `fewstep serve` runs, or one given by URL.

Prefect can start a temporary server by itself, but that one outlives its parent's SIGKILL and prints into the terminal.
Ours is the same application in a child that the kernel kills with its parent, its output in a file. It listens on a
socket that the parent has bound, so no two runs ever fight for a port. Nothing here imports Prefect into this process.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import tasks.tracking.process_env
from fewstep.util.errors import FewstepError, NotAvailable
from tasks.storage.locks import said_by_holder
from tasks.tracking.redaction import redact

START_SECONDS = 180.0       # a first start migrates an empty database; many may start at once on a slow machine
HEARTBEAT = 30              # seconds; Prefect's least
ATTEMPTS = 5                # for a server given by URL, with growing pauses: about 8 seconds


@dataclass
class Child:
    """A server process of ours."""

    process: subprocess.Popen
    url: str                # of the pages; the API is at url + "/api"
    log: Path

    def wait(self, path: str, what: str) -> None:
        """Until it answers. Raises FewstepError with the end of its log when it stops or stays silent."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.url + path):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise FewstepError(f"{what} did not start" + _reason(self.log),
                                   hint=f"its output is in {self.log}; `fewstep doctor` checks the installation")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends it; waits a moment for what it still has to write, then insists."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _reason(log: Path) -> str:
    """The last line of `log` that looks like an exception."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    found = [line for line in lines if "Error: " in line or line.endswith("Error")]
    return f": {redact(found[-1])}" if found else ""


def prefect_environment(workspace, api_url: str | None = None) -> dict[str, str]:
    """What Prefect reads from the environment when it is imported: its home in the checkout, no telemetry, JSON."""
    values = {
        **tasks.tracking.process_env.TELEMETRY_OFF,
        "PREFECT_HOME": str(workspace.prefect_home),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT),
        "PREFECT_CLIENT_MAX_RETRIES": "3",      # with growing pauses; a run survives a server that restarts
    }
    return values | ({"PREFECT_API_URL": api_url} if api_url else {})


def start_prefect(workspace, log: Path, *, pages: bool = False, host: str = "127.0.0.1", port: int = 0,
                  addition: dict[str, str] | None = None) -> Child:
    """Starts Prefect's server on this checkout's database and returns at once; `Child.wait` waits for its answer.

    `pages` serves the web pages and runs the services of a permanent server (scheduler, zombie detection). Port 0 takes
    a free one. Raises FewstepError when `port` is taken.
    """
    workspace.prefect_home.mkdir(parents=True, exist_ok=True)
    listening = bind(host, port)
    port = listening.getsockname()[1]
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    environment = dict(os.environ, **prefect_environment(workspace))
    environment.pop("PREFECT_API_URL", None)
    if pages:
        environment["PREFECT_UI_API_URL"] = f"{url}/api"
    else:
        environment |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    environment |= addition or {}
    child = spawn(["-m", "flows.orchestration.server_process", str(listening.fileno())], environment, log, keep=[listening.fileno()])
    listening.close()
    return Child(child, url, log)


def spawn(arguments: list[str], environment: dict[str, str], log: Path, *, keep: list[int] = ()) -> subprocess.Popen:
    """A Python child in a process group of its own, its output appended to `log`. It should call `die_with_parent`
    with the pid in FEWSTEP_PARENT first."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(environment, FEWSTEP_PARENT=str(os.getpid()), PYTHONPATH=source_path(environment))
    environment.pop("PYTHONSAFEPATH", None)
    with open(log, "ab") as output:
        return subprocess.Popen([sys.executable, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=output,
                                stderr=output, pass_fds=list(keep), process_group=0)


def source_path(environment: dict[str, str], root: Path | None = None) -> str:
    """PYTHONPATH with which a child imports the project's code from `root` (default: the code this process runs)."""
    own = str(root or Path(__file__).resolve().parents[2])
    return os.pathsep.join([own, *[part for part in environment.get("PYTHONPATH", "").split(os.pathsep)
                                   if part and part != own]])


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
    try:
        bind(host, port).close()
    except FewstepError:
        return False
    return True


def answers(url: str, timeout: float = 5.0) -> bool:
    """Whether a GET of `url` is answered with a status below 400."""
    return _status(url, timeout) < 400


def _status(url: str, timeout: float) -> int:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path or "/", headers=_authorisation())
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 599
    finally:
        connection.close()


def _authorisation() -> dict[str, str]:
    import base64

    key, login = os.environ.get("PREFECT_API_KEY"), os.environ.get("PREFECT_API_AUTH_STRING")
    if key:
        return {"Authorization": f"Bearer {key}"}
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}


def require(api_url: str, attempts: int | None = None) -> None:
    """Returns when the Prefect API answers. Raises NotAvailable after some attempts with growing pauses."""
    attempts = attempts or int(os.environ.get("FEWSTEP_PREFECT_ATTEMPTS", ATTEMPTS))
    for attempt in range(attempts):
        if attempt:
            time.sleep(min(4.0, 0.5 * 2**attempt))
        if answers(api_url.rstrip("/") + "/health"):
            return
    raise NotAvailable(f"the Prefect server at {redact(api_url)} did not answer after {attempts} attempts",
                       hint="finished work is kept; start the server or mend PREFECT_API_URL, then try again")


# the server of `fewstep serve`

def serving_path(workspace) -> Path:
    return workspace.shared / "serve.json"


def serving(workspace) -> dict | None:
    """`{url, pid, started}` of the `fewstep serve` of this repository, or None. Asks the kernel who holds the file."""
    return said_by_holder(serving_path(workspace)) or None


@contextlib.contextmanager
def prefect_api(workspace, profile: str, log: Path, meanwhile: Callable[[], None] = lambda: None) -> Iterator[str]:
    """The URL of a Prefect API that answers, in the environment of this process from here on (import Prefect inside).

    `meanwhile` is called with that environment in place, while a server of our own takes its seconds to start.
    PREFECT_API_URL where it is set (the profile `server` insists on it), else the server of `fewstep serve`, else one
    of our own that ends with this block. Raises NotAvailable for a given one that does not answer.
    """
    given = os.environ.get("PREFECT_API_URL")
    if profile == "server" or given:
        require(given or "")
        os.environ.update(prefect_environment(workspace, given))
        meanwhile()
        yield given
        return
    found = serving(workspace)
    if found and answers(found["url"] + "/api/health"):
        url = found["url"] + "/api"
        os.environ.update(prefect_environment(workspace, url))
        meanwhile()
        yield url
        return
    child = start_prefect(workspace, log)
    try:
        url = child.url + "/api"
        os.environ.update(prefect_environment(workspace, url))
        os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"     # never a second one of Prefect's own making
        meanwhile()
        child.wait("/api/health", "Prefect's server")
        yield url
    finally:
        child.stop()
