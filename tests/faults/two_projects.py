"""Two projects with the same inputs: one that nobody disturbs, and one that hosts help with which do not see it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.project import TINY, Project

SETTINGS = {**TINY, "distill.recipe": "kd", "distill.parts": 2, "distill.checkpoint_images": 32, "compute.processes": 1,
            "trajectories.record_size": 4}


@contextmanager
def relayed(address: str, url: str) -> Iterator[str]:
    """Where a server of this machine's loopback is reached by the address of a link."""
    parts = urlsplit(url)
    with closing(socket.create_server((address, 0))) as server:

        def copy(one: socket.socket, other: socket.socket) -> None:
            with suppress(OSError):
                while block := one.recv(1 << 16):
                    other.sendall(block)
            for end in (one, other):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        def accept() -> None:
            with suppress(OSError):     # it is closed
                while True:
                    near, far = server.accept()[0], socket.create_connection((parts.hostname, parts.port))
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=copy, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield parts._replace(netloc=f"{address}:{server.getsockname()[1]}").geturl()


class TwoProjects:
    """Trajectories and a student of `undisturbed`, and `project`, which has neither yet. What other hosts keep of it is
    in `cache`; they are not to see the folder `hidden`."""

    def __init__(self, folder: Path, s3, prefix: str):
        self.folder, self.cache, self.hidden = folder, folder / "cache", folder / "hidden"
        self.undisturbed = Project(folder / "seen" / "here", SETTINGS)
        dvc(self.undisturbed, "remote", "add", "-q", "-d", "store", prefix)
        for stage in ("shard", "encode", "teacher"):
            self.undisturbed.check("stage", "run", stage, **s3.environment)
        self.project = Project.__new__(Project)
        self.project.folder = self.hidden / "there"
        shutil.copytree(self.undisturbed.folder, self.project.folder)
        dvc(self.undisturbed, "remote", "remove", "-q", "store")
        for stage in ("trajectories", "distill"):
            self.undisturbed.check("stage", "run", stage)

    def digests(self, *without: str) -> dict[str, str]:
        """Those of the undisturbed project, but for these outputs."""
        return {name: digest for name, digest in self.undisturbed.digests().items() if name not in without}


def dvc(project: Project, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=project.folder, env=project.environment(), check=True)
