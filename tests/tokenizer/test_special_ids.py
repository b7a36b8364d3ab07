"""What frames a text, from the up to four files that say it."""

import json

import pytest
import tokenizers
from small_tokenizers import BOS, EOS, small_tokenizer

from cadran.errors import UserError
from cadran.tokenizer.tokenizer import Tokenizer

EOT = "<|eot|>"
PLAIN = small_tokenizer("bytes", (EOT,))
TEMPLATED = small_tokenizer("llama", (EOT,))


def ids_of(serialised):
    core = tokenizers.Tokenizer.from_str(serialised)
    return core.token_to_id(BOS), core.token_to_id(EOS), core.token_to_id(EOT)


def facts(serialised, **said):
    tokenizer = Tokenizer(serialised, **said)
    return tokenizer.bos, tokenizer.adds_bos, tokenizer.eos_ids, tokenizer.adds_eos


def test_a_tokenizer_that_says_nothing_adds_nothing():
    assert facts(PLAIN) == (None, False, (), False)


def test_the_configuration_names_them_as_text_or_as_an_object():
    bos, eos, _ = ids_of(PLAIN)
    config = {"bos_token": {"content": BOS, "lstrip": False}, "eos_token": EOS, "add_bos_token": True}
    assert facts(PLAIN, config=config) == (bos, True, (eos,), False)


def test_the_post_processor_speaks_when_the_configuration_is_silent():
    bos, eos, _ = ids_of(TEMPLATED)
    assert facts(TEMPLATED) == (bos, True, (), False)
    assert facts(TEMPLATED, config={"eos_token": EOS, "add_bos_token": False, "add_eos_token": True}) == (
        bos,
        False,
        (eos,),
        True,
    )


@pytest.mark.parametrize("kind", ["RobertaProcessing", "BertProcessing"])
def test_older_post_processors_are_understood(kind):
    bos, eos, _ = ids_of(PLAIN)
    processor = {"type": kind, "sep": [EOS, eos], "cls": [BOS, bos]}
    if kind == "RobertaProcessing":
        processor |= {"trim_offsets": True, "add_prefix_space": False}
    wrapped = {"type": "Sequence", "processors": [processor]}
    serialised = json.dumps(json.loads(PLAIN) | {"post_processor": wrapped})
    assert facts(serialised) == (bos, True, (eos,), True)


def test_every_end_counts_and_the_tokenizers_own_comes_first():
    _, eos, eot = ids_of(PLAIN)
    assert facts(PLAIN, config={"eos_token": EOT}, generation={"eos_token_id": [eos, eot]})[2] == (eot, eos)
    assert facts(PLAIN, config={"eos_token": EOS, "eot_token": EOT})[2] == (eos, eot)


def test_the_models_configuration_is_asked_last():
    bos, eos, eot = ids_of(PLAIN)
    model = {"eos_token_id": eos, "bos_token_id": bos, "pad_token_id": eos}
    assert facts(PLAIN, model=model) == (bos, False, (eos,), False)
    assert facts(PLAIN, config={"eos_token": EOT}, model=model)[2] == (eot,)
    assert Tokenizer(PLAIN, model=model).pad == eos
    assert Tokenizer(PLAIN, model=model, config={"pad_token": EOT}).pad == eot


@pytest.mark.parametrize("malformed", [{"eos_token": 5}, {"eos_token": {"content": []}}, {"eos_token": "absent"}])
def test_what_is_malformed_counts_as_not_said(malformed):
    assert facts(PLAIN, config=malformed, generation={"eos_token_id": [True, -1, "2", None]}) == (
        None,
        False,
        (),
        False,
    )


def test_adding_a_token_that_there_is_not_is_not_promised():
    assert facts(PLAIN, config={"add_bos_token": True, "add_eos_token": True}) == (None, False, (), False)


def test_a_tokenizer_without_a_filler_says_so():
    with pytest.raises(UserError, match=r"no <\|pad\|>"):
        _ = Tokenizer(PLAIN).pad


def test_ours_end_with_what_their_configuration_says(tokenizer, tmp_path):
    assert tokenizer.eos_ids == (tokenizer.end_of_text,)
    for chat, end in ((False, tokenizer.end_of_text), (True, tokenizer.im_end)):
        tokenizer.save(tmp_path, chat=chat)
        loaded = Tokenizer.load(tmp_path)
        assert (loaded.eos_ids, loaded.bos, loaded.adds_bos, loaded.pad) == ((end,), None, False, tokenizer.pad)


def test_a_folder_is_read_whole_and_a_foreign_configuration_is_kept(tmp_path):
    bos, eos, eot = ids_of(PLAIN)
    config = {"bos_token": BOS, "eos_token": EOT, "add_bos_token": True, "chat_template": "{{ messages }}"}
    (tmp_path / "tokenizer.json").write_text(PLAIN, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": bos}))
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.bos, loaded.adds_bos, loaded.eos_ids, loaded.pad) == (bos, True, (eot, eos), bos)
    loaded.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text()) == config
    assert (tmp_path / "again" / "tokenizer.json").read_text(encoding="utf-8") == PLAIN


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, "\ud83d".encode("utf-8", "surrogatepass")])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "config.json"])
def test_a_damaged_configuration_is_named(tmp_path, name, content):
    (tmp_path / "tokenizer.json").write_text(PLAIN, encoding="utf-8")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=name):
        Tokenizer.load(tmp_path)
