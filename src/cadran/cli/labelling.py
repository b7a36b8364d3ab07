"""The session of ``cadran label``: prompts from a file, a run or the keyboard, and the choice between two answers."""

import hashlib
import json
import random
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from cadran.align.planted import LANGUAGES
from cadran.align.preference import PreferencePair, prompt_key, why_no_prompt
from cadran.align.ratings import append_rating, parse_messages, read_ratings
from cadran.align.rows import Message, chat_row, clipped, question, reading
from cadran.align.small_talk import EXCHANGES
from cadran.corpus.document import Document, read_documents
from cadran.corpus.language import identify
from cadran.engine.engine import Engine
from cadran.engine.sampler import SamplingParams
from cadran.errors import UserError

CHARACTERS = 360
"""Most characters of an article that are quoted in a question."""
DRAWS = 3
"""Times that one model may try to give two different answers."""
CHOICES = "1 or 2 is better, = as good, s skip, e write a better one, q quit"


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt to rate answers to.

    Attributes:
        messages: a conversation up to the last user turn.
        language: ISO 639-1 code, or "und".
    """

    messages: list[Message]
    language: str


@dataclass(frozen=True, slots=True)
class Given:
    """An answer, who gave it, and whether it was cut at its longest."""

    text: str
    model: str
    cut: bool


class Labelling:
    """Shows answers and keeps choices.

    Args:
        models: one that answers twice, or two, with the names that the file may tell.
        params: how the answers are drawn; the seed follows from ``seed`` and the prompt.
        seed: of the answers and of which is shown first.
        path: file of ratings.
    """

    def __init__(self, models: Sequence[tuple[str, Engine]], params: SamplingParams, seed: int, path: Path) -> None:
        self.models, self.params, self.seed, self.path = list(models), params, seed, path
        self._done = {prompt_key(pair.messages) for pair in read_ratings(path).pairs}
        self._new = 0

    def run(self, prompts: Iterator[Asked], number: int) -> None:
        """Ask until the prompts, their number or the user's patience ends; Ctrl-C ends it too."""
        shown = tried = 0
        try:
            while shown < number and (asked := next(prompts, None)) is not None:
                tried += 1
                both = self._answers(asked)
                if isinstance(both, str):
                    print(f"passed over ({both}): {_shown(asked.messages[-1]['content'])}\n")
                    continue
                shown += 1
                self._show(asked, both, shown, number)
                if not self._choose(asked, both):
                    return
            if not tried and self._done:
                print("every prompt is rated already; name others with --prompts FILE")
        except KeyboardInterrupt:
            print()

    def unrated(self, prompts: Iterable[Asked]) -> Iterator[Asked]:
        """The prompts that are not rated at the time when their turn comes."""
        return (asked for asked in prompts if prompt_key(asked.messages) not in self._done)

    def tell(self, rest: str) -> None:
        """Say how many ratings there are, and what to type next."""
        kept = len(read_ratings(self.path).pairs)
        if kept:
            ratings = "rating" if kept == 1 else "ratings"
            print(f"{self.path} holds {kept} {ratings}, {self._new} of them new; to learn from them type {rest}")
        else:
            print("nothing was rated; the same command begins again")

    def _answers(self, asked: Asked) -> tuple[Given, Given] | str:
        """Two different answers, in the order in which they are shown; or why there are none."""
        digest = hashlib.sha256(f"{self.seed}\0{prompt_key(asked.messages)}".encode()).digest()
        first = int.from_bytes(digest[:4], "big") >> 1
        reason = ""
        for draw in range(DRAWS):
            both: list[Given] = []
            try:
                for place, (name, engine) in enumerate(self.models):
                    params = replace(self.params, seed=first + 2 * draw + place)
                    with engine.chat(asked.messages, params, answers=3 - len(self.models)) as said:
                        for text, finish in zip(said.texts, said.finishes, strict=True):
                            both.append(Given(text.strip(), name, finish == "length"))
            except UserError as error:
                return str(error)
            if both[0].text == both[1].text:
                reason = "both answers are the same"
            elif not (both[0].text and both[1].text):
                reason = "an answer is empty"
            else:
                # Which is shown first says nothing of where it came from.
                return (both[1], both[0]) if digest[4] & 1 else (both[0], both[1])
        return reason

    def _show(self, asked: Asked, both: tuple[Given, Given], shown: int, number: int) -> None:
        print(f"{shown} of {number}")
        for message in asked.messages:
            mark = ">" if message["role"] == "user" else f"{message['role']}:"
            print(f"{mark} {_shown(message['content'])}")
        for place, given in enumerate(both, start=1):
            print(f"\n[{place}] {_shown(given.text)}{' ... (cut at --max-tokens)' if given.cut else ''}")
        print()

    def _choose(self, asked: Asked, both: tuple[Given, Given]) -> bool:
        """Ask for the better one and keep it; False when the user leaves."""
        while (line := _line(f"{CHOICES} › ")) is not None:
            match line.strip().lower():
                case "1" | "2" as better:
                    chosen, rejected = both if better == "1" else both[::-1]
                    self._keep(asked, chosen.text, rejected, {"chosen": chosen.model})
                case "=" | "s":
                    pass
                case "e":
                    written = (_line("your answer › ") or "").strip()
                    worse = [given for given in both if given.text != written]
                    if not written:
                        continue
                    for given in worse:
                        self._keep(asked, written, given, {})
                case "q":
                    return False
                case _:
                    print(CHOICES)
                    continue
            print()
            return True
        print()
        return False

    def _keep(self, asked: Asked, chosen: str, rejected: Given, models: dict[str, str]) -> None:
        pair = PreferencePair(asked.messages, chosen, rejected.text, "rating", asked.language)
        append_rating(self.path, pair, models=models | {"rejected": rejected.model})
        self._new += 1
        self._done.add(prompt_key(asked.messages))


