"""Requests made from the server's own description of itself: whatever they are, the server never fails."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from live import LiveServer

EXAMPLES = int(os.environ.get("CADRAN_SCHEMA_EXAMPLES", "4"))
"""Requests of each operation; `make fuzz` sends more."""


LIMITS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def sender(name: str, asked: Counter[str], failed: list[str]) -> Callable[[schemathesis.Case], None]:
    """Sends a request and notes what came of it."""

    def send(case: schemathesis.Case) -> None:
        case.headers = {**(case.headers or {}), "prefer": "wait=1"}
        answer = case.call(timeout=60)
        asked[name] += 1
        # 501 says that there is no such thing here, 504 that the deadline has passed, as it may on a busy machine.
        # And /health says 503 while the model is being opened, perhaps for a prediction that nobody waits for any more.
        opening = answer.status_code == 503 and "Loading model" in answer.text
        if answer.status_code >= 500 and answer.status_code not in (501, 504) and not opening:
            failed.append(f"{name}: {answer.status_code} {answer.text[:200]} to {case.as_curl_command()[:600]}")

    return send


def test_no_request_makes_the_server_fail(tiny: Path, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'state.db'}"
    live = LiveServer(models=[str(tiny)], database=database, deadline=5, max_answers=8, body_limit=1 << 20)
    asked: Counter[str] = Counter()
    failed: list[str] = []
    try:
        schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
        # Only this one would reach the network, at a name made of noise.
        for operation in schema.exclude(path="/api/pull").get_all_operations():
            name = operation.ok().label

            LIMITS(given(case=operation.ok().as_strategy())(sender(name, asked, failed)))()
        live.settle()
    finally:
        live.close()
    assert not failed, "\n".join(failed)
    assert len(asked) > 30 and min(asked.values()) >= 1
