"""The limit on thinking: when it ends, and that only the answer so far decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from duo.sampling.params import Ints
from duo.sampling.thinking import ThinkingConstraint, ThinkingLimit

WORDS: Sequence[str | bytes] = [
    "<think>",
    "</think>",
    "a",
    " b",
    "</",
    "think",
    ">",
    "日".encode()[:1],
    "日".encode()[1:2],
    "日".encode()[2:],
    "`",
]
OPEN, CLOSE, A, B, C1, C2, C3, D1, D2, D3, QUOTE = range(11)
NAMES = {OPEN: "<think>", CLOSE: "</think>"}


def spell(token: int) -> bytes:
    word = WORDS[token]
    return b"" if token in NAMES else word if isinstance(word, bytes) else word.encode()


def limit(
    budget: int, begun: bool = True, ending: Sequence[int] = (CLOSE,), after: Sequence[int] = ()
) -> ThinkingLimit:
    return ThinkingLimit(budget, begun, ["<think>"], ["</think>"], ending, NAMES, after)


def within(constraint: ThinkingConstraint, *tokens: int) -> list[int] | None:
    """What may follow; None: anything."""
    allowed = constraint.allowed(tokens)
    return None if allowed is None else [int(token) for token in allowed]


def forced(given: ThinkingLimit, *tokens: int) -> list[int] | None:
    """What must follow, of a constraint that is asked once."""
    return within(ThinkingConstraint(given, spell), *tokens)


def test_thinking_ends_when_its_tokens_are_used_up() -> None:
    assert forced(limit(2), A) is None
    assert forced(limit(2), A, B) == [CLOSE]
    assert forced(limit(2), A, B, CLOSE) is None
    assert forced(limit(2), A, CLOSE, A, B, A) is None, "thinking ended by itself"
    assert forced(limit(0)) == [CLOSE]
    # A second time, what is left counts.
    assert forced(limit(2), A, CLOSE, B, OPEN) is None
    assert forced(limit(2), A, CLOSE, B, OPEN, A) == [CLOSE]


def test_thinking_that_the_answer_opens_itself() -> None:
    assert forced(limit(1, begun=False), A, A, A) is None
    assert forced(limit(1, begun=False), A, OPEN) is None
    assert forced(limit(1, begun=False), A, OPEN, B) == [CLOSE]
    assert forced(limit(0, begun=False), OPEN) == [CLOSE]
    assert forced(limit(0, begun=False), A, QUOTE, OPEN, *[A] * 20) is None, "it is spoken of"


def test_a_mark_of_several_tokens() -> None:
    several = limit(2, ending=(C1, C2, C3))
    assert forced(several, A, A) == [C1]
    assert forced(several, A, A, C1) == [C2]
    assert forced(several, A, A, C1, C2) == [C3]
    assert forced(several, A, A, C1, C2, C3) is None
    assert forced(several, A, C1, C2) == [C1], "the model's own beginning of the mark counts as thinking"
    assert forced(limit(3, ending=(C1, C2, C3)), C1, C2, C3, A, A, A) is None, "the model wrote it itself"


def test_what_follows_the_mark_is_a_part_of_the_ending() -> None:
    """As where thinking and answer are channels: the ending opens the next one."""
    channels = limit(1, ending=(CLOSE, A, B))
    assert forced(channels, A) == [CLOSE]
    assert forced(channels, A, CLOSE) == [A]
    assert forced(channels, A, CLOSE, A) == [B]
    assert forced(channels, A, CLOSE, A, B) is None


def test_one_of_some_tokens_comes_after_the_ending() -> None:
    """As where a channel must be chosen that is not one of thinking."""
    for ending in ((CLOSE,), (CLOSE, C1)):
        channels = limit(1, ending=ending, after=(B, A))
        assert forced(channels, A, *ending) == [A, B]
        assert forced(channels, A, *ending, A) is None
        assert forced(channels, A, *ending, B, A, A) is None
        assert forced(channels, A, *ending, A, OPEN) == [CLOSE], "thinking again has no budget left"
        assert forced(channels, A, *ending, A, OPEN, *ending) == [A, B]
        assert within(ThinkingConstraint(channels, spell, Only(A, D1, *ending)), A, *ending) == [A]
        assert within(ThinkingConstraint(channels, spell, Only(D1, D2)), A, *ending) == [D1, D2]
    assert forced(limit(9, after=(A,)), A, CLOSE) is None, "thinking ended by itself"


def test_no_character_is_cut() -> None:
    assert forced(limit(1), D1) is None
    assert forced(limit(1), D1, D2) is None
    assert forced(limit(1), D1, D2, D3) == [CLOSE]
    assert forced(limit(1), D1, D1, D1, D1) == [CLOSE], "not for ever"
    assert forced(limit(2), D1, A) == [CLOSE]


class Only:
    """Allows some tokens, wherever it is asked."""

    def __init__(self, *tokens: int) -> None:
        self._tokens: Ints = np.array(tokens, dtype=np.int64)

    def allowed(self, completion: Sequence[int]) -> Ints:
        return self._tokens


def test_a_grammar_has_the_last_word() -> None:
    both = ThinkingConstraint(limit(1), spell, Only(A, CLOSE))
    assert within(both) == [A, CLOSE] and within(both, A) == [CLOSE]
    assert within(ThinkingConstraint(limit(1), spell, Only(A, B)), A) == [A, B]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, len(WORDS) - 1), max_size=12), min_size=1, max_size=6),
    st.integers(0, 4),
    st.booleans(),
    st.sampled_from([(CLOSE,), (C1, C2, C3), (CLOSE, A, B)]),
    st.sampled_from([(), (A, C1)]),
)
def test_only_the_answer_so_far_decides(
    asked: list[list[int]], budget: int, begun: bool, ending: tuple[int, ...], after: tuple[int, ...]
) -> None:
    given = limit(budget, begun, ending, after)
    constraint = ThinkingConstraint(given, spell)
    for tokens in asked:
        assert within(constraint, *tokens) == forced(given, *tokens)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, QUOTE - 1), min_size=30, max_size=30), st.integers(0, 4), st.booleans())
def test_an_answer_that_obeys_never_thinks_for_longer(wished: list[int], budget: int, begun: bool) -> None:
    given = limit(budget, begun)
    constraint = ThinkingConstraint(given, spell)
    tokens: list[int] = []
    thinks, used = begun, 0
    for wish in wished:
        allowed = constraint.allowed(tokens)
        tokens.append(wish if allowed is None else int(allowed[0]))
        text = b"".join(NAMES[t].encode() if t in NAMES else spell(t) for t in tokens)
        before, thinks = thinks, text.rfind(b"<think>") > text.rfind(b"</think>") or (begun and b"</think>" not in text)
        used += before and thinks
        assert used <= budget + 3, "three bytes more may complete a character"
