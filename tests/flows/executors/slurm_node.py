"""A Slurm cluster on this machine, of one node or of several, of Debian's packages slurm-wlm and munge; root alone may
start it. Its nodes n1, n2, … are a daemon each, with a port of its own; the last one may be on another host."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import netns

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "scancel", "squeue")
_READY = 60     # seconds that it may take on a busy machine
_FAR_PATIENCE = 20      # seconds after which a node that is silent is taken for lost
_CONFIGURATION = """ClusterName=test
SlurmctldHost={host}({address})
SlurmdTimeout={patience}
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=30
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
ReturnToService=2
MpiDefault=none
{nodes}
PartitionName=units Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm_node(folder: Path, nodes: int = 1, far: netns.Host | None = None,
               within: tuple[str, ...] = ()) -> Iterator[dict[str, str]]:  # fmt: skip
    """The cluster while the block lasts; yields the environment in which its commands find it. far: the host of the
    last node, whose daemon is run by the command `within`."""
    host = socket.gethostname().partition(".")[0]
    (folder / "state").mkdir(parents=True)
    names = [f"n{number + 1}" for number in range(nodes)]
    for name in names:
        (folder / f"spool-{name}").mkdir()
    controller, *ports = _free_ports(1 + nodes)
    here = far.address if far else "127.0.0.1"
    where = {name: far.own if far and name == names[-1] else here for name in names}
    lines = [f"NodeName={name} NodeHostname={host} NodeAddr={where[name]} Port={port} CPUs=2 RealMemory=4000 "
             "Gres=gpu:2 State=UNKNOWN" for name, port in zip(names, ports, strict=True)]  # fmt: skip
    file = folder / "slurm.conf"
    file.write_text(_CONFIGURATION.format(host=host, address=here, folder=folder, controller=controller,
                                          patience=_FAR_PATIENCE if far else 300, nodes="\n".join(lines)))
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
    for number in range(2):
        (folder / f"gpu{number}").touch()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environment = {"SLURM_CONF": str(file)}
    files = ("socket", "pid-file", "log-file", "seed-file")
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in files]
    commands = (["munged", "--foreground", "--force", f"--key-file={key}", *munge],
                ["slurmctld", "-D", "-f", str(file)],
                *([*(within if where[name] != here else ()), "slurmd", "-D", "-f", str(file), "-N", name]
                  for name in names))
    started = []
    try:
        for command in commands:
            with open(folder / f"{len(started)}.log", "wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment},
                                                start_new_session=True))
        until = time.monotonic() + _READY
        while subprocess.run(["sinfo", "-h", "-N", "-o", "%t"], env={**os.environ, **environment}, capture_output=True,
                             text=True).stdout.split() != ["idle"] * nodes:
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


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


def logs(folder: Path) -> str:
    return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in folder.glob("*.log"))
