"""How the lead compares a back's vocabulary with its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from duo.engines.meaning import MAX_DIFFERING
from duo.errors import RefusedError
from duo.v1 import duo_pb2 as pb
from duo.wire.back_side import BackSide
from duo.wire.lead_side import LeadSide
from duo.wire.ledger import Ledger
from duo.wire.messages import (
    COMPARED_WITHIN,
    LOST_AFTER,
    MAX_MESSAGE_BYTES,
    MIN_MEANINGS,
    Begun,
    Identity,
    Welcomed,
)
from tests.support.wire import (
    BACK,
    LEAD,
    MEANINGS,
    SAMPLING,
    SIZE,
    Back,
    drain,
    entry,
    hello,
    one_line,
    refused,
)


def test_another_vocabulary_is_refused() -> None:
    strange = [b"\x1b[31m\xff\n" * 9, *MEANINGS[: SIZE - 10]]
    told = pb.BackMessage(meanings=pb.Meanings(meanings=strange)).SerializeToString()
    error = refused(hello(model="dr\naft\x1b[31m" + "x" * 1000, vocabulary_fingerprint="other"), told)
    assert "another vocabulary" in str(error) and "target-13m" in str(error)
    assert ": 1000 of 1000 tokens differ, the first is 0: '0' in the target, " in str(error)
    assert isinstance(error, RefusedError) and error.reason == pb.Refusal.REASON_VOCABULARY


def test_a_back_that_looks_for_a_model_is_shown_the_vocabulary() -> None:
    lead = replace(LEAD, model_bytes=7 << 40)
    side, back = LeadSide(lead, Ledger(), 0.0), BackSide(Identity("mini", "", "", 0), 0.0, looks=True)
    with pytest.raises(RefusedError) as refusal:
        side.receive(back.hello([]), 0.0)
    assert side.looks
    with pytest.raises(RefusedError, match="the target is target-13m: use a draft of the same family"):
        back.receive(side.refusal(refusal.value), 0.0)
    assert back.target is not None and back.target.fingerprint == LEAD.fingerprint
    assert back.target.model_bytes == 7 << 40
    assert back.target.resembles(MEANINGS) and not back.target.resembles(MEANINGS[::-1])


def test_of_a_much_larger_vocabulary_the_refusal_says_both_sizes_and_at_least() -> None:
    asked_for = SIZE + MAX_DIFFERING + 1
    told = pb.BackMessage(meanings=pb.Meanings(meanings=[b"?"] * asked_for)).SerializeToString()
    text = str(refused(hello(vocabulary_fingerprint="other", vocabulary_size=262_144), told))
    assert f"'draft' (262144 tokens) has another vocabulary than the target model 'target-13m' ({SIZE} tokens)" in text
    assert f": at least {asked_for} of {asked_for} tokens differ, " in text


def test_a_back_has_time_to_say_what_its_tokens_mean_as_long_as_it_goes_on() -> None:
    side = LeadSide(LEAD, Ledger(), 0.0)
    assert side.receive(hello(vocabulary_fingerprint="other"), 1.0) is None
    assert side.compare_until == 1.0 + LOST_AFTER
    more = pb.Meanings(meanings=MEANINGS[:MIN_MEANINGS], more=True)
    side.receive(pb.BackMessage(meanings=more).SerializeToString(), 9.0)
    assert side.compare_until == 9.0 + LOST_AFTER
    more.start, more.meanings[:] = MIN_MEANINGS, MEANINGS[MIN_MEANINGS : 2 * MIN_MEANINGS]
    side.receive(pb.BackMessage(meanings=more).SerializeToString(), COMPARED_WITHIN)
    assert side.compare_until == 1.0 + COMPARED_WITHIN, "and not for ever"
    one_line(side.too_slow())
    assert f"only of {2 * MIN_MEANINGS} tokens" in str(side.too_slow())
    # The lead has nothing to say all the while: the back is as patient.
    back = BackSide(BACK, 0.0)
    assert back.lost(LOST_AFTER)
    back.receive(next(side.send(0.0)), 0.0)
    assert not back.lost(COMPARED_WITHIN - 1) and back.lost(COMPARED_WITHIN)


def compared(
    target: Sequence[bytes], draft: Sequence[bytes], ledger: Ledger | None = None
) -> tuple[LeadSide, Back, Welcomed]:
    """Both sides after they have met, with these vocabularies."""
    ledger = Ledger() if ledger is None else ledger
    lead = LeadSide(Identity("lead", "target-13m", "a", len(target), target), ledger, 0.0)
    back = Back(Identity("mini", "draft-1m", "b", len(draft), draft))
    lead.receive(back.connect(), 0.0)
    messages = 0
    while not lead.greeted:
        drain(lead, back)
        assert not back.events
        for message in back.side.send(0.0):
            assert len(message) <= MAX_MESSAGE_BYTES
            lead.receive(message, 0.0)
            messages += 1
        assert messages
    drain(lead, back)
    assert isinstance(back.events[0], Welcomed)
    return lead, back, back.events[0]


def test_vocabularies_that_differ_in_a_few_tokens_work_together_and_both_sides_say_so() -> None:
    renamed = list(MEANINGS)
    renamed[7] = b"<|end|>"
    lead, back, welcomed = compared(MEANINGS, renamed)
    assert welcomed.differing == (7,) and welcomed.vocabulary_size == SIZE
    line = "1 of 1000 tokens differs, it is 7: '7' in the target, '<|end|>' in the draft"
    assert str(lead.comparison) == welcomed.difference == line
    # Fine-tunes have more special tokens, and pad what they have otherwise.
    more = [*MEANINGS, b"<think>", b"</think>", b"", b""]
    _, _, welcomed = compared(more, MEANINGS)
    assert welcomed.differing == (SIZE, SIZE + 1) and welcomed.vocabulary_size == SIZE + 4
    assert (
        welcomed.difference
        == "2 of 1002 tokens differ, the first is 1000: '<think>' in the target, nothing in the draft"
    )
    ledger = Ledger()
    lead, back, welcomed = compared(MEANINGS, more, ledger)
    assert welcomed.differing == (SIZE, SIZE + 1) and welcomed.vocabulary_size == SIZE
    ledger[1] = replace(entry(1, 5), ends=[5, 7])
    drain(lead, back)
    assert back.events[1] == Begun(1, SAMPLING, 5, ends=(5, 7))


def test_a_late_pong_does_not_disturb_the_comparison() -> None:
    """Who serves several models pings a back that waits. The pong may come when the back is with one of them."""
    lead = LeadSide(Identity("lead", "target-13m", "a", SIZE, MEANINGS), Ledger(), 0.0)
    back = BackSide(Identity("mini", "draft-1m", "b", SIZE, MEANINGS), 0.0)
    lead.receive(back.hello([]), 0.0)
    assert lead.receive(pb.BackMessage(pong=pb.Pong(value=1)).SerializeToString(), 0.0) is None
    (compare,) = lead.send(0.0)
    back.receive(compare, 0.0)
    for message in back.send(0.0):
        lead.receive(message, 0.0)
    assert lead.greeted


def test_a_large_vocabulary_goes_in_bounded_messages() -> None:
    target = [b"%d" % token * 20 for token in range(50_000)]
    _, _, welcomed = compared(target, [*target[:49_999], b"?" * 256])
    assert welcomed.differing == (49_999,)


@pytest.mark.parametrize(
    "meanings",
    [
        pb.Meanings(start=1, meanings=[b"0"]),
        pb.Meanings(more=True),
        pb.Meanings(meanings=MEANINGS[: MIN_MEANINGS - 1], more=True),
        pb.Meanings(meanings=[b"x" * 257]),
        pb.Meanings(meanings=[b""] * (SIZE + MAX_DIFFERING + 2)),
    ],
    ids=["gap", "endless", "few", "long", "many"],
)
def test_meanings_that_make_no_sense_are_protocol_errors(meanings: pb.Meanings) -> None:
    told = pb.BackMessage(meanings=meanings).SerializeToString()
    error = refused(hello(vocabulary_fingerprint="other"), told)
    assert not isinstance(error, RefusedError)
