"""``cadran label``: two answers, and the one that a person prefers, kept at once."""

from pathlib import Path
from typing import Annotated

import typer

from cadran.cli.talk import MaxTokens, Model, Seed, Temperature, Threads


def label(
    model: Model,
    against: Annotated[str | None, typer.Option(help="Another model to compare with; else it answers twice.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="What to ask: a line each, or JSON lines with prompt or messages.")
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="Most prompts to show.")] = 20,
    output: Annotated[
        Path | None, typer.Option(help="File of ratings; by default ratings.jsonl of the run, or of this folder.")
    ] = None,
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.8,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Say which of two answers is better; `cadran run NAME --from dpo` learns from it. Ctrl-C loses nothing."""
    from contextlib import ExitStack

    import cadran
    from cadran.align.ratings import RATINGS
    from cadran.cli.labelling import Labelling, file_prompts, run_prompts, typed_prompts
    from cadran.engine.sampler import SamplingParams
    from cadran.errors import UserError
    from cadran.recipe.run import find_model

    if temperature == 0 and against is None:
        raise UserError("at temperature 0 both answers are the same; give --temperature 0.8, or a model with --against")
    run = run_of(find_model(model))
    target = output or (run / RATINGS if run else Path(RATINGS))
    # Read before the models are, so that a mistake in the file is told at once.
    known = file_prompts(prompts) if prompts is not None else run_prompts(run, seed) if run is not None else None
    with ExitStack() as stack:
        names = [model] if against is None else [model, against]
        engines = [stack.enter_context(cadran.load(name, threads=threads)) for name in names]
        for name, engine in zip(names, engines, strict=True):
            if not engine.chats:
                raise UserError(f"{name} continues texts and answers nothing; label a chat model, e.g. a run's sft")
        params = SamplingParams(temperature=temperature, top_p=0.95, max_tokens=max_tokens)
        session = Labelling(list(zip(map(spoken_name, names), engines, strict=True)), params, seed, target)
        try:
            session.run(typed_prompts() if known is None else session.unrated(known), number)
        finally:
            rest = f"cadran finetune {model} {target}"
            if run is not None and output is None and (recipe := recipe_of(run)) is not None:
                rest = f"cadran run {recipe} --from dpo"
            session.tell(rest)


def run_of(model: Path) -> Path | None:
    """The folder of the run that a model belongs to; None when it belongs to none."""
    return next((folder for folder in (model, model.parent) if (folder / "recipe.yaml").is_file()), None)


def recipe_of(run: Path) -> str | None:
    """What to type after ``cadran run`` to repeat a run's stage ``dpo``; None when it has none.

    Its name where a recipe has it, else its own recipe.
    """
    from cadran.errors import UserError
    from cadran.recipe.schema import load_recipe

    for name in (run.name, str(run / "recipe.yaml")):
        try:
            recipe = load_recipe(name)
        except UserError:
            continue
        if recipe.name == run.name and recipe.dpo is not None:
            return name
    return None


def spoken_name(model: str) -> str:
    """What a file may say of a model: never where it lies on this machine."""
    return Path(model).name if Path(model).is_absolute() or ".." in Path(model).parts else model
