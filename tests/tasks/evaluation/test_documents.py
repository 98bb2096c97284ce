"""The documents of an evaluation are read back as they were written, and refused with advice where they cannot be."""

import json
import subprocess
import sys

import pytest

from fewstep.metrics.protocol import Protocol, Sampling, StoredValue
from fewstep.util.errors import CorruptData
from tasks.evaluation.costs import cost_of, read_costs
from tasks.evaluation.documents import (
    Baselines,
    Comparison,
    Evaluation,
    Headline,
    Measured,
    SolverRow,
    StudentRow,
    parsed,
    read,
    to_json,
)
from tasks.evaluation.headline import headline, models, quality_table

PROTOCOL = Protocol(metric="fd_infinite", samples=9, seed=1, noise="n", conditions="none", reference="test split",
                    reference_samples=9, reference_digest="ab", features="pca-4", features_digest="cd",
                    dimensions=4)  # fmt: skip


def measured(kind=Measured, value: float = 2.0, **more) -> Measured:
    values = {name: StoredValue(value=value, n=9, interval=(value - 1, value + 1), protocol=PROTOCOL.digest())
              for name in ("fd_infinite", "kid")}  # fmt: skip
    return kind(subject="x", values=values, **more)


def solver(name: str, evaluations: int, teacher: bool = False, **more) -> SolverRow:
    return measured(SolverRow, solver=name, evaluations=evaluations, steps=evaluations, asked=(evaluations,),
                    teacher=teacher, sampling=Sampling(solver=name, steps=evaluations, evaluations=evaluations),
                    **more)  # fmt: skip


@pytest.fixture
def evaluation() -> Evaluation:
    student = measured(StudentRow, 1.0, steps=1, evaluations=1,
                       sampling=Sampling(solver="ode", steps=1, evaluations=1))  # fmt: skip
    return Evaluation(
        guidance=(1.0, 2.0), features="pca-4", reference=9, num_classes=0, floor=measured(value=0.1),
        rows=(solver("ddim", 1, note="some are NaN"), solver("ddim", 4, teacher=True)),
        protocols={PROTOCOL.digest(): PROTOCOL}, student=(student,), samples=9, notes=("rough",),
        comparisons={"1": Comparison(solver="ddim", evaluations=1, fd_ratio=0.5)})  # fmt: skip


def test_a_document_is_read_back_as_it_was_written(evaluation, tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(to_json(evaluation))
    again = read(Evaluation, path)
    assert again == evaluation and to_json(again) == path.read_text()
    assert again.restored(again.first)["kid"].sampling == again.first.sampling
    rows = json.loads(path.read_text())["rows"]
    assert rows[0]["note"] == "some are NaN" and "note" not in rows[1] and rows[0]["asked"] == [1]


def test_a_document_without_a_format_is_of_the_first_and_another_format_is_refused_with_advice(evaluation, tmp_path):
    content = json.loads(to_json(evaluation))
    assert content.pop("format") == 1
    assert parsed(Evaluation, content, "evaluation.json") == evaluation
    with pytest.raises(CorruptData, match="evaluation.json: format 2, this version of fewstep reads format 1") as error:
        parsed(Evaluation, {**content, "format": 2}, "evaluation.json")
    assert "make it again by `fewstep run`" in error.value.hint
    with pytest.raises(CorruptData, match="features: missing"):
        parsed(Baselines, {name: value for name, value in content.items() if name != "features"}, "baselines.json")
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(CorruptData, match="not readable as JSON"):
        read(Headline, tmp_path / "metrics.json")


def test_the_headline_is_what_dvc_and_the_floors_read(evaluation):
    found = headline(evaluation)
    assert found.student == {"1": {"fd_infinite": 1.0, "kid": 1.0}} and found.teacher["4"]["kid"] == 2.0
    assert found.solver["1"] == {"name": "ddim", "evaluations": 1, "fd_infinite": 2.0, "kid": 2.0}
    assert found.floors == {"distance_ratio": 0.5, "class_accuracy": None, "recall": None, "copies": None}
    assert found.comparison == {"1": {"fd_ratio": 0.5}} and found.measured["features"] == "pca-4"
    assert parsed(Headline, {"student": {}, "of_a_later_version": 1}, "tag").floors == {}
    assert models(evaluation) == ["student", "ddim"]
    lines = quality_table(evaluation, "ddim").splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [["ddim", "1", "2"], ["ddim", "4", "2"]]


def test_costs_are_read_as_far_as_they_were_measured(tmp_path):
    (tmp_path / "distill.json").write_text(json.dumps({"seconds": 9.0, "key": "a", "round-1": {"seconds": 4.0}}))
    (tmp_path / "evaluate.json").write_text(json.dumps({"student": {"1": {"latency_ms": 2.0}}}))
    costs = read_costs(tmp_path)
    assert cost_of(costs, "distill").rounds == {"round-1": 4.0} and cost_of(costs, "distill").seconds == 9.0
    assert cost_of(costs, "evaluate").student["1"].latency_ms == 2.0 and cost_of(costs, "teacher").seconds is None
    (tmp_path / "evaluate.json").write_text('{"student": 3}')
    with pytest.raises(CorruptData, match="evaluate.json"):
        read_costs(tmp_path)


def test_stages_and_documents_are_read_without_what_computes():
    code = ("import sys, tasks.stages.evaluate, tasks.stages.baselines, tasks.evaluation.documents;"
            "sys.exit(bool({'torch', 'numpy', 'PIL', 'safetensors', 'scipy'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
