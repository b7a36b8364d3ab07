"""A mixture of experts: each token is read by the few experts that a router picks for it.

Sources: Shazeer et al. 2017; Mixtral (Jiang et al. 2024); DeepSeek-V2 and V3 (2024) for groups, shared experts and
the learnt correction of the choice.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadran.model.config import Experts, ModelConfig
from cadran.model.mlp import MLP


class Router(nn.Module):
    """Chooses experts and weighs them.

    Args:
        width: of a token's state.
        experts: how many there are, how many are active, how they are scored.
    """

    def __init__(self, width: int, experts: Experts) -> None:
        super().__init__()
        self.experts = experts
        self.weight = nn.Parameter(torch.zeros(experts.count, width))
        if experts.correction:
            # Moved by the load, not by the gradient.
            self.e_score_correction_bias = nn.Parameter(torch.zeros(experts.count), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and indices of the chosen experts, each (tokens, active), for x of shape (tokens, C)."""
        e = self.experts
        logits = F.linear(x.float(), self.weight.float())
        scores = logits.sigmoid() if e.scoring == "sigmoid" else logits.softmax(-1)
        choice = scores + self.e_score_correction_bias if e.correction else scores
        if e.groups:
            choice = self._best_groups(choice)
        chosen = choice.topk(e.active, -1).indices
        weights = scores.gather(1, chosen)
        if e.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + (1e-20 if e.scoring == "sigmoid" else 0.0))
        return weights * e.scale, chosen

    def _best_groups(self, choice: Tensor) -> Tensor:
        """Scores with the experts outside of the best groups out of reach."""
        e = self.experts
        grouped = choice.view(-1, e.groups, e.count // e.groups)
        score = grouped.amax(-1) if e.group_score == "max" else grouped.topk(2, -1).values.sum(-1)
        kept = torch.zeros_like(score).scatter_(1, score.topk(e.active_groups, -1).indices, 1.0).bool()
        # DeepSeek-V2 zeroes what is out of reach, V3 forbids it; both choose the same while scores are positive.
        outside = 0.0 if e.group_score == "max" else -torch.inf
        return grouped.masked_fill(~kept[..., None], outside).view(choice.shape)


class MixtureOfExperts(nn.Module):
    """Takes the place of the MLP.

    Args:
        config: must have ``experts``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.experts is not None
        experts = config.experts
        self.gate = Router(config.width, experts)
        self.experts = nn.ModuleList(MLP(config, experts.hidden) for _ in range(experts.count))
        self.shared_experts = MLP(config, experts.shared * experts.hidden) if experts.shared else None

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, T, C) to (B, T, C)."""
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(tokens)
        result = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == number)
            if len(token):
                read = expert(tokens[token]) * weights[token, slot, None].to(x.dtype)
                result = result.index_add(0, token, read)
        if self.shared_experts is not None:
            result = result + self.shared_experts(tokens)
        return result.view(x.shape)
