"""The dashboard, the alarms and the document name the metrics that the code makes, and no others."""

import json
import re

import yaml

from tests.closure import ROOT

MADE = re.compile(r'create_(observable_gauge|gauge|histogram|counter)\(\s*"(fewstep\.[a-z.]+)",'
                  r'(?: \[[\w.]+\],)? "([^"]*)"')  # fmt: skip
SUFFIXES = {"s": "_seconds", "By": "_bytes", "{item}/s": "_per_second"}     # of units, in Prometheus


def metrics() -> dict[str, tuple[str, str]]:
    """Kind and unit of every metric by name, as the code makes them."""
    code = "".join((ROOT / "flows/telemetry" / name).read_text() for name in ("otel_observer.py", "otel_served.py"))
    found = {name: (kind, unit) for kind, name, unit in MADE.findall(code)}
    assert len(re.findall(r"\.create_\w+\(", code)) == len(MADE.findall(code))
    return found


def in_prometheus() -> set[str]:
    """What Prometheus calls them."""
    names = set()
    for name, (kind, unit) in metrics().items():
        base = name.replace(".", "_") + SUFFIXES.get(unit, "")
        names |= {base + {"counter": "_total", "histogram": "_bucket"}.get(kind, "")}
    return names


def test_the_table_of_the_document_is_what_the_code_makes():
    rows = re.findall(r"^\| `(fewstep\.[a-z.]+)` \| ([^|]*?) ?\|", (ROOT / "docs/observability.md").read_text(), re.M)
    assert {name: unit.strip() for name, unit in rows} == {name: unit for name, (_, unit) in metrics().items()}


def test_dashboard_and_alarms_ask_for_metrics_that_there_are():
    dashboard = json.loads((ROOT / "infra/grafana/dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [item["query"]["query"] for item in dashboard["templating"]["list"] if item["type"] == "query"]
    rules = [rule for group in yaml.safe_load((ROOT / "infra/grafana/alerts.yaml").read_text())["groups"]
             for rule in group["rules"]]  # fmt: skip
    names = set(re.findall(r"fewstep_[a-z_]+", " ".join(asked + [rule["expr"] for rule in rules])))
    assert names == in_prometheus(), "a metric that nobody looks at, or a look at what is none"
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert len({(place["x"], place["y"]) for place in places}) == len(places)


def test_the_document_lists_every_alarm():
    rules = yaml.safe_load((ROOT / "infra/grafana/alerts.yaml").read_text())["groups"][0]["rules"]
    listed = re.findall(r"^\| (Fewstep\w+) \|", (ROOT / "docs/observability.md").read_text(), re.M)
    assert listed == [rule["alert"] for rule in rules]
