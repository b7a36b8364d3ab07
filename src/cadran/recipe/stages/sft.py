"""Stage ``sft``: the base model learns to answer, and is examined on articles that it never saw."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from cadran.align.rows import NO_TOPIC, ChatRow, article_rows, chat_row, clipped, first_sentence, question, reading
from cadran.align.sft_data import encode_row
from cadran.align.small_talk import small_talk_rows
from cadran.corpus.document import Document, read_documents
from cadran.corpus.shards import EncodedDocument, write_shard
from cadran.engine.engine import Engine
from cadran.evaluate.assistant import Question, answer, answers, description_scores, topic_scores
from cadran.files import write_json
from cadran.model.checkpoint import load_model
from cadran.recipe.schema import Recipe
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.training import train, write_model
from cadran.tokenizer.renderer import ChatRenderer
from cadran.tokenizer.tokenizer import Tokenizer

SHOWN = 2
"""Samples of each task and language."""


class SftStage:
    """See the module."""

    name = "sft"
    needs = ("corpus", "tokenizer", "base")
    version = 1

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The SFT section, seed and threads."""
        section = recipe.sft.model_dump(mode="json", exclude={"checkpoint_seconds"})
        return {"sft": section, "seed": recipe.seed, "threads": recipe.threads}

    def run(self, context: StageContext) -> None:
        """Write the chat model, its rows as a shard, and results.json."""
        recipe, section = context.recipe, context.recipe.sft
        tokenizer = Tokenizer.load(context.run.stage("tokenizer"))
        renderer = ChatRenderer(tokenizer)
        model = load_model(context.run.stage("base"))
        documents = list(read_documents(context.run.stage("corpus") / "documents.jsonl"))
        context.progress("rows", 0, None)
        counts: Counter[str] = Counter()
        rows = _rows([d for d, split in documents if split == "train"], recipe)
        encoded = _encoded(rows, renderer, model.config.context, counts)
        shard = write_shard(context.folder / "rows", encoded, tokenizer.vocabulary_size)
        too_long = counts.pop("too_long", 0)
        if too_long:
            context.record({"kind": "notice", "text": f"{too_long} rows are longer than the context and were left out"})
        results = train(
            context, section, model, shard, tokenizer.pad, split=False, evaluations=1, observe=lambda step: None
        )
        supervised = int(shard.supervised.sum()) if shard.supervised is not None else 0
        results |= {"rows": {"train": dict(sorted(counts.items()))}, "supervised_tokens": supervised}
        held_out = [d for d, split in documents if split == "validation" and "messages" not in d.meta]
        with Engine(model.eval(), tokenizer, renderer) as engine:
            results |= _examine(engine, held_out, context)
        write_json(context.folder / "results.json", results)
        write_model(context, model, tokenizer, results, chat=True)


def _rows(documents: Sequence[Document], recipe: Recipe) -> Iterator[ChatRow]:
    generator, chats = random.Random(recipe.seed), 0
    for document in documents:
        if "messages" not in document.meta:
            yield from article_rows(document, generator, recipe.sft.article_characters)
        elif chats < recipe.sft.chats and (row := chat_row(document)) is not None:
            chats += 1
            yield row
    yield from small_talk_rows(recipe.sft.small_talk, recipe.seed)


def _encoded(
    rows: Iterator[ChatRow], renderer: ChatRenderer, context: int, counts: Counter[str]
) -> Iterator[EncodedDocument]:
    for row in rows:
        encoded = encode_row(row, renderer, context)
        if encoded is None:
            counts["too_long"] += 1
        else:
            counts[f"{row.task} {row.language}"] += 1
            yield encoded


def _examine(engine: Engine, documents: Sequence[Document], context: StageContext) -> dict[str, Any]:
    """Questions on held-out articles, greedy answers, scores and a few samples to read."""
    section = context.recipe.sft
    topics, descriptions, definitions = [], [], []
    per_language: Counter[tuple[str, str]] = Counter()
    for document in documents:
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
