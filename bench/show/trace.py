"""`python -m bench trace`: merges the timelines that `--trace` wrote, for Perfetto, and sums them up.

All timelines are by the lead's clock already (`duo/trace.py`), so merging puts them side by side. The table covers the
time in which the lead was answering.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from duo.errors import FileError
from duo.program.jsonl import text_of

Event = Mapping[str, Any]
Span = tuple[float, float]
"""From when to when, in microseconds."""


def named(events: Iterable[Event], *names: str) -> list[Event]:
    """The spans of these names."""
    return [e for e in events if e["ph"] == "X" and e["name"] in names]


def load(path: str | Path) -> list[dict[str, Any]]:
    """The events of a file. Its end may be missing. Raises FileError."""
    text = text_of(Path(path))
    # A program that was killed may leave half a line. Events with a comma behind them are complete.
    begun = text.startswith("[\n")
    for whole in (text, text + "]", text.rpartition(",\n")[0] + "]", "[]") if begun else (text,):
        with contextlib.suppress(ValueError):
            events = json.loads(whole)
            break
    else:
        events = None
    if not isinstance(events, list) or not all(isinstance(event, dict) and "ph" in event for event in events):
        raise FileError(f"{path} is not a trace that --trace wrote")
    return events


def union(spans: Iterable[Span]) -> list[Span]:
    """The same time as spans that do not overlap, in order."""
    apart: list[Span] = []
    for start, end in sorted(spans):
        if apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(apart[-1][1], end))
        else:
            apart.append((start, end))
    return apart


def common(one: Iterable[Span], other: Iterable[Span]) -> list[Span]:
    """The time that both have in common."""
    a, b = union(one), union(other)
    both: list[Span] = []
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            both.append((start, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return both


def total(spans: Iterable[Span]) -> float:
    return sum(end - start for start, end in union(spans))


class Timeline:
    """What one program did. aligned: its times are by the lead's clock."""

    def __init__(self, events: Sequence[dict[str, Any]]) -> None:
        self.events = events
        about = [event for event in events if event["ph"] == "M"]
        titles = [event["args"]["name"] for event in about if event["name"] == "process_name"]
        self.title = str(titles[-1]) if titles else "?"
        self.lanes = {event["args"]["name"] for event in about if event["name"] == "thread_name"}
        self.aligned = not any(event["name"] == "process_labels" for event in about)

    def spans(self, *names: str) -> list[Span]:
        """The spans of these names, or all spans if no name is given."""
        return [
            (event["ts"], event["ts"] + event["dur"])
            for event in self.events
            if event["ph"] == "X" and (not names or event["name"] in names)
        ]

    def sum(self, detail: str, *names: str) -> int:
        """The sum of a detail over the events of these names."""
        return sum(int(event["args"].get(detail) or 0) for event in self.events if event["name"] in names)

    @property
    def leads(self) -> bool:
        return self.title.startswith("lead")


@dataclass(frozen=True)
class Line:
    """One program in the table. Shares are of the time in which the lead was answering.

    overlap: both this program and the lead were in a forward pass. rows: guesses verified, or places drafted. lost: the
    share of the rows that the answer did not pass through.
    """

    title: str
    forward: float
    reading: float
    waiting: float
    overlap: float | None
    rows: int
    lost: float | None


@dataclass(frozen=True)
class Summary:
    seconds: float
    tokens: int
    steps: int
    lines: Sequence[Line]


def summarise(timelines: Sequence[Timeline]) -> Summary:
    """Sums up the timelines of a lead and its backs. Raises FileError unless there is one lead."""
    leads = [timeline for timeline in timelines if timeline.leads]
    if len(leads) != 1:
        raise FileError(f"{len(leads)} of the files are traces of a lead: one is needed")
    (lead,) = leads
    # All spans count, because an answer in which the lead was killed has no span of its own.
    answering = union(lead.spans())
    whole = max(total(answering), 1e-9)
    forward = lead.spans("forward", "prefill")

    def line(timeline: Timeline, works: str, reads: str, rows: int, used: int) -> Line:
        spans = timeline.spans(works)
        return Line(
            timeline.title.partition(":")[0],
            total(common(spans, answering)) / whole,
            total(common(timeline.spans(reads), answering)) / whole,
            total(common(timeline.spans("wait"), answering)) / whole,
            None if timeline.leads else total(common(spans, forward)) / whole,
            rows,
            1 - used / rows if rows else None,
        )

    steps = ("forward", "prefill")  # a pass that ends a prompt is a step too
    lines = [line(lead, *steps, lead.sum("guesses", *steps), lead.sum("accepted", *steps))]
    for back in timelines:
        if not back.leads:
            lines.append(line(back, "draft", "read", back.sum("rows", "draft"), back.sum("expanded", "commit")))
    return Summary(whole / 1e6, lead.sum("tokens", *steps), len(lead.spans("verify")), lines)


def table(summary: Summary) -> Table:
    title = f"{summary.tokens} tokens in {summary.steps} steps; shares of the {summary.seconds:.2f} s of answering"
    drawn = Table(title=title)
    for column in ("", "forward", "reading", "waiting", "else", "with the lead", "rows", "in vain"):
        drawn.add_column(column, justify="right" if column else "left")
    for it in summary.lines:
        other = max(0.0, 1 - it.forward - it.reading - it.waiting)
        shares = (it.forward, it.reading, it.waiting, other, it.overlap)
        in_vain = "-" if it.lost is None else f"{it.lost:.0%}"
        drawn.add_row(it.title, *("-" if s is None else f"{s:.1%}" for s in shares), str(it.rows), in_vain)
    return drawn


def merge(timelines: Sequence[Timeline], path: str) -> None:
    """Writes all timelines into one file, the lead's first. Raises FileError."""
    ordered = sorted(timelines, key=lambda timeline: not timeline.leads)
    lines = []
    for number, timeline in enumerate(ordered, 1):
        for event in timeline.events:
            event = {**event, "pid": number}
            if event["name"] == "process_sort_index":
                event["args"] = {"sort_index": number}
            lines.append(json.dumps(event))
    try:
        Path(path).write_text('{"displayTimeUnit":"ms","traceEvents":[\n' + ",\n".join(lines) + "\n]}\n", "utf-8")
    except OSError as error:
        raise FileError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("files", nargs="+", metavar="FILE", help="the traces of a lead and its backs")
    p.add_argument("-o", "--output", metavar="FILE", help="also write all traces into one file")


def main(args: argparse.Namespace) -> int:
    console = Console()
    timelines = [Timeline(load(path)) for path in args.files]
    summary = summarise(timelines)
    if args.output:
        merge(timelines, args.output)
    console.print(table(summary))
    for timeline in timelines:
        if not timeline.aligned:
            console.print(f"{timeline.title} met no lead: its times are by its own clock")
    if args.output:
        console.print(f"{args.output}: open it at ui.perfetto.dev or chrome://tracing")
    return 0
