"""Stage ``distil``: a student learns what a teacher finds likely at every token, on given rows and on its own."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cadran.align.data.row import Conversation
from cadran.align.distillation import DistillationObjective, distillation_losses
from cadran.align.on_policy import PartlyOwn, StudentRows, shard_prompts
from cadran.align.prompt_loader import PromptLoader
from cadran.align.rollout import RolloutParams
from cadran.align.rollout_engine import TorchRollouts
from cadran.align.rows import article_rows
from cadran.align.sft_rows import encode_rows
from cadran.corpus.document import Document, read_documents
from cadran.corpus.shards import TokenShard, write_shard
from cadran.engine.engine import Engine
from cadran.engine.loading import open_tokenizer
from cadran.errors import UserError
from cadran.evaluate.answer_loss import answer_loss
from cadran.files import write_json
from cadran.library.export import model_label
from cadran.model.attention import document_bias
from cadran.model.checkpoint import load_model
from cadran.model.transformer import Transformer
from cadran.recipe.alignment_sections import DistilSection
from cadran.recipe.budget import training_plan
from cadran.recipe.run import find_model, runs_folder
from cadran.recipe.schema import Recipe, present
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.examination import examine
from cadran.recipe.stages.finetune import asked_answers, data_content, gather_chats, row_length, steps_of
from cadran.recipe.stages.parent import (
    Parent,
    model_content,
    parent_of,
    put_adapter,
    start_settings,
    write_finetuned,
)
from cadran.recipe.stages.training import minimise
from cadran.tokenizer.tokenizer import Tokenizer
from cadran.train.loader import Batch, TokenLoader
from cadran.train.loss import IGNORED
from cadran.train.machine import DTYPES
from cadran.train.objective import Objective


@dataclass(frozen=True, slots=True)
class _Rows:
    """What is read.

    Attributes:
        train, held_out: conversations as tokens.
        asked: those held out.
        refused: a sentence for each row that is in neither.
    """

    train: TokenShard
    held_out: TokenShard
    asked: list[Conversation]
    refused: list[str]


class DistilStage:
    """See the module.

    Args:
        parent: the stage it goes on from, which makes the student; None means the model that the recipe starts with.
        needs: stages whose artefacts it reads.
    """

    name = "distil"
    version = 1

    def __init__(self, parent: str | None, needs: tuple[str, ...]) -> None:
        self.parent, self.needs = parent, needs

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The section, the content of the rows, of the teacher, and of the model that it begins with."""
        section = present(recipe.distil)
        settings = section.model_dump(mode="json", exclude={"checkpoint_seconds", "data"})
        sums = None if recipe.arithmetic is None else recipe.arithmetic.model_dump(mode="json")
        about: dict[str, Any] = {
            "distil": settings,
            "files": data_content(section.data),
            "arithmetic": sums,
            "seed": recipe.seed,
        }
        about |= {"threads": recipe.threads, "teacher": model_content(_teacher_path(recipe))}
        if recipe.corpus is not None:
            sft = present(recipe.sft)
            about |= {"examined": [sft.article_characters, sft.topics_evaluated, sft.descriptions_evaluated]}
        return about | (start_settings(recipe) if self.parent is None else {})

    def run(self, context: StageContext) -> None:
        """Write the student, its adapter if there is one, and results.json."""
        recipe, section = context.recipe, present(context.recipe.distil)
        parent = parent_of(context, self.parent)
        model, dtype = parent.model(), DTYPES[section.precision or "fp32"]
        teacher = open_teacher(recipe, parent, model)
        longest = min(model.config.context, teacher.config.context)
        rows = _gather(context, section, parent, longest)
        length = row_length((rows.train, rows.held_out), longest)
        loader = TokenLoader(rows.train, length, section.rows, recipe.seed, split=False, pad=parent.pad)

        def examined(student: Transformer) -> dict[str, float]:
            return {
                "held_out_loss": answer_loss(student, rows.held_out, length, pad=parent.pad, dtype=dtype),
                "divergence": mean_divergence(student, teacher, rows.held_out, length, pad=parent.pad, dtype=dtype),
            }

        before = examined(model)
        if section.adapter is not None:
            put_adapter(model, section.adapter, recipe.seed, parent.name)
        objective = _objective(section, model, teacher, loader, parent, recipe.seed, dtype)
        steps = steps_of(section, loader)
        plan = training_plan(section, steps, max(1, -(-steps // section.examinations)))
        model.train()  # an adapter may drop some of its input
        tokens = minimise(
            context,
            plan,
            model,
            objective,
            lambda step: context.record({"kind": "examination", "step": step, "figures": examined(model)}),
        )
        reading = teacher.config.training_flops_per_token() / 3  # forward alone
        results: dict[str, Any] = {
            "teacher": model_label(section.teacher),
            "rows": {"train": rows.train.documents, "held_out": rows.held_out.documents, "refused": len(rows.refused)},
            "refused": rows.refused[:20],
            "steps": steps,
            "tokens": tokens,
            "epochs": steps * section.rows * (1 - section.on_policy) / loader.rows_in_epoch(),
            "precision": plan.precision,
            "flops": (model.config.training_flops_per_token() + reading) * tokens,
        }
        written = write_finetuned(context, parent, model.eval(), results, adapter=section.adapter is not None)
        after = examined(written)
        results |= {name: {"before": before[name], "after": after[name]} for name in before}
        results |= {"teacher_loss": answer_loss(teacher, rows.held_out, length, pad=parent.pad, dtype=dtype)}
        if recipe.corpus is None:
            results |= {"samples": asked_answers(context, parent, written, rows.asked)}
        else:
            articles = [document for document, split in _corpus(context) if split == "validation"]
            with Engine(written, parent.tokenizer, parent.renderer) as engine:
                results |= examine(engine, articles, context)
        write_json(context.folder / "results.json", results)


def open_teacher(recipe: Recipe, parent: Parent, student: Transformer) -> Transformer:
    """The teacher of a recipe, in float32, to be read only.

    Args:
        recipe: names it.
        parent: the student's tokenizer and name.
        student: whose output must have the same rows.

    Raises:
        UserError: there is no such model, or its tokens are not the student's.
    """
    path, name = _teacher_path(recipe), present(recipe.distil).teacher
    tokenizer, _ = open_tokenizer(path)
    if not same_vocabulary(tokenizer, parent.tokenizer):
        raise UserError(
            f"the teacher {name} has other tokens than the student {parent.name}, so their predictions cannot be "
            "compared; name a model of the student's own family with distil.teacher=MODEL"
        )
    teacher = load_model(path, torch.float32)
    theirs, ours = teacher.config.vocabulary, student.config.vocabulary
    if theirs != ours:
        raise UserError(
            f"the teacher {name} predicts {theirs:,} ids and the student {parent.name} {ours:,}, although they share a "
            "tokenizer; name a model of the same padding with distil.teacher=MODEL"
        )
    return teacher.eval().requires_grad_(False)


def same_vocabulary(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether every id means the same to both, however their files are written."""
    if one.fingerprint == other.fingerprint:
        return True
    return one.vocabulary_size == other.vocabulary_size and all(
        one.is_special(id) == other.is_special(id) and one.token_bytes(id) == other.token_bytes(id)
        for id in range(one.vocabulary_size)
    )


@torch.no_grad()
def mean_divergence(
    student: Transformer, teacher: Transformer, shard: TokenShard, context: int, *, pad: int, dtype: torch.dtype
) -> float:
    """Mean KL(teacher || student) at the supervised tokens of a shard, each counted once.

    It is the forward divergence at temperature 1 whatever is minimised, so that figures can be compared.

    Args:
        student: with whatever adapter acts now; its dropout is off meanwhile.
        teacher: of the same vocabulary.
        shard: rows that fit in the context whole.
        context: length of a packed row.
        pad: id put in empty places.
        dtype: of the matrix products.

    Returns:
        Nats a token.
    """
    loader = TokenLoader(shard, context, 1, seed=0, split=False, pad=pad)
    total = count = 0.0
    training = student.training
    student.eval()
    for row in range(loader.rows_in_epoch()):
        batch = loader.batch(row)
        chosen = batch.targets[0] != IGNORED
        bias = document_bias(batch.segments, dtype)
        states, said = (each.hidden_states(batch.ids, bias, None, dtype)[0][chosen] for each in (student, teacher))
        heads = [each.lm_head.weight.to(dtype) for each in (student, teacher)]
        losses = distillation_losses(
            states, heads[0], said, heads[1], cap=student.config.logit_cap, teacher_cap=teacher.config.logit_cap
        )
        total += float(losses.double().sum())
        count += batch.valid
    student.train(training)
    return total / max(count, 1)


def _teacher_path(recipe: Recipe) -> Path:
    """Where the teacher of a recipe lies.

    Raises:
        UserError: there is no such model, or it is the one that the stage is about to make.
    """
    name, own = present(recipe.distil).teacher, runs_folder() / recipe.name / "distil"
    if name == recipe.name or (path := find_model(name)).resolve() == own.resolve():
        raise UserError(f"{name} is what this stage makes; name another model with distil.teacher=MODEL")
    return path


def _corpus(context: StageContext) -> Iterator[tuple[Document, str]]:
    """Articles and chats with the side they are on."""
    return read_documents(context.run.stage("corpus") / "documents.jsonl")


def _gather(context: StageContext, section: DistilSection, parent: Parent, longest: int) -> _Rows:
    """A user's rows; or where there is a corpus, those of the SFT, and of the articles that are held out from it."""
    if context.recipe.corpus is None or section.data is not None:
        chats = gather_chats(context, section, parent, longest)
        return _Rows(chats.train, chats.held_out, chats.examined.rows, chats.refused)
    characters, generator = present(context.recipe.sft).article_characters, random.Random(context.recipe.seed)
    asked = [
        Conversation([dict(message) for message in row.messages], None, row.language, row.source)
        for document, split in _corpus(context)
        if split == "validation" and "messages" not in document.meta
        for row in article_rows(document, generator, characters)
    ]
    held_out = encode_rows(asked[:: max(1, -(-len(asked) // section.held_out_rows))], parent.renderer, longest)
    if not held_out.documents:
        raise UserError("the corpus holds out no article to examine the student with; give rows with distil.data=FILE")
    shard = write_shard(context.folder / "held_out", held_out.documents, parent.tokenizer.vocabulary_size)
    train = TokenShard.open(context.run.stage("sft") / "rows")
    most = int((train.offsets[1:] - train.offsets[:-1]).max()) - 1
    if most > longest:
        raise UserError(
            f"the rows of the SFT have up to {most} tokens and the teacher {section.teacher} reads {longest}; choose "
            "another, or give shorter rows with distil.data=FILE"
        )
    return _Rows(train, shard, held_out.rows, [])


def _objective(
    section: DistilSection,
    model: Transformer,
    teacher: Transformer,
    loader: TokenLoader,
    parent: Parent,
    seed: int,
    dtype: torch.dtype,
) -> Objective:
    def learning(batches: Callable[[int], Batch], mix: float) -> DistillationObjective:
        return DistillationObjective(
            model, teacher, batches, micro=section.micro, mix=mix, temperature=section.temperature,
            kind=section.divergence, beta=section.beta, dtype=dtype,
        )  # fmt: skip

    given = learning(loader.batch, section.mix)
    if not section.on_policy:
        return given
    prompts = shard_prompts(loader.shard, loader.context - section.max_tokens)
    if not prompts:
        raise UserError(
            f"no prompt of the rows leaves room for an answer of {section.max_tokens} tokens; lower distil.max_tokens"
        )
    params = RolloutParams(section.max_tokens, tuple(parent.renderer.stop_ids))
    asked = PromptLoader(prompts, section.prompts, seed)
    own = StudentRows(TorchRollouts(model), asked, params, loader.context, seed, parent.pad)
    # Of its own words the student must hear the teacher's opinion only: as targets they would teach it themselves.
    return PartlyOwn(given, learning(own, 1.0), own, section.on_policy)
