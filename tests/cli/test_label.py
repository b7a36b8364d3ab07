"""``cadran label``: a choice is kept at once, says nothing of the order shown, and is never asked for twice."""

import builtins
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typed import tiny_model
from typer.testing import CliRunner

from cadran.align.ratings import read_ratings
from cadran.cli import label
from cadran.cli.labelling import file_prompts, run_prompts
from cadran.corpus.document import Document, DocumentWriter
from cadran.errors import UserError
from cadran.recipe.run import Run

app = typer.Typer()
app.command("label")(label.label)

EXTRACT = "The river is calm in summer."


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one run in it, which has a chat model and a corpus."""
    folder = tmp_path_factory.mktemp("runs")
    run = Run(folder / "smoke")
    tiny_model(run.stage("sft"), context=300)
    run.finish("sft", "key")
    (run.folder / "recipe.yaml").write_text("name: smoke\n", encoding="utf-8")
    meta = {"title": "River", "extract": EXTRACT, "topic": "Geography", "description": "water"}
    chat = json.dumps([{"role": "user", "content": "A held-out chat?"}, {"role": "assistant", "content": "Yes."}])
    run.stage("corpus").mkdir()
    with DocumentWriter(run.stage("corpus") / "documents.jsonl") as writer:
        writer.write(Document("a", EXTRACT, "wiki", "en", meta), "validation")
        writer.write(Document("b", "", "chats", "en", {"messages": chat}), "validation")
        writer.write(Document("c", "Secret.", "wiki", "en", meta | {"extract": "Secret.", "title": "Secret"}), "train")
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of the test's own; the run has no ratings yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CADRAN_RUNS", str(runs))
    yield tmp_path
    (runs / "smoke" / "ratings.jsonl").unlink(missing_ok=True)


def cadran(*arguments: str, text: str = "") -> str:
    short = ["--max-tokens", "8", "--threads", "1", "--temperature", "1"]
    result = CliRunner().invoke(app, [*short, *arguments], input=text)
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exception is None, result.exception
    return result.stdout


def prompts_file(folder: Path, count: int) -> str:
    path = folder / "prompts.txt"
    path.write_text("".join(f"river {number}\n" for number in range(count)), encoding="utf-8")
    return str(path)


def shown(output: str) -> list[tuple[str, str, str]]:
    """Prompts with their two answers, as they were shown."""
    found = re.findall(
        r"^\d+ of \d+\n> (.*?)\n\n\[1\] (.*?)\n\n\[2\] (.*?)\n(?=\n)", output, flags=re.DOTALL | re.MULTILINE
    )
    return [(asked, *(one.removesuffix(" ... (cut at --max-tokens)") for one in both)) for asked, *both in found]


def test_each_choice_is_kept_with_the_answer_that_was_preferred(runs: Path, here: Path) -> None:
    said = cadran("smoke", "--prompts", prompts_file(here, 3), text="1\n2\n1\n")
    pairs, _, refused = read_ratings(runs / "smoke" / "ratings.jsonl")
    seen = shown(said)
    assert len(seen) == 3 and not refused
    better = [(asked, one, two) if place == "1" else (asked, two, one)
              for (asked, one, two), place in zip(seen, "121", strict=True)]  # fmt: skip
    plain = [(pair.messages[0]["content"], pair.chosen, pair.rejected) for pair in pairs]
    # What could steer a terminal is replaced where it is shown, and kept where it is learnt.
    assert [tuple(re.sub(r"[^\n\t -~]", "?", text) for text in row) for row in plain] == [
        tuple(re.sub(r"[^\n\t -~]", "?", text) for text in row) for row in better
    ]
    assert {pair.kind for pair in pairs} == {"rating"}
    assert "holds 3 ratings, 3 of them new; to learn from them type cadran run smoke --from dpo" in said


def test_a_second_run_goes_on_after_what_is_rated(runs: Path, here: Path) -> None:
    prompts = prompts_file(here, 4)
    first = cadran("smoke", "--prompts", prompts, text="1\n2\nq\n")
    second = cadran("smoke", "--prompts", prompts, text="1\n1\n")
    assert [row[0] for row in shown(first)] == ["river 0", "river 1", "river 2"]
    assert [row[0] for row in shown(second)] == ["river 2", "river 3"]
    assert shown(first)[2] == shown(second)[0]  # the same answers, in the same order
    assert "4 ratings, 2 of them new" in second
    third = cadran("smoke", "--prompts", prompts, text="1\n")
    assert shown(third) == [] and "every prompt is rated already; name others with --prompts FILE" in third


def test_control_c_and_the_end_of_the_input_lose_nothing(
    runs: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["1", "2"])

    def typed(prompt: str = "") -> str:
        if (line := next(lines, None)) is None:
            raise KeyboardInterrupt
        return line

    monkeypatch.setattr(builtins, "input", typed)
    said = cadran("smoke", "--prompts", prompts_file(here, 4))
    assert "2 ratings, 2 of them new" in said and len(read_ratings(runs / "smoke" / "ratings.jsonl").pairs) == 2
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setenv("CADRAN_RUNS", str(runs))
    assert "3 ratings, 1 of them new" in cadran("smoke", "--prompts", prompts_file(here, 4), text="1\n")


def test_a_rating_is_in_the_file_before_the_next_question(
    runs: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def typed(prompt: str = "") -> str:
        counts.append(len(read_ratings(runs / "smoke" / "ratings.jsonl").pairs))
        return "1"

    monkeypatch.setattr(builtins, "input", typed)
    cadran("smoke", "--prompts", prompts_file(here, 3))
    assert counts == [0, 1, 2]


def test_ties_and_skips_are_not_kept_and_an_unknown_word_asks_again(runs: Path, here: Path) -> None:
    said = cadran("smoke", "--prompts", prompts_file(here, 2), text="what\n=\ns\n")
    assert len(shown(said)) == 2 and "nothing was rated" in said
    assert not (runs / "smoke" / "ratings.jsonl").exists()


def test_an_answer_of_ones_own_is_preferred_to_both(runs: Path, here: Path) -> None:
    said = cadran("smoke", "--prompts", prompts_file(here, 1), text="e\n\ne\nA calm river.\n")
    pairs = read_ratings(runs / "smoke" / "ratings.jsonl").pairs
    assert [pair.chosen for pair in pairs] == ["A calm river."] * 2
    assert len({pair.rejected for pair in pairs}) == 2 and "2 ratings" in said


def test_the_place_says_nothing_of_which_model_answered(runs: Path, here: Path) -> None:
    other = tiny_model(here / "other", context=300)
    cadran("smoke", "--against", str(other), "--prompts", prompts_file(here, 16), text="1\n" * 16)
    rows = [json.loads(line) for line in (runs / "smoke" / "ratings.jsonl").read_text(encoding="utf-8").splitlines()]
    firsts = [row["models"]["chosen"] for row in rows]
    assert len(rows) == 16 and 3 <= firsts.count("smoke") <= 13
    assert {frozenset(row["models"].values()) for row in rows} == {frozenset({"smoke", "other"})}
    assert str(here) not in json.dumps(rows)


def test_equal_answers_are_passed_over_with_a_word(runs: Path, here: Path) -> None:
    same = tiny_model(here / "same", context=300)
    arguments = ("--temperature", "0", "--prompts", prompts_file(here, 2))
    said = cadran("smoke", "--against", str(same), *arguments)
    assert said.count("passed over (both answers are the same): river") == 2 and shown(said) == []
    with pytest.raises(UserError, match="at temperature 0 both answers are the same"):
        cadran("smoke", *arguments)


def test_a_prompt_that_is_too_long_is_passed_over(here: Path) -> None:
    (here / "prompts.txt").write_text("river " * 400 + "\nriver\n", encoding="utf-8")
    said = cadran("smoke", "--prompts", "prompts.txt", text="1\n")
    assert "passed over (the prompt has" in said and "1 rating, 1 of them new" in said


def test_answers_depend_on_the_seed_alone(here: Path) -> None:
    arguments = ("smoke", "--prompts", prompts_file(here, 2), "--output", "none.jsonl")
    first = cadran(*arguments, text="s\ns\n")
    assert first == cadran(*arguments, text="s\ns\n")
    assert first != cadran(*arguments, "--seed", "1", text="s\ns\n")


def test_a_run_is_asked_what_it_never_learnt(runs: Path) -> None:
    asked = [prompt.messages[0]["content"] for prompt in run_prompts(runs / "smoke", 0)]
    assert any(EXTRACT in text or "River" in text for text in asked[:3]) and "A held-out chat?" in asked[:3]
    assert "Bonjour" in asked and "Who are you?" in asked
    assert not any("Secret" in text for text in asked) and len(asked) == len(set(asked))
    assert [p.messages for p in run_prompts(runs / "smoke", 0)] != [p.messages for p in run_prompts(runs / "smoke", 1)]
    said = cadran("smoke/sft", "--number", "2", text="s\ns\n")
    assert [row[0] for row in shown(said)] == asked[:2] and "2 of 2" in said


def test_a_model_that_is_no_run_asks_for_prompts_and_keeps_ratings_here(here: Path) -> None:
    model = str(tiny_model(here / "mine", context=300))
    said = cadran(model, text="river one\n1\nriver two\n2\n\n")
    assert [row[0] for row in shown(said)] == ["river one", "river two"]
    assert len(read_ratings(here / "ratings.jsonl").pairs) == 2
    assert f"cadran finetune {model} ratings.jsonl" in said
    assert str(here) not in (here / "ratings.jsonl").read_text(encoding="utf-8")


def test_a_file_of_prompts_may_hold_conversations(here: Path) -> None:
    lines = [
        "\ufeffPlain text",
        "",
        '{"prompt": "Hello?", "language": "fr"}',
        json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
    ]
    (here / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    asked = file_prompts(here / "p.jsonl")
    assert [[m["content"] for m in one.messages] for one in asked] == [["Plain text"], ["Hello?"], ["a"]]
    assert asked[1].language == "fr"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no prompt"),
        (b"\xff\xfe", "cannot be read as text"),
        (b"fine\n{broken", "line 2 of p.txt begins like JSON"),
        (b'{"a":' * 50_000, "line 1 of p.txt begins like JSON"),
        (b'{"prompt": 7}', "line 1 of p.txt has no messages"),
        (b'{"prompt": " "}', "line 1 of p.txt asks nothing"),
        (b'{"messages": [{"role": "assistant", "content": "x"}]}', "has no user turn"),
    ],
)
def test_a_hostile_file_of_prompts_is_refused(here: Path, content: bytes, reason: str) -> None:
    (here / "p.txt").write_bytes(content)
    with pytest.raises(UserError, match=reason):
        file_prompts(here / "p.txt")
    with pytest.raises(UserError, match="is no file"):
        file_prompts(here)


def test_a_base_model_has_no_answers_to_rate(here: Path) -> None:
    base = tiny_model(here / "base", context=300)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = base / name
        if name.endswith("json") and path.is_file():
            settings = json.loads(path.read_text(encoding="utf-8"))
            settings.pop("chat_template", None)
            path.write_text(json.dumps(settings), encoding="utf-8")
        else:
            path.unlink(missing_ok=True)
    with pytest.raises(UserError, match="continues texts and answers nothing"):
        cadran(str(base), text="river\n")
