"""A picture of one answer of ours: lead and back at work at the same time, and which work was wasted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.compare.entrant import Setup
from bench.compare.ours import BACK_TRACE, LEAD_TRACE, LeadEntrant
from bench.compare.trial import Workload
from bench.show import charts, trace
from bench.show.charts import BAD, OURS, PALE, Lane, Span
from bench.show.trace import Event, named
from lead.match.prompts import Question

FORWARDS = 16
"""The picture shows this many forward passes of the lead, from the middle of the answer."""
DRAFTS = "#2a9d6f"
LEGEND = (
    (OURS, "target's forward pass"),
    (DRAFTS, "draft's forward pass"),
    (BAD, "the share of it that was for nothing"),
    (PALE, "waiting, reading the prompt"),
)


def draw(setup: Setup, question: Question, workload: Workload, title: str, out: Path) -> None:
    """Traces one answer, and writes timeline.svg and trace.json (for Perfetto) into the folder."""
    files = (out / LEAD_TRACE, out / BACK_TRACE)
    temperature, round_trip = workload.temperatures[0], workload.round_trips[-1]
    with ExitStack() as stack:
        ours = stack.enter_context(LeadEntrant("back-only", setup, traces=out))
        ours.at(round_trip / 1000)
        for _ in range(2):  # the first one sets things up
            ours.answer(question, workload.tokens, temperature, 1)
    timelines = [trace.Timeline(trace.load(file)) for file in files]
    trace.merge(timelines, str(out / "trace.json"))
    for file in files:
        file.unlink()
    lead, back = (timeline.events for timeline in timelines)
    heading = f"Lead and back at work: {title}, temperature {temperature:g}, round trip {round_trip:g} ms"
    charts.timeline(out / "timeline.svg", heading, "ms", lanes(lead, back), LEGEND)


def lanes(lead: Sequence[Event], back: Sequence[Event]) -> list[Lane]:
    """The lanes for the middle of the last answer, in ms from the picture's left edge."""
    answer = max((e for e in lead if e["name"] == "answer"), key=lambda e: float(e["ts"]))
    forwards = [e for e in named(lead, "forward") if e["ts"] >= answer["ts"]]
    middle = max(0, (len(forwards) - FORWARDS) // 2)
    shown = forwards[middle : middle + FORWARDS]
    start, end = float(shown[0]["ts"]), float(shown[-1]["ts"] + shown[-1]["dur"])
    target = [_span(e, OURS, e["args"]["rejected"] / e["args"]["rows"]) for e in shown]
    idle = [_span(e, PALE) for e in (*named(lead, "wait"), *named(lead, "prefill"))]
    commits = [
        (float(e["ts"]), f"+{e['args']['tokens']}") for e in lead if e["name"] == "commit" and start <= e["ts"] <= end
    ]
    drafts = [*drafted(back), *(_span(e, PALE) for e in named(back, "read"))]
    picture = [
        Lane("lead", [*target, *(s for s in idle if start <= s.start < end)]),
        Lane("tokens", marks=commits),
        Lane("back", [s for s in drafts if start <= s.start < end]),
    ]
    return [_moved(lane, -start) for lane in picture]


def drafted(back: Sequence[Event]) -> list[Span]:
    """The back's forward passes, each with the share of its work that was wasted.

    A row is used if the answer passes through it, perhaps much later. So the share is taken over all rows that were
    drafted until the tree was lost.
    """
    spans: list[Span] = []
    rows = used = since = 0
    for event in sorted(back, key=lambda e: float(e.get("ts", 0))):
        if event["name"] == "draft":
            rows += event["args"]["rows"]
            spans.append(_span(event, DRAFTS))
        elif event["name"] == "commit" and "expanded" in event["args"]:
            used += event["args"]["expanded"]
            if event["args"]["tree_lost"]:
                _mark(spans, since, rows, used)
                rows, used, since = 0, 0, len(spans)
    _mark(spans, since, rows, used)
    return spans


def _mark(spans: list[Span], since: int, rows: int, used: int) -> None:
    wasted = 1 - min(1.0, used / rows) if rows else 0.0
    spans[since:] = [replace(span, wasted=wasted) for span in spans[since:]]


def _span(event: Event, colour: str, wasted: float = 0.0) -> Span:
    return Span(float(event["ts"]), float(event["ts"] + event["dur"]), colour, wasted)


def _moved(lane: Lane, by: float) -> Lane:
    """Moves a lane by microseconds, and turns them into milliseconds."""
    spans = [replace(s, start=(s.start + by) / 1000, end=(s.end + by) / 1000) for s in lane.spans]
    return Lane(lane.label, spans, [((moment + by) / 1000, word) for moment, word in lane.marks])
