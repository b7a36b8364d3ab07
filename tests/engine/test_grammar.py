"""Grammars: what random tokens under the mask spell always fits, and everything that fits can be spelt."""

import json
import re
import subprocess
import sys

import jsonschema
import pytest
from grammar_walks import COMPILERS, KINDS, TOKENIZERS, allowed, fits, inside, size, text_of, walk
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.engine.grammar import GrammarCompiler
from cadran.errors import UserError

NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["value", "next"],
    "additionalProperties": False,
}
SCHEMAS = {
    "object": {"type": "object"},
    "anything": {},
    "nested": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 12},
            "address": {
                "type": "object",
                "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
                "required": ["street", "zip"],
                "additionalProperties": False,
            },
            "optional": {"type": "boolean"},
        },
        "required": ["name", "address"],
        "additionalProperties": False,
    },
    "array with bounds": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 4},
    "enum": {"enum": ["red", "green", "été", "😀 rose", 3, None, {"a": [1, "é"]}]},
    "const": {"type": "object", "properties": {"k": {"const": 'quote " and \\ and é'}}, "required": ["k"]},
    "pattern": {"type": "string", "pattern": "^[A-Z][a-z]{2,8}( [A-Z][a-z]+)?$"},
    "integer with bounds": {"type": "integer", "minimum": -17, "maximum": 4002},
    "number with bounds": {"type": "number", "exclusiveMinimum": 0.25, "maximum": 3.5},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 1000},
    "anyOf": {"anyOf": [{"type": "integer", "minimum": 5}, {"type": "string", "maxLength": 3}, {"type": "null"}]},
    "allOf": {"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 60}]},
    "oneOf of kinds": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": k}, "n": {"type": "integer"}}, "required": ["kind"]}
            for k in ("a", "b")
        ]
    },
    "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False, "minItems": 2},
    "recursive": {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    "tree": {"type": "object", "properties": {"sons": {"type": "array", "items": {"$ref": "#"}}}, "required": ["sons"]},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 3},
    "date": {"type": "string", "format": "date"},
}
REGEXES = [
    *("abc", "a|bc|é+", "[a-c]{3,7}", "(yes|no)( [0-9]{2})*", "[^a]{2}", ".{0,20}!", "(a|b)*a(a|b){3}"),
    *(
        r"\d\d:\d\d",
        r"[\x21-\x7e]{1,9}@[a-z]{1,5}\.(com|fr)",
        "(?:x?){5}y",
        "(日本|été|😀){1,3}",
        "^[a-z]+$",
        "(?i)plane",
    ),
]
GBNF = 'root ::= item+\nitem ::= "- " [^\\n\\u00e9]+ "\\u00e9" "\\n"  # a list\n'
CHOICES = ["yes", "no", "yes indeed", "été", "L'avion", "👩‍👩‍👧", "日本", '"quoted" \\ \n', "<s>"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_the_tokens_are_those_of_decoding(kind):
    tokenizer, vocabulary = TOKENIZERS[kind], COMPILERS[kind].vocabulary
    library = vocabulary.library
    for id in range(size(kind)):
        if tokenizer.is_special(id):
            assert library.is_special_token(id)
        elif b"\xff" not in tokenizer.token_bytes(id):
            assert library.decode_bytes([id]) == tokenizer.token_bytes(id)
    for text in ["Hello there", " two  spaces", "L'été 😀\n", "", "<s>\t▁日本", "e\u0301"]:
        assert b"".join(map(tokenizer.token_bytes, vocabulary(text))) == text.encode()
        ids = vocabulary(text)
        assert not any(map(tokenizer.is_special, ids))
        assert text_of(tokenizer, ids) == text
    assert vocabulary(b"\xc3") and vocabulary.spells_all


def test_tokens_inside_a_text_are_those_of_the_tokenizer():
    for text in ["The plane landed", ' it\'s "said"', "\n\nBe brief."]:
        assert inside("ours", text) == TOKENIZERS["ours"].encode(text)
    assert inside("llama", " The plane landed") == TOKENIZERS["llama"].encode("The plane landed")


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_random_walk_ends_in_json_that_fits_its_schema(name):
    schema = SCHEMAS[name]
    for seed, kind in enumerate(KINDS):
        for draw in range(3):
            text = walk(kind, COMPILERS[kind].json_schema(schema), 10 * seed + draw)[1]
            assert jsonschema.Draft202012Validator(schema).is_valid(json.loads(text)), text


@pytest.mark.parametrize("pattern", REGEXES)
def test_a_random_walk_fully_matches_its_regular_expression(pattern):
    for seed, kind in enumerate(KINDS):
        text = walk(kind, COMPILERS[kind].regex(pattern), seed)[1]
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize("kind", KINDS)
def test_a_choice_is_one_of_the_choices_and_each_of_them_can_be_chosen(kind):
    grammar = COMPILERS[kind].choice(CHOICES)
    assert {walk(kind, grammar, seed)[1] for seed in range(30)} <= set(CHOICES)
    assert all(fits(kind, grammar, choice) for choice in CHOICES)
    assert not any(fits(kind, grammar, text) for text in ["ye", "yess", "indeed", "é", "👩", "maybe"])


def test_the_empty_text_may_be_a_choice():
    grammar = COMPILERS["ours"].choice(["", "a"])
    assert fits("ours", grammar, "") and fits("ours", grammar, "a") and not fits("ours", grammar, "b")


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_of_a_choice_is_exactly_what_leads_to_one(kind):
    tokenizer, choices = TOKENIZERS[kind], [choice.encode() for choice in CHOICES]
    for seed in range(5):
        matcher, so_far = COMPILERS[kind].choice(CHOICES).matcher(), b""
        while not matcher.ended:
            leads = {
                id
                for id in range(size(kind))
                if not tokenizer.is_special(id)
                and any(choice.startswith(so_far + tokenizer.token_bytes(id)) for choice in choices)
            }
            found = set(allowed(matcher.mask()).tolist())
            assert found <= leads | (set(tokenizer.eos_ids) if so_far in choices else set())
            if not matcher.forced():
                assert found >= leads | (set(tokenizer.eos_ids) if so_far in choices else set())
            token = sorted(found)[seed * 7 % len(found)]
            matcher.accept(token)
            so_far += b"" if token in tokenizer.eos_ids else tokenizer.token_bytes(token)
        assert so_far in choices


@pytest.mark.parametrize("kind", KINDS)
def test_stop_ids_are_allowed_exactly_where_the_text_may_end(kind):
    tokenizer, pattern = TOKENIZERS[kind], "a(b[cd]){0,3}|été"
    ids = inside(kind, "abcbdbc")
    for length in range(len(ids) + 1):
        matcher = COMPILERS[kind].regex(pattern).matcher()
        for id in ids[:length]:
            matcher.accept(id)
        ends = re.fullmatch(pattern, text_of(tokenizer, ids[:length])) is not None
        assert matcher.can_end == ends
        assert (set(tokenizer.eos_ids) <= set(allowed(matcher.mask()).tolist())) == ends
        assert matcher.ended == (length == len(ids))


def test_stop_ids_of_the_asker_replace_those_of_the_tokenizer():
    tokenizer = TOKENIZERS["ours"]
    matcher = COMPILERS["ours"].choice(["a", "ab"]).matcher(stop_ids=[tokenizer.im_end, tokenizer.pad])
    matcher.accept(inside("ours", "a")[0])
    assert not matcher.ended
    assert {tokenizer.im_end, tokenizer.pad} < set(allowed(matcher.mask()).tolist())
    assert tokenizer.end_of_text not in allowed(matcher.mask())
    matcher.accept(tokenizer.pad)
    assert matcher.ended and matcher.can_end
    with pytest.raises(UserError, match="cannot come here"):
        matcher.accept(tokenizer.pad)


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoding_of_a_text_that_fits_is_accepted(kind):
    compiler = COMPILERS[kind]
    person = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "place": {"enum": ["Orly", "été"]}, "age": {"type": "integer"}},
        "required": ["name", "place"],
    }
    value = {"name": 'Zoé "l\'avion" 😀\n\t\\', "place": "été", "age": 42}
    for text in (
        json.dumps(value, ensure_ascii=False),
        json.dumps(value, ensure_ascii=False, separators=(",", ":")),
        json.dumps(value, ensure_ascii=False, indent=0),
    ):
        assert fits(kind, compiler.json_schema(person), text, masked=False)
        assert fits(kind, compiler.json_object(), text)
    single = {TOKENIZERS[kind].token_bytes(id): id for id in range(size(kind))}
    matcher = compiler.json_schema(person).matcher()
    for byte in json.dumps(value, ensure_ascii=False).encode():
        matcher.accept(single[bytes([byte])])
    assert matcher.can_end


