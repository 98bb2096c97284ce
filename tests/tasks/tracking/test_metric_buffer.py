"""Points on their way to MLflow: what a kill leaves is read again; names and nested figures as MLflow takes them."""

from tasks.tracking.metric_buffer import MetricBuffer, Point, metric_name, numbers

POINTS = [Point("loss", 1 / step, step, 1000 + step) for step in range(1, 4)]


def test_points_outlive_the_process_and_leave_when_they_are_delivered(tmp_path):
    path = tmp_path / "metrics" / "distill.jsonl"
    MetricBuffer(path).append(POINTS)
    buffer = MetricBuffer(path)
    assert buffer.points == POINTS
    buffer.delivered(2)
    assert MetricBuffer(path).points == POINTS[2:]
    buffer.close()
    assert path.exists(), "a point waits"
    buffer.delivered(1)
    assert not path.exists() and MetricBuffer(path).points == []


def test_a_line_that_a_kill_tore_is_dropped(tmp_path):
    path = tmp_path / "distill.jsonl"
    MetricBuffer(path).append(POINTS)
    path.write_text(path.read_text()[:-5])
    buffer = MetricBuffer(path)
    assert buffer.points == POINTS[:2]
    buffer.append(POINTS[2:])
    assert MetricBuffer(path).points == POINTS


def test_names_and_numbers_as_mlflow_takes_them():
    assert metric_name("kid@inception (4 steps) é") == "kid_inception _4 steps_ _"
    assert numbers({"student": {4: {"kid": 0.1, "ok": True, "n": 3}}, "name": "digits"}) == {
        "student/4/kid": 0.1, "student/4/n": 3.0}  # fmt: skip
