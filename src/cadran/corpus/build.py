"""From sources to `documents.jsonl`: normalise, drop the too short, drop duplicates, split, and account for it all.

Two passes. The first reads the sources once, normalises, removes short texts and exact duplicates, and spools the
rest to disk; the second removes near-duplicates and writes what is kept. Memory holds hashes, never the corpus.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cadran.corpus.datasheet import Amount, DataSheet, RuleCount
from cadran.corpus.digest import content_digest
from cadran.corpus.document import SPLITS, Document, DocumentWriter, Split, document_id
from cadran.corpus.jsonl import JsonLines
from cadran.corpus.language import identify
from cadran.corpus.normalise import normalise, normalise_meta
from cadran.corpus.sources.config import SourceConfig
from cadran.corpus.sources.source import SourceRecord
from cadran.corpus.sources.unreachable import SourceUnreachable
from cadran.corpus.split import split_corpus
from cadran.corpus.spool import DocumentSpool
from cadran.errors import UserError
from cadran.files import write_json

Progress = Callable[[str, int], None]

_REPORT_EVERY = 500
_SHOWN_CHARACTERS = 80
_WORTH_A_NOTICE = 0.01  # of the documents; stray texts in a third language are nobody's concern
_RULES = ("normalise", "too_short", "exact_duplicate", "near_duplicate")


def build_corpus(
    sources: Sequence[SourceConfig],
    out: Path,
    cache: Path,
    *,
    validation: float,
    near_duplicate_threshold: float,
    minimum_characters: int,
    fallback: Sequence[SourceConfig] = (),
    progress: Progress = lambda phase, done: None,
) -> DataSheet:
    """Write ``out/documents.jsonl``, ``out/removed.jsonl`` and ``out/datasheet.json``; same input, same bytes.

    Args:
        sources: where the text comes from; their order is the order of the documents.
        out: folder of the results.
        cache: folder that keeps what was fetched between runs.
        validation: fraction of documents held out, 0 <= validation < 1.
        near_duplicate_threshold: Jaccard similarity from which a document repeats another, 0 < threshold <= 1.
        minimum_characters: shorter texts (after normalisation) are dropped; empty ones always are.
        fallback: used *instead of all* ``sources`` when one of them cannot be reached; a notice says so.
        progress: called with the phase ("fetch NAME", "read NAME", "near-duplicates", "write") and how many documents
            it has done so far.

    Returns:
        The data sheet, as written.

    Raises:
        UserError: a source is missing, empty or wrong, two have the same name, a number is out of range, or nothing
            is left to keep.
        SourceUnreachable: a source cannot be reached and there is no fallback.
    """
    _check(validation, near_duplicate_threshold, minimum_characters)
    notices: list[str] = []
    try:
        records = _fetch(sources, cache, progress)
    except SourceUnreachable as error:
        if not fallback:
            raise
        names = ", ".join(source.name for source in fallback)
        notices.append(f"{error} This corpus was made from the fallback instead: {names}.")
        sources = fallback
        records = _fetch(sources, cache, progress)

    with DocumentSpool(out / ".candidates.spool") as spool:
        gathered = _gather(sources, cache, minimum_characters, spool, progress)
        records = [
            SourceRecord(r.name, r.kind, r.locator, r.licence, r.sha256, r.bytes, dict(sorted(counts.items())))
            for r, counts in zip(records, gathered.counts, strict=True)
        ]
        # NumPy and rensa are loaded here, not with the module: a program that only reads documents needs neither.
        from cadran.corpus.deduplicate import near_duplicates

        repeats = near_duplicates(spool, near_duplicate_threshold, lambda done: progress("near-duplicates", done))
        if len(spool) == len(repeats):
            raise UserError(
                f"No document is left after the rules ({gathered.read} were read, all shorter than "
                f"{minimum_characters} characters): lower `minimum_characters` or add a source."
            )
        languages, moved = _write(spool, gathered, repeats, validation, out, progress)
        kept = sum(amount.documents for splits in languages.values() for amount in splits.values())
        if moved:
            notices.append(f"The corpus is small: one of its {kept} documents was moved so that both splits have some.")
        notices += _empty_validation(languages, validation)

    sheet = DataSheet(
        sources=tuple(records),
        settings={
            "validation": validation,
            "near_duplicate_threshold": near_duplicate_threshold,
            "minimum_characters": minimum_characters,
        },
        rules=tuple(
            RuleCount(rule, gathered.flow[number], gathered.flow[number + 1]) for number, rule in enumerate(_RULES)
        ),
        languages=languages,
        notices=tuple(notices),
    )
    write_json(out / "datasheet.json", sheet.to_json())
    return sheet


@dataclass(slots=True)
class _Removed:
    """A document that a rule took out; ``duplicate_of`` is the id of the one that was kept, or ""."""

    id: str
    source: str
    rule: str
    start: str
    duplicate_of: str = ""


@dataclass(slots=True)
class _Gathered:
    """What the first pass leaves behind besides the spool.

    Attributes:
        counts: repairs and skips, one counter per source.
        digests: content digest of each spooled document.
        flow: amounts before the first rule and after each rule.
        removed: what was taken out so far, in reading order.
    """

    counts: list[Counter[str]]
    digests: list[bytes] = field(default_factory=list)
    flow: list[Amount] = field(default_factory=lambda: [Amount() for _ in range(len(_RULES) + 1)])
    removed: list[_Removed] = field(default_factory=list)

    @property
    def read(self) -> int:
        return self.flow[0].documents

    def passed(self, rule: int, size: int) -> None:
        """Count one document of ``size`` bytes as having left rule number ``rule`` (0 is the entrance)."""
        self.flow[rule] = self.flow[rule].plus(size)


def _check(validation: float, threshold: float, minimum_characters: int) -> None:
    if not 0 <= validation < 1:
        raise UserError(f"`validation: {validation}` is not a fraction: give a number from 0 to below 1, such as 0.02.")
    if not 0 < threshold <= 1:
        raise UserError(
            f"`near_duplicate_threshold: {threshold}` is not a similarity: give a number up to 1, such as 0.8."
        )
    if minimum_characters < 0:
        raise UserError(f"`minimum_characters: {minimum_characters}` is negative: give 0 or more.")


def _fetch(sources: Sequence[SourceConfig], cache: Path, progress: Progress) -> list[SourceRecord]:
    """Records of all sources; everything remote is in the cache afterwards."""
    if not sources:
        raise UserError("The corpus has no source: add one under `sources:`, such as `folder: my_texts`.")
    for name, number in Counter(source.name for source in sources).items():
        if number > 1:
            raise UserError(f"{number} sources have the name {name}: give each its own with `name:`.")
    records = []
    for source in sources:
        progress(f"fetch {source.name}", 0)
        records.append(source.fingerprint(cache))
    return records


def _gather(
    sources: Sequence[SourceConfig], cache: Path, minimum_characters: int, spool: DocumentSpool, progress: Progress
) -> _Gathered:
    gathered = _Gathered(counts=[Counter() for _ in sources])
    kept_ids: dict[bytes, str] = {}
    for document, size in _documents(sources, cache, gathered.counts, progress):
        new_size = len(document.text.encode())
        gathered.passed(0, size)
        gathered.passed(1, new_size)
        if len(document.text) < max(1, minimum_characters):
            gathered.removed.append(_removed(document, "too_short"))
            continue
        gathered.passed(2, new_size)
        digest = content_digest(document.text)
        if (original := kept_ids.setdefault(digest, document.id)) != document.id:
            gathered.removed.append(_removed(document, "exact_duplicate", original))
            continue
        gathered.passed(3, new_size)
        gathered.digests.append(digest)
        spool.append(document)
    return gathered


def _documents(
    sources: Sequence[SourceConfig], cache: Path, counts: Sequence[Counter[str]], progress: Progress
) -> Iterator[tuple[Document, int]]:
    """Normalised documents of all sources in order, each with the size in bytes that its text had before."""
    for source, count in zip(sources, counts, strict=True):
        done = 0
        for done, raw in enumerate(source.documents(cache, count), start=1):
            text = normalise(raw.text)
            language = identify(text, raw.language)
            identity = document_id(source.name, raw.key)
            size = len(raw.text.encode("utf-8", "surrogatepass"))
            yield Document(identity, text, source.name, language, normalise_meta(raw.meta)), size
            if done % _REPORT_EVERY == 0:
                progress(f"read {source.name}", done)
        progress(f"read {source.name}", done)


def _write(
    spool: DocumentSpool,
    gathered: _Gathered,
    repeats: dict[int, int],
    validation: float,
    out: Path,
    progress: Progress,
) -> tuple[dict[str, dict[Split, Amount]], bool]:
    """Write what is kept and what was removed; amounts per language and split, and whether a document was moved."""
    kept = [index for index in range(len(spool)) if index not in repeats]
    splits, moved = split_corpus([gathered.digests[index] for index in kept], validation)
    languages: dict[str, dict[Split, Amount]] = defaultdict(lambda: {split: Amount() for split in SPLITS})
    with DocumentWriter(out / "documents.jsonl") as documents:
        for index, split in zip(kept, splits, strict=True):
            document = spool.document(index)
            size = len(document.text.encode())
            gathered.passed(4, size)
            languages[document.language][split] = languages[document.language][split].plus(size)
            documents.write(document, split)
    with JsonLines(out / "removed.jsonl") as removed:
        for index, original in repeats.items():
            original_id = spool.document(original).id
            gathered.removed.append(_removed(spool.document(index), "near_duplicate", original_id))
        for entry in gathered.removed:
            row = {"id": entry.id, "source": entry.source, "rule": entry.rule, "start": entry.start}
            removed.write(row | ({"duplicate_of": entry.duplicate_of} if entry.duplicate_of else {}))
    progress("write", len(kept))
    return {language: languages[language] for language in sorted(languages)}, moved


def _removed(document: Document, rule: str, duplicate_of: str = "") -> _Removed:
    return _Removed(document.id, document.source, rule, document.text[:_SHOWN_CHARACTERS], duplicate_of)


def _empty_validation(languages: dict[str, dict[Split, Amount]], validation: float) -> list[str]:
    """A sentence for each language that has training documents enough to matter and no validation document."""
    if not validation:
        return []
    total = sum(amount.documents for splits in languages.values() for amount in splits.values())
    return [
        f"No document in language '{language}' is held out for validation: it has only {splits['train'].documents}."
        for language, splits in languages.items()
        if not splits["validation"].documents and splits["train"].documents >= total * _WORTH_A_NOTICE
    ]
