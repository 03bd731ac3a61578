"""Which widths of a forward pass give a row the same bits on this machine: found by comparing them.

The same tokens are run in passes of one width, then of another, and the logits compared bit by bit. Runtimes round what
goes into a product of quantised weights. So another order of a sum shows in one row of two or three only, and a dozen
rows of each width are looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from duo.engines import store
from duo.engines.base import ROOT, Chunk, Engine, Row
from duo.engines.exact.price import SEVERAL, worth
from duo.engines.exact.widths import Widths

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 16, 21, 32)
"""Those that are compared. Between any two multiples of 4 there is one with rows left over from fours."""
STEPS = (1, 4)
"""Of classes. llama.cpp's repacked weights compute rows by fours, and those left over in another way."""
TOKENS, FEWEST = 12, 6
"""Tokens run at each width: so many, or fewer where a pass is slow."""
SLOW, PATIENCE = 200, 1.0
"""Where so many passes over one row take longer than so many seconds, fewer tokens have to do."""
AGAIN = (1, 2, 3, 4, 8, 16)
"""Widths that are run once more, for their time and because the same pass must give the same bits."""
FORMAT = 1
"""Of what is remembered."""
BEFORE = 32
"""Tokens of the prompt before them."""
SHORTEST = 2 * BEFORE
"""Tokens of context that are needed to compare: the prompt, and two of the widest passes."""
VARY = "two passes that are the same give different bits"
SEEN = 4096
"""Logits of a row that are compared. All of them follow from the same hidden state."""

Bits = Sequence[bytes]
"""The logits of successive tokens."""


class Found(NamedTuple):
    """The class to use, and the fastest seconds of a pass by width.

    reason: why there is no class. slower: by what factor one row, and several, take longer than where nobody needs the
    same bits.
    """

    widths: Widths | None
    seconds: dict[int, float]
    reason: str = ""
    slower: tuple[float, float] = (1.0, 1.0)


