"""The memory of recurrent layers by itself: given inputs, in any grouping, beside any company."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from duo.engines.transformers.checkpoints import MAX_CHECKPOINTS, MIN_CHECKPOINTS, SPACING, Checkpoints, marks, within
from duo.engines.transformers.paths import FreshRow, Span
from duo.engines.transformers.recurrence import Tokens
from duo.engines.transformers.states import INITIAL_ROWS, States

LAYERS, CHANNELS, KERNEL = 3, 10, 4
GROUPS, HEADS, KEY, VALUE = 2, 3, 8, 6


def states_of(exact: bool, slots: int = 2) -> States:
    made = States(slots, [LAYERS], torch.device("cpu"), lambda: False)
    made.exact = exact
    return made


def inputs(tokens: Sequence[int], layer: int, delta: bool) -> tuple[Tensor, Tokens]:
    """The inputs of a layer for these tokens. A token always gives the same."""
    columns = []
    for token in tokens:
        generator = torch.Generator().manual_seed(97 * token + layer)
        q, k = torch.nn.functional.normalize(torch.randn(2, GROUPS, KEY, generator=generator), dim=-1)
        v = torch.randn(GROUPS, HEADS, VALUE, generator=generator)
        g, beta = torch.rand(2, GROUPS, HEADS, generator=generator)
        columns.append((torch.randn(CHANNELS, generator=generator), q, k, v, -g, beta))
    conv, q, k, v, g, beta = (torch.stack(each) for each in zip(*columns, strict=True))
    return conv.T[None], Tokens(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.permute(1, 2, 0, 3)[None],
        g.permute(1, 2, 0)[None],
        beta.permute(1, 2, 0)[None] if delta else None,
    )


class Passes:
    """Runs forward passes over a memory. Rows are (slot, token, parent); a parent is the number of a live row."""

    def __init__(self, states: States, delta: bool) -> None:
        self.states, self.delta = states, delta
        self.trails: list[list[int]] = []
        self.lengths = [0, 0]
        self.weight = torch.randn(CHANNELS, KERNEL, generator=torch.Generator().manual_seed(5))

    def run(
        self, rows: Sequence[tuple[int, int, int]], chunks: Sequence[tuple[int, Sequence[int]]] = ()
    ) -> list[tuple[Tensor, Tensor]]:
        """Run a pass, chunks first. Returns what convolution and recurrence give, [..., rows], for each layer."""
        tokens, spans, fresh = list[int](), list[Span](), list[FreshRow]()
        for slot, read in chunks:
            self.lengths[slot] += len(read)
            spans.append(Span(slot, len(tokens), len(tokens) + len(read), self.lengths[slot]))
            tokens += read
        for (slot, token, parent), place in zip(rows, self.states.places(len(rows)), strict=True):
            trail = [*(self.trails[parent] if parent >= 0 else []), place]
            self.trails.append(trail)
            fresh.append(FreshRow(slot, len(tokens), trail))
            tokens.append(token)
        self.states.begin(spans, fresh)
        got = []
        with torch.inference_mode():
            for layer in range(LAYERS):
                conv, given = inputs(tokens, layer, self.delta)
                out = self.states.convolve(0, layer, conv, self.weight, None), self.states.recur(0, layer, given)
                got.append((out[0][0, :, -len(rows) :].clone(), out[1][0, :, :, -len(rows) :].clone()))
        self.states.finish()
        return got

    def commit(self, slot: int, path: Sequence[int]) -> None:
        self.states.commit(slot, self.lengths[slot], [self.trails[number][-1] for number in path], ())
        self.lengths[slot] += len(path)
        if not self.states.live_rows:
            self.trails.clear()


TEXT = [(7 * i + 3) % 50 for i in range(40)]


def decoded(states: States, delta: bool, groups: Sequence[int], wrong: int, beside: int) -> list[tuple[Tensor, Tensor]]:
    """What each token of the text after the first 10 gives, in chains of these lengths."""
    passes = Passes(states, delta)
    passes.run([], [(0, TEXT[:10]), (1, TEXT[:4])])
    done: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(LAYERS)]
    at = 10
    for count in groups:
        rows = [(0, token, i - 1) for i, token in enumerate(TEXT[at : at + count])]
        rows += [(0, 8, count - 1 + i) for i in range(wrong)]
        rows += [(1, 9, -1) for _ in range(beside)]
        for layer, (conv, out) in enumerate(passes.run(rows)):
            done[layer] += [(conv[:, i], out[:, :, i]) for i in range(count)]
        passes.commit(0, range(count))
        passes.states.commit(1, passes.lengths[1], (), ())
        passes.trails.clear()
        at += count
    return [(torch.stack([c for c, _ in each]), torch.stack([o for _, o in each])) for each in done]


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_grouping_and_company_do_not_matter(exact: bool, delta: bool) -> None:
    """Step by step even the bits are the same, beside wrong guesses and rows of another slot."""
    first = states_of(exact)
    alone = decoded(first, delta, [1] * 30, wrong=0, beside=0)
    for groups in ([30], [2, 5, 1, 9, 13], [3] * 10):
        other = states_of(exact)
        grouped = decoded(other, delta, groups, wrong=2, beside=3)
        for one, many in zip(alone, grouped, strict=True):
            for a, b in zip(one, many, strict=True):
                if exact:
                    assert torch.equal(a, b)
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        for a, b in zip(first.snapshot(0), other.snapshot(0), strict=True):
            if exact:
                assert torch.equal(a, b)
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("exact", [True, False])
def test_trees_over_several_passes_are_the_ends_of_their_paths(exact: bool) -> None:
    passes, parents = Passes(states_of(exact), True), [-1, 0, 0, 1, -1, 4, 3, 2, 6, 8]
    passes.run([], [(0, TEXT[:10])])
    rows = [(0, TEXT[10 + i], parent) for i, parent in enumerate(parents)]
    got = [passes.run(rows[begin:end])[-1] for begin, end in ((0, 3), (3, 4), (4, 10))]
    conv, out = (torch.cat([each[kind] for each in got], kind + 1) for kind in (0, 1))
    for number in range(len(parents)):
        path, up = list[int](), number
        while up >= 0:
            path.insert(0, up)
            up = parents[up]
        plain = Passes(states_of(exact), True)
        expected = plain.run([(0, TEXT[10 + n], i - 1) for i, n in enumerate(path)], [(0, TEXT[:10])])[-1]
        torch.testing.assert_close(conv[:, number], expected[0][:, -1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(out[:, :, number], expected[1][:, :, -1], atol=1e-5, rtol=1e-4)


def test_more_rows_than_there_is_room_for_at_first() -> None:
    many = 3 * INITIAL_ROWS
    passes, plain = Passes(states_of(False), True), Passes(states_of(False), True)
    text = [(5 * i + 1) % 50 for i in range(many)]
    for i, token in enumerate(text):
        last = passes.run([(0, token, i - 1)])[-1]
    expected = plain.run([(0, token, i - 1) for i, token in enumerate(text)])[-1]
    torch.testing.assert_close(last[1][:, :, 0], expected[1][:, :, -1], atol=1e-5, rtol=1e-4)
    passes.states.commit(0, 0, (), ())
    assert not passes.states.live_rows


def test_a_pass_that_fails_changes_nothing() -> None:
    passes = Passes(states_of(False), True)
    passes.run([], [(0, TEXT[:10])])
    before = passes.states.snapshot(0)
    passes.states.begin([Span(0, 0, 5, 15)], [FreshRow(0, 5, passes.states.places(1))])
    with torch.inference_mode():
        conv, given = inputs(TEXT[:6], 0, True)
        passes.states.convolve(0, 0, conv, passes.weight, None)
        passes.states.recur(0, 0, given)
    passes.states.abandon()
    assert all(torch.equal(a, b) for a, b in zip(before, passes.states.snapshot(0), strict=True))
    assert not passes.states.live_rows


def test_checkpoints_are_spread_and_bounded() -> None:
    kept = Checkpoints(8)
    for length in range(SPACING, 60 * SPACING, SPACING):
        assert kept.due(length) and not kept.due(length - 1)
        kept.add(length, length)
        edges = [0, *kept.lengths]
        assert len(kept.lengths) <= 8 and kept.at(length) == length
        widest = max(b - a for a, b in itertools.pairwise(edges))
        assert widest <= max(SPACING, 2 * length / 7 + SPACING)
    assert kept.before(0) == 0 and kept.at(0) is None
    copied = kept.copy(20 * SPACING)
    kept.cut(kept.lengths[2])
    assert len(kept.lengths) == 3 and max(copied.lengths) <= 20 * SPACING and len(copied.lengths) > 1
    assert within(10**9) == MAX_CHECKPOINTS and within(0) == MIN_CHECKPOINTS


def test_marks_are_spaced_and_one_is_shortly_before_the_end() -> None:
    assert marks(0, 5) == [] and marks(0, 20) == [12] and marks(15, 20) == []
    assert marks(10, 3 * SPACING) == [SPACING, 2 * SPACING, 3 * SPACING - 8]


@pytest.mark.parametrize("delta", [True, False])
def test_checkpoints_within_a_piece_are_the_states_there(delta: bool) -> None:
    long = [(7 * i + 3) % 50 for i in range(SPACING + 30)]
    whole = Passes(states_of(False), delta)
    whole.run([], [(0, long)])
    for mark in (SPACING + 22, SPACING):
        assert whole.states.restorable(0, len(long), mark + 1) == mark
        whole.states.restore(0, len(long), mark)
        part = Passes(states_of(False), delta)
        part.run([], [(0, long[:mark])])
        for a, b in zip(whole.states.snapshot(0), part.states.snapshot(0), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
