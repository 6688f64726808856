"""What a service tells Prometheus about itself."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ctl_lightning.runtime.environment import own_version

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one service, in a registry of their own.

    Attributes:
        requests: finished requests, by route and status.
        seconds: how long they took, by route.
        batches: photos in one pass through the network.
        exchanges: exchanges of the catalogue, by result: done, or failed.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ctl_requests",
            "Finished requests; status 499: the client went away",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "ctl_request_seconds", "Time of a request", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            "ctl_batch_size", "Photos in one pass through the network", buckets=SIZES, registry=self.registry
        )
        self.exchanges = Counter("ctl_catalogue_exchanges", "Changed catalogues", ["result"], registry=self.registry)
        for result in ("done", "failed"):
            self.exchanges.labels(result)

    def watch(self, waiting: Callable[[], int], counts: Callable[[], Mapping[str, int]], method: str) -> None:
        """Adds what is read when somebody asks: the requests that wait, and the products of each category.

        Args:
            waiting: function that gives the number of requests that are being uploaded, decoded or waiting.
            counts: function that gives the number of products of each category.
            method: name of the checkpoint's method.
        """
        gauge = Gauge("ctl_waiting", "Requests that are uploaded, decoded or waiting", registry=self.registry)
        gauge.set_function(waiting)
        build = Gauge("ctl_build_info", "What serves", ["version", "method"], registry=self.registry)
        build.labels(own_version(), method).set(1)
        self.registry.register(_Products(counts))

    def text(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self.registry)


class _Products(Collector):
    """The products of each category of the moment; the categories change with the catalogue."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("ctl_catalogue_products", "Products of the catalogue", labels=["category"])
        for category, count in self._counts().items():
            family.add_metric([category], count)
        return [family]
