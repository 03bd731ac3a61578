"""Loads a model as a lead or a back would, and measures it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

from duo.draft.policy import CHILDREN, MAX_BATCH_PLACES, row_capacity
from duo.engines import ROOT, Engine, Row, measure
from duo.program import models
from duo.program.models import SHIPPED
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from lead import flags, target
from lead.target import Target

BACK_SLOTS = 4
"""Of a back, if nobody says otherwise."""
RANKINGS = 5
"""The fastest of so many counts."""

RUNTIME = {
    "engine": "--engine", "threads": "-t", "context": "-c", "gpu_layers": "-ngl", "flash_attention": "-fa",
    "batch": "-b", "device": "--device", "dtype": "--dtype",
}  # fmt: skip
"""What `duo.program.flags.add_runtime_flags` sets, and by which flags."""
HUB = ("hf_token", "offline")


class Draft(NamedTuple):
    """A draft model. seconds: of its forward passes by rows. ranking: seconds to rank the guesses of a row."""

    engine: Engine
    seconds: Mapping[int, float]
    ranking: float


def named(given: argparse.Namespace, model: str) -> argparse.Namespace:
    """The flags of a lead with this model, run as these flags say. It may be downloaded. Raises ModelError."""
    args = flags.parser().parse_args([], env_vars={})
    for name in (*RUNTIME, *HUB):
        setattr(args, name, getattr(given, name, getattr(args, name)))
    args.model = None if model == SHIPPED else model
    args.model_draft = ""
    return models.located(args)


def typed(given: argparse.Namespace) -> list[str]:
    """The words of a command line for how models are run, as far as these flags say it."""
    usual = flags.parser().parse_args([], env_vars={})
    pairs = [(flag, getattr(given, name, getattr(usual, name)), getattr(usual, name)) for name, flag in RUNTIME.items()]
    return [word for flag, value, default in pairs if value != default for word in (flag, str(value))]


@contextmanager
def loaded_target(given: argparse.Namespace, model: str) -> Iterator[Target]:
    """Raises ModelError."""
    found = target.load(named(given, model))
    try:
        yield found._replace(seconds=_fastest(found.engine, 1 + found.limits.max_guesses, found.seconds))
    finally:
        found.engine.close()


@contextmanager
def loaded_draft(given: argparse.Namespace, model: str) -> Iterator[Draft]:
    """Raises ModelError."""
    args = named(given, model)
    engine = models.load_engine(args, "draft", row_capacity(BACK_SLOTS), BACK_SLOTS)
    try:
        found = measure.remembered(engine, MAX_BATCH_PLACES, models.speed(args, "draft"))
        yield Draft(engine, _fastest(engine, MAX_BATCH_PLACES, found.seconds), _ranking(engine))
    finally:
        engine.close()


def curve(given: argparse.Namespace, model: str, which: Literal["target", "draft"]) -> Mapping[int, float]:
    """Seconds of the model's forward passes by rows, as target or as draft model. Raises ModelError."""
    if which == "target":
        with loaded_target(given, model) as found:
            return found.seconds
    with loaded_draft(given, model) as draft:
        return draft.seconds


def _fastest(engine: Engine, max_rows: int, before: Mapping[int, float]) -> Mapping[int, float]:
    """Measured once more: the machine may have been busy when it was measured before. The faster time counts."""
    now = measure.measure(engine, max_rows).seconds
    return {rows: min(it[rows] for it in (before, now) if rows in it) for rows in sorted({*before, *now})}


def _ranking(engine: Engine) -> float:
    """Seconds to rank the guesses of one row."""
    sampler, best = Sampler(SamplingParams(temperature=0.0), [0]), float("inf")
    logits = engine.forward([Row(0, 0, 0, ROOT)])[0]
    for _ in range(RANKINGS):
        started = time.perf_counter()
        sampler.rank(logits, [], CHILDREN)
        best = min(best, time.perf_counter() - started)
    engine.commit(0, [0])
    engine.truncate(0, 0)
    return best
