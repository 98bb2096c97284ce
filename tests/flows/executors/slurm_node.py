"""A Slurm cluster of one node, this machine, of Debian's packages slurm-wlm and munge; root alone may start it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "scancel", "squeue")
_READY = 60     # seconds that it may take on a busy machine
_CONFIGURATION = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=units Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm_node(folder: Path) -> Iterator[dict[str, str]]:
    """The cluster while the block lasts; yields the environment in which its commands find it."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = {"controller": one.getsockname()[1], "node": other.getsockname()[1]}
    file = folder / "slurm.conf"
    file.write_text(_CONFIGURATION.format(host=host, folder=folder, **ports))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environment = {"SLURM_CONF": str(file)}
    files = ("socket", "pid-file", "log-file", "seed-file")
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in files]
    commands = (["munged", "--foreground", "--force", f"--key-file={key}", *munge],
                ["slurmctld", "-D", "-f", str(file)], ["slurmd", "-D", "-f", str(file)])
    started = []
    try:
        for command in commands:
            with open(folder / f"{command[0]}.log", "wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment},
                                                start_new_session=True))
        until = time.monotonic() + _READY
        while subprocess.run(["sinfo", "-h", "-o", "%t"], env={**os.environ, **environment}, capture_output=True,
                             text=True).stdout.strip() != "idle":
            assert all(process.poll() is None for process in started) and time.monotonic() < until, logs(folder)
            time.sleep(0.5)
        yield environment
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def logs(folder: Path) -> str:
    return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in folder.glob("*.log"))
