"""Promise 1 and 2 on the lead's side: whatever the backs say, and whenever, the text is the target's own.

The target is a model whose logits are a pure function of the tokens so far, so what it says without any back is known
beforehand; it runs in an engine that checks every call.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duo.draft.batch import next_batch
from duo.draft.draft import Draft
from duo.engines.base import ROOT
from duo.guesses import Expansion
from duo.prefix import Prefix
from duo.sampling.params import SamplingParams
from lead.decode.session import Committed, Session, Step
from lead.plan.tree import MAX_DEPTH, MAX_NODES
from tests.support.fakes import SIZE, CheckedEngine, FakeModel, flat_cost, params, tokens
from tests.support.texts import TARGET, text_without_backs
from tests.support.trees import check

BACKS = ["a", "b", "c"]


class Lead:
    """A session on the checked engine, as the decode loop drives it, and everything checked on the way."""

    def __init__(self, prompt: Sequence[int], sampling: SamplingParams, limit: int, eos: Collection[int] = ()) -> None:
        self.session = Session(
            id=1, prompt_length=len(prompt), params=sampling, prefix=Prefix(prompt), eos=eos, limit=limit
        )
        self.engine = CheckedEngine(TARGET)
        self.expected = text_without_backs(prompt, sampling, eos, limit)
        self.prompt = list(prompt)
        if len(prompt) > 1:
            self.engine.extend(0, prompt[:-1])

    @property
    def done(self) -> bool:
        return self.session.finish_reason is not None

    def step(self, draft_max: int = 8, floor: float = 0.08, first_id: int = 0, exact: bool = False) -> Step:
        session, before = self.session, list(self.session.prefix.tokens)
        drafted_before, accepted_before = session.total.drafted, session.total.accepted
        choose = session.tree.chain if exact else session.tree.best
        nodes = [node for node, _ in choose(draft_max, floor)]
        rows = session.rows(nodes, first_id)
        assert [row.id for row in rows] == list(range(first_id, first_id + len(nodes) + 1))
        if exact:
            assert [row.parent for row in rows] == [ROOT, *(row.id for row in rows[:-1])], "one line"
        step = session.verify(nodes, self.engine.forward(rows), first_id)
        self.engine.commit(0, step.path)

        assert session.prefix.tokens == [*before, *(c.token for c in step.committed)], "what is final stays"
        assert session.prefix.tokens == self.prompt + session.completion
        assert session.completion == self.expected[: len(session.completion)], "the text is the target's own"
        assert self.engine.committed == session.prefix.tokens[:-1]
        assert session.prefix.hash == Prefix(session.prefix.tokens).hash
        check(session.tree, session.prefix, MAX_NODES, MAX_DEPTH)

        # Every token but the last of a step had been guessed, and a guess that was picked is not rejected.
        assert 1 <= len(step.committed) <= 1 + len(nodes)
        assert all(c.backs for c in step.committed[:-1])
        accepted = sum(1 for c in step.committed if c.backs)
        assert list(step.drafted) == nodes
        assert len(step.rejected) == len(nodes) - accepted
        assert session.total.drafted - drafted_before == len(nodes)
        assert session.total.accepted - accepted_before == accepted
        assert all(0 <= t.accepted <= t.drafted <= session.total.drafted for t in session.by_back.values())
        assert self.done == (session.completion == self.expected)
        return step

    def finish(self) -> None:
        while not self.done:
            self.step()
        session = self.session
        assert session.completion == self.expected
        last_is_eos = session.completion[-1] in session.eos
        assert session.finish_reason == ("stop" if last_is_eos else "length")
        assert session.steps + session.total.accepted >= len(session.completion)


prompts = st.lists(tokens, min_size=1, max_size=8)


@st.composite
def guessed(draw: st.DrawFn, lead: Lead) -> Expansion:
    """A word of some back: right, wrong, about something long past or not yet there, or nonsense altogether."""
    if draw(st.integers(0, 7)) == 0:
        garbage = st.floats(width=32) | st.just(math.nan)
        return Expansion(
            draw(st.integers(0, 2**32 - 1)),
            draw(st.sampled_from([0, lead.session.prefix.hash, 2**64 - 1])),
            draw(st.lists(tokens, max_size=4)),
            draw(st.lists(garbage, max_size=6)),
        )
    # A place in the true text, near the last token more often than not, or one beside it.
    place = len(lead.session.completion) + draw(st.sampled_from([-3, -1, 0, 0, 0, 1, 1, 2, 3, 4, 9]))
    place = min(max(place, 0), len(lead.expected) - 1)
    path = lead.prompt + lead.expected[:place] + draw(st.lists(tokens, max_size=draw(st.sampled_from([0, 0, 1, 2]))))
    said = draw(st.lists(tokens, max_size=3))
    if draw(st.booleans()):
        said.insert(0, lead.expected[place])
    prefix = Prefix(path)
    return Expansion(len(prefix), prefix.hash, said, draw(st.lists(st.floats(0.05, 1), min_size=4, max_size=4)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_message_changes_the_text(data: st.DataObject) -> None:
    prompt, sampling = data.draw(prompts, "prompt"), data.draw(params(), "sampling")
    eos = data.draw(st.sampled_from([(), (0,), (3, 4)]), "eos")
    lead = Lead(prompt, sampling, len(prompt) + data.draw(st.integers(1, 30), "max_tokens"), eos)
    on_the_way: list[tuple[str, Expansion]] = []
    while not lead.done:
        # Words are said, arrive in any order, twice or never; some of them many steps later.
        for _ in range(data.draw(st.integers(0, 4), "said")):
            on_the_way.append((data.draw(st.sampled_from(BACKS)), data.draw(guessed(lead))))
        for _ in range(data.draw(st.integers(0, 6), "heard") if on_the_way else 0):
            back, expansion = data.draw(st.sampled_from(on_the_way))
            lead.session.tree.merge(expansion, back)
        lead.step(
            draft_max=data.draw(st.sampled_from([0, 1, 3, 8, 50]), "draft_max"),
            floor=data.draw(st.sampled_from([0.0, 0.08]), "floor"),
            first_id=data.draw(st.sampled_from([0, 7])),
            exact=data.draw(st.booleans(), "exact"),
        )
    lead.finish()
    assert set(lead.session.by_back) <= set(BACKS)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_real_drafts_on_a_bad_network_change_only_the_number_of_steps(data: st.DataObject) -> None:
    """Two backs of differing quality, whose words and whose news of commits come late and in bursts."""
    prompt, sampling = data.draw(prompts), data.draw(params())
    lead = Lead(prompt, sampling, len(prompt) + 40)
    sides = []
    for back, doubt in zip(BACKS, (0.2, 0.6), strict=False):
        sides.append((back, Draft(1, sampling, len(prompt), 6, flat_cost), CheckedEngine(FakeModel(doubt))))
    on_the_way: list[tuple[str, Expansion]] = []
    heard = 0
    while not lead.done:
        for back, draft, engine in sides:
            if data.draw(st.booleans(), f"{back} hears"):
                start = min(len(draft.prefix), max(0, len(draft.prefix) - data.draw(st.integers(0, 2))))
                draft.commit(start, lead.session.prefix.tokens[start:])
            for _ in range(data.draw(st.integers(0, 3), f"{back} drafts") if draft.prefix.tokens else 0):
                kept = draft.update_cache(100)
                engine.commit(0, kept.path, kept.rest)
                if kept.missing:
                    engine.extend(0, kept.missing)
                if rows := next_batch(draft, 0):
                    on_the_way += [(back, e) for e in draft.absorb(engine.forward(rows))]
        if data.draw(st.integers(0, 3), "network") and on_the_way:
            for back, expansion in on_the_way:
                heard += lead.session.tree.merge(expansion, back)
            on_the_way.clear()
        lead.step()
    lead.finish()
    assert lead.session.steps == len(lead.expected) - lead.session.total.accepted
    assert lead.session.total.accepted <= heard


def test_right_guesses_save_steps_and_wrong_ones_cost_none() -> None:
    def run(right: bool) -> Lead:
        lead = Lead([1, 2, 3], SamplingParams(temperature=0.8, seed=3), 43)
        while not lead.done:
            place = len(lead.session.completion)
            for ahead, token in enumerate(lead.expected[place : place + 4]):
                prefix = Prefix(lead.prompt + lead.expected[: place + ahead])
                said = token if right else (token + 1) % SIZE
                lead.session.tree.merge(Expansion(len(prefix), prefix.hash, [said], [0.9]), "a")
            lead.step(draft_max=4)
        return lead

    right, wrong = run(True), run(False)
    assert right.session.completion == wrong.session.completion == right.expected
    # Five tokens a step, the fifth the target's own; no guess is verified beyond the last token.
    assert right.session.steps == 8
    assert right.session.total == replace(right.session.total, drafted=32, accepted=32)
    assert wrong.session.steps == 40
    assert wrong.session.total.accepted == 0 < wrong.session.total.drafted
    assert wrong.session.by_back["a"] == wrong.session.total


def test_an_accepted_end_of_answer_ends_it() -> None:
    plain = Lead([1, 2, 3], SamplingParams(temperature=0), 30)
    # A token that first comes in the middle of the text.
    stop = next(t for i, t in enumerate(plain.expected) if i > 4 and t not in plain.expected[:i])
    lead = Lead([1, 2, 3], SamplingParams(temperature=0), 30, eos=[stop])
    assert len(lead.expected) < len(plain.expected)
    for i, token in enumerate(plain.expected):
        prefix = Prefix(lead.prompt + plain.expected[:i])
        lead.session.tree.merge(Expansion(len(prefix), prefix.hash, [token], [1.0]), "a")
    step = lead.step(draft_max=50)
    assert lead.session.finish_reason == "stop"
    assert [c.token for c in step.committed] == lead.expected == plain.expected[: len(lead.expected)]
    assert step.committed[-1].backs == ("a",)
    assert step.rejected == step.drafted[len(lead.expected) :], "what lies behind the end was for nothing"


def test_who_guessed_is_said_for_each_token() -> None:
    lead = Lead([1, 2, 3], SamplingParams(temperature=0), 30)
    first, second, third = lead.expected[:3]
    session = lead.session
    session.tree.merge(Expansion(3, session.prefix.hash, [first], [0.9]), "a")
    session.tree.merge(Expansion(3, session.prefix.hash, [first, (first + 1) % SIZE], [0.5, 0.4]), "b")
    after = Prefix([1, 2, 3, first])
    session.tree.merge(Expansion(4, after.hash, [second], [0.9]), "b")
    step = lead.step()
    assert [(c.token, c.backs) for c in step.committed] == [(first, ("a", "b")), (second, ("b",)), (third, ())]
    assert [node.token for node in step.rejected] == [(first + 1) % SIZE]
    assert {name: (t.drafted, t.accepted) for name, t in session.by_back.items()} == {"a": (1, 1), "b": (3, 2)}


def test_a_guess_that_was_not_verified_is_not_credited_but_lives_on() -> None:
    lead = Lead([1, 2, 3], SamplingParams(temperature=0), 30)
    first, second = lead.expected[:2]
    lead.session.tree.merge(Expansion(3, lead.session.prefix.hash, [first], [0.9]), "a")
    lead.session.tree.merge(Expansion(4, Prefix([1, 2, 3, first]).hash, [second], [0.9]), "a")
    step = lead.step(draft_max=0)
    assert [(c.token, c.backs) for c in step.committed] == [(first, ())]
    assert lead.session.total.drafted == 0
    assert list(lead.session.tree.root.children) == [second]
    assert lead.step(draft_max=1).committed[0].backs == ("a",)


def test_nothing_is_verified_past_the_limit() -> None:
    lead = Lead([1, 2, 3], SamplingParams(temperature=0), 6)
    for i, token in enumerate(lead.expected):
        prefix = Prefix(lead.prompt + lead.expected[:i])
        lead.session.tree.merge(Expansion(len(prefix), prefix.hash, [token], [1.0]), "a")
    step = lead.step()
    # Three tokens are left; the third can only be the target's own.
    assert len(step.drafted) == 2
    assert [bool(c.backs) for c in step.committed] == [True, True, False]
    assert lead.session.finish_reason == "length"


def test_log_probabilities_are_the_models_own_whatever_is_asked_of_the_sampler() -> None:
    sampling = SamplingParams(temperature=0.5, seed=4, top_k=3, logit_bias={1: 9.0})

    def run(top: int | None) -> list[Committed]:
        lead = Lead([1, 2, 3], sampling, 20)
        lead.session.top_logprobs = top
        done: list[Committed] = []
        while not lead.done:
            place = lead.session.completion
            guess = lead.expected[len(place)]
            lead.session.tree.merge(Expansion(3 + len(place), lead.session.prefix.hash, [guess], [0.9]), "a")
            done += lead.step().committed
        return done

    plain, asked = run(None), run(2)
    assert [c.token for c in plain] == [c.token for c in asked]
    assert all(c.logprobs is None for c in plain)
    path = [1, 2, 3]
    for done in asked:
        logits = TARGET.logits(path).astype(float)
        exact = logits - math.log(sum(math.exp(z) for z in logits))
        assert done.logprobs is not None
        assert done.logprobs.picked == pytest.approx(exact[done.token])
        assert [p for _, p in done.logprobs.top] == pytest.approx(sorted(exact, reverse=True)[:2])
        path.append(done.token)


@pytest.mark.parametrize(("prompt", "limit"), [([], 5), ([1, 2], 2), ([1, 2], 1)])
def test_a_session_needs_a_prompt_and_room(prompt: list[int], limit: int) -> None:
    with pytest.raises(ValueError, match="a session of limit"):
        Session(id=1, prompt_length=len(prompt), params=SamplingParams(), prefix=Prefix(prompt), eos=(), limit=limit)
