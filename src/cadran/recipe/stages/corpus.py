"""Stage ``corpus``: sources to clean, deduplicated, split documents and their data sheet."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from cadran.corpus.build import build_corpus
from cadran.corpus.sources.config import parse_source
from cadran.recipe.schema import Recipe, present
from cadran.recipe.stage import StageContext


class CorpusStage:
    """See the module."""

    name = "corpus"
    needs: tuple[str, ...] = ()
    version = 1

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The whole corpus section, and what lies in local folders: a changed file is a changed input."""
        section = present(recipe.corpus)
        sources = [parse_source(source) for source in section.sources]
        local = [asdict(source.fingerprint(Path())) for source in sources if source.kind == "folder"]
        return {**section.model_dump(mode="json"), "local": local}

    def run(self, context: StageContext) -> None:
        """Write documents.jsonl, removed.jsonl and datasheet.json."""
        section = present(context.recipe.corpus)
        sheet = build_corpus(
            [parse_source(source) for source in section.sources],
            context.folder,
            context.cache,
            validation=section.validation,
            near_duplicate_threshold=section.near_duplicate_threshold,
            minimum_characters=section.minimum_characters,
            fallback=[parse_source(source) for source in section.fallback],
            progress=lambda phase, done: context.progress(phase, done, None),
        )
        for notice in sheet.notices:
            context.record({"kind": "notice", "text": notice})
