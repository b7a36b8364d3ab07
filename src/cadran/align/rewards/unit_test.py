"""The answer's Python passes the row's tests, run in the sandbox."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from pydantic import Field

from cadran.align.rewards.built_in import BuiltIn
from cadran.align.rewards.reward import Graded, named
from cadran.align.sandbox.sandbox import Limits, Outcome, check_tests, run_tests
from cadran.errors import UserError

_FENCE = re.compile(r"^```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE | re.IGNORECASE)


class UnitTest(BuiltIn):
    """1 when the code in the answer passes the tests of its row, else 0. Runs code that a model wrote.

    The code is the last fenced block, or the whole answer when there is none. See ``sandbox.run_tests``.

    Attributes:
        field: of the row that holds the tests: Python with ``assert``, or a list of such.
        seconds: of wall time for one answer.
        memory_mb: of address space for one answer.
        parallel: answers tested at once.
    """

    name: str = "unit_test"
    field: str = "tests"
    seconds: Annotated[float, Field(gt=0, le=600)] = 5.0
    memory_mb: Annotated[int, Field(ge=64)] = 512
    parallel: Annotated[int, Field(ge=1, le=64)] = 2

    def __call__(self, graded: Sequence[Graded]) -> list[float]:
        """1 or 0 for each answer."""
        return [float(outcome.passed) for outcome in self.outcomes(graded)]

    def outcomes(self, graded: Sequence[Graded]) -> list[Outcome]:
        """What came of each answer's tests, with the reason and the protection in force.

        Raises:
            UserError: a row has no tests, or tests that cannot fail; no sandbox can be started here.
        """
        tests = [self._tests(index, graded) for index in range(len(graded))]
        limits = Limits(self.seconds, self.memory_mb << 20)
        with ThreadPoolExecutor(self.parallel) as pool:
            pairs = zip(graded, tests, strict=True)
            return list(pool.map(lambda pair: run_tests(code_of(pair[0].answer), pair[1], limits), pairs))

    def _tests(self, index: int, graded: Sequence[Graded]) -> str:
        given = self.needed(self.field, index, graded)
        tests = "\n".join(map(str, given)) if isinstance(given, list | tuple) else str(given)
        try:
            check_tests(tests)
        except UserError as error:
            raise UserError(f"The reward `{self.name}` cannot test {named(index, graded)}. {error}") from None
        return tests


def code_of(answer: str) -> str:
    """The last fenced block of Python in an answer, or all of it."""
    blocks = _FENCE.findall(answer + "\n")
    return str(blocks[-1]) if blocks else answer
