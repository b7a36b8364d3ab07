"""What the training stages share: running a ``Trainer`` inside a stage, with events, estimate and model card."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cadran import __version__
from cadran.corpus.shards import TokenShard
from cadran.files import write_json, write_text
from cadran.model.checkpoint import save_model
from cadran.model.transformer import Transformer
from cadran.recipe.budget import training_plan
from cadran.recipe.events import read_events
from cadran.recipe.run import CHECKPOINTS
from cadran.recipe.sections import TrainingSection
from cadran.recipe.stage import StageContext
from cadran.tokenizer.tokenizer import Tokenizer
from cadran.train.estimate import estimate
from cadran.train.loader import TokenLoader
from cadran.train.machine import DTYPES
from cadran.train.next_token import NextToken, compiled_states
from cadran.train.objective import Objective
from cadran.train.trainer import Trainer, TrainingPlan


def train(
    context: StageContext,
    section: TrainingSection,
    model: Transformer,
    shard: TokenShard,
    pad: int,
    *,
    split: bool,
    evaluations: int,
    observe: Callable[[int], None],
) -> dict[str, Any]:
    """Train all of a model in place on the next token, and say what it took.

    Args:
        context: of the stage; its key is what a checkpoint must belong to.
        section: resolved.
        model: to be trained.
        shard: what it reads.
        pad: id of padding.
        split: whether documents may be cut to fill rows.
        evaluations: calls of ``observe`` along the way.
        observe: evaluates and samples; gets the number of steps done.

    Returns:
        Reproducible facts: parameters, steps, tokens, epochs, flops, precision, context.
    """
    length = model.config.context
    steps = max(1, math.ceil((section.tokens or 0) / (section.rows * length)))
    micro_rows = section.micro_rows or section.rows
    plan = training_plan(section, steps, max(1, math.ceil(steps / evaluations)), micro_rows=micro_rows)
    loader = TokenLoader(shard, length, section.rows, context.recipe.seed, split=split, pad=pad)
    needed = estimate(model.config, plan, section.rows, length)
    context.record(
        {
            "kind": "notice",
            "text": f"{model.config.parameters:,} parameters, {steps} steps of {section.rows * length:,} tokens in "
            f"{plan.precision}: about {needed.memory / 1e9:.1f} GB and {needed.seconds / 60:.1f} minutes",
        }
    )
    states = None
    if plan.compiled:
        states = compiled_states(model, lambda text: context.record({"kind": "notice", "text": text}))
    objective = NextToken(model, loader, micro_rows, DTYPES[plan.precision], states)
    tokens = minimise(context, plan, model, objective, observe)
    return {
        "parameters": model.config.parameters,
        "steps": steps,
        "tokens": tokens,
        "epochs": tokens / (loader.rows_in_epoch() * length),
        "flops": model.config.training_flops_per_token() * tokens,
        "precision": plan.precision,
        "context": length,
    }


def minimise(
    context: StageContext,
    plan: TrainingPlan,
    model: nn.Module,
    objective: Objective,
    observe: Callable[[int], None] = lambda step: None,
) -> int:
    """Train what of a model wants a gradient, with events, progress and checkpoints in the stage's folder.

    Args:
        context: of the stage; its key is what a checkpoint must belong to.
        plan: how.
        model: to be trained.
        objective: what to minimise.
        observe: gets the number of steps done.

    Returns:
        Tokens read.
    """
    seconds = 0.0

    def record(event: dict[str, Any]) -> None:
        nonlocal seconds
        if event["kind"] in ("started", "resumed"):
            # What was done after the checkpoint is done again, and must not stand in the log twice.
            first = event["step"]
            context.log.forget(
                lambda old: (
                    old.get("stage") == context.name and (old.get("step", 0) > first or first == 0 == old.get("step"))
                )
            )
            before = [
                e for e in read_events(context.log.path) if e.get("stage") == context.name and e["kind"] == "step"
            ]
            seconds = before[-1]["seconds"] if before else 0.0
        if event["kind"] == "step":
            seconds += event.pop("took")
            event["seconds"] = seconds
            context.progress(
                f"loss {event['loss']:.3f}  {event['tokens_per_second']:,.0f} tokens/s", event["step"], plan.steps
            )
        context.record(event)

    # What an adapter drops is drawn from torch's own generator; a checkpoint brings it back to where it was.
    torch.manual_seed(context.recipe.seed)
    trainer = Trainer(model, objective, plan, context.folder / CHECKPOINTS, {"key": context.key}, record, observe)
    trainer.run()
    return trainer.tokens


def write_model(
    context: StageContext, model: Transformer, tokenizer: Tokenizer, results: dict[str, Any], *, chat: bool
) -> None:
    """Write the model directory: weights, tokenizer, card and lineage; nothing in it depends on the clock."""
    stop = [tokenizer.im_end, tokenizer.end_of_text] if chat else [tokenizer.end_of_text]
    save_model(model, context.folder, end_of_text=tokenizer.end_of_text, pad=tokenizer.pad, eos=stop)
    tokenizer.save(context.folder, chat=chat)
    write_lineage(context, results)
    write_text(context.folder / "README.md", _card(context, model, results, chat=chat))


def write_lineage(context: StageContext, results: dict[str, Any]) -> None:
    """Write ``cadran.json``: what the model of a stage was made of, by which recipe, and how well it does."""
    parents = {name: (context.run.marker(name) or {}).get("key", "") for name in context.needs}
    content = {"cadran": __version__, "key": context.key, "parents": parents}
    content |= {"recipe": context.recipe.model_dump(mode="json"), "results": results}
    write_json(context.folder / "cadran.json", content)


def _card(context: StageContext, model: Transformer, results: dict[str, Any], *, chat: bool) -> str:
    config, kind = model.config, "chat model" if chat else "base model"
    bits = results.get("bits_per_byte", {})
    passes = f" ({results['epochs']:.2f} passes over its data)" if "epochs" in results else ""
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "language: [" + ", ".join(k for k in sorted(bits) if k != "all") + "]",
        "---",
        f"# {context.recipe.name}/{context.name}",
        "",
        f"A {kind} of {config.parameters:,} parameters ({config.layers} layers, width {config.width}, "
        f"vocabulary {config.vocabulary}, context {config.context}) trained from scratch with Cadran. "
        "At this size sentences look right and facts are mostly wrong: use it to learn, not to look things up.",
        "",
        f"Trained on {results['tokens']:,} tokens{passes}. "
        "Data, rules and licences: `corpus/datasheet.json` of the run; recipe and hashes: `cadran.json` here.",
        "",
    ]
    if bits:
        shown = ", ".join(f"{language} {value:.3f}" for language, value in sorted(bits.items()))
        lines += [f"Held-out bits per byte: {shown}.", ""]
    return "\n".join(lines)
