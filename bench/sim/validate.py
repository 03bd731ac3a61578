"""`python -m bench validate`: whether the simulator is right, by real runs of `python -m bench compare`.

For each configuration of a run, the same schedules are simulated on the recorded texts of the run.

The costs come from measurements. Forward passes are measured for each model alone. Traced runs of our schedules show
how much slower these passes are while two programs share a machine, what a step takes beside them, and how long
messages travel (`bench.sim.costs`). All costs are scaled by what the target alone took in the run, over what it takes
now, because the machine may have become faster or slower.

Throughput is compared as a multiple of the target's alone, on the same question in the same round, as everywhere in
`bench compare`.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.compare.entrant import Setup
from bench.compare.figures import Record, configurations, rows
from bench.compare.lineup import LAYOUTS
from bench.compare.names import BASE, LABELS, OURS
from bench.compare.options import add_flags as compare_flags
from bench.compare.ours import BACK_TRACE, LEAD_TRACE, LeadEntrant
from bench.compare.run import models
from bench.compare.trial import seed
from bench.harness.models import load_target
from bench.harness.processes import pinned
from bench.show import trace
from bench.sim import record, recordings, schedules
from bench.sim.costs import Observed, Seen, Slower, observed
from bench.sim.record import Wanted
from bench.workloads.kinds import QUESTIONS
from duo.draft.policy import CHAIN, MAX_BATCH_PLACES, MAX_ROWS, TREE
from duo.engines import Engine, EngineOptions, load, measure
from duo.engines.conditions import conditions
from duo.engines.cost import CostCurve
from duo.errors import FileError
from duo.program.prompts import read as read_prompts
from lead.match import prompts
from lead.match.prompts import Question
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.verify_all import VerifyAll
from lead.simulation import world
from lead.simulation.lead import Machine, answers
from lead.simulation.replay import Recorded, Replayed
from lead.simulation.world import Cost, Link

AHEAD = 16
"""How far ahead a back is, if nobody says otherwise."""
WITHIN = 0.10
"""How far a simulation may be off."""
AS_AT_REST = Slower([(1, 1.0)])
FEW = 3
"""Questions by which the costs at work are found."""
PATIENCE = 8.0
"""Seconds for which a cost curve is measured."""


@dataclass(frozen=True)
class Run:
    """A run that was measured."""

    path: Path
    title: str
    args: argparse.Namespace
    records: Sequence[Record]

    @classmethod
    def read(cls, path: Path) -> Run:
        """Raises FileError."""
        try:
            whole: dict[str, Any] = json.loads(path.read_text("utf-8"))
            words = shlex.split(whole["command"])
            parser = argparse.ArgumentParser()
            compare_flags(parser)
            args, _ = parser.parse_known_args(words[words.index("compare") + 1 :])
            records = [Record(**answer) for answer in whole["answers"]]
            return cls(path, whole["title"], args, [it for it in records if args.prompts or it.workload == QUESTIONS])
        except OSError as error:
            raise FileError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
        except (ValueError, KeyError, TypeError):
            raise FileError(f"{path}: not a results.json of `python -m bench compare`") from None


@dataclass(frozen=True)
class Rest:
    """Seconds of forward passes by rows, each model measured alone."""

    target: Cost
    draft: Cost
    curve: Mapping[int, float]
    """Of the target, as a lead would have measured it."""


def at_rest(setup: Setup) -> Rest:
    """The costs of both models on this machine."""
    with pinned(setup.lead_cpus):
        target = load_target(setup.target, setup.runtime)
        target_curve = fastest(target, 1 + Limits().draft_max, setup.target)
        target.close()
    with pinned(setup.back_cpus):
        draft = load(setup.draft, setup.runtime, EngineOptions(threads=1, tree_rows=MAX_ROWS))
        draft_curve = fastest(draft, MAX_BATCH_PLACES, setup.draft)
        draft.close()
    return Rest(world.curve(*sorted(target_curve.items())), world.curve(*sorted(draft_curve.items())), target_curve)


def fastest(engine: Engine, most: int, model: str) -> dict[int, float]:
    """The engine's cost curve, as a lead or a back with this model remembers it."""
    now = measure.measure(engine, most, PATIENCE).seconds
    before = measure.remembered(engine, most, conditions(model, engine.runtime, EngineOptions(threads=1))).seconds
    return {rows: min(seconds, before.get(rows, seconds)) for rows, seconds in now.items()}


