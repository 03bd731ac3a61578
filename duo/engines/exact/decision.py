"""Loads a target and decides whether the same text gets the same bits: what `--exact` asks for and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from duo.engines import measure
from duo.engines.base import Engine
from duo.engines.cost import CostCurve
from duo.engines.exact import price, search
from duo.engines.exact.engine import ExactEngine
from duo.engines.exact.search import SearchResult
from duo.engines.exact.widths import WidthClass, without_unsteady
from duo.engines.load import after_trial
from duo.engines.replay import Checkpoints
from duo.errors import ModelError

Mode = Literal["on", "off", "auto"]
"""Values of `--exact`."""

FEW_ROWS = 8
"""`auto` does not choose a class whose passes hold no more rows than this: it leaves too few guesses."""


class ExactOptions(NamedTuple):
    """What the target has to do.

    guesses: most guesses of an answer per pass. rows: most rows of a pass, over all answers. answers: how many there
    may be at once. trees: verify trees of guesses where the model can. context: tokens of each slot, 0 for the
    engine's choice. run: most guesses of memory in a pass, where the same bits are not asked for.
    """

    mode: Mode
    guesses: int
    rows: int
    answers: int
    trees: bool = True
    context: int = 0
    run: int = 0

    @property
    def searched(self) -> Sequence[object]:
        """What the search for a class depends on."""
        return self[:-1]


class Decision(NamedTuple):
    """on: the target gives the same bits. line: says so to people, with the price or the reason."""

    on: bool
    line: str


class LoadedTarget(NamedTuple):
    """A target that is ready to serve.

    seconds: of its passes by width; with the same bits, padding included. on, line: as in `Decision`. checkpoints:
    what going back takes, if the model goes back by checkpoints. guesses: its passes have rows for guesses.
    """

    engine: Engine
    seconds: Mapping[int, float]
    on: bool
    line: str
    checkpoints: Checkpoints | None = None
    guesses: bool = True


Load = Callable[[bool, bool], Engine]
"""Loads the model. Its arguments are `EngineOptions.chains` and `EngineOptions.trial`."""


def load_target(load: Load, options: ExactOptions, conditions: Sequence[object]) -> LoadedTarget:
    """Load a target, and decide whether it gives the same bits.

    The first start searches for the class of widths on a trial engine. Later starts know it from disk, and load the
    engine that serves at once. conditions: all that the bits depend on and that is known before the model is loaded.
    Raises ModelError if it cannot be loaded, or if the same bits are asked for and cannot be had.
    """
    about = [*conditions, *options.searched]
    known = search.known(about) if options.mode != "off" else None
    chains = options.mode != "off" and (known is None or decide(known, options).on)
    engine = load(chains, known is None)
    if not chains:
        line = decide(known, options).line if known is not None else "exact off"
        return _with_cost(LoadedTarget(engine, {}, False, line), options, conditions)
    unsteady = getattr(engine, "unsteady", ())
    if reason := inexact(engine):
        found = SearchResult(None, {}, reason)
    elif known is None:
        found = search.find_class(engine, options.rows, unsteady, lambda it: decide(it, options).on)
        search.remember(about, found)
    else:
        # The start that wrote it may have had another number of threads.
        found = known._replace(widths=without_unsteady(known.widths, unsteady))
    decision = decide(found, options, engine.name)
    engine = after_trial(engine, decision.on)
    target = _with_cost(LoadedTarget(engine, {}, decision.on, decision.line), options, conditions, found.seconds)
    if not decision.on or found.widths is None:
        return target
    cost = CostCurve(target.seconds)
    padded = price.cost_in_class(cost, found.widths)
    seconds = {rows: padded(rows) for rows in {1, *target.seconds}}
    exact = ExactEngine(engine, found.widths, cost)
    return target._replace(engine=exact, seconds=seconds, guesses=found.widths.widest > 1)


def inexact(engine: Engine) -> str:
    """Why a row's bits depend on other slots, or on more than the widths of passes; empty if they do not."""
    return str(getattr(engine, "inexact", "its slots share one cache, or it runs on a GPU"))


def decide(found: SearchResult, options: ExactOptions, name: str = "the model") -> Decision:
    """Whether the target gives the same bits, by what the search found and what it costs.

    Raises ModelError if the same bits are asked for and cannot be had.
    """
    mode, widths = options.mode, found.widths
    if mode == "off":
        return Decision(False, "exact off")
    if widths is None:
        reason = found.reason or search.BITS_VARY
        if mode == "on":
            raise ModelError(f"--exact on: {name} cannot give the same bits always here: {reason}")
        return Decision(False, f"exact off: {reason}")
    guesses, trees = min(options.guesses, options.rows - 1), options.trees
    shares = price.compare(found.seconds, widths, guesses, trees, options.answers, found.slower)
    pays = guesses > 0 and price.guesses_pay(found.seconds, guesses, trees)
    shares = price.cautious(shares, pays, trees)
    what = f"{_percent(shares.plain)} without guesses, {_percent(shares.guessing)} with them"
    if options.answers > 1:
        what += f", {_percent(shares.crowd)} with {options.answers} answers at once"
    reading = price.prompt_speed(found.seconds, widths)
    what += f", {_percent(reading)} with prompts, by the measured curve"
    if trees and pays:
        what += " and chains for trees"
    if mode == "auto" and widths.widest <= min(guesses, FEW_ROWS):
        # Even if guesses did not pay when it was measured: the machine may have been busy.
        line = f"exact off: it would leave {widths.widest - 1} guesses of an answer in a pass; --exact on asks for it"
        return Decision(False, line)
    if mode == "auto" and not price.affordable(shares, reading):
        return Decision(False, f"exact off: it would cost {what}; --exact on asks for it")
    return Decision(True, f"exact on: {_described(widths)}; it costs {what}")


def _with_cost(
    target: LoadedTarget,
    options: ExactOptions,
    conditions: Sequence[object],
    known: Mapping[int, float] | None = None,
) -> LoadedTarget:
    """The target with the cost curve of its engine. known: seconds by width that the search has timed."""
    engine = target.engine
    rows = min(options.rows, engine.batch, engine.capacity)
    guesses = min(options.guesses, rows - 1, engine.rollback.depth)
    run = 1 + min(options.run, engine.capacity - 1, engine.rollback.depth)
    widest = rows if target.on else max(min(rows, max(1 + guesses, 2 * options.answers)), min(run, engine.batch))
    measured = measure.remembered(engine, widest, conditions, known or {})
    return target._replace(seconds=measured.seconds, checkpoints=measured.checkpoints)


def _described(widths: WidthClass) -> str:
    if widths.narrowest == widths.widest == 1:
        return "only rows that run alone give the same bits, so no guesses are verified"
    steps = f" in steps of {widths.step}" if widths.step > 1 else ""
    prompts = "prompts too" if widths.covers_prompts else "prompts are a class of their own"
    return f"passes of {widths.narrowest} to {widths.widest} rows{steps} give the same bits, {prompts}"


def _percent(share: float) -> str:
    return f"{max(0.0, 100 * (1 - share)):.0f} %"
