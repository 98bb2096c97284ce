"""Secrets: in addresses, in the environment, in settings by their names, in what Python itself writes down."""

import base64
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

import infra
from fewstep.util.errors import NotAvailable
from tasks.tracking import redaction
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks, without_secrets
from tasks.tracking.redaction import HIDDEN, flatten, is_secret_name, redact

CANARY = "c@nary/6f1e?0b"
ROOT = Path(__file__).parents[3]


def test_credentials_in_addresses_and_values_of_secret_variables(monkeypatch):
    monkeypatch.setenv("SERVICE_API_KEY", "sesame-sesame")
    monkeypatch.setenv("SHORT_TOKEN", "abc")  # would blank out ordinary words
    text = redact("https://me:word@host/x with sesame-sesame, not abc")
    assert text == f"https://{HIDDEN}@host/x with {HIDDEN}, not abc"
    assert is_secret_name("AWS_SECRET_ACCESS_KEY") and not is_secret_name("recipe")


@pytest.mark.parametrize(("text", "shown"), [
    ("postgresql://u:p@ss@h/db", "postgresql://***@h/db"),
    ("postgresql+psycopg2://u:a/b?c#d@h:5432/db", "postgresql+psycopg2://***@h:5432/db"),
    ("http://token@h/x", "http://***@h/x"),
    ("http://:word@[::1]:5000/x", "http://***@[::1]:5000/x"),
    ("'s3://key:word@b', 's3://b/c@d'", "'s3://***@b', 's3://b/c@d'"),
    ("http://a:b1@c,http://d:e2@f", "http://***@c,http://***@f"),
    ("postgresql://h/db?user=u&password=word&sslmode=on", "postgresql://h/db?user=u&password=***&sslmode=on"),
    ("host=h password=word dbname=d", "host=h password=*** dbname=d"),
    ("http://b/k?X-Amz-Signature=4af&x=1", "http://b/k?X-Amz-Signature=***&x=1"),
    *[(same, same) for same in (
        "http://127.0.0.1:5000/a@b", "http://h:5000, said a@b", "sqlite:////home/me@corp/mlflow.db", "digits@champion",
        "file:///home/me@corp/x", "http://[::1]:5000/a:b@c", "max_tokens=128", "see http://h:80/x and b@c")],
])
def test_logins_in_every_form_of_an_address_are_hidden_and_nothing_else(text, shown):
    assert redact(text) == shown


def variables(section):
    """Variables that the profiles name under `section`."""
    found = [yaml.safe_load(path.read_text()) for path in (Path(infra.__file__).parent / "profiles").glob("*.yaml")]
    return sorted({name for profile in found for name in profile.get(section) or {}})


@pytest.mark.parametrize("name", variables("secret"))
def test_every_secret_that_a_profile_names_is_hidden_in_every_form(name, monkeypatch):
    values = {"FEWSTEP_WEBHOOK": f"https://hooks.example/services/{CANARY}",
              "PREFECT_API_AUTH_STRING": f"admin:{CANARY}",
              "PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({"X-Key": CANARY})}  # fmt: skip
    value = values.get(name, CANARY)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv(name, value)
    said = [value, f"/services/{CANARY}" if "WEBHOOK" in name and name in values else CANARY, json.dumps(value),
            "admin:" + CANARY if value == f"admin:{CANARY}" else value]
    if value.startswith("admin") or name == "MLFLOW_TRACKING_PASSWORD":
        said.append(base64.b64encode(f"admin:{CANARY}".encode()).decode())
    for text in said:
        assert HIDDEN in redact(f"before {text} after") and "6f1e" not in redact(text) and text not in redact(text)
    assert is_secret_name(name)


@pytest.mark.parametrize("name", [*variables("environment"), *variables("optional")])
def test_a_login_in_an_address_that_a_profile_names_is_hidden_wherever_it_stands(name, monkeypatch):
    monkeypatch.setenv(name, "postgresql://me:c%40nary-6f1e@host/db")
    for text in ("c%40nary-6f1e", "c@nary-6f1e", base64.b64encode(b"me:c@nary-6f1e").decode()):
        assert redact(f"before {text} after") == f"before {HIDDEN} after"
    assert not is_secret_name(name)


def test_what_is_taken_out_of_the_environment_stays_hidden(monkeypatch):
    monkeypatch.setattr(redaction, "_remembered", set())
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:hunter2-canary")
    redaction.remember_environment()
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")
    assert redact("admin:hunter2-canary and hunter2-canary") == f"{HIDDEN} and {HIDDEN}"


def test_settings_become_flat_names_without_secrets():
    settings = {"a": {"b": 1, "password": "hidden"}, "c": {}, "d": None}
    assert flatten(settings) == {"a.b": "1", "a.password": HIDDEN, "c": "{}", "d": "None"}


RAISES = """
import logging, sys, threading
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks
redact_logs_and_tracebacks()
logging.basicConfig(format="%(message)s")

def fail():
    try:
        raise OSError(5, "canary-6f1e", "http://u:canary-6f1e@h/x")
    except OSError as error:
        raise RuntimeError("while canary-6f1e") from error

try:
    fail()
except RuntimeError:
    logging.getLogger("x").exception("with %s and %d", "canary-6f1e", 3)
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def test_what_python_writes_of_an_error_has_no_secret():
    done = subprocess.run([sys.executable, "-c", RAISES], capture_output=True, text=True, cwd=ROOT,
                          env={"A_SECRET": "canary-6f1e", "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 1 and f"with {HIDDEN} and 3" in done.stderr and "canary" not in done.stderr
    assert done.stderr.count(f"RuntimeError: while {HIDDEN}") == done.stderr.count("in fail") / 2 == 3


def test_records_and_their_levels_stay_as_they_are(caplog):
    before = logging.getLogRecordFactory()
    try:
        redact_logs_and_tracebacks()
        redact_logs_and_tracebacks()
        logging.getLogger("y").warning("%d of %d", 1, 2)
        assert caplog.records[-1].args == (1, 2) and caplog.records[-1].getMessage() == "1 of 2"
    finally:
        logging.setLogRecordFactory(before)
        sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__


def test_an_exception_that_leaves_has_no_secret_in_its_text_and_keeps_its_kind(monkeypatch):
    monkeypatch.setenv("A_SECRET", "canary-6f1e")

    @without_secrets()
    def fail(error):
        raise error

    plain = ConnectionError("as it is")
    with pytest.raises(ConnectionError) as same:
        fail(plain)
    assert same.value is plain
    with pytest.raises(NotAvailable, match=r"^with \*\*\*$") as ours:
        fail(NotAvailable("with canary-6f1e", hint="wait"))
    assert ours.value.hint == "wait"
    with pytest.raises(RuntimeError, match=r"^ConnectionError: with \*\*\*$") as other:
        fail(ConnectionError("with canary-6f1e"))
    assert isinstance(other.value.__cause__, ConnectionError)
