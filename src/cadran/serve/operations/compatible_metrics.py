"""The same figures under the names of vLLM and llama.cpp, for dashboards that know only those (``metrics_compat``)."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_VLLM = (
    ("cadran_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"),
    ("cadran_inter_token_seconds", "vllm:inter_token_latency_seconds"),
    ("cadran_e2e_seconds", "vllm:e2e_request_latency_seconds"),
    ("cadran_queue_seconds", "vllm:request_queue_time_seconds"),
    ("cadran_requests_running", "vllm:num_requests_running"),
    ("cadran_requests_waiting", "vllm:num_requests_waiting"),
    ("cadran_prompt_tokens", "vllm:prompt_tokens"),
    ("cadran_generated_tokens", "vllm:generation_tokens"),
    ("cadran_prompt_tokens", "vllm:prefix_cache_queries"),
    ("cadran_cached_tokens", "vllm:prefix_cache_hits"),
    ("cadran_preemptions", "vllm:num_preemptions"),
    ("cadran_speculative_proposed", "vllm:spec_decode_num_draft_tokens"),
    ("cadran_speculative_accepted", "vllm:spec_decode_num_accepted_tokens"),
)
_LLAMA = (
    ("cadran_requests_running", "llamacpp:requests_processing"),
    ("cadran_requests_waiting", "llamacpp:requests_deferred"),
    ("cadran_prompt_tokens", "llamacpp:prompt_tokens"),
    ("cadran_generated_tokens", "llamacpp:tokens_predicted"),
)


class CompatibleMetrics(Collector):
    """Repeats what is in a registry.

    Args:
        registry: in which this collector is, too.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._collecting = False

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering collects nothing."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client calls it."""
        if self._collecting:  # the registry asks everybody, this collector included
            return
        self._collecting = True
        try:
            families = {family.name: family for family in self._registry.collect()}
        finally:
            self._collecting = False
        for own, name in _VLLM:
            if own in families:
                yield _renamed(families[own], name, {"model": "model_name"})
        for own, name in _LLAMA:
            if own in families:
                yield _summed(families[own], name)
        if {"cadran_kv_blocks_used", "cadran_kv_blocks_total"} <= families.keys():
            yield from _usage(families["cadran_kv_blocks_used"], families["cadran_kv_blocks_total"])


def _renamed(family: Metric, name: str, labels: dict[str, str]) -> Metric:
    renamed = Metric(name, family.documentation, family.type)
    for sample in family.samples:
        if not sample.name.endswith("_created"):
            named = {labels.get(label, label): value for label, value in sample.labels.items()}
            suffix = sample.name.removeprefix(family.name)
            renamed.samples.append(Sample(name + suffix, named, sample.value))
    return renamed


def _summed(family: Metric, name: str) -> Metric:
    """Without labels: llama.cpp serves one model."""
    suffix = "_total" if family.type == "counter" else ""
    total = sum(sample.value for sample in family.samples if sample.name == family.name + suffix)
    summed = Metric(name, family.documentation, family.type)
    summed.samples.append(Sample(name + suffix, {}, total))
    return summed


def _usage(used: Metric, total: Metric) -> Iterator[Metric]:
    blocks = {sample.labels["model"]: sample.value for sample in total.samples}
    taken = {sample.labels["model"]: sample.value for sample in used.samples}
    share = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Share of the blocks in use, 0 to 1.", labels=("model_name",))
    for model, most in blocks.items():
        share.add_metric((model,), taken.get(model, 0) / most if most else 0)
    yield share
    both = sum(taken.values()) / sum(blocks.values()) if sum(blocks.values()) else 0
    yield GaugeMetricFamily("llamacpp:kv_cache_usage_ratio", "Share of the blocks in use, 0 to 1.", both)
