"""Secrets: in addresses, in the environment, in settings by their names."""

from tasks.tracking.redaction import HIDDEN, flatten, is_secret_name, redact


def test_credentials_in_addresses_and_values_of_secret_variables(monkeypatch):
    monkeypatch.setenv("SERVICE_API_KEY", "sesame-sesame")
    monkeypatch.setenv("SHORT_TOKEN", "abc")  # would blank out ordinary words
    text = redact("https://me:word@host/x with sesame-sesame, not abc")
    assert text == f"https://{HIDDEN}@host/x with {HIDDEN}, not abc"
    assert is_secret_name("AWS_SECRET_ACCESS_KEY") and not is_secret_name("recipe")


def test_settings_become_flat_names_without_secrets():
    settings = {"a": {"b": 1, "password": "hidden"}, "c": {}, "d": None}
    assert flatten(settings) == {"a.b": "1", "a.password": HIDDEN, "c": "{}", "d": "None"}
