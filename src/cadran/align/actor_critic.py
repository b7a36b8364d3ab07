"""A policy with a value head: what PPO trains (Schulman et al. 2017; Ziegler et al. 2019)."""

import torch
from torch import Tensor, nn

from cadran.align.branches import Branches, answer_states
from cadran.align.logprobs import token_logprobs
from cadran.model.transformer import Transformer


class ActorCritic(nn.Module):
    """A language model, and beside it a guess of the reward that is still to come.

    The value of an answer's token is read from the state that the token is drawn from: it knows the prompt and the
    answer so far, and not the token. The value head begins at zero, so that the first advantages are the rewards'.

    Args:
        policy: may wear an adapter; then only that and the value head are trained.
        critic: a backbone of its own for the values, such as a reward model's Transformer, trained unless it is
            frozen; its output head is not used. None reads the policy's own states.

    Attributes:
        value_head: one output, no bias.
    """

    def __init__(self, policy: Transformer, critic: Transformer | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic
        backbone = critic or policy
        like = backbone.model.embed_tokens.weight
        self.value_head = nn.Linear(backbone.config.width, 1, bias=False, device="meta")  # nothing drawn
        kind = torch.promote_types(like.dtype if like.is_floating_point() else torch.float32, torch.float32)
        self.value_head.weight = nn.Parameter(torch.zeros(1, backbone.config.width, dtype=kind, device=like.device))
        if critic is not None and critic.lm_head.weight is not critic.model.embed_tokens.weight:
            critic.lm_head.requires_grad_(False)  # no gradient ever reaches it

    def evaluate(
        self, batch: Branches, *, dtype: torch.dtype | None = None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read answers.

        Args:
            batch: where the model is; N tokens of answers.
            dtype: of the matrix products; None takes the weights' own.
            temperature: at which the tokens were drawn.

        Returns:
            Log-probabilities and entropies in nats (see ``token_logprobs``), and values in units of the reward, all of
            shape (N,).
        """
        states = answer_states(self.policy, batch, dtype)
        head = self.policy.lm_head.weight.to(states.dtype)
        cap = self.policy.config.logit_cap
        logprobs, entropies = token_logprobs(states, head, batch.targets, temperature=temperature, cap=cap)
        seen = states if self.critic is None else answer_states(self.critic, batch, dtype)
        weight = self.value_head.weight
        return logprobs, entropies, seen.to(weight.dtype) @ weight[0]
