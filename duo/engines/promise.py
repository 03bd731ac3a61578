"""Whether the same text gets the same bits: what `--exact` asks for, and what this machine gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from duo.engines import classes, price
from duo.engines.base import Engine
from duo.engines.cost import CostCurve
from duo.engines.exact import Exact, Widths
from duo.engines.measure import Measured
from duo.errors import ModelError

Mode = Literal["on", "off", "auto"]

FEW = 8
"""Rows of a pass up to which a class has too little room for guesses to be chosen unasked."""


class Promise(NamedTuple):
    """engine: the one to use. seconds: its passes by width, filled up where that is done. line: for people."""

    engine: Engine
    seconds: Mapping[int, float]
    on: bool
    line: str


def inexact(engine: Engine) -> str:
    """Why the bits of a slot's rows depend on other slots, or on more than the widths of passes; empty: they do not."""
    return str(getattr(engine, "inexact", "its slots share one cache, or it runs on a GPU"))


def settle(engine: Engine, mode: Mode, measured: Measured, guesses: int, trees: bool) -> Promise:
    """Decide, for an engine whose classes were looked for unless `mode` is off.

    guesses: most of an answer in a pass. trees: whether they would be verified as trees without. Raises ModelError
    where the same bits are asked for and cannot be had.
    """
    if mode == "off":
        return Promise(engine, measured.seconds, False, "exact off")
    widths = measured.widths
    reason = inexact(engine) or measured.reason or ("" if widths else classes.VARY)
    if reason or widths is None:
        if mode == "on":
            raise ModelError(f"--exact on: {engine.name} cannot give the same bits always here: {reason}")
        return Promise(engine, measured.seconds, False, f"exact off: {reason}")
    shares = price.compare(measured.seconds, widths, guesses, trees)
    pays = guesses > 0 and price.pays(measured.seconds, guesses, trees)
    what = f"{_percent(shares.plain)} without guesses, {_percent(shares.guessing)} with them, by the measured curve"
    if mode == "auto" and widths.most <= min(guesses, FEW):
        # Whether guesses pay was measured, perhaps on a busy machine. What a good draft is worth is not given away.
        line = f"exact off: it would leave {widths.most - 1} guesses of an answer in a pass; --exact on asks for it"
        return Promise(engine, measured.seconds, False, line)
    if mode == "auto" and not price.affordable(shares, pays, trees):
        why = " and chains for trees" if trees and pays else ""
        return Promise(engine, measured.seconds, False, f"exact off: it would cost {what}{why}; --exact on asks for it")
    cost = CostCurve(measured.seconds)
    within = price.within(cost, widths)
    seconds = {rows: within(rows) for rows in {1, *measured.seconds}}
    line = f"exact on: {_described(widths)}; it costs {what}"
    return Promise(Exact(engine, widths, cost), seconds, True, line)


def _described(widths: Widths) -> str:
    if widths.least == widths.most == 1:
        return "only rows that run alone give the same bits, so no guesses are verified"
    steps = f" in steps of {widths.step}" if widths.step > 1 else ""
    prompts = "prompts too" if widths.alike else "prompts are a class of their own"
    return f"passes of {widths.least} to {widths.most} rows{steps} give the same bits, {prompts}"


def _percent(share: float) -> str:
    return f"{max(0.0, 100 * (1 - share)):.0f} %"
