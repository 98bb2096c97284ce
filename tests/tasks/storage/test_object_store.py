"""Object storage against moto's server, with a proxy in between that breaks things."""

import http.client
import http.server
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from fewstep.util.errors import NotAvailable, SettingsError
from tasks.storage.object_store import Store


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield host, port
    server.stop()


@pytest.fixture
def credentials(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "canary-of-the-store")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def store(server, credentials, request):
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-60:].strip("-")
    found = Store(f"s3://{name}/some/prefix", endpoint=f"http://{server[0]}:{server[1]}")
    found.client.create_bucket(Bucket=name)
    return found


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on; `faults` is a list of what to do to the next ones: 503, drop, cut."""

    protocol_version = "HTTP/1.1"
    faults: list[str] = []
    target: tuple[str, int]

    def handle_any(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        fault = self.faults.pop(0) if self.faults else None
        if fault == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
            return
        connection = http.client.HTTPConnection(*self.target)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "x-amz-checksum-crc32"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.headers.get("Content-Length") or str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        if fault == "cut":
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def log_message(self, *_):
        pass


@pytest.fixture
def unreliable(server, store):
    handler = type("Handler", (Proxy,), {"faults": [], "target": server})
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    found = Store(f"s3://{store.bucket}/{store.prefix}", endpoint=f"http://127.0.0.1:{proxy.server_port}", attempts=4)
    found.faults = handler.faults
    yield found
    proxy.shutdown()


def test_of_many_conditional_writes_one_wins(store):
    for turn in range(5):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, turn=turn: store.put_if_absent(f"key-{turn}", b"%d" % n), range(8)))
        assert sum(won) == 1 and store.read(f"key-{turn}") == b"%d" % won.index(True)


def test_what_is_not_there(store):
    with pytest.raises(NotAvailable, match="not there"):
        store.read("x")
    assert store.find("x") is None


@pytest.mark.parametrize("fault", ["503", "drop", "cut"])
def test_passing_faults_are_retried(unreliable, fault):
    unreliable.faults[:] = [fault]
    assert unreliable.put_if_absent("x", bytes(range(256)) * 400)
    unreliable.faults[:] = [fault, fault]
    assert unreliable.read("x") == unreliable.find("x") == bytes(range(256)) * 400


def test_a_store_that_stays_away_is_named_without_secrets(credentials):
    away = Store("s3://bucket/x", endpoint="http://127.0.0.1:9", attempts=2)
    with pytest.raises(NotAvailable, match="after 2 attempts") as info:
        away.put_if_absent("x", b"x")
    assert "canary" not in str(info.value)
    with pytest.raises(SettingsError, match="without credentials"):
        Store("s3://key:canary@bucket/x")


def test_unfinished_uploads_are_given_up(store):
    store.client.create_multipart_upload(Bucket=store.bucket, Key="some/prefix/half")
    assert store.abort_uploads(timedelta(days=36500)) == []  # moto dates every upload 2010
    assert store.abort_uploads(timedelta(hours=1)) == ["some/prefix/half"]
    assert store.abort_uploads(timedelta(hours=1)) == []
