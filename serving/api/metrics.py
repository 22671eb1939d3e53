"""What Prometheus reads at `/metrics`."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """All metrics of one application."""

    def __init__(self, model: Callable[[], str]) -> None:
        """`model` names the one that serves when it is asked."""
        self._registry = CollectorRegistry()
        self._model = model
        self.seconds = Histogram(
            "recsys_request_seconds",
            "Time from the first byte to the answer",
            ("route", "status"),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.candidates = self._counter("recsys_candidates", "Items proposed", "source")
        self.cold = self._counter("recsys_cold_requests", "Lists for users without any known event")
        self.cache = self._counter(
            "recsys_cache_lookups", "Sentences and filters that were known, or not", "kind", "result"
        )
        self.events = self._counter("recsys_events", "Events accepted")
        self.dropped = self._counter("recsys_lists_dropped", "Answered lists that were not kept: the queue was full")
        self.explored = self._counter("recsys_places_explored", "Places given to new items")
        self._served = Gauge("recsys_model", "1 for the model that serves", ("model",), registry=self._registry)

    def text(self) -> bytes:
        """Return all of it in Prometheus' format."""
        self._served.clear()
        self._served.labels(self._model()).set(1)
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)
