"""`python -m bench slots`: what a forward pass over rows of many slots costs, beside as many rows of one slot.

Each answer attends over its own keys and values. So one row for each of eight answers costs more than eight guesses of
one answer. The difference grows with their length. llama.cpp keeps all slots in one cache, so there it depends on flash
attention. All are timed in turns, and given as multiples of one row.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from bench.harness.padding import model
from duo.engines import ROOT, Engine, EngineOptions, FlashAttention, Row, load
from duo.program.values import positive

WAYS: Mapping[str, Sequence[FlashAttention]] = {"llamacpp": ("off", "on"), "transformers": ("auto",)}


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--engine", choices=tuple(WAYS), default="llamacpp", help="of the shipped target")
    p.add_argument("--size", metavar="SIZE", help="pad the target to this, such as 0.3B or 0.3B-q8_0")
    p.add_argument("--slots", type=positive, default=8, help="how many slots, and rows")
    p.add_argument("--context", type=positive, nargs="+", default=[50, 300, 800], help="tokens in each slot")
    p.add_argument("--rounds", type=positive, default=20, help="passes that are timed")


def main(args: argparse.Namespace) -> int:
    count = args.slots
    target = model("target", args.size, args.engine)
    capacity = max(args.context) + count + 1
    engines: dict[str, Engine] = {
        way: load(
            target,
            args.engine,
            EngineOptions(threads=1, slots=count, tree_rows=2 * count, context=capacity, flash_attention=way),
        )
        for way in WAYS[args.engine]
    }
    table = Table(title=f"One forward pass over {count} rows, as a multiple of one row's")
    for head in ("context", "flash attention", "one row", f"{count} of one slot", f"{count} slots"):
        table.add_column(head, justify="right")
    for context in args.context:
        seconds = {
            name: _medians(engines, rows, context, args.rounds)
            for name, rows in (("one", line(1)), ("line", line(count)), ("apart", apart(count)))
        }
        usual = seconds["one"][WAYS[args.engine][0]]
        for way in engines:
            figures = [f"{seconds[name][way] / usual:.2f}" for name in ("one", "line", "apart")]
            table.add_row(str(context), way, *figures)
    for engine in engines.values():
        engine.close()
    Console().print(table)
    return 0


def line(count: int) -> list[Row]:
    """Rows of one slot, each the child of the one before."""
    return [Row(i, 0, 0, i - 1 if i else ROOT) for i in range(count)]


def apart(count: int) -> list[Row]:
    """One row in each slot."""
    return [Row(slot, slot, 0, ROOT) for slot in range(count)]


def timed(engine: Engine, rows: Sequence[Row]) -> float:
    """Seconds of a forward pass over the rows. The rows are dropped afterwards."""
    started = time.perf_counter()
    engine.forward(rows)
    taken = time.perf_counter() - started
    for slot in {row.slot for row in rows}:
        engine.commit(slot, ())
    return taken


def _medians(engines: Mapping[str, Engine], rows: Sequence[Row], context: int, rounds: int) -> dict[str, float]:
    """Median seconds of a forward pass over the rows, for each engine, in turns.

    The slots of the rows hold `context` tokens, and the other slots none.
    """
    used = {row.slot for row in rows}
    for engine in engines.values():
        for slot in range(engine.slots):
            engine.truncate(slot, 0)
        for slot in used:
            engine.extend(slot, [(7 * i + slot) % 200 + 5 for i in range(context)])
    taken: dict[str, list[float]] = {way: [] for way in engines}
    for _ in range(rounds):
        for way, engine in engines.items():
            taken[way].append(timed(engine, rows))
    return {way: statistics.median(of) for way, of in taken.items()}
