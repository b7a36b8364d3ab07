import gc
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.tokenizer.chat_template import ChatTemplate

MESSAGES = [{"role": "user", "content": "hello"}]

LOOP, END = "{% for i in range(99999) %}", "{% endfor %}"
STATE = "{% set ns = namespace(x='a') %}"
DEEP = "{% set a = [1] %}{% set b = [2] %}" + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60
DEEP_TUPLE = "{% set a = (1,) %}" + "{% set a = (a, a) %}" * 60


def doubling(value):
    return STATE + "{% for i in range(60) %}{% set ns.x = " + value + " %}{% endfor %}{{ ns.x|length }}"


ENDLESS = {
    "nested ranges": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "a filtered loop": LOOP + "{% for j in range(99999) if false %}{% endfor %}" + END,
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}"
    "{{ m(70) }}",
    "a recursive loop": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "a generator in a loop": LOOP + "{% set x = range(99999)|map('string')|list %}" + END,
    "a sum in a loop": LOOP + "{% set x = range(99999)|sum %}" + END,
    "a search in a loop": "{% set s = 'a' * 900000 %}{% set t = 'a' * 400 + 'b' + 'a' * 400 %}"
    + LOOP
    + "{% set x = t in s %}"
    + END,
    "a huge range": "{% for i in range(10**12) %}{% endfor %}",
}
LARGE = {
    "product": "{{ 'a' * 10**9 }}",
    "product of a list": "{{ ([0] * 10**9)|length }}",
    "product from the left": "{{ 10**9 * 'a' }}",
    "power": "{{ 10**(10**9) }}",
    "repeated squares": "{% set ns = namespace(x=9) %}" + LOOP + "{% set ns.x = ns.x * ns.x %}" + END,
    "width in %": "{{ '%1000000000d' % 1 }}",
    "precision in %": "{{ '%.1000000000f' % 1.5 }}",
    "width from an argument": "{{ '%*d' % (1000000000, 1) }}",
    "width after a key": "{{ '%((a))1000000000s' % {'(a)': 1} }}",
    "width in the filter": "{{ '%-#0+ 1000000000d'|format(1) }}",
    "width in format": "{{ '{:1000000000}'.format(1) }}",
    "width from an argument of format": "{{ '{:{}}'.format(1, 10**9) }}",
    "width in format_map": "{{ '{a:.1000000000f}'.format_map({'a': 1.5}) }}",
    "center": "{{ 'a'|center(10**9) }}{{ 'a'|center(width=10**9) }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "to_bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    "translate": "{{ 'a'.translate({97: 'a' * 1000000}) }}",
    "sum of strings": doubling("ns.x + ns.x"),
    "joined strings": doubling("ns.x ~ ns.x"),
    "format of strings": doubling("'{0}{0}'.format(ns.x)"),
    "percent of strings": doubling("'%s%s' % (ns.x, ns.x)"),
    "join filter": doubling("[ns.x, ns.x]|join"),
    "join method": doubling("''.join([ns.x, ns.x])"),
    "macro": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + doubling("m(ns.x)"),
    "captured block": STATE + "{% for i in range(60) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "lists": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "replace": "{% set s = 'a' * 500000 %}{{ s|replace('a', s)|length }}",
    "replace nothing": "{% set s = 'a' * 500000 %}{{ s.replace('', s)|length }}",
    "join of a range": "{% set s = 'a' * 500000 %}{{ range(90000)|map('string')|join(s)|length }}",
    "join of characters": "{% set s = 'a' * 500000 %}{{ s.join(s)|length }}",
    "batch": "{{ [1]|batch(10**9, 0)|list|length }}",
    "slice": "{{ [1]|slice(10**9, 0)|list|length }}",
    "indent": "{{ ('\n' * 100000)|indent(10**6)|length }}",
    "indent with text": "{{ ('\n' * 100000)|indent('a' * 100000)|length }}",
    "round": "{{ 1.5|round(10**9, 'floor') }}",
    "json indent": "{{ [1, 2]|tojson(indent=10**9) }}",
    "json separators": "{{ [1, 2]|tojson(separators=('a' * 1000000, 'b')) }}",
    "date": "{{ strftime_now('%1000000000Y') }}",
    "kept strings": "{% set ns = namespace(x=[]) %}" + LOOP + "{% set ns.x = ns.x + ['a' * 900000 ~ i] %}" + END,
    "kept lists": "{% set ns = namespace(x=[]) %}" + LOOP + "{% set ns.x = [ns.x, range(9999)|list] %}" + END,
    "numeral": "{{ ('9' * 900000)|int }}",
    "numeral in base 32": "{{ ('z' * 900000)|int(base=32) }}",
    "written lists": "{% set ns = namespace(x=1) %}" + LOOP + "{% set ns.x = [ns.x" + ", i" * 5000 + "] %}" + END,
    "endless text": LOOP + "x" * 60000 + END,
    "lists of lists": "{{ ([[1] * 1000] * 1000)|sum(start=[])|length }}",
    "printed twice as often": DEEP + "{{ a }}",
    "as json": DEEP + "{{ a|tojson }}",
    "as text": DEEP + "{{ (a ~ '')|length }}",
    "compared": DEEP + "{{ a == b }}",
    "tested": DEEP + "{{ a is eq b }}{{ a is in [b] }}",
    "sorted": DEEP + "{{ [a, b]|sort|length }}",
    "formatted": DEEP + "{{ '{}'.format(a)|length }}",
    "percent formatted": DEEP + "{{ ('%s' % [a])|length }}",
    "compared in a loop": DEEP + "{% for x in [a, b] %}{{ loop.changed(x) }}{% endfor %}",
    "hashed": DEEP_TUPLE + "{{ {a: 1} }}",
    "looked up": DEEP_TUPLE + "{{ {}[a] }}",
    "got": DEEP_TUPLE + "{{ {}.get(a) }}",
    "mapped": "{% set a = {'x': 1} %}" + "{% set a = {'x': a, 'y': a} %}" * 60 + "{{ a.items()|list|string }}",
    "nested deep": "{% set ns = namespace(x=()) %}" + LOOP + "{% set ns.x = (ns.x,) %}" + END + "{{ {ns.x: 1} }}",
    "chained generators": "{% set ns = namespace(x=[1]) %}" + LOOP + "{% set ns.x = ns.x|map('string') %}" + END,
}
INTERNALS = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ['']|map('attr', '__class__')|list }}",
    "{{ ['']|map(attribute='__class__')|list }}",
    "{{ ['']|selectattr('__class__')|list }}",
    "{{ ['']|sort(attribute='__class__') }}",
    "{{ ['']|groupby('__class__') }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ ('{0.__class__}'.format)('') }}",
    "{{ '{0[__class__]}'.format('') }}",
    "{{ '{a.__class__}'.format_map({'a': ''}) }}",
    "{{ lipsum() }}",
    "{{ lipsum.__globals__ }}",
    "{{ cycler('a', 'b') }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ raise_exception.__globals__ }}",
    "{{ range.__self__ }}",
    "{{ namespace.__init__ }}",
    "{{ namespace()._Namespace__attrs }}",
    "{{ namespace(__init__=1) }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{% macro m() %}{% endmacro %}{{ m._func }}",
    "{% macro m() %}{% endmacro %}{{ m._environment }}",
    "{% macro m() %}{{ caller._func }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% for x in [1] %}{{ loop._iterator }}{% endfor %}",
    "{% for x in [1] %}{{ loop.__init__ }}{% endfor %}",
    "{{ absent.__class__ }}",
    "{{ absent._undefined_obj }}",
    "{{ ([1]|map('string'))._source }}",
    "{{ ''.join.__self__ }}",
    "{{ 'a'.encode() }}",
    "{{ [].append(1) }}",
    "{{ messages.clear() }}",
    "{{ messages[0].pop('role') }}",
    "{{ {}.update({}) }}",
    "{{ 'a'() }}",
    "{{ print('x') }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% autoescape true %}{% endautoescape %}",
    "{{ [1]|random }}",
    "{{ [1]|pprint }}",
]
UNCOMPILABLE = {
    "parentheses": "{{ " + "(" * 30000 + "1" + ")" * 30000 + " }}",
    "lists": "{{ " + "[" * 30000 + "]" * 30000 + " }}",
    "sums": "{{ " + "1+" * 30000 + "1 }}",
    "minus signs": "{{ " + "-" * 60000 + "1 }}",
    "filters": "{{ 1" + "|string" * 9000 + " }}",
    "attributes": "{{ a" + ".a" * 30000 + " }}",
    "conditions": "{% if 1 %}" * 2500 + "{% endif %}" * 2500,
    "alternatives": "{% if 0 %}" + "{% elif 0 %}" * 4000 + "{% endif %}",
    "loops": "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
    "calls": "{% call m() %}" * 300 + "{% endcall %}" * 300,
    "variables": "{% set " + ",".join(f"a{i:x}" for i in range(6000)) + " = x %}" + "{%if a%}{%endif%}" * 1500,
    "a long number": "{{ " + "9" * 60000 + " }}",
    "a long hexadecimal number": "{{ 0x" + "f" * 60000 + " }}",
    "an open tag": "{% for x in y %}",
    "an open string": "{{ '" + "\\" * 60000,
    "no expression": "{% if %}",
    "length": "x" * 70000,
}


