"""The quickstart's figures, from the runs themselves: quality beside the baselines, exam results, and what it cost.

    cadran run quickstart && cadran run quickstart minutes=60 name=quickstart-60
    python benchmarks/quickstart.py quickstart quickstart-60

Prints one column a run and writes benchmarks/results/quickstart.json. Runs nothing itself.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from cadran.errors import UserError
from cadran.files import read_json, write_json
from cadran.recipe.events import read_events
from cadran.recipe.run import Run, runs_folder


def figures(run: Run) -> dict[str, Any]:
    """What a finished run says of itself.

    Raises:
        UserError: its base or sft stage is not finished.
    """
    for stage in ("base", "sft"):
        if run.marker(stage) is None:
            raise UserError(f"the stage {stage} of {run.name} is not finished; type cadran run {run.name}")
    base, sft = read_json(run.stage("base") / "results.json"), read_json(run.stage("sft") / "results.json")
    recipe = yaml.safe_load((run.folder / "recipe.yaml").read_text(encoding="utf-8"))
    events = read_events(run.events)
    seconds = {e["stage"]: e["seconds"] for e in events if e["kind"] == "stage_done"}
    machine = next(e for e in reversed(events) if e["kind"] == "machine")
    trained = [e for e in events if e["kind"] == "step" and e["stage"] == "base"][-1]["seconds"]
    return {
        "budget_minutes": recipe["minutes"],
        "minutes": sum(seconds.values()) / 60,
        "parameters": base["parameters"],
        "tokens": base["tokens"],
        "epochs": base["epochs"],
        "precision": base["precision"],
        "tokens_per_second": base["tokens"] / trained,
        "share_of_matmul": base["flops"] / trained / machine["matmul_flops"][base["precision"]],
        "bits_per_byte": base["bits_per_byte"],
        "baselines": base["baselines"],
        "topic": sft.get("topic", {}),
        "description": sft.get("description", {}),
        "cpu": machine["cpu"],
        "threads": machine["threads"],
    } | {stage: part for stage in ("reward", "dpo", "int8") if (part := _later(run, stage))}


def _later(run: Run, stage: str) -> dict[str, Any]:
    """Figures of a stage that a run may have."""
    if run.marker(stage) is None:
        return {}
    results = read_json(run.stage(stage) / "results.json")
    kept = ("accuracy", "interval", "by_kind", "pairs", "reward", "kl", "models", "calibration_error")
    sizes = ("bytes_before", "bytes_after", "perplexity_before", "perplexity_after")
    return {key: results[key] for key in (*kept, *sizes) if key in results}


def rows(one: dict[str, Any]) -> dict[str, str]:
    """The figures of one run as the lines of the table."""
    bits, baselines = one["bits_per_byte"], one["baselines"]
    shown = {
        "minutes (budget)": f"{one['minutes']:.1f} ({one['budget_minutes']:g})",
        "parameters": f"{one['parameters']:,}",
        "tokens (passes over the corpus)": f"{one['tokens']:,} ({one['epochs']:.1f})",
        "tokens/s": f"{one['tokens_per_second']:,.0f} {one['precision']}",
        "share of matrix-multiply speed": f"{one['share_of_matmul']:.0%}",
        "bits per byte": "  ".join(f"{k} {v:.3f}" for k, v in sorted(bits.items())),
        "Kneser-Ney 5-gram": "  ".join(f"{k} {v:.3f}" for k, v in sorted(baselines["kneser_ney_5"].items())),
        "xz -9e after the training text": f"{baselines['xz_given_training']['all']:.3f}",
        "xz -9e alone": f"{baselines['xz_alone']['all']:.3f}",
    }
    for language, score in sorted(one["topic"].items()):
        low, high = score["interval"]
        shown[f"topic {language}"] = (
            f"{score['accuracy']:.1%} ({low:.0%}-{high:.0%}, n {score['held_out']}), majority {score['majority']:.1%}"
        )
    for language, score in sorted(one["description"].items()):
        shown[f"description {language}, chrF"] = f"{score['chrf']:.1f}, first words {score['baseline_chrf']:.1f}"
    return shown | _later_rows(one)


def _later_rows(one: dict[str, Any]) -> dict[str, str]:
    shown = {}
    if reward := one.get("reward"):
        low, high = reward["interval"]
        held_out = reward["pairs"]["held_out"]
        shown["reward model, pairs right"] = f"{reward['accuracy']:.1%} ({low:.0%}-{high:.0%}, n {held_out})"
    for name, model in one.get("dpo", {}).get("models", {}).items():
        shown[f"{name}, pairs right"] = f"{model['pair_accuracy']:.1%}"
        for language, score in sorted(model.get("topic", {}).items()):
            low, high = score["interval"]
            shown[f"{name}, topic {language}"] = f"{score['accuracy']:.1%} ({low:.0%}-{high:.0%})"
        for language, score in sorted(model.get("description", {}).items()):
            shown[f"{name}, description {language}, chrF"] = f"{score['chrf']:.1f}"
    if dpo := one.get("dpo"):
        moved = "  ".join(f"{side} {value:+.2f}" for side, value in dpo["kl"].items())
        shown["log-probability against SFT, nats an answer"] = moved
    if small := one.get("int8"):
        change = small["perplexity_after"] / small["perplexity_before"] - 1
        sizes = f"{small['bytes_before'] / 1e6:.2f} to {small['bytes_after'] / 1e6:.2f} MB"
        shown["INT8, size and perplexity"] = f"{sizes}, {change:+.2%}"
    return shown


def main(arguments: list[str]) -> int:
    """Print and write; exit status 2 for what the user can mend."""
    parser = argparse.ArgumentParser(description="Figures of finished quickstart runs.")
    parser.add_argument("runs", nargs="*", default=["quickstart"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quickstart.json")
    options = parser.parse_args(arguments)
    try:
        found = {name: figures(Run(runs_folder() / name)) for name in options.runs}
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    table, columns = Table("", *found), [rows(one) for one in found.values()]
    for line in dict.fromkeys(key for column in columns for key in column):
        table.add_row(line, *(column.get(line, "-") for column in columns))
    Console().print(table)
    write_json(options.out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
