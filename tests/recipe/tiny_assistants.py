"""Tiny chat models from elsewhere, rows to teach them, and the command as a user types it."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.numpy import save_file
from small_tokenizers import EOS, small_tokenizer

from cadran.cli.app import main

MARKS = ("<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{%- for message in messages -%}\n{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n{{- '<|im_start|>assistant\\n' -}}\n"
    "{%- endif -%}\n"
)
"""ChatML, not spelt as ours is: the model is a stranger's."""
WIDTH, HIDDEN, LAYERS, CONTEXT = 32, 64, 2, 256
SERIALISED = small_tokenizer("bytes", MARKS)
IDS = {token["content"]: token["id"] for token in json.loads(SERIALISED)["added_tokens"]}
VOCABULARY = max(IDS.values()) + 1
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": WIDTH,
    "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "bos_token_id": IDS["<s>"], "eos_token_id": IDS[MARKS[1]], "torch_dtype": "float32",
}  # fmt: skip


def tiny_assistant(folder: Path, seed: int = 0, template: str | None = TEMPLATE) -> Path:
    """A Hugging Face directory of a Llama with random weights, a byte-level tokenizer and a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    inner = {
        "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,), "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (WIDTH // 2, WIDTH), "self_attn.v_proj": (WIDTH // 2, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (HIDDEN, WIDTH), "mlp.up_proj": (HIDDEN, WIDTH),
        "mlp.down_proj": (WIDTH, HIDDEN),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    shapes |= {"model.norm.weight": (WIDTH,), "lm_head.weight": (VOCABULARY, WIDTH)}
    shapes |= {f"model.layers.{n}.{name}.weight": shape for n in range(LAYERS) for name, shape in inner.items()}
    # Norms near 1, matrices that let every layer speak.
    weights = {
        name: (1 + 0.1 * draw.normal(size=shape) if len(shape) == 1 else draw.normal(0, 0.15, shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": IDS[MARKS[1]], "top_k": 7}))
    (folder / "tokenizer.json").write_text(SERIALISED, encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": MARKS[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": EOS}), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


COLOURS = ("rouge", "vert", "bleu", "noir", "blanc", "brun", "rose", "gris")
FRUITS = ("pomme", "poire", "figue", "prune", "melon", "olive", "datte", "mûre")


def chat_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Questions about things, answered by their colour."""
    draw = np.random.default_rng(seed)
    return [
        {"prompt": f"De quelle couleur est l'été n° {number} ?", "completion": f"Il est {draw.choice(COLOURS)}."}
        for number in range(count)
    ]


def preference_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Questions to which a colour is a better answer than a fruit."""
    draw = np.random.default_rng(seed)
    return [
        {"prompt": f"Que vois-tu là, n° {number} ?", "chosen": str(draw.choice(COLOURS)),
         "rejected": str(draw.choice(FRUITS))}
        for number in range(count)
    ]  # fmt: skip


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Said:
    """What a command said, both streams in one, and its exit status."""

    status: int
    text: str

    @property
    def last(self) -> str:
        return self.text.strip().splitlines()[-1]


@contextlib.contextmanager
def unchanged_torch() -> Iterator[None]:
    """A run sets threads and determinism for its process, which other tests share."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def cadran(runs: Path, *arguments: str | Path, report: bool = False) -> Said:
    """The command in this process, so that torch is imported once.

    Drawing a page and measuring the machine take longer than teaching a tiny model: they are done where asked for.
    """
    stream, status = io.StringIO(), 0
    skipped = contextlib.ExitStack()
    if not report:
        skipped.enter_context(mock.patch("cadran.recipe.stages.report.write_report", lambda folder: None))
        skipped.enter_context(mock.patch("cadran.recipe.pipeline.matmul_speed", lambda precision: 1e9))
    environment = {"CADRAN_RUNS": str(runs), "CADRAN_HUGE_PAGES": "0", "CADRAN_HOME": str(runs / ".home")}
    with (
        mock.patch.dict(os.environ, environment), mock.patch.object(sys, "argv", ["cadran", *map(str, arguments)]),
        contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream), unchanged_torch(), skipped,
    ):  # fmt: skip
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
    return Said(status, stream.getvalue())


def done(runs: Path, *arguments: str | Path, report: bool = False) -> str:
    """What a command says that ends well."""
    said = cadran(runs, *arguments, report=report)
    assert said.status == 0, said.text
    return said.text


def refused(runs: Path, *arguments: str | Path) -> str:
    """The one sentence of a command that the user must mend."""
    said = cadran(runs, *arguments)
    assert said.status == 2 and said.last.startswith("cadran: ") and "Traceback" not in said.text, said.text
    return said.last


KILLED = """
import os, signal, sys, threading, time
from cadran.cli.app import main
from cadran.train.trainer import Trainer

stage, step, delay = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
plain = Trainer.step


def die():
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)


def killed(self, number):
    if number == step and self.checkpoints.parent.name == stage:
        threading.Thread(target=die).start() if delay else die()
    return plain(self, number)


Trainer.step = killed
sys.argv = ["cadran", *sys.argv[4:]]
main()
"""
"""Cadran that is killed in a stage, so long after it begins a step (counted from 0): amid it, or while it is saved."""


def killed(runs: Path, stage: str, step: int, delay: float, *arguments: str | Path) -> None:
    """Run a command that SIGKILL ends."""
    environment = dict(os.environ, CADRAN_RUNS=str(runs), CADRAN_HUGE_PAGES="0", CADRAN_HOME=str(runs / ".home"))
    command = [sys.executable, "-c", KILLED, stage, str(step), str(delay), *map(str, arguments)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == -9, (ended.returncode, ended.stdout, ended.stderr)


def artefacts(run: Path) -> dict[str, str]:
    """SHA-256 of every file of a finished run that must be the same each time."""
    content: dict[str, dict[str, str]] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return content["artefacts"]


def results(run: Path, stage: str) -> dict[str, Any]:
    """The figures of a stage."""
    found: dict[str, Any] = json.loads((run / stage / "results.json").read_text(encoding="utf-8"))
    return found


def events(run: Path) -> list[dict[str, Any]]:
    """What was logged."""
    return [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").split("\n") if line]
