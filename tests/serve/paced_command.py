"""The command ``cadran``, but each token takes its time until a file is there: its path is the first argument.

So what is under way lasts for as long as the test wants it to, however slow or fast the machine is.
"""

import sys
import time
from pathlib import Path

from paced import paused

from cadran.cli.app import main
from cadran.engine.engine import Engine

SECONDS = 0.1
"""A thousand tokens take a minute and a half."""


def paced(go: Path) -> None:
    """Pause before every token that any engine makes from now on, until ``go`` is there."""
    load = Engine.load

    def pause(tokens: int) -> None:
        for _ in range(tokens):
            if go.exists():
                return
            time.sleep(SECONDS)

    Engine.load = lambda *arguments, **options: paused(load(*arguments, **options), pause)  # type: ignore


if __name__ == "__main__":
    paced(Path(sys.argv.pop(1)))
    main()
