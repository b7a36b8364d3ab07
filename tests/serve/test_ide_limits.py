"""Ends of an answer that llama.cpp knows: indentation and time. And the native stream, on events made by hand."""

import json

from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from cadran.serve.collected import Answer, Collected
from cadran.serve.events import Admitted, Event, Finished, Prefilled, Spoke, Used
from cadran.serve.ide.answer_limits import AnswerLimits
from cadran.serve.ide.fim import FimHead, FimStream
from cadran.serve.ide.native_answer import NativeHead, NativeStream, native_body
from cadran.serve.ide.native_request import CompletionRequest, InfillRequest

TOKENIZER = tiny_tokenizer()


def told(text: str, indent: int, cuts: list[int]) -> tuple[str, bool]:
    limits, said, last = AnswerLimits(indent), "", 0
    for cut in [*sorted(cut % (len(text) + 1) for cut in cuts), len(text)]:
        said, last = said + limits.feed(text[last:cut]), cut
    return said + limits.end(), limits.over


def test_a_line_that_is_less_indented_ends_the_answer() -> None:
    assert told("a\n    b\n\n  c\n    d", 4, []) == ("a\n    b", True)
    assert told("a\n    b\n", 4, []) == ("a\n    b\n", False)


@given(
    lines=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["x", "yz", "", "é"])), max_size=8),
    indent=st.integers(0, 4),
    cuts=st.lists(st.integers(0, 100), max_size=6),
)
def test_how_a_text_is_cut_into_pieces_changes_nothing(
    lines: list[tuple[int, str]], indent: int, cuts: list[int]
) -> None:
    text = "\n".join(" " * blanks + word for blanks, word in lines)
    said, over = told(text, indent, cuts)
    assert (said, over) == told(text, indent, [])
    assert text.startswith(said)
    assert over == any(word and blanks < indent for blanks, word in lines[1:])
    assert over or said == text


def test_time_ends_an_answer_of_more_than_one_line() -> None:
    now = [0.0]
    limits = AnswerLimits(0, 1.0, lambda: now[0])
    assert limits.feed("a") == "a"
    now[0] = 5.0
    assert limits.feed("b") == "b" and not limits.over
    assert limits.feed("\nc") == "\nc" and limits.over
    assert limits.feed("d") == ""


def events(*texts: str) -> list[Event]:
    spoke = [Spoke(0, text) for text in texts]
    return [Admitted(4), Prefilled(2), *spoke, Finished(0, "stop_string", "\n\n"), Used(4, 2, 3, 0, 0, 0.5, 1.5)]


def lines_of(stream: NativeStream | FimStream, told: list[Event]) -> list[str]:
    pieces = b"".join(piece for event in told for piece in stream.feed(event)).decode("ascii")
    assert pieces.endswith("\n\n")
    return [line.removeprefix("data: ") for line in pieces[:-2].split("\n\n")]


def test_native_stream_is_the_plain_answer_in_pieces() -> None:
    head = NativeHead("m", TOKENIZER)
    chunks = [json.loads(line) for line in lines_of(NativeStream(head), events("é\u2028", "b\n"))]
    answer = Answer(text="é\u2028b\n", reason="stop_string", stop="\n\n")
    body = native_body(head, Collected([answer], {}, Used(4, 2, 3, 0, 0, 0.5, 1.5)))
    assert "".join(chunk["content"] for chunk in chunks) == body["content"]
    assert [chunk["stop"] for chunk in chunks] == [False, False, True]
    for name in ("stop_type", "stopping_word", "tokens_predicted", "tokens_evaluated", "tokens_cached", "timings"):
        assert chunks[-1][name] == body[name]
    assert (body["stop_type"], body["stopping_word"], body["tokens_predicted"]) == ("word", "\n\n", 3)
    assert body["timings"]["prompt_n"] == 2 and body["timings"]["predicted_per_second"] == 3


def test_native_stream_tells_nothing_after_its_limits() -> None:
    chunks = [
        json.loads(line)
        for line in lines_of(NativeStream(NativeHead("m", TOKENIZER), AnswerLimits(2)), events("a\n", "b"))
    ]
    assert "".join(chunk["content"] for chunk in chunks) == "a"
    assert chunks[-1]["stop_type"] == "limit"


def test_every_chunk_of_a_fim_stream_has_a_choice_with_a_text() -> None:
    *chunks, done = lines_of(FimStream(FimHead("i", 1, "m")), events("é", "\u2028"))
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    assert done == "[DONE]"
    assert all(isinstance(delta["content"], str) for delta in deltas)
    assert "".join(delta["content"] for delta in deltas) == "é\u2028"
    assert json.loads(chunks[-1])["choices"][0]["finish_reason"] == "stop"


def test_samplers_that_are_not_named_are_off() -> None:
    asked = InfillRequest(samplers=["top_k", "top_p", "infill"], temperature=0.5, min_p=0.05).sampling()
    assert (asked["top_k"], asked["top_p"], asked["temperature"], asked["min_p"]) == (40, 0.95, 1.0, 0.2)
    assert CompletionRequest(samplers=["temperature"]).sampling()["top_k"] == 0


@given(st.dictionaries(st.sampled_from(["top_k", "min_p", "seed", "repeat_last_n", "temperature"]), st.none()))
def test_a_null_is_a_field_that_was_not_sent(nulls: dict[str, None]) -> None:
    left, right = CompletionRequest(**nulls).sampling(), CompletionRequest().sampling()  # type: ignore[arg-type]
    assert left | {"seed": 0} == right | {"seed": 0}
