"""Answers that follow a grammar: with both vocabularies, whatever is guessed, in whatever order it is asked."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLParserLimits

from duo.draft.model import DraftModel
from duo.draft.policy import TREE
from duo.engines import Engine, Row, Vocabulary
from duo.engines.cost import CostCurve
from duo.errors import DeadEndError, RequestError
from duo.guesses import Expansion
from duo.prefix import Prefix
from duo.program.trace_file import of_lead
from duo.sampling import grammar as constraint
from duo.sampling.grammar import Grammars
from duo.sampling.json_schema import of_json_object, of_json_schema, of_lark
from duo.sampling.params import MAX_GRAMMAR_BYTES, SamplingParams
from duo.trace import UNTRACED
from lead.decode.session import Session
from lead.plan.tree import Node
from tests.duo.sampling.conftest import SLOTS
from tests.support.sampling import ask

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["function", "class", "é module"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 8}, "maxItems": 2},
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/link"}]},
    },
    "required": ["name", "kind", "count", "tags", "next"],
    "additionalProperties": False,
    "$defs": {"link": {"type": "object", "properties": {"to": {"type": "boolean"}}, "required": ["to"]}},
}
SCHEMA["$defs"]["link"]["additionalProperties"] = False
GRAMMAR = of_json_schema(SCHEMA)
QUESTION = [{"role": "user", "content": "What does shutil.copytree do?"}]


def answers(
    engine: Engine, seeds: Sequence[int], guesses: Mapping[int, Sequence[int]] | None = None, limit: int = 200
) -> dict[int, Session]:
    """Answers under the schema, side by side in the slots of the engine, by seed. `guesses`: what the answers are said
    to be, with another token instead of every fourth, of the grammar or not."""
    vocabulary, grammars = engine.vocabulary, Grammars(engine.vocabulary)
    prompt = vocabulary.chat(QUESTION)
    sessions = {}
    for slot, seed in enumerate(seeds):
        sessions[seed] = session = Session(
            id=seed,
            prompt_length=len(prompt),
            params=SamplingParams(seed=seed, grammar=GRAMMAR),
            prefix=Prefix(prompt),
            eos=vocabulary.eos,
            limit=len(prompt) + limit,
            slot=slot,
            constraint=grammars.constraint(GRAMMAR),
        )
        engine.truncate(session.slot, 0)
        engine.extend(session.slot, prompt[:-1])
    while running := [session for session in sessions.values() if session.finish_reason is None]:
        rows: list[Row] = []
        parts: list[tuple[Session, list[Node], int]] = []
        for session in running:
            for ahead, token in enumerate((guesses or {}).get(session.id, [])[len(session.completion) :][:4]):
                place = Prefix(prompt + list((guesses or {})[session.id][: len(session.completion) + ahead]))
                wrong = (token + 1) % vocabulary.size if (session.id + len(place)) % 4 == 0 else token
                session.tree.merge(Expansion(len(place), place.hash, [wrong], [0.9]), "back")
            nodes = [node for node, _ in session.tree.best(4)]
            parts.append((session, nodes, len(rows)))
            rows += session.rows(nodes, len(rows))
        logits = engine.forward(rows)
        for session, nodes, first in parts:
            step = session.verify(nodes, logits[first:], first)
            engine.commit(session.slot, step.path)
    return sessions


def text_of(vocabulary: Vocabulary, session: Session) -> str:
    return vocabulary.decode(session.completion)


# -- Whole answers -------------------------------------------------------------------------------------------------


def check_valid(vocabulary: Vocabulary, session: Session) -> None:
    text = text_of(vocabulary, session)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert session.finish_reason == "stop" and session.completion[-1] in vocabulary.eos
    assert text == json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) or "\\" in text


@pytest.mark.slow
def test_answers_are_valid_and_the_same_with_guesses(target: Engine) -> None:
    plain = answers(target, range(SLOTS))
    guessed = answers(target, range(SLOTS), {seed: session.completion for seed, session in plain.items()})
    for seed, session in plain.items():
        check_valid(target.vocabulary, session)
        assert guessed[seed].completion == session.completion
        assert guessed[seed].steps < session.steps
        assert 0 < guessed[seed].total.accepted < guessed[seed].total.drafted
    assert len({text_of(target.vocabulary, session) for session in plain.values()}) > SLOTS // 2


@pytest.mark.slow
def test_all_answers_are_valid(target: Engine) -> None:
    for first in range(0, 48, SLOTS):
        for session in answers(target, range(first, first + SLOTS)).values():
            check_valid(target.vocabulary, session)


def test_a_draft_guesses_within_the_grammar(target: Engine, draft: Engine) -> None:
    """A back of the other runtime: nothing it says is wrong by the grammar, and some of it is right."""
    (session,) = answers(target, [3]).values()
    params, prompt = session.params, session.prefix.tokens[: session.prompt_length]
    with of_lead(None) as trace:
        model = DraftModel(draft, CostCurve({1: 1.0, 8: 1.7}), 8, TREE, trace, "back")
    mine = model.open(1, params, len(prompt))
    mine.commit(0, prompt)
    model.ensure_slot(mine)
    allowed = Grammars(target.vocabulary).constraint(params.grammar)
    right = 0
    for at in range(len(session.completion) - 1):
        while mine.backlog:
            model.read(mine)
        for expansion in [each for found in model.expand([mine]) for each in found.expansions]:
            if expansion.length == len(prompt) + at:
                within = set(allowed.allowed(session.completion[:at]).tolist())
                assert set(expansion.tokens) <= within
                right += session.completion[at] in expansion.tokens
        mine.commit(len(prompt) + at, [session.completion[at]])
    assert right > 0


def test_a_draft_without_use_for_the_grammar_goes_on_without_it(
    draft: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with of_lead(None) as trace:
        model = DraftModel(draft, CostCurve({1: 1.0, 8: 1.7}), 8, TREE, trace, "back")
    for session in range(2):
        opened = model.open(session, SamplingParams(grammar="start: nonsense"), 3)
        assert opened.constraint is None
    assert len(caplog.messages) == 1 and "grammar" in caplog.messages[0]
    assert model.open(3, SamplingParams(grammar=GRAMMAR), 3).constraint is not None


def test_a_back_without_llguidance_drafts_without_grammars(
    draft: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    monkeypatch.delitem(sys.modules, "duo.sampling.grammar")
    model = DraftModel(draft, CostCurve({1: 1.0, 8: 1.7}), 8, TREE, UNTRACED, "back")
    for session in range(2):
        assert model.open(session, SamplingParams(grammar=GRAMMAR), 3).constraint is None
    (said,) = caplog.messages
    assert said.endswith("llguidance is not installed: pip install '.[grammar]' in the folder of duo's sources")


# -- A function of the answer so far -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grammars(draft: Engine) -> Grammars:
    return Grammars(draft.vocabulary)


@pytest.fixture(scope="module")
def walks(draft: Engine, grammars: Grammars) -> list[list[int]]:
    """Ways through the schema of random tokens, and others that leave it."""
    vocabulary, rng = draft.vocabulary, random.Random(7)
    found: list[list[int]] = []
    for walk in range(12):
        follow = grammars.constraint(GRAMMAR)
        tokens: list[int] = []
        while len(tokens) < 40 and not (tokens and tokens[-1] in vocabulary.eos):
            tokens.append(int(rng.choice(follow.allowed(tokens).tolist())))
        if walk % 3 == 2:
            tokens[rng.randrange(len(tokens))] = rng.randrange(vocabulary.size)
        found.append(tokens)
    return found


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_order_of_questions_does_not_matter(
    grammars: Grammars, walks: list[list[int]], data: st.DataObject
) -> None:
    one = grammars.constraint(GRAMMAR)
    for _ in range(data.draw(st.integers(1, 12), "questions")):
        walk = data.draw(st.sampled_from(walks), "walk")
        completion = walk[: data.draw(st.integers(0, len(walk)), "length")]
        assert ask(one, completion) == ask(grammars.constraint(GRAMMAR), completion)


def test_both_runtimes_allow_the_same(
    vocabulary: Vocabulary, draft: Engine, grammars: Grammars, walks: list[list[int]]
) -> None:
    other = draft.vocabulary
    assert [vocabulary.token_bytes(t) for t in range(vocabulary.size)] == [
        other.token_bytes(t) for t in range(other.size)
    ]
    for walk in walks:
        ours, theirs = Grammars(vocabulary).constraint(GRAMMAR), grammars.constraint(GRAMMAR)
        for length in range(len(walk) + 1):
            assert ask(ours, walk[:length]) == ask(theirs, walk[:length])


def pattern(text: str) -> str:
    """The grammar of a regular expression."""
    return of_lark(f"start: /{text}/\n")


def test_only_the_end_is_left_when_the_text_is_complete(vocabulary: Vocabulary) -> None:
    follow = Grammars(vocabulary).constraint(pattern("ab+"))
    ends = sorted(vocabulary.eos)

    def allowed(text: str, *more: int) -> list[int] | None:
        return ask(follow, [*vocabulary.encode(text), *more])

    assert not set(allowed("a") or ()) & vocabulary.eos
    assert set(allowed("ab") or ()) > vocabulary.eos, "it may end, and go on"
    assert allowed("ab", ends[0]) == allowed("ab", *ends) == ends
    assert allowed("a", ends[0]) is None, "ended too early"
    assert allowed("ac") is None
    assert allowed("c") is None
    assert allowed("abb") == allowed("ab"), "a dead end does no harm to what is asked next"
    follow = Grammars(vocabulary).constraint(pattern("ab"))
    assert allowed("ab") == ends


def test_a_token_that_the_vocabulary_lacks_does_not_break_it(vocabulary: Vocabulary) -> None:
    """As another model may have that differs in a few tokens."""
    follow = Grammars(vocabulary).constraint(pattern("ab+"))
    tokens = vocabulary.encode("ab")
    allowed = ask(follow, tokens)
    assert allowed and ask(follow, [*tokens, vocabulary.size]) is None
    assert ask(follow, [tokens[0], 2**31]) is None
    assert ask(follow, tokens) == allowed


def test_text_of_many_bytes_and_odd_characters(vocabulary: Vocabulary) -> None:
    text = 'é漢/"\\\n// #'
    for grammar in (of_json_schema({"enum": [text]}), of_lark(f"start: {json.dumps(json.dumps(text))}")):
        follow = Grammars(vocabulary).constraint(grammar)
        tokens: list[int] = []
        while not (tokens and tokens[-1] in vocabulary.eos):
            tokens.append(int(follow.allowed(tokens)[0]))
        assert json.loads(vocabulary.decode(tokens)) == text
    follow = Grammars(vocabulary).constraint(pattern(r"a\/b\/c\n\d+"))
    assert set(ask(follow, vocabulary.encode("a/b/c\n12")) or ()) > vocabulary.eos


def test_special_tokens_are_no_text(vocabulary: Vocabulary) -> None:
    follow = Grammars(vocabulary).constraint(pattern(r"(?s:.*)"))
    special = {t for t in range(vocabulary.size) if not vocabulary.token_bytes(t)}
    assert len(special) == 3
    assert set(ask(follow, []) or ()) & special == vocabulary.eos


# -- What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grammar", ["", "nonsense", "{}", "a\ud800", of_lark("start: missing"), "a" * (MAX_GRAMMAR_BYTES + 1)]
)
def test_malformed_grammars(vocabulary: Vocabulary, grammar: str) -> None:
    with pytest.raises(RequestError) as caught:
        Grammars(vocabulary).check(grammar)
    assert caught.value.param == "response_format" and "\n" not in str(caught.value)


def test_a_grammar_that_is_too_long() -> None:
    with pytest.raises(RequestError, match="65537 bytes"):
        SamplingParams(grammar="a" * (MAX_GRAMMAR_BYTES + 1))


def test_what_takes_too_much_is_a_dead_end(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraint, "LIMITS", LLParserLimits(max_lexer_states=40, verbose_errors=False))
    follow = Grammars(vocabulary).constraint(pattern("(ab*c+d?e*){1,200}"))
    text = vocabulary.encode("abcabbccde" * 30)
    last = next(length for length in range(len(text)) if ask(follow, text[:length]) is None)
    with pytest.raises(DeadEndError, match="too complex") as caught:
        follow.allowed(text[:last])
    assert "\n" not in str(caught.value)


def test_a_model_without_an_end_cannot_follow_a_grammar() -> None:
    class Endless:
        eos: frozenset[int] = frozenset()
        size = 3

    with pytest.raises(RequestError, match="ends an answer"):
        Grammars(Endless()).check(of_json_object())  # type: ignore[arg-type]
