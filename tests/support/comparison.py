"""Records of a comparison, and a check that a chart is an SVG file."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from bench.compare.figures import Record


def record(
    schedule: str, speed: float, round_: int = 0, question: int = 0, trip: float = 0.0, **more: object
) -> Record:
    fields: dict[str, object] = {
        "group": 0, "schedule": schedule, "networked": schedule in ("ours", "chain"), "temperature": 0.0,
        "round_trip": trip, "round": round_, "question": question, "tokens": 100, "seconds": 100 / speed,
        "drafted": 10, "accepted": 5, **more,
    }  # fmt: skip
    return Record(**fields)  # type: ignore[arg-type]


def is_svg(path: Path) -> bool:
    return ElementTree.parse(path).getroot().tag.endswith("svg")
