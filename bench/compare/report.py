"""Writes what was measured: JSON, Markdown and a chart."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from bench.compare.entrant import Setup
from bench.compare.figures import Record, Row, Spread, by_workload, configurations, rows
from bench.compare.names import BASE, BOUNDS, LABELS, OURS
from bench.harness.real import NAMES
from bench.show import charts

PACKAGES = ("torch", "transformers", "llama_cpp_python", "grpcio", "numpy")


def machine() -> dict[str, Any]:
    """The machine and the versions that the figures belong to."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def notes(args: argparse.Namespace, setup: Setup, questions: int) -> list[str]:
    """Lines above the tables: models, questions, cores, machine."""
    where = args.prompts.name if args.prompts else args.workload
    made = [
        f"target {Path(setup.target).name}, draft {Path(setup.draft).name or 'none'}, on {setup.runtime}",
        f"{questions} questions ({where}), {args.tokens} tokens each, in {args.rounds} rounds, all schedules in turns",
        f"lead: one thread, cores {cores(setup.lead_cpus)}; back: one thread, cores {cores(setup.back_cpus)}",
        f"{_cpu()}, {os.cpu_count()} cores",
    ]
    if args.pair not in ("shipped", *NAMES) and not args.target:
        made.insert(
            1, "padded with zeros: such a model predicts what the shipped one predicts and costs what a large one costs"
        )
    return made


def cores(cpus: Sequence[int]) -> str:
    return ", ".join(map(str, cpus)) or "all"


def write(out: Path, title: str, command: str, lines: Sequence[str], records: Sequence[Record]) -> str:
    """Writes results.json, results.md and speedup.svg. Returns the Markdown."""
    tables = [
        {"temperature": t, "round_trip_ms": rtt, "rows": [asdict(row) for row in rows(records, t, rtt)]}
        for t, rtt in configurations(records)
    ]
    whole = {
        "title": title,
        "command": command,
        "notes": lines,
        "machine": machine(),
        "configurations": tables,
        "answers": [asdict(record) for record in records],
    }
    (out / "results.json").write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    text = markdown(title, lines, records)
    (out / "results.md").write_text(f"{text}\nMade by `{command}`.\n", "utf-8")
    chart(out / "speedup.svg", title, records)
    return text


def chart(path: Path, title: str, records: Sequence[Record]) -> None:
    """Draws the speed-ups: bars for one round trip, lines over several."""
    temperatures = sorted({r.temperature for r in records})
    round_trips = sorted({r.round_trip for r in records})
    heading = f"Speed-up over the target alone: {title}"
    if len(round_trips) == 1:
        panels = [
            charts.Panel(
                f"temperature {t:g}, round trip {round_trips[0]:g} ms", bars=_bars(rows(records, t, round_trips[0]))
            )
            for t in temperatures
        ]
        charts.bars(path, heading, "speed-up, median and quartiles", panels)
        return
    panels = [charts.Panel(f"temperature {t:g}", lines=_lines(records, t, round_trips)) for t in temperatures]
    charts.lines(path, heading, "round trip, ms", "speed-up, median and quartiles", panels)


def _bars(made: Sequence[Row]) -> list[charts.Bar]:
    colours = {OURS: charts.OURS} | dict.fromkeys(BOUNDS, charts.PALE)
    return [
        charts.Bar(
            LABELS[row.schedule], row.speed_up.median, row.speed_up.low, row.speed_up.high,
            colours.get(row.schedule, charts.OTHER),
        )
        for row in made
    ]  # fmt: skip


def _lines(records: Sequence[Record], temperature: float, round_trips: Sequence[float]) -> list[charts.Line]:
    by_trip = {trip: {row.schedule: row for row in rows(records, temperature, trip)} for trip in round_trips}
    made: list[charts.Line] = []
    for name in (name for name in LABELS if name != BASE):
        there = [(trip, by_trip[trip][name].speed_up) for trip in round_trips if name in by_trip[trip]]
        if there:
            x, ups = zip(*there, strict=True)
            y, low, high = ([getattr(up, part) for up in ups] for part in ("median", "low", "high"))
            made.append(charts.Line(LABELS[name], x, y, low, high, name == OURS, name in BOUNDS))
    return made


