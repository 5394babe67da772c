"""Serving the page."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hart.utils.files import real_path
from hart.web.address import DEFAULT_PORT, LOOPBACK
from hart.web.page import STYLE_FILE, gradio_module, page_theme

if TYPE_CHECKING:
    import gradio

MAX_UPLOAD = "1mb"
"""The page takes no files, but the server behind it would."""

_FOLDER_VARIABLE = "GRADIO_TEMP_DIR"


@contextlib.contextmanager
def page_folder(folder: Path) -> Iterator[None]:
    """Let components that are built inside keep what they show below ``folder``.

    Raises:
        OSError: the folder cannot be created or written to.
    """
    shown = real_path(folder) / "shown"
    shown.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=shown):
        pass
    before = os.environ.get(_FOLDER_VARIABLE)
    os.environ[_FOLDER_VARIABLE] = str(shown)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FOLDER_VARIABLE]
        else:
            os.environ[_FOLDER_VARIABLE] = before


@contextlib.contextmanager
def serving(
    page: gradio.Blocks, folder: Path, host: str = LOOPBACK, port: int = DEFAULT_PORT
) -> Iterator[str]:
    """Serve a page inside the block; yields its address. Use inside :func:`page_folder`.

    Of the machine's files only those below ``folder`` can be fetched.

    Raises:
        OSError: the address cannot be bound.
    """
    gr = gradio_module()
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            share=False,
            quiet=True,
            inbrowser=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            show_error=True,
            footer_links=[],
            max_file_size=MAX_UPLOAD,
            allowed_paths=[str(real_path(folder))],
            theme=page_theme(gr),
            css_paths=STYLE_FILE,
        )
    except OSError as error:
        raise OSError(
            f"the page cannot be served at {host}, port {port}; choose another address with "
            "--host or --port"
        ) from error
    try:
        yield address
    finally:
        page.close(verbose=False)
