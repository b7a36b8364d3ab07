"""What is read off the service at the moment somebody asks for the figures."""

from collections.abc import Iterator

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cadran.serve.rate_limit import RateLimits
from cadran.serve.service import Service


class Gauges(Collector):
    """Counts nothing itself.

    Args:
        service: the models and the queue.
        limits: of the keys.
    """

    def __init__(self, service: Service, limits: RateLimits) -> None:
        self._service, self._limits = service, limits

    def describe(self) -> Iterator[Metric]:
        """Nothing: the names are known only when there is a model."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client calls it."""
        admission, shelf = self._service.admission, self._service.shelf
        yield GaugeMetricFamily("cadran_requests_running", "Requests with a place.", admission.running)
        yield GaugeMetricFamily("cadran_requests_waiting", "Requests that wait for one.", admission.waiting)
        yield GaugeMetricFamily("cadran_models_resident", "Models that are open.", len(shelf.served))
        resident = psutil.Process().memory_info().rss
        yield GaugeMetricFamily("cadran_resident_memory_bytes", "Memory of this process.", resident)
        rejected = CounterMetricFamily("cadran_rejected", "Requests that were turned away.", labels=("reason",))
        rejected.add_metric(("queue",), admission.rejected)
        rejected.add_metric(("key",), self._limits.refused)
        yield rejected
        yield from self._engines()

    def _engines(self) -> Iterator[Metric]:
        used = GaugeMetricFamily("cadran_kv_blocks_used", "Blocks of keys and values in use.", labels=("model",))
        total = GaugeMetricFamily("cadran_kv_blocks_total", "Blocks of keys and values.", labels=("model",))
        preempted = CounterMetricFamily("cadran_preemptions", "Answers that lost their blocks.", labels=("model",))
        proposed = CounterMetricFamily("cadran_speculative_proposed", "Guessed tokens.", labels=("model",))
        accepted = CounterMetricFamily("cadran_speculative_accepted", "Of those, right.", labels=("model",))
        for served in self._service.shelf.served:
            figures, label = served.engine.statistics, (served.known.name,)
            used.add_metric(label, figures.blocks_used)
            total.add_metric(label, figures.blocks)
            preempted.add_metric(label, figures.preempted)
            proposed.add_metric(label, figures.drafted)
            accepted.add_metric(label, figures.accepted)
        yield from (used, total, preempted, proposed, accepted)
