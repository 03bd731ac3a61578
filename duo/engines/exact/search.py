"""Finds the widths of forward passes that give a row the same bits on this machine.

The same tokens run in passes of one width, then of another, and the logits are compared bit by bit. Runtimes round the
inputs of products with quantised weights. So another order of a sum shows only in one row of two or three, and a dozen
rows of each width are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from duo.engines import store
from duo.engines.base import ROOT, Chunk, Engine, Row
from duo.engines.exact.price import SEVERAL, is_narrow, score
from duo.engines.exact.widths import WidthClass

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 16, 21, 32)
"""The widths that are compared. Between two multiples of 4 there is one with rows left over from fours."""
STEPS = (1, 4)
"""Steps of classes. llama.cpp's repacked weights compute rows by fours, and those left over in another way."""
TOKENS, MIN_TOKENS = 12, 6
"""Tokens run at each width, and tokens run where a pass is slow."""
SLOW_PASSES, SLOW_SECONDS = 200, 1.0
"""A pass over one row is slow if this many of them take longer than these seconds."""
REPEATED_WIDTHS = (1, 2, 3, 4, 8, 16)
"""Widths that run once more: to time them again, and because the same pass must give the same bits."""
PROMPT_TOKENS = 32
"""Tokens of the prompt before the compared ones."""
MIN_CONTEXT = 2 * PROMPT_TOKENS
"""Tokens of context that a comparison needs: the prompt, and two of the widest passes."""
COMPARED_LOGITS = 4096
"""Logits of a row that are compared. All logits follow from the same hidden state, so some of them suffice."""
BITS_VARY = "two passes that are the same give different bits"
FORMAT = 2
"""Version of what is remembered on disk."""

Bits = Sequence[bytes]
"""The logits of successive tokens."""


class SearchResult(NamedTuple):
    """The class to use, and the fastest seconds of a pass by width.

    reason: why there is no class. slower: how many times as long one row, and several rows, take as where nobody needs
    the same bits.
    """

    widths: WidthClass | None
    seconds: dict[int, float]
    reason: str = ""
    slower: tuple[float, float] = (1.0, 1.0)


