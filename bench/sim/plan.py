"""`python -m bench plan`: what a second machine would give, before it is bought.

It takes the costs of target and draft, the link between them, and how often the draft is right: typed in, or measured
here. It says how fast the answers come, and what they would gain if one of these figures were better.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from rich.console import Console
from rich.table import Table

from bench.sim import cells, recordings, typed
from bench.sim.cells import Speeds
from duo.errors import DuoError
from duo.program import values
from lead.simulation import curves, world
from lead.simulation.lead import Machine, run
from lead.simulation.replay import Replayed
from lead.simulation.world import Acceptance, Asked, Cost, Link

T = TypeVar("T")

LITTLE = 1.03
"""A gain below this is none."""


class PlanError(DuoError):
    """The figures do not fit together."""

    exit_code = 2


def add_flags(p: argparse.ArgumentParser) -> None:
    target = p.add_argument_group("target").add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--target-ms", type=curves.target_points, metavar="ROWS:MS,...",
        help=f"its forward pass over so many tokens: {curves.EXAMPLE}",
    )  # fmt: skip
    target.add_argument("--target", metavar="MODEL", help="measure this model here")
    draft = p.add_argument_group("draft").add_mutually_exclusive_group(required=True)
    draft.add_argument(
        "--draft-ms", type=curves.points, nargs="+", metavar="MS",
        help="time of a draft token, or a curve as above; one for each back, or one for all",
    )  # fmt: skip
    draft.add_argument("--draft", metavar="MODEL", help="measure this model here")
    p.add_argument(
        "--round-trip", type=values.not_negative, nargs="+", default=[1.0], metavar="MS",
        help="from lead to back and back again; one for each back, or one for all",
    )  # fmt: skip
    p.add_argument(
        "--jitter", type=values.not_negative, default=0.0, metavar="MS", help="by which a message may be late"
    )
    text = p.add_mutually_exclusive_group()
    text.add_argument(
        "--acceptance", type=typed.share, default=0.75, metavar="P", help="share of the draft's tokens that are right"
    )
    text.add_argument(
        "--replay", type=Path, metavar="FILE", help="what `python -m bench record` wrote of the two models"
    )
    p.add_argument("--backs", type=values.positive, default=1, metavar="N", help="how many, if all are equal")
    p.add_argument("--threads", type=values.positive, default=0, metavar="N", help="CPU threads of what is measured")
    p.add_argument("--tokens", type=values.positive, default=3000, metavar="N", help="tokens to simulate")


@dataclass(frozen=True)
class Figures:
    """The machines and the models."""

    target: Cost
    machines: Sequence[Machine]
    text: Acceptance
    asked: Sequence[Asked]
    acceptance: float

    def speed(self) -> float:
        return run(self.text, self.target, self.machines, self.asked, local_draft=self.machines[0].cost)

    def all_speeds(self) -> Speeds:
        return cells.speeds(self.target, self.machines, self.text, self.asked)


def machines(drafts: Sequence[Cost], round_trips: Sequence[float], jitter: float, backs: int) -> list[Machine]:
    """The backs. A single figure stands for all of them. Seconds. Raises PlanError."""
    count = max(len(drafts), len(round_trips), backs)

    def for_each(figures: Sequence[T], flag: str) -> Sequence[T]:
        if len(figures) not in (1, count):
            raise PlanError(f"{flag} has {len(figures)} figures for {count} backs: give one, or one for each")
        return list(figures) * (count // len(figures))

    costs, trips = for_each(drafts, "--draft-ms"), for_each(round_trips, "--round-trip")
    return [Machine(cost, Link(trip, jitter)) for cost, trip in zip(costs, trips, strict=True)]


def faster(cost: Cost) -> Cost:
    return lambda rows: cost(rows) / 2


def better(now: Figures) -> dict[str, float]:
    """What could be different, and the tokens per second it would give."""

    def backs(*changed: Machine) -> float:
        return replace(now, machines=changed).speed()

    found = {
        "draft models twice as fast": backs(*(replace(m, cost=faster(m.cost)) for m in now.machines)),
        "no round trip": backs(*(replace(m, link=Link(0.0)) for m in now.machines)),
        "one more back like the first": backs(*now.machines, now.machines[0]),
    }
    if not isinstance(now.text, Replayed):
        mean = (1 + now.acceptance) / 2
        found[f"half as many wrong drafts (acceptance {mean:.2f})"] = replace(
            now, text=world.Varying(mean, seed=1)
        ).speed()
    return found


def limits(speeds: Speeds, target: Cost, changes: dict[str, float]) -> list[str]:
    """Where the limit is, in sentences."""
    gains = {what: speed / speeds.ours for what, speed in sorted(changes.items(), key=lambda pair: -pair[1])}
    most = next(iter(gains))
    if speeds.tree_bound < LITTLE * speeds.none:
        said = [
            "The target is the limit: "
            f"{_steep(target)}, so that even guesses that cost nothing would give {_times(speeds.tree_bound, speeds)}."
        ]
    elif gains[most] < LITTLE:
        said = [
            f"No single figure is the limit: the best change here, {most}, would give {gains[most]:.2f} times as much."
        ]
    else:
        said = [f"The limit is here: {most} would give {gains[most]:.2f} times as much."]
    rest = [f"{what} {gain:.2f}" for what, gain in gains.items() if what != most]
    said.append(f"The other changes: {', '.join(rest)} times.")
    if speeds.ours < LITTLE * speeds.none <= speeds.tree_bound:
        said.append(f"As things are, a back is not worth it ({_steep(target)}).")
    return said


def _steep(target: Cost) -> str:
    return f"a forward pass over 2 tokens costs {target(2) / target(1):.1f} times one over 1"


def _times(speed: float, speeds: Speeds) -> str:
    return f"{speed / speeds.none:.2f} times the speed"


def main(args: argparse.Namespace) -> int:
    now = figures(args)
    speeds = now.all_speeds()
    backs = f"{len(now.machines)} backs" if len(now.machines) > 1 else "1 back"
    table = Table(title=f"Expected, with {backs} and acceptance {now.acceptance:.2f}")
    for column in ("", "tokens/s", "speed-up"):
        table.add_column(column, justify="left" if not column else "right")
    for name, speed in named(speeds):
        table.add_row(name, f"{speed:.1f}", f"{speed / speeds.none:.2f}", style="bold" if name == "ours" else "")
    console = Console()
    console.print(table)
    for line in limits(speeds, now.target, better(now)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def named(speeds: Speeds) -> list[tuple[str, float]]:
    """Slow and simple first."""
    return [
        ("no back", speeds.none),
        ("synchronous, draft on the target's machine", speeds.local),
        ("synchronous, draft on the other machine", speeds.remote),
        ("plain asynchronous chain", speeds.chain),
        ("ours, no draft model beside the target", speeds.apart),
        ("ours", speeds.ours),
        ("bound: free chains", speeds.bound),
        ("bound: free trees", speeds.tree_bound),
    ]


def figures(args: argparse.Namespace) -> Figures:
    """Raises DuoError."""
    replayed = Replayed(recordings.read(args.replay)) if args.replay else None
    target = curves.target_cost(args.target_ms or measured(args.target, "target", args.threads))
    drafts = [curves.draft_cost(it) for it in args.draft_ms or [measured(args.draft, "draft", args.threads)]]
    trips = [ms / 1000 for ms in args.round_trip]
    text = replayed or world.Varying(args.acceptance, seed=1)
    return Figures(
        target,
        machines(drafts, trips, args.jitter / 1000, args.backs),
        text,
        replayed.asked(args.tokens) if replayed else world.asked(args.tokens),
        replayed.mean if replayed else args.acceptance,
    )


def measured(model: str, which: Literal["target", "draft"], threads: int) -> curves.Points:
    """The cost curve of a model on this machine, in milliseconds. Raises ModelError."""
    from lead.match import measured

    found = measured.curve(argparse.Namespace(threads=threads), model, which)
    return [(rows, 1000 * seconds) for rows, seconds in sorted(found.items())]
