"""The same application as replicas of a Ray Serve deployment.

Each replica opens its own models; what must be shared (keys, stored responses, votes) is in the database, which then
has to be one that all of them reach. Ray routes requests to the replica with the fewest under way.
"""

import argparse
import os
import sys
from contextlib import closing
from typing import Any

from cadran.errors import UserError
from cadran.serve.gate import refuse_open_door
from cadran.serve.settings import ServeSettings, read_settings
from cadran.serve.state.api_key import known_keys
from cadran.serve.state.database import Database


def deployment(settings: ServeSettings, replicas: int = 1, cores: float = 1.0) -> Any:
    """What ``ray.serve.run`` takes.

    Args:
        settings: of every replica; ``host`` says where Ray listens, ``port`` is Ray's to say.
        replicas: how many.
        cores: that Ray reserves for each.

    Raises:
        UserError: Ray is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise UserError("Ray is not here; install it with pip install 'cadran[cluster]'") from error

    def build() -> Any:  # evaluated in each replica
        from cadran.serve.application import make_application
        from cadran.serve.service import Service

        return make_application(Service(settings))

    replica = serve.deployment(
        serve.ingress(build)(),
        name="cadran",
        num_replicas=replicas,
        max_ongoing_requests=settings.parallel + settings.queue,
        ray_actor_options={"num_cpus": cores},
        graceful_shutdown_timeout_s=settings.grace,
    )
    return replica.bind()


def main(arguments: list[str]) -> int:
    """``python -m cadran.serve.cluster MODEL … --replicas 2``; runs until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m cadran.serve.cluster", description="Serve with Ray replicas.")
    parser.add_argument("models", nargs="*", help="as for cadran serve")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--cores", type=float, default=1.0, help="of the processor, for each replica")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--database", help="SQLAlchemy URL that all replicas reach")
    options = parser.parse_args(arguments)
    try:
        given = {"models": options.models or None, "database": options.database, "host": options.host}
        settings = read_settings(options=given)
        with closing(Database(settings.database)) as database, database.reading() as session:
            refuse_open_door(settings.host, known_keys(session))
        application = deployment(settings, options.replicas, options.cores)
    except UserError as error:
        print(f"cadran: {error}", file=sys.stderr)
        return 2
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    from ray import serve

    serve.start(http_options={"host": options.host, "port": options.port})
    serve.run(application, name="cadran", route_prefix="/", blocking=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
