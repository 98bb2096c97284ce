"""`fewstep stack render`: every setting arrives somewhere, no secret does, and mistakes are said."""

import re

import pytest
import yaml

from fewstep.util.errors import SettingsError
from flows.stack.render import KINDS, TEMPLATE, rendered
from tasks.config.stack_settings import Stack
from tests.closure import ROOT
from tests.infra.rendering import IMAGE, settings

OTHERS = {"image": "registry.example.org/other", "namespace": "other", "bucket": "other-store", "region": "us-west-2",
          "database_host": "db.example.com", "pool": "other-pool", "workers": 7, "storage_gib": 777,
          "grace_seconds": 777, "worker.gpus": 7, "worker.cpus": 77, "worker.memory_gib": 777,
          "worker.disk_gib": 777}  # fmt: skip


def everything(**stack) -> str:
    return "".join(text for kind in KINDS for _, text in rendered(settings(**stack), kind, IMAGE))


def nested(name: str, value) -> dict:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "image"])
def test_every_setting_changes_a_file(name):
    assert everything(**nested(name, OTHERS[name])) != everything()


def test_the_settings_above_are_all():
    fields = {name for name in Stack.model_fields if name != "worker"}
    assert set(OTHERS) == fields | {f"worker.{name}" for name in Stack.model_fields["worker"].annotation.model_fields}


@pytest.mark.parametrize(("stack", "words"), [
    ({"bucket": "Bucket"}, "stack.bucket"), ({"namespace": 'x"\n- evil'}, "stack.namespace"),
    ({"image": "a:latest"}, "stack.image"), ({"grace_seconds": 10}, "stack.grace_seconds"),
    ({"worker": {"gpu": 1}}, "did you mean 'gpus'"), ({"image": "[[ x ]]"}, "stack.image"),
])  # fmt: skip
def test_values_that_would_break_a_file_are_refused(stack, words):
    with pytest.raises(SettingsError, match=re.escape(words)):
        settings(**stack)


def test_no_secret_of_the_environment_is_rendered_and_every_one_is_named(monkeypatch):
    named = yaml.safe_load((ROOT / "infra/profiles/server.yaml").read_text())["secret"]
    for name in (*named, "POSTGRES_PASSWORD"):
        monkeypatch.setenv(name, f"canary-{name}")
    text = everything()
    assert "canary" not in text
    for name in ("POSTGRES_PASSWORD", "PREFECT_API_AUTH_STRING", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert re.search(rf"{name}\b", text)
        assert not re.search(rf"^\s*{name}[:=] *[^$\s]", text, re.MULTILINE), f"a value of {name}"


def test_templates_are_all_rendered():
    there = {path.relative_to(ROOT / "infra").as_posix() for path in (ROOT / "infra").rglob(f"*{TEMPLATE}")}
    assert there and all(any(name.startswith(f"{folder}/") for folder in KINDS.values()) for name in there)
