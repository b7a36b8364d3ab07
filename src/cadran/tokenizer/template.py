"""The chat template, once for the whole project: ChatML, for Jinja and for the renderer.

It holds no ``{% generation %}`` marker: only ``transformers`` knows that tag, and plain Jinja readers of the checkpoint
(llama-cpp-python, minijinja servers) refuse the whole template. Our supervised spans come from ``ChatRenderer``.
"""

ROLES = ("system", "user", "assistant", "tool")

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] | trim) + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
