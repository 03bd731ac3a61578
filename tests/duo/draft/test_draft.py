"""One session's draft, with an engine that checks every call."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from duo.draft.batch import next_batch
from duo.draft.draft import Draft
from duo.draft.policy import CHILDREN, MAX_BATCH_PLACES, MAX_RIDERS, MAX_ROWS, MIN_PROBABILITY
from duo.engines.base import ROOT
from duo.errors import DeadEndError, ProtocolError
from duo.guesses import ALONE, Expansion, Share
from duo.prefix import extend_hash
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from tests.support.fakes import SIZE, CheckedEngine, FakeModel, flat_cost, hash_of, params, tokens


class Driven:
    """A `Draft` with its engine, driven as a back drives it. Every step is checked."""

    def __init__(self, params: SamplingParams, prompt_length: int, n_ahead: int, doubt: float = 0.4) -> None:
        self.params = params
        self.n_ahead = n_ahead
        self.draft = Draft(1, params, prompt_length, n_ahead, flat_cost)
        self.engine = CheckedEngine(FakeModel(doubt))
        self.tokens: list[int] = []
        self.offered: dict[tuple[int, int], Expansion] = {}
        """Expansions since another session had the slot, by length and hash."""
        self.places: dict[tuple[int, int], list[int]] = {}
        """Where those guesses lead."""
        self.merged = False

    def commit(self, tokens: Sequence[int], again: int = 0, more: bool = False) -> None:
        start = max(0, len(self.tokens) - again)
        said = self.tokens[start:] + list(tokens)
        self.tokens += tokens
        self.draft.commit(start, said, more)
        assert self.draft.prefix.tokens == self.tokens

    def switch(self, shared: int) -> None:
        """Another session had the slot, and `shared` tokens of this one are left in it."""
        shared = min(shared, len(self.engine.committed), max(0, len(self.tokens) - 1))
        assert self.engine.committed[:shared] == self.tokens[:shared]
        self.engine.truncate(0, shared)
        self.draft.change_slot(shared)
        self.draft.forget_guesses()
        self.offered.clear()
        self.places.clear()

    def update_cache(self, most: int = 100) -> None:
        behind, unread = self.draft.backlog, self.draft.unread
        kept = self.draft.update_cache(most)
        self.engine.commit(0, kept.path, kept.rest)
        assert self.draft.cached_tokens - len(kept.missing) == len(self.engine.committed)
        assert len(kept.missing) == min(most, behind)
        if kept.missing:
            self.engine.extend(0, kept.missing)
        assert self.draft.unread == unread - len(kept.missing)
        assert self.engine.committed == self.tokens[: len(self.engine.committed)]
        if not self.draft.backlog:
            assert len(self.engine.committed) + self.draft.unread == max(0, len(self.tokens) - 1)
            assert self.draft.unread <= MAX_RIDERS

    def expand(self) -> list[Expansion]:
        """One forward pass of drafting. There must be no backlog."""
        riders = self.draft.unread
        rows = next_batch(self.draft, 0)
        if not rows:
            assert self.draft.idle
            return []
        assert self.draft.unread == 0
        scale, sharpness = self.draft.scale.value, self.draft.sharpness.value
        found = self.draft.absorb(self.engine.forward(rows))
        assert len(self.engine.rows) <= MAX_ROWS
        if not self.merged:
            assert len(rows) <= MAX_RIDERS + MAX_BATCH_PLACES
            assert len(found) == len(rows) - riders, "every row says something, or the back would be at a loss there"
        assert found
        by_hash = {hash_of(path): path for path in (self.engine.path_of(row.id) for row in rows)}
        sampler = Sampler(self.params, self.tokens[: self.draft.prompt_length])
        for e in found:
            path = by_hash[e.hash]
            assert e.length == len(path)
            assert path[: len(self.tokens)] == self.tokens
            assert len(path) - len(self.tokens) < self.n_ahead
            # The model's own guesses at this place, in order. The last ones may be missing.
            ranked = sampler.rank(
                self.engine.model.logits(path), path[self.draft.prompt_length :], CHILDREN, scale, sharpness
            )
            assert 0 < len(e.tokens) == len(e.probabilities) <= CHILDREN
            assert list(e.tokens) == [token for token, _ in ranked][: len(e.tokens)]
            assert list(e.probabilities) == pytest.approx([chance for _, chance in ranked][: len(e.tokens)])
            assert (e.length, e.hash) not in self.offered, "nothing is said twice"
            # Where it hangs is the end of what is final, or something guessed before.
            if len(path) > len(self.tokens):
                above = self.offered[len(path) - 1, hash_of(path[:-1])]
                assert path[-1] in above.tokens
            self.offer(e, path)
        return found

    def give_up(self, picked: Sequence[int]) -> None:
        """Begin a batch and do not finish it. Before that, check whether `picked` makes it obsolete."""
        rows = next_batch(self.draft, 0)
        paths = {ROOT: self.engine.committed}
        for row in rows:
            above = paths[row.parent] if row.parent in paths else self.engine.path_of(row.parent)
            paths[row.id] = [*above, row.token]
        final = self.tokens + list(picked)
        still = [path for row, path in paths.items() if row != ROOT and path[: len(final)] == final]
        assert self.draft.obsolete(len(self.tokens), picked) == (bool(rows) and not still)
        self.draft.abandon()

    def offer(self, e: Expansion, path: Sequence[int]) -> None:
        self.offered[e.length, e.hash] = e
        for token in e.tokens:
            self.places[len(path) + 1, hash_of([*path, token])] = [*path, token]

    def merge(self, place: int, tokens: Sequence[int]) -> None:
        """Another draft model guesses, at the end of the answer or at a guessed place."""
        self.merged = True
        here = [path for path in self.places.values() if path[: len(self.tokens)] == self.tokens]
        path = [*here, self.tokens][place % (len(here) + 1)]
        e = Expansion(len(path), hash_of(path), tokens, [0.5 / n for n in range(1, len(tokens) + 1)])
        self.draft.merge(e)
        if (e.length, e.hash) not in self.offered:
            self.offer(e, path)

    def target_picks(self, count: int) -> list[int]:
        model, sampler = FakeModel(), Sampler(self.params, self.tokens[: self.draft.prompt_length])
        path = list(self.tokens)
        for _ in range(count):
            path.append(sampler.pick(model.logits(path), path[self.draft.prompt_length :]))
        return path[len(self.tokens) :]


def act(driven: Driven, what: str, data: st.DataObject) -> None:
    """One thing that may happen to a draft."""
    match what:
        case "draft":
            driven.update_cache(data.draw(st.sampled_from([1, 4, 100])))
            if not driven.draft.backlog:
                driven.expand()
        case "give up":
            driven.update_cache()
            driven.give_up(data.draw(st.one_of(st.just(driven.target_picks(2)), st.lists(tokens, max_size=2))))
        case "agree":
            driven.commit(driven.target_picks(data.draw(st.integers(1, 4))))
        case "any":
            driven.commit(data.draw(st.lists(tokens, min_size=1, max_size=3)))
        case "again":
            driven.commit(data.draw(st.lists(tokens, max_size=1)), again=data.draw(st.integers(0, 20)))
        case "switch":
            driven.switch(data.draw(st.integers(0, 30)))
        case "merge":
            driven.merge(
                data.draw(st.integers(0, 50)), data.draw(st.lists(tokens, min_size=1, max_size=3, unique=True))
            )


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_schedule_keeps_the_contract_and_guesses_at_the_right_places(data: st.DataObject) -> None:
    prompt = data.draw(st.lists(tokens, min_size=1, max_size=12), "prompt")
    driven = Driven(data.draw(params()), len(prompt), data.draw(st.sampled_from([1, 2, 5, 16]), "n_ahead"))
    acts = ["draft", "draft", "draft", "give up", "agree", "agree", "any", "again", "switch"]
    if data.draw(st.booleans(), "others draft too"):
        acts += ["merge", "merge"]
    first = data.draw(st.integers(0, len(prompt) - 1), "prompt in two parts")
    if first:
        driven.commit(prompt[:first], more=True)
        assert driven.draft.idle, "a part of a prompt is not drafted from"
    if data.draw(st.booleans()):
        driven.update_cache(most=3)
    driven.commit(prompt[first:])
    for _ in range(data.draw(st.integers(1, 25), "steps")):
        act(driven, data.draw(st.sampled_from(acts)), data)
    driven.update_cache()
    while driven.expand():
        pass
    assert driven.draft.idle
    # Whatever happened before: where the answer stands now there is a guess.
    assert (len(driven.tokens), driven.draft.prefix.hash) in driven.offered


def ready(n_ahead: int = 16, doubt: float = 0.4, temperature: float = 0.8) -> Driven:
    driven = Driven(SamplingParams(temperature=temperature, seed=5), 3, n_ahead, doubt)
    driven.commit([1, 2, 3])
    driven.update_cache()
    return driven


def test_a_draft_that_is_right_reads_nothing_twice() -> None:
    driven = ready(doubt=0.0)
    for _ in range(60):
        driven.expand()
        driven.commit(driven.target_picks(1))
        driven.update_cache()
    assert driven.engine.read == 0, "the prompt rode along with the first batch"
    assert next(driven.draft.ids) == 2 + 60
    assert driven.draft.answered == driven.draft.guessed == 60


def test_a_disagreement_drops_the_tail_and_nothing_else() -> None:
    driven = ready()
    for _ in range(12):
        driven.expand()
    rows_before, read_before = len(driven.engine.rows), driven.engine.read
    first = driven.offered[3, driven.draft.prefix.hash].tokens[0]
    under = [row for row in driven.engine.rows if driven.engine.path_of(row)[:4] == [1, 2, 3, first]]
    driven.commit([first])
    driven.update_cache()
    assert sorted(driven.engine.rows) == sorted(under)
    assert 0 < len(under) < rows_before
    wrong = next(t for t in range(SIZE) if t not in driven.offered[4, driven.draft.prefix.hash].tokens)
    driven.commit([wrong])
    driven.update_cache()
    assert not driven.engine.rows
    assert driven.engine.committed == [1, 2, 3, first]
    assert driven.engine.read == read_before, "the token before the wrong one was a row already"


def test_a_sure_draft_goes_deep_and_an_unsure_one_wide() -> None:
    def depths(sharpness: float) -> list[int]:
        driven = ready()
        driven.engine.model = FakeModel(0.4, sharpness=sharpness)
        found = [e for _ in range(10) for e in driven.expand()]
        return [e.length - 3 for e in found]

    assert max(depths(200.0)) >= 9
    assert max(depths(2.0)) < 6
    assert len(depths(2.0)) > len(depths(200.0))


def test_n_ahead_bounds_the_depth_and_the_back_then_waits() -> None:
    driven = ready(n_ahead=4, doubt=0.0, temperature=0.0)
    while driven.expand():
        pass
    assert driven.draft.idle
    assert max(length for length, _ in driven.offered) == 3 + 3, "the fourth guess is below the third place"
    driven.commit(driven.target_picks(1))
    driven.update_cache()
    assert not driven.draft.idle
    driven.expand()
    assert max(length for length, _ in driven.offered) == 3 + 4


def test_rows_are_bounded_however_long_the_lead_is_silent() -> None:
    driven = ready(n_ahead=1000)
    driven.engine.model = FakeModel(0.4, sharpness=0.1)  # hopelessly unsure: as wide as can be
    driven.draft.params = SamplingParams(temperature=0)
    driven.params = driven.draft.params
    for _ in itertools.takewhile(bool, (driven.expand() for _ in range(1000))):
        driven.update_cache()
    assert driven.draft.idle
    sure = ready(n_ahead=1000)
    sure.engine.model = FakeModel(0.4, sharpness=500.0)
    while sure.expand():
        sure.update_cache()
    assert len(sure.engine.rows) == MAX_ROWS


def test_likelier_places_are_expanded_first() -> None:
    driven = ready()
    paths: dict[int, float] = {driven.draft.prefix.hash: 1.0}
    waiting: dict[int, float] = dict(paths)
    batches = 0
    while found := driven.expand():
        batches += 1
        assert max(waiting[e.hash] for e in found) == pytest.approx(max(waiting.values()))
        for e in found:
            reached = waiting.pop(e.hash)
            for token, chance in zip(e.tokens, e.probabilities, strict=True):
                waiting[extend_hash(e.hash, token)] = reached * chance
    assert batches > 5
    assert max(waiting.values()) < MIN_PROBABILITY, "what is worth it has been expanded"


def test_several_backs_divide_what_is_to_be_drafted() -> None:
    """Each begins elsewhere. In the end each has everything, because another back may be slow or gone."""

    def order(turn: Share) -> list[int]:
        driven = ready(doubt=0.2)
        driven.draft.share = turn
        return [e.hash for found in iter(driven.expand, []) for e in found]

    alone, first, second = order(ALONE), order(Share(0, 2)), order(Share(1, 2))
    assert set(alone) == set(first) == set(second)
    assert alone[0] == first[0] == second[0], "where the answer stands"
    early = len(alone) // 3
    assert len(set(first[:early]) & set(second[:early])) < 0.6 * early
    assert len({*first[:early], *second[:early]}) > 1.4 * early, "together they are sooner done"


def test_turns_are_counted_from_where_the_answer_stands() -> None:
    """The answer has come to a place that one of two backs had expanded, by a second guess. For both backs the
    likeliest line from there belongs to the first one."""
    for expanded in (False, True):
        driven = ready(doubt=0.0)
        driven.draft.share = Share(0, 2)
        second = driven.expand()[0].tokens[1]
        if expanded:
            while not any(e.length == 4 for e in driven.expand()):
                driven.update_cache()
        driven.commit([second])
        assert driven.draft.root is not None
        assert driven.draft.root.ranks == 0
        driven.update_cache()
        driven.expand()
        first = next(iter(driven.draft.root.children.values()))
        assert first.ranks == 0


def test_every_place_that_the_answer_reaches_has_a_guess_again() -> None:
    """An alternative that was too unlikely to follow is likely once the answer has come there."""
    driven = ready(temperature=1.0)
    driven.params = driven.draft.params = SamplingParams(temperature=1.0, seed=77)
    for step in range(120):
        while driven.expand():
            pass
        # Not the likeliest way: the last of the guesses, which the tree follows least.
        place = driven.offered[len(driven.tokens), driven.draft.prefix.hash]
        driven.commit([place.tokens[-1 if step % 2 else 0]])
        driven.update_cache()


def test_gaps_and_contradictions_are_protocol_errors() -> None:
    driven = ready()
    with pytest.raises(ProtocolError) as gap:
        driven.draft.commit(5, [1])
    assert "tokens from 5 came, but only 3 are known" in str(gap.value)
    with pytest.raises(ProtocolError) as contradiction:
        driven.draft.commit(1, [2, 4])
    assert "took back" in str(contradiction.value)
    assert driven.draft.prefix.tokens == [1, 2, 3]
    driven.draft.commit(0, [1, 2, 3, 4])
    assert driven.draft.prefix.tokens == [1, 2, 3, 4]


def test_sessions_that_share_a_counter_have_row_ids_of_their_own() -> None:
    driven = ready()
    driven.expand()
    used = max(driven.engine.rows)
    other = Draft(2, driven.params, 2, 8, flat_cost, ids=driven.draft.ids)
    prompt = list(range(2 + MAX_RIDERS))
    other.commit(0, prompt)
    driven.engine.truncate(0, 0)
    kept = other.update_cache(10)
    driven.engine.extend(0, kept.missing)
    rows = next_batch(other, 0)
    assert [row.id for row in rows] == [used + 1]
    assert rows[0].parent == ROOT and rows[0].token == prompt[-1]
    assert other.absorb(driven.engine.forward(rows))[0].hash == hash_of(prompt)


class NotAfter:
    """Allows everything, but nothing after one token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def allowed(self, completion: Sequence[int]) -> NDArray[np.int64]:
        if self.token in completion:
            raise DeadEndError("no answer begins like this")
        return np.array([token for token in range(SIZE) if token != self.token], dtype=np.int64)


def test_what_others_guess_against_the_grammar_is_not_followed() -> None:
    prompt, wrong = [1, 2, 3], 5
    draft = Draft(1, SamplingParams(temperature=0), len(prompt), 4, flat_cost, constraint=NotAfter(wrong))
    engine = CheckedEngine(FakeModel())
    draft.commit(0, prompt)
    draft.merge(Expansion(3, hash_of(prompt), [wrong, 6], [0.8, 0.1]))
    said: list[Expansion] = []
    read = 0
    while True:
        kept = draft.update_cache(100)
        engine.commit(0, kept.path, kept.rest)
        if kept.missing:
            engine.extend(0, kept.missing)
        rows = next_batch(draft, 0)
        if not rows:
            break
        read += sum(row.token == wrong for row in rows)
        said += draft.absorb(engine.forward(rows))
    assert read == 1, "once, and then never again"
    assert said and not any(wrong in expansion.tokens for expansion in said)
    assert {expansion.hash for expansion in said} >= {hash_of([*prompt, 6])}
    draft.commit(3, [6])
    assert draft.prefix.tokens == [*prompt, 6] and not any(row.token == wrong for row in next_batch(draft, 0))
