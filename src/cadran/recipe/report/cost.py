"""What a run cost: clock time, operations, and how much of the machine's own speed the training reached.

These are measurements, different at every run; they never enter a file that must be reproducible.
"""

from typing import Any

from cadran.recipe.report.data import Record, RunData, branch, dig, number
from cadran.recipe.report.order import TRAINED


def cost(data: RunData) -> Record:
    """Measured figures of a run, as a JSON object.

    Returns:
        ``machine`` (the last one that was described), ``machines`` (how many different processors took part),
        ``stages`` (seconds each), ``seconds`` (their sum), ``resumed`` (stage and step of each resumption) and
        ``training``: per trained stage, see `_training`. What was not measured is absent.
    """
    machines = data.events.machines
    stages = data.events.stage_seconds()
    training = {stage: figures for stage in TRAINED if (figures := _training(data, stage))}
    return {
        "machine": {key: value for key, value in machines[-1].items() if key != "kind"} if machines else {},
        "machines": len({str(machine.get("cpu")) for machine in machines}),
        "stages": stages,
        "seconds": sum(stages.values()),
        "resumed": [{"stage": stage, "step": step} for stage, step in data.events.resumed],
        "training": training,
    }


def _training(data: RunData, stage: str) -> dict[str, Any]:
    """Seconds of training alone, tokens/s, FLOPs, FLOP/s and their share of the measured matrix-multiply speed."""
    seconds = data.events.training_seconds(stage)
    if not seconds:
        return {}
    figures: dict[str, Any] = {"seconds": seconds}
    tokens = data.events.curve(stage, "tokens")
    if tokens:
        figures["tokens_per_second"] = tokens[-1][1] / seconds
    flops = number(data.results.get(stage), "flops")
    if flops is None:
        return figures
    figures |= {"flops": flops, "flops_per_second": flops / seconds}
    # A stage that does not name its number type continues in that of the base model.
    precision = dig(data.results.get(stage), "precision") or dig(data.results.get("base"), "precision")
    machine = data.events.machines[-1] if data.events.machines else {}
    speed = number(branch(machine, "matmul_flops"), str(precision))
    if speed:
        figures |= {"precision": precision, "matmul_flops_per_second": speed, "matmul_share": flops / seconds / speed}
    return figures
