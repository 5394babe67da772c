"""What the server counts, in the form that Prometheus reads."""

from __future__ import annotations

from typing import Any

from hart.evaluation.extras import import_extra
from hart.modules.networks.caching.generation_counts import CALLS
from hart.server.queue import BatchRecord, DrawingQueue

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
_IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 32)


class Metrics:
    """Counters of one server, in a registry of their own.

    Raises:
        MissingExtraError: prometheus_client is not installed.
    """

    def __init__(self) -> None:
        self._client: Any = import_extra("prometheus_client", "hart serve", "server")
        client, self._registry = self._client, self._client.CollectorRegistry()
        client.ProcessCollector(registry=self._registry)

        def make(kind: Any, name: str, text: str, **options: Any) -> Any:
            return kind(f"hart_{name}", text, registry=self._registry, **options)

        count, spread = client.Counter, client.Histogram
        self._requests = make(
            count, "requests_total", "Requests for images, by HTTP status", labelnames=["status"]
        )
        self._request_s = make(
            spread, "request_seconds", "From a request to its pictures", buckets=_SECONDS
        )
        self._images = make(count, "images_total", "Images drawn")
        self._batch_s = make(spread, "batch_seconds", "Time of a batch", buckets=_SECONDS)
        self._batch = make(spread, "batch_images", "Images of a batch", buckets=_IMAGES)
        self._calls = make(
            count,
            "module_calls_total",
            "Attentions and MLPs by what was done",
            labelnames=["call"],
        )
        self._waiting = make(client.Gauge, "waiting_requests", "Requests that wait")
        self._drawing = make(client.Gauge, "drawing_images", "Images that are being drawn")

    def watch(self, queue: DrawingQueue) -> None:
        """Report this queue's lengths."""
        self._waiting.set_function(lambda: queue.waiting)
        self._drawing.set_function(lambda: queue.drawing)

    def count_batch(self, record: BatchRecord) -> None:
        """A batch is finished."""
        self._images.inc(len(record.results))
        self._batch_s.observe(record.seconds)
        self._batch.observe(len(record.results))
        for result in record.results:
            for sites in result.stages.values():
                for calls in sites.values():
                    for kind in CALLS:
                        self._calls.labels(kind).inc(calls[kind])

    def count_request(self, status: int, seconds: float) -> None:
        """A request is answered."""
        self._requests.labels(str(status)).inc()
        if status == 200:
            self._request_s.observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """All of it, and its content type."""
        return self._client.generate_latest(self._registry), self._client.CONTENT_TYPE_LATEST
