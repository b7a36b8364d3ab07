"""Small chat templates, one for each way of writing calls, for tests that need no network."""

from cadran.tokenizer.chat_template import ChatTemplate

_HEAD = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}"
)
_TAIL = (
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def _calls(each: str, before: str = "", after: str = "", between: str = "") -> str:
    loop = "{% for c in m.tool_calls %}" + each + ("{% if not loop.last %}" + between + "{% endif %}") + "{% endfor %}"
    return _HEAD + before + loop + after + _TAIL


_PARAMETERS = "{% for k, v in c.function.arguments.items() %}KEY{% endfor %}"
_VALUE = "{{ v if v is string else v | tojson }}"

SOURCES = {
    "json between tags": _calls(
        '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n'
        "</tool_call>",
        between="\n",
    ),
    "a list of json": _calls(
        '{"id": "{{ c.id }}", "name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}',
        "[CALLS] [",
        "]",
        ", ",
    ),
    "a function in the object": _calls(
        '<c>{"type": "function", "function": {"name": "{{ c.function.name }}", "arguments": '
        "{{ c.function.arguments | tojson }}}}</c>"
    ),
    "json in a string": _calls(
        '<c>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson | tojson }}}</c>'
    ),
    "fences in sections": _calls(
        "<|call|>function<|sep|>{{ c.function.name }}\n```json\n{{ c.function.arguments | tojson }}\n```<|end|>",
        "<|calls|>",
        "<|ends|>",
        "\n",
    ),
    "the name as a tag": _calls("<function={{ c.function.name }}>{{ c.function.arguments | tojson }}</function>"),
    "numbered": _calls(
        "<|call|>functions.{{ c.function.name }}:{{ loop.index0 }}<|args|>{{ c.function.arguments | tojson }}<|end|>",
        "<|calls|>",
        "<|ends|>",
    ),
    "arguments as text": _calls("<c>{{ c.function.name + ' ' + c.function.arguments }}</c>"),
    "a tag for each argument": _calls(
        "<tool_call>\n<function={{ c.function.name }}>\n"
        + _PARAMETERS.replace("KEY", "<parameter={{ k }}>\n" + _VALUE + "\n</parameter>\n")
        + "</function>\n</tool_call>",
        between="\n",
    ),
    "tags for key and value": _calls(
        "<tool_call>{{ c.function.name }}\n"
        + _PARAMETERS.replace("KEY", "<arg_key>{{ k }}</arg_key>\n<arg_value>" + _VALUE + "</arg_value>\n")
        + "</tool_call>"
    ),
    "attributes": _calls(
        '<invoke name="{{ c.function.name }}">\n'
        + _PARAMETERS.replace("KEY", '<parameter name="{{ k }}">' + _VALUE + "</parameter>\n")
        + "</invoke>\n",
        "<calls>\n",
        "</calls>",
    ),
    "pythonic": _calls(
        "{{ c.function.name }}("
        + "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v | tojson }}"
        + "{% if not loop.last %}, {% endif %}{% endfor %})",
        "[",
        "]",
        ", ",
    ),
    "bare json": _calls('{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}').replace(
        "{% if m.tool_calls %}",
        "{% if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one call at once') }}{% endif %}"
        "{% if m.tool_calls %}",
    ),
}

THINKING = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content is defined %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or () %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if opened is defined %}<think>\n{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""One that thinks: before the answer, if it likes; with the variable ``opened`` the prompt begins the reasoning."""


def small_template(name: str) -> ChatTemplate:
    """A template by what is particular of it."""
    return ChatTemplate(SOURCES[name])
