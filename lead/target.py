"""Loads the target, and finds out which guesses it can verify, at what price, and with which bits."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from duo.engines import Engine
from duo.engines.cost import CostCurve
from duo.engines.exact import decision
from duo.engines.replay import Checkpoints, Replay
from duo.program import models
from lead.decode.prefill import SCORED_CHUNK
from lead.plan.limits import Limits, without_guesses
from lead.plan.planner import Planner
from lead.plan.speculation import Speculation
from lead.plan.verify_all import VerifyAll

log = logging.getLogger("lead")

TREE_ROWS = 32
"""Rows of one verification that the engine has room for. llama.cpp's time per forward pass grows with it."""


class Target(NamedTuple):
    """speculation: one that has learned nothing yet. exactness: a line for people about the bits of its text.

    seconds, checkpoints: as measured, of passes by width, and of going back. model_bytes: of its files; 0: not known.
    """

    engine: Engine
    limits: Limits
    speculation: Speculation
    exactness: str
    seconds: Mapping[int, float] = MappingProxyType({})
    checkpoints: Checkpoints | None = None
    model_bytes: int = 0


def load(args: argparse.Namespace) -> Target:
    """Load what the flags name, once `models.located` has found it, and measure it. Raises ModelError."""
    remembers = "memory" in args.speculation and args.draft_max > 0
    run = args.memory_max if remembers else 0
    few = max(TREE_ROWS, SCORED_CHUNK, args.draft_max + 2, 2 * args.parallel)
    rows = max(few, run + 2)

    def engine_for(chains: bool, trial: bool) -> Engine:
        return models.load_engine(args, "target", rows, args.parallel, chains, trial)

    trees = args.policy == "tree"
    asked = decision.ExactOptions(args.exact, args.draft_max, few, args.parallel, trees, args.context, run)
    served = decision.load_target(engine_for, asked, models.speed(args, "target"))
    limits, reason = _limits(args, served, few if served.on else rows, run)
    for line in start_lines(served, limits, reason):
        log.info("%s", line)
    plan = speculation(args.policy, limits, served.seconds, served.checkpoints)
    size = models.size(args, "target")
    return Target(served.engine, limits, plan, served.line, served.seconds, served.checkpoints, size)


def start_lines(served: decision.LoadedTarget, limits: Limits, reason: str) -> Iterator[str]:
    """Log lines about a loaded target. `reason`: why it is served without guesses; empty if it is not."""
    engine = served.engine
    note = engine.note if limits.max_guesses else getattr(engine, "context_note", engine.note)
    if note:
        yield note
    if engine.sampling:
        told = ", ".join(f"{name} {value:g}" for name, value in engine.sampling.items())
        yield f"{engine.name} is sampled as its makers suggest, unless a flag or a request says otherwise: {told}"
    if not engine.vocabulary.chat_template:
        yield (
            f"{engine.name} has no chat template: it is a base model, made to continue texts. Conversations become "
            "lines such as `user: ...`, and an answer ends where the next turn would begin. For a chat take an "
            "instruct model; POST /v1/completions continues a text"
        )
    yield served.line
    if reason and served.guesses:  # else the line about bits says so
        yield f"{engine.name} is served without guesses: {reason}"


def _limits(args: argparse.Namespace, served: decision.LoadedTarget, rows: int, run: int) -> tuple[Limits, str]:
    """Which guesses are verified, and why none are. run: most guesses of memory."""
    engine = served.engine
    rows = min(rows, engine.batch, engine.capacity)
    most = args.draft_max if args.speculation else 0
    limits = Limits(
        min(most, rows - 1), args.draft_min, args.draft_p_min, min(run, rows - 1), rows, engine.rollback
    )  # fmt: skip
    if reason := without_guesses(limits, _replay(served.checkpoints, CostCurve(served.seconds))):
        limits = Limits(0, args.draft_min, args.draft_p_min, 0, rows, engine.rollback)
    return limits, reason


def _replay(checkpoints: Checkpoints | None, cost: CostCurve) -> Replay | None:
    return Replay(checkpoints, cost) if checkpoints is not None else None


def speculation(
    policy: str, limits: Limits, seconds: Mapping[int, float], checkpoints: Checkpoints | None
) -> Speculation:
    """What decides about the guesses of a target that was measured so. policy: tree or chain."""
    if policy != "tree":
        return VerifyAll(limits)
    cost = CostCurve(seconds)
    return Planner(cost, limits, replay=_replay(checkpoints, cost))
