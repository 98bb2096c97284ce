"""Another host on this machine: a network namespace, which reaches this one by a link that can be cut. Needs root."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.living import with_word

AVAILABLE = os.getuid() == 0 and shutil.which("ip") is not None
WHY_NOT = "needs root and Debian's iproute2: apt-get install iproute2"
_NUMBERS = itertools.count()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Host:
    """Attributes: name of the namespace; address of this machine on the link; own, that of the host."""

    def __init__(self, name: str, net: str):
        self.name, self.address, self.own = name, f"{net}.1", f"{net}.2"

    @property
    def within(self) -> tuple[str, ...]:
        """A command that another one is run by on the host."""
        return ("ip", "netns", "exec", self.name)

    def hiding(self, folder: Path) -> tuple[str, ...]:
        """The same for one that does not see this folder, and sees all else as it is here."""
        hide = f'mount -t tmpfs none "{folder}" && exec "$@"'
        # `ip netns exec` would give it a /sys of its own, without cgroups
        return ("nsenter", f"--net=/var/run/netns/{self.name}", "unshare", "--mount", "sh", "-c", hide, "sh")

    def processes(self, word: str) -> list[psutil.Process]:
        """Those on the host with this word in their command."""
        inode, found = Path(f"/var/run/netns/{self.name}").stat().st_ino, []
        for process in with_word(word, psutil.process_iter()):
            with suppress(OSError):     # it has ended
                if Path(f"/proc/{process.pid}/ns/net").stat().st_ino == inode:
                    found.append(process)
        return found

    def cut(self) -> None:
        """From now on nothing comes through, and nobody is told."""
        _ip("-n", self.name, "link", "set", "far", "down")

    def mend(self) -> None:
        _ip("-n", self.name, "link", "set", "far", "up")


@contextmanager
def host() -> Iterator[Host]:
    """The host while the block lasts."""
    number = os.getpid() * 8 + next(_NUMBERS) % 8
    made = Host(f"fewstep-{number}", f"10.{100 + number // 256 % 100}.{number % 256}")
    near = f"fs{number % 10**9}"
    _ip("netns", "add", made.name)
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", "far", "netns", made.name)
        _ip("addr", "add", f"{made.address}/24", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", made.name, "addr", "add", f"{made.own}/24", "dev", "far")
        _ip("-n", made.name, "link", "set", "far", "up")
        _ip("-n", made.name, "link", "set", "lo", "up")
        yield made
    finally:
        _ip("netns", "delete", made.name)       # and the link with it
