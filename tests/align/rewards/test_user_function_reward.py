import os
import time
from pathlib import Path
from typing import Any

import pytest

from cadran.align.rewards.catalogue import parse_reward
from cadran.align.rewards.reward import Graded, grade
from cadran.align.rewards.user_function import UserFunction
from cadran.align.rewards.worker import Worker
from cadran.errors import UserError

SOURCE = """
import os, sys, time, math
from neighbour import BONUS

calls = 0

def length(messages, answer, reference):
    global calls
    calls += 1
    print("a word in between", input() if False else "")
    return len(answer) + BONUS * len(messages) + reference.get("extra", 0)

def count(messages, answer, reference):
    global calls
    calls += 1
    return calls

def odd(messages, answer, reference):
    return {"nan": math.nan, "none": None, "text": "1.0", "list": [1.0]}.get(answer, 0.5)

def fails(messages, answer, reference):
    return 1 / len(answer)

def hangs(messages, answer, reference):
    while answer == "hang":
        pass
    return os.getpid()

def leaves(messages, answer, reference):
    os._exit(0)

def reads(messages, answer, reference):
    return float(len(sys.stdin.read()))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("BONUS = 100\n")
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path / "mine.py"


def rows(*answers: str, **reference: Any) -> list[Graded]:
    return [Graded([{"role": "user", "content": "How many?"}], answer, reference) for answer in answers]


def reward(source: Path, function: str, **options: Any) -> UserFunction:
    found = parse_reward({"python": {"function": f"{source}:{function}", **options}}).reward
    assert isinstance(found, UserFunction)
    return found


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_function_gets_messages_answer_and_reference_and_may_print(source: Path) -> None:
    weighted = parse_reward({"python": {"function": f"{source}:length", "name": "mine"}, "weight": 2})
    grades = grade([weighted], rows("four", "", extra=0.5))
    assert grades.values["mine"].tolist() == [104.5, 100.5]
    assert grades.totals.tolist() == [209.0, 201.0]


def test_state_of_the_module_lives_from_batch_to_batch(source: Path) -> None:
    counting = reward(source, "count")
    assert counting(rows("a", "b")) == [1.0, 2.0]
    assert counting(rows("c")) == [3.0]


@pytest.mark.parametrize(("answer", "shown"), [("nan", "nan"), ("none", "None"), ("text", "1.0"), ("list", r"\[1.0\]")])
def test_what_is_no_finite_number_is_refused_by_reward_answer_and_value(source: Path, answer: str, shown: str) -> None:
    with pytest.raises(UserError, match=rf"`python` returned .*{shown}.* for answer 2 of 2 \(question “How many\?”\)"):
        reward(source, "odd")(rows("fine", answer))


def test_exception_is_named_with_its_answer_and_training_could_go_on(source: Path) -> None:
    failing = reward(source, "fails")
    with pytest.raises(UserError, match=r"raised ZeroDivisionError: division by zero for answer 1 of 1, row 5"):
        failing(rows("", source="5"))
    assert failing(rows("ab")) == [0.5]


def test_function_that_hangs_is_killed_and_started_anew(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Worker.ask

    def patient(self: Worker, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What ends has all the time that a busy machine takes for it."""
        return ask(self, request, seconds if request.get("answer") == "hang" else 120)

    monkeypatch.setattr(Worker, "ask", patient)
    hanging = reward(source, "hangs", timeout=1.0)
    (first,) = hanging(rows("fine"))
    assert alive(int(first))
    with pytest.raises(UserError, match=r"took longer than 1 seconds for answer 2 of 3"):
        hanging(rows("fine", "hang", "fine"))
    assert not alive(int(first))
    (other,) = hanging(rows("fine"))
    assert alive(int(other))


def test_function_that_ends_the_process_is_refused(source: Path) -> None:
    with pytest.raises(UserError, match="ended while it graded answer 1 of 1"):
        reward(source, "leaves")(rows("x"))


def test_function_cannot_swallow_the_requests(source: Path) -> None:
    assert reward(source, "reads")(rows("x", "y")) == [0.0, 0.0]


def test_misspelt_function_is_answered_with_the_nearest(source: Path) -> None:
    with pytest.raises(UserError, match=r"no function `lenght`: did you mean `length`"):
        reward(source, "lenght")(rows("x"))


def test_file_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def reward(:\n")
    with pytest.raises(UserError, match=r"broken.py raised SyntaxError"):
        reward(tmp_path / "broken.py", "reward")(rows("x"))


def test_process_ends_with_the_reward(source: Path, tmp_path: Path) -> None:
    (tmp_path / "pid.py").write_text("import os\ndef reward(messages, answer, reference):\n    return os.getpid()\n")
    found = reward(tmp_path / "pid.py", "reward")
    (process,) = found(rows("x"))
    assert alive(int(process))
    del found
    deadline = time.monotonic() + 60
    while alive(int(process)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(int(process))
