"""What stands before the server behind the page and lets through only what the page uses.

That includes the host names that the page answers to, so that no foreign web site reaches it
through a browser.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from hart.web.results import Results
from hart.web.visitors import Visitors

ANY_NAME = "*"
MAX_BODY_BYTES = 4 * 2**20
"""Of a request; enough for every prompt that the page takes."""

_API = "/gradio_api"
_FILE = f"{_API}/file="
_EVENTS = f"{_API}/queue/data"
_CALLS = (f"{_API}/queue/join", f"{_API}/run/predict")
_READ = re.compile(
    rf"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/pwa_icon(/\d+)?|/logout"
    rf"|/(assets|static|svelte)/.+|{_API}/(info|startup-events|login_check|user|app_id|theme\.css)/?"
    rf"|{_EVENTS}|{_API}/heartbeat/[\w-]{{1,64}}|{re.escape(_FILE)}.+"
)
_WRITE = re.compile(rf"/login/?|{_API}/(queue/join|run/predict|cancel|reset)/?")
_SESSION = re.compile(r"[\w-]{1,64}")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")

_HEADERS = {
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "frame-ancestors 'self'",
}
# A file is shown, or kept, but is never a page of its own.
_FILE_HEADERS = {**_HEADERS, "content-security-policy": "sandbox; default-src 'none'"}

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RefusedError(Exception):
    """A request that is not answered; why, for whoever sent it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def is_loopback(host: str) -> bool:
    """Whether an address to listen at can only be reached from this machine."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


class AllowedHosts:
    """The names in a request's ``Host`` header, and the web sites in its ``Origin`` header.

    A page at a loopback address answers to ``localhost`` and loopback addresses; one at any other
    address to that, to all numeric addresses and to this machine's name. A browser that a web site
    has led here under the site's own name (DNS rebinding) names that one.

    Args:
        host: the address to listen at.
        names: further names, as a proxy or the DNS has them; ``*`` stands for all.
    """

    def __init__(self, host: str, names: Sequence[str] = ()) -> None:
        self._given = {name.lower() for name in names}
        self._own = {"localhost", host.lower().strip("[]")}
        self._only_loopback = is_loopback(host)
        if not self._only_loopback:
            self._own.add(socket.gethostname().lower())

    def answers_to(self, host: str) -> bool:
        """Whether a ``Host`` header, with or without a port, names this page."""
        match = _HOST.fullmatch(host.lower())
        if match is None:
            return False
        name = match[1].strip("[]")
        if name in self._own | self._given or ANY_NAME in self._given:
            return True
        address = _address(name)
        return address is not None and (address.is_loopback or not self._only_loopback)

    def is_own_site(self, origin: str, host: str) -> bool:
        """Whether ``origin`` is the page itself: the site of the ``Host`` header, or of a name
        that was given, because a proxy may have put another one into that header."""
        scheme, _, site = origin.lower().partition("://")
        match = _HOST.fullmatch(site)
        if scheme not in ("http", "https") or match is None:
            return False
        return site == host.lower() or match[1].strip("[]") in self._given


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


class Guard:
    """ASGI middleware around the whole server.

    gradio's server has more routes than this page needs, some of which take files, fetch from
    elsewhere or serve what lies on the disk; and it answers to any host. Here a request passes
    only if its host, its origin, its path, its size, its values and the file that it asks for are
    the page's own. Whatever routes another version of gradio adds are closed as well.

    Args:
        app: the server.
        hosts: names that are answered to.
        results: files that may be fetched.
        visitors: is told who listens.
        functions: how many values each of the page's functions takes, by its number.
    """

    def __init__(
        self, app, hosts: AllowedHosts, results: Results, visitors: Visitors,
        functions: Mapping[int, int],
    ) -> None:  # fmt: skip
        self._app, self._hosts, self._functions = app, hosts, functions
        self._results, self._visitors = results, visitors

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"]
        try:
            self._check_site(scope)
            self._check_path(scope["method"], path)
            if scope["method"] == "POST":
                receive = await self._checked_body(path, receive)
        except RefusedError as refused:
            await _answer(send, refused)
            return
        headers = _FILE_HEADERS if path.startswith(_FILE) else _HEADERS
        # Files are answered whole, which HTTP allows: gradio fails at several ranges.
        scope = {**scope, "headers": [(k, v) for k, v in scope["headers"] if k.lower() != b"range"]}
        with self._connection(scope):
            await self._app(scope, receive, _with_headers(send, headers))

    def _check_site(self, scope: Mapping[str, Any]) -> None:
        """Host and origin; a browser sends the latter, and the ``sec-fetch`` headers, truly."""
        hosts = _values(scope, b"host")
        if len(hosts) != 1:
            raise RefusedError(400, "A request needs one Host header.")
        for name in [*hosts, *_values(scope, b"x-forwarded-host")]:
            if not self._hosts.answers_to(name):
                raise RefusedError(
                    421,
                    f"This page does not answer to the host name {name[:100]!r}. If that is where "
                    "it belongs, start it with --allowed_host and that name without the port.",
                )
        for origin in _values(scope, b"origin"):
            if not self._hosts.is_own_site(origin, hosts[0]):
                raise RefusedError(
                    403,
                    f"The web site {origin[:100]!r} is not this page. If the page is reached "
                    "under that name, start it with --allowed_host and the name.",
                )
        foreign = {"cross-site", "same-site"} & set(_values(scope, b"sec-fetch-site"))
        is_link = scope["path"] == "/" and _values(scope, b"sec-fetch-mode") == ["navigate"]
        if foreign and not is_link:
            raise RefusedError(403, "Another web site asked for this; only its first page is open.")

    def _check_path(self, method: str, path: str) -> None:
        reads = _READ.fullmatch(path) is not None
        if not reads and not _WRITE.fullmatch(path):
            raise RefusedError(404, "This page has no such address.")
        if method not in (("GET", "HEAD") if reads else ("POST",)):
            raise RefusedError(405, "This address does not do that.")
        if path.startswith(_FILE) and not self._results.serves(path.removeprefix(_FILE)):
            raise RefusedError(404, "The page has no such file, or has it no longer.")

    def _connection(self, scope: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
        if scope["path"] != _EVENTS:
            return contextlib.nullcontext()
        query = parse_qs(scope["query_string"].decode("latin-1"))
        return self._visitors.connected(query.get("session_hash", [""])[-1])

    async def _checked_body(self, path: str, receive: Receive) -> Receive:
        """Read and check a request's body; what is returned hands it on."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise RefusedError(400, "The request ended early.")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY_BYTES:
                raise RefusedError(413, f"A request may have {MAX_BODY_BYTES} bytes.")
        if path.rstrip("/") in _CALLS:
            check_call(body, self._functions)
        elif path.startswith(_API):
            _json_object(body)
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def handed_on() -> Message:
            return whole.pop() if whole else await receive()

        return handed_on


