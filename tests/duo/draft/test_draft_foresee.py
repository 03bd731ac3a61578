"""A draft that goes on from known text."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from duo.draft.batch import next_batch
from duo.draft.draft import Draft
from duo.draft.policy import MAX_ROWS
from duo.guesses import Expansion
from duo.sampling.params import SamplingParams
from tests.support.fakes import SIZE, CheckedEngine, FakeModel, flat_cost, hash_of, tokens

PROMPT = [1, 2, 3]
MODEL = FakeModel()


def opened(n_ahead: int = 16, unsayable: Sequence[int] = ()) -> tuple[Draft, CheckedEngine]:
    draft = Draft(1, SamplingParams(temperature=0.0), len(PROMPT), n_ahead, flat_cost, unsayable=unsayable)
    draft.commit(0, PROMPT)
    return draft, CheckedEngine(MODEL)


def line(prefix: Sequence[int], text: Sequence[int], chance: float = 0.9) -> list[Expansion]:
    """Known text: `text` comes after the prefix."""
    whole = [*prefix, *text]
    ends = range(len(prefix), len(whole))
    return [Expansion(end, hash_of(whole[:end]), [whole[end]], [chance]) for end in ends]


def expand(draft: Draft, engine: CheckedEngine) -> list[Expansion]:
    kept = draft.update_cache(1000)
    engine.commit(0, kept.path, kept.rest)
    if kept.missing:
        engine.extend(0, kept.missing)
    rows = next_batch(draft, 0)
    return draft.absorb(engine.forward(rows)) if rows else []


def test_one_pass_reads_the_line_and_guesses_at_each_place_and_at_the_end() -> None:
    draft, engine = opened()
    text = [5, 6, 7, 8, 9]
    draft.foresee(line(PROMPT, text))
    found = expand(draft, engine)
    expected = {(len(PROMPT) + n, hash_of([*PROMPT, *text[:n]])) for n in range(len(text) + 1)}
    assert expected == {(e.length, e.hash) for e in found}
    for e in found:
        path = [*PROMPT, *text][: e.length]
        assert e.tokens[0] == int(MODEL.logits(path).argmax()), "the draft model's own guess, and not the text"


def test_text_that_is_hardly_likely_is_not_followed() -> None:
    draft, engine = opened()
    draft.foresee(line(PROMPT, [5, 6], chance=0.3))
    assert {e.length for e in expand(draft, engine)} == {len(PROMPT)}


def test_text_that_the_draft_model_cannot_say_is_not_followed() -> None:
    draft, engine = opened(unsayable=[6])
    draft.foresee(line(PROMPT, [5, 6, 7]))
    assert max(e.length for e in expand(draft, engine)) == len(PROMPT) + 1


def test_what_is_foreseen_is_kept_when_it_comes() -> None:
    draft, engine = opened()
    draft.foresee(line(PROMPT, [5, 6, 7]))
    expand(draft, engine)
    read = engine.read
    draft.commit(len(PROMPT), [5, 6])
    expand(draft, engine)
    assert engine.read == read, "its rows are there"


@settings(deadline=None)
@given(st.data())
def test_whatever_is_foreseen_the_engine_is_driven_by_its_contract(data: st.DataObject) -> None:
    draft, engine = opened(data.draw(st.integers(2, 16)))
    final = list(PROMPT)
    for _ in range(data.draw(st.integers(1, 12))):
        text = data.draw(st.lists(tokens, max_size=12))
        draft.foresee(line(final, text, data.draw(st.sampled_from([0.4, 0.6, 0.95]))))
        for _ in range(data.draw(st.integers(0, 3))):
            found = expand(draft, engine)
            assert found or draft.idle
            assert all(0 <= token < SIZE for e in found for token in e.tokens)
            assert len({(e.length, e.hash) for e in found}) == len(found)
            assert len(engine.rows) <= MAX_ROWS
        new = text[: data.draw(st.integers(0, 4))] + data.draw(st.lists(tokens, max_size=2))
        draft.commit(len(final), new)
        final += new
        assert draft.prefix.tokens == final
