from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hart.pipeline import HARTPipeline
from hart.server.application import Access, build_application
from hart.server.drawing import PipelineDrawing, served_model
from hart.server.metrics import Metrics
from hart.server.queue import DrawingQueue
from hart.web.listening import listening, running
from tests.pipeline.checkpoint_folder import make_checkpoint

PATIENCE_S = 300
"""For a slow machine that does other work; nothing here takes that long by itself."""

NAME = "tiny"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("server") / NAME)


@pytest.fixture(scope="session")
def pipeline(checkpoint) -> HARTPipeline:
    return HARTPipeline.from_pretrained(checkpoint, device="cpu", system_prompt="")


class Server:
    """A server in this process.

    Attributes:
        url: its root.
        queue, drawing: what it draws with.
    """

    def __init__(self, pipeline: HARTPipeline, max_waiting: int, access: Access) -> None:
        self.drawing: Any = PipelineDrawing(pipeline)
        self.metrics = Metrics()
        self.queue = DrawingQueue(self._draw, 4, max_waiting, self.metrics.count_batch)
        self.metrics.watch(self.queue)
        served = served_model(pipeline, NAME, max_images=5, max_prompt=200)
        self.application = build_application(served, self.queue, self.metrics, access)
        self.url = ""

    def _draw(self, *arguments: Any) -> Any:
        return self.drawing(*arguments)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=PATIENCE_S, **options)

    def post(self, content: Any, **options: Any) -> httpx.Response:
        url = f"{self.url}/v1/images/generations"
        return httpx.post(url, json=content, timeout=PATIENCE_S, **options)

    def counted(self, line: str) -> float:
        """The value after a name in the metrics; 0 without any."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(each.rpartition(" ")[2]) for each in lines if each.startswith(line))


@contextlib.contextmanager
def serving(
    pipeline: HARTPipeline, max_waiting: int = 64, access: Access | None = None
) -> Iterator[Server]:
    server = Server(pipeline, max_waiting, access or Access())
    with contextlib.closing(server.queue), listening("127.0.0.1", 0, "the server") as listener:
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with running(server.application, listener, grace_s=PATIENCE_S, wait_s=PATIENCE_S):
            yield server
            server.queue.drain()


@pytest.fixture
def server(pipeline) -> Iterator[Server]:
    with serving(pipeline) as server:
        yield server


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
