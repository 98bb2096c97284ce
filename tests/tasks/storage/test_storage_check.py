"""The store is tried before work: what it refuses is said by its kind, and nothing is left behind."""

import http.server
import threading

import pytest

from fewstep.util.errors import NotAvailable, SettingsError
from tasks.storage.object_store import Store
from tasks.storage.storage_check import try_storage, try_store
from tasks.storage.workspace import Workspace


def using(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_a_store_that_takes_all_keeps_nothing_of_it(s3_server, s3_prefix, monkeypatch):
    for environment in (s3_server.environment, s3_server.worker):
        using(monkeypatch, environment)
        try_store(Store(s3_prefix))
    assert s3_server.names(s3_prefix.removeprefix("s3://fewstep/")) == []


@pytest.mark.parametrize(("change", "words"), [
    ({"AWS_SECRET_ACCESS_KEY": "canary-wrong"}, "its secret is wrong.*SignatureDoesNotMatch"),
    ({"AWS_ACCESS_KEY_ID": "canary-nobody"}, "does not know this key.*InvalidAccessKeyId"),
])
def test_a_wrong_key_is_said(s3_prefix, monkeypatch, change, words):
    using(monkeypatch, change)
    with pytest.raises(SettingsError, match=words) as refused:
        try_store(Store(s3_prefix))
    assert refused.value.exit_code == 2 and "AWS_SECRET_ACCESS_KEY" in refused.value.hint
    assert "canary" not in str(refused.value)


def test_no_key_at_all_is_said(s3_prefix, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    using(monkeypatch, {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"})
    with pytest.raises(SettingsError, match="does not know this key.*NoCredentialsError"):
        try_store(Store(s3_prefix))


def test_a_key_that_may_only_read_is_said(s3_server, s3_prefix, monkeypatch):
    using(monkeypatch, s3_server.reader)
    with pytest.raises(SettingsError, match="this key may not write objects there .AccessDenied"):
        try_store(Store(s3_prefix))


def test_a_bucket_that_is_not_there_is_said(s3_server, s3_prefix, monkeypatch):
    for environment in (s3_server.environment, s3_server.worker):
        using(monkeypatch, environment)
        with pytest.raises(SettingsError, match="there is no bucket 'absent'") as refused:
            try_store(Store("s3://absent/x"))
        assert "dvc remote list" in refused.value.hint
    assert "absent" not in [bucket["Name"] for bucket in s3_server.client.list_buckets()["Buckets"]]


def test_a_store_that_does_not_answer_is_no_fault_of_the_settings(s3_prefix):
    with pytest.raises(NotAvailable, match="after 1 attempts"):
        try_store(Store(s3_prefix, "http://127.0.0.1:9", attempts=1))


class Careless(http.server.BaseHTTPRequestHandler):
    """Keeps one object and looks at no condition."""

    kept = b""

    def do_PUT(self):
        type(self).kept = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"", ETag='"x"')

    def do_GET(self):
        self.answer(self.kept, **{"ETag": '"x"', "Last-Modified": self.date_time_string()})

    def do_DELETE(self):
        self.answer(b"")

    def answer(self, body, **headers):
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_store_that_looks_at_no_condition_is_refused(s3_prefix):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(SettingsError, match="does not keep to conditional writes"):
            try_store(Store(s3_prefix, f"http://127.0.0.1:{server.server_port}"))
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("url", [None, "/some/folder"])
def test_a_remote_that_is_a_folder_or_none_is_not_asked(tmp_path, url):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("" if url is None else
                                              f"[core]\n    remote = far\n['remote \"far\"']\n    url = {url}\n")
    assert try_storage(Workspace(tmp_path)) is None
