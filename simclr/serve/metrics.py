"""What a server counts, for Prometheus. Every number here is of one process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from simclr.serve.collection import Collection

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Of one server."""

    def __init__(self, collection: Collection) -> None:
        self.registry = CollectorRegistry()
        self._collection = collection
        self.requests = Counter(
            "simclr_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "simclr_request_seconds",
            "From the head of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.together = Histogram(
            "simclr_together",
            "Searches, or images, that were answered in one call.",
            ["what"],
            buckets=_COUNTS,
            registry=self.registry,
        )
        self.waiting = Gauge("simclr_waiting", "That wait for their turn.", ["what"], registry=self.registry)
        self.registry.register(self)

    def collect(self) -> list[GaugeMetricFamily]:
        """What is looked up when it is asked for."""
        now = self._collection.now
        values = {
            "simclr_images": ("Images in the collection.", len(now.store)),
            "simclr_generation": ("Of the collection; grows when its images change.", now.generation),
            "simclr_reloads": ("Times that the collection was opened again.", self._collection.reloads),
        }
        return [GaugeMetricFamily(name, words, value=value) for name, (words, value) in values.items()]

    def text(self) -> bytes:
        return generate_latest(self.registry)
