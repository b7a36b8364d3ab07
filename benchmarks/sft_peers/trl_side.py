"""One side of ``sft.py``: TRL's ``SFTTrainer`` with a PEFT adapter on the same rows, padded or packed.

Steps are timed by the trainer itself (from the beginning of a step to its end), and the tokens of a step are those
that its batch holds, padding apart. Attention masks are as TRL makes them: ``bfd`` packing keeps rows apart by their
positions.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch

from sft_peers.rows import Row

PADDED_ROWS, PACKED_ROWS, PACKED_LENGTH = 4, 4, 256


class TrlSide:
    """TRL on a model directory.

    Args:
        folder: in Hugging Face's format.
        rows: to learn from.
        packed: whether rows are packed (``bfd``); else padded.
        rank, rate: of the adapter, and the learning rate.
    """

    def __init__(self, folder: Path, rows: list[Row], packed: bool, rank: int, rate: float, scratch: Path) -> None:
        from datasets import Dataset, disable_progress_bars
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
        from trl import SFTConfig, SFTTrainer

        disable_progress_bars()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        config = SFTConfig(
            output_dir=str(scratch),
            per_device_train_batch_size=PACKED_ROWS if packed else PADDED_ROWS,
            packing=packed,
            packing_strategy="bfd",
            max_length=PACKED_LENGTH,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            learning_rate=rate,
            weight_decay=0.0,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            max_steps=1,
            completion_only_loss=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=0,
        )
        data = Dataset.from_list(
            [{"input_ids": list(row.ids), "completion_mask": [int(one) for one in row.supervised]} for row in rows]
        )
        adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        side = self
        self.seconds: list[float] = []
        self.tokens: list[int] = []

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *given: Any, **options: Any) -> None:
                side.tokens.append(0)
                side.began = time.perf_counter()

            def on_step_end(self, *given: Any, **options: Any) -> None:
                side.seconds.append(time.perf_counter() - side.began)

        class Counting(SFTTrainer):  # type: ignore[misc]
            def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **options: Any) -> Any:
                mask = inputs.get("attention_mask")
                side.tokens[-1] += int(inputs["input_ids"].numel() if mask is None else mask.sum())
                return super().compute_loss(model, inputs, *given, **options)

        self.trainer = Counting(
            model=model,
            args=config,
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=adapter,
            callbacks=[Clock()],
        )

    def turn(self, steps: int) -> float:
        """Real tokens a second over ``steps`` steps after one that does not count."""
        self.seconds.clear()
        self.tokens.clear()
        self.trainer.args.max_steps = steps + 1
        self.trainer.train()
        return sum(self.tokens[1:]) / sum(self.seconds[1:])

    @torch.no_grad()
    def held_out(self, rows: list[Row]) -> float:
        """Loss of rows that were not learnt from, nats a supervised token."""
        model, total, count = self.trainer.model.eval(), 0.0, 0
        for row in rows:
            logits = model(torch.tensor([row.ids])).logits[0, :-1].log_softmax(-1)
            picked = logits.gather(-1, torch.tensor(row.ids[1:])[:, None])[:, 0]
            chosen = torch.tensor(row.supervised[1:])
            total, count = total - float(picked[chosen].sum()), count + int(chosen.sum())
        model.train()
        return total / count if count else math.nan
