"""Serving the page."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hart.utils.files import real_path
from hart.web import DEFAULT_PORT, LOOPBACK
from hart.web.guard import AllowedHosts, Guard
from hart.web.handlers import Handlers
from hart.web.page import STYLE_FILE, gradio_module, page_theme
from hart.web.results import swept

if TYPE_CHECKING:
    import gradio

MAX_SESSIONS = 50
"""Visitors whose page's state the server keeps; older ones start anew with their next click."""

_START_S, _STOP_S = 30.0, 5.0


@dataclass(frozen=True)
class Address:
    """Where the page is, and for whom.

    Attributes:
        host, port: to listen at.
        allowed_hosts: further names to answer to, see :class:`AllowedHosts`.
        auth: user and password; None lets everybody in.
        root_path: path under which a proxy serves the page, or its whole address; the proxy is
            expected to take the path off.
    """

    host: str = LOOPBACK
    port: int = DEFAULT_PORT
    allowed_hosts: Sequence[str] = ()
    auth: tuple[str, str] | None = None
    root_path: str | None = None


def prepare_folder(folder: Path) -> None:
    """Make the output folder; OSError if it cannot be created or written to."""
    folder = real_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


@contextlib.contextmanager
def serving(page: gradio.Blocks, handlers: Handlers, where: Address = Address()) -> Iterator[str]:
    """Serve a page inside the block; yields its address.

    Of the machine's files only the results of the page's requests can be fetched. Requests' folders
    are removed by :class:`hart.web.results.Keep`.

    Raises:
        OSError: the address cannot be bound.
    """
    with _listening(where) as listener, swept(handlers.results):
        server = _server(_application(page, handlers, where))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield _address(where)
        finally:
            page.close(verbose=False)
            server.should_exit = True
            thread.join(_STOP_S)


def _application(page: gradio.Blocks, handlers: Handlers, where: Address) -> Any:
    import fastapi  # comes with gradio

    gr = gradio_module()
    folder = str(handlers.results.root)
    gr.set_static_paths([folder])  # or gradio would copy every picture before it serves it
    page.state_session_capacity = MAX_SESSIONS
    outside = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    outside.add_middleware(
        Guard,
        hosts=AllowedHosts(where.host, where.allowed_hosts),
        results=handlers.results,
        visitors=handlers.visitors,
        functions={
            function["id"]: len(function["inputs"])
            for function in page.get_config_file()["dependencies"]
            if function["backend_fn"]
        },
    )
    off = dict.fromkeys(("ssr_mode", "run_history", "enable_monitoring", "mcp_server"), False)
    look = {"theme": page_theme(gr), "css_paths": STYLE_FILE, "footer_links": []}
    return gr.mount_gradio_app(
        outside,
        page,
        path="/",
        server_name=where.host,
        server_port=where.port,
        auth=where.auth,
        root_path=where.root_path,
        show_error=True,
        allowed_paths=[folder],
        **look,
        **off,
    )


def _server(application: Any) -> Any:
    import uvicorn  # comes with gradio

    options: dict[str, Any] = {"log_level": "warning", "ws": "none", "timeout_graceful_shutdown": 1}
    return uvicorn.Server(uvicorn.Config(application, limit_concurrency=1000, **options))


@contextlib.contextmanager
def _listening(where: Address) -> Iterator[socket.socket]:
    try:
        host = where.host.strip("[]")
        found = socket.getaddrinfo(host, where.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        raise OSError(
            f"the page cannot be served at {where.host}, port {where.port} "
            f"({error.strerror or error}); choose another address with --host or --port"
        ) from error
    with listener:
        yield listener


def _wait_until_started(server: Any, thread: threading.Thread) -> None:
    end = time.monotonic() + _START_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise OSError("the server behind the page did not start")
        time.sleep(0.01)


def _address(where: Address) -> str:
    host = where.host.strip("[]")
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{where.port}/"
