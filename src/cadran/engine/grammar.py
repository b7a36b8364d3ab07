"""What an answer must look like, and which tokens may come next: JSON Schema, regular expression, choice, grammar.

The work is done by the library ``llguidance`` (an Earley parser over lexemes whose automata are built as they are
needed). This file makes it fit: stop ids, tokens that must come, one sentence for what is wrong with a grammar. A
grammar comes from whoever asks for an answer, so its size and the work for one token are limited, and nothing here may
raise anything but ``UserError`` for it.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cadran.engine.grammars.complaint import complaint
from cadran.engine.grammars.source import bounded, parsed_schema, rules_grammar, schema_grammar
from cadran.engine.grammars.vocabulary import GrammarVocabulary
from cadran.errors import UserError
from cadran.files import sha256_text
from cadran.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits

Mask = npt.NDArray[np.uint32]

_KEPT = 64  # compiled grammars


class Matcher:
    """Follows one answer through a grammar.

    Args:
        kind: what the grammar is, for messages.
        library: the library's matcher, not used elsewhere.
        vocabulary: of the model.
        stop_ids: ids that end the answer.
    """

    def __init__(
        self, kind: str, library: "LLMatcher", vocabulary: GrammarVocabulary, stop_ids: frozenset[int]
    ) -> None:
        self._kind, self._library, self._vocabulary, self._stop_ids = kind, library, vocabulary, stop_ids
        self._words = np.zeros(-(-vocabulary.size // 32), np.uint32)
        for id in stop_ids:
            self._words[id // 32] |= np.uint32(1 << id % 32)
        # What must come and how much of it has come. Masks and forced tokens both follow this plan, so they never say
        # different things, and a long run is worked out once. Those of earlier states are kept for going back.
        self._plan: tuple[int, ...] = ()
        self._place = 0
        self._earlier: list[tuple[tuple[int, ...], int] | None] = []  # None: a stop id, which the library never sees
        self._finished = False

    @property
    def ended(self) -> bool:
        """Whether nothing but a stop id can come."""
        return self._finished or self._library.is_stopped()

    @property
    def can_end(self) -> bool:
        """Whether the answer may end here."""
        return self._finished or self._library.is_accepting()

    def mask(self) -> Mask:
        """Which tokens may come next; the stop ids exactly where the answer may end.

        Returns:
            Shape (ceil(V / 32),), uint32, a new array: token i may come when bit ``i % 32`` of word ``i // 32`` is set.

        Raises:
            UserError: following the grammar became too costly, or no token of the vocabulary can go on.
        """
        must = self._must()
        if self.ended:
            return self._words.copy()
        if must is not None:
            words = np.zeros_like(self._words)
            words[must // 32] = 1 << must % 32
            return words
        size = self._vocabulary.size
        buffer = np.zeros(-(-len(self._vocabulary.tokens) // 32), np.uint32)
        self._library.unsafe_compute_mask_ptr(buffer.ctypes.data, buffer.nbytes)
        self._check()
        ends = bool(buffer[size // 32] >> np.uint32(size % 32) & np.uint32(1))
        words = buffer[: len(self._words)]
        if size % 32:
            words[-1] &= np.uint32((1 << size % 32) - 1)
        if ends:
            words |= self._words
        if not ends and not words.any():
            raise UserError(
                "the grammar asks for a text that this model's vocabulary cannot write; ask for other characters"
            )
        return words

    def forced(self) -> list[int]:
        """Tokens that must come now, one after the other; mask allows each of them alone. May be empty.

        Raises:
            UserError: following the grammar became too costly.
        """
        return [] if self._must() is None else list(self._plan[self._place :])

    def accept(self, token: int) -> None:
        """Go on by a token that came.

        Raises:
            UserError: it cannot come here; the matcher is as before.
        """
        if not self._finished and token in self._stop_ids and self.can_end:
            self._finished = True
            self._earlier.append(None)
            return
        if not self.ended and 0 <= token < self._vocabulary.size and self._library.try_consume_tokens([token]) == 1:
            self._earlier.append((self._plan, self._place))
            planned = self._place < len(self._plan) and self._plan[self._place] == token
            self._plan, self._place = (self._plan, self._place + 1) if planned else ((), 0)
            return
        self._check()
        raise UserError(f"token {token} cannot come here in the grammar; choose one that its mask allows")

    def rollback(self, tokens: int) -> None:
        """Take back the last accepted tokens.

        Raises:
            UserError: fewer were accepted.
        """
        if not 0 <= tokens <= len(self._earlier):
            raise UserError(
                f"{tokens} tokens cannot be taken back, {len(self._earlier)} were accepted; take back fewer"
            )
        if not tokens:
            return
        taken = self._earlier[-tokens:]
        followed = [before for before in taken if before is not None]
        if followed:
            self._library.rollback(len(followed))
            self._plan, self._place = followed[0]
        self._finished = self._finished and None not in taken
        del self._earlier[-tokens:]

    def copy(self) -> "Matcher":
        """One that goes its own way from here."""
        twin = Matcher(self._kind, self._library.deep_copy(), self._vocabulary, self._stop_ids)
        twin._plan, twin._place, twin._finished = self._plan, self._place, self._finished
        twin._earlier = list(self._earlier)
        return twin

    def _must(self) -> int | None:
        """The token that must come now, if there is one."""
        self._check()  # the library calls a broken matcher stopped too
        if self.ended:
            return None
        if self._place == len(self._plan):
            plan = self._library.compute_ff_tokens()
            self._check()
            # What only tokens past the vocabulary could spell is left to the mask, which says so.
            writable = next((place for place, id in enumerate(plan) if id >= self._vocabulary.size), len(plan))
            self._plan, self._place = tuple(plan[:writable]), 0
        return self._plan[self._place] if self._plan else None

    def _check(self) -> None:
        if not self._library.is_error():
            return
        problem = self._library.get_error()
        if "NoExtensionBias" in problem:
            raise UserError(f"nothing fits this {self._kind} here; loosen what it demands")
        raise UserError(f"this {self._kind} is too costly to follow: {complaint(problem)}; make it simpler")


class Grammar:
    """A compiled grammar, which any number of answers share; equal ones have equal keys.

    Attributes:
        key: kind and SHA-256 of the grammar and of the tokenizer.
    """

    def __init__(
        self, key: str, kind: str, library: "LLMatcher", vocabulary: GrammarVocabulary, stop_ids: Iterable[int]
    ) -> None:
        self.key = key
        self._kind, self._library, self._vocabulary, self._stop_ids = kind, library, vocabulary, frozenset(stop_ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grammar) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def matcher(self, stop_ids: Sequence[int] | None = None) -> Matcher:
        """A matcher at the start of an answer (a few microseconds; what was learnt of the grammar is shared).

        Args:
            stop_ids: ids that end the answer; None for those that the compiler was made with.
        """
        ids = self._stop_ids if stop_ids is None else stop_ids
        stops = frozenset(id for id in ids if 0 <= id < self._vocabulary.size)
        return Matcher(self._kind, self._library.deep_copy(), self._vocabulary, stops)


class GrammarCompiler:
    """Makes grammars for one vocabulary and keeps those that were used last. Threads may share it.

    Args:
        tokenizer: of the model.
        stop_ids: ids that end an answer; the tokenizer's own when none are named.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int] | None = None) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = tuple(tokenizer.eos_ids if stop_ids is None else stop_ids)
        self._compiled: OrderedDict[str, Grammar] = OrderedDict()
        self._vocabulary: GrammarVocabulary | None = None
        self._lock = Lock()

    def described(self, description: Mapping[str, Any]) -> Grammar:
        """The grammar of a description with one key.

        Args:
            description: ``{"json_schema": ...}``, ``{"json_object": True}``, ``{"regex": ...}``, ``{"choice": [...]}``
                or ``{"ebnf": ...}``.

        Raises:
            UserError: it is none of these, or no grammar, or nothing can match it.
        """
        match dict(description):
            case {"json_schema": schema, **rest} if not rest:
                return self.json_schema(schema)
            case {"json_object": True, **rest} if not rest:
                return self.json_object()
            case {"regex": str(pattern), **rest} if not rest:
                return self.regex(pattern)
            case {"choice": [*texts], **rest} if not rest:
                return self.choice(texts)
            case {"ebnf": str(rules), **rest} if not rest:
                return self.ebnf(rules)
        raise UserError("a grammar is one of json_schema, json_object, regex, choice and ebnf; give one of them")

    def json_schema(self, schema: Mapping[str, Any] | str | bool) -> Grammar:
        """JSON that a schema describes, its properties in the order of the schema, with little white space.

        Args:
            schema: JSON Schema (draft 2020-12) as a mapping or as JSON.

        Raises:
            UserError: it is not a schema, says something that cannot be enforced, or nothing fits it.
        """
        content, text = parsed_schema(schema)
        return self._kept("JSON schema", text, lambda: schema_grammar(content, text))

    def json_object(self) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Grammar:
        """Text that a regular expression matches from its beginning to its end.

        Args:
            pattern: in the syntax of the Rust crate ``regex``, which has no lookaround and no backreferences.

        Raises:
            UserError: it is invalid, not supported or matches nothing.
        """
        from llguidance import LLMatcher

        text = bounded("regular expression", pattern)
        return self._kept("regular expression", text, lambda: LLMatcher.grammar_from_regex(text))

    def choice(self, choices: Sequence[str]) -> Grammar:
        """One of several texts.

        Raises:
            UserError: there is none, or the vocabulary cannot write one of them.
        """
        from llguidance import LLMatcher

        if isinstance(choices, str) or not choices or not all(isinstance(choice, str) for choice in choices):
            raise UserError('the choices are not a list of one or more texts; give for example ["yes", "no"]')
        names = [json.dumps(bounded("choice", choice), ensure_ascii=False) for choice in dict.fromkeys(choices)]
        text = bounded("list of choices", " | ".join(names))
        vocabulary = self.vocabulary
        for choice in choices if not vocabulary.spells_all else ():
            if not vocabulary.spells(choice):
                raise UserError(f"this model's vocabulary cannot write the choice {choice[:40]!r}; word it otherwise")
        # As one terminal they are one automaton, however many they are; a terminal does not match the empty text.
        rest = [name for name in names if name != '""']
        lark = "start: " + " | ".join(["CHOICE"] * bool(rest) + ['""'] * (len(rest) < len(names)))
        lark += f"\nCHOICE: {' | '.join(rest)}\n" if rest else "\n"
        return self._kept("list of choices", text, lambda: LLMatcher.grammar_from_lark(lark))

    def ebnf(self, grammar: str) -> Grammar:
        """Text that a context-free grammar derives.

        Args:
            grammar: GBNF (rules with ``::=``, the first one called ``root``) or Lark (rules with ``:``, ``start``).

        Raises:
            UserError: it is invalid, or derives nothing.
        """
        text = bounded("grammar", grammar)
        return self._kept("grammar", text, lambda: rules_grammar(text))

    @property
    def vocabulary(self) -> GrammarVocabulary:
        """The vocabulary as the library knows it, made when it is first asked for."""
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = GrammarVocabulary(self._tokenizer)
            return self._vocabulary

    def _kept(self, kind: str, text: str, translate: Callable[[], str]) -> Grammar:
        key = f"{kind} {sha256_text(text + self._tokenizer.fingerprint)}"
        with self._lock:
            if key in self._compiled:
                self._compiled.move_to_end(key)
                return self._compiled[key]
        grammar = self._made(key, kind, translate)
        with self._lock:
            self._compiled[key] = grammar
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return grammar

    def _made(self, key: str, kind: str, translate: Callable[[], str]) -> Grammar:
        from llguidance import LLMatcher

        vocabulary = self.vocabulary
        try:
            library = LLMatcher(vocabulary.library, translate(), log_level=0, limits=_limits())
            problem = library.get_error()
            grammar = Grammar(key, kind, library, vocabulary, self._stop_ids)
            # Only the first mask tells that nothing fits.
            if not problem and not grammar.matcher(()).mask().any():
                raise UserError(f"nothing but the empty text fits this {kind}; let it say something")
        except UserError:
            raise
        except BaseException as error:
            # The library raises bare ``Exception``, and its panics are not even that.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            problem = str(error)
        if problem:
            raise UserError(f"this {kind} cannot be enforced: {complaint(problem)}; change or leave out that part")
        return grammar


def _limits() -> "LLParserLimits":
    """Tighter than the library's own: a state takes one or two kilobytes, and the time of a step grows with the ways
    in which it can go on. 1,200 of them are about 300 optional properties.
    """
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=1200,
        step_max_items=20_000,
        max_lexer_states=50_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )
