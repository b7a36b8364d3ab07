"""Where preferences come from: planted ones with a ground truth, a file of the user's, what people chose."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cadran.align.branches import Prompted
from cadran.align.data.read import read_rows
from cadran.align.planted import planted_pairs
from cadran.align.preference import EncodedPairs, PreferencePair, encode_pairs, prompt_key, split_pairs
from cadran.align.ratings import RATINGS, read_ratings
from cadran.align.sft_rows import split_rows
from cadran.corpus.document import read_documents
from cadran.errors import UserError
from cadran.files import write_text
from cadran.recipe.alignment_sections import KtoSection, PairSection
from cadran.recipe.schema import Recipe, present
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.parent import Parent, content_of

REFUSED = "refused.txt"
"""File in a stage's folder: a line for each row that was left out, and why."""


def tell_refused(context: StageContext, refused: Sequence[str]) -> None:
    """Name the rows that are left out in a file, and say how many they are."""
    if refused:
        write_text(context.folder / REFUSED, "".join(f"{sentence}\n" for sentence in refused))
        text = f"{len(refused)} rows are left out, the first because: {refused[0]} (all in {context.name}/{REFUSED})"
        context.record({"kind": "notice", "text": text})


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs as tokens, to learn from and held out.

    Attributes:
        train, held_out: never both of the same prompt.
        counts: how many of each, and how many were refused.
    """

    train: EncodedPairs
    held_out: EncodedPairs
    counts: dict[str, int]

    @property
    def sources(self) -> list[str]:
        """Names of the pairs to learn from."""
        return [pair.source for pair in self.train.pairs]

    @property
    def margins(self) -> list[float] | None:
        """How far apart the rewards of each should be, None when nobody says."""
        margins = [pair.margin for pair in self.train.pairs]
        return margins if any(margins) else None

    @property
    def kinds(self) -> list[str]:
        """Kinds of the pairs held out."""
        return [pair.kind for pair in self.held_out.pairs]


def pair_settings(recipe: Recipe, section: PairSection | KtoSection, run: Path) -> dict[str, Any]:
    """What a stage of pairs depends on besides its parent: its section and the content of the files it reads."""
    content = content_of(Path(section.data)) if section.data else {}
    if section.ratings:
        content |= content_of(run / RATINGS)
    settings = section.model_dump(mode="json", exclude={"checkpoint_seconds", "data"})
    return {"section": settings, "files": content, "seed": recipe.seed, "threads": recipe.threads}


def gather_pairs(context: StageContext, section: PairSection, parent: Parent, context_length: int) -> Pairs:
    """All pairs of a stage, as the model reads them; what is refused is counted, named in a file and never learnt.

    Args:
        context: of the stage.
        section: its section.
        parent: the model's renderer.
        context_length: most tokens of a prompt and an answer.

    Raises:
        UserError: there is no pair to learn from, or none to hold out.
    """
    recipe, refused = context.recipe, list[str]()
    train, held_out = planted_sides(context, section, section.held_out_pairs)
    given = list[PreferencePair]()
    if section.data is not None:
        rows = read_rows(Path(section.data), "preference")
        for sentence in rows.described():
            context.record({"kind": "notice", "text": sentence})
        given, refused = rows.pairs, [*refused, *rows.refused]
    ratings = context.run.folder / RATINGS
    if section.ratings and ratings.is_file():
        rated = read_ratings(ratings)
        refused += rated.refused
        context.record({"kind": "notice", "text": f"{len(rated.pairs)} choices of {RATINGS} are learnt from too"})
        train += rated.pairs  # people's own choices are too few to hold any out
    for kept, some in zip((train, held_out), _divided(given, section.held_out, recipe.seed), strict=True):
        kept += some
    learnt_from = {prompt_key(pair.messages) for pair in train}
    held_out = [pair for pair in held_out if prompt_key(pair.messages) not in learnt_from]
    encoded = [encode_pairs(pairs, parent.renderer, context_length) for pairs in (train, held_out)]
    refused += [sentence for found in encoded for sentence in found.refused]
    tell_refused(context, refused)
    learnt, examined = encoded[0], _evenly(encoded[1], section.held_out_pairs)
    if not learnt.pairs or not examined.pairs:
        raise UserError(_why_none(context.name, given or learnt.pairs, learnt.pairs, refused))
    said = f"{len(learnt.pairs):,} pairs to learn from, {len(examined.pairs):,} held out"
    context.record({"kind": "notice", "text": said})
    counts = {"train": len(learnt.pairs), "held_out": len(examined.pairs), "refused": len(refused)}
    return Pairs(learnt, examined, counts)


def _why_none(
    stage: str, any_given: Sequence[PreferencePair], learnt: Sequence[PreferencePair], refused: Sequence[str]
) -> str:
    """Why there is nothing to learn from or nothing to hold out, and what to do about it."""
    why = f" ({refused[0].rstrip('.')})" if refused else ""
    side, mend = "learn from", f"give it preference rows with {stage}.data=FILE"
    if learnt:
        side, mend = "hold out", f"give it pairs with two prompts at least, or another {stage}.held_out"
    elif any_given:
        mend = f"mend the rows, or give it others with {stage}.data=FILE"
    return f"the stage {stage} has no pair to {side}{why}; {mend}"


def _divided(pairs: list[PreferencePair], share: float, seed: int) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """A user's pairs to learn from and held out: at least one prompt on each side, also where they are few."""
    train, held_out = split_pairs(pairs, share, seed)
    if (train and held_out) or not share or len({prompt_key(pair.messages) for pair in pairs}) < 2:
        return train, held_out
    split = split_rows(pairs, share, seed)
    return split.train, split.held_out


