"""Keeping secrets out of what is written: log lines, manifests, MLflow tags and error messages.

Secrets come from the environment. Two nets catch them on their way out: the user:password part of any address, and
the literal value of every environment variable whose name says that it holds a secret.
"""

import os
import re

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@'\"]+@")
_SECRET_NAME = re.compile(r"(SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|API_KEY|ACCESS_KEY|PRIVATE_KEY)", re.IGNORECASE)
_SHORTEST = 6  # shorter values would blank out ordinary words
HIDDEN = "***"


def is_secret_name(name: str) -> bool:
    """True where a setting or variable of this name should never be shown."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """`text` without credentials in addresses and without the values of secret environment variables."""
    text = _ADDRESS.sub(rf"\g<scheme>{HIDDEN}@", text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and is_secret_name(name) and value in text:
            text = text.replace(value, HIDDEN)
    return text


def flatten(settings: dict, prefix: str = "") -> dict[str, str]:
    """Nested settings as `{"a.b": "text"}`, redacted: what MLflow stores as parameters."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat.update(flatten(value, name + "."))
        else:
            flat[name] = HIDDEN if is_secret_name(str(key)) and value else redact(str(value))
    return flat
