import json
from datetime import datetime

import pytest
from conversations import CONVERSATIONS, TOOLS, assistant, user
from hypothesis import given
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.tokenizer.chat_template import (
    ChatTemplate,
    find_template,
    stored_template,
    template_variables,
    tokenizer_configuration,
)
from cadran.tokenizer.template import CHAT_TEMPLATE
from cadran.tokenizer.templates.named import NAMES, named_template, needed_tokens

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}

# Each one uses something that real templates use; what plain Jinja makes of it is the claim.
FEATURES = {
    "loop": "{% for m in messages %}\n  {{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}"
    "{{ loop.revindex0 }}{{ (loop.previtem or m).role }}"
    "{{ loop.nextitem is defined }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}\n{% endfor %}\n",
    "controls": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}"
    "{% if loop.index > 4 %}{% break %}{% endif %}{{ m.role }}{% else %}none{% endfor %}",
    "loop test": "{% for m in messages if m.role != 'user' %}{{ loop.index }}{{ m.role }}{% endfor %}",
    "scope": "{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}"
    "{% if true %}{% set x = 3 %}{% endif %}{{ x }}{% with x = 4 %}{{ x }}{% endwith %}{{ x }}",
    "namespace": "{% set ns = namespace(text='', n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.text = ns.text + m['role'] ~ ns.n %}{% endfor %}{{ ns.text }}{{ ns.absent }}{{ ns['n'] }}",
    "macro": "{% macro line(role, content='-', more=[('k', 1)]) %}[{{ role }}: {{ content }}{{ caller() if caller }}"
    "{% for pair in more %}{{ pair[0] }}{% endfor %}{{ varargs }}{{ kwargs }}]{% endmacro %}"
    "{{ line('x', 'y', [], 1, 2, z=3) }}"
    "{% for m in messages %}{{ line(m.role, content=m.content|string) }}{{ line(m.role) }}{% endfor %}"
    "{% call line('x') %}inside{% endcall %}",
    "recursion": "{% macro walk(v) %}{% if v is mapping %}{{ '{' }}{% for k, x in v|dictsort %}{{ k }}={{ walk(x) }};"
    "{% endfor %}{{ '}' }}{% elif v is string %}'{{ v }}'{% elif v is iterable %}[{% for x in v %}{{ walk(x) }},"
    "{% endfor %}]{% else %}{{ v }}{% endif %}{% endmacro %}{{ walk(tools) }}{{ walk(messages) }}",
    "recursive loop": "{% for m in [[1, [2]], [[3]]] recursive %}{{ loop.depth }}"
    "{{ loop(m) if m is iterable else m }}{% endfor %}",
    "json": "{{ tools|tojson }}{{ tools|tojson(indent=2) }}{{ tools|tojson(separators=(',', ':'), sort_keys=true) }}"
    "{{ messages|tojson(ensure_ascii=true) }}{{ {'a': none, 'b': 1.5, 'c': true}|tojson(indent='\t') }}",
    "slices": "{{ messages[1:]|length }}{{ messages[::-1][0].role }}{{ 'abcdef'[-3:] }}{{ messages[-1].role }}"
    "{% for m in messages[1:-1] %}{{ m.role }}{% endfor %}",
    "strings": "{{ ' x '.strip() }}{{ 'a,b'.split(',') }}{{ 'Ab'.upper() }}{{ 'a-b'.replace('-', '+') }}"
    "{{ 'abc'.startswith('a') }}{{ ','.join(['x', 'y']) }}{{ 'a|b|c'.rsplit('|', 1) }}{{ '\\n x'.lstrip('\\n') }}"
    "{{ 'x'.ljust(4) }}|{{ '{} {a:>4}'.format(1, a=2) }}{{ '%s-%03d' % ('x', 7) }}{{ 'a\nb'.splitlines() }}",
    "dicts": "{% for k, v in messages[0].items() %}{{ k }}={{ v }}{% endfor %}{{ messages[0].get('x', 'd') }}"
    "{{ messages[0].keys()|list }}{{ messages[0].values()|list|length }}{{ dict(a=1, b=[2]) }}"
    "{{ 'role' in messages[0] }}{{ messages[0]|items|list }}{{ messages[0].copy() == messages[0] }}",
    "filters": "{{ messages|map(attribute='role')|join(', ') }}"
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}"
    "{{ messages|rejectattr('role', 'in', ['user'])|map(attribute='role')|unique|join }}{{ [3, 1, 2]|sort|last }}"
    "{{ 'a b'|title }}{{ 'x'|center(5) }}{{ ['a', 'b']|reverse|join }}{{ 3.7|int }}{{ '5'|int + 1 }}"
    "{{ 2.345|round(1) }}"
    "{{ absent|default('d') }}{{ ''|default('e', true) }}{{ 'a\nb'|indent(2) }}{{ [1, 2, 3]|batch(2)|list }}"
    "{{ [1, 2]|sum }}{{ '<a>'|e }}{{ 'abc def ghi'|truncate(7, leeway=0) }}"
    "{{ [1, 2, 3]|min }}{{ ['b', 'A']|sort }}{{ 'x y'|wordcount }}"
    "{{ [{'k': 1}, {'k': 2}]|groupby('k')|map('first')|list }}{{ 'abc'|first }}{{ [1, 2]|select('odd')|list }}"
    "{{ 'a'|upper|lower|capitalize|trim|replace('a', 'b')|string|length }}{{ '%s' |format(1) }}{{ -2|abs }}",
    "lazy": "{% set g = messages|map(attribute='role') %}{{ 'true' if g }}{% for r in g %}{{ r }}{{ loop.last }}"
    "{% endfor %}"
    "{{ (messages|selectattr('role', 'equalto', 'nobody')) is iterable }}",
    "tests": "{{ messages is iterable }}{{ messages is string }}{{ absent is defined }}{{ none is none }}"
    "{{ 2 is even }}"
    "{{ 'a' is in 'abc' }}{{ 1 is number }}{{ true is boolean }}{{ messages[0] is mapping }}{{ 'A' is upper }}"
    "{{ 4 is divisibleby 2 }}{{ 1 is eq 1 }}{{ messages is sequence }}{{ raise_exception is callable }}",
    "operators": "{{ 1 + 2 * 3 - 4 / 2 // 1 % 3 ** 2 }}{{ [1] + [2] }}{{ 'a' * 3 }}{{ 1 < 2 < 3 }}{{ not 1 == 2 }}"
    "{{ 'a' ~ 1 ~ none }}{{ 'x' if false }}{{ 1 if true else 2 }}{{ (1, 2) }}{{ {'a': [1]} }}{{ -1 }}{{ 'a' in 'b' }}",
    "white space": "  {% if true %}\n    a\n  {%- endif %}\n\n  {# note #}\n  b {{- ' c' -}}  \n d\n"
    "{% raw %}{{ x }}{% endraw %}\n\n",
    "captured": "{% set block %}a{{ 1 }}{% for m in messages %}{{ m.role }}{% endfor %}{% endset %}{{ block|upper }}"
    "{% filter upper %}x{{ 'y' }}{% endfilter %}",
    "generation": "{% for m in messages %}{{ m.role }}{% generation %}{% set x = 1 %}{{ m.content }}!"
    "{% endgeneration %}{{ x }}{% endfor %}",
    "defined": "{{ tools is defined }}{{ documents is defined }}{{ documents is none }}{{ add_generation_prompt }}"
    "{{ pad_token is defined }}{{ custom }}{{ bos_token }}{{ messages[0].thinking }}{{ messages|map('length')|list }}",
}


