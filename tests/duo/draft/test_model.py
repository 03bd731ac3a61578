"""A draft model that serves several sessions: reading, drafting, and batches that are given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.harness.models import shipped
from duo.draft.model import DraftModel
from duo.draft.policy import MAX_BATCH_ROWS, MAX_RIDERS, TREE, row_capacity
from duo.engines import Engine, EngineOptions, load
from duo.engines.base import TREES, Rollback
from duo.engines.cost import CostCurve
from duo.errors import ContextError, ModelError, RequestError
from duo.program.trace_file import of_lead
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from duo.wire.messages import Welcomed
from tests.support.desk import FLAT, LONG, SURE, UNSURE, Desk, DraftEngine, Moody
from tests.support.fakes import FakeModel, hash_of, params
from tests.support.slotted import CHAINS, EOS, FORWARD, LINE_END, REPLAY


@pytest.fixture
def desk() -> Desk:
    return Desk(model=Moody())


def test_a_batch_is_given_up_when_the_answer_goes_elsewhere() -> None:
    """A commit that agrees, or one of another session, does not disturb it."""
    desk = Desk(model=FakeModel())
    desk.begin(7, [1, 5, 6])
    desk.work(1)
    guesses = desk.heard[7][0].tokens
    wrong = next(token for token in range(FakeModel.size) if token not in guesses)

    def completes(session: int, token: int) -> bool:
        desk.engine.meanwhile = lambda: desk.model.interrupt_obsolete(session, 3, [token])
        before = len(desk.engine.passes)
        desk.work(1)
        return len(desk.engine.passes) > before

    assert completes(7, guesses[0]), "what it guessed"
    assert completes(8, wrong), "another session"
    assert not completes(7, wrong)
    desk.engine.meanwhile = lambda: None
    desk.commit(7, [wrong])
    desk.work()
    assert desk.guessed(7)
    assert desk.draft(7).answered == 1 and desk.draft(7).guessed == 0


def test_a_batch_of_several_sessions_is_given_up_when_most_of_it_is_obsolete() -> None:
    desk = Desk(model=FakeModel())
    for session in (1, 2, 3):
        desk.begin(session, [session, 5, 6])

    def elsewhere(*sessions: int) -> None:
        def hear() -> None:
            for session in sessions:
                wrong = (desk.asked[session].picks(1)[0] + 1) % FakeModel.size
                desk.model.interrupt_obsolete(session, 3, [wrong])

        desk.engine.meanwhile = hear

    elsewhere(1)
    assert desk.work(1) and len(desk.engine.passes) == 1, "two thirds of it are good"
    elsewhere(1, 1, 1)
    assert desk.work(1) and len(desk.engine.passes) == 2, "that was one session, however often it is said"
    for session in (1, 2, 3):
        desk.commit(session, [11, 11])
    rows = [desk.draft(session).rows for session in (1, 2, 3)]

    def hear() -> None:
        for session in (1, 2):
            desk.model.interrupt_obsolete(session, 5, [0])
        assert all(not desk.draft(session).obsolete(5, []) for session in (1, 2, 3))

    desk.engine.meanwhile = hear
    desk.work(1)
    assert len(desk.engine.passes) == 2, "most of it is of no use"
    assert [desk.draft(session).rows for session in (1, 2, 3)] == rows
    desk.engine.meanwhile = lambda: None
    desk.work()
    assert all(desk.guessed(session) for session in (1, 2, 3)), "and is made up for"


def test_a_long_prompt_is_read_in_pieces_while_others_draft(desk: Desk) -> None:
    desk.begin(2, [SURE, 5, 6])
    desk.work(1)
    desk.begin(1, LONG)
    while desk.draft(1).backlog:
        read, drafted = len(desk.engine.chunks), len(desk.engine.passes)
        desk.work(2)
        assert len(desk.engine.chunks) == read + 1, "one piece"
        assert len(desk.engine.passes) == drafted + 1, "and one batch of the other session"
    chunks = [count for _, count in desk.engine.chunks]
    assert len(chunks) > 3 and sum(chunks) >= len(LONG) - 1 - MAX_RIDERS
    assert max(chunks) < desk.engine.batch
    desk.work()
    assert desk.guessed(1)


def test_alone_a_prompt_is_read_as_fast_as_can_be(desk: Desk) -> None:
    desk.begin(1, LONG)
    desk.work(5)
    assert max(count for _, count in desk.engine.chunks) == desk.engine.batch


def test_of_two_prompts_the_one_that_needs_least_is_read_first(desk: Desk) -> None:
    desk.begin(1, LONG)
    desk.begin(2, [UNSURE, *LONG[:30]])
    while not desk.guessed(2):
        assert desk.work(1)
    assert desk.draft(1).unread == len(LONG) - 1


def test_of_a_batch_that_has_no_room_the_longest_session_is_dropped(desk: Desk) -> None:
    desk.begin(1, [UNSURE, 5, 6])
    desk.begin(2, [UNSURE, 5, 6, 7])
    desk.engine.fault = ContextError("no room")
    desk.work(1)
    desk.engine.fault = None
    assert set(desk.drafting.sessions) == {1}
    desk.work()
    assert desk.guessed(1)


def test_what_one_session_asks_of_the_sampler_in_vain_does_not_concern_the_others(desk: Desk) -> None:
    class Refusing:
        def rank(self, *arguments: object) -> list[tuple[int, float]]:
            raise RequestError("this cannot be done here")

    for session in (1, 2, 3):
        desk.begin(session, [UNSURE, 5, session])
    desk.draft(2).sampler = Refusing()  # type: ignore[assignment]
    desk.work()
    assert set(desk.drafting.sessions) == {1, 3}
    assert desk.guessed(1) and desk.guessed(3)


def test_nothing_is_drafted_after_the_end_of_an_answer_unless_it_goes_on_there() -> None:
    @dataclass(frozen=True)
    class Ending(FakeModel):
        def logits(self, path: Sequence[int]) -> NDArray[np.float32]:
            logits = super().logits(path)
            logits[EOS] = 100.0 if len(path) == 5 else -100.0
            return logits

    desk = Desk(model=Ending(doubt=0.0))
    it = desk.begin(1, [EOS, 5, EOS])
    desk.work()
    assert desk.guessed(1), "a prompt may end with any token"
    lengths = {e.length for e in desk.heard[1]}
    assert max(lengths) == 5 and any(EOS in e.tokens for e in desk.heard[1])
    desk.commit(1, [desk.heard[1][0].tokens[0]])
    desk.work()
    desk.commit(1, [t for e in desk.heard[1] if e.hash == hash_of(it.tokens) for t in e.tokens][:1])
    desk.work()
    desk.commit(1, [EOS])
    assert desk.work() == 0
    desk.commit(1, [5])
    desk.work()
    assert desk.guessed(1) and not desk.draft(1).eos


@pytest.mark.parametrize("rollback", [CHAINS, REPLAY])
def test_a_model_without_branches_grows_a_tree_line_by_line(rollback: Rollback) -> None:
    """No row outlives its pass, so each pass reads the line to the place that it expands."""
    desk = Desk(n_ahead=16, engine=DraftEngine(Moody(0.4), 2, rollback, 16))
    for session, first in ((1, SURE), (2, UNSURE)):
        desk.begin(session, [first, 5, 6])
    desk.work()
    assert max(len({row.slot for row in rows}) for rows in desk.engine.passes) == 2, "one pass serves both"
    assert not any(part.rows for part in desk.engine.parts)
    sure, unsure = ([e.length for e in desk.heard[session]] for session in (1, 2))
    assert max(sure) - 3 == rollback.depth - 1, "as far as the model goes back"
    assert len(set(unsure)) < len(unsure), "and alternatives where it is unsure"
    desk.commit(1, desk.asked[1].picks(2))
    desk.work()
    assert desk.guessed(1)


def test_a_model_that_does_not_go_back_cannot_draft() -> None:
    engine = cast(Engine, DraftEngine(FakeModel(), 1, FORWARD))
    with of_lead(None) as trace, pytest.raises(ModelError, match=r"^fake cannot draft: on fake .*; choose another"):
        DraftModel(engine, CostCurve(FLAT), 8, TREE, trace, "drafter")


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_schedule_of_sessions_keeps_the_contract_and_guesses_at_the_right_places(data: st.DataObject) -> None:
    """The engine checks every call. Each guess is the draft model's own and is sent once. In the end there are guesses
    for every answer."""
    slots, n_ahead = data.draw(st.sampled_from([1, 2, 4]), "slots"), data.draw(st.sampled_from([2, 8, 40]), "n_ahead")
    rollback = data.draw(st.sampled_from([TREES, CHAINS, REPLAY]), "rollback")
    spacing = data.draw(st.sampled_from([0, 16]), "where a slot can be cut")
    rows = data.draw(st.sampled_from([None, None, 3 * slots, 40]), "room")
    desk = Desk(n_ahead=n_ahead, engine=DraftEngine(FakeModel(0.4), slots, rollback, spacing, rows))
    sampling = data.draw(params())
    tokens, new = st.integers(4, FakeModel.size - 1), 1
    beginning = data.draw(st.lists(tokens, min_size=1, max_size=60), "what prompts have in common")
    for _ in range(data.draw(st.integers(1, 40), "steps")):
        act = data.draw(st.sampled_from(["begin", "work", "work", "work", "agree", "agree", "any", "end", "give up"]))
        session = data.draw(st.sampled_from(sorted(desk.asked)), "session") if desk.asked else 0
        if act == "begin" and len(desk.asked) < 6:
            shared = beginning[: data.draw(st.integers(0, len(beginning)))]
            desk.begin(new, [*shared, *data.draw(st.lists(tokens, min_size=1, max_size=20))], sampling)
            new += 1
        elif act == "work":
            desk.work(data.draw(st.integers(1, 6)))
        elif act == "agree" and session:
            desk.commit(session, desk.asked[session].picks(data.draw(st.integers(1, 4))))
        elif act == "any" and session:
            desk.commit(session, data.draw(st.lists(tokens, min_size=1, max_size=3)))
        elif act == "give up":
            desk.engine.meanwhile = desk.engine.interrupt
            desk.work(1)
            desk.engine.meanwhile = lambda: None
        elif act == "end" and session:
            desk.end(session)
            assert sum(bool(part.rows) for part in desk.engine.parts) <= len(desk.seated())
    desk.work()
    for session, it in desk.asked.items():
        assert desk.guessed(session) or it.tokens[-1] == EOS or len(it.tokens) > desk.engine.context
        places = [(e.length, e.hash) for e in desk.heard[session]]
        assert len(set(places)) == len(places), "nothing is said twice"
        check(desk, session)
    assert all(len(rows) <= MAX_BATCH_ROWS for rows in desk.engine.passes)


def check(desk: Desk, session: int) -> None:
    """Guesses for places along the answer are the draft model's own."""
    it = desk.asked[session]
    sampler, said = Sampler(it.params, it.prompt), {e.hash: e for e in desk.heard[session]}
    for end in range(len(it.prompt), len(it.tokens) + 1):
        path = it.tokens[:end]
        if (e := said.get(hash_of(path))) is not None:
            assert e.length == end
            if not it.params.temperature:  # with noise the order goes by what had been learned by then
                ranked = sampler.rank(desk.engine.parts[0].model.logits(path), path[len(it.prompt) :], len(e.tokens))
                assert list(e.tokens) == [token for token, _ in ranked]


