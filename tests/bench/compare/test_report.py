"""Tables and charts of a comparison."""

from __future__ import annotations

from pathlib import Path

from bench.compare import report
from bench.show import charts
from tests.support.comparison import is_svg, record


def test_charts(tmp_path: Path) -> None:
    records = [record(n, s, trip=t) for n, s in (("none", 10), ("ours", 30), ("free-tree", 40)) for t in (0.0, 5.0)]
    report.chart(tmp_path / "lines.svg", "title", records)
    report.chart(tmp_path / "bars.svg", "title", records[::2])
    charts.heat(tmp_path / "heat.svg", "title", "x", "y", ["1", "2"], ["a"], [[0.9, 1.4]])
    assert all(is_svg(path) for path in tmp_path.iterdir())
    first = (tmp_path / "lines.svg").read_bytes()
    report.chart(tmp_path / "lines.svg", "title", records)
    assert (tmp_path / "lines.svg").read_bytes() == first


def test_a_table_says_what_was_measured() -> None:
    text = report.markdown("title", ["a note"], [record("none", 10), record("ours", 30), record("free-tree", 40)])
    assert "| **ours** | 30.0 | 3.00 |" in text and "- a note" in text
    assert "ours reaches 75% of the bound: free trees, our planner" in text


def test_a_table_by_workload_names_the_best_peer_of_each() -> None:
    speeds = {"none": (10, 10), "ours": (30, 11), "ngram-mod": (20, 9), "ngram-simple": (15, 10)}
    records = [
        record(name, both[at], question=at, workload=workload)
        for name, both in speeds.items()
        for at, workload in enumerate(("quote", "chat"))
    ]
    text = report.markdown("title", [], records)
    assert "| **ours** | 3.00 | 1.10 | 1.82 |" in text
    assert "| ours over the best peer | 1.50 (ngram-mod) | 1.10 (ngram-simple) | 1.28 |" in text