def test_white_space_is_bounded():
    grammar = COMPILERS["ours"].json_schema({"type": "array", "items": {"type": "integer"}})
    assert all(fits("ours", grammar, text, masked=False) for text in ["[1,2]", "[1, 2]", "[\n1,\n2\n]", "[ 1 , 2 ]"])
    assert not any(fits("ours", grammar, text, masked=False) for text in ["[  1]", "[\n\n1]", "[\t1]", " [1]", "[1] "])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["nested", "const", "recursive", "oneOf of kinds"])
def test_forced_tokens_change_nothing(kind, name):
    grammar = COMPILERS[kind].json_schema(SCHEMAS[name])
    for seed in range(3):
        assert walk(kind, grammar, seed, use_forced=True) == walk(kind, grammar, seed)


def test_what_must_come_is_forced():
    forced = COMPILERS["ours"].choice(["the plane landed at Orly"]).matcher().forced()
    assert len(forced) > 5 and "the plane landed at Orly".startswith(text_of(TOKENIZERS["ours"], forced))


def test_nothing_is_forced_where_the_answer_may_end():
    matcher = COMPILERS["ours"].regex("(abcdef)?").matcher()
    assert matcher.can_end and matcher.forced() == []


@settings(max_examples=25)
@given(
    kind=st.sampled_from(KINDS),
    name=st.sampled_from(["nested", "tree", "enum"]),
    steps=st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 4)), max_size=25),
)
def test_going_back_and_copies_are_as_if_nothing_had_been_tried(kind, name, steps):
    grammar = COMPILERS[kind].json_schema(SCHEMAS[name])
    matcher, ids, stops = grammar.matcher(), [], set(TOKENIZERS[kind].eos_ids)
    for draw, back in steps:
        if not stops & set(ids):
            tokens = allowed(matcher.mask())
            token = int(tokens[draw % len(tokens)])
            twin = matcher.copy()
            for one in (twin, matcher):
                one.accept(token)
            ids.append(token)
            assert twin.forced() == matcher.forced() and (twin.mask() == matcher.mask()).all()
        if back <= len(ids):
            matcher.rollback(back)
            del ids[len(ids) - back :]
        fresh = grammar.matcher()
        for id in ids:
            fresh.mask()
            fresh.accept(id)
        assert (fresh.ended, fresh.can_end, fresh.forced()) == (matcher.ended, matcher.can_end, matcher.forced())
        assert (fresh.mask() == matcher.mask()).all()


