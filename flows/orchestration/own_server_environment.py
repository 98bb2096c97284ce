"""The environment of a server that this project starts for itself, and of who talks to it.

Variables that a user sets for another Prefect server (its database, its login, a prefix of its addresses) or for the
way out of a company's network (a proxy) would reach a server on this machine too, and nothing would answer.
"""

from __future__ import annotations

from collections.abc import MutableMapping

LOOPBACK = ("127.0.0.1", "localhost")
TOKEN_HEADER, TOKEN_PARAMETER = "X-Fewstep-Token", "token"      # how a server of ours is told its token
_OTHERS = ("PREFECT_SERVER_", "PREFECT_API_DATABASE_")
_LOGIN = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")


def reach_loopback(environment: MutableMapping[str, str]) -> None:
    """Adds this machine to what is reached without a proxy, in both spellings: clients differ in the one they read."""
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in known.split(",") if host.strip()]
    if "*" not in hosts:    # all of them already, and only where it stands alone
        hosts += [host for host in LOOPBACK if host not in hosts]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(hosts)


def leave_out_other_servers(environment: MutableMapping[str, str], *, keep_login: bool = False) -> None:
    """Removes what was set for another Prefect server.

    Args:
        environment: is changed.
        keep_login: for a server that other processes use: the login that its user asked for stays.
    """
    for name in list(environment):
        if name in _LOGIN:
            if not keep_login:
                del environment[name]
        elif name.startswith(_OTHERS):
            del environment[name]
