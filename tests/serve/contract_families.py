"""Every way of asking the server for a text, through the client packages that people use, behind one call.

A trap that has failed in one family may fail in each: the tests of the contract go through all of them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import anthropic
import httpx
import ollama
import openai
import replicate

from cadran.engine.engine import Engine
from cadran.serve.known_model import KnownModel

QUESTION = "Ça va, l'été ?"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
SUFFIX = "\n    return total\n"
KEY = "none"


@dataclass(frozen=True, slots=True)
class Said:
    """What a client has read.

    Attributes:
        text: of the answer.
        finish: why it ended, in the family's own word; what ``replicate`` calls the status.
        stop: the stop string that ended it, where the family tells it.
        read: tokens of the prompt, the cached ones included.
        written: tokens of the answer.
    """

    text: str
    finish: str | None = None
    stop: str | None = None
    read: int | None = None
    written: int | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """One of them.

    Attributes:
        name: for the test's own.
        ask: address, whether to stream, most tokens, stop strings -> what was said.
        finishes: its words for the end of the text, a stop string, the limit, the full context.
        chats: whether the question goes through the chat template.
        stops: whether it knows stop strings.
    """

    name: str
    ask: Callable[[str, bool, int, Sequence[str]], Said]
    finishes: tuple[str, str, str, str]
    chats: bool = True
    stops: bool = True


@cache  # making a client takes a tenth of a second
def openai_of(url: str) -> openai.OpenAI:
    """A client that does not try again."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


@cache
def anthropic_of(url: str) -> anthropic.Anthropic:
    """A client that does not try again."""
    return anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0)


@cache
def replicate_of(url: str) -> replicate.Client:
    """A client that polls often."""
    client = replicate.Client(api_token=KEY, base_url=url)
    client.poll_interval = 0.02
    return client


@cache
def ollama_of(url: str) -> ollama.Client:
    """A client."""
    return ollama.Client(host=url)


@cache
def http_of(url: str) -> httpx.Client:
    """A client for what has no package."""
    return httpx.Client(base_url=url, timeout=60)


def chat(url: str, stream: bool, limit: int, stop: Sequence[str]) -> Said:
    """Chat completions."""
    asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": limit, "stop": list(stop) or None}
    client = openai_of(url)
    if not stream:
        whole = client.chat.completions.create(**asked)
        (choice,) = whole.choices
        return Said(choice.message.content or "", choice.finish_reason, None, *_counts(whole.usage))
    text, finish, usage = "", None, None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for each in chunk.choices:
            text += each.delta.content or ""
            finish = each.finish_reason or finish
    return Said(text, finish, None, *_counts(usage))


def completions(url: str, stream: bool, limit: int, stop: Sequence[str]) -> Said:
    """Plain completions."""
    asked: dict[str, Any] = {"model": "tiny", "prompt": QUESTION, "max_tokens": limit, "stop": list(stop) or None}
    client = openai_of(url)
    if not stream:
        whole = client.completions.create(**asked)
        return Said(whole.choices[0].text, whole.choices[0].finish_reason, None, *_counts(whole.usage))
    text, finish, usage = "", None, None
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for each in chunk.choices:
            text += each.text
            finish = each.finish_reason or finish
    return Said(text, finish, None, *_counts(usage))


def responses(url: str, stream: bool, limit: int, stop: Sequence[str]) -> Said:
    """Responses, which know no stop strings."""
    client = openai_of(url)
    asked: dict[str, Any] = {"model": "tiny", "input": QUESTION, "max_output_tokens": limit}
    if stream:
        events: list[Any] = list(client.responses.create(**asked, stream=True))
        final = events[-1].response
        assert (
            "".join(event.delta for event in events if event.type == "response.output_text.delta") == final.output_text
        )
    else:
        final = client.responses.create(**asked)
    finish = final.incomplete_details.reason if final.status == "incomplete" else final.status
    return Said(final.output_text, finish, None, final.usage.input_tokens, final.usage.output_tokens)


def messages(url: str, stream: bool, limit: int, stop: Sequence[str]) -> Said:
    """Messages of Anthropic."""
    asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": limit, "stop_sequences": list(stop)}
    client = anthropic_of(url)
    if stream:
        with client.messages.stream(**asked) as events:
            told = "".join(events.text_stream)
            final: Any = events.get_final_message()
        assert told == final.content[0].text
    else:
        final = client.messages.create(**asked)
    read = final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0)
    return Said(final.content[0].text, final.stop_reason, final.stop_sequence, read, final.usage.output_tokens)


def predictions(url: str, stream: bool, limit: int, stop: Sequence[str]) -> Said:
    """Predictions of Replicate."""
    client = replicate_of(url)
    input = {"prompt": QUESTION, "max_tokens": limit, "stop_sequences": list(stop)}
    if not stream:
        text = "".join(client.run("cadran/tiny", input=input))
        made = client.predictions.list()[0]
        assert made.output is not None and "".join(made.output) == text
    else:
        made = client.models.predictions.create("cadran/tiny", input, stream=True)
        text = "".join(str(event) for event in made.stream())
        made.reload()
    assert made.metrics is not None
    return Said(text, made.status, None, made.metrics["input_token_count"], made.metrics["output_token_count"])  # type: ignore[typeddict-item]


