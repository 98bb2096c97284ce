"""Nodes of a Ray cluster on this machine, each with an address of its own on loopback; they end with the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.living import below, stop

_READY = 240    # seconds that a node may take on a busy machine


class Nodes:
    """A head and further nodes at these addresses.

    Attributes:
        address: of the head, for members. client: for who is none.
    """

    def __init__(self, folder: Path, environment: dict[str, str], addresses: Sequence[str]):
        self.folder, self._started, self._addresses = folder, [], addresses
        self.environment = {**environment, "RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0",
                            "RAY_TMPDIR": str(folder), "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": str(_READY)}
        with socket.socket() as one, socket.socket() as other:
            one.bind((addresses[0], 0))
            other.bind((addresses[0], 0))
            self.address, client = (f"{addresses[0]}:{taken.getsockname()[1]}" for taken in (one, other))
        self.client = f"ray://{client}"

    def start(self, cpus: int, within: tuple[str, ...] = ()) -> subprocess.Popen:
        """One more node with so many CPUs; `within`: a command that it is run in."""
        number = len(self._started)
        own = self._addresses[number]
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={own}",
               f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=80000000", "--disable-usage-stats"]
        port = self.address.partition(":")[2]
        head = ["--head", f"--port={port}", f"--ray-client-server-port={self.client.rpartition(':')[2]}",
                "--include-dashboard=false"]
        ray += head if number == 0 else [f"--address={self.address}"]
        log = open(self.folder / f"node-{number}.log", "wb")  # noqa: SIM115 (the node writes it as long as it lives)
        node = subprocess.Popen([*within, *ray], env=self.environment, stdout=log, stderr=log, start_new_session=True)
        log.close()
        self._started.append(node)
        return node

    def wait(self, cpus: int) -> None:
        """Until the cluster has so many CPUs."""
        until = time.monotonic() + _READY
        ask = ("import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR'); "
               "print(int(ray.cluster_resources().get('CPU', 0)))")
        while True:
            done = subprocess.run([sys.executable, "-c", ask, self.address], env=self.environment, capture_output=True,
                                  text=True)
            if done.returncode == 0 and done.stdout.split()[-1:] == [str(cpus)]:
                return
            assert all(node.poll() in (None, -signal.SIGKILL) for node in self._started), self.logs()
            assert time.monotonic() < until, done.stdout + done.stderr + self.logs()
            time.sleep(1)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("node-*.log")))

    def freeze_workers(self, node: subprocess.Popen) -> int:
        """SIGSTOP to the node's processes that do tasks: what they are given next stays with them. How many there are.
        """
        workers = self._workers(node)
        for worker in workers:
            stop(worker.pid)
        return len(workers)

    def doers(self) -> list[psutil.Process]:
        """The processes of live nodes that did or do units."""
        return [worker for node in self._started if node.poll() is None for worker in self._workers(node)
                if worker.name() in ("ray::IDLE", "ray::UnitActor", "ray::Ear")]

    @staticmethod
    def _workers(node: subprocess.Popen) -> list[psutil.Process]:
        found = []
        for process in below(node.pid):
            with suppress(psutil.NoSuchProcess):
                if process.name().startswith("ray::"):
                    found.append(process)
        return found

    def kill(self, node: subprocess.Popen) -> None:
        """SIGKILL to the node and all that it started: the machine is gone."""
        started = psutil.Process(node.pid).children(recursive=True)
        os.killpg(node.pid, signal.SIGKILL)
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()

    def end(self) -> None:
        for node in reversed(self._started):
            if node.poll() is None:
                self.kill(node)


@contextmanager
def ray_nodes(environment: dict[str, str],
              addresses: Sequence[str] = ("127.0.0.2", "127.0.0.3", "127.0.0.4")) -> Iterator[Nodes]:  # fmt: skip
    """Of a new cluster. Its folder has a short path: Ray makes sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    nodes = Nodes(folder, environment, addresses)
    try:
        yield nodes
    finally:
        nodes.end()
        shutil.rmtree(folder, ignore_errors=True)
