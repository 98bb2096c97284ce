"""FEWSTEP_LOG=json: every line of a run's stderr and of its log is an object that says where it belongs."""

import json
import logging
import threading
from io import StringIO

from flows.runs.log_capture import logs_to
from flows.telemetry import json_log
from tasks.engine.events import Observer, told_of_unit


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_in_json_names_run_and_stage_and_ends_with_its_error(project):
    project.control(trajectories={"fail": "no noise today"})
    done = project.fewstep("run", FEWSTEP_LOG="json", code=1)
    lines = objects(done.stderr)
    (run,) = {line["run"] for line in lines if line["logger"] == "fewstep" and line.get("stage")}
    assert all(line["time"].endswith("Z") and line["level"] for line in lines)
    events = [(line["stage"], line["event"]) for line in lines if "event" in line and "stage" in line]
    assert events[0] == ("shard", "started") and ("shard", "finished") in events
    assert events[-1] == ("trajectories", "failed")
    assert "no noise today" in lines[-1]["message"] and lines[-1]["event"] == "error"
    assert lines[-1]["hint"] == f"mend control.json · continue with: fewstep resume {run}"
    assert lines[-1]["exit_code"] == 1
    progress = next(line for line in lines if line.get("event") == "progress")
    assert progress["done"] in (100, 200, 300) and (progress["total"], progress["counted"]) == (300, "images")
    text = next((project.root / ".fewstep").glob(f"runs/{run}/prefect.log")).read_text()
    kept = objects("\n".join(line for line in text.splitlines() if line.startswith("{")))   # Prefect's server beside it
    assert any(line["logger"].startswith("prefect") for line in kept) and {line["run"] for line in kept} == {run}

    project.control()
    answer = project.fewstep("run", "--json", FEWSTEP_LOG="json")
    assert json.loads(answer.stdout)["run"] == run, "stdout is the answer alone"
    finished = [line["stage"] for line in objects(answer.stderr) if line.get("event") == "finished"]
    assert finished[-1] == "register"
    wrong = project.fewstep("run", "--set", "seed=2", FEWSTEP_LOG="jsn", code=2)
    assert "FEWSTEP_LOG: expected 'json' or 'text', got 'jsn'" in wrong.stderr


def test_what_a_unit_logs_names_it_in_its_own_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_LOG", "json")
    stream = StringIO()
    monkeypatch.setattr("sys.stderr", stream)

    def unit(name: str) -> None:
        with told_of_unit(Observer(), "encode", name):
            meeting.wait()
            logging.getLogger("urllib3").warning("slow %s", name)

    meeting = threading.Barrier(2)
    with logs_to(tmp_path / "log"):
        threads = [threading.Thread(target=unit, args=(name,)) for name in ("00", "01")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        logging.getLogger("urllib3").error("outside")
    said = {line["message"]: (line.get("stage"), line.get("unit")) for line in objects(stream.getvalue())}
    assert said == {"slow 00": ("encode", "00"), "slow 01": ("encode", "01"), "outside": (None, None)}
    assert len(objects((tmp_path / "log").read_text())) == 3


def test_secrets_and_tracebacks(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-6f1e0b-secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer canary-6f1e0b-otel,x=1")
    try:
        raise ValueError("canary-6f1e0b-secret")
    except ValueError as error:
        record = logging.LogRecord("l", logging.ERROR, "f", 1, "%s", ("canary-6f1e0b-otel",),
                                   (ValueError, error, error.__traceback__))  # fmt: skip
    text = json_log.JsonLines().format(record)
    assert "canary" not in text and json.loads(text)["message"] == "***"
    assert json.loads(text)["error"].endswith("ValueError: ***")
