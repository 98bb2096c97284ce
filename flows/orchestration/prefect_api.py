"""Where Prefect's API is: a server this process starts for itself, the one `fewstep serve` runs, or one given by URL.

Prefect can start a temporary server by itself (`prefect.server.api.server.SubprocessASGIServer`), but that outlives a
parent that is killed, prints into its terminal, guesses a port that another may take first, and blocks while it starts.
Here the same application runs in a child that the kernel kills with its parent, on a socket that the parent has bound,
its output in a file. Nothing here imports Prefect: it reads its environment when it is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tenacity import RetryError, Retrying, retry_if_result, stop_after_attempt, wait_exponential

from fewstep.util.errors import NotAvailable, SettingsError
from flows.orchestration.child_server import ChildServer, answers, start_server
from flows.orchestration.own_server_environment import TOKEN_HEADER, leave_out_other_servers, reach_loopback
from tasks.storage.locks import said_by_holder
from tasks.storage.workspace import Workspace, sqlite_address
from tasks.tracking import process_env
from tasks.tracking.redaction import redact

HEARTBEAT = 30              # seconds; Prefect's least
ATTEMPTS = 5                # for a server given by URL, with growing pauses: about 8 seconds


def prefect_environment(workspace: Workspace, api_url: str | None = None, token: str | None = None) -> dict[str, str]:
    """What Prefect reads from the environment when it is imported: its home in the checkout, no telemetry, JSON.

    `token` is that of a server of ours: Prefect's clients send it, and whatever is written down is redacted of it.
    """
    values = {
        **process_env.TELEMETRY_OFF,
        "PREFECT_HOME": str(workspace.prefect_home),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT),
        "PREFECT_CLIENT_MAX_RETRIES": "4",      # after 2, 4, 8, 16 s: a run survives a server that restarts,
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",      # and one whose database does
    }
    if "?" in str(workspace.prefect_home):  # where Prefect's own address of its database would be cut
        values["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = sqlite_address(workspace.prefect_home / "prefect.db",
                                                                          "aiosqlite")
    if token:
        values["FEWSTEP_SERVER_TOKEN"] = token
        values["PREFECT_CLIENT_CUSTOM_HEADERS"] = json.dumps({TOKEN_HEADER: token})
    return values | ({"PREFECT_API_URL": api_url} if api_url else {})


def adopt(values: dict[str, str]) -> None:
    """Puts `values` into the environment of this process; a Prefect that was imported before reads them again."""
    os.environ.update(values)
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context  # not where Prefect is not loaded

        refresh_global_settings_context()


def start_prefect(workspace: Workspace, log: Path, *, pages: bool = False, host: str = "127.0.0.1", port: int = 0,
                  addition: dict[str, str] | None = None) -> ChildServer:
    """Starts Prefect's server on this checkout's database, behind the page guard, and returns at once.

    Args:
        workspace: the checkout.
        log: file for the server's output.
        pages: whether to serve the web pages and run a permanent server's services (scheduler, zombie detection).
        host: address to listen on.
        port: 0 takes a free one.
        addition: more variables for its environment.

    Raises:
        FewstepError: `port` is taken.
    """
    workspace.prefect_home.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    leave_out_other_servers(environment, keep_login=pages)
    environment |= prefect_environment(workspace)
    environment.pop("PREFECT_API_URL", None)
    if pages:
        environment["PREFECT_UI_API_URL"] = "/api"      # by whatever name and port its pages are reached
    else:
        environment |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    return start_server("prefect", environment | (addition or {}), log, host=host, port=port)


def require_address(api_url: str) -> None:
    """Raises SettingsError for what Prefect's client could not ask at all."""
    parts = urlsplit(api_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"PREFECT_API_URL: {redact(api_url)!r} is no address of a server",
                            hint="write it with its scheme and /api, as http://127.0.0.1:4200/api")


def require(api_url: str) -> None:
    """Returns when the Prefect API answers.

    Raises:
        SettingsError: `api_url` is no address of a server.
        NotAvailable: it does not answer, after some attempts with growing pauses.
    """
    require_address(api_url)
    attempts = int(os.environ.get("FEWSTEP_PREFECT_ATTEMPTS", ATTEMPTS))
    retrying = Retrying(retry=retry_if_result(lambda answered: not answered), stop=stop_after_attempt(attempts),
                        wait=wait_exponential(max=4))
    try:
        retrying(answers, api_url.rstrip("/") + "/health")
    except RetryError:
        hint = "finished work is kept; start the server or mend PREFECT_API_URL, then try again"
        raise NotAvailable(f"the Prefect server at {redact(api_url)} did not answer after {attempts} attempts",
                           hint=hint) from None


# the server of `fewstep serve`

def serving_path(workspace: Workspace) -> Path:
    """The file that `fewstep serve` holds locked and writes its address into."""
    return workspace.shared / "serve.json"


@dataclass(frozen=True)
class Serving:
    """A `fewstep serve` that runs: the address of the pages, their token if the server is its own, its process, when it
    started (UTC)."""

    url: str
    token: str | None
    pid: int
    started: str

    def is_at(self, api_url: str) -> bool:
        """Whether `api_url` is the address of its API."""
        return api_url.rstrip("/") == f"{self.url}/api"


def serving(workspace: Workspace) -> Serving | None:
    """The `fewstep serve` of this repository, if one is ready. Asks the kernel who holds the file.

    Another user's is none: its token is in a file that is not for us.
    """
    try:
        facts = said_by_holder(serving_path(workspace))
    except PermissionError:
        return None
    return Serving(**facts) if facts else None


@contextlib.contextmanager
def prefect_api(workspace: Workspace, profile: str, log: Path,
                meanwhile: Callable[[], None] = lambda: None) -> Iterator[str]:
    """The URL of a Prefect API that answers, in the environment of this process from here on (import Prefect inside).

    PREFECT_API_URL where it is set (the profile `server` insists on it), else the server of `fewstep serve`, else a
    server that ends with this block.

    Args:
        workspace: the checkout.
        profile: of its settings.
        log: file for the output of a server started here.
        meanwhile: called with that environment in place, while a server started here takes its seconds to start.

    Raises:
        NotAvailable: a given server does not answer.
    """
    given, serve = os.environ.get("PREFECT_API_URL"), serving(workspace)
    reach_loopback(os.environ)
    with contextlib.ExitStack() as started:
        child, token = None, serve.token if serve and given and serve.is_at(given) else None
        if profile == "server" or given:
            url = given or ""
            require(url)
        elif serve and answers(serve.url + "/api/health"):
            url, token = serve.url + "/api", serve.token
        else:
            child = start_prefect(workspace, log)
            started.callback(child.stop)
            url, token = child.url + "/api", child.token
            leave_out_other_servers(os.environ)
            os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"     # never a second one of Prefect's making
        adopt(prefect_environment(workspace, url, token))
        meanwhile()
        if child is not None:
            child.wait("/api/health", "Prefect's server")
        yield url