def typed_prompts() -> Iterator[Asked]:
    """What the user types, a line each, until a blank line, q or the end."""
    while (line := (_line("what to ask (q quits) › ") or "").strip()) not in ("", "q"):
        yield Asked([{"role": "user", "content": line}], identify(line))


def file_prompts(path: Path) -> list[Asked]:
    """Prompts of a file: each line a text, or a JSON object with ``prompt`` or ``messages``.

    Raises:
        UserError: it cannot be read, holds none, or a line is no prompt (the line is named).
    """
    if not path.is_file():
        what = "is no file" if path.exists() else "is not there"
        raise UserError(f"{path} {what}; name a file with a prompt on each line after --prompts")
    try:
        lines = path.read_text(encoding="utf-8").removeprefix("\ufeff").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text in UTF-8 ({error}); name a file after --prompts") from error
    found = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text.startswith("{"):
            found.append(_json_prompt(text, f"line {number} of {path.name}"))
        elif text:
            found.append(Asked([{"role": "user", "content": text}], identify(text)))
    if not found:
        raise UserError(f"{path} holds no prompt; write one on each line")
    return found


def _json_prompt(line: str, name: str) -> Asked:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} begins like JSON and is none; mend it, or remove it") from error
    prompt = record.get("prompt", record.get("messages"))
    messages = parse_messages([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
    if not isinstance(messages, str):
        while messages and messages[-1]["role"] == "assistant":  # what is to be answered anew
            messages.pop()
    reason = messages if isinstance(messages, str) else why_no_prompt(messages)
    if isinstance(messages, str) or reason is not None or not messages[-1]["content"].strip():
        raise UserError(f"{name} {reason or 'asks nothing: write a prompt'}")
    language = record.get("language")
    return Asked(messages, language if isinstance(language, str) else identify(messages[-1]["content"]))


def run_prompts(run: Path, seed: int) -> list[Asked]:
    """What a run can be asked: questions on its held-out articles, its held-out chats, small talk; in seeded order.

    Args:
        run: folder of the run; without a corpus, small talk alone.
        seed: of the order and of what is asked about an article.
    """
    generator = random.Random(f"{seed} prompts")
    articles: list[Asked] = []
    chats: list[Asked] = []
    corpus = run / "corpus" / "documents.jsonl"
    for document, split in read_documents(corpus) if corpus.is_file() else ():
        if split != "validation":
            continue
        if "messages" in document.meta:
            row = chat_row(document)
            chats.extend([Asked(row.messages[:1], row.language)] if row else [])
        elif document.meta.get("title") and document.meta.get("extract"):
            articles.append(_article_prompt(document, generator))
    talk = [
        Asked([{"role": "user", "content": text}], language)
        for language in LANGUAGES
        for asked, _ in EXCHANGES[language].values()
        for text in asked
    ]
    for pile in (articles, chats, talk):
        generator.shuffle(pile)
    dealt = (asked for round_ in zip_longest(articles, chats, talk) for asked in round_ if asked is not None)
    return list({prompt_key(asked.messages): asked for asked in dealt}.values())


def _article_prompt(document: Document, generator: random.Random) -> Asked:
    language, pick = document.language, generator.randrange(3)
    text = clipped(document.meta["extract"], CHARACTERS)
    task = generator.choice(("definition", "topic", "description"))
    if task == "definition":
        asked = question(language, task, pick, title=document.meta["title"])
    else:
        asked = reading(language, task, text, pick)
    return Asked([{"role": "user", "content": asked}], language)


def _line(prompt: str) -> str | None:
    """A line of the user's; None at the end of the input. Asks only where somebody reads the question."""
    try:
        return input(prompt if sys.stdin.isatty() else "")
    except EOFError:
        return None


def _shown(text: str) -> str:
    """A text without what could steer the terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text)
