"""Whether the same text gets the same bits: what `--exact` asks for, and what this machine gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from duo.engines import measure
from duo.engines.base import Engine
from duo.engines.cost import CostCurve
from duo.engines.exact import price, search
from duo.engines.exact.engine import Exact
from duo.engines.exact.search import Found
from duo.engines.exact.widths import Widths, steady
from duo.engines.load import settled
from duo.engines.replay import Checkpoints
from duo.errors import ModelError

Mode = Literal["on", "off", "auto"]

FEW = 8
"""Rows of a pass up to which a class has too little room for guesses to be chosen unasked."""


class Asked(NamedTuple):
    """What a target is to do. guesses: most of an answer in a pass. rows: most of a pass, over all answers. answers:
    how many there may be at once. trees: whether guesses are verified as trees where the model can. context: tokens
    of each slot, 0 for the engine's choice."""

    mode: Mode
    guesses: int
    rows: int
    answers: int
    trees: bool = True
    context: int = 0


class Verdict(NamedTuple):
    """`line`: for people."""

    on: bool
    line: str


class Promise(NamedTuple):
    """engine: the one to serve with. seconds: its passes by width, filled up where that is done. checkpoints: what
    going back takes, of a model that does so by one. guesses: whether the class has room for some."""

    engine: Engine
    seconds: Mapping[int, float]
    on: bool
    line: str
    checkpoints: Checkpoints | None = None
    guesses: bool = True


Load = Callable[[bool, bool], Engine]
"""Loads the model: with chains that might give the same bits, and whether that is only to be tried."""


def serve(load: Load, asked: Asked, about: Sequence[object]) -> Promise:
    """Load a target, and settle whether the same text gets the same bits.

    Once that was found out, the engine is made as it serves at once. about: all that the bits depend on, before the
    model is loaded. Raises ModelError where it cannot be loaded, or where the same bits are asked for and not to be
    had.
    """
    found = search.known([*about, *asked]) if asked.mode != "off" else None
    chains = asked.mode != "off" and (found is None or decide(found, asked).on)
    engine = load(chains, found is None)
    if not chains:
        line = decide(found, asked).line if found is not None else "exact off"
        return _curve(engine, asked, about, Promise(engine, {}, False, line))
    if reason := inexact(engine):
        found = Found(None, {}, reason)
    elif found is None:
        unsteady = getattr(engine, "unsteady", ())
        found = search.find(engine, asked.rows, unsteady, lambda it: decide(it, asked).on)
        search.remember([*about, *asked], found)
    else:
        # Again: whoever wrote it may have had another number of threads.
        found = found._replace(widths=steady(found.widths, getattr(engine, "unsteady", ())))
    verdict = decide(found, asked, engine.name)
    engine = settled(engine, verdict.on)
    promise = _curve(engine, asked, about, Promise(engine, {}, verdict.on, verdict.line), found.seconds)
    if not verdict.on or found.widths is None:
        return promise
    cost = CostCurve(promise.seconds)
    within = price.within(cost, found.widths)
    seconds = {rows: within(rows) for rows in {1, *promise.seconds}}
    exact = Exact(engine, found.widths, cost)
    return promise._replace(engine=exact, seconds=seconds, guesses=found.widths.most > 1)


def inexact(engine: Engine) -> str:
    """Why the bits of a slot's rows depend on other slots, or on more than the widths of passes; empty: they do not."""
    return str(getattr(engine, "inexact", "its slots share one cache, or it runs on a GPU"))


def decide(found: Found, asked: Asked, name: str = "the model") -> Verdict:
    """Whether the same bits are promised, by what was found of them.

    Raises ModelError where they are asked for and cannot be had.
    """
    mode, widths = asked.mode, found.widths
    if mode == "off":
        return Verdict(False, "exact off")
    if widths is None:
        reason = found.reason or search.VARY
        if mode == "on":
            raise ModelError(f"--exact on: {name} cannot give the same bits always here: {reason}")
        return Verdict(False, f"exact off: {reason}")
    guesses, trees = min(asked.guesses, asked.rows - 1), asked.trees
    shares = price.compare(found.seconds, widths, guesses, trees, asked.answers, found.slower)
    pays = guesses > 0 and price.pays(found.seconds, guesses, trees)
    shares = price.cautious(shares, pays, trees)
    what = f"{_percent(shares.plain)} without guesses, {_percent(shares.guessing)} with them"
    if asked.answers > 1:
        what += f", {_percent(shares.crowd)} with {asked.answers} answers at once"
    reading = price.reading(found.seconds, widths)
    what += f", {_percent(reading)} with prompts, by the measured curve"
    if trees and pays:
        what += " and chains for trees"
    if mode == "auto" and widths.most <= min(guesses, FEW):
        # Whether guesses pay was measured, perhaps on a busy machine. What a good draft is worth is not given away.
        line = f"exact off: it would leave {widths.most - 1} guesses of an answer in a pass; --exact on asks for it"
        return Verdict(False, line)
    if mode == "auto" and not price.affordable(shares, reading):
        return Verdict(False, f"exact off: it would cost {what}; --exact on asks for it")
    return Verdict(True, f"exact on: {_described(widths)}; it costs {what}")


def _curve(
    engine: Engine, asked: Asked, about: Sequence[object], promise: Promise, known: Mapping[int, float] | None = None
) -> Promise:
    """With the cost curve of the engine that serves. `known`: what was timed while classes were looked for."""
    rows = min(asked.rows, engine.batch, engine.capacity)
    guesses = min(asked.guesses, rows - 1, engine.rollback.depth)
    widest = rows if promise.on else min(rows, max(1 + guesses, 2 * asked.answers))
    measured = measure.remembered(engine, widest, about, known or {})
    return promise._replace(seconds=measured.seconds, checkpoints=measured.checkpoints)


def _described(widths: Widths) -> str:
    if widths.least == widths.most == 1:
        return "only rows that run alone give the same bits, so no guesses are verified"
    steps = f" in steps of {widths.step}" if widths.step > 1 else ""
    prompts = "prompts too" if widths.alike else "prompts are a class of their own"
    return f"passes of {widths.least} to {widths.most} rows{steps} give the same bits, {prompts}"


def _percent(share: float) -> str:
    return f"{max(0.0, 100 * (1 - share)):.0f} %"
