"""``cadran finetune``: the recipe ``assistant`` in one line."""

import re
import unicodedata
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

FULL_RATE = 5e-5
"""Peak rate of all weights with ``--full``."""


class Base(StrEnum):
    """How the model beneath an adapter is kept while it learns."""

    float = "float"
    int8 = "int8"
    int4 = "int4"


def finetune(
    model: Annotated[str, typer.Argument(help="A pulled model (smollm2), a run or a stage of it, a folder, a file.")],
    data: Annotated[
        Path, typer.Argument(help="Your rows: JSON, JSON lines, CSV, Parquet or a folder, in any common shape.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the recipe, e.g. sft.rows=4.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the run; by default made of the model's and the data's.")] = None,
    epochs: Annotated[float | None, typer.Option(help="How often each row is read.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapter: more learns more and takes longer.")] = 16,
    rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    dora: Annotated[bool, typer.Option("--dora", help="Train the lengths of the rows too (DoRA).")] = False,
    base: Annotated[
        Base, typer.Option(help="int8 trains faster, int4 takes less memory; what is written is never rounded.")
    ] = Base.float,
    full: Annotated[bool, typer.Option("--full", help="Train all weights instead of an adapter.")] = False,
    threads: Annotated[int | None, typer.Option(help="Of the computation; by default what the machine gives.")] = None,
) -> None:
    """Teach a model your own answers, or with chosen and rejected, good and bad ones your preferences.

    Stopped or killed, the same command goes on. Held-out rows say what it learnt; the report shows answers before and
    after.
    """
    from cadran.align.data.read import read_rows
    from cadran.cli.run import finish
    from cadran.engine.threads import usable_threads
    from cadran.errors import UserError
    from cadran.library.export import model_label
    from cadran.recipe.run import find_model
    from cadran.recipe.schema import load_recipe

    if full and (dora or base is not Base.float):
        raise UserError("--full trains all weights as floats, and --dora and --base are of an adapter; leave one out")
    find_model(model)  # said before anything is read
    rows = read_rows(data)
    stage = "sft" if rows.chats else "dpo" if rows.pairs else "kto"
    if not (rows.chats or rows.pairs or rows.labelled):
        raise UserError(
            f"{data} has {rows.shape} rows, which only grpo and ppo learn from; give rows with answers, with chosen "
            "and rejected ones, or with good and bad ones"
        )
    section: dict[str, Any] = {"data": str(data)}
    if full:
        # A model that knows something is changed with care: the rates of a recipe are for one that is being made.
        gentle = FULL_RATE if rate is None else rate
        section |= {"adapter": None, "optimizer": "adamw", "matrix_rate": gentle, "embedding_rate": gentle}
    else:
        section["adapter"] = {"rank": rank, "alpha": 2.0 * rank, "dora": dora, "base": base.value}
        section |= {} if rate is None else {"adapter_rate": rate}
    section |= {} if epochs is None else {"epochs": epochs}
    plain = unicodedata.normalize("NFKD", name or f"{model_label(model)}-{data.resolve().stem}")
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", plain.encode("ascii", "ignore").decode()).strip("-._")
    content: dict[str, Any] = {"name": label, "start": model, "threads": threads or usable_threads()}
    content["sft"] = None
    for other in _others(overrides or [], stage, data):
        content[other] = {key: value for key, value in section.items() if key not in ("data", "epochs")}
    content[stage] = section
    finish(load_recipe("assistant", overrides, content), None, None)


def _others(overrides: list[str], stage: str, data: Path) -> list[str]:
    """Stages besides that of the data for which the settings name rows too: SFT, and then preferences on top.

    Raises:
        UserError: settings are for a stage that has no rows.
    """
    from cadran.errors import UserError

    keys = [override.partition("=")[0] for override in overrides]
    others = [name for name in ("sft", "dpo", "kto") if name != stage and any(k.startswith(f"{name}.") for k in keys)]
    for name in others:
        if f"{name}.data" not in keys:
            key = next(k for k in keys if k.startswith(f"{name}."))
            raise UserError(
                f"the rows of {data.name} are for the stage {stage} and {key} is a setting of the stage {name}; "
                f"leave it out, or name rows for {name} too with {name}.data=FILE"
            )
    return others