def theirs(source, messages, tools=None, prompt=False, **extra):
    """What ``transformers`` writes, or None when it raises."""
    hub = pytest.importorskip("transformers")
    tokenizer = _oracle(hub)
    try:
        return tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=source, tokenize=False, add_generation_prompt=prompt, **extra
        )
    except Exception:
        return None


_ORACLES = []


def _oracle(hub):
    if not _ORACLES:
        from small_tokenizers import small_tokenizer
        from tokenizers import Tokenizer

        core = Tokenizer.from_str(small_tokenizer("bytes"))
        _ORACLES.append(hub.PreTrainedTokenizerFast(tokenizer_object=core, **VARIABLES))
    return _ORACLES[0]


def ours(source, messages, tools=None, prompt=False, **extra):
    try:
        return ChatTemplate(source, VARIABLES).render(messages, tools, prompt, **extra)
    except UserError:
        return None


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_of_templates_writes_what_transformers_writes(feature):
    written = 0
    for messages, tools in CONVERSATIONS.values():
        for prompt in (False, True):
            expected = theirs(FEATURES[feature], messages, tools, prompt, custom="<é>")
            assert ours(FEATURES[feature], messages, tools, prompt, custom="<é>") == expected
            written += expected is not None
    assert written > len(CONVERSATIONS) // 2


@pytest.mark.parametrize("name", [*NAMES, "ours"])
def test_named_templates_write_and_refuse_as_transformers_does(name):
    source = CHAT_TEMPLATE if name == "ours" else named_template(name)
    written = 0
    for messages, tools in CONVERSATIONS.values():
        for prompt in (False, True):
            expected = theirs(source, messages, tools, prompt)
            assert ours(source, messages, tools, prompt) == expected
            written += expected is not None
    assert written > len(CONVERSATIONS) // 2


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
messages_of_any_kind = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.text() | values},
        optional={"thinking": values, "reasoning": values, "tool_calls": st.lists(values, max_size=2)},
    ),
    min_size=1,
    max_size=4,
)


@given(messages=messages_of_any_kind, source=st.sampled_from([*FEATURES.values(), *map(named_template, NAMES)]))
def test_data_of_any_shape_is_written_as_transformers_writes_it(messages, source):
    assert ours(source, messages, custom=1) == theirs(source, messages, custom=1)


def test_the_ranges_of_generation_are_the_characters_of_the_answers():
    source = "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content }}{% endgeneration %}.{% endfor %}"
    template = ChatTemplate(source)
    text, ranges = template.render_marked([user("one"), assistant("two")])
    assert template.marks_answers()
    assert [text[start:end] for start, end in ranges] == ["one", "two"]


