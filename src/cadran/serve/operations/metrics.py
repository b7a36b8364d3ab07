"""The server's figures for Prometheus: one registry for each application, no global one.

Names follow the field's: time to first token and inter-token latency as vLLM and others count them, in seconds.
"""

from itertools import pairwise

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from cadran.serve.computed import Computed
from cadran.serve.operations.compatible_metrics import CompatibleMetrics
from cadran.serve.operations.gauges import Gauges
from cadran.serve.rate_limit import RateLimits
from cadran.serve.service import Service

_FIRST = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_BETWEEN = (0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
_WHOLE = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 60, 120, 240, 480, 960)
_QUEUE = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 60, 120)


class Metrics:
    """Counted on the event loop.

    Args:
        service: looked at when somebody asks for the figures.
        limits: of the keys, likewise.
    """

    def __init__(self, service: Service, limits: RateLimits) -> None:
        self.registry = registry = CollectorRegistry()

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, help, ("model",), buckets=buckets, registry=registry)

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(name, help, labels, registry=registry)

        self._first = histogram("cadran_time_to_first_token_seconds", "From the request to its first token.", _FIRST)
        self._between = histogram("cadran_inter_token_seconds", "Between two pieces of one answer.", _BETWEEN)
        self._whole = histogram("cadran_e2e_seconds", "From the request to the end of its answer.", _WHOLE)
        self._queue = histogram("cadran_queue_seconds", "Waiting for a place.", _QUEUE)
        self._prompt = counter("cadran_prompt_tokens", "Tokens of prompts, cached ones included.", "model")
        self._generated = counter("cadran_generated_tokens", "Tokens of answers.", "model")
        self._cached = counter("cadran_cached_tokens", "Tokens of prompts that were not read again.", "model")
        self._answers = counter("cadran_answers", "Answers that are over.", "model", "outcome")
        self._cancelled = counter("cadran_cancelled", "Answers whose client left or cancelled.", "model")
        self._requests = counter("cadran_http_requests", "Requests by route.", "method", "route", "status")
        registry.register(Gauges(service, limits))
        if service.settings.metrics_compat:
            registry.register(CompatibleMetrics(registry))

    def computed(self, computed: Computed) -> None:
        """Count what is over."""
        model = computed.model
        self._queue.labels(model).observe(computed.queued)
        self._whole.labels(model).observe(computed.seconds)
        if computed.first_token is not None:
            self._first.labels(model).observe(computed.queued + computed.loaded + computed.first_token)
        between = self._between.labels(model)
        for earlier, later in pairwise(computed.stamps):
            between.observe(later - earlier)
        self._prompt.labels(model).inc(computed.prompt_tokens)
        self._generated.labels(model).inc(computed.generated_tokens)
        self._cached.labels(model).inc(computed.cached_tokens)
        self._answers.labels(model, computed.outcome).inc()
        if computed.outcome == "cancelled":
            self._cancelled.labels(model).inc()

    def answered(self, method: str, route: str, status: int) -> None:
        """Count a request, by the template of its path: never by what a client wrote, or the figures grow for ever."""
        self._requests.labels(method, route or "none", str(status)).inc()

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