def planted_sides(
    context: StageContext, section: PairSection | KtoSection, most: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Pairs with a ground truth to learn from and held out, of the corpus and of small talk; none without a corpus.

    Args:
        context: of the stage.
        section: its section.
        most: pairs held out from the articles.
    """
    recipe, train, held_out = context.recipe, list[PreferencePair](), list[PreferencePair]()
    if recipe.corpus is None:
        return train, held_out
    documents = list(read_documents(context.run.stage("corpus") / "documents.jsonl"))
    characters = present(recipe.sft).article_characters
    for kept, split, count in ((train, "train", section.planted), (held_out, "validation", most)):
        chosen = (document for document, side in documents if side == split)
        kept += planted_pairs(chosen, recipe.seed, characters, count=count)
    # Small talk knows few questions: by prompt, so that none of those held out is learnt.
    talk = planted_pairs((), recipe.seed, characters, small_talk=section.small_talk)
    for kept, some in zip((train, held_out), split_pairs(talk, section.held_out, recipe.seed), strict=True):
        kept += some
    return train, held_out


def pair_steps(section: PairSection | KtoSection, items: Sequence[Prompted]) -> int:
    """Optimizer steps: as many as the epochs ask for, and no more than the tokens allow."""
    batch = section.pairs if isinstance(section, PairSection) else section.rows
    steps = max(1, round(section.epochs * len(items) / batch))
    if section.tokens is None:
        return steps
    each = sum(len(item.prompt) + sum(map(len, item.answers)) for item in items) / len(items)
    return max(1, min(steps, round(section.tokens / (each * batch))))


def within(pairs: Pairs, count: int) -> Pairs:
    """The pairs that there is time to learn from: all, or so many from all along the list."""
    return pairs if count >= len(pairs.train.pairs) else replace(pairs, train=_evenly(pairs.train, count))


def _evenly(encoded: EncodedPairs, most: int) -> EncodedPairs:
    """Not more than so many pairs, from all along the list: it holds one kind after another."""
    count = min(most, len(encoded.pairs))
    kept = [place * len(encoded.pairs) // count for place in range(count)]
    return EncodedPairs([encoded.pairs[i] for i in kept], [encoded.prompted[i] for i in kept], encoded.refused)
