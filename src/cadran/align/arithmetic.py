"""Sums with one right answer, asked in words: rows whose reward can be checked, for reinforcement learning.

Which side of the split a question falls on depends on its numbers alone, whatever the seed, the language, the wording,
the order or the operation: a model that is examined on held-out questions cannot have met them.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence

from cadran.align.data.row import Verifiable
from cadran.align.rows import ChatRow
from cadran.errors import UserError

PROMPTS: dict[str, tuple[str, ...]] = {
    "en": ("What is {sum}?", "Compute {sum}.", "How much is {sum}?", "{sum} = ?"),
    "fr": ("Combien font {sum} ?", "Calcule {sum}.", "Que vaut {sum} ?", "{sum} = ?"),
}
"""Ways to ask, by language."""

SIGNS = {"+": "+", "-": "-", "*": "×"}
"""Operations, as they are written in a question."""

HELD_OUT = 0.2
"""Share of the sets of numbers that are held out, on average."""

ATTEMPTS = 20_000
"""Draws after which a question that fits is taken not to exist."""


def arithmetic_rows(
    count: int,
    seed: int,
    *,
    operands: int = 2,
    largest: int = 20,
    operations: str = "+-",
    languages: Sequence[str] = ("en", "fr"),
    held_out: bool = False,
) -> Iterator[Verifiable]:
    """Questions such as "What is 7 + 5?" with ``{"answer": "12"}``; no answer is negative.

    Args:
        count: how many; small ranges of numbers repeat questions.
        seed: of all choices.
        operands: numbers in a sum, 2 to 4.
        largest: of the numbers, from 0.
        operations: any of ``+``, ``-`` and ``*`` (which binds closer); drawn evenly.
        languages: taken in turn.
        held_out: whether to ask with numbers that are never asked otherwise.

    Raises:
        UserError: an argument is out of range, or there is no such question.
    """
    if not 2 <= operands <= 4:
        raise UserError(f"a sum of {operands} numbers is not made here; give 2, 3 or 4 operands")
    if largest < 1:
        raise UserError(f"the largest number is {largest}; give 1 or more")
    if unknown := set(operations) - set(SIGNS) or (not operations and {""}):
        raise UserError(f"there is no operation {min(unknown)!r}; give some of {' '.join(SIGNS)}")
    if not languages or (strangers := set(languages) - set(PROMPTS)):
        named = min(strangers) if languages else "nothing"
        raise UserError(f"no sum can be asked in {named}; give languages among {', '.join(PROMPTS)}")
    generator = random.Random(f"{seed} {held_out}")
    for number in range(count):
        language = languages[number % len(languages)]
        numbers, signs = _drawn(generator, operands, largest, operations, held_out)
        written = "".join(f"{n} {SIGNS[sign]} " for n, sign in zip(numbers, signs, strict=False)) + str(numbers[-1])
        asked = generator.choice(PROMPTS[language]).format(sum=written)
        answer = str(value(numbers, signs))
        yield Verifiable([{"role": "user", "content": asked}], {"answer": answer}, language, f"sum {number + 1}")


def sft_rows(
    count: int,
    seed: int,
    *,
    operands: int = 2,
    largest: int = 20,
    operations: str = "+-",
    languages: Sequence[str] = ("en", "fr"),
    held_out: bool = False,
) -> Iterator[ChatRow]:
    """The same questions with their answers as they are rewarded, for a model to learn the form before the sums."""
    rows = arithmetic_rows(
        count, seed, operands=operands, largest=largest, operations=operations, languages=languages, held_out=held_out
    )
    for row in rows:
        messages = [*row.messages, {"role": "assistant", "content": row.reference["answer"]}]
        yield ChatRow(messages, row.language, "arithmetic", row.source)


def value(numbers: Sequence[int], signs: Sequence[str]) -> int:
    """What a sum comes to: ``value((2, 3, 4), "+*")`` is 14.

    Args:
        numbers: the operands.
        signs: of the operations between them, one fewer.
    """
    total, product = 0, numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            product *= number
        else:
            total += product
            product = number if sign == "+" else -number
    return total + product


def is_held_out(numbers: Sequence[int]) -> bool:
    """Whether questions with these numbers, in any order, are held out."""
    digest = hashlib.sha256(",".join(map(str, sorted(numbers))).encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64


def _drawn(
    generator: random.Random, operands: int, largest: int, operations: str, held_out: bool
) -> tuple[list[int], list[str]]:
    for _ in range(ATTEMPTS):
        signs = [generator.choice(operations) for _ in range(operands - 1)]
        numbers = [generator.randint(0, largest) for _ in range(operands)]
        if signs == ["-"]:
            numbers.sort(reverse=True)  # as many subtractions as were drawn
        if is_held_out(numbers) == held_out and value(numbers, signs) >= 0:
            return numbers, signs
    side = "held out" if held_out else "to learn from"
    raise UserError(f"numbers up to {largest} leave no question {side}; give a larger one")
