"""The report in a real browser: no error, every point, light, dark, phone, paper; and what it refuses to compare."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.metrics.protocol import ProtocolsDiffer
from fewstep.util.errors import CorruptData, NotAvailable, SettingsError
from tasks.evaluation.documents import Evaluation, to_json
from tasks.report import FOLDER, PAGE
from tasks.report import build as making
from tasks.report import page as pages
from tasks.report import report_data as materials
from tasks.report.inline_images import atlas
from tasks.report.report_data import Material
from tasks.storage.workspace import Workspace
from tests import browser as browsers
from tests.project import checkout_in
from tests.tasks.stages.evaluation_world import World

SOLVERS = {"ddim": [1, 2, 4], "heun": [1, 3]}
EVALUATE = {"samples": 120, "batch": 60, "solvers": list(SOLVERS), "classifier": {"images": 2_560}}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    made = World(tmp_path_factory.mktemp("report"), EVALUATE)
    made.run("shard")
    made.run("classifier")
    made.add_models()
    made.run("baselines")
    made.run("evaluate")
    costs = made.root / "data" / "cost"
    costs.mkdir()
    timed = {"latency_ms": 2.0, "latency_ms_p95": 2.5, "images_per_second": 900.0}
    solvers = {f"{name}-{n}": {**timed, "latency_ms": 2.0 * n} for name, counts in SOLVERS.items() for n in counts}
    teacher = {"solver": "ddim", "evaluations": 4, **timed, "latency_ms": 8.0}
    (costs / "baselines.json").write_text(json.dumps({"solvers": solvers, "teacher": teacher, "seconds": 9.0,
                                                      "parameters": 77, "peak_memory_mb": 300.0}))  # fmt: skip
    (costs / "evaluate.json").write_text(json.dumps({"student": {"1": timed, "2": {**timed, "latency_ms": 4.0}},
                                                     "parameters": 77, "peak_memory_mb": 300.0}))  # fmt: skip
    (costs / "teacher.json").write_text(json.dumps({"seconds": 1e9, "key": "of another teacher"}))
    return made


@pytest.fixture(scope="module")
def workspace(world) -> Workspace:
    return checkout_in(world.root)


@pytest.fixture(scope="module")
def made(world, workspace, tmp_path_factory) -> Material:
    with pytest.MonkeyPatch.context() as patch:
        curve = [[float(i), 2.0 / i] for i in range(1, 40)]
        curves = {"student/regression": curve, "learning_rate": curve}
        patch.setattr(materials, "curves", lambda workspace, distill: curves)
        folder = making.make(workspace, "digits-run")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", PAGE, "report.json", "report.safetensors", "student.png", "teacher.png"]
    return Material.load(folder)


def test_uncommitted_changes_stand_beside_the_commit(made):
    clean = made.model_copy(update={"commit": "c0ffee" * 7})
    told = [pages.render([clean.model_copy(update={"modified": modified})]) for modified in (False, True)]
    assert "commit c0ffeec0ff" in told[0] and "uncommitted" not in told[0]
    assert told[1].count("with uncommitted changes") == 2   # heading, provenance


@pytest.fixture(scope="module")
def page(made, workspace):
    return workspace.data / FOLDER / PAGE


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = browsers.start(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


def other(made: Material, **changed) -> Material:
    """The same evaluation under another name, with changed fields in the protocols."""
    protocols = {digest: protocol.model_copy(update=changed) for digest, protocol in made.document.protocols.items()}
    document = made.document.model_copy(update={"protocols": protocols})
    return made.model_copy(update={"label": "other-run", "document": document})


def with_values(made: Material, change) -> Material:
    """The same evaluation with every row as `change` leaves its JSON."""
    document = json.loads(to_json(made.document))
    for row in [*document["student"], *document["rows"], document["floor"]]:
        change(row)
    return made.model_copy(update={"document": Evaluation(**document)})


def test_one_file_that_fetches_nothing_and_never_changes_by_itself(made, page, tmp_path):
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text) and "://" not in text and "@import" not in text
    assert len(text) < 600_000 and "default-src 'none'" in text
    making.write(tmp_path / "again.html", [made])
    assert (tmp_path / "again.html").read_text() == text
    assert "teacher" not in made.cost  # it was measured for another teacher


def test_everything_that_was_asked_for_is_there(made, page):
    text = page.read_text()
    for name in ("quality", "pictures", "ways", "everything", "classes", "memory", "training", "cost", "protocol",
                 "settings", "lineage"):  # fmt: skip
        assert f'<section id="{name}">' in text, name
    assert "1 step = " in text or "No training-free setting" in text
    floor = made.document.floor.values["fd_infinite"].n
    assert f"n {floor:,}" in text and "n 120" in text and "FD-classifier-16∞" in text and ">FID" not in text
    digest = made.document.first.values["fd_infinite"].protocol
    assert digest in text and made.stages["evaluate"].digest in text


def test_the_plots_have_their_points_and_the_console_is_silent(browser, made, page):
    browser.open(page)
    assert browser.said() == []
    rows = [row for row in made.document.rows if row.values]
    assert len(rows) == sum(map(len, SOLVERS.values()))
    for name in ("fd_infinite", "kid", "recall", "precision", "class_accuracy"):
        for kind in ("evaluations", "ms"):
            plot = f'figure[data-metric="{name}"][data-x="{kind}"]'
            assert browser.count(f"{plot} .pt") == 2 + len(rows), (name, kind)
            assert browser.count(f'{plot} .series[data-s="student"] .pt') == 2
    inside = browser.run("""
        return [...document.querySelectorAll('.panel.on svg')].every(svg => {
            const box = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('.mark')].every(mark => {
                const one = mark.getBoundingClientRect();
                return one.width > 0 && one.left >= box.left && one.right <= box.right + 1 && one.top >= box.top - 1
                    && one.bottom <= box.bottom + 1;
            });
        })""")
    assert inside
    assert browser.count("#training svg polyline") == 2 and browser.count("#memory svg polyline") == 4
    assert browser.run("return [...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert browser.count("#pictures .panel.on figure.grid") == 3 and browser.count("#ways figure") == 3
    assert browser.keep("light").stat().st_size > 50_000


def test_points_tabs_and_names_react(browser, page):
    browser.open(page)
    told = browser.run("""
        const point = document.querySelector('.panel.on .series.strong .pt');
        point.dispatchEvent(new PointerEvent('pointerenter', {clientX: 200, clientY: 300}));
        const tip = document.getElementById('tip');
        return [tip.classList.contains('on'), tip.textContent];""")
    assert told[0] and re.search(r"student, 1 step: FD∞ .*95 %.*n 120", told[1])
    shown = browser.run("""
        document.querySelectorAll('button[data-tab="quality"]')[1].click();
        return [...document.querySelectorAll('.panel[data-tab="quality"]')].map(p => getComputedStyle(p).display);""")
    assert shown[:3] == ["none", "block", "none"]
    browser.run("document.querySelector('button[data-hide=\"DDIM\"]').click()")
    hidden = """return [...document.querySelectorAll('.series')].filter(one => one.dataset.s === 'DDIM')
        .every(one => getComputedStyle(one).display === 'none')"""
    assert browser.run(hidden)
    marked = browser.run("""
        const cells = document.querySelector('#pictures .panel.on .cells'), box = cells.getBoundingClientRect();
        cells.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + 3, clientY: box.top + 3}));
        return document.querySelectorAll('#pictures .panel.on .here').length;""")
    assert marked == 3  # the same noise in every grid
    assert browser.said() == []


@pytest.mark.parametrize("width, dark", [(1200, True), (390, False)])
def test_it_is_readable_in_the_dark_and_on_a_phone(browser, page, width, dark):
    browser.open(page, width, 844, dark)
    paper, ink = browser.run("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
    light = [sum(map(float, re.findall(r"[\d.]+", colour)[:3])) for colour in (paper, ink)]
    assert (light[0] < 120 < light[1]) if dark else (light[1] < 120 < light[0])
    assert browser.run("return document.documentElement.scrollWidth") <= width
    size = browser.run("""const text = document.querySelector('.panel.on svg text'), svg = text.ownerSVGElement;
        return parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / 640""")
    assert size >= 9
    assert browser.said() == []
    browser.keep("dark" if dark else "phone")


def test_it_prints(browser, page):
    browser.open(page)
    made = browser.printed()
    assert made.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", made)) <= 14
    assert browser.run("return [...document.querySelectorAll('details')].every(one => one.open)")


def test_several_on_one_page(browser, made, tmp_path):
    path = tmp_path / "compared.html"
    making.write(path, [made, other(made)])
    browser.open(path)
    assert browser.said() == []
    plot = 'figure[data-metric="fd_infinite"][data-x="evaluations"]'
    assert browser.count(f"{plot} .series.strong") == 2 and browser.count(f"{plot} .pt") == 4 + 5
    assert browser.count("#pictures .panel.on figure.grid") == 3  # two students, one teacher
    assert "overlaps" in browser.run("return document.querySelector('.claim').textContent")
    browser.keep("compared")


def test_other_protocols_are_refused_with_what_differs(made, tmp_path):
    with pytest.raises(ProtocolsDiffer, match=r"digits-run and other-run .* samples: 120, 500"):
        making.write(tmp_path / "no.html", [made, other(made, samples=500)])
    with pytest.raises(ProtocolsDiffer, match="antialiased: False, True"):
        making.ensure_one_protocol([made, other(made, antialiased=True)])
    assert not (tmp_path / "no.html").exists()


def test_what_was_kept_is_read_or_said_to_be_missing(made, tmp_path):
    made.store(tmp_path / "kept")
    again = Material.load(tmp_path / "kept")
    assert again.document == made.document and again.curves == made.curves
    assert all(np.array_equal(again.pictures[name], made.pictures[name]) for name in made.pictures)
    (tmp_path / "kept" / "report.json").write_text("{")
    with pytest.raises(CorruptData, match="damaged report"):
        Material.load(tmp_path / "kept")
    with pytest.raises(NotAvailable, match="no report was kept"):
        Material.load(tmp_path / "nowhere")


def test_a_report_without_costs_curves_or_classes(made, tmp_path):
    def strip(row: dict) -> None:
        row["classes"] = []
        for name in ("class_accuracy", "agreement_rms"):
            row["values"].pop(name, None)

    pictures = {name: value for name, value in made.pictures.items() if not name.endswith(".classes")}
    bare = Material(label="bare", document=with_values(made, strip).document, pictures=pictures)
    making.write(tmp_path / "bare.html", [bare])
    text = (tmp_path / "bare.html").read_text()
    assert 'id="classes"' not in text and 'data-x="ms"' not in text and "No curves" in text


def test_a_run_keeps_its_report_and_mlflow_gets_the_page(made, page, tmp_path):
    from tasks.tracking.mlflow_logger import MlflowObserver
    from tasks.tracking.run_records import RecordObserver, RunStore

    place = SimpleNamespace(root=tmp_path, runs=tmp_path / "runs", data=tmp_path / "data", shared=tmp_path / ".fewstep",
                            mlflow_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")  # fmt: skip
    store = RunStore(place)
    record = store.new({"name": "digits"})
    RecordObserver(store, record).stage_aside("evaluate", page.parent)
    assert making.find(place, record.id[-4:]).label == record.id
    observer = MlflowObserver(place, {"name": "digits"}, record)
    parent = observer.start()
    observer.stage_aside("evaluate", page.parent)
    kept = observer.tracking.client.list_artifacts(parent, FOLDER)
    assert [item.path for item in kept] == [f"{FOLDER}/{PAGE}"] and kept[0].file_size == page.stat().st_size
    observer.finish()


def test_further_features_stand_in_the_table_under_their_names(made, tmp_path):
    def add(row: dict) -> None:
        for name in ("fd", "fd_infinite", "kid"):
            row["values"][f"{name}@inception"] = row["values"][name]

    making.write(tmp_path / "more.html", [with_values(made, add)])
    text = (tmp_path / "more.html").read_text()
    assert ">FID</th>" in text and ">FID∞</th>" in text and ">KID inception·10³</th>" in text
    assert ">FD-classifier-16</th>" in text


def test_labels_are_text_and_nothing_else(made, tmp_path):
    making.write(tmp_path / "x.html", [made.model_copy(update={"label": "<script>alert(1)</script>"})])
    assert "<script>alert" not in (tmp_path / "x.html").read_text()


def test_grids_show_every_pixel():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 8, 8), dtype=np.uint8)
    source, width, height = atlas(list(images))
    assert source.startswith("data:image/png;base64,") and (width, height) == (3 * 34 - 2, 2 * 34 - 2)


def test_a_name_that_nothing_has_is_refused(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "_of_version", lambda workspace, text: (_ for _ in ()).throw(NotAvailable("none")))
    with pytest.raises(SettingsError, match="neither a run nor a registered model"):
        making.find(SimpleNamespace(runs=tmp_path, root=tmp_path), "nothing")