@pytest.mark.parametrize("runtime", ["llamacpp", "transformers"])
def test_a_real_model_guesses_for_each_of_several_sessions_what_it_guesses_alone(
    runtime: Literal["llamacpp", "transformers"],
) -> None:
    about = "The copyfile() function of the module shutil copies the contents of the file src to a file named dst. "
    texts = (about + "If dst", "Return the number of", about + "The metadata of the file", "Raises a")
    options = EngineOptions(threads=1, context=256, slots=3, tree_rows=row_capacity(3))
    engine = load(shipped("draft", runtime), runtime, options)
    prompts = dict(enumerate(map(engine.vocabulary.encode, texts)))
    try:

        def likeliest(desk: Desk, session: int) -> list[int]:
            """The likeliest line."""
            said, line = {e.hash: e.tokens for e in desk.heard[session]}, list(prompts[session])
            while (tokens := said.get(hash_of(line))) is not None:
                line.append(tokens[0])
            return line[len(prompts[session]) :]

        def lines(*sessions: int) -> dict[int, list[int]]:
            desk = Desk(real=engine, n_ahead=8)
            for session in sessions:
                desk.begin(session, prompts[session])
            desk.work()
            found = {session: likeliest(desk, session) for session in sessions}
            for session in sessions:
                desk.commit(session, found[session][:2])
            desk.work()
            assert all(desk.guessed(session) for session in sessions)
            for session in sessions:
                found[session] = likeliest(desk, session)
                desk.end(session)
            return found

        alone = {session: lines(session)[session] for session in prompts}
        together = lines(*prompts)
        for session, line in alone.items():
            # How far a line goes depends on what was learned of the model's claims by then, from all sessions.
            assert len(line) >= 3 and together[session][:3] == line[:3]
    finally:
        engine.close()


