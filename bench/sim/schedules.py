"""Closed loops in simulated time: schedules to beat."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

from duo.guesses import Expansion
from duo.prefix import EMPTY, extend_hash
from lead.plan.tree import GuessTree
from lead.simulation.world import DRAFT_MAX, Acceptance, Cost, planner


def no_back(target: Cost) -> float:
    """Tokens per second of the target alone."""
    return 1 / target(1)


@dataclass(frozen=True)
class Turns:
    """What a synchronous schedule did: tokens, turns, and seconds without the round trips."""

    tokens: int
    turns: int
    busy: float

    def speed(self, round_trip: float) -> float:
        """Tokens per second with a draft model at this distance; 0: beside the target."""
        return self.tokens / (self.busy + self.turns * round_trip)


def turns(target: Cost, draft: Cost, world: Acceptance, tokens: int, length: int, floor: float = 0.0) -> Turns:
    """Draft a chain and verify it, in turns. The chain ends early if its path becomes less likely than `floor`."""
    state, done, count, busy, unread = EMPTY, 0, 0, 0.0, 1
    while done < tokens:
        chain: list[int] = []
        path, at = 1.0, state
        while len(chain) < length and path >= floor:
            token, chance = world.ranked(at, done + len(chain))[0]
            chain.append(token)
            path *= chance
            at = extend_hash(at, token)
        busy += draft(unread) + (len(chain) - 1) * draft(1) + target(1 + len(chain))
        count += 1
        for guess in (*chain, None):
            true = world.truth(state, done)
            state = extend_hash(state, true)
            done += 1
            if true != guess:
                break
        # The last of a chain is read only if it was right, with what the target picked after it.
        unread = 2 if guess is None else 1
    return Turns(done, count, busy)


LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)

FLOORS = (0, 0.1, 0.2, 0.3, 0.5, 0.7)


def all_turns(target: Cost, draft: Cost, world: Acceptance, tokens: int) -> list[Turns]:
    """Synchronous schedules of all lengths and floors."""
    return [turns(target, draft, world, tokens, *setting) for setting in itertools.product(LENGTHS, FLOORS)]


def synchronous(target: Cost, draft: Cost, round_trip: float, world: Acceptance, tokens: int) -> float:
    """Tokens per second of the best synchronous schedule, over all lengths and floors."""
    return max(it.speed(round_trip) for it in all_turns(target, draft, world, tokens))


def free(target: Cost, world: Acceptance, tokens: int, children: int = 1) -> float:
    """Tokens per second with guesses that cost nothing and come at once. With one child per node it bounds all chains,
    with more children trees. The planner is the production one."""
    plan, now, state, done = planner(target), 0.0, EMPTY, 0
    while done < tokens:
        tree = grown(world, state, done, children)
        nodes = plan.next([tree], now).nodes[0]
        chosen = {id(node) for node in nodes}
        begun, at = done, tree.root
        while True:
            true = world.truth(state, done)
            state = extend_hash(state, true)
            done += 1
            if id(at := at.children.get(true, tree.root)) not in chosen:
                break
        seconds = target(1 + len(nodes))
        now += seconds
        plan.finished(now, 1 + len(nodes), seconds, done - begun)
    return done / now


def grown(world: Acceptance, state: int, length: int, children: int) -> GuessTree:
    """The likeliest guesses after a prefix, enough of them for any plan."""
    tree = GuessTree(length, state)
    frontier = [(-1.0, state, length)]
    for _ in range(DRAFT_MAX):
        path, at, deep = heapq.heappop(frontier)
        ranked = world.ranked(at, deep)[:children]
        tree.merge(Expansion(deep, at, [token for token, _ in ranked], [chance for _, chance in ranked]), "free")
        for token, chance in ranked:
            heapq.heappush(frontier, (path * chance, extend_hash(at, token), deep + 1))
    return tree
