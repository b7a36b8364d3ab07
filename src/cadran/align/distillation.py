"""Distillation: a student learns a teacher's whole distribution of the next token, not just the one that came.

The divergence is computed over pieces of positions and formed again in the backward pass, so that the logits of two
vocabularies times all positions never exist (the sibling of ``train/loss.py``, whose gradients can be kept because
its positions all have one weight). Hinton et al. 2015; Agarwal et al. 2024 (GKD) for the other directions and for
rows that the student wrote itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cadran.errors import UserError
from cadran.model.attention import document_bias
from cadran.model.transformer import Transformer
from cadran.train.loader import Batch
from cadran.train.loss import IGNORED, head_cross_entropy, piece_of
from cadran.train.objective import Learnt

Divergence = Literal["forward", "reverse", "jsd"]

NAMED = 8


@dataclass(frozen=True, slots=True)
class _Settings:
    kind: Divergence
    temperature: float
    beta: float
    factor: float
    cap: float | None
    teacher_cap: float | None


def distillation_losses(
    student_states: Tensor,
    head: Tensor,
    teacher: Tensor,
    teacher_head: Tensor | None = None,
    *,
    temperature: float = 1.0,
    kind: Divergence = "forward",
    beta: float = 0.5,
    scaled: bool = True,
    cap: float | None = None,
    teacher_cap: float | None = None,
) -> Tensor:
    """Divergence of the student's next-token distribution q from the teacher's p, at each position.

    - ``forward``: KL(p || q); the student covers all that the teacher finds possible.
    - ``reverse``: KL(q || p); the student keeps to what the teacher finds likely.
    - ``jsd``: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q; bounded, for rows far from both.

    Args:
        student_states: final states, shape (N, C); receives a gradient.
        head: the student's output matrix, shape (V, C); receives a gradient.
        teacher: the teacher's final states, shape (N, C2), or without ``teacher_head`` its logits, shape (N, V),
            finite; no gradient either way.
        teacher_head: the teacher's output matrix, shape (V, C2).
        temperature: T, divides both models' logits; above 1 it brings out what the teacher finds unlikely but possible.
        kind: which divergence.
        beta: share of the teacher in the mixture of ``jsd``, between 0 and 1.
        scaled: multiply by T^2, which keeps the gradients' size when T changes.
        cap: c of c * tanh(logits / c) of the student, or None; ``teacher_cap`` that of the teacher.

    Returns:
        Nats (times T^2 if ``scaled``), shape (N,), in float32 or wider.

    Raises:
        ValueError: shapes that do not fit, an unknown kind, or a temperature or beta out of its range.

    Source: Hinton et al. 2015, section 2.1; Agarwal et al. 2024, eq. 1.
    """
    if kind not in get_args(Divergence):
        raise ValueError(f"{kind!r} is no divergence; there are {', '.join(get_args(Divergence))}")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    if kind == "jsd" and not 0 < beta < 1:
        raise ValueError(f"beta is {beta}; it must lie between 0 and 1 (the ends are forward and reverse)")
    width = (teacher if teacher_head is None else teacher_head).shape[-1 if teacher_head is None else 0]
    if student_states.shape[0] != teacher.shape[0] or head.shape[0] != width:
        raise ValueError(
            f"{student_states.shape[0]} positions of {head.shape[0]} tokens against {teacher.shape[0]} of {width}"
        )
    settings = _Settings(kind, temperature, beta, temperature**2 if scaled else 1.0, cap, teacher_cap)
    if teacher_head is not None:
        teacher_head = teacher_head.detach()
    return _Distillation.apply(student_states, head, teacher.detach(), teacher_head, settings)  # type: ignore[no-untyped-call, no-any-return]


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, head: Tensor, teacher: Tensor, teacher_head: Tensor | None, settings: _Settings
    ) -> Tensor:
        losses = torch.empty(states.shape[0], dtype=_wide(states), device=states.device)
        for piece in _pieces(states.shape[0], head.shape[0]):
            log_p = _log_probabilities(_teacher_logits(teacher[piece], teacher_head), settings, settings.teacher_cap)
            log_q = _log_probabilities(states[piece] @ head.t(), settings, settings.cap)
            losses[piece] = _divergence(log_p.to(log_q.dtype), log_q, settings)
        ctx.save_for_backward(states, head, teacher, teacher_head)
        ctx.settings = settings
        return losses * settings.factor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        states, head, teacher, teacher_head = ctx.saved_tensors
        settings: _Settings = ctx.settings
        scale = gradients[0] * (settings.factor / settings.temperature)
        grad_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        grad_head = torch.zeros_like(head, dtype=_wide(head)) if ctx.needs_input_grad[1] else None
        for piece in _pieces(states.shape[0], head.shape[0]):
            log_p = _log_probabilities(_teacher_logits(teacher[piece], teacher_head), settings, settings.teacher_cap)
            logits = states[piece] @ head.t()
            log_q = _log_probabilities(logits, settings, settings.cap)
            slope = _slope(log_p.to(log_q.dtype), log_q, settings).mul_(scale[piece, None])
            if settings.cap is not None:
                slope.mul_(1 - (logits.to(slope.dtype) / settings.cap).tanh_().square_())
            slope = slope.to(states.dtype)
            if grad_states is not None:
                torch.mm(slope, head, out=grad_states[piece])
            if grad_head is not None:
                grad_head += slope.t() @ states[piece]
        return grad_states, None if grad_head is None else grad_head.to(head.dtype), None, None, None


def _divergence(log_p: Tensor, log_q: Tensor, settings: _Settings) -> Tensor:
    """Shapes: (P, V) twice to (P,)."""
    if settings.kind == "forward":
        return _kl(log_p, log_q)
    if settings.kind == "reverse":
        return _kl(log_q, log_p)
    log_m = _log_mixture(log_p, log_q, settings.beta)
    return settings.beta * _kl(log_p, log_m) + (1 - settings.beta) * _kl(log_q, log_m)


def _slope(log_p: Tensor, log_q: Tensor, settings: _Settings) -> Tensor:
    """Derivative of the divergence by the student's logits over T, shape (P, V)."""
    q = log_q.exp()
    if settings.kind == "forward":
        return q.sub_(log_p.exp())
    if settings.kind == "reverse":
        by_q = log_q - log_p
    else:
        # What m changes cancels: sum over j of (beta p_j + (1 - beta) q_j) / m_j dm_j is the change of sum(m), nothing.
        by_q = (log_q - _log_mixture(log_p, log_q, settings.beta)).mul_(1 - settings.beta)
    return by_q.sub_((q * by_q).sum(-1, keepdim=True)).mul_(q)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def _log_mixture(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    weights = torch.tensor([beta, 1 - beta], dtype=log_q.dtype, device=log_q.device).log()
    return torch.logaddexp(log_p + weights[0], log_q + weights[1])


def _log_probabilities(logits: Tensor, settings: _Settings, cap: float | None) -> Tensor:
    logits = logits.to(_wide(logits))
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return torch.log_softmax(logits / settings.temperature, -1)


def _teacher_logits(teacher: Tensor, head: Tensor | None) -> Tensor:
    return teacher if head is None else teacher @ head.t()


def _pieces(positions: int, vocabulary: int) -> list[slice]:
    size = piece_of(vocabulary)
    return [slice(start, start + size) for start in range(0, positions, size)]


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


class DistillationObjective:
    """mix * distillation + (1 - mix) * cross-entropy, over the targets that count.

    Off-policy, ``batches`` is the ``batch`` of a ``TokenLoader``: the teacher comments on given text. On-policy, it is
    a function that lets the student, as its weights stand at that step, write rows whose targets are its own tokens
    (``IGNORED`` on the prompts); the teacher comments on what the student really does, for which ``reverse`` or
    ``jsd`` and a ``mix`` of 1 are meant (with less, the student would also be taught its own words).

    Args:
        model: the student.
        teacher: of the same vocabulary, token by token: whoever opens the two compares their tokenizers.
        batches: the rows of a step, a pure function of the step's number and, on-policy, the student's weights.
        micro: rows of one forward and backward pass; a batch of more rows is accumulated.
        mix: share of the distillation in the loss, from 0 to 1.
        temperature: of both distributions; the loss is multiplied by its square.
        kind: which divergence, as in ``distillation_losses``.
        beta: of ``jsd``.
        dtype: of the matrix products.

    Raises:
        UserError: the vocabularies differ in size, an output matrix is quantised, or a number is out of its range.
    """

    period = 1

    def __init__(
        self,
        model: Transformer,
        teacher: Transformer,
        batches: Callable[[int], Batch],
        *,
        micro: int,
        mix: float = 0.5,
        temperature: float = 2.0,
        kind: Divergence = "forward",
        beta: float = 0.5,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if model.config.vocabulary != teacher.config.vocabulary:
            raise UserError(
                f"the student knows {model.config.vocabulary} tokens and the teacher {teacher.config.vocabulary}; "
                "choose a teacher with the student's own tokenizer"
            )
        for each, whose in ((model, "student"), (teacher, "teacher")):
            head = getattr(each.lm_head, "weight", None)
            if not isinstance(head, Tensor) or not head.is_floating_point():
                raise UserError(f"the {whose}'s output matrix is quantised; open the {whose} unquantised")
        if not 0 <= mix <= 1:
            raise UserError(f"mix is {mix}; give the share of the distillation in the loss, from 0 to 1")
        if not 0 < temperature <= 1000:
            raise UserError(f"the temperature is {temperature}; give one above 0, such as 2")
        if kind == "jsd" and not 0 < beta < 1:
            raise UserError(f"beta is {beta}; give a number between 0 and 1, such as 0.5")
        if micro < 1:
            raise UserError(f"micro is {micro}; give at least one row")
        self.model, self.teacher, self.batches, self.micro, self.mix = model, teacher, batches, micro, mix
        self.temperature, self.dtype = temperature, dtype
        self.kind: Divergence = kind
        self.beta = beta

    def gradients(self, step: int) -> Learnt:
        """Add the gradients of the rows of ``step``.

        Returns:
            The loss; figures ``distillation`` (with the factor T^2) and ``cross_entropy``, nats per target.

        Raises:
            UserError: the rows are longer than the teacher can read.
        """
        batch = self.batches(step)
        length = batch.ids.shape[1]
        if length > self.teacher.config.context:
            raise UserError(
                f"the rows have {length} tokens and the teacher reads {self.teacher.config.context}; "
                f"set the context to {self.teacher.config.context} or less"
            )
        divergence = entropy = 0.0
        for start in range(0, batch.ids.shape[0], self.micro):
            parts = self._piece(batch, slice(start, start + self.micro))
            if parts is not None:
                divergence, entropy = divergence + parts[0], entropy + parts[1]
        loss = self.mix * divergence + (1 - self.mix) * entropy
        figures = {"distillation": divergence, "cross_entropy": entropy}
        return Learnt(loss, figures, _named(batch, step), batch.ids.numel())

    def _piece(self, batch: Batch, piece: slice) -> tuple[float, float] | None:
        head = self.model.lm_head.weight  # read here: with an adapter upon it, it belongs to this backward pass
        targets = batch.targets[piece].to(head.device).reshape(-1)
        chosen = torch.nonzero(targets != IGNORED).squeeze(1)
        if chosen.numel() == 0:
            return None
        ids, count = batch.ids[piece].to(head.device), max(batch.valid, 1)
        bias = document_bias(batch.segments[piece].to(head.device), self.dtype)
        states = self.model.hidden_states(ids, bias, None, self.dtype).flatten(0, 1)[chosen]
        cap, matrix = self.model.config.logit_cap, head.to(self.dtype)
        with torch.set_grad_enabled(self.mix < 1):  # at an end of the mix the other loss is a figure only
            entropy = head_cross_entropy(states, matrix, targets[chosen], count, cap)
        with torch.no_grad():
            said = self.teacher.hidden_states(ids, bias, None, self.dtype).flatten(0, 1)[chosen]
        with torch.set_grad_enabled(self.mix > 0):
            divergences = distillation_losses(
                states,
                matrix,
                said,
                self.teacher.lm_head.weight.to(self.dtype),
                temperature=self.temperature,
                kind=self.kind,
                beta=self.beta,
                cap=cap,
                teacher_cap=self.teacher.config.logit_cap,
            )
        total = divergences.sum() / count
        loss = self.mix * total + (1 - self.mix) * entropy
        loss.backward()  # type: ignore[no-untyped-call]
        return float(total.detach()), float(entropy.detach())

    def state(self) -> dict[str, Tensor]:
        """Nothing: the rows are a function of the step."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing."""


def _named(batch: Batch, step: int) -> str:
    documents = sorted({piece.document for row in batch.rows for piece in row})
    if not documents:
        return f"the rows that the student wrote at step {step}"
    return f"documents {', '.join(map(str, documents[:NAMED]))}{', ...' if len(documents) > NAMED else ''} of the shard"
