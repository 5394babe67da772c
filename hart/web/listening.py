"""An ASGI application at an address, in a thread of its own. uvicorn comes with the extras."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

_START_S = 30.0


@contextlib.contextmanager
def listening(host: str, port: int, what: str) -> Iterator[socket.socket]:
    """A socket that listens; ``what`` is to be served there.

    Raises:
        OSError: the address cannot be bound.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        raise OSError(
            f"{what} cannot be served at {host.strip('[]')}, port {port} "
            f"({error.strerror or error}); choose another address with --host or --port"
        ) from error
    with listener:
        yield listener


@contextlib.contextmanager
def running(
    application: Any, listener: socket.socket, *, grace_s: float, wait_s: float, **options: Any
) -> Iterator[None]:
    """Serve inside the block; at its end nothing new is taken.

    Args:
        grace_s: how long requests at hand may take after that before they are cancelled.
        wait_s: how long that is waited for.
        options: further ones of ``uvicorn.Config``.

    Raises:
        OSError: the server did not start.
    """
    import uvicorn

    how: dict[str, Any] = {"log_level": "warning", "ws": "none", **options}
    config = uvicorn.Config(application, timeout_graceful_shutdown=int(grace_s), **how)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        _wait_until_started(server, thread)
        yield
    finally:
        server.should_exit = True
        thread.join(wait_s)


def url_of(host: str, port: int) -> str:
    """The address as a person on this machine types it."""
    host = host.strip("[]")
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _wait_until_started(server: Any, thread: threading.Thread) -> None:
    end = time.monotonic() + _START_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise OSError("the server did not start")
        time.sleep(0.01)
