"""The Messages API, asked by the ``anthropic`` package itself: of the real engine, and of answers written by hand."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest
from anthropic_scripted import OPENING, USED, WHOLE, ScriptedServer
from live import LiveServer, until
from pydantic import BaseModel

from cadran.serve.api_error import ApiError, Kind
from cadran.serve.events import Admitted, CallArguments, CallBegan, CallEnded, Failed, Finished, Prefilled, Spoke, Used

HELLO = [{"role": "user", "content": "Ça va, l'été ?"}]
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}}}
SAID = "é 😀 \u2028 fin"


@pytest.fixture(scope="module")
def client(server: LiveServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def scripted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    live = ScriptedServer(tiny, f"sqlite:///{tmp_path_factory.mktemp('scripted') / 'state.db'}")
    yield live
    live.close()


@pytest.fixture
def told(scripted: ScriptedServer) -> anthropic.Anthropic:
    scripted.scripts.clear()
    return anthropic.Anthropic(base_url=scripted.url, api_key="none", max_retries=0)


def test_quick_start(server: LiveServer) -> None:
    client = anthropic.Anthropic(base_url=server.url, api_key="none")
    message = client.messages.create(
        model="tiny", max_tokens=16, messages=[{"role": "user", "content": "Hello, who are you?"}]
    )
    assert isinstance(message.content[0].text, str) and message.stop_reason in ("max_tokens", "end_turn")
    assert message._request_id


def test_stream_says_what_the_plain_answer_says(client: anthropic.Anthropic) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 24, "extra_body": {"seed": 3, "temperature": 0.7}}
    plain = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert said == plain.content[0].text == final.content[0].text
    assert final.stop_reason == plain.stop_reason == "max_tokens"
    assert final.usage.output_tokens == plain.usage.output_tokens == 24
    for usage in (plain.usage, final.usage):
        assert usage.input_tokens + usage.cache_read_input_tokens == client.messages.count_tokens(
            model="tiny", messages=HELLO
        ).input_tokens  # fmt: skip


def test_unicode_survives_every_way(client: anthropic.Anthropic) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 64}
    asked["extra_body"] = {"structured_outputs": {"choice": [SAID]}}
    assert client.messages.create(**asked).content[0].text == SAID
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == SAID

    async def read() -> str:
        other = anthropic.AsyncAnthropic(base_url=str(client.base_url), api_key="none")
        async with other, other.messages.stream(**asked) as told:
            return "".join([text async for text in told.text_stream])

    assert asyncio.run(read()) == SAID


def test_async_answer_and_raw_events(client: anthropic.Anthropic) -> None:
    async def read() -> tuple[str, list[str]]:
        async with anthropic.AsyncAnthropic(base_url=str(client.base_url), api_key="none") as other:
            asked = {"model": "tiny", "messages": HELLO, "max_tokens": 5, "extra_body": {"temperature": 0}}
            plain = await other.messages.create(**asked)
            return plain.content[0].text, [
                event.type async for event in await other.messages.create(**asked, stream=True)
            ]

    text, types = asyncio.run(read())
    assert isinstance(text, str)
    assert types[:2] == ["message_start", "content_block_start"]
    assert types[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_stop_sequence_ends_the_answer_and_is_named(client: anthropic.Anthropic) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 64, "stop_sequences": ["calm", "calx"]}
    asked["extra_body"] = {"structured_outputs": {"choice": ["the river is calm today"]}}
    plain = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    for message in (plain, final):
        assert message.content[0].text == "the river is "
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "calm")


def test_last_turn_of_the_assistant_is_continued(client: anthropic.Anthropic) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "The best answer is ("}]
    counted = [
        client.messages.count_tokens(model="tiny", messages=messages).input_tokens for messages in (HELLO, begun)
    ]
    assert counted[1] > counted[0]
    message = client.messages.create(
        model="tiny", max_tokens=8, messages=begun, extra_body={"structured_outputs": {"choice": ["B)"]}}
    )
    assert message.content[0].text == "B)" and message.stop_reason == "end_turn"


def test_second_turn_finds_the_first_in_the_cache(client: anthropic.Anthropic) -> None:
    long = [{"role": "user", "content": "In summer the river is calm; nobody fishes. " * 4}]
    asked = {"model": "tiny", "max_tokens": 8, "messages": long, "extra_body": {"temperature": 0}}
    first, again = (client.messages.create(**asked) for _ in range(2))
    assert again.content[0].text == first.content[0].text
    assert again.usage.cache_read_input_tokens > again.usage.input_tokens > 0
    total = first.usage.input_tokens + first.usage.cache_read_input_tokens
    assert again.usage.input_tokens + again.usage.cache_read_input_tokens == total


class Place(BaseModel):
    """What the answer must be."""

    name: str
    rivers: int


def test_structured_output_is_parsed(client: anthropic.Anthropic) -> None:
    message = client.messages.parse(model="tiny", max_tokens=400, messages=HELLO, output_format=Place)
    if message.stop_reason == "end_turn":  # the tiny model may go on with the name until the limit
        assert isinstance(message.parsed_output, Place)
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    told = client.messages.create(
        model="tiny", max_tokens=40, messages=HELLO, output_config={"format": {"type": "json_schema", "schema": schema}}
    )
    assert told.stop_reason == "end_turn" and json.loads(told.content[0].text)["a"] in (1, 2)


def test_full_context_is_told_to_those_who_know_the_reason(client: anthropic.Anthropic) -> None:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "é" * 200}], "max_tokens": 4000}
    asked["extra_body"] = {"structured_outputs": {"regex": "a{1000}"}}
    assert client.messages.create(**asked).stop_reason == "model_context_window_exceeded"
    older = {"anthropic-version": "2023-06-01"}
    assert client.messages.create(**asked, extra_headers=older).stop_reason == "max_tokens"


def test_prompt_beyond_the_context_is_refused_with_both_numbers(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long.*\d+.*512"):
        client.messages.create(model="tiny", max_tokens=5, messages=[{"role": "user", "content": "\u4e2d" * 400}])


def test_unknown_model_is_404_with_the_list(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="tiny") as caught:
        client.messages.create(model="claude", max_tokens=5, messages=HELLO)
    assert caught.value.type == "not_found_error" and caught.value.request_id
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="claude", messages=HELLO)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.list()


def test_thinking_text_and_calls_are_accumulated(told: anthropic.Anthropic, scripted: ScriptedServer) -> None:
    scripted.scripts += [WHOLE, WHOLE]
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 2000, "tools": [WEATHER]}
    asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    with told.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    plain = told.messages.create(**asked)
    thinking, text, weather, clock = plain.content
    assert thinking.thinking == "Zwei Orte, zwei Aufrufe." and text.text == "Ich sehe nach. 😀\u2028é"
    assert weather.input == {"place": 'München {"x"}'} and clock.input == {}
    assert streamed.model_dump(exclude={"id"}) == {
        **plain.model_dump(exclude={"id"}), "content": [block.model_dump() for block in streamed.content]
    }  # fmt: skip
    shapes = [[block.model_dump(exclude={"parsed_output"}) for block in whole.content] for whole in (streamed, plain)]
    assert shapes[0] == shapes[1]
    assert (streamed.usage.input_tokens, streamed.usage.cache_read_input_tokens) == (20, 10)
    until(lambda: all(exchange.closed for exchange in scripted.exchanges))


def test_tool_runner_runs_a_tool_and_sends_its_result(told: anthropic.Anthropic, scripted: ScriptedServer) -> None:
    @anthropic.beta_tool
    def weather(place: str) -> str:
        """The weather of a place.

        Args:
            place: a city.
        """
        return f"Regen in {place}"

    call = [
        *OPENING,
        CallBegan(0, 0, "one", "weather"),
        CallArguments(0, 0, '{"place":"Köln"}'),
        CallEnded(0, 0),
        Finished(0, "tools"),
        USED,
    ]
    scripted.scripts += [call, [*OPENING, Spoke(0, "Nass."), Finished(0, "eos"), USED]]
    runner = told.beta.messages.tool_runner(model="tiny", max_tokens=100, tools=[weather], messages=HELLO)
    final = runner.until_done()  # its first request wants a thread; refused, it sends whole conversations
    assert final.content[0].text == "Nass."
    request = scripted.asked[-1]
    assert request.messages is not None and [message["role"] for message in request.messages] == [
        "user", "assistant", "tool"
    ]  # fmt: skip
    assert request.messages[-1] == {
        "role": "tool", "tool_call_id": "toolu_one", "content": "Regen in Köln", "name": "weather"
    }  # fmt: skip
    assert request.tools[0].parameters["properties"]["place"]["type"] == "string"


ERRORS: list[tuple[Kind, type[anthropic.APIStatusError], int, str]] = [
    ("invalid", anthropic.BadRequestError, 400, "invalid_request_error"),
    ("too_long", anthropic.BadRequestError, 400, "invalid_request_error"),
    ("unsupported", anthropic.BadRequestError, 400, "invalid_request_error"),
    ("authentication", anthropic.AuthenticationError, 401, "authentication_error"),
    ("permission", anthropic.PermissionDeniedError, 403, "permission_error"),
    ("not_found", anthropic.NotFoundError, 404, "not_found_error"),
    ("conflict", anthropic.ConflictError, 409, "invalid_request_error"),
    ("too_large", anthropic.APIStatusError, 413, "request_too_large"),
    ("limited", anthropic.RateLimitError, 429, "rate_limit_error"),
    ("internal", anthropic.InternalServerError, 500, "api_error"),
    ("timeout", anthropic.InternalServerError, 504, "timeout_error"),
    ("overloaded", anthropic.InternalServerError, 529, "overloaded_error"),
    ("draining", anthropic.InternalServerError, 529, "overloaded_error"),
]


@pytest.mark.parametrize(("kind", "error", "status", "type"), ERRORS)
def test_every_refusal_has_its_class(
    told: anthropic.Anthropic,
    scripted: ScriptedServer,
    kind: Kind,
    error: type[anthropic.APIStatusError],
    status: int,
    type: str,
) -> None:
    scripted.scripts.append(ApiError(kind, "not now", retry_after=3))
    with pytest.raises(error, match="not now") as caught:
        told.messages.create(model="tiny", max_tokens=5, messages=HELLO)
    assert caught.value.status_code == status and caught.value.type == type and caught.value.request_id
    assert caught.value.response.headers["retry-after"] == "3"


def test_overload_is_tried_again(scripted: ScriptedServer) -> None:
    patient = anthropic.Anthropic(base_url=scripted.url, api_key="none", max_retries=2)
    scripted.scripts[:] = [
        ApiError("overloaded", "full", retry_after=0.01),
        [*OPENING, Spoke(0, "now"), Finished(0, "eos"), USED],
    ]
    assert patient.messages.create(model="tiny", max_tokens=5, messages=HELLO).content[0].text == "now"


def test_failure_within_a_stream_is_raised(told: anthropic.Anthropic, scripted: ScriptedServer) -> None:
    broken = [*OPENING, Spoke(0, "half"), Failed(ApiError("internal", "the engine failed"))]
    scripted.scripts += [broken, [Admitted(3), Failed(ApiError("internal", "the engine failed"))], broken]
    for _ in range(2):
        with pytest.raises(anthropic.APIStatusError, match="the engine failed"), told.messages.stream(
            model="tiny", max_tokens=5, messages=HELLO
        ) as stream:  # fmt: skip
            stream.get_final_message()
    with pytest.raises(anthropic.InternalServerError, match="the engine failed"):
        told.messages.create(model="tiny", max_tokens=5, messages=HELLO)


def test_max_tokens_0_reads_the_prompt_alone(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="tiny", max_tokens=0, messages=HELLO)
    assert message.content == [] and message.usage.output_tokens == 0 and message.stop_reason == "max_tokens"


def test_client_that_leaves_a_stream_leaves_nothing_behind(server: LiveServer, client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="tiny", max_tokens=400, messages=HELLO) as stream:
        next(iter(stream.text_stream), None)
    server.settle()
    assert server.call(lambda: server.service.admission.running) == 0


def test_prefilled_without_an_answer_is_still_a_message(told: anthropic.Anthropic, scripted: ScriptedServer) -> None:
    scripted.scripts.append([Admitted(4), Prefilled(0), Finished(0, "eos"), Used(4, 0, 0)])
    with told.messages.stream(model="tiny", max_tokens=5, messages=HELLO) as stream:
        assert stream.get_final_text() == ""
