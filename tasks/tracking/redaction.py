"""Keeping secrets out of what is written: log lines, tracebacks, manifests, MLflow tags, messages.

Secrets come from the environment: in variables whose name says so, in those that a profile of infra/profiles lists
under `secret`, and as the password in an address. Each is looked for in every form in which libraries show it: as it
is, percent-encoded, escaped as JSON, as the password of a `user:password`, in Base64 as a header has it. The login in
any other address is hidden by its form.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import yaml

import infra

_SECRET_NAME = re.compile(r"(SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|API_KEY|ACCESS_KEY|PRIVATE_KEY|AUTH_STRING)",
                          re.IGNORECASE)  # fmt: skip
_LOGIN = re.compile(r"""(?P<scheme>[a-z][a-z0-9+.-]*://)
    (?: (?P<long>[^/?\#\s'"@:\[]*:(?!\d{1,5}(?:\D|$))(?:(?!://)[^\s'"])*)   # a password may hold @ / ? #, no port does
      | (?P<short>[^/?\#\s'"]*) )@""", re.IGNORECASE | re.VERBOSE)  # fmt: skip
_PARAMETER = re.compile(r"""(?P<name>(?:^|[?&;\s])(?:password|passwd|secret|token|access_token|api_?key|sig
    |x-amz-(?:signature|credential|security-token))=)[^&\s'"]+""", re.IGNORECASE | re.VERBOSE)  # fmt: skip
_SHORTEST = 6  # shorter values would blank out ordinary words
HIDDEN = "***"
_remembered: set[tuple[str, str]] = set()


def is_secret_name(name: str) -> bool:
    """True where a setting or variable of this name should never be shown."""
    return _SECRET_NAME.search(name) is not None or name in _named_by_profiles()


def redact(text: str) -> str:
    """`text` without logins in addresses and without the secrets of the environment."""
    for secret in _secrets(tuple(sorted(_remembered.union(os.environ.items())))):
        text = text.replace(secret, HIDDEN)
    text = _LOGIN.sub(rf"\g<scheme>{HIDDEN}@", text)
    return _PARAMETER.sub(rf"\g<name>{HIDDEN}", text)


def remember_environment() -> None:
    """What the environment holds now stays hidden when it is taken out of it, as another server's login is."""
    _remembered.update(os.environ.items())


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


@functools.cache
def _named_by_profiles() -> frozenset[str]:
    """Variables that the profiles list under `secret`. A malformed profile is refused where it is used."""
    names: set[str] = set()
    for path in (Path(infra.__file__).parent / "profiles").glob("*.yaml"):
        try:
            profile = yaml.safe_load(path.read_bytes())
        except yaml.YAMLError:
            continue
        names.update(profile.get("secret") or {} if isinstance(profile, dict) else {})
    return frozenset(names)


@functools.lru_cache(maxsize=2)
def _secrets(environment: tuple[tuple[str, str], ...]) -> list[str]:
    """What must not be shown of these variables, the longest first: one secret may be a part of another."""
    values = dict(environment)
    found = {form for name, value in environment for secret in _held(name, value, values) for form in _forms(secret)}
    return sorted((form for form in found if len(form) >= _SHORTEST), key=len, reverse=True)


def _held(name: str, value: str, values: dict[str, str]) -> Iterator[str]:
    """The secrets in one variable; `values` are all of them."""
    for match in _LOGIN.finditer(value):
        login = match["long"] or match["short"] or ""
        yield login.partition(":")[2] or login
        yield _in_header(unquote(login))
    if not is_secret_name(name):
        return
    yield value
    if value.startswith(("http://", "https://")):   # of a webhook the path is what others must not know
        parts = urlsplit(value)
        yield parts.path + (f"?{parts.query}" if parts.query else "")
    elif value.startswith("{"):                     # headers
        with_headers = _json_object(value)
        yield from (text for text in with_headers.values() if isinstance(text, str))
    elif name.startswith("OTEL_") and "=" in value:     # headers, as OpenTelemetry writes them
        for header in value.split(","):
            secret = header.partition("=")[2].strip()
            yield from (secret, secret.rpartition(" ")[2], secret.rpartition("%20")[2])
    elif ":" in value:                              # user:password
        yield value.partition(":")[2]
        yield _in_header(value)
    user = values.get(re.sub("PASSWORD$", "USERNAME", name))
    if user and user != value:
        yield _in_header(f"{user}:{value}")


def _json_object(text: str) -> dict:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _in_header(login: str) -> str:
    return base64.b64encode(login.encode()).decode()


def _forms(secret: str) -> set[str]:
    plain = unquote(secret)
    return {form for text in (secret, plain) for form in (text, quote(text, safe=""), json.dumps(text)[1:-1])}