def _values(scope: Mapping[str, Any], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def check_call(body: bytes, functions: Mapping[int, int]) -> None:
    """Refuse what is no call of one of the page's ``functions``, with values as its fields have.

    Objects are none: with them gradio lets a caller name files and addresses to fetch from.
    """
    call = _json_object(body)
    if not isinstance(call.get("data"), list):
        raise RefusedError(422, "The request must be an object with a list called data.")
    session = call.get("session_hash")
    if not isinstance(session, str) or not _SESSION.fullmatch(session):
        raise RefusedError(422, "session_hash must be up to 64 letters and digits.")
    number = call.get("fn_index")
    if type(number) is not int or number not in functions:
        raise RefusedError(422, "fn_index must be the number of one of the page's functions.")
    if len(call["data"]) != functions[number]:
        raise RefusedError(422, f"This function takes {functions[number]} values.")
    for place, value in enumerate(call["data"], start=1):
        if not all(map(_is_plain, value if isinstance(value, list) else [value])):
            raise RefusedError(
                422, f"Value {place} must be text, a number, true, false or a list of them."
            )


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The request is not JSON.") from None
    if not isinstance(content, dict):
        raise RefusedError(422, "The request must be an object.")
    return content


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


async def _answer(send: Send, refused: RefusedError) -> None:
    # "detail" is where gradio's clients look for a reason.
    body = json.dumps({"detail": str(refused)}).encode()
    headers = {**_HEADERS, "content-type": "application/json", "content-length": str(len(body))}
    pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    """Add ``headers`` to the answer and take out what would let other web sites read it."""

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (key, value)
                for key, value in message.get("headers", [])
                if not key.lower().startswith(b"access-control-")
                and key.lower().decode("latin-1") not in headers
            ]
            added = [(key.encode(), value.encode()) for key, value in headers.items()]
            message = {**message, "headers": kept + added}
        await send(message)

    return sender
