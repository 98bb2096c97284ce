"""How processes that train together find each other: by a file of their machine, or at the first one's address.

Whoever reaches that address can take part in the training: the network between nodes is trusted, as torch trusts it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from fewstep.util.errors import NotAvailable

if TYPE_CHECKING:
    from torch import distributed

ADDRESS = "FEWSTEP_ADDRESS"
"""Environment variable: name or address by which other nodes reach the host that a run is on; default: its name."""
_PATIENCE = timedelta(days=7)
"""How long a process waits for the others: one of them may be making a round's pairs alone."""
_ENTER = timedelta(minutes=5)
_SILENT = 90
"""Seconds after which a host that does not answer counts as gone; a process that is busy answers by its kernel."""
_SIOCGIFADDR = 0x8915


class Meeting:
    """Where processes of several hosts find each other, at the address of this one, for as long as this lives."""

    def __init__(self, size: int):
        from torch import distributed

        self.store = distributed.TCPStore("127.0.0.1", 0, size, True, _PATIENCE, wait_for_workers=False)
        self.address = f"tcp://{os.environ.get(ADDRESS) or socket.gethostname()}:{self.store.port}"


def join(address: str, rank: int, size: int, local_rank: int, store: distributed.Store | None = None) -> None:
    """Make this process one of the group that meets at `address`: on its own GPU where there are GPUs.

    store: of the process whose address it is. Raises NotAvailable where nobody answers at the address.
    """
    import torch
    from torch import distributed

    from fewstep.training.distributed import backends

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local_rank)
    begin = partial(distributed.init_process_group, backends(gpu), rank=rank, world_size=size, timeout=_PATIENCE)
    if address.startswith("file:"):
        begin(init_method=address)
        return
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    _use_interface_towards(host)
    if store is None:
        try:
            store = distributed.TCPStore(host, int(port), size, False, _ENTER)
        except distributed.DistError as error:
            raise NotAvailable(f"{socket.gethostname()} does not reach the run's host at {host}:{port}: "
                               f"{str(error).splitlines()[0]}",
                               hint=f"{ADDRESS}, where the run is started, says by which address it is reached"
                               ) from error
        store.set_timeout(_PATIENCE)
    before = _sockets()
    begin(store=store)
    for descriptor in _sockets() - before:
        notice_silence(descriptor)


def own_address(host: str) -> str | None:
    """This host's address towards another one; None where that is of another family, or unknown."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))    # sends nothing
        except OSError:
            return None
        return probe.getsockname()[0]


def _use_interface_towards(host: str) -> None:
    """Have gloo and nccl listen where `host` is reached, instead of at whatever this host's name means to itself."""
    own = own_address(host)
    if own is None:
        return      # what follows says so
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                found = socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])
            except OSError:     # it has no address
                continue
            if found == own:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
                os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _sockets() -> set[int]:
    """Descriptors of this process that are TCP connections."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.add(int(name))
        except OSError:     # the one that listed them
            continue
    return found


def notice_silence(descriptor: int) -> None:
    """Have a connection break whose other end has gone without a word, which torch waits for."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, _SILENT // 3), (socket.TCP_KEEPINTVL, _SILENT // 9),
                              (socket.TCP_KEEPCNT, 6), (socket.TCP_USER_TIMEOUT, 1000 * _SILENT)):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
