"""What stands before a server that this project starts: it obeys its own pages and who knows its token, nobody else.

A page of any site that is open in a browser on this machine can send requests to 127.0.0.1, and by a name of its own
that it lets point there (DNS rebinding) read the answers. Prefect's server (3.8) checks neither; MLflow's checks some.
So a request must name this machine (Host), come from a page of this very server if it comes from a page (Origin), and
hold the token of the session: in the printed address once, then in a cookie; programs in a header.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import socket
from urllib.parse import urlencode, urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.orchestration.own_server_environment import TOKEN_HEADER, TOKEN_PARAMETER

OPEN = ("/health", "/api/health")   # say nothing but that the server is up
_ANY = ("0.0.0.0", "::", "")


def own_names(listening: str) -> frozenset[str]:
    """The names by which a server that listens on the address `listening` may be called."""
    names = {"localhost", listening}
    if listening in _ANY:
        names |= {socket.gethostname(), socket.getfqdn()}
    return frozenset(name.lower() for name in names if name not in _ANY)


class PageGuard:
    """An ASGI application that passes on to `app` what may be asked of it.

    Args:
        app: the application.
        token: of this session.
        names: host names that are this machine's. An address in digits is always taken: no page can make its own name
            of it.
    """

    def __init__(self, app: ASGIApp, token: str, names: frozenset[str]):
        self.app, self.token, self.names = app, token, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        answer = self._answer(HTTPConnection(scope))
        if answer is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await answer(scope, receive, send)

    def _answer(self, asked: HTTPConnection) -> Response | None:
        """What is answered in the place of the application; None where it may answer itself."""
        host, origin = asked.headers.get("host", ""), asked.headers.get("origin")
        if not self._is_ours(host):
            return PlainTextResponse("this server has another name\n", 403)
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return PlainTextResponse("pages of other sites may ask nothing here\n", 403)
        if asked.url.path in OPEN:
            return None
        cookie = f"fewstep-{(asked.scope.get('server') or ('', 0))[1]}"     # a browser's cookies know no port
        if asked.scope["type"] == "http" and self._fits(asked.query_params.get(TOKEN_PARAMETER)):
            left = [pair for pair in asked.query_params.multi_items() if pair[0] != TOKEN_PARAMETER]
            entered = RedirectResponse(asked.url.path + (f"?{urlencode(left)}" if left else ""), 303)
            entered.set_cookie(cookie, self.token, httponly=True, samesite="lax")
            return entered
        if any(map(self._fits, (asked.headers.get(TOKEN_HEADER), asked.cookies.get(cookie), _login(asked)))):
            return None
        return PlainTextResponse("open the address with its token, as the command that serves printed it; programs "
                                 f"send it as the header {TOKEN_HEADER} or as a password\n", 401)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            ipaddress.ip_address(name)
        except ValueError:
            return not host.startswith("[") and name.lower() in self.names
        return True

    def _fits(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())


def _login(asked: HTTPConnection) -> str | None:
    """The password of a Basic or the token of a Bearer authorisation."""
    scheme, _, value = asked.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None
