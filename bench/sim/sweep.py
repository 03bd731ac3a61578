"""`python -m bench simulate`: all schedules over a grid of targets, drafts, links and texts, in simulated time."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.sim import cells, recordings, typed
from bench.sim.cells import Cells, Place, Speeds
from duo.errors import FileError
from duo.program import values
from lead.simulation import world
from lead.simulation.lead import Machine
from lead.simulation.replay import Replayed
from lead.simulation.world import TARGETS, Absences, Acceptance, Asked, Link

DRAFT_MS = "2,8,15,30"
ROUND_TRIPS_MS = "0.5,1,5,10,40"
MEANS = "0.55,0.7,0.8,0.9"
RECORDED = "recorded"
WIDTH = 160
"""Of the table in a file."""

Kind = Literal["varying", "iid", "bursty"]
KINDS = {"varying": world.Varying, "iid": world.Constant, "bursty": world.Bursty}
NAMES = {"varying": "acceptance that varies", "iid": "i.i.d. acceptance", "bursty": "acceptance in bursts"}


def add_flags(p: argparse.ArgumentParser) -> None:
    grid = p.add_argument_group("grid", "numbers with commas; every combination is a cell")
    grid.add_argument("--targets", type=_targets, default=",".join(TARGETS), metavar="NAMES", help=", ".join(TARGETS))
    number, share = typed.listed(values.not_negative), typed.listed(typed.share)
    grid.add_argument("--draft-ms", type=number, default=DRAFT_MS, metavar="MS", help="time of a draft token")
    grid.add_argument("--round-trips", type=number, default=ROUND_TRIPS_MS, metavar="MS", help="lead to back")
    grid.add_argument("--acceptance", type=share, default=MEANS, metavar="P", help="of the first guess")
    grid.add_argument(
        "--draft-curve", choices=tuple(world.DRAFTS), default="gentle", help="what further rows cost a draft model"
    )
    text = p.add_argument_group("text").add_mutually_exclusive_group()
    text.add_argument("--iid", action="store_true", help="the same confidence at every position")
    text.add_argument("--bursty", action="store_true", help="easy stretches and hard ones in turns")
    text.add_argument("--replay", type=Path, metavar="FILE", help="what `python -m bench record` wrote")
    backs = p.add_argument_group("backs and answers")
    backs.add_argument("--backs", type=values.positive, default=1, metavar="N", help="also ours with N equal backs")
    backs.add_argument(
        "--jitter", type=values.not_negative, default=0.0, metavar="MS", help="by which a message may be late"
    )
    backs.add_argument(
        "--away", type=typed.pair, metavar="UP:DOWN", help="backs come and go: seconds there and away, on average"
    )
    backs.add_argument("--tokens", type=values.positive, default=2000, metavar="N", help="tokens per cell")
    backs.add_argument(
        "--answers", type=typed.pair, metavar="PROMPT:TOKENS", help="as answers of so many tokens after such prompts"
    )
    p.add_argument("--jobs", type=values.positive, default=os.cpu_count() or 1, metavar="N", help="processes")
    p.add_argument("--out", type=Path, metavar="DIR", help="write JSON, Markdown and charts there")


def _targets(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in TARGETS:
            raise argparse.ArgumentTypeError(f"there is no target {name!r}: choose from {', '.join(TARGETS)}")
    return names


@dataclass(frozen=True)
class Conditions:
    """What all cells share, as plain data for other processes. Milliseconds; `away` in seconds."""

    kind: Kind
    recording: Path | None
    tokens: int
    backs: int
    jitter: float
    away: tuple[float, float] | None
    answers: tuple[float, float] | None
    draft_curve: str = "gentle"

    @classmethod
    def of(cls, args: argparse.Namespace) -> Conditions:
        kind: Kind = "iid" if args.iid else "bursty" if args.bursty else "varying"
        return cls(kind, args.replay, args.tokens, args.backs, args.jitter, args.away, args.answers, args.draft_curve)

    @property
    def name(self) -> str:
        parts = [f"replay of {self.recording.name}" if self.recording else NAMES[self.kind]]
        if self.draft_curve != "gentle":
            parts.append(f"{self.draft_curve} draft curve")
        if self.jitter:
            parts.append(f"jitter {self.jitter:g} ms")
        if self.away:
            parts.append("backs {:g} s there and {:g} s away".format(*self.away))
        if self.answers:
            parts.append("prompts of {:g} tokens, answers of {:g}".format(*self.answers))
        return ", ".join(parts)

    def text(self, acceptance: str) -> tuple[Acceptance, list[Asked]]:
        if self.recording is not None:
            replayed = _recording(self.recording)
            return replayed, replayed.asked(self.tokens)
        prompt, each = map(int, self.answers or (1, 0))
        return KINDS[self.kind](float(acceptance), seed=1), world.asked(self.tokens, each, max(1, prompt))

    def machines(self, place: Place, count: int) -> list[Machine]:
        link = Link(place.round_trip_ms / 1000, self.jitter / 1000)
        one = Machine(world.DRAFTS[self.draft_curve](place.draft_ms / 1000), link)
        # Each comes and goes on its own.
        return [replace(one, away=Absences(*self.away, seed=i)) if self.away else one for i in range(count)]


@lru_cache
def _recording(path: Path) -> Replayed:
    return Replayed(recordings.read(path))


def simulate(conditions: Conditions, place: Place) -> Speeds:
    acceptance, asked = conditions.text(place.acceptance)
    more = conditions.machines(place, conditions.backs) if conditions.backs > 1 else []
    return cells.speeds(TARGETS[place.target], conditions.machines(place, 1), acceptance, asked, more)


def places(args: argparse.Namespace) -> list[Place]:
    texts = [RECORDED] if args.replay else [f"{mean:g}" for mean in args.acceptance]
    return [Place(*at) for at in product(args.targets, args.draft_ms, args.round_trips, texts)]


def sweep(conditions: Conditions, grid: Sequence[Place], jobs: int, console: Console) -> Cells:
    """All cells, in `jobs` processes."""

    def shown(found: Iterable[Speeds]) -> Cells:
        bar = track(found, "simulating", total=len(grid), console=console, disable=not console.is_terminal)
        return dict(zip(grid, bar, strict=True))

    if jobs == 1 or len(grid) == 1:
        return shown(simulate(conditions, place) for place in grid)
    with ProcessPoolExecutor(min(jobs, len(grid)), mp_context=get_context("spawn")) as pool:
        return shown(pool.map(simulate, [conditions] * len(grid), grid))


def main(args: argparse.Namespace) -> int:
    conditions = Conditions.of(args)
    if args.replay:
        _recording(args.replay)  # what is wrong with it is said before anything is simulated
    if args.out:
        _folder(args.out)
    found = sweep(conditions, places(args), args.jobs, Console(stderr=True))
    head, *rows = cells.rows(found, args.backs)
    table = Table(title=f"Tokens per second, simulated, {conditions.name}")
    for name in head:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)
    lines = cells.verdict(found, args.iid, args.backs, conditions.draft_curve == "gentle")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if args.out:
        write(args.out, conditions, found, args.backs, lines)
    return 0


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot write to {path}: {error.strerror}; choose another --out") from None


def write(out: Path, conditions: Conditions, found: Cells, backs: int, lines: Sequence[str]) -> None:
    """sweep.json, sweep.md and the charts."""
    from bench.sim import sweep_charts

    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    whole = {
        "command": command,
        "conditions": {**asdict(conditions), "recording": conditions.recording and conditions.recording.name},
        "verdict": lines,
        "cells": [{**asdict(place), **asdict(it), "best": it.best, "ratio": it.ratio} for place, it in found.items()],
    }
    (out / "sweep.json").write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    head, *rows = cells.rows(found, backs)
    text = [f"# Simulated, {conditions.name}", "", *(f"- {line}" for line in lines), ""]
    text += ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    text += ["| " + " | ".join(row) + " |" for row in rows]
    (out / "sweep.md").write_text("\n".join([*text, "", f"Tokens per second. Made by `{command}`.", ""]), "utf-8")
    sweep_charts.draw(out, conditions.name, found)