def stopped(source):
    """The processor time after which a template is refused; fails when it is not."""
    started = time.thread_time()
    with pytest.raises(UserError, match=r"--template NAME, or none with --raw\.$"):
        ChatTemplate(source, {"bos_token": "<s>"}).render(MESSAGES)
    return time.thread_time() - started


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_works_without_end_is_stopped(name):
    assert stopped(ENDLESS[name]) < 2.5


def test_what_asks_for_much_memory_is_refused_before_it_is_taken():
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest = max((stopped(source), name) for name, source in LARGE.items())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    assert grown < 160 << 20
    assert slowest[0] < 2.5, slowest


@pytest.mark.parametrize("source", INTERNALS)
def test_nothing_of_python_can_be_reached(source):
    stopped(source)


@pytest.mark.parametrize("name", UNCOMPILABLE)
def test_a_text_built_to_break_the_compiler_is_refused(name):
    assert stopped(UNCOMPILABLE[name]) < 2.5


def test_the_fence_holds_off_the_main_thread_and_for_several_at_once():
    refused = []

    def render():
        try:
            ChatTemplate(ENDLESS["nested ranges"]).render(MESSAGES)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=render) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(refused) == 3


def test_a_stopped_template_can_be_used_again():
    template = ChatTemplate("{% if messages|length > 1 %}" + ENDLESS["nested ranges"] + "{% endif %}ok")
    with pytest.raises(UserError, match="without end"):
        template.render(MESSAGES * 2)
    assert template.render(MESSAGES) == "ok"