def test_the_date_is_the_given_one():
    template = ChatTemplate("{{ strftime_now('%d %B %Y') }}")
    assert template.render([user("x")], now=datetime(2024, 7, 26)) == "26 July 2024"
    assert template.render([user("x")]) != ""


def test_tools_choose_the_template_made_for_them():
    template = ChatTemplate({"default": "plain", "tool_use": "tools", "rag": "rag"})
    assert template.render([user("x")]) == "plain"
    assert template.render([user("x")], tools=TOOLS) == template.render([user("x")], tools=[]) == "tools"
    assert ChatTemplate({"default": "plain", "rag": "rag"}).render([user("x")], tools=TOOLS) == "plain"


def test_a_broken_template_for_tools_does_not_spoil_the_other():
    template = ChatTemplate({"default": "plain", "tool_use": "{% if %}"})
    assert template.render([user("x")]) == "plain"
    with pytest.raises(UserError, match="line 1"):
        template.render([user("x")], tools=TOOLS)


def test_several_templates_without_a_default_are_refused_by_name():
    with pytest.raises(UserError, match=r"rag, tool_use.*--template"):
        ChatTemplate({"tool_use": "x", "rag": "y"})


def test_the_refusal_of_a_template_reaches_the_user_on_one_line():
    template = ChatTemplate("{{ raise_exception('System role\\n\\x1b[31mnot supported.') }}")
    with pytest.raises(
        UserError, match=r"refuses this conversation: System role +\[31mnot supported; change it.*--template"
    ):
        template.render([user("x")])


@pytest.mark.parametrize(
    ("messages", "tools", "complaint"),
    [
        ([], None, "empty"),
        ({}, None, "empty"),
        ("hello", None, "empty"),
        (["hello"], None, "Message 1 .* str"),
        ([user("x"), 5], None, "Message 2 .* int"),
        ([user(object())], None, "object"),
        ([user({1, 2})], None, "set"),
        ([user(b"x")], None, "bytes"),
        ([user("x")], ["weather"], "Tool 1"),
        ([user("x")], [print], "builtin_function"),
    ],
)
def test_what_is_no_conversation_is_refused_in_a_sentence(messages, tools, complaint):
    with pytest.raises(UserError, match=complaint):
        ChatTemplate("{{ messages }}").render(messages, tools)


def test_data_that_contains_itself_is_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(UserError, match="100 deep"):
        ChatTemplate("{{ messages }}").render([user(endless)])


def test_the_template_cannot_change_the_messages():
    messages = [user(["a"]), assistant(None)]
    with pytest.raises(UserError, match="unsafe"):
        ChatTemplate("{% set _ = messages[0].content.append('b') %}{{ _ }}").render(messages)
    assert messages == [user(["a"]), assistant(None)]


def test_a_template_is_found_where_transformers_looks_for_it(tmp_path):
    assert find_template(tmp_path) is None
    configuration = {"chat_template": "in the configuration", "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(configuration))
    assert find_template(tmp_path) == "in the configuration"
    (tmp_path / "chat_template.jinja").write_text("its own file: é\n", encoding="utf-8")
    assert find_template(tmp_path) == "its own file: é\n"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("for tools")
    assert find_template(tmp_path) == {"default": "its own file: é\n", "tool_use": "for tools"}


def test_named_templates_in_a_list_are_read(tmp_path):
    entry = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    assert stored_template({"chat_template": entry}) == {"default": "a", "rag": "b"}
    assert stored_template({"chat_template": None}) is stored_template({}) is None


@pytest.mark.parametrize("entry", [5, ["a"], [{"name": "default"}], {"default": 1}, [{"name": ["x"], "template": "y"}]])
def test_a_malformed_template_entry_is_refused(entry):
    with pytest.raises(UserError, match="chat_template"):
        stored_template({"chat_template": entry})


def test_special_tokens_come_from_either_file_and_either_form(tmp_path):
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": {"content": "<old>"}, "unk_token": "<unk>"}')
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null}'
    )
    found = template_variables(tokenizer_configuration(tmp_path))
    assert found == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_configuration_is_refused(tmp_path, content):
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(UserError, match="tokenizer_config"):
        find_template(tmp_path)


def test_an_enormous_template_file_is_not_read(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"x" * (1 << 19))
    with pytest.raises(UserError, match="bytes"):
        find_template(tmp_path)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match=r"chatlm.*did you mean chatml.*alpaca, chatml.*zephyr"):
        named_template("chatlm")
    with pytest.raises(UserError, match="chatml"):
        named_template("../../../secret")


@pytest.mark.parametrize("name", NAMES)
def test_a_named_template_writes_the_tokens_it_says_it_needs(name):
    text = ours(named_template(name), [user("x"), assistant("y")], prompt=True) or ""
    with_system = ours(named_template(name), CONVERSATIONS["system"][0]) or ""
    assert all(token in text + with_system for token in needed_tokens(name))
    assert text.index("x") < text.index("y", text.index("x"))
