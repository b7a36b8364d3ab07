"""Stage ``sft``: the base model learns to answer, and is examined on articles that it never saw."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from cadran.align.rows import ChatRow, article_rows, chat_row
from cadran.align.sft_rows import RefusedRow, encode_chat
from cadran.align.small_talk import small_talk_rows
from cadran.corpus.document import Document, read_documents
from cadran.corpus.shards import EncodedDocument, write_shard
from cadran.engine.engine import Engine
from cadran.files import write_json
from cadran.model.checkpoint import load_model
from cadran.recipe.schema import Recipe, present
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.examination import examine
from cadran.recipe.stages.examples import shard_examples
from cadran.recipe.stages.training import train, write_model
from cadran.tokenizer.renderer import ChatRenderer
from cadran.tokenizer.tokenizer import Tokenizer


class SftStage:
    """See the module."""

    name = "sft"
    needs = ("corpus", "tokenizer", "base")
    version = 2

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The SFT section, seed and threads."""
        section = present(recipe.sft).model_dump(mode="json", exclude={"checkpoint_seconds"})
        return {"sft": section, "seed": recipe.seed, "threads": recipe.threads}

    def run(self, context: StageContext) -> None:
        """Write the chat model, its rows as a shard, and results.json."""
        recipe, section = context.recipe, present(context.recipe.sft)
        tokenizer = Tokenizer.load(context.run.stage("tokenizer"))
        renderer = ChatRenderer(tokenizer)
        model = load_model(context.run.stage("base"))
        documents = list(read_documents(context.run.stage("corpus") / "documents.jsonl"))
        context.progress("rows", 0, None)
        counts: Counter[str] = Counter()
        rows = _rows([d for d, split in documents if split == "train"], recipe)
        encoded = _encoded(rows, renderer, model.config.context, counts)
        shard = write_shard(context.folder / "rows", encoded, tokenizer.vocabulary_size)
        if refused := counts.pop("refused", 0):
            text = f"{refused} rows are longer than the context, or hold no whole answer, and were left out"
            context.record({"kind": "notice", "text": text})
        shown = shard_examples(shard, tokenizer)
        context.record({"kind": "examples", "examples": shown})
        results = train(
            context, section, model, shard, tokenizer.pad, split=False, evaluations=1, observe=lambda step: None
        )
        supervised = int(shard.supervised.sum()) if shard.supervised is not None else 0
        results |= {"rows": {"train": dict(sorted(counts.items()))}, "supervised_tokens": supervised}
        results |= {"examples": shown}
        held_out = [d for d, split in documents if split == "validation" and "messages" not in d.meta]
        with Engine(model.eval(), tokenizer, renderer) as engine:
            results |= examine(engine, held_out, context)
        write_json(context.folder / "results.json", results)
        write_model(context, model, tokenizer, results, chat=True)


def _rows(documents: Sequence[Document], recipe: Recipe) -> Iterator[ChatRow]:
    section = present(recipe.sft)
    generator, chats = random.Random(recipe.seed), 0
    for document in documents:
        if "messages" not in document.meta:
            yield from article_rows(document, generator, section.article_characters)
        elif chats < section.chats and (row := chat_row(document)) is not None:
            chats += 1
            yield row
    yield from small_talk_rows(section.small_talk, recipe.seed)


def _encoded(
    rows: Iterator[ChatRow], renderer: ChatRenderer, context: int, counts: Counter[str]
) -> Iterator[EncodedDocument]:
    for row in rows:
        try:
            yield encode_chat(row.messages, None, renderer, context, row.source, row.language)
        except RefusedRow:
            counts["refused"] += 1
        else:
            counts[f"{row.task} {row.language}"] += 1
