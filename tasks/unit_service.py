"""`python -m tasks.unit` on a port, where no command starts a process on another node:

    python -m tasks.unit_service serve PORT             # there; for one after the other, until it is ended
    python -m tasks.unit_service reach HOST PORT        # as compute.launch; NODE in HOST stands for $FEWSTEP_NODE

Whoever reaches the port has the process do work: the network must be yours alone, as it must be for the training.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

from tasks.engine.group.meeting import notice_silence
from tasks.engine.group.nodes import NODE
from tasks.storage.workspace import child_environment

_AGAIN = 1.0    # seconds between two tries to reach one that has not begun


def serve(port: int) -> None:
    """Starts a process for each connection, which is its standard input and output; it ends with the connection."""
    with socket.create_server(("", port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                notice_silence(connection.fileno())
                child = subprocess.Popen([sys.executable, "-m", "tasks.unit"], stdin=connection, stdout=connection,
                                         env=child_environment(os.environ))  # fmt: skip
            child.wait()


def reach(host: str, port: int) -> None:
    """Carries this process's standard input there, and to its standard output what comes back, until that ends."""
    with _connected(host.replace("NODE", os.environ.get(NODE, "")), port) as connection:
        notice_silence(connection.fileno())
        threading.Thread(target=_send, args=(connection,), daemon=True).start()
        while data := connection.recv(1 << 16):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _connected(host: str, port: int) -> socket.socket:
    """Waits for as long as it takes: a node may have to come up first; the run says what it waits for."""
    said = None
    while True:
        try:
            return socket.create_connection((host, port))
        except OSError as error:    # it has no address, or does not listen
            if str(error) != said:
                said = str(error)
                print(f"{host}:{port}: {said}", file=sys.stderr, flush=True)
        time.sleep(_AGAIN)


def _send(connection: socket.socket) -> None:
    """What is read is passed on at once; the end of it is passed on, too."""
    while data := os.read(0, 1 << 16):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        reach(sys.argv[2], int(sys.argv[3]))