def find(
    engine: Engine, most: int, unsteady: Collection[int] = (), wanted: Callable[[Found], bool] = lambda found: True
) -> Found:
    """Find the class that costs least. Uses slots 0 and 1 and leaves them empty.

    wanted: whether a class would be used. One that would not is returned as it was found, without further proof.
    The passes give the cost curve as well, so they need not be made twice. most: rows of a pass at most. unsteady:
    widths whose bits are known to depend on the length of the context.
    """
    if engine.context < SHORTEST:
        return Found(None, {}, f"a context of {engine.context} tokens is too short to compare")
    most = min(most, engine.batch, engine.capacity, (engine.context - BEFORE) // 2)
    widths = [width for width in WIDTHS if width <= most]
    tokens = _tokens(engine, BEFORE + 2 * widths[-1] + TOKENS)
    prompt, block = tokens[:BEFORE], tokens[BEFORE:]
    engine.truncate(0, 0)
    engine.extend(0, prompt)
    seconds: dict[int, float] = {}
    bench = _Bench(engine, seconds)
    first = bench.run(block[: widths[-1]], [widths[-1]])  # with what is set up once
    seconds.clear()
    bits = {widths[-1]: bench.run(block[: widths[-1]], [widths[-1]])}
    bench.run(block[:1], [1])
    count = FEWEST if seconds[1] * SLOW > PATIENCE else TOKENS
    for width in widths[:-1]:
        runs = max(1, count // width)
        bits[width] = bench.run(block[: width * runs], [width] * runs)
    again = {width: bench.run(block[:width], [width]) for width in AGAIN if width in bits}
    steady = all(_agree(found, bits[width]) for width, found in [(widths[-1], first), *again.items()])
    alike = {(v, w) for v, w in combinations(widths, 2) if _agree(bits[v], bits[w])}
    usable = [width for width in widths if width not in unsteady]
    classes = largest(usable, alike) if steady else []
    classes.sort(key=lambda chosen: worth(seconds, chosen), reverse=True)
    slower = bench.slower(block)
    found = None
    for chosen in classes:
        found = chosen
        if wanted(Found(chosen, seconds, "", slower)):
            found = bench.proven(chosen, bits[chosen.most], prompt, block)
        if found is not None:
            break
    for slot in range(min(2, engine.slots)):
        engine.truncate(slot, 0)
    return Found(found, seconds, "" if found else VARY, slower)


def known(about: Sequence[object]) -> Found | None:
    """What was found before under the same conditions, on this machine."""
    return store.known("classes", [FORMAT, *about], _read)


def remember(about: Sequence[object], found: Found) -> None:
    store.remember("classes", [FORMAT, *about], found._asdict())


def _read(found: Any) -> Found:
    widths = found["widths"]
    one, several = map(float, found["slower"])
    return Found(
        Widths(int(widths[0]), int(widths[1]), int(widths[2]), bool(widths[3])) if widths is not None else None,
        {int(width): float(taken) for width, taken in found["seconds"].items()},
        str(found["reason"]),
        (one, several),
    )


def largest(widths: Sequence[int], alike: Collection[tuple[int, int]]) -> list[Widths]:
    """Runs of compared widths that all agree pair by pair, as (least, most, step). None lies within another.

    A run of step 1 has no compared width left out between its ends, one of step 4 no multiple of 4.
    """
    runs: list[Widths] = []
    for step in STEPS:
        members = [width for width in widths if not width % step]
        for begin, least in enumerate(members):
            run = [least]
            for width in members[begin + 1 :]:
                if any((other, width) not in alike for other in run):
                    break
                run.append(width)
            runs.append(Widths(least, run[-1], step if len(run) > 1 else 1))
    return [run for run in dict.fromkeys(runs) if not any(_within(run, other) for other in runs if other != run)]


def _within(run: Widths, other: Widths) -> bool:
    """Whether all of a run's widths are also those of another."""
    return run.least in other and run.most in other and (run.least == run.most or not run.step % other.step)


def _tokens(engine: Engine, count: int) -> list[int]:
    """Tokens that differ: equal ones would have equal values, and any order of their sum gives the same."""
    size = engine.vocabulary.size
    return [(size // 7 + 7919 * (at + 1) * (at + 3)) % size for at in range(count)]


def _agree(first: Bits, second: Bits) -> bool:
    """Whether what both have seen is equal."""
    return all(a == b for a, b in zip(first, second, strict=False))


class _Bench:
    """An engine whose passes are timed. `seconds`: the fastest of each width."""

    def __init__(self, engine: Engine, seconds: dict[int, float]) -> None:
        self._engine = engine
        self._seconds = seconds

    def run(self, tokens: Sequence[int], widths: Iterable[int]) -> Bits:
        """Run the tokens in slot 0 in passes of these widths, and leave the slot as it was."""
        before, at = self._engine.length(0), 0
        found: list[bytes] = []
        for width in widths:
            found += self._rows(tokens[at : at + width])
            self._engine.commit(0, range(width))
            at += width
        self._engine.truncate(0, before)
        return found

    def slower(self, block: Sequence[int]) -> tuple[float, float]:
        """`Found.slower`: told by the engine, or measured where its rows can attend together."""
        told: tuple[float, float] | None = getattr(self._engine, "slower", None)
        attend = getattr(self._engine, "attend_by_row", None)
        several = max((width for width in self._seconds if width <= SEVERAL), default=1)
        if told is not None or attend is None:
            return told or (1.0, 1.0)
        together = _Bench(self._engine, {})
        attend(False)
        for _ in range(2):
            together.run(block[: several + 1], [several, 1])
        attend(True)
        return self._seconds[1] / together._seconds[1], self._seconds[several] / together._seconds[several]

    def proven(self, chosen: Widths, whole: Bits, prompt: Sequence[int], block: Sequence[int]) -> Widths | None:
        """The class, with `alike` set, if its bits are the same at other places of a pass and beside another slot.

        whole: those of its widest pass.
        """
        engine, least, most = self._engine, chosen.least, chosen.most
        if most > least and not _agree(self.run(block[: least + most], [least, most]), whole):
            return None  # a pass as wide, some rows later
        half = most // 2 // chosen.step * chosen.step
        if engine.slots > 1 and half >= least:
            engine.truncate(1, 0)
            engine.share(0, 1, len(prompt))
            if not _agree(self._beside(block[:half], half), whole):
                return None
        apart = getattr(engine, "prompts_apart", False)
        return chosen._replace(alike=not apart and self._reads_alike(chosen, block))

    def _reads_alike(self, chosen: Widths, block: Sequence[int]) -> bool:
        """Whether tokens that are read as a prompt, in two pieces, leave what as many rows leave."""
        engine, before, most = self._engine, self._engine.length(0), chosen.most
        first = chosen.filled(max(1, most // 3))
        if most - first not in chosen:
            return False
        asked = block[most : most + chosen.filled(1)]
        self._rows(block[:most])
        engine.commit(0, range(most))
        wanted = self.run(asked, [len(asked)])
        engine.truncate(0, before)
        for chunk in (block[:first], block[first:most]):
            engine.forward((), [Chunk(0, chunk)])
        found = self.run(asked, [len(asked)])
        engine.truncate(0, before)
        return found == wanted

    def _rows(self, tokens: Sequence[int]) -> Bits:
        rows = [Row(i, 0, token, i - 1 if i else ROOT) for i, token in enumerate(tokens)]
        started = time.perf_counter()
        logits = self._engine.forward(rows)
        took = time.perf_counter() - started
        self._seconds[len(rows)] = min(took, self._seconds.get(len(rows), took))
        return [row[:SEEN].tobytes() for row in logits]

    def _beside(self, tokens: Sequence[int], others: int) -> Bits:
        """Run the tokens in slot 0 beside as many rows of slot 1."""
        count = len(tokens)
        rows = [Row(i, 0, token, i - 1 if i else ROOT) for i, token in enumerate(tokens)]
        rows += [Row(count + i, 1, tokens[-1 - i], count + i - 1 if i else ROOT) for i in range(others)]
        found = [row[:SEEN].tobytes() for row in self._engine.forward(rows)[:count]]
        for slot in (0, 1):
            self._engine.commit(slot, ())
        return found
