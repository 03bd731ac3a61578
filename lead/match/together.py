"""How much a target and a draft model slow each other down on one machine: they share its memory and its processors.

The draft model runs in a process of its own, as in a back. In turns each model is measured alone, and then both at the
same time. The ratio of one turn counts, so a machine that is slow for a while changes little.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from statistics import median

from duo.draft.policy import row_capacity
from duo.engines import Engine, measure
from duo.errors import DuoError, ModelError
from duo.program import models
from lead import target
from lead.match.expect import Together
from lead.match.measured import BACK_SLOTS, named

TURNS = 3
ROWS = 4
"""Wider passes slow down by what this one does: they read the same weights, and compute more."""

Curve = Mapping[int, float]
ALONE, BESIDE = "alone", "beside"
"""How the process of the draft model is to measure it next."""


def measured(args: argparse.Namespace, target_model: str, draft_model: str) -> Together:
    """args: the flags of `lead match`. Raises ModelError."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_draft, args=(args, draft_model, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        _received(ours)  # it is loaded
        found = target.load(named(args, target_model))
        try:
            turns = [_turn(found.engine, ours) for _ in range(TURNS)]
        finally:
            found.engine.close()
    finally:
        ours.close()
        process.join()
    return Together(_usual([ours for ours, _ in turns]), _usual([theirs for _, theirs in turns]))


def _turn(engine: Engine, draft: Connection) -> tuple[Curve, Curve]:
    """How many times as long passes of the target take beside the draft model, and those of that one."""
    alone = _curve(engine)
    draft.send(ALONE)
    draft_alone = _received(draft)
    draft.send(BESIDE)
    beside = _curve(engine)
    while not draft.poll():  # a whole measurement of the draft model falls into this time
        _curve(engine)
    return _times(beside, alone), _times(_received(draft), draft_alone)


def _draft(args: argparse.Namespace, model: str, lead: Connection) -> None:
    """The process of the draft model. Until it hears more, it goes on to compute beside the target."""
    try:
        engine = models.load_engine(named(args, model), "draft", row_capacity(BACK_SLOTS), BACK_SLOTS)
    except DuoError as error:
        lead.send(str(error))
        return
    try:
        lead.send({})
        while True:
            beside = lead.recv() == BESIDE
            lead.send(_curve(engine))
            while beside and not lead.poll():
                _curve(engine)
    except (EOFError, OSError):
        pass  # all is measured, or the target could not be loaded
    finally:
        engine.close()


def _received(draft: Connection) -> Curve:
    """Raises ModelError if the process has failed."""
    try:
        found: Curve | str = draft.recv()
    except EOFError:
        raise ModelError("the draft model ended while it was measured beside the target") from None
    if isinstance(found, str):
        raise ModelError(found)
    return found


def _curve(engine: Engine) -> Curve:
    """Typical seconds of forward passes. The fastest would hide what the other model takes."""
    return measure.measure(engine, ROWS, 0.0, average=median).seconds


def _times(beside: Curve, alone: Curve) -> Curve:
    return {rows: taken / alone[rows] for rows, taken in beside.items()}


def _usual(turns: Sequence[Curve]) -> Curve:
    """The other model makes nothing faster."""
    return {rows: max(1.0, median(turn[rows] for turn in turns)) for rows in turns[0]}
