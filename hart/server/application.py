"""The routes: OpenAI's for images and models, one for a load balancer and one for Prometheus."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hart.evaluation.extras import import_extra
from hart.pipeline import HARTPipeline, ImageResult
from hart.pipeline.options import DEFAULT_BATCH_SIZE
from hart.server import DEFAULT_SERVER_WAITING
from hart.server.drawing import PipelineDrawing, answer, served_model
from hart.server.errors import FAILED, ApiError
from hart.server.metrics import Metrics
from hart.server.queue import DrawingQueue, Ticket
from hart.server.requests import Served, read_request, unknown_model
from hart.web.guard import AllowedHosts

_JSON = "application/json"
_BYTES_PER_CHARACTER = 12
"""Of a prompt in JSON, at most: a pair of escapes such as ``\\ud83d\\ude00``."""

_OTHER_BYTES = 1 << 16
CLIENT_GONE = 499
"""As nginx has it: nobody reads the answer."""

Endpoint = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True)
class Access:
    """Who is answered.

    Attributes:
        api_key: what a client has to know for everything under ``/v1``; None asks nobody.
        hosts: names in the ``Host`` header that are answered to; None answers to all. Without a key
            it keeps web sites from reaching a private server through a browser.
    """

    api_key: str | None = field(default=None, repr=False)
    hosts: AllowedHosts | None = None

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Refuse a request; ApiError says why."""
        host = headers.get("host", "")
        if self.hosts is not None and not self.hosts.answers_to(host):
            raise ApiError(
                421,
                f"this server does not answer to the host name {host[:100]!r}; --allowed_host NAME "
                "or --api-key lets it",
                code="unknown_host",
            )
        if self.api_key is None or not path.startswith("/v1/"):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self.api_key.encode())
        if scheme.lower() != "bearer" or not right:
            text = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
            raise ApiError(401, text, code="invalid_api_key")


def pipeline_application(
    pipeline: HARTPipeline,
    name: str,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_waiting: int = DEFAULT_SERVER_WAITING,
    access: Access = Access(),
    **limits: int,
) -> tuple[Any, DrawingQueue]:
    """An ASGI application that draws with a pipeline, and its queue, which whoever runs it closes.

    Args:
        pipeline: nobody else uses it; how it caches now is how it caches unasked.
        name: what clients call the model.
        batch_size: images that are drawn at the same time.
        max_waiting: requests that may wait.
        access: who is answered.
        limits: ``max_images`` and ``max_prompt``, see :class:`Served`.

    Raises:
        MissingExtraError: fastapi or prometheus_client is not installed.
    """
    metrics = Metrics()
    served = served_model(pipeline, name, **limits)
    draw = PipelineDrawing(pipeline)
    queue = DrawingQueue(draw, batch_size, max_waiting, metrics.count_batch)
    metrics.watch(queue)
    return build_application(served, queue, metrics, access), queue


def build_application(
    served: Served, queue: DrawingQueue, metrics: Metrics, access: Access = Access()
) -> Any:
    """The routes in front of a queue.

    Raises:
        MissingExtraError: fastapi is not installed.
    """
    fastapi = import_extra("fastapi", "hart serve", "server")
    from starlette.exceptions import HTTPException

    app = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    api = _Api(served, queue, metrics, access)
    app.add_route("/v1/images/generations", api.checked(api.generate), methods=["POST"])
    app.add_route("/v1/models", api.checked(api.models), methods=["GET"])
    app.add_route("/v1/models/{name:path}", api.checked(api.model), methods=["GET"])
    app.add_route("/health", api.checked(api.health), methods=["GET"])
    app.add_route("/metrics", api.checked(api.metrics), methods=["GET"])
    for error in (ApiError, HTTPException, Exception):
        app.add_exception_handler(error, _explain)
    return app


class _Api:
    """What the routes do."""

    def __init__(
        self, served: Served, queue: DrawingQueue, metrics: Metrics, access: Access
    ) -> None:
        self._served, self._queue, self._metrics, self._access = served, queue, metrics, access
        self._max_body = _BYTES_PER_CHARACTER * served.max_prompt + _OTHER_BYTES
        self._started = int(time.time())

    def checked(self, endpoint: Endpoint) -> Endpoint:
        """An endpoint behind :meth:`Access.check`."""

        async def run(request: Any) -> Any:
            self._access.check(request.url.path, request.headers)
            return await endpoint(request)

        return run

    async def generate(self, request: Any) -> Any:
        begin, status = time.monotonic(), 500
        try:
            asked = read_request(await self._body(request), self._served)
            results = await _while_connected(request, self._queue.submit(asked))
            status = CLIENT_GONE if results is None else 200
            content = b"" if results is None else await asyncio.to_thread(answer, results)
            return _response(content, status)
        except ApiError as error:
            status = error.status
            raise
        finally:
            self._metrics.count_request(status, time.monotonic() - begin)

    async def models(self, request: Any) -> Any:
        return _json({"object": "list", "data": [self._model()]})

    async def model(self, request: Any) -> Any:
        if request.path_params["name"] != self._served.name:
            raise unknown_model(request.path_params["name"], self._served)
        return _json(self._model())

    async def health(self, request: Any) -> Any:
        if not self._queue.works:
            raise ApiError(503, "the model cannot draw", FAILED, code="unhealthy")
        return _json({"status": "ok"})

    async def metrics(self, request: Any) -> Any:
        text, kind = self._metrics.text()
        return _response(text, kind=kind)

    def _model(self) -> dict[str, Any]:
        about = {"id": self._served.name, "object": "model", "owned_by": "hart"}
        return {**about, "created": self._started}

    async def _body(self, request: Any) -> bytes:
        """A JSON body. A web site cannot send one to another site without being allowed to."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
            raise ApiError(415, f"the request must have the header Content-Type: {_JSON}")
        from starlette.requests import ClientDisconnect

        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > self._max_body:
                    raise ApiError(413, f"the request has more than {self._max_body} bytes")
        except ClientDisconnect:
            raise ApiError(CLIENT_GONE, "the request has no end") from None
        return body


async def _while_connected(request: Any, ticket: Ticket) -> list[ImageResult] | None:
    """The results of a request; None, and the request given up, once its client is gone."""
    drawn = asyncio.ensure_future(asyncio.wrap_future(ticket.future))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        either: set[asyncio.Future] = {drawn, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return drawn.result() if drawn.done() else None
    finally:
        gone.cancel()
        drawn.cancel()


async def _disconnected(request: Any) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _explain(request: Any, error: Exception) -> Any:
    """Any error in OpenAI's form."""
    if isinstance(error, ApiError):
        return _json(error.body, error.status, error.headers)
    status = getattr(error, "status_code", 500)
    if status == 500:
        return _json(ApiError(500, "the server has failed", FAILED).body, 500)
    path = f"{request.method} {request.url.path[:200]}"
    text = {404: f"there is no {path}", 405: f"{path}: another method is meant"}
    told = ApiError(status, text.get(status, str(getattr(error, "detail", ""))))
    return _json(told.body, status, getattr(error, "headers", None))


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status, dict(headers or {}))


def _response(content: bytes, status: int = 200, kind: str = _JSON) -> Any:
    from starlette.responses import Response

    return Response(content, status, media_type=kind)
