"""Many visitors of the page: does its memory, or its folder, grow with them?

Run ``python -m benchmarks.page_soak``. A page with a tiny random model is served in this process;
visitors come one after the other, each in a session of its own, as a browser talks to it.
Qualities, comparisons, previews and the number of prompts change from one to the next. Asked at the
end: how much more memory does the process hold than after the first hundred, and how much lies in
the output folder?
"""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.common import benchmark_parser, memory_growth, progress, save_growth
from hart.evaluation.memory import resident_bytes
from hart.evaluation.random_weights import assumed_similarity, random_pipeline
from hart.modules.networks.caching.presets import QUALITY_LEVELS
from hart.web.handlers import Handlers
from hart.web.page import PageOptions, build_page
from hart.web.results import Keep
from hart.web.server import LOOPBACK, Address, prepare_folder, serving
from hart.web.studio import Studio

PATIENCE_S = 120
KEPT = 20
PERIOD = 24
"""Requests after which qualities and everything else begin again together."""


class PageError(AssertionError):
    """The page answered something else than was to be expected."""


class Visitor:
    """Somebody who talks to the page as a browser does.

    Args:
        address: of the page.
        session: what the page knows the visitor by; a new one by default.
        headers: sent with every request.
    """

    def __init__(
        self, address: str, session: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self._site = urlsplit(address)
        self.session = session or uuid.uuid4().hex[:12]
        self._headers = headers or {}

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of an answer."""
        with contextlib.closing(self._connection()) as connection:
            connection.request(method, path, body, {**self._headers, **headers})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def function(self, button: str) -> int:
        """The number of what a button with an HTML id starts."""
        _, _, config = self.ask("GET", "/config")
        config = json.loads(config)
        ids = [c["id"] for c in config["components"] if c["props"].get("elem_id") == button]
        numbers = [
            (len(function["outputs"]), function["id"])
            for function in config["dependencies"]
            if [*ids, "click"] in function["targets"]
        ]
        return max(numbers)[1]  # the one that changes most of the page

    def join(self, function: int, values: list[Any]) -> tuple[int, dict[str, Any]]:
        """Ask for a function; status and content of the answer."""
        call = {"fn_index": function, "data": values, "session_hash": self.session}
        status, _, body = self.ask(
            "POST",
            "/gradio_api/queue/join",
            json.dumps(call).encode(),
            **{"Content-Type": "application/json"},
        )
        return status, json.loads(body)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Iterator[dict[str, Any]]]:
        """A connection over which messages come."""
        with contextlib.closing(self._connection()) as connection:
            path = f"/gradio_api/queue/data?session_hash={self.session}"
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
            with answer:
                yield (json.loads(line[6:]) for line in answer if line.startswith(b"data: "))

    def call(self, function: int, values: list[Any]) -> list[Any]:
        """Ask for a function, and all that it shows in the end: its last values by output."""
        status, answer = self.join(function, values)
        if status != 200:
            raise PageError(f"{status}: {answer}")
        shown: list[Any] = []
        with self.listening() as messages:
            for message in messages:
                if message["msg"] == "process_generating":
                    shown.append(message["output"])
                elif message["msg"] == "process_completed":
                    shown.append(message["output"])
                    return shown
        raise PageError("the page stopped talking")

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(
            self._site.hostname or LOOPBACK, self._site.port, timeout=PATIENCE_S
        )


def drawing(number: int) -> list[Any]:
    """What the fields of the page hold at the ``number``-th request."""
    qualities = list(QUALITY_LEVELS)
    prompts = "\n".join(f"picture {i}" for i in range(1 + number % 2))
    compare, previews = number % 6 == 0, number % 4 == 0
    fields = [[], ["attn", "mlp"], 0.7, False, "bilinear"]
    quality = qualities[number % 12 % len(qualities)]
    return [prompts, number, 4.5, quality, "original", *fields, compare, previews]


def run(address: str, requests: int, quiet: bool) -> list[int]:
    """Draw, and return the resident bytes after every request."""
    draw = Visitor(address).function("draw-button")
    memory = []
    for number in progress(range(requests), "request", quiet):
        shown = Visitor(address).call(draw, drawing(number))
        if not shown[-1] or "Done." not in json.dumps(shown):
            raise PageError(f"request {number}: {json.dumps(shown[-1])[:300]}")
        gc.collect()
        memory.append(resident_bytes() or 0)
    return memory


def growth(memory: list[int], settled: int) -> dict[str, Any]:
    """Most memory in a period before request ``settled`` and in the last one."""
    return memory_growth(memory[settled - PERIOD : settled], memory[-PERIOD:])


@contextlib.contextmanager
def tiny_page(folder: Path) -> Iterator[tuple[str, Handlers]]:
    """A page on a tiny random model: its address, and what it does."""
    pipeline = random_pipeline("tiny", 0, "cpu", "float32")
    pipeline.model.similarity = assumed_similarity(pipeline.model, 0.9)
    prepare_folder(folder)
    handlers = Handlers(Studio(pipeline), "a tiny model", folder, 2, Keep(KEPT))
    page = build_page(handlers, PageOptions(["a picture"], ["a picture"]))
    with serving(page, handlers, Address(port=free_port())) as address:
        yield address, handlers


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser("page_soak")
    parser.add_argument("--requests", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--settled", type=int, default=100, help="requests before memory counts")
    args = parser.parse_args(argv)
    if not PERIOD <= args.settled <= args.requests - PERIOD:
        parser.error(f"--settled must be from {PERIOD} to --requests - {PERIOD}")
    with tempfile.TemporaryDirectory() as name, tiny_page(Path(name)) as (address, handlers):
        memory = run(address, args.requests, args.quiet)
        folders = len(list(Path(name).iterdir()))
        pipeline = handlers.studio.pipeline
    said = f"{folders} folders left of {KEPT} to keep"
    save_growth(args, pipeline, "requests", said, growth(memory, args.settled), memory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
