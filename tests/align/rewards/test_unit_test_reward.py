import os
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.align.rewards.catalogue import parse_reward
from cadran.align.rewards.reward import Graded, grade
from cadran.align.rewards.unit_test import UnitTest, code_of
from cadran.align.sandbox.plain import decode, encode
from cadran.align.sandbox.sandbox import Limits, run_tests
from cadran.errors import UserError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs POSIX")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kernel layers are Linux's")

ADD = "assert add(2, 3) == 5\nassert add(-1, 1) == 0"
RIGHT = "def add(a, b):\n    return a + b\n"

WORKING = {
    "imports": ("import heapq, re, dataclasses, itertools\ndef add(a, b): return heapq.nsmallest(1, [a + b])[0]", ADD),
    "classes": (
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
        "    def pop(self): return self.items.pop()\n    def __len__(self): return len(self.items)\n"
        "    def __eq__(self, other): return self.items == other.items\n",
        "s = Stack()\ns.push((1, 'a'))\nassert len(s) == 1\nassert s.items == [(1, 'a')]\nassert s != Stack()\n"
        "assert s.pop() == (1, 'a')\nassert s == Stack()\nassert not s",
    ),
    "exceptions": (
        "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
        "try:\n    f(-1)\nexcept ValueError as e:\n    assert str(e) == 'negative'\nelse:\n    raise AssertionError",
    ),
    "generators": (
        "def f(n):\n    for i in range(n): yield i * i",
        "assert list(f(3)) == [0, 1, 4]\nassert next(f(1)) == 0",
    ),
    "changes in place": ("def f(x): x.sort()", "x = [3, 1, 2]\nassert f(x) is None\nassert x == [1, 2, 3]"),
    "counters": ("from collections import Counter\ndef f(s): return Counter(s)", "assert f('aab') == {'a': 2, 'b': 1}"),
    "big numbers": ("def f(n): return 10 ** n", "assert f(5000) == 10 ** 5000\nassert f(0) == 1"),
    "not a number": ("def f(): return float('nan'), float('inf')", "a, b = f()\nassert a != a and b > 1e308"),
    "test functions": (RIGHT, "def test_add():\n    assert add(1, 1) == 2\n"),
    "threads": (
        "from threading import Thread\ndef add(a, b):\n    t = Thread(target=print)\n"
        "    t.start()\n    t.join()\n    return a + b",
        ADD,
    ),
    "files of its own": ("def add(a, b):\n    open('x', 'w').write('7')\n    return a + b", ADD),
    "callables that return callables": ("def make(n): return lambda x: x + n", "assert make(3)(4) == 7"),
}  # fmt: skip


@linux
@pytest.mark.parametrize(("code", "tests"), WORKING.values(), ids=WORKING.keys())
def test_ordinary_answers_work(code: str, tests: str) -> None:
    outcome = run_tests(code, tests, Limits(seconds=60))
    assert outcome.passed, outcome.reason


@pytest.mark.parametrize("tests", ["", "add(1, 2)", "assert (", "# assert nothing"])
def test_tests_that_cannot_fail_are_refused(tests: str) -> None:
    with pytest.raises(UserError, match="tests"):
        run_tests(RIGHT, tests)


def test_tests_that_leave_early_have_not_passed() -> None:
    garbage = "import os\nfor n in range(3, 20):\n    try: os.write(n, b'\\0\\0\\0\\2[]')\n    except OSError: pass"
    for leave in ("raise SystemExit(0)", "import os; os._exit(0)", garbage + "\nos._exit(0)"):
        outcome = run_tests(RIGHT, f"{leave}\nassert add(1, 2) == 3")
        assert not outcome.passed


def test_reward_runs_the_last_block_of_code_against_the_rows_tests() -> None:
    reward = parse_reward({"unit_test": {"seconds": 60}})
    answers = [
        f"First:\n```python\nx = 1\n```\nThen:\n```python\n{RIGHT}```\nDone.",
        RIGHT,
        "I cannot.",
        "```\n1 +\n```",
    ]
    rows = [Graded([], answer, {"tests": ADD.splitlines()}) for answer in answers]
    assert grade([reward], rows).values["unit_test"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert code_of(answers[0]) == RIGHT


def test_row_without_tests_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"answer 2 of 2.*hold no `assert`"):
        UnitTest()([Graded([], RIGHT, {"tests": ADD}), Graded([], RIGHT, {"tests": "pass"})])


@settings(max_examples=8)
@given(answer=st.text(alphabet=st.characters(), max_size=200))
def test_no_answer_makes_the_unit_test_raise(answer: str) -> None:
    assert UnitTest()([Graded([], answer, {"tests": ADD})]) == [0.0]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=12,
)  # fmt: skip


@given(value=PLAIN)
def test_plain_data_crosses_unchanged_in_value_and_type(value: Any) -> None:
    def refuse(other: Any) -> int:
        raise TypeError(type(other))

    crossed = decode(encode(value, refuse), lambda handle: None)
    assert crossed == value
    assert repr(crossed) == repr(value)
