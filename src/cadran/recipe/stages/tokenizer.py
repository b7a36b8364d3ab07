"""Stage ``tokenizer``: byte-level BPE learnt from the training documents, and the corpus as tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cadran.corpus.document import Document, read_documents
from cadran.corpus.shards import EncodedDocument, write_shard
from cadran.errors import UserError
from cadran.files import write_json
from cadran.recipe.schema import Recipe
from cadran.recipe.stage import StageContext
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.segmentation import bytes_per_token
from cadran.tokenizer.tokenizer import Tokenizer

AT_A_TIME = 1000


class TokenizerStage:
    """See the module. Tokenizer and pre-training read articles only: chats, often longer, wait for SFT."""

    name = "tokenizer"
    needs = ("corpus",)
    version = 1

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The vocabulary."""
        return recipe.tokenizer.model_dump(mode="json")

    def run(self, context: StageContext) -> None:
        """Write tokenizer.json, tokenizer_config.json, tokens/train, tokens/validation and results.json."""
        documents = list(read_documents(context.run.stage("corpus") / "documents.jsonl"))
        context.progress("learn merges", 0, None)
        tokenizer = train_bpe(
            (d.text for d, split in documents if split == "train" and "messages" not in d.meta),
            context.recipe.tokenizer.vocabulary,
        )
        if tokenizer.notice:
            context.record({"kind": "notice", "text": tokenizer.notice})
        tokenizer.save(context.folder)
        texts: dict[str, list[str]] = {}
        counts = {}
        for split in ("train", "validation"):
            chosen = [d for d, s in documents if s == split and "messages" not in d.meta]
            if not chosen:
                raise UserError(f"no article is left for {split}; add text, or set corpus.validation=0.1")
            context.progress(f"encode {split}", 0, len(chosen))
            encoded = _encoded(chosen, tokenizer, context)
            shard = write_shard(context.folder / "tokens" / split, encoded, tokenizer.vocabulary_size)
            counts[split] = len(shard.tokens)
            if split == "validation":
                for document in chosen:
                    texts.setdefault(document.language, []).append(document.text)
        write_json(
            context.folder / "results.json",
            {
                "vocabulary": tokenizer.vocabulary_size,
                "bytes_per_token": bytes_per_token(tokenizer, texts),
                "tokens": counts,
            },
        )


def _encoded(documents: Sequence[Document], tokenizer: Tokenizer, context: StageContext) -> Iterator[EncodedDocument]:
    """Each document between two end-of-text tokens: the first to predict from, the last to be predicted."""
    mark = np.array([tokenizer.end_of_text])
    for start in range(0, len(documents), AT_A_TIME):
        some = documents[start : start + AT_A_TIME]
        for document, ids in zip(some, tokenizer.encode_batch([d.text for d in some]), strict=True):
            joined = np.concatenate((mark, ids, mark))
            yield EncodedDocument(joined, len(document.text.encode()), document.language)
        context.progress("encode", start + len(some), len(documents))
