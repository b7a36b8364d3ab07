"""Stage ``kto``: the answering model learns from answers that are good or bad on their own, such as thumbs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cadran.align.branches import Prompted, pack_for
from cadran.align.data.read import read_rows
from cadran.align.data.row import Labelled
from cadran.align.kto_objective import KtoObjective
from cadran.align.pair_loader import PairLoader
from cadran.align.preference import PreferencePair, encode_labelled, prompt_key
from cadran.align.ratings import RATINGS, read_ratings
from cadran.align.reference import Reference, adapter_off, frozen, item_logprobs
from cadran.align.sft_rows import split_rows
from cadran.errors import UserError
from cadran.files import write_json
from cadran.model.checkpoint import load_model
from cadran.model.transformer import Transformer
from cadran.recipe.alignment_sections import KtoSection
from cadran.recipe.budget import training_plan
from cadran.recipe.run import runs_folder
from cadran.recipe.schema import Recipe, present
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.comparison import compare_answers, compare_stages
from cadran.recipe.stages.pairs import pair_settings, pair_steps, planted_sides, tell_refused
from cadran.recipe.stages.parent import Parent, parent_of, put_adapter, start_settings, write_finetuned
from cadran.recipe.stages.training import minimise
from cadran.train.machine import DTYPES

UNEQUAL = 4
"""So many times more answers of one kind than of the other are worth a word about the weights."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Answers and what was thought of them, as the model reads them.

    Attributes:
        rows: in the order they came.
        items: the same as tokens.
        refused: a sentence for each row that was left out.
    """

    rows: list[Labelled]
    items: list[Prompted]
    refused: list[str]

    @property
    def labels(self) -> list[bool]:
        """Whether each answer is a desirable one."""
        return [row.label for row in self.rows]


class KtoStage:
    """See the module.

    Args:
        parent: the stage it goes on from; None means the model that the recipe starts with.
        needs: stages whose artefacts it reads.
    """

    name = "kto"
    version = 1

    def __init__(self, parent: str | None, needs: tuple[str, ...]) -> None:
        self.parent, self.needs = parent, needs

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The section, and the content of what it reads."""
        settings = pair_settings(recipe, present(recipe.kto), runs_folder() / recipe.name)
        if recipe.corpus is not None:
            sft = present(recipe.sft)
            settings |= {"examined": [sft.article_characters, sft.topics_evaluated, sft.descriptions_evaluated]}
        return settings | (start_settings(recipe) if self.parent is None else {})

    def run(self, context: StageContext) -> None:
        """Write the model and results.json."""
        section, seed = present(context.recipe.kto), context.recipe.seed
        parent = parent_of(context, self.parent)
        model, dtype = parent.model(), DTYPES[section.precision or "fp32"]
        train, held_out, refused = gather_judged(context, section, parent, model.config.context)
        if section.adapter is not None:
            put_adapter(model, section.adapter, seed, parent.name)
            reference: Reference = adapter_off(model, dtype)
        else:
            reference = frozen(parent.model(), dtype)
        starts = range(0, len(held_out.items), section.micro)
        packs = (pack_for(model, held_out.items[start : start + section.micro], parent.pad) for start in starts)
        before = torch.cat([reference(batch) for batch in packs])

        def examined(of: Transformer) -> dict[str, Any]:
            after = item_logprobs(of, held_out.items, micro=section.micro, dtype=dtype, pad=parent.pad)
            return examine_judged(held_out.items, held_out.labels, before, after, section.beta)

        def observe(step: int) -> None:
            found = examined(model)
            figures = {name: found["reward"][name] for name in ("accuracy", "margin")}
            context.record({"kind": "examination", "step": step, "figures": figures | {"kl": found["kl"]["chosen"]}})

        objective = KtoObjective(
            model, train.items, train.labels, PairLoader(train.items, section.rows, seed), section.beta, reference,
            section.micro, dtype, desirable_weight=section.desirable_weight,
            undesirable_weight=section.undesirable_weight, pad=parent.pad, sources=[row.source for row in train.rows],
        )  # fmt: skip
        steps = pair_steps(section, train.items)
        plan = training_plan(section, steps, max(1, -(-steps // section.examinations)))
        tokens = minimise(context, plan, model, objective, observe)
        results: dict[str, Any] = {
            "rows": {
                "train": len(train.rows),
                "desirable": sum(train.labels),
                "undesirable": len(train.rows) - sum(train.labels),
                "held_out": len(held_out.rows),
                "refused": refused,
            },
            "steps": steps,
            "tokens": tokens,
            "flops": model.config.training_flops_per_token() * tokens,
            "precision": plan.precision,
        } | examined(model)
        if context.recipe.corpus is None:
            good = [PreferencePair(row.messages, row.completion, "", "liked", row.language) for row in _good(held_out)]
            results |= compare_answers(parent, model, good, results["accuracy"])
        else:
            base = load_model(context.run.stage("base"), torch.float32)
            results |= compare_stages(context, parent, model, base, results["accuracy"] | {"base": examined(base)})
        write_finetuned(context, parent, model, results, adapter=section.adapter is not None)
        write_json(context.folder / "results.json", results)


def gather_judged(
    context: StageContext, section: KtoSection, parent: Parent, longest: int
) -> tuple[Judged, Judged, int]:
    """All answers of a stage that are marked as good or bad, as the model reads them; pairs are taken apart.

    Args:
        context: of the stage.
        section: its section.
        parent: whose renderer writes them.
        longest: most tokens of a prompt and an answer.

    Returns:
        Those to learn from, those held out (no prompt is on both sides), and how many rows were refused.

    Raises:
        UserError: one of the two sides has no answer, or no desirable one, or no undesirable one.
    """
    train, held_out = (unpaired(pairs) for pairs in planted_sides(context, section, section.held_out_rows))
    given, refused = list[Labelled](), list[str]()
    if section.data is not None:
        found = read_rows(Path(section.data))
        for sentence in found.described():
            context.record({"kind": "notice", "text": sentence})
        given, refused = [*found.labelled, *unpaired(found.pairs)], list(found.refused)
        strangers = [*(row.source for row in found.chats), *(row.source for row in found.verifiable)]
        said = "nothing says whether its answer is a good one; add a label, true or false"
        refused += [f"{source}: {said}" for source in strangers]
    ratings = context.run.folder / RATINGS
    if section.ratings and ratings.is_file():
        rated = read_ratings(ratings)
        refused += rated.refused
        thumbs = [*rated.labelled, *unpaired(rated.pairs)]
        context.record({"kind": "notice", "text": f"{len(thumbs)} answers rated in {RATINGS} are learnt from too"})
        # People's own ratings are too few to hold any out, unless there is nothing else to examine with.
        (train if held_out or given else given).extend(thumbs)
    if len({prompt_key(row.messages) for row in (*train, *given)}) == 1:
        raise UserError("all answers are to one prompt, and KTO compares at least two; add rows with other questions")
    for label in (True, False):  # each apart, so that both kinds are on both sides also where rows are few
        alike = [row for row in given if row.label is label]
        split = split_rows(alike, section.held_out, context.recipe.seed) if len(alike) > 1 else None
        train = [*train, *(alike if split is None else split.train)]
        held_out = [*held_out, *(() if split is None else split.held_out)]
    learnt_from = {prompt_key(row.messages) for row in train}
    held_out = [row for row in held_out if prompt_key(row.messages) not in learnt_from]
    learnt = _encoded(train, parent, longest)
    examined = _encoded(held_out[:: max(1, -(-len(held_out) // section.held_out_rows))], parent, longest)
    refused += [*learnt.refused, *examined.refused]
    tell_refused(context, refused)
    why = f" ({refused[0]})" if refused else ""
    _check(learnt, f"to learn from{why}", f"give it more with {context.name}.data=FILE")
    _check(examined, "held out", f"hold out more with {context.name}.held_out=0.3, or give more rows")
    _say_unequal(context, section, learnt.labels)
    return learnt, examined, len(refused)


def unpaired(pairs: Iterable[PreferencePair]) -> list[Labelled]:
    """Pairs as single answers: what was chosen is desirable, what was rejected is not."""
    return [
        Labelled(pair.messages, answer, label, pair.language, f"{pair.source or 'a pair'} ({name})")
        for pair in pairs
        for answer, label, name in ((pair.chosen, True, "chosen"), (pair.rejected, False, "rejected"))
    ]


def examine_judged(
    items: Sequence[Prompted], labels: Sequence[bool], before: Tensor, after: Tensor, beta: float
) -> dict[str, Any]:
    """How well a model tells desirable answers from others, and how far it has gone from the reference.

    Args:
        items: one answer each, shape (I,).
        labels: whether each is desirable; both kinds are among them.
        before: log-probabilities of the answers under the reference, shape (I,).
        after: under the policy, shape (I,).
        beta: factor on the implicit rewards.

    Returns:
        ``accuracy``: ``before`` and ``after``, share of all pairs of a desirable and an undesirable answer in which the
        desirable one has the higher log-probability per token. ``reward``: the same ``accuracy`` by implicit reward
        (the area under its ROC curve), the share of either kind that is rewarded above 0, and the ``margin`` between
        their means. ``kl``: mean of log policy - log reference of the desirable (``chosen``) and of the others.
    """
    good = torch.tensor(labels)
    lengths = torch.tensor([len(item.answers[0]) for item in items])
    before, after = before.cpu().double(), after.cpu().double()
    ratios = after - before
    rewarded = {"desirable": ratios[good], "undesirable": ratios[~good]}
    means = {name: float(values.mean()) for name, values in rewarded.items()}
    return {
        "accuracy": {"before": ranking(before / lengths, good), "after": ranking(after / lengths, good)},
        "reward": {"accuracy": ranking(ratios, good), "margin": beta * (means["desirable"] - means["undesirable"])}
        | {name: float((values > 0).double().mean()) for name, values in rewarded.items()},
        "kl": {"chosen": means["desirable"], "rejected": means["undesirable"]},
    }


def ranking(scores: Tensor, good: Tensor) -> float:
    """Area under the ROC curve: how often a good one scores above another, a tie counting half.

    Args:
        scores: shape (I,).
        good: bool, shape (I,), neither all nor none.
    """
    better, worse = scores[good][:, None], scores[~good][None, :]
    return float(((better > worse).double() + 0.5 * (better == worse).double()).mean())


def _encoded(rows: Sequence[Labelled], parent: Parent, longest: int) -> Judged:
    found = Judged([], [], [])
    for row in rows:
        encoded = encode_labelled(row, parent.renderer, longest)
        if isinstance(encoded, str):
            found.refused.append(encoded)
        else:
            found.rows.append(row)
            found.items.append(encoded)
    return found


def _good(judged: Judged) -> list[Labelled]:
    return [row for row in judged.rows if row.label]


def _check(judged: Judged, use: str, mend: str) -> None:
    if not judged.rows:
        raise UserError(f"the stage kto has no answer {use}; {mend}, each with a label of true or false")
    for label, missing in ((True, "undesirable (label false)"), (False, "desirable (label true)")):
        if all(row.label is label for row in judged.rows):
            raise UserError(f"none of the {len(judged.rows)} answers {use} is {missing}, and KTO needs both; {mend}")


def _say_unequal(context: StageContext, section: KtoSection, labels: Sequence[bool]) -> None:
    """A kind that is rare is hardly learnt; its weight makes up for that."""
    good, bad = sum(labels), len(labels) - sum(labels)
    if section.desirable_weight == section.undesirable_weight and max(good, bad) > UNEQUAL * min(good, bad):
        rare = "desirable" if good < bad else "undesirable"
        text = f"{good} desirable answers and {bad} others: kto.{rare}_weight={max(good, bad) / min(good, bad):.1f} "
        context.record({"kind": "notice", "text": text + "would give both kinds the same say"})
