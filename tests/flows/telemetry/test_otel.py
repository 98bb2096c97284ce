"""OpenTelemetry: what a collector gets of a run and of `fewstep serve`; that nothing is loaded where none is asked."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fewstep.util.errors import NotAvailable, SettingsError, StageFailed
from flows.telemetry import otel_settings
from flows.telemetry.otel_observer import OtelObserver
from flows.telemetry.otel_providers import Providers
from tasks.storage.workspace import Workspace
from tasks.tracking.run_record import FAILED, RunRecord, now, settings_digest
from tasks.tracking.run_records import RunStore
from tests.closure import ROOT
from tests.otlp_receiver import attributes, otlp_receiver

METRICS = {"fewstep.run.state": "", "fewstep.stage.duration": "s", "fewstep.stage.progress": "",
           "fewstep.stage.rate": "{item}/s",
           "fewstep.unit.duration": "s", "fewstep.stage.retries": "{retry}", "fewstep.stage.warnings": "{warning}",
           "fewstep.tracking.queue": "{point}"}  # fmt: skip


@pytest.fixture
def collector():
    with otlp_receiver() as receiver:
        yield receiver


def test_a_run_and_its_second_attempt_are_one_trace_with_figures(project, collector):
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer canary"}
    project.control(trajectories={"raise": "once"}, distill={"fail": "no gradient today"})
    project.fewstep("run", code=1, **otel)
    assert collector.headers["authorization"] == "Bearer canary"
    (state,) = collector.last("fewstep.run.state")
    assert state[0]["state"] == "failed" and state[1].as_int == 1 and state[0]["service.name"] == "fewstep"
    run = state[0]["service.instance.id"]
    outcomes = {(of["stage"], of["outcome"]): point.as_double
                for of, point in collector.last("fewstep.stage.duration")}  # fmt: skip
    assert ("shard", "made") in outcomes and ("distill", "failed") in outcomes
    assert ("trajectories", "made") in outcomes and all(seconds > 0 for seconds in outcomes.values())
    assert [(of["stage"], point.as_int) for of, point in collector.last("fewstep.stage.retries")] == [
        ("trajectories", 1)]  # fmt: skip
    progress = {of["stage"]: point.as_double for of, point in collector.last("fewstep.stage.progress")}
    assert progress["shard"] > 0
    units = {of["stage"]: point.count for of, point in collector.last("fewstep.unit.duration")}
    assert units["shard"] == 3 and units["trajectories"] > 3 and units["distill"] == 1
    assert dict(collector.names()) == METRICS

    project.control()
    project.fewstep("run", **otel)
    assert [of["state"] for of, _ in collector.last("fewstep.run.state")] == ["failed", "finished"]
    spans = collector.spans()
    runs = [span for span in spans if not span.parent_span_id]
    assert [span.name for span in runs] == [f"run {run}"] * 2 and len({span.trace_id for span in spans}) == 1
    assert [attributes(span)["fewstep.attempt"] for span in runs] == [1, 2]
    assert [attributes(span)["fewstep.state"] for span in runs] == ["failed", "finished"]
    (distill,) = (span for span in spans if span.parent_span_id == runs[1].span_id and span.name == "distill")
    assert attributes(distill)["fewstep.outcome"] == "made" and len(attributes(distill)["fewstep.digest"]) == 64
    below = [span for span in spans if span.parent_span_id == distill.span_id]
    assert sorted(span.name for span in below) == ["00", "01", "02"]
    for span in below:
        assert distill.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= distill.end_time_unix_nano
    (failed,) = (span for span in spans if span.name == "distill" and span.parent_span_id == runs[0].span_id)
    assert failed.status.code == 2 and failed.status.message == "StageFailed: no gradient today"


def test_processes_that_share_a_unit_stand_below_it_each_with_its_place_and_its_error():
    kept = InMemorySpanExporter()
    providers = Providers("a-run", "m", readers=[], processors=[SimpleSpanProcessor(kept)])
    observer = OtelObserver(providers, "a-run", 1, lambda: 0, lambda: None)
    observer.stage_started("distill", "k" * 64)
    for rank, place, error in ((0, "here", None), (1, "there", StageFailed("was ended by SIGKILL"))):
        observer.rank_finished("distill", "round-1", rank, place, 20.0, 30.0, error)
    observer.unit_finished("distill", "round-1", 10.0, 31.0, StageFailed("was ended by SIGKILL"))
    observer.unit_finished("distill", "round-1", 32.0, 33.0, None)      # by itself
    observer.finish("failed")
    spans = kept.get_finished_spans()
    first, again = (span for span in spans if span.name == "round-1")
    below = {span.name: span for span in spans if span.parent and span.parent.span_id == first.context.span_id}
    assert {name: span.attributes["fewstep.place"] for name, span in below.items()} == {
        "process 1": "here", "process 2": "there"}  # fmt: skip
    assert below["process 1"].status.is_ok and below["process 1"].start_time == 20_000_000_000
    assert below["process 2"].status.description == "StageFailed: was ended by SIGKILL"
    assert not [span for span in spans if span.parent and span.parent.span_id == again.context.span_id]


def test_a_collector_that_is_away_costs_no_run(project):
    project.fewstep("run", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    assert project.json("status")["state"] == "finished"


def test_nothing_of_opentelemetry_is_loaded_where_none_asks_for_it():
    code = ("import sys; import flows.telemetry.telemetry as t, flows.runs.attempt, flows.scheduling.scheduler\n"
            "from types import SimpleNamespace\n"
            "print(t.of_run(None, SimpleNamespace(id='r', name='n', attempts=[]), lambda: 0))\n"
            "with t.of_server(None): pass\n"
            "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))\n")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["None", "[]"]


@pytest.mark.parametrize(("environment", "metrics", "traces"), [
    ({}, None, None),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "otlp", "otlp"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, None, None),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, "otlp", None),
    ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/v1/metrics"}, "otlp", None),
    ({"OTEL_TRACES_EXPORTER": "console"}, None, "console"),
])  # fmt: skip
def test_the_variables_of_opentelemetry_say_what_is_sent(monkeypatch, environment, metrics, traces):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (otel_settings.exporter_of("metrics"), otel_settings.exporter_of("traces")) == (metrics, traces)
    assert otel_settings.asked() == bool(metrics or traces)


def test_what_cannot_be_sent_is_refused_before_any_work(project, monkeypatch):
    wrong = project.fewstep("run", OTEL_TRACES_EXPORTER="jaeger", code=2)
    assert "OTEL_TRACES_EXPORTER: expected one of otlp, console, none, got 'jaeger'" in wrong.stderr
    assert project.json("status", "--all") == []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(SettingsError, match="only http/protobuf is supported, got 'grpc'"):
        otel_settings.asked()
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotAvailable, match="not installed"):
        otel_settings.asked()


def test_what_is_served_tells_the_age_of_champions_and_the_states_of_runs(monkeypatch, collector, tmp_path):
    from flows.telemetry.otel_providers import Providers  # OpenTelemetry and MLflow take seconds to load
    from flows.telemetry.otel_served import ServedTelemetry
    from tests.registry_world import MODEL, with_three_versions

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    registry = with_three_versions(tmp_path)
    registry.set_alias(registry.get(MODEL, 2), "champion")
    made = registry.champion_made(MODEL)
    workspace = Workspace(tmp_path)
    store = RunStore(workspace)
    store.save(RunRecord(id="toy-20260101-000000-aaaa", name="toy", root=str(tmp_path), settings={},
                         settings_digest=settings_digest({}), created=now(), state=FAILED))  # fmt: skip
    ServedTelemetry(Providers("serve", ""), workspace).close()
    ((of, age),) = collector.last("fewstep.champion.age")
    assert of["model"] == MODEL and age.as_double == pytest.approx(time.time() - made, abs=60)
    assert [(of["state"], point.as_int) for of, point in collector.last("fewstep.runs")] == [("failed", 1)]


def test_memory_of_gpus_is_told_once_a_stage_uses_one(monkeypatch):
    """Without a GPU: torch's functions are replaced by ones that say what a GPU's would."""
    from flows.telemetry.otel_observer import _gpu_memory  # OpenTelemetry takes a second to load

    cuda = SimpleNamespace(is_initialized=lambda: False, device_count=lambda: 2,
                           memory_allocated=lambda device: 10 + device,
                           max_memory_allocated=lambda device: 20 + device)  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert list(_gpu_memory(None)) == []
    cuda.is_initialized = lambda: True
    told = {(item.attributes["device"], item.attributes["kind"]): item.value for item in _gpu_memory(None)}
    assert told == {(0, "allocated"): 10, (0, "most"): 20, (1, "allocated"): 11, (1, "most"): 21}
