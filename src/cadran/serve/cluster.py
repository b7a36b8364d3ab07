"""The same application as replicas of a Ray Serve deployment.

Each replica opens its own models; what must be shared (keys, stored responses, votes) is in the database, which then
has to be one that all of them reach. Ray routes requests to the replica with the fewest under way. What is under way
lives in its replica: a Replicate prediction that is polled is known to one of them only.
"""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

from cadran.errors import UserError
from cadran.serve.gate import refuse_open_door
from cadran.serve.service import Service
from cadran.serve.settings import ServeSettings, read_settings
from cadran.serve.state.api_key import known_keys
from cadran.serve.state.database import Database


def deployment(settings: ServeSettings, replicas: int = 1, cores: float = 1.0) -> Any:
    """What ``ray.serve.run`` takes.

    Args:
        settings: of every replica; ``host`` and ``port`` are also Ray's to be told.
        replicas: how many.
        cores: that Ray reserves for each; a replica computes with as many threads, unless the settings say how many.

    Raises:
        UserError: Ray is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise UserError("Ray is not here; install it with pip install 'cadran[cluster]'") from error
    own = settings if settings.threads else settings.model_copy(update={"threads": max(1, int(cores))})

    def build() -> Any:  # evaluated in each replica
        from cadran.serve.application import make_application

        service = Service(own)
        application = make_application(service)

        @asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[None]:
            yield
            await service.drain(own.grace)
            await service.close()

        application.router.lifespan_context = lifespan
        return application

    replica = serve.deployment(
        serve.ingress(build)(),
        name="cadran",
        num_replicas=replicas,
        max_ongoing_requests=settings.parallel + settings.queue,
        ray_actor_options={"num_cpus": cores},
        graceful_shutdown_timeout_s=settings.grace + 5,
    )
    return replica.bind()


def main(arguments: list[str]) -> int:
    """``python -m cadran.serve.cluster MODEL … --replicas 2``; runs until SIGINT or SIGTERM.

    Returns:
        0, or 2 when it cannot be started.
    """
    parser = argparse.ArgumentParser(prog="python -m cadran.serve.cluster", description="Serve with Ray replicas.")
    parser.add_argument("models", nargs="*", help="as for cadran serve")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--cores", type=float, default=1.0, help="of the processor, for each replica")
    parser.add_argument("--host", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="default: 8000")
    parser.add_argument("--database", help="SQLAlchemy URL that all replicas reach")
    options = parser.parse_args(arguments)
    given = {"models": options.models or None} | {name: getattr(options, name) for name in ("database", "host", "port")}
    try:
        settings = read_settings(options=given)
        names = _checked(settings)
        application = deployment(settings, options.replicas, options.cores)
        _run(application, settings, options.replicas, options.cores, names)
    except UserError as error:
        print(f"cadran: {error}", file=sys.stderr)
        return 2
    return 0


def _checked(settings: ServeSettings) -> list[str]:
    """Say what is wrong before Ray is started, which takes a while.

    Returns:
        Names of the models.
    """
    with closing(Database(settings.database)) as database, database.reading() as session:
        refuse_open_door(settings.host, known_keys(session))
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{settings.host}:{settings.port} cannot be listened at ({reason}); take another with --port or --host"
        ) from error
    return [model.name for model in Service(settings).shelf.known]


def _run(application: Any, settings: ServeSettings, replicas: int, cores: float, names: list[str]) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    import ray
    from ray import serve

    stopped = threading.Event()
    ray.init(include_dashboard=False)
    try:
        there = ray.cluster_resources().get("CPU", 0)
        if replicas * cores > there:
            raise UserError(
                f"{replicas} replicas of {cores:g} cores are more than the {there:g} that Ray has; "
                "ask for fewer with --replicas or --cores"
            )
        serve.start(http_options={"host": settings.host, "port": settings.port})
        serve.run(application, name="cadran", route_prefix="/")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"serving {', '.join(names)} with {replicas} replicas\nhttp://{host}:{settings.port}", flush=True)
        print("Ctrl-C stops", file=sys.stderr, flush=True)
        stopped.wait()
        serve.delete("cadran")  # answers under way still come to their end; a shutdown alone would cut them
    except KeyboardInterrupt:  # while it was being started
        pass
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
