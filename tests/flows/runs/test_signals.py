"""Ctrl-C, SIGTERM and a closed terminal are told to the run; under nohup a closed terminal is not."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CHILD = """
import sys, time
from pathlib import Path
from flows.runs.signals import interruptible, Interrupted
log = Path(sys.argv[1])
try:
    with interruptible(lambda: print("stopping", flush=True), lambda: log.write_text("second")):
        log.write_text("ready")
        try:
            time.sleep(float(sys.argv[2]))
        except Interrupted:
            time.sleep(float(sys.argv[3]))
            raise
        log.write_text("undisturbed")
except Interrupted as error:
    print("stopped", flush=True)
    log.write_text(str(error))
"""


def start(log, seconds=30.0, ending=0.0, **options):
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(log), str(seconds), str(ending)],
                             env=os.environ | {"PYTHONPATH": str(ROOT)}, **options)  # fmt: skip
    for _ in range(600):
        if log.exists() and log.read_text():
            return child
        time.sleep(0.05)
    raise AssertionError("the child did not begin")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_ends_it_in_words(tmp_path, number):
    child = start(tmp_path / "log", stdout=subprocess.PIPE, text=True)
    child.send_signal(number)
    assert child.communicate()[0].split() == ["stopping", "stopped"] and child.returncode == 0
    assert (tmp_path / "log").read_text() == number.name


def test_a_terminal_that_is_closed_ends_it_and_what_is_printed_then_is_no_error(tmp_path):
    master, slave = pty.openpty()
    child = start(tmp_path / "log", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.close(master)        # from here on, writing to the terminal fails
    child.send_signal(signal.SIGHUP)
    assert child.wait() == 0 and (tmp_path / "log").read_text() == "SIGHUP"


def test_a_second_hangup_is_not_a_second_wish_and_a_second_interrupt_is(tmp_path):
    for second, code, said in ((signal.SIGHUP, 0, "SIGHUP"), (signal.SIGINT, 130, "second")):
        log = tmp_path / second.name
        child = start(log, ending=1.0, stdout=subprocess.PIPE, text=True)
        child.send_signal(signal.SIGHUP)
        assert child.stdout.readline().strip() == "stopping"
        child.send_signal(second)
        child.communicate()
        assert child.returncode == code and log.read_text() == said


def test_under_nohup_it_goes_on(tmp_path):
    child = start(tmp_path / "log", seconds=0.5,
                  preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # fmt: skip
    child.send_signal(signal.SIGHUP)
    assert child.wait() == 0 and (tmp_path / "log").read_text() == "undisturbed"
