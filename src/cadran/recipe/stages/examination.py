"""What a model that talks is asked about articles it never saw; the same questions of every stage, to be compared."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cadran.align.rows import NO_TOPIC, clipped, first_sentence, question, reading
from cadran.corpus.document import Document
from cadran.engine.engine import Engine
from cadran.evaluate.assistant import Question, answer, answers, description_scores, topic_scores
from cadran.recipe.schema import present
from cadran.recipe.stage import StageContext

SHOWN = 2
"""Samples of each task and language."""


def examine(engine: Engine, documents: Sequence[Document], context: StageContext) -> dict[str, Any]:
    """Ask about articles: greedy answers, their scores, and a few samples to read.

    Args:
        engine: of a model that knows turns.
        documents: held out; chats are passed over.
        context: of the stage; the recipe's SFT section says how many questions there are.

    Returns:
        ``samples``, and where there was something to ask ``topic`` and ``description``, by language.
    """
    section = present(context.recipe.sft)
    topics, descriptions, definitions = [], [], []
    per_language: Counter[tuple[str, str]] = Counter()
    for document in documents:
        if "messages" in document.meta:
            continue
        meta, language = document.meta, document.language
        text = clipped(meta.get("extract", ""), section.article_characters)
        if not text:
            continue
        if meta.get("topic", "") not in NO_TOPIC and per_language["topic", language] < section.topics_evaluated:
            per_language["topic", language] += 1
            topics.append(Question(language, reading(language, "topic", text), meta["topic"]))
        if meta.get("description") and per_language["description", language] < section.descriptions_evaluated:
            per_language["description", language] += 1
            asked = reading(language, "description", text)
            descriptions.append(Question(language, asked, meta["description"], baseline=clipped(text, 60)))
        if meta.get("title") and per_language["definition", language] < SHOWN:
            per_language["definition", language] += 1
            asked = question(language, "definition", title=meta["title"])
            definitions.append(Question(language, asked, first_sentence(meta["extract"])))
    total = len(topics) + len(descriptions)
    given_topics = answers(engine, topics, 16, lambda n: context.progress("examine topics", n, total))
    given_lines = answers(
        engine, descriptions, 32, lambda n: context.progress("examine descriptions", len(topics) + n, total)
    )
    samples: list[dict[str, str]] = []
    for task, asked_all, given in (("topic", topics, given_topics), ("description", descriptions, given_lines)):
        shown: Counter[str] = Counter()
        for asked_one, said in zip(asked_all, given, strict=True):
            shown[asked_one.language] += 1
            if shown[asked_one.language] <= SHOWN:
                samples.append(_sample(asked_one, task, said))
    # What has no single right answer is drawn, as a user would see it; greedy answers run in circles.
    definitions += [Question("en", "Hello! How are you today?", ""), Question("fr", "Bonsoir, qui êtes-vous ?", "")]
    for asked_one in definitions:
        said = answer(engine, asked_one.prompt, 60, temperature=0.7, seed=context.recipe.seed)
        samples.append(_sample(asked_one, "definition" if asked_one.expected else "chat", said))
    for sample in samples:
        context.record(
            {"kind": "sample", "language": sample["language"], "prompt": sample["prompt"], "text": sample["answer"]}
        )
    found: dict[str, Any] = {"samples": samples}
    if topics:
        found["topic"] = topic_scores(topics, given_topics)
    if descriptions:
        found["description"] = description_scores(descriptions, given_lines)
    return found


def _sample(asked: Question, task: str, said: str) -> dict[str, str]:
    return {
        "language": asked.language,
        "task": task,
        "prompt": asked.prompt,
        "answer": said,
        "expected": asked.expected,
    }
