"""What recurrent layers remember: a state for each slot, and what each live row would change in it.

Layers of one shape form a bank. Its tensors have the layers as first dimension, so one call changes a slot in all of
them. A forward pass writes nothing into states. Rows leave their inputs in the bank, at their own places, until
`commit` puts the accepted ones into the state. Chunks of prompts leave new states aside, which `finish` puts in place.
So a pass that fails leaves every slot as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from duo.engines.base import InterruptedForwardError
from duo.engines.transformers import recurrence
from duo.engines.transformers.arena import PlaceBook
from duo.engines.transformers.bank import Bank
from duo.engines.transformers.checkpoints import Checkpoints, marks, within
from duo.engines.transformers.paths import FreshRow, Plan, Span, planned, taps
from duo.engines.transformers.recurrence import Earlier, Tokens

INITIAL_ROWS = 16
"""Live rows that a bank holds at first. It doubles when they do not suffice."""

CHECKPOINT_BYTES = 2 << 30
"""Most bytes of the checkpoints of all slots. Two of each slot are kept even if they take more."""


class States:
    """The memory of a model's recurrent layers.

    counts: how many layers each bank has. interrupted: asked in every layer whether to give up the pass.
    """

    def __init__(
        self, slots: int, counts: Sequence[int], device: torch.device, interrupted: Callable[[], bool]
    ) -> None:
        self._slots = slots
        self._banks = [Bank(count) for count in counts]
        self._device = device
        self.exact = False
        """Whether a row's bits are independent of the other rows of its pass, and of how rows were accepted before."""
        self._interrupted = interrupted
        self._book = PlaceBook(INITIAL_ROWS, 1)
        self._live: list[list[int]] = [[] for _ in range(slots)]
        """Places of each slot's live rows, parents before children."""
        self._fresh: list[int] = []
        self._plan: Plan
        """The forward pass under way, or the last one."""
        self._taps: dict[int, Tensor] = {}
        self._checkpoints: list[Checkpoints] = []
        self._reading = [False] * slots
        """Whether the latest tokens of the slot came in a chunk of a prompt."""

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of a slot's states; 0 before the first forward pass."""
        return sum(each.nbytes // self._slots for bank in self._banks for each in bank.lasting())

    @property
    def live_rows(self) -> int:
        """Rows of all slots that hold a place."""
        return self._book.used

    @property
    def checkpoints_per_slot(self) -> int:
        """Most checkpoints of a slot."""
        return within(CHECKPOINT_BYTES // self._slots // max(1, self.bytes_per_slot))

    def checkpoints(self, slot: int) -> int:
        """How many checkpoints the slot has."""
        return len(self._saved(slot).lengths)

    @torch.inference_mode()
    def places(self, count: int) -> list[int]:
        """Places for the rows of the next pass."""
        if count > self._book.capacity - self._book.used:
            self._grow(self._book.used + count)
        self._fresh = self._book.take(count).tolist()
        return self._fresh

    def begin(self, spans: Sequence[Span], rows: Sequence[FreshRow]) -> None:
        """Plan a forward pass over chunks and rows, parents before children."""
        self._plan = planned(spans, rows, self._live, self._device)
        self._taps = {}

    def abandon(self) -> None:
        """The pass failed: forget it."""
        self._book.give(self._fresh)
        self._done()

    @torch.inference_mode()
    def finish(self) -> None:
        """The pass succeeded: its rows become live, and its chunks are committed."""
        plan = self._plan
        for bank in self._banks:
            for (slot, layer), window in bank.windows.items():
                assert bank.window is not None
                bank.window[layer, slot] = window
            for (slot, layer), state in bank.states.items():
                assert bank.state is not None
                bank.state[layer, slot] = state
        for row in plan.rows:
            self._live[row.slot].append(row.trail[-1])
        for span in plan.spans:
            self._reading[span.slot] = True
            for mark in marks(span.length - span.end + span.begin, span.length):
                kept = [each for bank in self._banks for each in bank.marked[span.slot, mark] if each]
                self._saved(span.slot).add(mark, [torch.stack(each).to("cpu") for each in kept])
            if self._saved(span.slot).due(span.length):
                self._saved(span.slot).add(span.length, self.snapshot(span.slot))
        self._done()

    @torch.inference_mode()
    def commit(self, slot: int, length: int, path: Sequence[int], rest: Sequence[int]) -> None:
        """Update the states of a slot with `length` tokens by the rows of a path, given by their places.

        Of the other rows, those in `rest` stay live.
        """
        if path:
            saved = self._saved(slot)
            if self._reading[slot]:
                # The end of a prompt. The next turn of the conversation, or the same prompt again, begins like this.
                saved.add(length, self.snapshot(slot))
                self._reading[slot] = False
            for bank in self._banks:
                self._absorb(bank, slot, path, rest)
            if saved.due(length + len(path)):
                saved.add(length + len(path), self.snapshot(slot))
        staying = set(rest)
        self._book.give([place for place in self._live[slot] if place not in staying])
        self._live[slot] = [place for place in self._live[slot] if place in staying]

    def restorable(self, slot: int, tokens: int, length: int) -> int:
        """The most tokens, up to `length`, that a slot with `tokens` tokens can go back to."""
        return tokens if length >= tokens else self._saved(slot).before(length)

    @torch.inference_mode()
    def restore(self, slot: int, tokens: int, length: int) -> None:
        """Go back from `tokens` tokens to `length`, which `restorable` gave. The slot has no live rows."""
        if length < tokens:
            self._put(slot, self._saved(slot).at(length))
        self._saved(slot).cut(length)
        self._reading[slot] = False

    @torch.inference_mode()
    def share(self, source: int, target: int, tokens: int, length: int) -> None:
        """Set the target to the source's states at `length` tokens, which `restorable` gave. tokens: the source's."""
        if length == tokens:
            for each in self._lasting():
                each[:, target] = each[:, source]
        else:
            self._put(target, self._saved(source).at(length))
        copied = self._saved(source).copy(length)
        self._checkpoints[target] = copied
        self._reading[target] = length == tokens and self._reading[source]

    @torch.inference_mode()
    def read(self, slot: int) -> Mapping[int, Sequence[Tensor]]:
        """The slot's states, and its checkpoints, by their lengths; 0 stands for the states themselves."""
        saved = self._saved(slot)
        return {0: self.snapshot(slot), **{length: saved.at(length) for length in saved.lengths}}

    def shapes(self) -> Sequence[tuple[Sequence[int], torch.dtype]]:
        """Shapes and types of a slot's states."""
        return [([each.shape[0], *each.shape[2:]], each.dtype) for each in self._lasting()]

    @torch.inference_mode()
    def write(self, slot: int, given: Mapping[int, Sequence[Tensor]]) -> None:
        """Set the slot's states and its checkpoints to what `read` gave."""
        self._put(slot, given[0])
        self._saved(slot).cut(0)
        for length in sorted(given):
            self._saved(slot).add(length, given[length])
        self._reading[slot] = False

    # What layers call.

    def convolve(self, bank: int, layer: int, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A causal convolution of each channel, along the path of each row.

        x [1, channels, rows], weight [channels, kernel], bias [channels] -> [1, channels, rows].
        """
        if self._interrupted():
            raise InterruptedForwardError
        plan, store = self._plan, self._banks[bank]
        reach = weight.shape[1] - 1
        rows = x[0].T
        if store.window is None:
            store.window = rows.new_zeros((store.layers, self._slots, reach, rows.shape[1]))
            store.inputs = rows.new_zeros((store.layers, self._book.capacity, rows.shape[1]))
        assert store.inputs is not None
        out = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
        for slot, begin, end, length in plan.spans:
            known = torch.cat((store.window[layer, slot], rows[begin:end]))
            for mark in marks(length - end + begin, length):
                at = end - begin - (length - mark)
                store.marked.setdefault((slot, mark), ([], []))[0].append(known[at : at + reach].clone())
            store.windows[slot, layer] = known[len(known) - reach :].clone()
            wide = torch.nn.functional.conv1d(known.T[None].float(), weight[:, None].float(), groups=len(weight))
            out[begin:end] = wide[0].T
        if plan.rows:
            windows = [store.windows.get((slot, layer), store.window[layer, slot]) for slot in plan.slots]
            live = store.inputs[layer] if plan.earlier is not None else rows[:0]
            known = torch.cat((*windows, live, rows))
            taken = known[self._tapped(reach)].float()
            made = (taken * weight.T.float()).sum(1)
            store.inputs[layer, plan.places] = rows if plan.whole else rows[plan.numbers]
            if plan.whole:
                out = made
            else:
                out[plan.numbers] = made
        if bias is not None:
            out = out + bias.float()
        return out.T[None]

    def recur(self, bank: int, layer: int, tokens: Tokens) -> Tensor:
        """The recurrence, along the path of each row. tokens have a batch of one. Returns o, shaped like v."""
        plan, store = self._plan, self._banks[bank]
        _, groups, heads, _, value = tokens.v.shape
        key, device = tokens.k.shape[3], tokens.v.device
        if store.state is None:
            count, places = store.layers, self._book.capacity
            zeros: Any = torch.zeros
            store.state = zeros((count, self._slots, groups, heads, key, value), device=device)
            store.k = zeros((count, places, groups, key), device=device)
            store.u = zeros((count, places, groups, heads, value), device=device)
            store.decay = zeros((count, places, groups, heads, *tokens.g.shape[4:]), device=device)
            store.stepwise = tokens.wide
        if tokens.rate is not None and layer not in store.rates:
            store.rates[layer] = tokens.rate
        stepwise = self.exact or store.stepwise
        if plan.whole and not stepwise:
            slot = plan.slots[0]
            return self._trees(plan, store, layer, tokens, store.state[layer, slot : slot + 1])
        out = torch.empty_like(tokens.v)
        for slot, begin, end, length in plan.spans:
            state = store.state[layer, slot : slot + 1]
            for mark in (*marks(length - end + begin, length), length):
                until = end - (length - mark)
                part = _batched(tokens, torch.arange(begin, until, device=device)[None])
                out[:, :, :, begin:until], state = recurrence.chain(part, state)
                if mark < length:
                    store.marked[slot, mark][1].append(state[0])
                begin = until
            store.states[slot, layer] = state[0]
        if plan.rows:
            states = [store.states.get((slot, layer), store.state[layer, slot]) for slot in plan.slots]
            if stepwise:
                self._steps(plan, store, layer, tokens, states, out)
            else:
                o = self._trees(plan, store, layer, _batched(tokens, plan.at), torch.stack(states))
                out[0, :, :, plan.numbers] = _flat(o, 3)[plan.flat].permute(1, 2, 0, 3)
        return out

    def _trees(self, plan: Plan, store: Bank, layer: int, batch: Tokens, state: Tensor) -> Tensor:
        """All rows at once. Returns o, and leaves in the store what the rows would change in the states."""
        assert store.k is not None and store.u is not None and store.decay is not None
        earlier = above = None
        if plan.earlier is not None and plan.above is not None:
            k, u, decay = (x[layer][plan.earlier] for x in (store.k, store.u, store.decay))
            earlier = Earlier(k.movedim(1, 2), u.movedim(1, 3), decay.movedim(1, 3))
            above = store.decay[layer][plan.above.clamp(min=0)] * (plan.above >= 0)[..., None, None]
            above = above.permute(0, 2, 3, 1)
        o, u, decay = recurrence.tree(batch, state, plan.sees, above, earlier)
        for kept, given, dim in ((store.k, batch.k, 2), (store.u, u, 3), (store.decay, decay, 3)):
            rows = _flat(given, dim)
            kept[layer, plan.places] = rows if plan.whole else rows[plan.flat]
        return o

    def _steps(
        self, plan: Plan, store: Bank, layer: int, tokens: Tokens, states: Sequence[Tensor], out: Tensor
    ) -> None:
        """Row after row, each on a copy of its parent's state. The copies live no longer than this call."""
        assert store.k is not None and store.u is not None and store.decay is not None
        roots = dict(zip(plan.slots, states, strict=True))
        after: dict[int, Tensor] = {}
        for row, last in zip(plan.rows, plan.last, strict=True):
            place, live = row.trail[-1], row.trail[:-1]
            if live and live[-1] in after:
                mine = after[live[-1]] if last else after[live[-1]].clone()
            else:
                mine = roots[row.slot][None].clone()
                if live:
                    k, u, g = (x[layer, list(live)][None] for x in (store.k, store.u, store.decay))
                    recurrence.replay(mine, g.movedim(1, 3), k.movedim(1, 2), u.movedim(1, 3), tokens.rate)
            one = recurrence.row(tokens, row.at)
            o, u, fade = recurrence.step(one, mine)
            out[:, :, :, row.at] = o[:, :, :, 0]
            store.k[layer, place] = one.k[0, :, 0]
            store.u[layer, place] = u[0, :, :, 0]
            store.decay[layer, place] = fade[0, :, :, 0]
            after[place] = mine

    def _absorb(self, bank: Bank, slot: int, path: Sequence[int], rest: Sequence[int]) -> None:
        taken = list(path)
        if bank.window is not None and bank.inputs is not None:
            reach = bank.window.shape[2]
            latest = taken[max(0, len(taken) - reach) :]
            window = torch.cat((bank.window[:, slot, len(latest) :], bank.inputs[:, latest]), 1)
            bank.window[:, slot] = window
        if bank.state is None:
            return
        assert bank.k is not None and bank.u is not None and bank.decay is not None
        k, u, decay = bank.k[:, taken].movedim(1, 2), bank.u[:, taken].movedim(1, 3), bank.decay[:, taken].movedim(1, 3)
        if self.exact or bank.stepwise:
            for layer, rate in bank.rates.items():
                one = slice(layer, layer + 1)
                recurrence.replay(bank.state[one, slot], decay[one], k[one], u[one], rate)
            if not bank.rates:
                recurrence.replay(bank.state[:, slot], decay, k, u)
            return
        recurrence.absorb(bank.state[:, slot], k, u, decay)
        if rest:
            bank.decay[:, list(rest)] -= decay[..., -1][:, None]

    def _tapped(self, reach: int) -> Tensor:
        known = self._taps.get(reach)
        if known is None:
            plan = self._plan
            live = self._book.capacity if plan.earlier is not None else 0
            known = self._taps[reach] = taps(plan, reach, live)
        return known

    def _grow(self, count: int) -> None:
        """Have places for `count` live rows."""
        places = 1 << (count - 1).bit_length()
        self._book.grow(places)
        for bank in self._banks:
            for name, old in bank.live():
                new = old.new_zeros((old.shape[0], places, *old.shape[2:]))
                new[:, : old.shape[1]] = old
                setattr(bank, name, new)

    def _done(self) -> None:
        self._fresh = []
        for bank in self._banks:
            bank.windows.clear()
            bank.states.clear()
            bank.marked.clear()

    def _lasting(self) -> list[Tensor]:
        return [each for bank in self._banks for each in bank.lasting()]

    def _saved(self, slot: int) -> Checkpoints:
        if not self._checkpoints:
            if not self.bytes_per_slot:
                return Checkpoints()  # nothing has run yet, so there is nothing to keep
            self._checkpoints = [Checkpoints(self.checkpoints_per_slot) for _ in range(self._slots)]
        return self._checkpoints[slot]

    def snapshot(self, slot: int) -> list[Tensor]:
        """A copy of the slot's states, in the memory of the host: there is more of it than on an accelerator."""
        return [each[:, slot].to("cpu", copy=True) for each in self._lasting()]

    def _put(self, slot: int, given: Sequence[Tensor] | None) -> None:
        """Set the slot's states. None: those of an empty slot."""
        for index, each in enumerate(self._lasting()):
            if given is None:
                each[:, slot] = 0
            else:
                each[:, slot] = given[index].to(each.device)


def _rows(tokens: Tokens) -> list[tuple[Tensor | None, int]]:
    """The tensors, and the dimension of each that has the rows."""
    return list(zip(tokens[:5], (2, 2, 3, 3, 3), strict=True))


def _batched(tokens: Tokens, at: Tensor) -> Tokens:
    """The rows with these numbers [batch, rows], out of a batch of one."""
    chosen = [
        each
        if each is None
        else each.index_select(dim, at.reshape(-1))
        .view(*each.shape[:dim], *at.shape, *each.shape[dim + 1 :])
        .squeeze(0)
        .movedim(dim - 1, 0)
        for each, dim in _rows(tokens)
    ]
    return Tokens(*chosen)._replace(rate=tokens.rate)  # type: ignore[arg-type]


def _flat(x: Tensor, dim: int) -> Tensor:
    """[batch, ..., rows, ...] -> [batch * rows, ..., ...]. dim: the one with the rows."""
    return x.movedim(dim, 1).flatten(0, 1)
