"""What a person sees: lines without a terminal, a table that fits narrow and wide ones; rates and times left."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from flows.output import count, duration, rate
from flows.runs.progress_view import LiveView
from flows.telemetry.progress_rate import Rate

STAGES = ["shard", "teacher", "trajectories", "evaluate"]


def view_of(width, terminal):
    text = io.StringIO()
    out = Console(file=text, width=width, force_terminal=terminal, highlight=False, color_system=None)
    return LiveView(STAGES, "run digits-20261121-115700-ab12", out), text


def report(view):
    view.stage_started("shard", "k")
    view.stage_finished("shard", SimpleNamespace(state="current", seconds=0.1), {})
    view.stage_started("teacher", "k")
    view.stage_progress("teacher", 0, 400_000, metrics={"loss": 0.25})
    view.rows["teacher"].rate.points.appendleft((view.rows["teacher"].rate.points[0][0] - 10, -8120))
    view.stage_progress("teacher", 123_456, 400_000)
    view.stage_warned("teacher", "slow disk")
    view.stage_finished("teacher", SimpleNamespace(state="made", seconds=83.0), {})
    view.stage_started("trajectories", "k")
    view.stage_failed("trajectories", ValueError("no"))


def test_without_a_terminal_there_are_plain_lines():
    view, text = view_of(100, False)
    with view.shown():
        report(view)
    lines = [line.split(" ", 1)[1] for line in text.getvalue().splitlines()]
    assert lines[0] == "digits-20261121-115700-ab12"
    assert lines[1] == "shard: up to date" and lines[-2] == "teacher: done in 1 min 23 s"
    assert lines[-1] == "trajectories: failed"
    assert "teacher: warning: slow disk" in lines and "\x1b" not in text.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_the_terminal(width):
    view, _ = view_of(width, True)
    view.stage_started("trajectories", "k")
    view.stage_progress("trajectories", 1, 8192, metrics={"loss": 1.0})
    view.rows["trajectories"].rate.points.appendleft((view.rows["trajectories"].rate.points[0][0] - 1000, 0))
    drawn = Console(file=io.StringIO(), width=width, color_system=None)
    drawn.print(view.render())
    lines = drawn.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines) and len(lines) == len(STAGES) + 2
    running = next(line for line in lines if "trajectories" in line)
    assert "left" in running and "/s" in running and ("1/8,192" in running if width >= 80 else "0%" in running)


def test_the_live_table_ends_with_every_stage_once():
    view, text = view_of(80, True)
    with view.shown():
        report(view)
    last = text.getvalue().split("run digits-20261121-115700-ab12")[-1]
    assert [last.count(name) for name in STAGES] == [1, 1, 1, 1] and "1 min 23 s" in last


def test_rate_and_time_left_follow_the_last_seconds():
    now = [0.0]
    rate_ = Rate(lambda: now[0])
    assert rate_.per_second() is None and rate_.left(100) is None
    for second in range(100):
        now[0] = float(second)
        rate_.add(second if second < 50 else 50 + 10 * (second - 50))
    assert rate_.per_second() == pytest.approx(10, rel=0.05)
    assert rate_.left(1540) == pytest.approx(100, rel=0.05)
    rate_.add(0)        # a new round begins
    assert rate_.per_second() is None


def test_numbers_are_short():
    assert [duration(value) for value in (None, 0.4, 59.4, 83, 3600, 7500, 8e6)] == [
        "", "0 s", "59 s", "1 min 23 s", "1 h 00 min", "2 h 05 min", "92 d 14 h"]
    assert [rate(value) for value in (0.354, 41.23, 812, 18345)] == ["0.354", "41.2", "812", "18,300"]
    assert count(8192) == "8,192"
