"""What recurrent layers remember: a state for each slot, and what each live row would put into it.

Layers of one shape form a bank, whose tensors have the layers as first dimension: what happens to a slot then happens
to all its layers in one call. A forward pass writes nothing into states. Rows leave their inputs in the bank, at places
of their own, until `commit` lets the state take in the accepted ones; pieces of prompts leave states aside, which
`finish` puts in place. So a pass that fails leaves every slot as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

FIRST = 16
"""Live rows that a bank has room for at first; it doubles that."""


BYTES = 2 << 30
"""What the checkpoints of all slots take together, at most, unless states are so large that two of each slot do."""


class States:
    """The memory of a model's recurrent layers.

    `counts`: how many layers each bank has. `interrupted` is asked in every layer.
    """

    def __init__(
        self, slots: int, counts: Sequence[int], device: torch.device, interrupted: Callable[[], bool]
    ) -> None:
        self._slots = slots
        self._banks = [Bank(count) for count in counts]
        self._device = device
        self.exact = False
        """Whether a row's bits do not depend on the other rows of its pass, nor on how rows were accepted before."""
        self._interrupted = interrupted
        self._book = PlaceBook(FIRST, 1)
        self._live: list[list[int]] = [[] for _ in range(slots)]
        """Places of each slot's live rows, parents before children."""
        self._fresh: list[int] = []
        self._plan: Plan | None = None
        self._taps: dict[int, Tensor] = {}
        self._checkpoints: list[Checkpoints] = []
        self._reading = [False] * slots
        """Whether the latest tokens of the slot came in a piece: then they end a prompt, or a part of one."""

    @property
    def bytes_per_slot(self) -> int:
        """What the states of a slot take. 0 before the first forward pass."""
        return sum(each.nbytes // self._slots for bank in self._banks for each in bank.lasting())

    @property
    def checkpoints_per_slot(self) -> int:
        """At most. The bytes bound them, or else what is sensible."""
        return within(BYTES // self._slots // max(1, self.bytes_per_slot))

    @torch.inference_mode()
    def places(self, count: int) -> list[int]:
        """Places for the rows of the pass to come."""
        if count > self._book.capacity - self._book.used:
            self._grow(self._book.used + count)
        self._fresh = self._book.take(count).tolist()
        return self._fresh

    def begin(self, spans: Sequence[Span], rows: Sequence[FreshRow]) -> None:
        """Before a forward pass over pieces and rows, parents before children."""
        self._plan = planned(spans, rows, self._live, self._device)
        self._taps = {}

    def abandon(self) -> None:
        """The pass failed."""
        self._book.give(self._fresh)
        self._done()

    @torch.inference_mode()
    def finish(self) -> None:
        """The pass succeeded: rows are live, pieces are committed."""
        plan = self._current()
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
                self._saved(span.slot).add(span.length, self._copied(span.slot))
        self._done()

    @torch.inference_mode()
    def commit(self, slot: int, length: int, path: Sequence[int], rest: Sequence[int]) -> None:
        """The states of a slot with `length` tokens take in the rows of a path, given by their places.

        Of the other rows those in `rest` stay.
        """
        if path:
            saved = self._saved(slot)
            if self._reading[slot]:
                # The end of a prompt: the next turn of the conversation, or the same prompt again, begins like this.
                saved.add(length, self._copied(slot))
                self._reading[slot] = False
            for bank in self._banks:
                self._absorb(bank, slot, path, rest)
            if saved.due(length + len(path)):
                saved.add(length + len(path), self._copied(slot))
        staying = set(rest)
        self._book.give([place for place in self._live[slot] if place not in staying])
        self._live[slot] = [place for place in self._live[slot] if place in staying]

    def restorable(self, slot: int, held: int, length: int) -> int:
        """The most tokens, at most `length`, that a slot which holds `held` can go back to."""
        return held if length >= held else self._saved(slot).before(length)

    @torch.inference_mode()
    def restore(self, slot: int, held: int, length: int) -> None:
        """Go back to `length` tokens, which `restorable` gave. The slot has no live rows."""
        if length < held:
            self._put(slot, self._saved(slot).at(length))
        self._saved(slot).cut(length)
        self._reading[slot] = False

    @torch.inference_mode()
    def share(self, source: int, target: int, held: int, length: int) -> None:
        """Let the target be as the source was at `length` tokens, which `restorable` gave."""
        if length == held:
            for each in self._lasting():
                each[:, target] = each[:, source]
        else:
            self._put(target, self._saved(source).at(length))
        copied = self._saved(source).copy(length)
        self._checkpoints[target] = copied
        self._reading[target] = length == held and self._reading[source]

    # What the layers ask for.

    def convolve(self, bank: int, layer: int, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A causal convolution of each channel, along every row's own path.

        x [1, channels, rows], weight [channels, kernel], bias [channels] -> [1, channels, rows].
        """
        if self._interrupted():
            raise InterruptedForwardError
        plan, store = self._current(), self._banks[bank]
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
            store.inputs[layer, plan.places] = rows if plan.whole else rows[plan.own]
            if plan.whole:
                out = made
            else:
                out[plan.own] = made
        if bias is not None:
            out = out + bias.float()
        return out.T[None]

    def recur(self, bank: int, layer: int, tokens: Tokens) -> Tensor:
        """The recurrence, along every row's own path. Takes tokens with a batch of one; o, shaped like v."""
        plan, store = self._current(), self._banks[bank]
        _, groups, heads, _, value = tokens.v.shape
        key, device = tokens.k.shape[3], tokens.v.device
        if store.state is None:
            count, room = store.layers, self._book.capacity
            zeros: Any = torch.zeros
            store.state = zeros((count, self._slots, groups, heads, key, value), device=device)
            store.k = zeros((count, room, groups, key), device=device)
            store.u = zeros((count, room, groups, heads, value), device=device)
            store.decay = zeros((count, room, groups, heads, *tokens.g.shape[4:]), device=device)
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
                out[0, :, :, plan.own] = _flat(o, 3)[plan.flat].permute(1, 2, 0, 3)
        return out

    def _trees(self, plan: Plan, store: Bank, layer: int, batch: Tokens, state: Tensor) -> Tensor:
        """All rows at once: o. What they would put into the states is left in the store."""
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
        """Row after row, each on the state of its parent, which lives no longer than this call."""
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
            own = recurrence.row(tokens, row.at)
            o, u, fade = recurrence.step(own, mine)
            out[:, :, :, row.at] = o[:, :, :, 0]
            store.k[layer, place] = own.k[0, :, 0]
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
            plan = self._current()
            room = self._book.capacity if plan.earlier is not None else 0
            known = self._taps[reach] = taps(plan, reach, room)
        return known

    def _grow(self, count: int) -> None:
        """Make room for more live rows."""
        room = 1 << (count - 1).bit_length()
        self._book.grow(room)
        for bank in self._banks:
            for name, old in bank.live():
                new = old.new_zeros((old.shape[0], room, *old.shape[2:]))
                new[:, : old.shape[1]] = old
                setattr(bank, name, new)

    def _current(self) -> Plan:
        assert self._plan is not None
        return self._plan

    def _done(self) -> None:
        self._plan = None
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
                return Checkpoints()  # nothing has run yet: there is nothing to keep
            self._checkpoints = [Checkpoints(self.checkpoints_per_slot) for _ in range(self._slots)]
        return self._checkpoints[slot]

    def _copied(self, slot: int) -> list[Tensor]:
        """In the memory of the host: there is more of it than an accelerator has."""
        return [each[:, slot].to("cpu", copy=True) for each in self._lasting()]

    def _put(self, slot: int, given: Sequence[Tensor] | None) -> None:
        """Set the slot's states; None: to those of an empty slot."""
        for index, each in enumerate(self._lasting()):
            if given is None:
                each[:, slot] = 0
            else:
                each[:, slot] = given[index].to(each.device)


def _rows(tokens: Tokens) -> list[tuple[Tensor | None, int]]:
    """The tensors, and which of their dimensions has the rows."""
    return list(zip(tokens[:5], (2, 2, 3, 3, 3), strict=True))


def _batched(tokens: Tokens, at: Tensor) -> Tokens:
    """The rows of those numbers [batch, rows], out of a batch of one."""
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
    """[batch, ..., rows, ...] -> [batch * rows, ..., ...]; `dim` has the rows."""
    return x.movedim(dim, 1).flatten(0, 1)
