"""Quantising a model in memory."""

import copy
import dataclasses

import pytest
import torch
from inputs import make_folder
from torch import nn

from cadran.compress.activations import Prefix, watching
from cadran.compress.layers import quantise_layers
from cadran.model.attention import causal_bias
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=61, layers=2, width=64, heads=4, kv_heads=2, head_width=16, hidden=96, context=64)
METHODS = ("round", "awq", "gptq", "awq+gptq")

assert make_folder  # the path to other tests' models is set by this import


@pytest.fixture
def model():
    made = Transformer(CONFIG, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2, generator=draw)
    return made.eval()


@pytest.fixture
def windows():
    return torch.randint(0, 61, (12, 48), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_the_inputs_of_a_map_are_those_of_a_forward_pass(model, windows):
    prefix = Prefix.of(model, windows)
    assert torch.equal(prefix.states, model.model.embed_tokens(windows))
    block = model.model.layers[0]
    seen = prefix.observe(block, 0, ["self_attn.q_proj"])["self_attn.q_proj"]
    x = block.input_layernorm(model.model.embed_tokens(windows)).flatten(0, 1)
    assert seen.count == len(x) == 12 * 48
    assert torch.allclose(seen.hessian, (x.T @ x / len(x)).double(), atol=1e-5)
    assert torch.allclose(seen.magnitude, x.abs().mean(0).double(), atol=1e-6)


@torch.no_grad()
def test_passing_all_layers_gives_the_models_own_states(model, windows):
    prefix = Prefix.of(model, windows)
    for number, block in enumerate(model.model.layers):
        prefix.advance(block, number)
    bias = causal_bias(48, 0, torch.float32, windows.device)
    assert torch.allclose(model.model.norm(prefix.states), model.hidden_states(windows, bias), atol=1e-5)


def test_the_maps_are_their_own_again_even_after_an_error(model):
    block = model.model.layers[0]
    with pytest.raises(RuntimeError, match="stopped"), watching(block, ["mlp.gate_proj", "mlp.down_proj"]):
        assert type(block.mlp.gate_proj) is not nn.Linear
        raise RuntimeError("stopped")
    assert type(block.mlp.gate_proj) is nn.Linear and type(block.mlp.down_proj) is nn.Linear


@pytest.mark.parametrize("method", METHODS)
def test_the_model_holds_what_was_found(model, windows, method):
    found = quantise_layers(model, lambda name: "Q4_0", windows, method)
    assert len(found) == 2 * 7
    parameters = dict(model.named_parameters())
    for name, quantised in found.items():
        assert torch.equal(parameters[name], quantised.values()), name


@torch.no_grad()
def test_learning_from_text_brings_the_outputs_nearer(model, windows):
    unseen = torch.randint(0, 61, (8, 48), generator=torch.Generator().manual_seed(9))
    exact = model(unseen)
    errors = {}
    for method in (None, *METHODS):
        copied = copy.deepcopy(model)
        quantise_layers(copied, lambda name: "Q4_0", None if method is None else windows, method or "round")
        errors[method] = float((copied(unseen) - exact).square().mean())
    assert errors["gptq"] < 0.9 * errors[None]
    assert errors["awq+gptq"] < 0.9 * errors[None]


def test_kinds_are_chosen_by_name_and_the_same_call_gives_the_same_levels(model, windows):
    def kinds(name):
        return "Q8_0" if name.endswith(("v_proj", "o_proj")) else "Q4_1"

    one, two = (quantise_layers(copy.deepcopy(model), kinds, windows, "awq+gptq") for _ in range(2))
    assert {name.split(".")[-2] for name, blocks in one.items() if blocks.kind == "Q8_0"} == {"v_proj", "o_proj"}
    assert all(torch.equal(one[name].levels, two[name].levels) for name in one)


def test_rows_that_do_not_divide_into_groups_are_left_alone(windows):
    odd = Transformer(dataclasses.replace(CONFIG, hidden=80), seed=0)
    before = odd.model.layers[0].mlp.down_proj.weight.clone()
    found = quantise_layers(odd, lambda name: "Q4_0", windows, "awq+gptq")
    assert not any("down_proj" in name for name in found) and len(found) == 2 * 6
    assert torch.equal(odd.model.layers[0].mlp.down_proj.weight, before)


def test_progress_ends_at_the_last_layer(model):
    told = []
    quantise_layers(model, lambda name: "Q8_0", progress=lambda *what: told.append(what))
    assert told == [("layers", 0, 2), ("layers", 1, 2), ("layers", 2, 2)]
