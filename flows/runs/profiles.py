"""Profiles: what a run needs around it, as data in infra/profiles. Settings name one; the environment fills it."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

import infra
from fewstep.util.config import Strict, parse
from fewstep.util.errors import SettingsError
from flows.orchestration.prefect_api import require_address
from flows.telemetry import json_log, otel_settings
from tasks.config import params_file
from tasks.storage.workspace import given_mlflow_uri

FOLDER = Path(infra.__file__).parent / "profiles"


class Profile(Strict):
    """A file of infra/profiles.

    Attributes:
        description: in a few words.
        environment: variables that must be set, with their meaning.
        optional: variables that may be set, with their meaning.
        secret: variables that may be set and are never shown (tasks.tracking.redaction), with their meaning.
    """

    description: str
    environment: dict[str, str] = Field(default_factory=dict)
    optional: dict[str, str] = Field(default_factory=dict)
    secret: dict[str, str] = Field(default_factory=dict)


def load(name: str) -> Profile:
    """The profile `name` of infra/profiles. Raises SettingsError when there is none or it is malformed."""
    path = FOLDER / f"{name}.yaml"
    return parse(Profile, params_file.read(path), f"infra/profiles/{path.name}")


def check(name: str) -> Profile:
    """The profile, if the environment has what it needs.

    Raises SettingsError naming the variables that are missing, those that name no server, and those of telemetry that
    ask for what there is not; NotAvailable where OpenTelemetry is asked for and not installed.
    """
    profile = load(name)
    missing = [variable for variable in profile.environment if not os.environ.get(variable)]
    if missing:
        meanings = "; ".join(f"{variable}: {profile.environment[variable]}" for variable in missing)
        raise SettingsError(f"profile {name!r} needs {' and '.join(missing)} in the environment", hint=meanings)
    given_mlflow_uri()
    json_log.asked()
    otel_settings.asked()
    if address := os.environ.get("PREFECT_API_URL"):
        require_address(address)
    return profile
