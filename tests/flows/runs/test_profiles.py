"""What profiles ask for."""

import pytest

from fewstep.util.errors import SettingsError
from flows.runs import profiles


def test_profiles_are_data_and_name_what_is_missing(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert profiles.check("local").environment == {}
    with pytest.raises(SettingsError, match="profile 'server' needs PREFECT_API_URL in the environment"):
        profiles.check("server")
    monkeypatch.setenv("PREFECT_API_URL", "http://localhost:4200/api")
    profiles.check("server")
    with pytest.raises(SettingsError, match="nowhere.yaml"):
        profiles.load("nowhere")
