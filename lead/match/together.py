"""How much a target and a draft model slow each other down on one machine: they share its memory and its processors.

The draft model runs in a process of its own, as in a back. Each model is measured alone, and then both at the same
time. The ratio counts, so a machine that is slow as a whole changes nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Mapping
from multiprocessing.connection import Connection
from statistics import median

from duo.draft.policy import MAX_BATCH_PLACES, row_capacity
from duo.engines import Engine, measure
from duo.errors import DuoError, ModelError
from duo.program import models
from lead import target
from lead.match.expect import Together
from lead.match.measured import BACK_SLOTS, named

Curve = Mapping[int, float]


def measured(args: argparse.Namespace, target_model: str, draft_model: str) -> Together:
    """args: the flags of `lead match`. Raises ModelError."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_draft, args=(args, draft_model, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        draft_alone = _received(ours)
        found = target.load(named(args, target_model))
        try:
            target_alone, target_beside, draft_beside = _both(found.engine, 1 + found.limits.max_guesses, ours)
        finally:
            found.engine.close()
    finally:
        ours.close()
        process.join()
    return Together(_times(target_beside, target_alone), _times(draft_beside, draft_alone))


def _both(engine: Engine, rows: int, draft: Connection) -> tuple[Curve, Curve, Curve]:
    """Curves of the target alone, of the target beside the draft model, and of the draft model beside it."""
    alone = _curve(engine, rows)
    draft.send("compute")
    beside = _curve(engine, rows)
    while not draft.poll():  # a whole measurement of the draft model falls into this time
        _curve(engine, rows)
    drafted = _received(draft)
    draft.send("end")
    return alone, beside, drafted


def _draft(args: argparse.Namespace, model: str, lead: Connection) -> None:
    """The process of the draft model: measured alone, then beside the target until that one has been measured too."""
    try:
        engine = models.load_engine(named(args, model), "draft", row_capacity(BACK_SLOTS), BACK_SLOTS)
    except DuoError as error:
        lead.send(str(error))
        return
    try:
        lead.send(_curve(engine, MAX_BATCH_PLACES))
        lead.recv()
        lead.send(_curve(engine, MAX_BATCH_PLACES))
        while not lead.poll():
            _curve(engine, MAX_BATCH_PLACES)
    except (EOFError, OSError):
        pass  # the target could not be loaded
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


def _curve(engine: Engine, rows: int) -> Curve:
    """Typical seconds of forward passes. The fastest would hide what the other model takes."""
    return measure.measure(engine, rows, average=median).seconds


def _times(beside: Curve, alone: Curve) -> dict[int, float]:
    """How many times as long. The other model makes nothing faster."""
    return {rows: max(1.0, taken / alone[rows]) for rows, taken in beside.items()}
