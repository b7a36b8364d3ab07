"""Thinking as the ``anthropic`` package sees it, of a model whose chat template knows it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from live import LiveServer
from tiny import tiny_model

TEMPLATE = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}"
    "{%- else -%}{{- '<think>\\n' -}}{%- endif -%}{%- endif -%}"
)
ASKED: dict[str, Any] = {
    "model": "thinker",
    "max_tokens": 40,
    "messages": [{"role": "user", "content": "Hallo"}],
    "extra_body": {"structured_outputs": {"choice": ["Antwort."]}, "seed": 3},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[anthropic.Anthropic]:
    folder: Path = tiny_model(tmp_path_factory.mktemp("thinking") / "thinker")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": TEMPLATE}))
    live = LiveServer(models=[str(folder)], database=f"sqlite:///{tmp_path_factory.mktemp('state') / 'state.db'}")
    yield anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0)
    live.close()


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_who_does_not_ask_for_thinking_gets_none(client: anthropic.Anthropic, thinking: Any) -> None:
    asked = ASKED if thinking is None else {**ASKED, "thinking": thinking}
    message = client.messages.create(**asked)
    assert [block.type for block in message.content] == ["text"] and message.content[0].text == "Antwort."
    assert message.usage.output_tokens_details.thinking_tokens == 0


def test_thinking_has_a_block_of_its_own_with_a_signature(client: anthropic.Anthropic) -> None:
    asked = {**ASKED, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    plain = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for message in (plain, streamed):
        assert message.content[0].type == "thinking" and message.content[0].thinking and message.content[0].signature
        assert message.usage.output_tokens_details.thinking_tokens > 0
    assert plain.content[0] == streamed.content[0]


def test_omitted_thinking_leaves_its_signature(client: anthropic.Anthropic) -> None:
    first = client.messages.create(**ASKED, thinking={"type": "adaptive", "display": "omitted"}).content[0]
    assert first.type == "thinking" and first.thinking == "" and first.signature


def test_thinking_is_sent_back_and_counted(client: anthropic.Anthropic) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    said = {"role": "assistant", "content": [thought, {"type": "text", "text": "Ja."}]}
    messages = [*ASKED["messages"], said, {"role": "user", "content": "Und?"}]
    asked = {"model": "thinker", "messages": messages, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    counted = client.messages.count_tokens(**asked).input_tokens
    usage = client.messages.create(**asked, max_tokens=2).usage
    assert counted == usage.input_tokens + usage.cache_read_input_tokens
