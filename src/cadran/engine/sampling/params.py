"""What can be asked of the sampler. Every filter is off by default; ``cadran.engine.sampler`` says in which order they
work and where they come from.
"""

import math
from dataclasses import dataclass

from cadran.errors import UserError


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token.
        top_p: smallest set of tokens whose probability reaches this share (nucleus); 1 keeps all.
        top_k: number of tokens kept; 0 keeps all.
        seed: of the random numbers.
        max_tokens: most tokens to generate.
        min_tokens: so many tokens must come before a stop id or a stop string may end the answer; where a grammar lets
            nothing else come, it ends.
        min_p: tokens less probable than this share of the likeliest one are dropped; 0 keeps all.
        typical_p: smallest set of the most typical tokens that reaches this share; 1 keeps all.
        top_n_sigma: tokens whose logit is further below the largest than so many standard deviations are dropped; 0
            keeps all.
        repetition_penalty: divides positive and multiplies negative logits of tokens in the window; 1 is none.
        presence_penalty: taken from the logit of every token that the answer has within the window.
        frequency_penalty: taken from it once for each time.
        penalty_window: how many of the latest tokens, of the prompt too, the penalties and DRY look at; 0 is all.
        dry_multiplier: strength of the penalty on going on with a repetition; 0 is none.
        dry_base: growth of it with each token that the repetition is longer.
        dry_allowed_length: length of a repetition that is penalised by the bare multiplier; shorter ones are not.
        dry_breakers: ids that end a repetition, such as line ends.
        xtc_probability: how often the top choices but the least likely of them are dropped; 0 is never.
        xtc_threshold: probability from which a token is a top choice.
        mirostat: 2 keeps the surprise near ``mirostat_tau`` in place of all truncations; 0 is off.
        mirostat_tau: wanted surprise, bits.
        mirostat_eta: how fast the bound follows, per token.
        logit_bias: ids and what is added to their logits; minus infinity forbids a token.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    seed: int = 0
    max_tokens: int = 256
    min_tokens: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int = 0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_breakers: tuple[int, ...] = ()
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise UserError(
                f"the temperature is {self.temperature}; give a number from 0 to 10, e.g. --temperature 0.8"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p is {self.top_p}; give a number above 0 and up to 1, e.g. --top-p 0.95")
        if self.top_k < 0:
            raise UserError(f"top-k is {self.top_k}; give 0 (all) or a positive number")
        if self.max_tokens < 1:
            raise UserError(f"max-tokens is {self.max_tokens}; give a positive number, e.g. --max-tokens 100")
        if self.min_tokens < 0:
            raise UserError(f"min-tokens is {self.min_tokens}; give 0 (none) or a positive number")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"the seed is {self.seed}; give a number from 0 to 2**64 - 1, e.g. --seed 1")
        self._check_truncation()
        self._check_penalties()

    def _check_truncation(self) -> None:
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min-p is {self.min_p}; give a number from 0 (all) to 1, e.g. 0.05")
        if not 0 < self.typical_p <= 1:
            raise UserError(f"typical-p is {self.typical_p}; give a number above 0 and up to 1 (all), e.g. 0.9")
        if not 0 <= self.top_n_sigma <= 100:
            raise UserError(f"top-n-sigma is {self.top_n_sigma}; give a number from 0 (all) to 100, e.g. 1")
        if not 0 <= self.xtc_probability <= 1:
            raise UserError(f"the probability of XTC is {self.xtc_probability}; give a number from 0 (never) to 1")
        if not 0 < self.xtc_threshold <= 1:
            raise UserError(
                f"the threshold of XTC is {self.xtc_threshold}; give a number above 0 and up to 1, e.g. 0.1"
            )
        if self.mirostat not in (0, 2):
            raise UserError(f"mirostat is {self.mirostat}; give 2 (its second version) or 0 (none)")
        if not 0 < self.mirostat_tau <= 50:
            raise UserError(
                f"mirostat's tau is {self.mirostat_tau}; give a number of bits above 0 and up to 50, e.g. 5"
            )
        if not 0 < self.mirostat_eta <= 1:
            raise UserError(f"mirostat's eta is {self.mirostat_eta}; give a number above 0 and up to 1, e.g. 0.1")

    def _check_penalties(self) -> None:
        if not 0.01 <= self.repetition_penalty <= 10:  # logits divided by almost nothing are no numbers
            raise UserError(
                f"the repetition penalty is {self.repetition_penalty}; "
                "give a number from 0.01 to 10, e.g. 1.1, or 1 for none"
            )
        for name, penalty in (("presence", self.presence_penalty), ("frequency", self.frequency_penalty)):
            if not -10 <= penalty <= 10:
                raise UserError(f"the {name} penalty is {penalty}; give a number from -10 to 10, or 0 for none")
        if not 0 <= self.penalty_window < 2**31:
            raise UserError(f"the penalties' window is {self.penalty_window}; give a number of tokens, or 0 for all")
        if not 0 <= self.dry_multiplier <= 100:
            raise UserError(f"the multiplier of DRY is {self.dry_multiplier}; give a number from 0 (none) to 100")
        if not 1 <= self.dry_base <= 10:
            raise UserError(f"the base of DRY is {self.dry_base}; give a number from 1 to 10, e.g. 1.75")
        if not 1 <= self.dry_allowed_length < 2**31:
            raise UserError(
                f"DRY allows a length of {self.dry_allowed_length}; give a positive number of tokens, e.g. 2"
            )
        for token in self.dry_breakers:
            if not 0 <= token < 2**31:
                raise UserError(f"a breaker of DRY is token {token}; give ids of tokens, from 0 on")
        for token, bias in self.logit_bias:
            if not 0 <= token < 2**31:
                raise UserError(f"the logit bias names token {token}; give ids of tokens, from 0 on")
            if not (-100 <= bias <= 100 or bias == -math.inf):
                raise UserError(
                    f"the logit bias of token {token} is {bias}; give a number from -100 to 100, "
                    "or minus infinity to forbid it"
                )
