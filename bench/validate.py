"""`python -m bench validate`: whether the simulator is right, by real runs of `python -m bench compare`.

For each configuration of a run the same schedules are simulated: on the texts of the run, recorded once more, with the
costs of both models on this machine (the fastest of what is measured now and what was remembered, because what disturbs
a measurement only makes it slower) and the latency of messages between real processes. A step takes in the simulation
what the target alone took for a token in that run. If that is a little more than its forward pass, the rest is the
lead's own work; if not, the machine was faster or slower in the run than now, and the costs of both models are
multiplied. What is compared is throughput as a multiple of the target's alone on the same question in the same round,
as everywhere in `bench compare`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import record, replay, world
from bench.compare.figures import Record, configurations, rows
from bench.compare.names import BASE, LABELS
from bench.compare.options import add_flags as compare_flags
from bench.compare.run import models
from bench.compare.schedules import Setup
from bench.processes import BackProcess, LeadProcess
from bench.record import Wanted
from bench.replay import Recorded, Replayed
from bench.simulate import Machine, answers
from bench.world import Cost, Link
from duo.cost import CostCurve
from duo.drafting import BATCH, CHAIN, CHILDREN, MAX_ROWS, TREE
from duo.engines import Engine, EngineOptions, Row, curve, load
from duo.errors import DuoError, FileError
from duo.planner import Everything, Limits, Planner
from duo.sampling import Sampler, SamplingParams
from lead.__main__ import TREE_ROWS

AHEAD = 16
"""How far ahead a back is, if nobody says otherwise."""
OWN_WORK = 0.001
"""Seconds beside the forward pass that are taken for the lead's own work; more is another speed of the machine."""
WITHIN = 0.10
"""How far a simulation may be off."""
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
            return cls(path, whole["title"], args, [Record(**answer) for answer in whole["answers"]])
        except OSError as error:
            raise FileError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
        except (ValueError, KeyError, TypeError):
            raise FileError(f"{path}: not a results.json of `python -m bench compare`") from None


@dataclass(frozen=True)
class Costs:
    """Seconds: of forward passes by rows, of the ranking of a row's guesses, and of a message there and back."""

    target: Mapping[int, float]
    draft: Mapping[int, float]
    ranking: float
    round_trip: float


@contextmanager
def pinned(cpus: Sequence[int]) -> Iterator[None]:
    """On these cores only, where the system can say so."""
    before = os.sched_getaffinity(0) if cpus and sys.platform == "linux" else set()
    if before:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)


def measured(setup: Setup, some: Recorded, temperature: float) -> Costs:
    """What it costs on this machine. `some`: an answer of the target."""
    with pinned(setup.lead_cpus):
        target = load(setup.target, setup.runtime, EngineOptions(threads=1, tree_rows=TREE_ROWS))
        target_curve = fastest(target, 1 + Limits().draft_max, setup.target)
        target.close()
    with pinned(setup.back_cpus):
        draft = load(setup.draft, setup.runtime, EngineOptions(threads=1, tree_rows=MAX_ROWS))
        draft_curve = fastest(draft, BATCH, setup.draft)
        sampler = Sampler(SamplingParams(temperature=temperature, seed=1), some.prompt)
        draft.extend(0, some.prompt[:-1])
        logits = draft.forward([Row(0, 0, some.prompt[-1])])[0].copy()
        times: list[float] = []
        for place in range(len(some.tokens)):
            started = time.perf_counter()
            sampler.rank(logits, some.tokens[:place], CHILDREN)
            times.append(time.perf_counter() - started)
        draft.close()
    return Costs(target_curve, draft_curve, median(times), round_trip(setup))


def fastest(engine: Engine, most: int, model: str) -> dict[int, float]:
    """The engine's cost curve. What is remembered is what a lead or a back with this model starts from."""
    now = curve.measure(engine, most, PATIENCE)
    before = curve.remembered(engine, most, [model, engine.name, engine.runtime, 1, 0, "auto", "auto"])
    return {rows: min(seconds, before.get(rows, seconds)) for rows, seconds in now.items()}


def round_trip(setup: Setup) -> float:
    """Seconds from a busy lead to its back and back again: what the programs and this machine add to any network."""
    engine = ("--engine", setup.runtime, "--threads", "1")
    with LeadProcess("-m", setup.target, *engine, "--print-mode", "none", cpus=setup.lead_cpus) as lead:
        lead.ready()
        with BackProcess(lead.back_port, "-m", setup.draft, *engine, cpus=setup.back_cpus).joined():
            lead.has_backs(1)
            seen: list[float] = []
            while len(seen) < 3:
                lead.ask("What does shutil.copytree do?", temperature=0, max_tokens=96, ignore_eos=True)
                seen += [b["round_trip_ms"] / 1000 for b in lead.backs() if b["round_trip_ms"] is not None]
    return median(seen)


@dataclass(frozen=True)
class Compared:
    """One schedule in one configuration. `real`, `simulated`: speed-ups; `alone`: tokens per second of no back."""

    name: str
    schedule: str
    alone: float
    real: float
    simulated: float

    @property
    def error(self) -> float:
        return self.simulated / self.real - 1


