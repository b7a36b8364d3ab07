"""What a recipe says reaches what is trained: a key that is read and forgotten would be believed in silence."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from tiny_assistants import chat_rows, preference_rows, refused, tiny_assistant, write_rows
from torch import nn

from cadran.align.branches import Prompted, pack_for
from cadran.align.logprobs import model_logprobs
from cadran.align.losses.preference import REFERENCE_FREE, PreferenceLoss
from cadran.align.prompt_loader import RolloutPrompt
from cadran.align.rewards.reward import Grades
from cadran.align.rollout import RolloutParams
from cadran.engine.loading import open_tokenizer
from cadran.engine.native.library import why_not
from cadran.errors import UserError
from cadran.model.checkpoint import load_model
from cadran.model.lora import merge
from cadran.model.lora_files import save_adapter
from cadran.recipe.budget import training_plan
from cadran.recipe.schema import parse_recipe
from cadran.recipe.sections import AdapterSection
from cadran.recipe.stages.parent import ADAPTER, Parent, put_adapter
from cadran.recipe.stages.rollouts import examine_greedily
from cadran.train.frozen import FrozenLinear4, FrozenLinear8

Given = SimpleNamespace
Reached = Callable[..., Given]
QUICK = {"prompts": 2, "answers": 2, "max_tokens": 4, "held_out_rows": 4}
SUMS: dict[str, Any] = {"count": 60, "operands": 2, "largest": 2, "operations": "+"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assistant(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def reached(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reached:
    """Runs a recipe up to where a stage makes its objective, and gives what that was made of."""

    def run(stage: str, objective: str, section: dict[str, Any], **others: Any) -> Given:
        given = Given()

        def made(*arguments: Any, **named: Any) -> None:
            given.arguments, given.named = arguments, named
            raise UserError("enough")

        monkeypatch.setattr(f"cadran.recipe.stages.{stage}.{objective}", made)
        content = {"name": "reach", "start": str(model), "threads": 1, stage: {"precision": "fp32"} | section} | others
        (tmp_path / "recipe.yaml").write_text(json.dumps(content), encoding="utf-8")
        assert "enough" in refused(tmp_path, "run", tmp_path / "recipe.yaml")
        return given

    return run


@pytest.mark.parametrize("loss", get_args(PreferenceLoss))
def test_every_preference_loss_and_its_settings(reached: Reached, tmp_path: Path, loss: str) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", preference_rows(20))
    own = {"cdpo": {"smoothing": 0.2}, "robust": {"smoothing": 0.2}, "simpo": {"gamma": 0.3}}.get(loss, {})
    section = {"data": str(data), "loss": loss, "beta": 0.7, "sft_weight": 0.4, "pairs": 3, "micro": 2}
    found = reached("dpo", "PreferenceObjective", section | own)
    _, items, loader, kind, beta, reference, micro, _ = found.arguments
    assert (kind, beta, micro, loader.rows) == (loss, 0.7, 2, 3)
    wanted = {"smoothing": 0.0, "gamma": 0.0, "sft_weight": 0.4} | own
    assert {name: found.named[name] for name in wanted} == wanted
    assert (reference is None) == (loss in REFERENCE_FREE)
    assert reference is None or reference.shape == (2 * len(items),)


def test_the_reference_is_the_adapter_switched_off_where_the_base_is_in_integers(
    reached: Reached, tmp_path: Path
) -> None:
    """Kept log-probabilities would be those of another model: the floats on the disk."""
    data = write_rows(tmp_path / "pairs.jsonl", preference_rows(20))
    section = {"data": str(data), "adapter": {"rank": 2, "base": "int8"}}
    found = reached("dpo", "PreferenceObjective", section)
    policy, reference = found.arguments[0], found.arguments[5]
    assert callable(reference) and any(isinstance(module, FrozenLinear8) for module in policy.modules())


def test_every_setting_of_kto(reached: Reached, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} ?", "completion": str(n), "label": bool(n % 2)} for n in range(20)]
    section = {
        "data": str(write_rows(tmp_path / "thumbs.jsonl", rows)), "rows": 4, "micro": 3, "beta": 0.7,
        "desirable_weight": 1.5, "undesirable_weight": 0.5,
    }  # fmt: skip
    found = reached("kto", "KtoObjective", section)
    _, items, labels, loader, beta, _, micro, _ = found.arguments
    assert (beta, micro, loader.rows) == (0.7, 3, 4) and len(items) == len(labels)
    assert (found.named["desirable_weight"], found.named["undesirable_weight"]) == (1.5, 0.5)


def test_every_setting_of_the_reward_model(reached: Reached, tmp_path: Path) -> None:
    rows = [row | {"margin": number / 8} for number, row in enumerate(preference_rows(20))]
    section = {"data": str(write_rows(tmp_path / "pairs.jsonl", rows)), "pairs": 5, "micro": 2, "centring": 0.03}
    found = reached("reward", "RewardObjective", section)
    _, items, margins, loader, micro, _ = found.arguments
    assert (micro, loader.rows, found.named["centring"]) == (2, 5, 0.03)
    assert margins == [(int(name.split()[1]) - 1) / 8 for name in found.named["sources"]] and len(margins) == len(items)


@pytest.mark.parametrize("on_policy", [0.0, 0.5])
def test_every_setting_of_distillation(
    reached: Reached, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_policy: float
) -> None:
    made: list[dict[str, Any]] = []

    def objective(*arguments: Any, **named: Any) -> str:
        made.append(named)
        return f"objective {len(made)}"

    monkeypatch.setattr("cadran.recipe.stages.distil.DistillationObjective", objective)
    section = {
        "teacher": str(model), "data": str(write_rows(tmp_path / "rows.jsonl", chat_rows(20))), "temperature": 3.0,
        "mix": 0.3, "divergence": "jsd", "beta": 0.2, "micro": 2, "on_policy": on_policy, "prompts": 5, "max_tokens": 9,
    }  # fmt: skip
    # Where nothing is the student's own there is one objective, which is then handed to the training.
    found = reached("distil", "PartlyOwn" if on_policy else "minimise", section)
    wanted = {"micro": 2, "temperature": 3.0, "kind": "jsd", "beta": 0.2}
    for each, mix in zip(made, (0.3, 1.0), strict=False):
        assert {name: each[name] for name in wanted} == wanted and each["mix"] == mix
    assert len(made) == (2 if on_policy else 1)
    if on_policy:
        given, own, rows, share = found.arguments
        assert (given, own, share) == ("objective 1", "objective 2", 0.5)
        assert (rows.loader.count, rows.params.max_tokens) == (5, 9)


COMMON: dict[str, Any] = {
    "answers": 5, "epochs": 2, "minibatches": 3, "micro": 2, "clip_low": 0.15, "clip_high": 0.35,
}  # fmt: skip
ROLLOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": (
        {"advantages": "rloo", "aggregation": "dr-grpo", "mask_truncated": True, "drop_zero_variance": True}, {}
    ),
    "ppo": (
        {"gamma": 0.9, "value_clip": 0.3, "value_weight": 0.7, "unended_penalty": 0.2},
        {"gae_lambda": 0.8, "kl_target": 3.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("stage", ROLLOUTS)
def test_every_setting_of_learning_from_rewards(reached: Reached, stage: str) -> None:
    own, renamed = ROLLOUTS[stage]
    section = COMMON | own | renamed | {"prompts": 3, "temperature": 0.7, "max_tokens": 4, "kl": 0.02}
    found = reached(stage, f"{stage.capitalize()}Objective", section | {"held_out_rows": 4}, arithmetic=SUMS)
    _, _, prompts, _, _, config = found.arguments
    assert {name: getattr(config, name) for name in COMMON | own} == COMMON | own
    assert (prompts.count, config.rollout.temperature, config.rollout.max_tokens) == (3, 0.7, 4)
    assert found.named["reference"] is not None
    if stage == "ppo":
        control = found.named["control"]
        assert (config.lam, control.coefficient, control.target) == (0.8, 0.02, 3.0)
    else:
        assert config.kl == 0.02


@pytest.mark.parametrize("stage", ROLLOUTS)
def test_the_reference_of_an_adapter_is_the_very_base_it_lies_on(reached: Reached, stage: str) -> None:
    """Beside floats, a policy on integers that has learnt nothing would seem to have moved already."""
    section = QUICK | {"kl": 0.02, "adapter": {"rank": 2, "base": "int8"}}
    found = reached(stage, f"{stage.capitalize()}Objective", section, arithmetic=SUMS)
    policy = found.arguments[0] if stage == "grpo" else found.arguments[0].policy
    batch = pack_for(policy, [Prompted((5, 6, 7), ((8, 9), (10,)))])
    with torch.no_grad():
        own = model_logprobs(policy, batch)[0]
    assert torch.equal(found.named["reference"](batch, 1.0), own)


@pytest.mark.parametrize(("choice", "name"), [("torch", "torch"), ("int8", "native int8"), ("f32", "native f32")])
def test_the_answers_are_drawn_by_who_was_asked_to(reached: Reached, choice: str, name: str) -> None:
    if choice != "torch" and (reason := why_not()) is not None:
        pytest.skip(f"no native core: {reason}")
    found = reached("grpo", "GrpoObjective", QUICK | {"rollouts": choice}, arithmetic=SUMS)
    assert found.arguments[1].name == name


def test_an_examination_is_greedy_and_one_reward_decides_what_is_right(model: Path) -> None:
    tokenizer, renderer = open_tokenizer(model)
    assert renderer is not None
    parent, policy = Parent("tiny", model, tokenizer, renderer), load_model(model, torch.float32)
    prompts = [RolloutPrompt((5, 6, 7 + number), [], {}, f"row {number}") for number in range(4)]
    params = RolloutParams(6, tuple(renderer.stop_ids), 1.0)

    def grader(graded: Any, items: Any) -> Grades:
        right = torch.tensor([1.0, 0.0, 1.0, 1.0])
        return Grades(0.25 * right - 3, {"right": right, "brief": torch.full((4,), -3.0)})

    found = examine_greedily(policy, prompts, params, parent, grader, ("right", 1.0))
    assert found.success == 0.75 and found.reward == pytest.approx(0.1875 - 3)
    for prompt, answer in zip(prompts, found.answers, strict=True):
        ids = list(prompt.ids)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(policy(torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] in renderer.stop_ids:
                break
        written = ids[3:-1] if ids[-1] in renderer.stop_ids else ids[3:]
        assert answer == tokenizer.decode(written)


def test_every_setting_of_an_adapter_stands_in_its_file(model: Path, tmp_path: Path) -> None:
    whole = load_model(model, torch.float32)
    settings = AdapterSection(rank=3, alpha=5.0, dropout=0.2, targets=["q_proj", "up_proj"], rslora=True, dora=True)
    put_adapter(whole, settings, 7, "its base")
    save_adapter(whole, tmp_path, ADAPTER)
    written = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    wanted = {"r": 3, "lora_alpha": 5.0, "lora_dropout": 0.2, "use_rslora": True, "use_dora": True}
    assert {name: written[name] for name in wanted} == wanted
    assert {name.rpartition(".")[2] for name in written["target_modules"]} == {"q_proj", "up_proj"}
    assert written["base_model_name_or_path"] == "its base"


@pytest.mark.parametrize(("base", "kind"), [("float", nn.Linear), ("int8", FrozenLinear8), ("int4", FrozenLinear4)])
def test_the_base_of_an_adapter_is_kept_as_the_recipe_says(model: Path, base: Any, kind: type) -> None:
    whole = load_model(model, torch.float32)
    put_adapter(whole, AdapterSection(rank=2, base=base), 0, "its base")
    kinds = {type(module.base) for module in whole.model.layers.modules() if hasattr(module, "adapters")}
    assert kinds == {kind}
    trained = {name.rpartition(".")[2] for name, p in whole.named_parameters() if p.requires_grad}
    assert trained == {"lora_A", "lora_B"}
    if base != "float":
        with pytest.raises(UserError):
            merge(whole, ADAPTER)


def test_every_rate_and_the_schedule_reach_the_plan() -> None:
    given = {
        "optimizer": "adamw", "matrix_rate": 0.1, "embedding_rate": 0.2, "adapter_rate": 0.3, "scalar_rate": 0.4,
        "weight_decay": 0.5, "clip": 0.6, "checkpoint_seconds": 7.0, "precision": "bf16",
    }  # fmt: skip
    shape = {"schedule": "cosine", "warmup": 0.2, "decay": 0.3, "final": 0.1}
    section = parse_recipe({"name": "plan", "start": "smollm2", "dpo": given | shape}).dpo
    assert section is not None
    plan = training_plan(section, 40, 10)
    rates = plan.optimizer
    assert [rates.name, rates.matrix_rate, rates.embedding_rate, rates.norm_rate] == ["adamw", 0.1, 0.2, 0.2]
    assert [rates.adapter_rate, rates.scalar_rate, rates.weight_decay] == [0.3, 0.4, 0.5]
    assert [plan.clip, plan.checkpoint_seconds, plan.precision, plan.steps] == [0.6, 7.0, "bf16", 40]
    about = plan.schedule
    assert [about.steps, about.warmup, about.decay, about.final, about.shape] == [40, 0.2, 0.3, 0.1, "cosine"]
