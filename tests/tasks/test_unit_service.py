"""Units and nodes on a port: the pods of the rendered Indexed Job meet by it."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager

from tests.living import below, with_word
from tests.s3_server import free_ports
from tests.tasks.engine.test_nodes import AtImages, started, worked, world  # noqa: F401 (a fixture)

SERVICE = (sys.executable, "-m", "tasks.unit_service")


@contextmanager
def serving(port: int):
    """Another node that serves; it ends with the block."""
    process = subprocess.Popen([*SERVICE, "serve", str(port)])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def test_a_training_with_a_node_that_serves_is_that_of_one_process_and_the_node_serves_the_next(world):  # noqa: F811
    (port,) = free_ports(1)
    launch = " ".join([*SERVICE, "reach", "127.0.0.NODE", str(port)])       # FEWSTEP_NODE is 1
    alone = worked(world, "distill", "alone", 1)
    with serving(port) as node:
        def stop():
            raise KeyboardInterrupt

        try:
            worked(world, "distill", "served", 2, AtImages(256, stop), launch=launch)
        except KeyboardInterrupt:
            assert sorted((world.root / "work" / "served").rglob("step-*.json"))
        while with_word("tasks.engine.group.ranks", below(node.pid)):
            assert node.poll() is None      # it ends with the connection
        assert worked(world, "distill", "served", 2, launch=launch) == alone
        assert node.poll() is None and not started("tasks.unit_service reach")


def test_one_that_has_not_begun_is_waited_for_and_its_end_is_passed_on():
    (port,) = free_ports(1)
    reaching = subprocess.Popen([*SERVICE, "reach", "127.0.0.1", str(port)], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "Connection refused" in reaching.stderr.readline()
    with serving(port):
        said, _ = reaching.communicate("", timeout=120)     # no more to do: the process there ends
    assert reaching.returncode == 0 and said == ""
