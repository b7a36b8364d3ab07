"""A model that scores an answer: a Transformer without its output head, and one number in its place.

The score is read at the answer's last real token, by index and not by looking for padding, so neither the other answers
of a batch nor the place in a packed row can move it. On disk it is what ``transformers`` calls sequence classification
with one label. Source: Ouyang et al. 2022, section 3.5; Ziegler et al. 2019 (initial head, normalised rewards).
"""

import copy
import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from cadran.align.branches import Branches, hidden_of
from cadran.errors import UserError
from cadran.files import write_bytes, write_json
from cadran.model.checkpoint import stored_weights
from cadran.model.config import ModelConfig
from cadran.model.families import FAMILIES, family_of, read_content
from cadran.model.families.family import Family
from cadran.model.families.fields import Fields
from cadran.model.lora import adapter_names, merge
from cadran.model.lora_linear import Adapted
from cadran.model.safetensors_file import SafetensorsFile
from cadran.model.transformer import Transformer
from cadran.model.weight_files import SINGLE, weight_files

SCORE, HEAD = "score.weight", "lm_head.weight"
SHIFT, SCALE = "reward_shift", "reward_scale"
"""Fields of ``config.json``, not of ``cadran.json``: that one is rewritten by every stage and export."""


class RewardModel(nn.Module):
    """A Transformer with a scalar head.

    Args:
        transformer: taken over: its output head is dropped (tied to the embedding, so that it costs nothing). It may
            wear an adapter, or be given one later; then only the adapter and the scalar head are trained.
        seed: of the scalar head, drawn from N(0, 1 / (C + 1)); None leaves it at zero, for a checkpoint to fill.

    Attributes:
        shift, scale: mean and standard deviation of the scores on reference samples (``normalise``), 0 and 1 before.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, transformer: Transformer, seed: int | None) -> None:
        super().__init__()
        self.transformer = _without_head(transformer)
        width, like = transformer.config.width, transformer.model.embed_tokens.weight
        weight = torch.zeros(1, width)
        if seed is not None:
            weight.normal_(0.0, 1 / math.sqrt(width + 1), generator=torch.Generator().manual_seed(seed))
        kind = torch.promote_types(like.dtype if like.is_floating_point() else torch.float32, torch.float32)
        self.score = nn.Linear(width, 1, bias=False, device="meta")  # nothing drawn from the global generator
        self.score.weight = nn.Parameter(weight.to(like.device, kind))
        self.register_buffer("shift", torch.zeros((), dtype=kind, device=like.device))
        self.register_buffer("scale", torch.ones((), dtype=kind, device=like.device))

    def scores(self, batch: Branches, dtype: torch.dtype | None = None) -> Tensor:
        """What is trained: in these units sigma(difference of two) is the probability that the first is better.

        Args:
            batch: A answers.
            dtype: of the matrix products in the blocks; the scalar head is applied in float32 or wider.

        Returns:
            Shape (A,), at the last token of each answer, with gradients.
        """
        weight = self.score.weight
        last = hidden_of(self.transformer, batch, dtype)[batch.ends]  # (A, C)
        return last.to(weight.dtype) @ weight[0]

    def rewards(self, batch: Branches, dtype: torch.dtype | None = None) -> Tensor:
        """Normalised scores, shape (A,): mean 0 and standard deviation 1 over the samples of ``normalise``."""
        return (self.scores(batch, dtype) - self.shift) / self.scale

    @torch.no_grad()
    def normalise(self, batches: Iterable[Branches], dtype: torch.dtype | None = None) -> None:
        """Set ``shift`` and ``scale`` from reference samples: answers of the model that will be trained by the rewards.

        Args:
            batches: at least two answers in all.
            dtype: as in ``scores``.

        Raises:
            UserError: all samples have the same score, or one that is not finite.
        """
        found = [self.scores(batch.to(self.score.weight.device), dtype).double() for batch in batches]
        values = torch.cat(found) if found else torch.zeros(0)
        spread = float(values.std(correction=0)) if values.numel() > 1 else 0.0
        if not 0 < spread < math.inf:
            raise UserError(
                f"the rewards of {values.numel()} reference samples spread by {spread}, so they cannot be normalised; "
                f"train the reward model longer, or give it more samples"
            )
        self.shift.fill_(float(values.mean()))
        self.scale.fill_(spread)

    def save(self, folder: Path, *, end_of_text: int, pad: int, eos: list[int]) -> None:
        """Write what ``transformers.AutoModelForSequenceClassification`` opens; its logit is our ``scores``.

        An adapter is merged into what is written, not into this model; that takes the memory of a second model.

        Args:
            folder: created when absent; holds the tokenizer too once the caller has written it.
            end_of_text, pad, eos: as in ``model.checkpoint.save_model``.
        """
        model = self.transformer
        if adapter_names(model):
            model = copy.deepcopy(model)
            merge(model)
            model = _without_head(model)
        family = FAMILIES[model.config.family]
        weights = {name: tensor.float() for name, tensor in stored_weights(model, family)}
        weights[SCORE] = self.score.weight.detach().float().contiguous()
        ids = {"bos_token_id": end_of_text, "eos_token_id": eos, "pad_token_id": pad}
        write_bytes(folder / SINGLE, safetensors_bytes(weights, metadata={"format": "pt"}))
        content = family.to_huggingface(model.config, ids) | {
            "architectures": [_classifier(family)],
            "id2label": {"0": "reward"},
            "label2id": {"reward": 0},
            SHIFT: float(self.shift),
            SCALE: float(self.scale),
        }
        write_json(folder / "config.json", content)

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype | None = None) -> "RewardModel":
        """Open a reward model: ours, or another with one label in the same format (its shift is 0, its scale 1).

        Args:
            folder: a Hugging Face directory with ``score.weight``.
            dtype: of the weights in memory; None keeps what is stored.

        Returns:
            The model in evaluation mode.

        Raises:
            UserError: it is none, or damaged.
        """
        content = read_content(folder)
        family, fields = family_of(content), Fields(content)
        config = replace(family.read(fields), tied=True)
        shift, scale = fields.number(SHIFT, 0.0), fields.number(SCALE, 1.0)
        if scale <= 0:
            raise UserError(f"{SCALE} in config.json of {folder} is {scale}; train the reward model again")
        transformer, weight = _read(folder, family, config, dtype)
        model = cls(transformer, None)
        with torch.no_grad():
            model.score.weight.copy_(weight)
            model.shift.fill_(shift)
            model.scale.fill_(scale)
        return model.eval()


def _without_head(transformer: Transformer) -> Transformer:
    """Tie the output head to the embedding: it is in no formula here and would only be carried along."""
    if not isinstance(transformer.lm_head, Adapted):
        transformer.lm_head.weight = transformer.model.embed_tokens.weight
        transformer.config = replace(transformer.config, tied=True)
    return transformer


def _classifier(family: Family) -> str:
    """Name of the class in ``transformers`` that has one label in place of the output head."""
    stem = family.architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    return f"{stem}{'Text' if family.name == 'gemma3_text' else ''}ForSequenceClassification"


def _read(folder: Path, family: Family, config: ModelConfig, dtype: torch.dtype | None) -> tuple[Transformer, Tensor]:
    """The Transformer and the scalar head of a directory."""
    with ExitStack() as stack:
        files = [stack.enter_context(SafetensorsFile(path)) for path in weight_files(folder)]
        found = {name: file for file in files for name in file.entries}
        experts = sum(config.experts.sparse) * config.experts.count if config.experts else 0
        if config.layers + experts > len(found):  # before anything of that size is built
            raise UserError(
                f"config.json in {folder} speaks of {config.layers} layers and there are {len(found)} tensors; "
                f"train the reward model again"
            )
        with torch.device("meta"):
            transformer = Transformer(config)

        def take(name: str, shape: tuple[int, ...]) -> Tensor:
            if name not in found:
                raise UserError(f"{folder} holds no reward model: {name} is missing; give one that was saved as such")
            if found[name].entries[name].shape != shape:
                raise UserError(
                    f"{name} in {folder} has shape {found[name].entries[name].shape} and a reward model of its "
                    f"config.json {shape}; give a reward model with one label"
                )
            tensor = found[name].read(name)
            if not tensor.is_floating_point():
                raise UserError(f"{name} in {folder} holds no fractions; give an unquantised reward model")
            return tensor.to(dtype or tensor.dtype)

        weight = take(SCORE, (1, config.width))
        parameters: dict[str, Any] = dict(transformer.named_parameters())
        state: dict[str, Tensor] = {}
        for stored in family.stored(parameters):
            rows = [parameters[ours].shape[0] for ours in stored.ours]
            shape = (sum(rows), *parameters[stored.ours[0]].shape[1:])
            turned = stored.transposed and len(shape) == 2
            tensor = take(stored.name, shape[::-1] if turned else shape)
            state |= zip(stored.ours, torch.split(tensor.t() if turned else tensor, rows), strict=True)
    transformer.load_state_dict(state, strict=False, assign=True)
    transformer.lm_head.weight = transformer.model.embed_tokens.weight
    return transformer, weight