def at_work(schedule: str, setup: Setup, rest: Rest, args: argparse.Namespace, temperature: float) -> Observed:
    """The costs in a run of the schedule on a few questions."""
    conversations = read_prompts(args.prompts) if args.prompts else prompts.shipped()
    asked = [Question([*it.before, {"role": "user", "content": it.turns[0]}], []) for it in conversations[:FEW]]
    with TemporaryDirectory() as name:
        folder = Path(name)
        with LeadEntrant(schedule, setup, LAYOUTS[schedule], traces=folder) as traced:
            traced.at(0.0)
            for number, question in enumerate(asked):
                traced.answer(question, args.tokens, temperature, seed(0, number))
        files = [folder / LEAD_TRACE, folder / BACK_TRACE]
        lead, back = (trace.load(file) if file.exists() else [] for file in files)
    return observed(lead, back, rest.target, rest.draft)


@dataclass(frozen=True)
class Compared:
    """One schedule in one configuration. `real`, `simulated`: speed-ups; `alone`: tokens per second of no back;
    `ours_over`: how much faster ours was, None for ours."""

    name: str
    schedule: str
    alone: float
    real: float
    simulated: float
    ours_over: float | None = None

    @property
    def error(self) -> float:
        return self.simulated / self.real - 1


class Simulation:
    """The schedules of a run on the texts of one temperature.

    `work`: the observed costs of our schedules, and of no back. `alone`: the target's tokens per second in the run,
    which say whether the machine was faster or slower than now.
    """

    def __init__(self, rest: Rest, work: Mapping[str, Observed], text: Sequence[Recorded], alone: float) -> None:
        self._rest = rest
        self._work = work
        self._text = text
        base = work[BASE]
        self._ranking = max(seen.ranking for it in work.values() for seen in (it.own, it.draft))
        self._now = 1 / alone / (rest.target(1) * base.target(1) + base.overhead)

    def _draft(self, seen: Seen) -> Cost:
        slower, now = seen.slower or AS_AT_REST, self._now
        # Nothing is ranked in a prompt.
        return lambda rows: (
            now * (self._rest.draft(rows) * slower(rows) + (rows * seen.ranking if rows <= MAX_BATCH_PLACES else 0.0))
        )

    def speed(self, schedule: str, round_trip: float, setting: str) -> float | None:
        """None where it is not simulated."""
        if schedule in self._work:
            return self._own(schedule, round_trip)
        if schedule == "free-chain":
            return median(schedules.free(self._alone, Replayed([it]), len(it.tokens)) for it in self._text)
        if schedule in ("sync", "sync-remote") and setting:
            target, draft = self._alone, self._draft(Seen(None, self._ranking))
            length, floor = chosen(setting)
            away = round_trip if schedule == "sync-remote" else 0.0
            return median(
                schedules.turns(target, draft, Replayed([answer]), len(answer.tokens), length, floor).speed(away)
                for answer in self._text
            )
        return None

    def _alone(self, rows: int) -> float:
        """Seconds of a step of the target with nobody beside it."""
        base = self._work[BASE]
        return (self._rest.target(rows) * base.target(rows) + base.overhead) * self._now

    def _own(self, schedule: str, round_trip: float) -> float:
        seen = self._work[schedule]

        def target(rows: int) -> float:
            return self._rest.target(rows) * seen.target(rows) * self._now

        chain, limits = schedule == "chain", Limits()
        curve = {rows: seconds * seen.target(rows) * self._now for rows, seconds in self._rest.curve.items()}
        plan = VerifyAll(limits) if chain else Planner(CostCurve(curve), limits)
        link = Link(round_trip + seen.round_trip)
        backs = [Machine(self._draft(seen.draft), link)] if LAYOUTS[schedule].back else []
        own = self._draft(seen.own) if LAYOUTS[schedule].local_draft else None
        text = Replayed(self._text)
        asked = text.asked(sum(len(answer.tokens) for answer in self._text))
        policy = CHAIN if chain else TREE
        found = answers(text, target, backs, asked, policy, plan, AHEAD, seen.overhead * self._now, own)
        return median(it.tokens / it.decoding for it in found)


