"""Serving the page."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hart.utils.files import real_path
from hart.web import DEFAULT_PORT, LOOPBACK
from hart.web.guard import AllowedHosts, Guard
from hart.web.handlers import Handlers
from hart.web.listening import listening, running, url_of
from hart.web.page import STYLE_FILE, gradio_module, page_theme
from hart.web.results import swept

if TYPE_CHECKING:
    import gradio

MAX_SESSIONS = 50
"""Visitors whose page's state the server keeps; older ones start anew with their next click."""

_STOP_S = 5.0


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
    with (
        listening(where.host, where.port, "the page") as listener,
        swept(handlers.results),
        running(
            _application(page, handlers, where),
            listener,
            grace_s=1,
            wait_s=_STOP_S,
            limit_concurrency=1000,
        ),
    ):
        try:
            yield url_of(where.host, where.port)
        finally:
            page.close(verbose=False)


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
