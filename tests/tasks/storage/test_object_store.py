"""Object storage against a real server, with a proxy in between that breaks things."""

import http.client
import http.server
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from fewstep.util.errors import NotAvailable, SettingsError
from tasks.storage.object_store import Store


@pytest.fixture
def store(s3_prefix):
    return Store(f"{s3_prefix}/some/prefix")


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on; `faults` is a list of what to do to the next ones: 503, drop, cut, lose (the answer)."""

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
        if fault == "lose":
            self.close_connection = True
            self.connection.close()
            return
        self.send_response_only(answer.status)
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
def unreliable(s3_server, store):
    address = urlsplit(s3_server.url)
    handler = type("Handler", (Proxy,), {"faults": [], "target": (address.hostname, address.port)})
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


def test_of_many_who_replace_what_they_saw_one_wins(store):
    etag = store.write_if("x", b"first", None)
    assert store.write_if("x", b"second", None) is None and store.write_if("y", b"", etag) is None
    for turn in range(3):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, turn=turn, etag=etag: store.write_if("x", b"%d-%d" % (turn, n), etag),
                                range(8)))
        (etag,) = [answer for answer in won if answer is not None]
        found = store.look("x")
        assert found.etag == etag and found.data == b"%d-%d" % (turn, won.index(etag))


def test_the_store_tells_how_old_an_object_is(store):
    store.put_if_absent("x", b"x")
    first = store.look("x").age
    while store.look("x").age == first:     # the store's clock goes on, whatever this machine's says
        time.sleep(0.1)
    assert first >= 0 and store.look("absent") is None


def test_files_go_and_come_and_are_listed_and_deleted(store, tmp_path):
    data = bytes(range(256)) * 40_000       # more than one part
    (tmp_path / "file").write_bytes(data)
    for name in ("a/x", "a/y", "b/z"):
        store.upload(name, tmp_path / "file")
    store.download("a/x", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == data
    assert store.names("a/") == ["a/x", "a/y"] and store.names("c") == []
    store.delete(["a/x", "never/there"])
    assert store.names("") == ["a/y", "b/z"]
    with pytest.raises(NotAvailable, match="not there"):
        store.download("a/x", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("fault", ["503", "drop", "lose"])
def test_a_write_whose_answer_was_lost_is_ours(unreliable, fault):
    unreliable.faults[:] = [fault]
    etag = unreliable.write_if("x", b"1", None)
    unreliable.faults[:] = [fault]
    assert etag and unreliable.write_if("x", b"2", etag) == unreliable.look("x").etag
    unreliable.faults[:] = [fault]
    assert unreliable.write_if("x", b"3", etag) is None


@pytest.mark.parametrize("fault", ["503", "drop", "cut"])
def test_passing_faults_are_retried(unreliable, fault):
    unreliable.faults[:] = [fault]
    assert unreliable.put_if_absent("x", bytes(range(256)) * 400)
    unreliable.faults[:] = [fault, fault]
    assert unreliable.read("x") == unreliable.find("x") == bytes(range(256)) * 400


def test_a_store_that_stays_away_is_named_without_secrets(s3_prefix):
    away = Store("s3://bucket/x", endpoint="http://127.0.0.1:9", attempts=2)
    with pytest.raises(NotAvailable, match="after 2 attempts") as info:
        away.put_if_absent("x", b"x")
    assert "canary" not in str(info.value)
    with pytest.raises(SettingsError, match="without credentials"):
        Store("s3://key:canary@bucket/x")


def test_unfinished_uploads_are_given_up_once_nobody_adds_to_them(store):
    upload = {"Bucket": store.bucket, "Key": f"{store.prefix}/half"}
    upload["UploadId"] = store.client.create_multipart_upload(**upload)["UploadId"]
    store.client.upload_part(**upload, PartNumber=1, Body=b"x")
    assert store.abort_uploads(timedelta(hours=1)) == []
    assert store.abort_uploads(timedelta(0)) == [upload["Key"]]
    assert store.abort_uploads(timedelta(0)) == []
