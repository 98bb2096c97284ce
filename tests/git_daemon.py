"""A git server on loopback: an address that any host could clone from, ended by its id."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.storage.locks import die_with_parent
from tests.s3_server import free_ports


@contextmanager
def git_daemon(folder: Path) -> Iterator[str]:
    """The address below which the bare repositories in `folder` are cloned from and pushed to."""
    (port,) = free_ports(1)
    programs = subprocess.run(["git", "--exec-path"], check=True, capture_output=True, text=True).stdout.strip()
    command = [f"{programs}/git-daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", f"--base-path={folder}",
               "--export-all", "--enable=receive-pack", str(folder)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=die_with_parent, start_new_session=True)  # fmt: skip
    url = f"git://127.0.0.1:{port}"
    try:
        look = ["git", "ls-remote", f"{url}/{next(folder.iterdir()).name}"]
        while subprocess.run(look, capture_output=True).returncode:
            assert process.poll() is None
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()