def test_another_padding_of_the_same_vocabulary(desk: Desk) -> None:
    """A token that only the target has is read as a harmless one. A token that only the draft has is not guessed."""
    size = FakeModel.size
    desk.drafting.hear(Welcomed("back", "target", size + 8))
    for session in (1, 2):
        desk.begin(session, [UNSURE, 5, session])
    desk.work()
    desk.commit(1, [size + 3])
    desk.commit(2, [6])
    desk.work()
    desk.commit(1, [5])
    desk.work()
    assert [session for session, _ in desk.drafting.known()] == [1, 2]
    assert desk.guessed(1) and desk.guessed(2)
    assert any(row.token == LINE_END for rows in desk.engine.passes for row in rows)
    desk.drafting.hear(Welcomed("back", "target", size - 2))
    desk.begin(3, [UNSURE, 5, 7], SamplingParams(temperature=0.0, logit_bias={size - 1: 100.0}))
    desk.work()
    assert desk.guessed(3)
    assert max(token for of in desk.heard[3] for token in of.tokens) < size - 2


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_what_means_something_else_to_the_target_is_not_guessed_and_harms_nothing(temperature: float) -> None:
    """In the prompt, in the answer and with a bias, whatever the sampling."""
    desk, differing = Desk(model=FakeModel(0.4)), (0, 6, 7)
    desk.drafting.hear(Welcomed("back", "target", FakeModel.size, differing))
    sampled = SamplingParams(temperature, repetition_penalty=1.3, presence_penalty=0.5, logit_bias={6: 50.0, 8: 0.5})
    desk.begin(1, [6, 0, 5, *LONG[:30]], sampled)
    for token in (7, 9, 0, FakeModel.size + 1000, 8):
        desk.commit(1, [token])
        desk.work()
        assert desk.guessed(1)
    guessed = {token for of in desk.heard[1] for token in of.tokens}
    assert guessed and not guessed & set(differing)
    read = {row.token for rows in desk.engine.passes for row in rows}
    assert 0 not in read and max(read) < FakeModel.size, "what it lacks is read as something that it has"
    # Another lead's target, which has the same vocabulary as the draft.
    desk.drafting.hear(Welcomed("back", "other target", FakeModel.size))
    desk.begin(2, [5, *LONG[:30]], SamplingParams(temperature, logit_bias={6: 50.0}))
    desk.work()
    assert 6 in {token for of in desk.heard[2] for token in of.tokens}
