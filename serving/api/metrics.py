"""The metrics that Prometheus reads at `/metrics`."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

log = logging.getLogger("recsys.metrics")

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""Upper bounds of the histogram of request times."""


class Metrics:
    """The metrics of one application."""

    def __init__(
        self, model: Callable[[], str], failed: Callable[[], Iterable[str]] = tuple, files: Iterable[Path] = ()
    ) -> None:
        """`model` returns the name of the model that serves, `failed` those that could not be loaded.

        What other commands write into `files`, in the text format of Prometheus, is shown too.
        """
        self._registry = CollectorRegistry()
        self._model, self._failed = model, failed
        self.seconds = Histogram(
            "recsys_request_seconds",
            "Seconds from the start of a request to the end of its answer",
            ("route", "status"),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.candidates = self._counter("recsys_candidates", "Items proposed", "source")
        self.cold = self._counter("recsys_cold_requests", "Lists for users without any known event")
        self.cache = self._counter("recsys_cache_lookups", "Lookups of sentences and filters", "kind", "result")
        self.events = self._counter("recsys_events", "Events accepted")
        self.dropped = self._counter("recsys_lists_dropped", "Lists that were not logged because the queue was full")
        self.degraded = self._counter("recsys_degraded", "Lists without something that it was too late for", "step")
        self.explored = self._counter("recsys_positions_explored", "Positions given to new items")
        self._serving = Gauge("recsys_model", "1 for the model that serves", ("model",), registry=self._registry)
        self._not_loaded = Gauge(
            "recsys_model_failed", "1 for a model that could not be loaded", ("model",), registry=self._registry
        )
        for path in files:
            self._registry.register(MetricsFile(path))

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        self._serving.clear()
        self._serving.labels(self._model()).set(1)
        self._not_loaded.clear()
        for name in self._failed():
            self._not_loaded.labels(name).set(1)
        return generate_latest(self._registry)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(name, description, labels, registry=self._registry)


class MetricsFile(Collector):
    """What another command wrote last, and when, so that an alert can tell an old file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def collect(self) -> Iterable[Metric]:
        """Return the metrics in the file as it is now; none where it is not there yet, or cannot be read."""
        try:
            written = self.path.stat().st_mtime
            families = list(text_string_to_metric_families(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            log.error("--metrics %s: left out: %s", self.path, error)
            return []
        age = GaugeMetricFamily(
            "recsys_metrics_file_written_seconds", "Unix time of a file of metrics", labels=["file"]
        )
        age.add_metric([self.path.name], written)
        return [*families, age]
