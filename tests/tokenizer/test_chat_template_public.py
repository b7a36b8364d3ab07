"""Real checkpoints: their templates and vocabularies, in our hands and in those of ``transformers``."""

import json

import pytest
from conversations import CONVERSATIONS, TOOLS, assistant, user
from public_checkpoints import checkpoint, smollm2_template

from cadran.errors import UserError
from cadran.tokenizer.chat_template import ChatTemplate
from cadran.tokenizer.renderer import renderer_for
from cadran.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.network

STOPS = {
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "qwen3": "<|im_end|>",
    "gemma3": "<end_of_turn>",
    "deepseek_v3": "<｜end▁of▁sentence｜>",
    "llama2": "</s>",
}


@pytest.fixture(scope="module", params=STOPS)
def opened(request):
    """Name, our renderer, and the tokenizer of ``transformers`` for one checkpoint."""
    transformers = pytest.importorskip("transformers")
    folder = checkpoint(request.param)
    tokenizer = Tokenizer.load(folder)
    renderer = renderer_for(folder, tokenizer, "llama2" if request.param == "llama2" else None)
    oracle = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        **{
            key: token["content"] if isinstance(token, dict) else token
            for key, token in json.loads((folder / "tokenizer_config.json").read_text()).items()
            if key in ("bos_token", "eos_token", "unk_token", "pad_token") and token is not None
        },
    )
    return request.param, renderer, oracle


def theirs(oracle, source, messages, tools, prompt, **how):
    try:
        return oracle.apply_chat_template(
            messages, tools=tools, chat_template=source, add_generation_prompt=prompt, return_dict=False, **how
        )
    except Exception:
        return None


def test_texts_and_ids_are_those_of_transformers(opened):
    _, renderer, oracle = opened
    rendered = 0
    for messages, tools in CONVERSATIONS.values():
        for prompt in (False, True):
            source = renderer.template.source(tools)
            text = theirs(oracle, source, messages, tools, prompt, tokenize=False)
            ids = theirs(oracle, source, messages, tools, prompt, tokenize=True)
            try:
                assert renderer.text(messages, prompt, tools) == text
                assert renderer.render(messages, prompt, tools).ids == ids
                rendered += 1
            except UserError:
                assert text is None
    assert rendered >= 12


def test_special_tokens_typed_by_a_user_are_text(opened):
    name, renderer, _ = opened
    tokenizer = renderer.tokenizer
    quiet = renderer.render([user("Hello"), assistant("Hi"), user("x y")]).ids
    loud = renderer.render([user(f"Hello {STOPS[name]} <s>"), assistant("Hi"), user(f"x{STOPS[name]}y")])
    assert not loud.injectable
    assert [id for id in loud.ids if tokenizer.is_special(id)] == [id for id in quiet if tokenizer.is_special(id)]
    assert f"x{STOPS[name]}y" in tokenizer.decode(loud.ids).replace(f" {STOPS[name]}y", f"{STOPS[name]}y")


def test_an_answer_ends_with_the_stop_token_and_is_supervised_with_it(opened):
    name, renderer, _ = opened
    tokenizer = renderer.tokenizer
    (stop,) = tokenizer.encode(STOPS[name], special=True)
    assert renderer.stop_ids[0] == stop
    assert set(tokenizer.eos_ids) <= set(renderer.stop_ids)
    rendered = renderer.render([user("One"), assistant("Two"), user("Three"), assistant("Four")])
    texts = [tokenizer.decode(rendered.ids[start:end]) for start, end in rendered.spans]
    assert [text.replace("<think>\n\n</think>\n\n", "").strip() for text in texts[-1:]] == [f"Four{STOPS[name]}"] or (
        name == "llama2" and texts[-1].split() == ["Four", STOPS[name]]
    )
    # Qwen3 writes an empty thought before the last answer only, and Llama 3 opens an answer in any case.
    assert len(texts) == (1 if name == "qwen3" else 2)


def test_bos_stands_as_often_as_the_template_writes_it(opened):
    name, renderer, _ = opened
    ids = renderer.render([user("One"), assistant("Two"), user("Three")], add_generation_prompt=True).ids
    assert ids.count(renderer.tokenizer.bos) == {"qwen3": 0, "llama2": 2}.get(name, 1)


def test_a_checkpoint_without_a_template_is_refused():
    folder = checkpoint("llama2")
    with pytest.raises(UserError, match=r"--template NAME .*--raw"):
        renderer_for(folder, Tokenizer.load(folder))


def test_the_template_of_smollm2_writes_what_transformers_writes():
    transformers = pytest.importorskip("transformers")
    from small_tokenizers import small_tokenizer
    from tokenizers import Tokenizer as Core

    source = smollm2_template()
    oracle = transformers.PreTrainedTokenizerFast(tokenizer_object=Core.from_str(small_tokenizer("bytes")))
    rendered = 0
    for messages, tools in [*CONVERSATIONS.values(), ([user("x")], TOOLS)]:
        expected = theirs(oracle, source, messages, tools, True, tokenize=False)
        try:
            assert ChatTemplate(source).render(messages, tools, True) == expected
            rendered += 1
        except UserError:
            assert expected is None
    assert rendered >= 12
