"""What ``cadran finetune`` leaves opens in ``transformers`` and ``peft``, and both say what our merged model says."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipe"))
from tiny_assistants import (
    CONFIG,
    chat_rows,
    done,
    preference_rows,
    results,
    tiny_assistant,
    write_rows,
)

from cadran.model.checkpoint import load_model

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
transformers.utils.logging.disable_progress_bar()
pytestmark = pytest.mark.filterwarnings("ignore")

IDS = torch.arange(3, 51).reshape(2, 24) * 7 % int(CONFIG["vocab_size"])
CHAT = [{"role": "user", "content": "De quelle couleur est l'été n° 7 ?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that ``transformers`` made, with a tokenizer and a ChatML template that it wrote."""
    folder = tiny_assistant(tmp_path_factory.mktemp("theirs") / "llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    settings = {key: value for key, value in CONFIG.items() if key not in ("architectures", "torch_dtype")}
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings, initializer_range=0.1))
    written = folder.parent / "written by transformers"
    theirs.save_pretrained(written)
    tokenizer.save_pretrained(written)
    return written


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found = model(IDS)
    return found if isinstance(found, torch.Tensor) else found.logits


def opened(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("sft", []),
        ("sft", ["--dora", "sft.adapter.rslora=true", "sft.adapter.dropout=0.1"]),
        ("sft", ["--base", "int8", "sft.adapter.targets=[q_proj,down_proj]"]),
        ("sft", ["--base", "int4"]),
        ("dpo", []),
    ],
    ids=["lora", "dora", "int8", "int4", "dpo"],
)
def test_peft_opens_the_adapter_and_transformers_the_merged_model(
    model: Path, tmp_path: Path, stage: str, options: list[str]
) -> None:
    rows = chat_rows(30) if stage == "sft" else preference_rows(30)
    data = write_rows(tmp_path / "rows.jsonl", rows)
    rate = ["--rate", "0.02", f"{stage}.precision=fp32", "--epochs", "3", "--rank", "4", "--threads", "1"]
    done(tmp_path, "finetune", model, data, *rate, *options, "--name", "taught")
    folder = tmp_path / "taught" / stage
    merged = opened(folder)
    adapted = peft.PeftModel.from_pretrained(opened(model), folder / "adapter").eval()
    plain = logits(opened(model))
    assert (logits(adapted) - plain).abs().max() > 0.1  # it learnt something, so that equality means something
    assert (logits(adapted) - logits(merged)).abs().max() < 1e-4
    assert (logits(load_model(folder, torch.float32)) - logits(merged)).abs().max() < 1e-4
    figures = results(tmp_path / "taught", stage)
    if stage == "sft":
        assert figures["held_out_loss"]["after"] < figures["held_out_loss"]["before"] - 0.5
    else:
        assert figures["accuracy"]["after"] >= figures["accuracy"]["before"]


def test_transformers_writes_conversations_as_the_model_learnt_them(model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", chat_rows(20))
    done(tmp_path, "finetune", model, data, "sft.precision=fp32", "--epochs", "1", "--threads", "1", "--name", "taught")
    folder = tmp_path / "taught" / "sft"
    before, after = (transformers.AutoTokenizer.from_pretrained(path) for path in (model, folder))
    for opens in (True, False):
        texts = [
            each.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=opens) for each in (before, after)
        ]
        assert texts[0] == texts[1] and "<|im_start|>user\nDe quelle couleur" in texts[1]
    assert after.eos_token == before.eos_token == "<|im_end|>"
    generation = [transformers.GenerationConfig.from_pretrained(path).to_dict() for path in (model, folder)]
    assert generation[0] == generation[1]
    asked = after.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = opened(folder).generate(**asked, max_new_tokens=3, do_sample=False)
    assert answer.shape[1] > asked["input_ids"].shape[1]