def ollama_chat(url: str, stream: bool, limit: int, stop: Sequence[str]) -> Said:
    """Chat of Ollama."""
    options = {"num_predict": limit, "stop": list(stop)}
    client = ollama_of(url)
    parts = list(client.chat("tiny", MESSAGES, options=options, stream=True)) if stream else []
    last = parts[-1] if stream else client.chat("tiny", MESSAGES, options=options)
    text = "".join(part.message.content or "" for part in parts) if stream else last.message.content or ""
    return Said(text, last.done_reason, None, last.prompt_eval_count, last.eval_count)


def ollama_generate(url: str, stream: bool, limit: int, stop: Sequence[str]) -> Said:
    """Generate of Ollama."""
    options = {"num_predict": limit, "stop": list(stop)}
    client = ollama_of(url)
    parts = list(client.generate("tiny", QUESTION, options=options, stream=True)) if stream else []
    last = parts[-1] if stream else client.generate("tiny", QUESTION, options=options)
    text = "".join(part.response for part in parts) if stream else last.response
    return Said(text, last.done_reason, None, last.prompt_eval_count, last.eval_count)


def fim(url: str, stream: bool, limit: int, stop: Sequence[str]) -> Said:
    """What Continue asks where the interface is Mistral's."""
    asked = {"model": "tiny", "prompt": QUESTION, "suffix": SUFFIX, "max_tokens": limit, "stop": list(stop)}
    answer = http_of(url).post("/v1/fim/completions", json={**asked, "stream": stream}).raise_for_status()
    if not stream:
        whole = answer.json()
        (choice,) = whole["choices"]
        usage = whole["usage"]
        return Said(
            choice["message"]["content"], choice["finish_reason"], None, usage["prompt_tokens"],
            usage["completion_tokens"],
        )  # fmt: skip
    chunks = _chunks(answer)
    usage = chunks[-1]["usage"]
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    finish = chunks[-1]["choices"][0]["finish_reason"]
    return Said(text, finish, None, usage["prompt_tokens"], usage["completion_tokens"])


def infill(url: str, stream: bool, limit: int, stop: Sequence[str]) -> Said:
    """What llama.vscode asks."""
    return _native(url, "/infill", stream, limit, stop, {"input_prefix": QUESTION, "input_suffix": SUFFIX})


def completion(url: str, stream: bool, limit: int, stop: Sequence[str]) -> Said:
    """What Continue asks of llama.cpp."""
    return _native(url, "/completion", stream, limit, stop, {"prompt": QUESTION})


def _native(url: str, path: str, stream: bool, limit: int, stop: Sequence[str], asked: dict[str, Any]) -> Said:
    body = {**asked, "n_predict": limit, "stop": list(stop), "stream": stream}
    answer = http_of(url).post(path, json=body).raise_for_status()
    chunks = _chunks(answer) if stream else [answer.json()]
    last = chunks[-1]
    return Said(
        "".join(chunk["content"] for chunk in chunks), last["stop_type"], last["stopping_word"] or None,
        last["tokens_evaluated"], last["tokens_predicted"],
    )  # fmt: skip


def _chunks(answer: httpx.Response) -> list[Any]:
    records = [record for record in answer.text.split("\n\n") if record and not record.startswith(":")]
    return [json.loads(record.removeprefix("data: ")) for record in records if record != "data: [DONE]"]


def _counts(usage: Any) -> tuple[int, int]:
    assert usage is not None
    return usage.prompt_tokens, usage.completion_tokens


OPENAI_WORDS = ("stop", "stop", "length", "length")
NATIVE_WORDS = ("eos", "word", "limit", "limit")
WAYS = [
    Way("chat", chat, OPENAI_WORDS),
    Way("completions", completions, OPENAI_WORDS, chats=False),
    Way("responses", responses, ("completed", "", "max_output_tokens", "max_output_tokens"), stops=False),
    Way("messages", messages, ("end_turn", "stop_sequence", "max_tokens", "model_context_window_exceeded")),
    Way("predictions", predictions, ("succeeded",) * 4),
    Way("ollama chat", ollama_chat, OPENAI_WORDS),
    Way("ollama generate", ollama_generate, OPENAI_WORDS),
    Way("fim", fim, OPENAI_WORDS, chats=False),
    Way("infill", infill, NATIVE_WORDS, chats=False),
    Way("completion", completion, NATIVE_WORDS, chats=False),
]


def bound(**forced: Any) -> Callable[[KnownModel], Engine]:
    """Opens the real engine so that every answer is bound, whatever is asked.

    Args:
        forced: options of ``Engine.stream``, such as ``grammar``; those of ``SamplingParams`` go into its parameters.
    """

    def open(known: KnownModel) -> Engine:
        engine = Engine.load(known.path)
        stream = engine.stream
        biases = forced.get("logit_bias")
        rest = {name: value for name, value in forced.items() if name != "logit_bias"}

        def streamed(prompt: Any, params: Any, **options: Any) -> Any:
            chosen = params if biases is None else replace(params, logit_bias=biases)
            return stream(prompt, chosen, **{**options, **rest})

        engine.stream = streamed  # type: ignore[method-assign, assignment]
        return engine

    return open
