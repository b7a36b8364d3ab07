"""Who counts: every request and every answer goes into the metrics, the accounts, the limits of its key and the log."""

import logging
from functools import cached_property
from time import time

from cadran.serve.computed import Computed
from cadran.serve.operations.metrics import Metrics
from cadran.serve.passage import Passage, current_passage
from cadran.serve.rate_limit import RateLimits
from cadran.serve.service import Service
from cadran.serve.state.ledger import Ledger

log = logging.getLogger(__name__)

_QUIET = frozenset({"/health", "/healthz", "/v1/health", "/live", "/ready", "/ping", "/metrics"})
"""Asked by machines every few seconds: not worth a line each."""


class Watch:
    """One for each application.

    Args:
        service: whose exchanges are watched.

    Attributes:
        limits: of the keys.
        metrics: for Prometheus.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        settings = service.settings
        self.limits = RateLimits(settings.requests_per_minute, settings.tokens_per_minute)
        self.metrics = Metrics(service, self.limits)
        service.listeners.append(self.computed)

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self._service.database, self._service.settings.accounting_days)

    def computed(self, computed: Computed) -> None:
        """Something is over; called on the event loop, in the context of whoever it was for."""
        passage = current_passage()
        self.metrics.computed(computed)
        key = passage.key if passage is not None else None
        if key is not None:
            self.limits.spend(key, computed.generated_tokens)
        if passage is not None:
            passage.computed.append(computed)
            if self._service.settings.log_prompts and computed.asked is not None:
                passage.prompts.append(computed.asked)
            if passage.over:  # an answer that outlived its request
                log.info("computed", extra=_line(passage))
        self._ledger.put(
            {
                "at": time(),
                "key": key.name if key is not None else None,
                "model": computed.model,
                "route": passage.route if passage is not None else "",
                "prompt_tokens": computed.prompt_tokens,
                "cached_tokens": computed.cached_tokens,
                "generated_tokens": computed.generated_tokens,
                "seconds": round(computed.seconds, 6),
                "outcome": computed.outcome,
            }
        )

    def ended(self, passage: Passage) -> None:
        """A request was answered, or its client has gone."""
        passage.status = passage.status or 499
        self.metrics.answered(passage.method, passage.route, passage.status)
        log.log(logging.DEBUG if passage.route in _QUIET else logging.INFO, "request", extra=_line(passage))


def _line(passage: Passage) -> dict[str, object]:
    """What the log says of a request. Never a header, a body, or the path as the client wrote it."""
    line: dict[str, object] = {
        "id": passage.id,
        "method": passage.method,
        "route": passage.route,
        "status": passage.status,
        "seconds": round(passage.seconds, 4),
        "key": passage.key.name if passage.key is not None else None,
    }
    if passage.computed:
        line |= {
            "model": passage.computed[0].model,
            "prompt_tokens": sum(each.prompt_tokens for each in passage.computed),
            "cached_tokens": sum(each.cached_tokens for each in passage.computed),
            "generated_tokens": sum(each.generated_tokens for each in passage.computed),
            "outcome": passage.computed[-1].outcome,
        }
    if passage.prompts:
        line["prompts"] = passage.prompts
    return line