def find_class(
    engine: Engine,
    max_rows: int,
    unsteady: Collection[int] = (),
    wanted: Callable[[SearchResult], bool] = lambda found: True,
) -> SearchResult:
    """Find the class that costs least. Uses slots 0 and 1 and leaves them empty.

    The passes are timed for the cost curve too, so that none runs twice. max_rows: most rows of a pass. unsteady:
    widths whose bits are known to depend on the length of the context. wanted: whether a class would be used. One that
    would not is returned without further proof.
    """
    if engine.context < MIN_CONTEXT:
        return SearchResult(None, {}, f"a context of {engine.context} tokens is too short to compare")
    max_rows = min(max_rows, engine.batch, engine.capacity, (engine.context - PROMPT_TOKENS) // 2)
    widths = [width for width in WIDTHS if width <= max_rows]
    tokens = _tokens(engine, PROMPT_TOKENS + 2 * widths[-1] + TOKENS)
    prompt, block = tokens[:PROMPT_TOKENS], tokens[PROMPT_TOKENS:]
    engine.truncate(0, 0)
    engine.extend(0, prompt)
    seconds: dict[int, float] = {}
    bench = _Bench(engine, seconds)
    first = bench.run(block[: widths[-1]], [widths[-1]])  # the first pass also sets things up, so its time is dropped
    seconds.clear()
    bits = {widths[-1]: bench.run(block[: widths[-1]], [widths[-1]])}
    bench.run(block[:1], [1])
    count = MIN_TOKENS if seconds[1] * SLOW_PASSES > SLOW_SECONDS else TOKENS
    for width in widths[:-1]:
        runs = max(1, count // width)
        bits[width] = bench.run(block[: width * runs], [width] * runs)
    again = {width: bench.run(block[:width], [width]) for width in REPEATED_WIDTHS if width in bits}
    steady = all(_agree(found, bits[width]) for width, found in [(widths[-1], first), *again.items()])
    equal = {(v, w) for v, w in combinations(widths, 2) if _agree(bits[v], bits[w])}
    usable = [width for width in widths if width not in unsteady]
    candidates = largest_classes(usable, equal) if steady else []
    candidates.sort(key=lambda candidate: score(seconds, candidate), reverse=True)
    slower = bench.slower(block)
    found = None
    for candidate in candidates:
        found = candidate
        if wanted(SearchResult(candidate, seconds, "", slower)):
            found = bench.proven(candidate, bits[candidate.widest], prompt, block)
        if found is not None:
            break
    for slot in range(min(2, engine.slots)):
        engine.truncate(slot, 0)
    return SearchResult(found, seconds, "" if found else BITS_VARY, slower)


def known(conditions: Sequence[object]) -> SearchResult | None:
    """What an earlier start under the same conditions found on this machine."""
    return store.known("classes", [FORMAT, *conditions], _read)


def remember(conditions: Sequence[object], found: SearchResult) -> None:
    store.remember("classes", [FORMAT, *conditions], found._asdict())


def _read(found: Any) -> SearchResult:
    widths = found["widths"]
    one, several = map(float, found["slower"])
    return SearchResult(
        WidthClass(int(widths[0]), int(widths[1]), int(widths[2]), bool(widths[3])) if widths is not None else None,
        {int(width): float(taken) for width, taken in found["seconds"].items()},
        str(found["reason"]),
        (one, several),
    )


def largest_classes(widths: Sequence[int], equal: Collection[tuple[int, int]]) -> list[WidthClass]:
    """Runs of compared widths that all agree pair by pair. None lies within another.

    equal: pairs of widths, ascending, that gave the same bits. A run of step 1 leaves out no compared width between
    its ends, a run of step 4 no multiple of 4.
    """
    runs: list[WidthClass] = []
    for step in STEPS:
        members = [width for width in widths if not width % step]
        for begin, narrowest in enumerate(members):
            run = [narrowest]
            for width in members[begin + 1 :]:
                if any((other, width) not in equal for other in run):
                    break
                run.append(width)
            runs.append(WidthClass(narrowest, run[-1], step if len(run) > 1 else 1))
    return [run for run in dict.fromkeys(runs) if not any(_within(run, other) for other in runs if other != run)]


def _within(run: WidthClass, other: WidthClass) -> bool:
    """Whether all widths of a run are also widths of the other."""
    if run.narrowest not in other or run.widest not in other:
        return False
    return run.narrowest == run.widest or not run.step % other.step


def _tokens(engine: Engine, count: int) -> list[int]:
    """Different tokens. Equal ones would have equal values, whose sum is the same in any order."""
    size = engine.vocabulary.size
    return [(size // 7 + 7919 * (at + 1) * (at + 3)) % size for at in range(count)]


def _agree(first: Bits, second: Bits) -> bool:
    """Whether the tokens that both have run gave equal bits."""
    return all(a == b for a, b in zip(first, second, strict=False))


def _chain(slot: int, tokens: Sequence[int], first: int = 0) -> list[Row]:
    return [Row(first + i, slot, token, first + i - 1 if i else ROOT) for i, token in enumerate(tokens)]


class _Bench:
    """An engine whose passes are timed. seconds: the fastest of each width."""

    def __init__(self, engine: Engine, seconds: dict[int, float]) -> None:
        self._engine = engine
        self.seconds = seconds

    def run(self, tokens: Sequence[int], widths: Iterable[int]) -> Bits:
        """Run the tokens in slot 0, in passes of these widths, and leave the slot as it was."""
        before, at = self._engine.length(0), 0
        found: list[bytes] = []
        for width in widths:
            found += self._run_chain(tokens[at : at + width])
            self._engine.commit(0, range(width))
            at += width
        self._engine.truncate(0, before)
        return found

    def slower(self, block: Sequence[int]) -> tuple[float, float]:
        """`SearchResult.slower`: the engine's own figures, or measured if its rows can also attend together."""
        given: tuple[float, float] | None = getattr(self._engine, "slower", None)
        attend = getattr(self._engine, "attend_by_row", None)
        several = max((width for width in self.seconds if width <= SEVERAL), default=1)
        if given is not None or attend is None:
            return given or (1.0, 1.0)
        together = _Bench(self._engine, {})
        attend(False)
        for _ in range(2):
            together.run(block[: several + 1], [several, 1])
        attend(True)
        return self.seconds[1] / together.seconds[1], self.seconds[several] / together.seconds[several]

    def proven(
        self, candidate: WidthClass, whole: Bits, prompt: Sequence[int], block: Sequence[int]
    ) -> WidthClass | None:
        """The class with `covers_prompts` set, or None if its bits change elsewhere.

        They must be the same some rows later in a pass, and beside another slot. whole: bits of its widest pass.
        """
        engine, narrowest, widest = self._engine, candidate.narrowest, candidate.widest
        if widest > narrowest and not _agree(self.run(block[: narrowest + widest], [narrowest, widest]), whole):
            return None
        half = widest // 2 // candidate.step * candidate.step
        if engine.slots > 1 and half >= narrowest:
            engine.truncate(1, 0)
            engine.share(0, 1, len(prompt))
            if not _agree(self._beside(block[:half], half), whole):
                return None
        apart = getattr(engine, "prompts_apart", False) or is_narrow(self.seconds, candidate)
        return candidate._replace(covers_prompts=not apart and self._prompts_agree(candidate, block))

    def _prompts_agree(self, candidate: WidthClass, block: Sequence[int]) -> bool:
        """Whether tokens that are read as two chunks of a prompt leave the same bits as rows."""
        engine, before, widest = self._engine, self._engine.length(0), candidate.widest
        first = candidate.round_up(max(1, widest // 3))
        if widest - first not in candidate:
            return False
        next_tokens = block[widest : widest + candidate.round_up(1)]
        self._run_chain(block[:widest])
        engine.commit(0, range(widest))
        wanted = self.run(next_tokens, [len(next_tokens)])
        engine.truncate(0, before)
        for chunk in (block[:first], block[first:widest]):
            engine.forward((), [Chunk(0, chunk)])
        found = self.run(next_tokens, [len(next_tokens)])
        engine.truncate(0, before)
        return found == wanted

    def _run_chain(self, tokens: Sequence[int]) -> Bits:
        rows = _chain(0, tokens)
        started = time.perf_counter()
        logits = self._engine.forward(rows)
        took = time.perf_counter() - started
        self.seconds[len(rows)] = min(took, self.seconds.get(len(rows), took))
        return [row[:COMPARED_LOGITS].tobytes() for row in logits]

    def _beside(self, tokens: Sequence[int], others: int) -> Bits:
        """Run the tokens in slot 0 beside `others` rows of slot 1."""
        count = len(tokens)
        rows = _chain(0, tokens) + _chain(1, [tokens[-1 - i] for i in range(others)], count)
        found = [row[:COMPARED_LOGITS].tobytes() for row in self._engine.forward(rows)[:count]]
        for slot in (0, 1):
            self._engine.commit(slot, ())
        return found
