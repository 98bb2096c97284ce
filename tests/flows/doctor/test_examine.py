"""`fewstep doctor` says what is wrong and how to mend it."""

import os

from flows.doctor.examine import examine
from tests.project import checkout_in


def test_doctor_names_what_is_wrong_and_how_to_mend_it(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (tmp_path / "params.yaml").write_text("name: digits\n")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "constraints.txt").write_text("rich==0.0.1  # an old one\nnot-installed==1.0\n")
    found = {item.topic: item for item in examine(checkout_in(tmp_path))}
    assert found["git"].level == "error" and "git init" in found["git"].mend
    assert found["dvc"].level == "error"
    assert found["packages"].level == "warning" and "rich" in found["packages"].text
    assert found["MLflow"].level == "error" and "does not answer" in found["MLflow"].text
    assert found["Prefect"].level == found["folders"].level == found["params.yaml"].level == "ok"
    (tmp_path / "params.yaml").write_text("nmae: digits\n")
    found = {item.topic: item for item in examine(checkout_in(tmp_path), ask_servers=False)}
    assert found["settings"].level == "error" and "did you mean 'name'" in found["settings"].text
    assert os.listdir(tmp_path) and not (tmp_path / ".fewstep" / "runs").exists()
