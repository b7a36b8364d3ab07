"""The command ``cadran``, but each token takes its time until a file is there: its path is the first argument.

So what is under way lasts for as long as the test wants it to, however slow or fast the machine is.
"""

import sys
import time
from pathlib import Path
from typing import Any

from cadran.cli.app import main
from cadran.engine.engine import Engine

SECONDS = 0.1
"""A thousand tokens take a minute and a half."""


def paced(go: Path) -> None:
    """Pause before every token that any engine makes from now on, until ``go`` is there."""
    load = Engine.load

    def slow(*arguments: Any, **options: Any) -> Engine:
        engine = load(*arguments, **options)
        runner: Any = engine.runner
        step, burst = runner.step, runner.burst

        def pause(tokens: int) -> None:
            for _ in range(tokens):
                if go.exists():
                    return
                time.sleep(SECONDS)

        def slow_step(batch: Any) -> Any:
            pause(1)
            return step(batch)

        def slow_burst(batch: Any, samplers: Any, stops: Any, steps: int) -> Any:
            pause(steps)
            return burst(batch, samplers, stops, steps)

        runner.step, runner.burst = slow_step, slow_burst
        return engine

    Engine.load = slow  # type: ignore[method-assign]


if __name__ == "__main__":
    paced(Path(sys.argv.pop(1)))
    main()
