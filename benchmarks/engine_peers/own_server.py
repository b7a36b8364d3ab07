"""``cadran serve`` in a process of its own, as one side of a benchmark."""

import os
import subprocess
import sys
from pathlib import Path

from worker import PATIENCE, WorkerFailed


class OwnServer:
    """A server of one model on a free port.

    Args:
        path: a GGUF file.
        threads: of the computation.
        clients: how many requests run together.
        activations: what integer weights are multiplied by.

    Attributes:
        port: it listens at.
        model: the model's name.

    Raises:
        WorkerFailed: it does not start.
    """

    def __init__(self, path: Path, threads: int, clients: int, activations: str = "int8") -> None:
        command = [str(Path(sys.executable).parent / "cadran"), "serve", str(path), "--port", "0"]
        command += ["--threads", str(threads), "--activations", activations, "--parallel", str(clients)]
        self.model = path.stem
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | {"NO_COLOR": "1"}
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("http://"):
                self.port = int(line.rsplit(":", 1)[1])
                return
        raise WorkerFailed(f"cadran serve ended with status {self._process.wait()}")

    def cpu(self) -> tuple[float, float]:
        """Seconds of processor time so far: of the thread that speaks HTTP, and of those that compute."""
        ticks = os.sysconf("SC_CLK_TCK")
        speaking = computing = 0.0
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            seconds = (int(fields[11]) + int(fields[12])) / ticks
            if int(task.name) == self._process.pid:
                speaking += seconds
            else:
                computing += seconds
        return speaking, computing

    def close(self) -> None:
        """End it: first politely, then by force."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