class Simulation:
    """The schedules of a run on the texts of one temperature. `alone`: the target's tokens per second in the run."""

    def __init__(self, costs: Costs, text: Sequence[Recorded], alone: float) -> None:
        extra = 1 / alone - costs.target[1]
        self._overhead = extra if 0 <= extra <= OWN_WORK else 0.0
        factor = 1.0 if self._overhead else 1 / alone / costs.target[1]
        self._curve = {rows: seconds * factor for rows, seconds in costs.target.items()}
        self._target = world.curve(*sorted(self._curve.items()))
        ranking = costs.ranking * factor
        draft = [(rows, seconds * factor) for rows, seconds in sorted(costs.draft.items())]
        forward = world.curve(*draft)

        def draft_cost(rows: int) -> float:
            return forward(rows) + (rows * ranking if rows <= BATCH else 0.0)  # nothing is ranked in a prompt

        self._draft: Cost = draft_cost
        self._latency = costs.round_trip
        self._text = text

    def speed(self, schedule: str, round_trip: float, setting: str) -> float | None:
        """None where it is not simulated."""
        if schedule in ("ours", "chain", BASE):
            back = Machine(self._draft, Link(round_trip + self._latency))
            ours = schedule != "chain"
            limits = Limits()
            plan = Planner(CostCurve(self._curve), limits) if ours else Everything(limits)
            text = Replayed(self._text)
            asked = text.asked(sum(len(answer.tokens) for answer in self._text))
            machines = [] if schedule == BASE else [back]
            policy = TREE if ours else CHAIN
            found = answers(text, self._target, machines, asked, policy, plan, AHEAD, self._overhead)
            return median(it.tokens / it.decoding for it in found)
        if schedule in ("sync", "sync-remote") and setting:
            length, floor = chosen(setting)

            def target(rows: int) -> float:
                return self._target(rows) + self._overhead

            away = round_trip if schedule == "sync-remote" else 0.0
            return median(
                world.turns(target, self._draft, Replayed([answer]), len(answer.tokens), length, floor).speed(away)
                for answer in self._text
            )
        return None


def chosen(setting: str) -> tuple[int, float]:
    """Length and floor of a synchronous schedule: "4 tokens, floor 0.3"."""
    length, _, floor = setting.partition(" tokens")
    return int(length), float(floor.removeprefix(", floor ") or 0)


def compared(run: Run) -> list[Compared]:
    """All that can be simulated of a run. Raises DuoError."""
    setup, found, costs = models(run.args), [], dict[float, Costs]()
    texts: dict[float, list[Recorded]] = {}
    for temperature, trip in configurations(run.records):
        if temperature not in texts:
            texts[temperature] = recorded(run, setup, temperature)
            costs[temperature] = measured(setup, texts[temperature][0], temperature)
        here = {row.schedule: row for row in rows(run.records, temperature, trip)}
        alone = here[BASE].speed.median
        simulation = Simulation(costs[temperature], texts[temperature], alone)
        name = f"{run.title}, temperature {temperature:g}, round trip {trip:g} ms"
        for schedule in LABELS:
            row = here.get(schedule)
            if row is not None and schedule != BASE:
                speed = simulation.speed(schedule, trip / 1000, row.setting)
                if speed is not None:
                    found.append(Compared(name, schedule, alone, row.speed_up.median, speed / alone))
    return found


def recorded(run: Run, setup: Setup, temperature: float) -> list[Recorded]:
    """The texts of the run. They are kept beside it."""
    path = run.path.with_name(f"{run.path.stem}-{temperature:g}.jsonl")
    if path.exists():
        return replay.read(path)
    args = run.args
    rounds = args.rounds if temperature else 1
    wanted = Wanted(
        setup.target, setup.draft, args.runtime, args.prompts, args.questions, args.tokens, rounds, temperature
    )
    made = record.record(wanted, warm=True)  # a run begins with answers that do not count
    replay.write(path, made)
    return made


def markdown(found: Sequence[Compared]) -> str:
    head = ("configuration", "schedule", "real: tokens/s", "speed-up", "simulated: tokens/s", "speed-up", "error")
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    lines += [
        f"| {c.name} | {LABELS[c.schedule]} | {c.real * c.alone:.1f} | {c.real:.2f} "
        f"| {c.simulated * c.alone:.1f} | {c.simulated:.2f} | {c.error:+.1%} |"
        for c in found
    ]
    for schedule in dict.fromkeys(c.schedule for c in found):
        errors = [abs(c.error) for c in found if c.schedule == schedule]
        lines += ["", f"{LABELS[schedule]}: {sum(e <= WITHIN for e in errors)} of {len(errors)} within {WITHIN:.0%}"]
    return "\n".join(lines)


def main(files: Sequence[Path]) -> int:
    try:
        found = [it for run in [Run.read(path) for path in files] for it in compared(run)]
    except DuoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown(found))
    return 0
