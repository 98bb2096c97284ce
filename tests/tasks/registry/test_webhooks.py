"""The webhook: every entry of an audit log arrives, in order, at least once."""

import http.server
import json
import threading
import warnings

import pytest

from fewstep.util.errors import SettingsError
from tasks.registry import aliases, webhooks
from tasks.registry.aliases import Decision, move
from tasks.registry.gate import pending_approvals
from tasks.registry.model_registry import Registry
from tests.registry_world import MODEL, with_three_versions


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setattr(Registry, "pipeline", lambda self, version: None)  # the bytes verify
    registry = with_three_versions(tmp_path)
    move(registry, registry.get(MODEL, 1), None, who="ann")
    return registry


def propose(registry) -> str:
    decision = Decision(MODEL, 2, "champion", "gated", True, (), 1)
    return pending_approvals.store(registry, decision, 72.0, why="sharper", who="bob").pending


class Receiver:
    """A webhook of one's own: keeps what it is sent, and answers with `status`."""

    def __init__(self):
        self.events, self.status, receiver = [], 200, self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.status == 200:
                    receiver.events.append((json.loads(body), dict(self.headers)))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/hook"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_a_webhook_hears_every_event_once_in_order_and_after_an_outage(registry, receiver, monkeypatch):
    assert webhooks.deliver(registry, MODEL) == 0  # nobody listens yet: what happened so far is not sent later
    monkeypatch.setenv(webhooks.ADDRESS, receiver.address)
    monkeypatch.setenv(webhooks.KEY, "a shared secret")
    identity = propose(registry)
    pending_approvals.approve(registry, identity)
    assert webhooks.deliver(registry, MODEL) == 2 and webhooks.deliver(registry, MODEL) == 0
    receiver.status = 503
    aliases.rollback(registry, MODEL, why="blurred sevens")
    aliases.refuse(registry, Decision(MODEL, 3, "champion", "gated", False, ("worse",), 1, {}, "inferior"))
    with pytest.warns(UserWarning, match="503.*sent again by the next command"):
        assert webhooks.deliver(registry, MODEL) == 0
    receiver.status = 200
    assert webhooks.deliver(registry, MODEL) == 2
    events, headers = zip(*receiver.events, strict=True)
    assert [event["event"] for event in events] == ["pending", "promoted", "rolled back", "refused"]
    assert {event["model"] for event in events} == {MODEL} and events[2]["why"] == "blurred sevens"
    assert len({(event["id"], event["event"]) for event in events}) == 4
    assert headers[0]["X-Fewstep-Event"] == "pending" and headers[0]["X-Fewstep-Signature"].startswith("sha256=")


def test_a_webhook_that_is_not_there_costs_nothing_but_a_warning(registry, monkeypatch):
    webhooks.deliver(registry, MODEL)
    monkeypatch.setenv(webhooks.ADDRESS, "http://user:hidden@127.0.0.1:9/hook")
    propose(registry)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert webhooks.deliver(registry, MODEL) == 0
    assert len(caught) == 1 and "hidden" not in str(caught[0].message)
    monkeypatch.setenv(webhooks.ADDRESS, "file:///etc/passwd")
    with pytest.raises(SettingsError, match="http or https"):
        webhooks.deliver(registry, MODEL)
