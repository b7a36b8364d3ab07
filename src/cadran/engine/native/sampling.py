"""The compiled sampler (native/sampler.h) through ctypes: same tokens as ``engine.sampling.reference``."""

import ctypes
import weakref
from collections.abc import Sequence
from functools import cache

import numpy as np

from cadran.engine.native.library import library
from cadran.engine.sampling.params import SamplingParams
from cadran.engine.sampling.reference import MOST_TOP, NOT_A_NUMBER, NOTHING_LEFT, WIDTH, Logits, Mask
from cadran.errors import UserError

_Ints = ctypes.POINTER(ctypes.c_int32)
_Doubles = ctypes.POINTER(ctypes.c_double)
_REFUSALS = {-1: NOT_A_NUMBER, -2: NOTHING_LEFT, -3: WIDTH, -4: "there is no memory left; close other programs"}
_BIAS = -5

# Fields of SamplingParams that the structure has under the same names.
_NUMBERS = (
    *("temperature", "top_p", "min_p", "typical_p", "top_n_sigma"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("dry_multiplier", "dry_base", "xtc_probability", "xtc_threshold", "mirostat_tau", "mirostat_eta"),
)
_COUNTS = ("penalty_window", "dry_allowed_length", "mirostat")


class Sampling(ctypes.Structure):
    """``cadran_sampling``: how to choose."""

    _fields_ = (
        *((name, ctypes.c_double) for name in _NUMBERS),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_int32) for name in ("top_k", *_COUNTS)),
        ("breaker_count", ctypes.c_int32),
        ("bias_count", ctypes.c_int32),
        ("breakers", _Ints),
        ("bias_ids", _Ints),
        ("bias_values", _Doubles),
    )


class Choice(ctypes.Structure):
    """``cadran_choice``: what is wanted with a token, and how likely it was."""

    _fields_ = (
        ("logprobs", ctypes.c_int32),
        ("top", ctypes.c_int32),
        ("logprob", ctypes.c_double),
        ("top_logprobs", ctypes.c_double * MOST_TOP),
        ("top_ids", ctypes.c_int32 * MOST_TOP),
    )

    def alternatives(self) -> tuple[tuple[int, float], ...]:
        """The likeliest tokens and their log-probabilities."""
        return tuple((self.top_ids[i], self.top_logprobs[i]) for i in range(self.top))


@cache
def core() -> ctypes.CDLL:
    """The compiled core with the sampler's functions described.

    Raises:
        UserError: it was built from another version of the structures.
    """
    found = library()
    sizes = found.cadran_sampling_size(), found.cadran_choice_size()
    if sizes != (ctypes.sizeof(Sampling), ctypes.sizeof(Choice)):
        raise UserError("the compiled core is of another version than this package; install Cadran again")
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    found.cadran_sampler_create.argtypes = (ctypes.POINTER(Sampling), pointer, integer)
    found.cadran_sampler_create.restype = pointer
    found.cadran_sampler_free.argtypes = (pointer,)
    found.cadran_sampler_free.restype = None
    found.cadran_sampler_choose.argtypes = (pointer, pointer, integer, ctypes.c_int64, pointer, pointer)
    found.cadran_sampler_accept.argtypes = (pointer, integer)
    found.cadran_sampler_accept.restype = None
    found.cadran_score.argtypes = (pointer, integer, integer, pointer)
    found.cadran_sampler_uniforms.argtypes = (ctypes.c_uint64, ctypes.c_uint64, _Doubles)
    found.cadran_sampler_uniforms.restype = None
    found.cadran_test_weigh.argtypes = (integer, pointer, integer, ctypes.c_double, pointer, pointer)
    return found


def uniforms(seed: int, position: int) -> tuple[float, float]:
    """As ``reference.uniforms``."""
    both = (ctypes.c_double * 2)()
    core().cadran_sampler_uniforms(seed, position, both)
    return both[0], both[1]


def describe(params: SamplingParams, seed: int) -> Sampling:
    """Parameters of one answer for the core; the structure keeps its arrays alive."""
    ids, biases = zip(*params.logit_bias, strict=True) if params.logit_bias else ((), ())
    breakers = params.dry_breakers
    described = Sampling(
        seed=seed,
        top_k=min(params.top_k, 2**31 - 1),
        breaker_count=len(breakers),
        bias_count=len(ids),
        breakers=(ctypes.c_int32 * len(breakers))(*breakers),
        bias_ids=(ctypes.c_int32 * len(ids))(*ids),
        bias_values=(ctypes.c_double * len(biases))(*biases),
    )
    for name in (*_NUMBERS, *_COUNTS):
        setattr(described, name, getattr(params, name))
    return described


class NativeSampler:
    """One answer, kept in the core.

    Args:
        params: how to choose.
        prompt: ids that the answer follows.
        seed: of this answer.

    Attributes:
        handle: address of the ``cadran_sampler``.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int], seed: int) -> None:
        self.params, self._core = params, core()
        ids = np.array(prompt, dtype=np.int32)
        described = describe(params, seed)
        handle = self._core.cadran_sampler_create(ctypes.byref(described), ids.ctypes.data, len(ids))
        if not handle:
            raise UserError(_REFUSALS[-4])
        self.handle: int = handle
        weakref.finalize(self, self._core.cadran_sampler_free, handle)

    def choose(self, logits: Logits, position: int, mask: Mask | None = None, wanted: Choice | None = None) -> int:
        """The token at a position; records nothing.

        Args:
            logits: shape (V,), contiguous.
            position: of the whole sequence.
            mask: shape (ceil(V / 32),); missing words forbid.
            wanted: filled in when given.

        Raises:
            UserError: the logits are no numbers, or nothing is allowed.
        """
        words = None
        if mask is not None:
            mask = np.ascontiguousarray(mask, dtype=np.uint32)
            missing = -(-len(logits) // 32) - len(mask)
            if missing > 0:
                mask = np.pad(mask, (0, missing))
            words = mask.ctypes.data
        token: int = self._core.cadran_sampler_choose(
            self.handle,
            logits.ctypes.data,
            len(logits),
            position,
            words,
            None if wanted is None else ctypes.byref(wanted),
        )
        if token == _BIAS:
            beyond = next(token for token, _ in self.params.logit_bias if token >= len(logits))
            raise UserError(
                f"the logit bias names token {beyond} and the vocabulary ends at {len(logits) - 1}; leave it out"
            )
        if token < 0:
            raise UserError(_REFUSALS[token])
        return token

    def accept(self, token: int) -> None:
        """Record a token of the answer, chosen or forced."""
        self._core.cadran_sampler_accept(self.handle, token)


def score(logits: Logits, token: int | None, top: int) -> Choice:
    """Log-probability of a token and the likeliest ones, from raw logits of shape (V,), contiguous.

    Raises:
        UserError: the logits are no numbers.
    """
    wanted = Choice(logprobs=1, top=top)
    error = core().cadran_score(logits.ctypes.data, len(logits), -1 if token is None else token, ctypes.byref(wanted))
    if error < 0:
        raise UserError(_REFUSALS[error])
    return wanted
