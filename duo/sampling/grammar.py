"""Answers that must follow a grammar: which tokens may come next, as a function of the answer so far.

A grammar is a text in llguidance's dialect of Lark and travels in `SamplingParams.grammar`. Lead and backs compile it,
each for its own vocabulary. Equal vocabularies allow equal tokens, so a draft guesses within the grammar what the
target picks within it. Their coupling stays, because noise belongs to a token and not to its place among the allowed.

Grammars come from the network, so their size and their cost are bounded. A grammar that cannot be followed is refused
when the request comes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from duo.engines.base import Vocabulary
from duo.errors import DeadEndError, RequestError
from duo.prefix import common_length
from duo.sampling.json_schema import one_line
from duo.sampling.params import MAX_GRAMMAR_BYTES, Ints
from duo.sampling.plain_schema import PARAM

LIMITS = LLParserLimits(max_lexer_states=50_000, max_grammar_size=100_000, verbose_errors=False)
"""For one answer: about 20 ms a token and 100 MB in all. A common schema needs a hundredth of that."""
MAX_COMPILED = 32
"""Grammars that stay compiled. Clients send the same one again and again."""


class Grammars:
    """The grammars of one vocabulary. Nothing is built before the first grammar comes.

    `lock`: for several threads.
    """

    def __init__(self, vocabulary: Vocabulary, lock: AbstractContextManager[object] | None = None) -> None:
        self._vocabulary = vocabulary
        self._lock = lock or nullcontext()
        self._compiled: dict[str, LLMatcher] = {}

    def check(self, grammar: str) -> None:
        """Raises RequestError for a grammar that cannot be used.

        Takes milliseconds. The first grammar of a large vocabulary takes a second.
        """
        self.constraint(grammar)

    def constraint(self, grammar: str) -> GrammarConstraint:
        """The constraint of one answer. Raises RequestError as `check` does."""
        try:
            size = len(grammar.encode("utf-8"))
        except UnicodeEncodeError:
            raise RequestError("the grammar is not Unicode text", PARAM) from None
        if size > MAX_GRAMMAR_BYTES:
            raise RequestError(f"the grammar has {size} bytes, at most {MAX_GRAMMAR_BYTES} are allowed", PARAM)
        if not self._vocabulary.eos:
            raise RequestError("the model has no token that ends an answer, which a grammar needs: use another", PARAM)
        with self._lock:
            matcher = self._compiled.pop(grammar, None) or self._compile(grammar)
            self._compiled[grammar] = matcher
            if len(self._compiled) > MAX_COMPILED:
                del self._compiled[next(iter(self._compiled))]
            # A copy has limits of its own: one answer does not use up those of another.
            return GrammarConstraint(matcher.deep_copy(), self._vocabulary.eos, self._vocabulary.size)

    def _compile(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        first = matcher.deep_copy()
        # Some errors and limits show only here.
        first.compute_bitmask()
        if first.is_error():
            raise RequestError(f"no answer can be made to follow the grammar: {one_line(first.get_error())}", PARAM)
        return matcher

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        words = TokenizerWrapper(_Words(self._vocabulary))
        return LLTokenizer(words, n_vocab=self._vocabulary.size, eos_token=sorted(self._vocabulary.eos))


class GrammarConstraint:
    """The tokens that a grammar allows, a function of the answer so far. Inside, one matcher moves from where it was
    asked last to where it is asked now. Not thread-safe."""

    def __init__(self, matcher: LLMatcher, eos: Collection[int], size: int) -> None:
        self._matcher = matcher
        self._eos = eos
        self._ends: Ints = np.array(sorted(eos), dtype=np.int64)
        self._size = size
        self._at: list[int] = []
        """What the matcher has consumed."""
        self._here: Ints | None = None
        """What is allowed there, once computed."""
        self._mask = b""
        self._tokens: Ints = self._ends
        """The tokens of the last mask. Inside a string one mask is like the next."""

    def allowed(self, completion: Sequence[int]) -> Ints:
        """Ids of the tokens that may follow: ascending, read-only. Where nothing can be added, and after the end, these
        are the tokens that end an answer.

        Raises DeadEndError if the completion does not follow the grammar, or if following it has become too costly.
        """
        tokens = list(completion)
        # The matcher never sees the end of an answer, because it could not go back from there.
        while tokens and tokens[-1] in self._eos:
            tokens.pop()
        self._go(tokens)
        if self._here is None:
            self._here = self._compute()
        if len(tokens) == len(completion):
            return self._here
        if not np.isin(self._ends, self._here).any():
            raise DeadEndError("the answer ended before its grammar allowed it")
        return self._ends

    def _go(self, tokens: list[int]) -> None:
        """Move the matcher to the end of these tokens, or as far as the grammar allows."""
        if tokens == self._at:
            return
        self._here = None
        shared = common_length(tokens, self._at)
        if shared < len(self._at):
            self._matcher.rollback(len(self._at) - shared)
            del self._at[shared:]
        if max(tokens[shared:], default=0) >= self._size:
            # The target may have more tokens. The matcher would not recover from one.
            raise DeadEndError("there is a token in it that the vocabulary lacks")
        consumed = self._matcher.try_consume_tokens(tokens[shared:])
        self._at += tokens[shared : shared + consumed]
        self._raise_if_broken()
        if len(self._at) < len(tokens):
            raise DeadEndError(f"token {tokens[len(self._at)]} at position {len(self._at)} is not of the grammar")

    def _compute(self) -> Ints:
        mask = self._matcher.compute_bitmask()
        self._raise_if_broken()
        if mask != self._mask:
            bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), count=self._size, bitorder="little")
            self._mask, self._tokens = mask, np.flatnonzero(bits).astype(np.int64, copy=False)
        return self._tokens

    def _raise_if_broken(self) -> None:
        if self._matcher.is_error():
            raise DeadEndError(
                f"the grammar became too complex after {len(self._at)} tokens, simplify it: "
                f"{one_line(self._matcher.get_error())}"
            )


class _Words:
    """A vocabulary in llguidance's form: the bytes of every token. No grammar allows special tokens: they have none."""

    bos_token_id = None
    special_token_ids: Sequence[int] = ()

    def __init__(self, vocabulary: Vocabulary) -> None:
        eos = vocabulary.eos
        self.eos_token_id = min(eos)
        self.tokens = [b"" if token in eos else vocabulary.token_bytes(token) for token in range(vocabulary.size)]
        self._by_bytes = {text: token for token, text in reversed(list(enumerate(self.tokens))) if text}
        self._longest = max(map(len, self.tokens))

    def __call__(self, text: bytes | str) -> list[int]:
        """The tokens of a text, greedily the longest first. Only grammars that prescribe tokens ask for it."""
        rest = text.encode() if isinstance(text, str) else text
        found: list[int] = []
        while rest:
            length = next((n for n in range(self._longest, 0, -1) if rest[:n] in self._by_bytes), 0)
            if length:
                found.append(self._by_bytes[rest[:length]])
            rest = rest[max(1, length) :]
        return found
