"""A traced answer as a picture."""

from __future__ import annotations

from pathlib import Path

from bench.compare import timeline
from bench.show import charts
from tests.support.comparison import is_svg


def test_a_timeline_shows_what_was_for_nothing(tmp_path: Path) -> None:
    def span(name: str, at: float, **args: object) -> dict[str, object]:
        return {"ph": "X", "name": name, "ts": at, "dur": 8.0, "args": args}

    def commit(at: float, **args: object) -> dict[str, object]:
        return {"ph": "i", "name": "commit", "ts": at, "args": args}

    lead = [span("answer", 0.0)]
    for at in range(0, 100, 10):
        lead += [span("forward", at, rows=4, rejected=1), commit(at + 9, tokens=3)]
    back = [span("draft", 1, rows=6), commit(9, expanded=2, tree_lost=False), span("draft", 10, rows=4)]
    back += [commit(19, expanded=3, tree_lost=True), span("draft", 20, rows=8)]
    forwards, commits, drafts = timeline.lanes(lead, back)
    assert [span.wasted for span in forwards.spans] == [0.25] * 10
    assert [word for _, word in commits.marks] == ["+3"] * 9  # the last one comes after the picture
    assert [span.wasted for span in drafts.spans] == [0.5, 0.5, 1.0]
    charts.timeline(tmp_path / "timeline.svg", "title", "ms", [forwards, commits, drafts], timeline.LEGEND)
    assert is_svg(tmp_path / "timeline.svg")
