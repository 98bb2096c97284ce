"""The servers that we start obey no page of another site, nor who does not know the session's token."""

import base64
import json
import socket
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flows.orchestration.child_server import with_token
from flows.orchestration.own_server_environment import TOKEN_HEADER
from flows.orchestration.page_guard import own_names
from flows.orchestration.prefect_api import start_prefect
from flows.orchestration.served_root import SERVED_ROOT, served_workspace
from flows.runs.web_pages import start_mlflow
from tasks.storage.workspace import Workspace
from tests.own_server import ask, request
from tests.registry_world import with_database

EVIL = "evil.example"
READ = {"prefect": "/api/admin/version", "pages": "/api/admin/version", "mlflow": "/version"}
CHANGE = {"prefect": ("/api/flows/", {"name": "theirs"}), "pages": ("/api/flows/", {"name": "theirs"}),
          "mlflow": ("/api/2.0/mlflow/experiments/create", {"name": "theirs"})}  # fmt: skip
LIST = {"prefect": ("/api/flows/filter", {}), "pages": ("/api/flows/filter", {}),
        "mlflow": ("/api/2.0/mlflow/experiments/search", {"max_results": 9})}  # fmt: skip


@pytest.fixture(scope="module", params=["prefect", "pages", "mlflow"])
def server(request, tmp_path_factory):
    """Prefect's server as a run, and as `serve` and `ui` start it; MLflow's of `ui`. Its kind and the child."""
    folder = tmp_path_factory.mktemp(request.param)
    workspace, log = Workspace(folder), folder / "server.log"
    if request.param == "mlflow":
        with_database(folder / ".fewstep")
        child = start_mlflow(workspace, log)
    else:
        child = start_prefect(workspace, log, pages=request.param == "pages")
    try:
        child.wait("/health" if request.param == "mlflow" else "/api/health", "the server")
        yield request.param, child
        assert child.token not in log.read_text()
    finally:
        child.stop()


@pytest.mark.parametrize("headers", [
    {"Host": EVIL}, {"Host": f"{EVIL}:80"}, {"Host": "[evil.example]"}, {"Host": ""}, {"Origin": f"http://{EVIL}"},
    {"Origin": "null"}, {"Origin": "http://127.0.0.1"}, {"Host": EVIL, "Origin": f"http://{EVIL}"},
    {"Origin": f"http://127.0.0.1.{EVIL}"},
])  # fmt: skip
def test_a_page_of_another_site_may_ask_and_change_nothing_even_with_the_token(server, headers):
    kind, child = server
    for extra in ({}, {TOKEN_HEADER: child.token}):
        path, body = CHANGE[kind]
        for status, answered, text in (request(child.url + READ[kind], **headers, **extra),
                                       request(child.url + path, body, **headers, **extra),
                                       request(child.url + path, None, "OPTIONS", **headers, **extra),
                                       request(child.url + "/", **headers, **extra)):  # fmt: skip
            assert status == 403 and "access-control-allow-origin" not in answered and len(text) < 100
    path, body = LIST[kind]
    known = request(child.url + path, body, **{TOKEN_HEADER: child.token})[2].decode() if kind == "mlflow" else \
        json.dumps(ask(child.url + path, child.token, body))
    assert known.startswith(("[200", "{")) and "theirs" not in known


def test_who_does_not_know_the_token_is_told_where_it_stands(server):
    kind, child = server
    basic = base64.b64encode(b"fewstep:wrong").decode()
    for headers in ({}, {TOKEN_HEADER: "wrong"}, {"Authorization": f"Basic {basic}"}, {"Authorization": "Basic ?"},
                    {"Authorization": "Bearer wrong"}, {"Cookie": "fewstep=x"}):  # fmt: skip
        for address in (child.url, child.url + READ[kind], child.url + READ[kind] + "?token=wrong"):
            status, _, text = request(address, **headers)
            assert status == 401 and b"token" in text and child.token.encode() not in text


def test_who_knows_the_token_is_answered_by_header_password_and_printed_address(server):
    kind, child = server
    basic = base64.b64encode(f"anybody:{child.token}".encode()).decode()
    for headers in ({TOKEN_HEADER: child.token}, {"Authorization": f"Basic {basic}"},
                    {"Authorization": f"Bearer {child.token}"}):  # fmt: skip
        assert request(child.url + READ[kind], **headers)[0] == 200
    status, answered, _ = request(with_token(child.url + "#/models", child.token).partition("#")[0])
    cookie = answered["set-cookie"]
    assert status == 303 and answered["location"] == "/" and "HttpOnly" in cookie and "samesite=lax" in cookie.lower()
    assert str(urlsplit(child.url).port) in cookie.partition("=")[0]
    own = {"Cookie": cookie.partition(";")[0], "Origin": child.url, "Host": urlsplit(child.url).netloc}
    assert request(child.url + READ[kind], **own)[0] == 200
    port = urlsplit(child.url).port
    tunnel = {"Host": "localhost:8000", "Origin": "http://localhost:8000"}     # as through a tunnel
    assert request(f"http://127.0.0.1:{port}{READ[kind]}", **{**own, **tunnel})[0] == 200


def test_a_change_needs_leave_that_no_other_site_can_get(server):
    kind, child = server
    if kind == "mlflow":
        pytest.skip("MLflow has no such tokens: its cookie is the guard's, which no other site sends")
    assert request(child.url + "/api/flows/", {"name": "mine"}, **{TOKEN_HEADER: child.token})[0] == 403
    assert ask(child.url + "/api/flows/", child.token, {"name": "mine"})[0] == 201


def test_a_websocket_is_opened_for_whom_the_pages_are(server):
    kind, child = server
    if kind == "mlflow":
        pytest.skip("MLflow has no websockets")
    address = child.url.replace("http", "ws") + "/api/events/in"
    for headers, origin in (({}, None), ({TOKEN_HEADER: "wrong"}, None), ({TOKEN_HEADER: child.token}, "http://evil.x")):
        with pytest.raises(InvalidStatus, match="403"), connect(address, additional_headers=headers, origin=origin):
            pass
    with connect(address, additional_headers={TOKEN_HEADER: child.token}):
        pass


def test_names_of_this_machine():
    assert own_names("127.0.0.1") == {"localhost", "127.0.0.1"}
    assert own_names("0.0.0.0") >= {"localhost", socket.gethostname().lower()} and "0.0.0.0" not in own_names("0.0.0.0")


def test_flows_work_in_the_checkout_that_is_served_whatever_they_are_asked(tmp_path, monkeypatch):
    served, other = tmp_path / "served", tmp_path / "other"
    for folder in (served, other):
        folder.mkdir()
        (folder / "params.yaml").write_text("name: toy\n")
        (folder / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setenv(SERVED_ROOT, str(served))
    monkeypatch.chdir(other)
    assert served_workspace().root == served
    monkeypatch.delenv(SERVED_ROOT)     # a worker of a work pool
    assert served_workspace().root == other