def markdown(title: str, notes: Sequence[str], records: Sequence[Record]) -> str:
    """A table for each configuration, and an explanation of its columns."""
    parts = [f"# {title}", "", *(f"- {note}" for note in notes), ""]
    for temperature, round_trip in configurations(records):
        parts += [f"## Temperature {temperature:g}, round trip {round_trip:g} ms", ""]
        parts += table(rows(records, temperature, round_trip))
        parts += efficiency(rows(records, temperature, round_trip))
        parts += workload_table(records, temperature, round_trip)
    parts += [EXPLANATION]
    return "\n".join(parts) + "\n"


HEAD = ("schedule", "tokens/s", "speed-up", "quartiles", "ours is faster by", "accepted", "same text", "draft")
EXPLANATION = """\
Tokens per second are medians over all answers, the reading of the prompt not counted. *Speed-up*: a schedule's tokens
per second over those of the target alone (no back) on the same question in the same round; median over questions and
rounds, with quartiles. *Ours is faster by*: the same ratio between ours and the schedule. *Accepted*: guesses that the
target picked, of those that it verified. *Same text*: answers that are those of no back, token for token. *Draft*: the
length, and the path probability below which it ends earlier, that were found best by trying. The *bounds* are schedules
that nobody can run: guesses cost nothing, because the clock stands still while they are made."""


def workload_table(records: Sequence[Record], temperature: float, round_trip: float) -> list[str]:
    """Speed-ups by workload, if there are several of them."""
    found = by_workload(records, temperature, round_trip)
    if len(found.workloads) < 2:
        return []
    lines = [f"| speed-up | {' | '.join(found.workloads)} | geometric mean |"]
    lines += ["|---|" + "---:|" * (len(found.workloads) + 1)]
    for name, ups in found.speed_ups.items():
        label = "**ours**" if name == OURS else LABELS.get(name, name)
        lines.append(f"| {label} | {' | '.join(f'{up:.2f}' for up in ups)} | {found.means[name]:.2f} |")
    if found.ours_over_best:
        ratios = [ratio for _, ratio in found.ours_over_best]
        cells = [f"{ratio:.2f} ({name})" for name, ratio in found.ours_over_best]
        lines.append(f"| ours over the best peer | {' | '.join(cells)} | {geometric_mean(ratios):.2f} |")
    return [*lines, ""]


def table(made: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 2) + "---|"]
    for row in made:
        label = LABELS.get(row.schedule, row.schedule)
        lines.append("| " + " | ".join(("**ours**" if row.schedule == OURS else label, *_cells(row))) + " |")
    return [*lines, ""]


def _cells(row: Row) -> tuple[str, ...]:
    alone = row.schedule == BASE
    over = row.ours_over
    return (
        f"{row.speed.median:.1f}",
        f"{row.speed_up.median:.2f}",
        "" if alone else _quartiles(row.speed_up),
        f"{over.median:.2f} ({_quartiles(over)})" if over else "",
        f"{row.accepted} of {row.drafted} ({row.accepted / row.drafted:.0%})" if row.drafted else "",
        f"{row.same} of {row.answers}" if row.same is not None else "",
        row.setting,
    )


def _quartiles(spread: Spread) -> str:
    return f"{spread.low:.2f} to {spread.high:.2f}"


def efficiency(made: Sequence[Row]) -> list[str]:
    """A line that says how much of the bounds ours reaches."""
    shares = [
        f"{row.ours_over.median:.0%} of the {LABELS[row.schedule]}"
        for row in made
        if row.schedule in BOUNDS and row.ours_over
    ]
    return [f"Efficiency: ours reaches {'; '.join(shares)}.", ""] if shares else []