def test_a_long_conversation_is_no_attack():
    conversation = [{"role": role, "content": "word " * 40} for _ in range(5000) for role in ("user", "assistant")]
    source = (
        "{% for m in messages %}{% if loop.index0 == messages|length - 1 or m in messages[-2:] %}{% endif %}"
        "{{ '<|' + m.role + '|>' + m['content']|trim + '<|end|>\n' }}{% endfor %}"
    )
    text = ChatTemplate(source).render(conversation)
    assert text.count("<|end|>") == len(conversation)


def test_one_long_message_is_no_attack():
    content = "A line of text, again and again. <b>\n" * 30000
    source = (
        "{% for m in messages %}{{ m.content.strip().split('</think>')[-1]|trim|replace('<b>', '') }}"
        "{{ m|tojson }}{{ m.content.splitlines()|length }}{{ m.content.split()|length }}{% endfor %}"
    )
    assert len(ChatTemplate(source).render([{"role": "user", "content": content}])) > 1 << 20


# fmt: off
PIECES = [
    "{% for i in x %}", "{% endfor %}", "{% if x %}", "{% endif %}", "{% set x = ", "%}", "{{ ", " }}", "messages",
    "x", "i", "[0]", "[1:]", "|list", "|map('string')", "|join(x)", "|tojson", "|length", " * 99999", " + x", " ~ x",
    "'a'", "[x, x]", "{'a': x}", "range(99999)", ".format(x)", ".__class__", "namespace(a=x)", "dict(a=x)", "(", ")",
    "loop", "{% break %}", "{% macro m(x) %}", "{% endmacro %}", "m(x)", "{% generation %}", "{% endgeneration %}",
    "|sort", "|e", "'%s' % x", "{#",
]
# fmt: on


@given(source=st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text())
def test_no_text_does_anything_but_render_or_be_refused(source):
    started = time.thread_time()
    try:
        ChatTemplate("{% set x = messages %}" + source).render(MESSAGES)
    except UserError as error:
        assert "\n" not in str(error)
    assert time.thread_time() - started < 2.5
