"""Grammars that cannot be enforced, that nothing fits, or that are made to cost too much: a sentence, never a hang."""

import pytest
from grammar_walks import COMPILERS, allowed, walk
from small_tokenizers import EOS, small_tokenizer

from cadran.engine.grammar import GrammarCompiler
from cadran.errors import UserError
from cadran.tokenizer.tokenizer import Tokenizer

TREE = {"type": "object", "properties": {"sons": {"type": "array", "items": {"$ref": "#"}}}, "required": ["sons"]}
NO_BYTES = Tokenizer(small_tokenizer("unigram without bytes"), config={"eos_token": EOS})
ENDLESS = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string", "not": {"const": "a"}}, '"not"'),
        ({"type": "array", "items": {"uniqueItems": True}}, '"uniqueItems"'),
        ({"properties": {"a": {"if": {}, "then": {}}}}, '"if", "then"'),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, "oneOf"),
        ({"type": "string", "format": "unheard-of"}, "unheard-of"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "http://example.com/schema"}, r"\$ref"),
        ({"$ref": "#/$defs/absent"}, "absent"),
        ({"type": "colour"}, "colour"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength"),
        ({"enum": []}, "cannot be enforced"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "cannot be enforced"),
        (ENDLESS, "nothing finite fits"),
        ({"$ref": "#"}, "nothing finite fits"),
        ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "nothing finite fits"),
        ({"anyOf": [ENDLESS | {"properties": {"a": {"$ref": "#/anyOf/0"}}}]}, "nothing finite fits"),
        ({"properties": {f"p{i}": {} for i in range(1001)}}, "1001 properties"),
        ({"enum": ["x" * 300_000]}, "characters"),
        ({"minimum": float("nan")}, "not JSON"),
        ({"enum": {1, 2}}, "not JSON"),
        ({"const": "\ud800"}, "surrogate"),
        (False, "nothing fits"),
        ("[1]", "a JSON list"),
        ('{"type":', "not JSON"),
        ('{"items":' * 300 + "{}" + "}" * 300, "recursion"),
        ('{"items":' * 20_000 + "{}" + "}" * 20_000, "not JSON|recursion"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_in_a_sentence(schema, message):
    with pytest.raises(UserError, match=message) as raised:
        COMPILERS["ours"].json_schema(schema)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize("schema", [ENDLESS | {"type": ["null", "object"]}, ENDLESS | {"required": []}, TREE])
def test_a_recursive_schema_with_an_end_is_taken(schema):
    assert walk("ours", COMPILERS["ours"].json_schema(schema), 3)[1]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a", "unclosed group"),
        ("a(?=b)", "look-around"),
        (r"(a)\1", "backreferences"),
        (r"[^\s\S]", "nothing fits"),
        ("", "empty text"),
        ("a" * 300_000, "characters"),
        ("(" * 5000 + ")" * 5000, "cannot be enforced"),
        ("\udc00", "surrogate"),
    ],
)
def test_a_regular_expression_that_cannot_be_followed_is_refused_in_a_sentence(pattern, message):
    with pytest.raises(UserError, match=message) as raised:
        COMPILERS["ours"].regex(pattern)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("", "cannot be enforced"),
        ("root ::= absent", "absent"),
        ("root ::= (", "cannot be enforced"),
        ("root ::= " + "(" * 10_000, "cannot be enforced"),
        ('item ::= "a"', "root"),
        ('start: "a" start', "nothing finite fits"),
        ('root ::= "a" root | b\nb ::= "b" root', "nothing finite fits"),
        ('start: a{2}\na[lazy]: "x" (a | start) /y*/', "nothing finite fits"),
        ("start: unknown", "unknown"),
    ],
)
def test_a_grammar_that_derives_nothing_is_refused_in_a_sentence(rules, message):
    with pytest.raises(UserError, match=message) as raised:
        COMPILERS["ours"].ebnf(rules)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "rules", ['start: ("a" start)?', 'start: "a" start | "b"', 'start: a*\na: "x" a', 'start: "é"']
)
def test_a_grammar_with_an_end_is_taken(rules):
    assert not COMPILERS["ours"].ebnf(rules).matcher().ended


@pytest.mark.parametrize("choices", [[], "yes", ["a", 3], None])
def test_choices_that_are_none_are_refused(choices):
    with pytest.raises(UserError, match="list of one or more texts"):
        COMPILERS["ours"].choice(choices)


def test_a_hostile_grammar_ends_with_an_error_and_never_hangs():
    rules = "start: x+\nx: " + " | ".join(f"/[a-z]{{1,{length}}}/" for length in range(1, 1500))
    matcher = COMPILERS["ours"].ebnf(rules).matcher(())
    with pytest.raises(UserError, match="too costly"):
        for step in range(300):
            tokens = allowed(matcher.mask())
            matcher.accept(int(tokens[step * 7919 % len(tokens)]))
    many = {"type": "object", "properties": {f"p{i}": {} for i in range(1000)}}
    with pytest.raises(UserError, match="too costly"):
        walk("ours", COMPILERS["ours"].json_schema(many), 0, closing='"p')


def test_a_long_run_of_what_must_come_is_given_once():
    matcher, count = COMPILERS["ours"].regex("a{20000}b").matcher(), 0
    while forced := matcher.forced():
        assert allowed(matcher.mask()).tolist() == forced[:1]
        for token in forced:
            matcher.accept(token)
        count += len(forced)
    assert matcher.can_end and count == 20_001


def test_what_the_vocabulary_cannot_write_is_refused():
    compiler = GrammarCompiler(NO_BYTES)
    assert not compiler.vocabulary.spells_all
    with pytest.raises(UserError, match="cannot write the choice"):
        compiler.choice(["plane", "日本"])
    with pytest.raises(UserError, match="cannot write"):
        compiler.regex("日+")
    matcher = compiler.regex("pla日").matcher()
    with pytest.raises(UserError, match="cannot write"):
        while True:
            matcher.accept(int(allowed(matcher.mask())[0]))
