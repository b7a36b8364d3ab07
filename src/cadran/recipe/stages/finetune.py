"""Stage ``sft`` of a model that is there already: it learns the answers in a user's rows, by an adapter or whole."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cadran.align.arithmetic import sft_rows
from cadran.align.conversation_objective import ConversationObjective
from cadran.align.data.read import read_rows
from cadran.align.data.row import Conversation
from cadran.align.sft_rows import EncodedRows, encode_rows, split_rows
from cadran.corpus.shards import TokenShard, write_shard
from cadran.engine.engine import Engine
from cadran.errors import UserError
from cadran.evaluate.answer_loss import answer_loss
from cadran.files import write_json
from cadran.model.transformer import Transformer
from cadran.recipe.alignment_sections import DistilSection
from cadran.recipe.budget import training_plan
from cadran.recipe.schema import Recipe, present
from cadran.recipe.sections import SftSection
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.examples import examples
from cadran.recipe.stages.pairs import tell_refused
from cadran.recipe.stages.parent import (
    Parent,
    content_of,
    parent_of,
    put_adapter,
    start_settings,
    write_finetuned,
)
from cadran.recipe.stages.training import minimise, write_lineage
from cadran.train.loader import TokenLoader
from cadran.train.machine import DTYPES

ROW = 512
"""Tokens of a packed row where no example is longer: the scores of attention stay in the cache."""

SHOWN = 6
"""Held-out questions whose answers are shown, before and after."""

LONGEST = 120
"""Tokens of these answers."""


@dataclass(frozen=True, slots=True)
class Chats:
    """Conversations of a user's, to learn from and held out.

    Attributes:
        learnt, examined: as tokens.
        train, held_out: the same as shards.
        refused: a sentence for each row that is in neither.
    """

    learnt: EncodedRows
    examined: EncodedRows
    train: TokenShard
    held_out: TokenShard
    refused: list[str]


class FinetuneStage:
    """See the module."""

    name = "sft"
    needs: tuple[str, ...] = ()
    version = 1

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The section, the content of the rows and of the model that it begins with."""
        section = present(recipe.sft)
        settings = section.model_dump(mode="json", exclude={"checkpoint_seconds", "data"})
        content = data_content(section.data)
        sums = None if recipe.arithmetic is None else recipe.arithmetic.model_dump(mode="json")
        about = {"sft": settings, "files": content, "arithmetic": sums, "seed": recipe.seed, "threads": recipe.threads}
        return about | start_settings(recipe)

    def run(self, context: StageContext) -> None:
        """Write the model, the adapter if there is one, and results.json."""
        recipe, section = context.recipe, present(context.recipe.sft)
        parent = parent_of(context, None)
        model, dtype = parent.model(), DTYPES[section.precision or "fp32"]
        chats = gather_chats(context, section, parent, model.config.context)
        learnt, train, held_out, refused = chats.learnt, chats.train, chats.held_out, chats.refused
        shown = examples(learnt.documents, [row.source for row in learnt.rows], parent.tokenizer)
        context.record({"kind": "examples", "examples": shown})
        length = row_length((train, held_out), model.config.context)
        before = answer_loss(model, held_out, length, pad=parent.pad, dtype=dtype)
        context.record({"kind": "notice", "text": f"held-out loss {before:.3f} nats a token before"})
        if section.adapter is not None:
            put_adapter(model, section.adapter, recipe.seed, parent.name)
        objective, steps, epochs = _objective(section, model, chats, length, recipe.seed, parent.pad, dtype)
        plan = training_plan(section, steps, max(1, -(-steps // 5)), micro_rows=section.micro_rows or section.rows)
        model.train()  # an adapter may drop some of its input

        def observe(step: int) -> None:
            loss = answer_loss(model, held_out, length, pad=parent.pad, dtype=dtype)
            context.record({"kind": "examination", "step": step, "figures": {"held_out_loss": loss}})

        tokens = minimise(context, plan, model, objective, observe)
        results: dict[str, Any] = {
            "rows": {"train": train.documents, "held_out": held_out.documents} | {"refused": len(refused)},
            "refused": refused[:20],
            "examples": shown,
            "supervised_tokens": _supervised(train),
            "parameters": model.config.parameters,
            "steps": steps,
            "tokens": tokens,
            "epochs": epochs,
            "precision": plan.precision,
            "flops": model.config.training_flops_per_token() * tokens,
        }
        written = write_finetuned(context, parent, model.eval(), results, adapter=section.adapter is not None)
        after = answer_loss(written, held_out, length, pad=parent.pad, dtype=dtype)
        results |= {"held_out_loss": {"before": before, "after": after}}
        results |= {"samples": asked_answers(context, parent, written, chats.examined.rows)}
        write_json(context.folder / "results.json", results)
        write_lineage(context, results)


def _objective(
    section: SftSection, model: Transformer, chats: Chats, length: int, seed: int, pad: int, dtype: torch.dtype
) -> tuple[ConversationObjective, int, float]:
    """What is minimised, in how many steps, and how often each row is read in them."""
    shard = chats.train
    loader = TokenLoader(shard, length, section.rows, seed, split=False, pad=pad)
    # As many conversations a step as packed rows of that length would hold.
    each = shard.documents / loader.rows_in_epoch()
    count, micro = (max(1, round(rows * each)) for rows in (section.rows, section.micro_rows or section.rows))
    steps = steps_of(section, loader)
    if section.tokens is None:
        steps = max(1, math.ceil(section.epochs * shard.documents / count))
    sources = [row.source for row in chats.learnt.rows]
    objective = ConversationObjective(model, shard, count, micro, seed, dtype, pad, sources)
    return objective, steps, steps * count / shard.documents


def data_content(data: str | None) -> dict[str, str]:
    """Hash of a file of rows, or of each file in a folder, by name: what a stage depends on besides its settings."""
    return {} if data is None else content_of(Path(data))


def gather_chats(context: StageContext, section: SftSection | DistilSection, parent: Parent, longest: int) -> Chats:
    """A user's conversations as shards in the stage's folder; what is refused is named and never learnt.

    Args:
        context: of the stage.
        section: its section.
        parent: whose renderer writes them.
        longest: most tokens of a conversation.

    Raises:
        UserError: no row is left to learn from, or to hold out.
    """
    rows, refused = _rows(context, section.data)
    split = split_rows(rows, section.held_out, context.recipe.seed)
    train = encode_rows(split.train, parent.renderer, longest)
    held_out = encode_rows(split.held_out[: section.held_out_rows], parent.renderer, longest)
    refused += [*train.refused, *held_out.refused]
    shards = {}
    for name, some, use in (("train", train, "learn from"), ("held_out", held_out, "hold out")):
        if not some.documents:
            why = f" ({refused[0].rstrip('.')})" if refused else ""
            raise UserError(f"no row is left to {use}{why}; give more rows, or another {context.name}.held_out")
        shards[name] = write_shard(context.folder / name, some.documents, parent.tokenizer.vocabulary_size)
    _tell(context, split.said, train.shortened, refused)
    return Chats(train, held_out, shards["train"], shards["held_out"], refused)


def _rows(context: StageContext, data: str | None) -> tuple[list[Conversation], list[str]]:
    """Conversations to learn from, and a sentence for each row that is none."""
    sums, seed = context.recipe.arithmetic, context.recipe.seed
    if data is not None:
        found = read_rows(Path(data), "chat")
        for sentence in found.described():
            context.record({"kind": "notice", "text": sentence})
        return found.chats, list(found.refused)
    if sums is None:
        raise UserError(f"the recipe says nothing of what to learn; name a file with {context.name}.data=FILE")
    made = sft_rows(sums.count, seed, operands=sums.operands, largest=sums.largest, operations=sums.operations)
    return [Conversation([dict(m) for m in row.messages], None, row.language, row.source) for row in made], []


def _tell(context: StageContext, said: str, shortened: Sequence[str], refused: Sequence[str]) -> None:
    """Say what became of the rows before the training starts."""
    context.record({"kind": "notice", "text": said})
    if shortened:
        text = f"{len(shortened)} rows lost their last turns to fit the context, {shortened[0]} first"
        context.record({"kind": "notice", "text": text})
    tell_refused(context, refused)


def row_length(shards: Sequence[TokenShard], context: int) -> int:
    """Tokens of a packed row: the longest example, and ``ROW`` where all are shorter."""
    longest = max(int((shard.offsets[1:] - shard.offsets[:-1]).max()) - 1 for shard in shards)
    return min(context, max(ROW, longest))


def steps_of(section: SftSection | DistilSection, loader: TokenLoader) -> int:
    """Optimizer steps: as many as the tokens ask for, else the epochs."""
    if section.tokens is not None:
        return max(1, math.ceil(section.tokens / (section.rows * loader.context)))
    return max(1, math.ceil(section.epochs * loader.rows_in_epoch() / section.rows))


def _supervised(shard: TokenShard) -> int:
    return 0 if shard.supervised is None else int(shard.supervised.sum())


def asked_answers(
    context: StageContext, parent: Parent, model: Transformer, rows: Sequence[Conversation]
) -> list[dict[str, Any]]:
    """Answers to held-out questions by the model before and after."""
    asked = [row for row in rows if row.messages[-1]["role"] == "assistant"][:SHOWN]
    samples: list[dict[str, Any]] = [
        {
            "language": row.language,
            "prompt": row.messages[-2]["content"],
            "expected": row.messages[-1]["content"],
            "answers": {},
        }
        for row in asked
    ]
    for name, each in (("before", parent.model()), ("after", model)):
        with Engine(each, parent.tokenizer, parent.renderer) as engine:
            for number, (row, sample) in enumerate(zip(asked, samples, strict=True)):
                context.progress(f"answers {name}", number, len(asked))
                said = engine.chat(row.messages[:-1], temperature=0.0, max_tokens=LONGEST)
                sample["answers"][name] = said.text.strip()
    return samples
