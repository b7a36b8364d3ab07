"""Settings that both of TRL's trainers share with the other side, and the adapter that all sides begin with."""

from typing import Any

import torch
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from align_peers.bench_files import ALPHA, BETAS, CLIP, EPSILON, RANK, RATE, BenchFiles


def shared_settings(files: BenchFiles) -> dict[str, Any]:
    """Arguments of any trainer: float32, AdamW at a constant rate, nothing written and nothing logged."""
    return {
        "output_dir": str(files.scratch),
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "learning_rate": RATE,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON,
        "weight_decay": 0.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": CLIP,
        "max_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }


def shared_parts(files: BenchFiles) -> dict[str, Any]:
    """Model, tokenizer and kind of adapter for a trainer."""
    return {
        "model": AutoModelForCausalLM.from_pretrained(
            files.model, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        ),
        "processing_class": AutoTokenizer.from_pretrained(files.model, local_files_only=True),
        "peft_config": LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    }


def begin_alike(model: torch.nn.Module, files: BenchFiles) -> None:
    """Put the shared adapter's tensors in the place of those that were just drawn.

    Raises:
        ValueError: some of them are missing.
    """
    tensors = load_file(files.adapter / "adapter_model.safetensors")
    done = set_peft_model_state_dict(model, tensors)
    if done.unexpected_keys or len(tensors) != sum(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"{len(tensors)} tensors of an adapter do not fit: {done.unexpected_keys[:3]}")
