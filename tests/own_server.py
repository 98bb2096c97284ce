"""Asking a server that this project started, as its pages or a stranger would."""

import http.client
import json
import uuid
from urllib.parse import urlsplit

from tenacity import retry, retry_if_result, stop_after_attempt, wait_fixed

from flows.orchestration.own_server_environment import TOKEN_HEADER


def request(url: str, body=None, method: str | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (small letters) and body of the answer; redirections are not followed."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    given = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method or ("GET" if body is None else "POST"), path,
                       None if body is None else json.dumps(body), given)  # fmt: skip
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@retry(retry=retry_if_result(lambda answer: answer[0] == 503), stop=stop_after_attempt(300), wait=wait_fixed(0.2),
       retry_error_callback=lambda state: state.outcome.result())  # fmt: skip
def ask(url: str, token: str, body=None):
    """Status and answer of Prefect's API to who knows the token and, for a change, asks for leave first (CSRF). Asked
    again, as Prefect's client does, while a 503 says that SQLite has another writer."""
    headers = {TOKEN_HEADER: token}
    if body is not None:
        client = str(uuid.uuid4())
        leave = request(f"{url[:url.index('/api')]}/api/csrf-token?client={client}", **headers)
        if leave[0] != 200:
            return leave[0], None
        headers |= {"Prefect-Csrf-Token": json.loads(leave[2])["token"], "Prefect-Csrf-Client": client}
    status, _, answer = request(url, body, **headers)
    return status, json.loads(answer or b"null")


def client_of(serve_json: str) -> dict[str, str]:
    """The variables with which Prefect's client talks to the server of a `fewstep serve`, from what that one wrote."""
    facts = json.loads(serve_json)
    return {"PREFECT_API_URL": facts["url"] + "/api",
            "PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({TOKEN_HEADER: facts["token"]})}
