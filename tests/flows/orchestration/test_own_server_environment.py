"""What a user set for other servers, or for the way out of a network, does not reach the servers of a run."""

import http.server
import os
import threading
import urllib.request

import httpx
import pytest

from fewstep.util.errors import SettingsError
from flows.orchestration.child_server import answers
from flows.orchestration.own_server_environment import leave_out_other_servers, reach_loopback
from flows.orchestration.prefect_api import require, start_prefect
from tasks.storage.workspace import Workspace

HOSTILE = {
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "PREFECT_SERVER_API_AUTH_STRING": "admin:pw",
    "PREFECT_SERVER_API_BASE_PATH": "/elsewhere/api",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://db.example/prefect",
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://db.example/prefect",
    "PREFECT_API_AUTH_STRING": "other:login",
    "PREFECT_API_KEY": "a-key-for-a-cloud",
}


@pytest.mark.parametrize("given,expected", [
    ({}, "127.0.0.1,localhost"),
    ({"NO_PROXY": ".corp.example"}, ".corp.example,127.0.0.1,localhost"),
    ({"no_proxy": "localhost, .corp.example", "NO_PROXY": "other"}, "localhost,.corp.example,127.0.0.1"),
    ({"no_proxy": "*"}, "*"),
])  # fmt: skip
def test_this_machine_is_reached_without_a_proxy_and_other_exceptions_stay(given, expected):
    environment = dict(given, LANG="C")
    for _ in range(2):
        reach_loopback(environment)
        assert environment == {"LANG": "C", "no_proxy": expected, "NO_PROXY": expected}


def test_what_another_prefect_server_needs_is_left_out():
    environment = dict(HOSTILE, PREFECT_HOME="there", PREFECT_LOGGING_LEVEL="DEBUG")
    shared = dict(environment)
    leave_out_other_servers(environment)
    assert {name for name in environment if name.startswith("PREFECT")} == {"PREFECT_HOME", "PREFECT_LOGGING_LEVEL"}
    leave_out_other_servers(shared, keep_login=True)
    assert shared["PREFECT_SERVER_API_AUTH_STRING"] == "admin:pw" and shared["PREFECT_API_KEY"]
    assert "PREFECT_SERVER_API_BASE_PATH" not in shared and "PREFECT_API_DATABASE_CONNECTION_URL" not in shared


def test_a_server_of_a_run_starts_in_a_hostile_environment(tmp_path, monkeypatch):
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(urllib.request, "_opener", None)    # as in a new process: it reads the proxies once
    child = start_prefect(Workspace(tmp_path), tmp_path / "server.log")
    try:
        assert not answers(child.url + "/api/health")   # by the proxy, at which nothing answers
        reach_loopback(os.environ)
        leave_out_other_servers(os.environ)
        child.wait("/api/health", "Prefect's server")
        assert (tmp_path / ".fewstep" / "prefect" / "prefect.db").is_file()
    finally:
        child.stop()


def test_a_socks_proxy_keeps_no_client_from_a_server_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    reach_loopback(os.environ)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    with httpx.Client() as client:      # as Prefect makes its own
        assert client.get(f"http://127.0.0.1:{server.server_port}/").status_code == 200
    thread.join()
    server.server_close()


@pytest.mark.parametrize("address", ["127.0.0.1:4200", "prefect.example/api", "", "ftp://prefect/api", "http://"])
def test_what_is_no_address_is_refused_before_anybody_is_asked(address):
    with pytest.raises(SettingsError, match="PREFECT_API_URL.*no address"):
        require(address)