def chosen(setting: str) -> tuple[int, float]:
    """Length and floor of a synchronous schedule: "4 tokens, floor 0.3"."""
    length, _, floor = setting.partition(" tokens")
    return int(length), float(floor.removeprefix(", floor ") or 0)


def compared(run: Run) -> list[Compared]:
    """All that can be simulated of a run. Raises DuoError."""
    setup, found = models(run.args), list[Compared]()
    rest = at_rest(setup)
    simulated: dict[float, tuple[list[Recorded], dict[str, Observed]]] = {}
    for temperature, trip in configurations(run.records):
        here = {row.schedule: row for row in rows(run.records, temperature, trip)}
        if temperature not in simulated:
            text = recorded(run, setup, temperature)
            names = [name for name in LAYOUTS if name in here and not LAYOUTS[name].both_cores]
            simulated[temperature] = text, {name: at_work(name, setup, rest, run.args, temperature) for name in names}
        text, work = simulated[temperature]
        alone = here[BASE].speed.median
        simulation = Simulation(rest, work, text, alone)
        name = f"{run.title}, temperature {temperature:g}, round trip {trip:g} ms"
        for schedule in LABELS:
            row = here.get(schedule)
            if row is not None and schedule != BASE:
                speed = simulation.speed(schedule, trip / 1000, row.setting)
                if speed is not None:
                    over = row.ours_over.median if row.ours_over else None
                    found.append(Compared(name, schedule, alone, row.speed_up.median, speed / alone, over))
    return found


def recorded(run: Run, setup: Setup, temperature: float) -> list[Recorded]:
    """The texts of the run. They are kept beside it."""
    path = run.path.with_name(f"{run.path.stem}-{temperature:g}.jsonl")
    if path.exists():
        return recordings.read(path)
    args = run.args
    wanted = Wanted(
        setup.target, setup.draft, args.runtime, args.prompts, args.questions * args.rounds, args.tokens, 1, temperature
    )
    made = record.record(wanted, warm=True)  # a run begins with answers that do not count
    recordings.write(path, made)
    return made


def markdown(found: Sequence[Compared]) -> str:
    head = ("configuration", "schedule", "real: tokens/s", "speed-up", "simulated: tokens/s", "speed-up", "error")
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    lines += [
        f"| {c.name} | {LABELS[c.schedule]} | {c.real * c.alone:.1f} | {c.real:.2f} "
        f"| {c.simulated * c.alone:.1f} | {c.simulated:.2f} | {c.error:+.1%} |"
        for c in found
    ]
    ours = {c.name: c.simulated for c in found if c.schedule == OURS}
    over = [c for c in found if c.ours_over and c.name in ours]
    if over:
        lines += [
            "",
            "| configuration | ours over | real | simulated | real of simulated |",
            "|---|---|---:|---:|---:|",
        ]
    for c in over:
        simulated = ours[c.name] / c.simulated
        share = (c.ours_over or 0.0) / simulated
        lines.append(f"| {c.name} | {LABELS[c.schedule]} | {c.ours_over:.2f} | {simulated:.2f} | {share:.2f} |")
    for schedule in dict.fromkeys(c.schedule for c in found):
        errors = [abs(c.error) for c in found if c.schedule == schedule]
        lines += ["", f"{LABELS[schedule]}: {sum(e <= WITHIN for e in errors)} of {len(errors)} within {WITHIN:.0%}"]
    return "\n".join(lines)


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("files", type=Path, nargs="+", metavar="FILE", help="results.json of compare")


def main(args: argparse.Namespace) -> int:
    print(markdown([it for run in [Run.read(path) for path in args.files] for it in compared(run)]))
    return 0
