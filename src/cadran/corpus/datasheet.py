"""The data sheet of a corpus: what went in, what each rule took out, what is left. Written as `datasheet.json`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from cadran.corpus.document import SPLITS, Split
from cadran.corpus.sources.source import SourceRecord


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of documents and their size in bytes of UTF-8 text."""

    documents: int = 0
    bytes: int = 0

    def plus(self, size: int) -> "Amount":
        """This amount and one more document of ``size`` bytes."""
        return Amount(self.documents + 1, self.bytes + size)


@dataclass(frozen=True, slots=True)
class RuleCount:
    """What one rule received and let through; the next rule receives what this one let through.

    Attributes:
        rule: normalise, too_short, exact_duplicate or near_duplicate, in that order.
        before: amount that entered it.
        after: amount that left it.
    """

    rule: str
    before: Amount
    after: Amount


@dataclass(frozen=True, slots=True)
class DataSheet:
    """Everything a reader of the corpus should know about its making; no date, no path of this machine.

    Attributes:
        sources: record of each source that was used, in the order of the recipe.
        settings: the choices of the recipe that decide what is kept.
        rules: amounts in and out per rule, in the order of application.
        languages: per language code, the amounts of each split.
        notices: sentences for the user: a fallback was used, a language has no validation document, ...
    """

    sources: tuple[SourceRecord, ...]
    settings: dict[str, float]
    rules: tuple[RuleCount, ...]
    languages: dict[str, dict[Split, Amount]]
    notices: tuple[str, ...] = field(default=())

    def kept(self, split: Split) -> Amount:
        """What a split holds, all languages together."""
        amounts = [splits[split] for splits in self.languages.values()]
        return Amount(sum(amount.documents for amount in amounts), sum(amount.bytes for amount in amounts))

    def to_json(self) -> dict[str, Any]:
        """The sheet as a JSON object for `cadran.files.write_json`; `from_json` reads it back."""
        return {
            "sources": [asdict(source) for source in self.sources],
            "settings": dict(self.settings),
            "rules": [
                {
                    "rule": count.rule,
                    "documents_in": count.before.documents,
                    "bytes_in": count.before.bytes,
                    "documents_out": count.after.documents,
                    "bytes_out": count.after.bytes,
                }
                for count in self.rules
            ],
            "languages": {
                language: {split: asdict(amount) for split, amount in splits.items()}
                for language, splits in self.languages.items()
            },
            "notices": list(self.notices),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The sheet that `to_json` described."""
        return cls(
            sources=tuple(SourceRecord(**source) for source in content["sources"]),
            settings=dict(content["settings"]),
            rules=tuple(
                RuleCount(
                    row["rule"],
                    Amount(row["documents_in"], row["bytes_in"]),
                    Amount(row["documents_out"], row["bytes_out"]),
                )
                for row in content["rules"]
            ),
            languages={
                language: {split: Amount(**splits[split]) for split in SPLITS}
                for language, splits in content["languages"].items()
            },
            notices=tuple(content["notices"]),
        )