def test_more_tokens_than_came_are_not_taken_back():
    with pytest.raises(UserError, match="take back fewer"):
        COMPILERS["ours"].regex("a+").matcher().rollback(1)


def test_a_refused_token_leaves_the_matcher_as_it_was():
    matcher = COMPILERS["ours"].regex("a[bc]").matcher()
    before = matcher.mask()
    for token in (*inside("ours", "b"), -1, size("ours"), 10**9, TOKENIZERS["ours"].im_end):
        with pytest.raises(UserError, match="cannot come here"):
            matcher.accept(token)
    assert (matcher.mask() == before).all() and fits("ours", COMPILERS["ours"].regex("a[bc]"), "ab")


@pytest.mark.parametrize("kind", KINDS)
def test_grammars_in_gbnf_and_lark(kind):
    text = walk(kind, COMPILERS[kind].ebnf(GBNF), 1, closing="é")[1]
    assert re.fullmatch("(- [^\né]+é\n)+", text), text
    lark = 'start: sum\nsum: sum "+" product | product\nproduct: /[0-9]+/ | "(" sum ")"\n'
    assert fits(kind, COMPILERS[kind].ebnf(lark), "(1+22)+3")
    assert not fits(kind, COMPILERS[kind].ebnf(lark), "(1+22+3")


def test_a_special_token_matches_no_text_that_spells_its_name():
    tokenizer = TOKENIZERS["ours"]
    matcher = COMPILERS["ours"].regex(".*").matcher()
    assert tokenizer.im_end not in allowed(matcher.mask())
    assert fits("ours", COMPILERS["ours"].choice(["<|im_end|>"]), "<|im_end|>")


def test_equal_grammars_are_compiled_once_and_the_order_of_properties_matters():
    compiler = COMPILERS["ours"]
    one, two = {"properties": {"a": {}, "b": {}}}, {"properties": {"b": {}, "a": {}}}
    assert compiler.json_schema(one) is compiler.json_schema(json.dumps(one, indent=3))
    assert compiler.json_schema(one) != compiler.json_schema(two)
    other = GrammarCompiler(TOKENIZERS["llama"]).json_schema(one)
    assert len({compiler.json_schema(one).key, compiler.json_schema(two).key, other.key}) == 3
    assert compiler.regex("a") != compiler.choice(["a"])


def test_a_schema_cannot_change_the_settings():
    schema = {"x-guidance": {"lenient": True, "whitespace_pattern": " *"}, "type": "array", "maxItems": 0}
    assert not fits("ours", COMPILERS["ours"].json_schema(schema), "[  ]", masked=False)


def test_a_grammar_can_be_named_without_loading_the_library_or_torch():
    code = "import sys, cadran.engine.grammar, cadran.engine.text; print({'llguidance', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
