"""Charts as SVG files: bars, lines, a heat map, a timeline. Plain data goes in, a file comes out.

Text stays text and the background is white, so light and dark pages can show them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

OURS, OTHER, PALE, BAD = "#1f5fbf", "#8a8f98", "#d5d8dd", "#d1495b"
CYCLE = (
    "#d98324",
    "#2a9d6f",
    "#8e5bb5",
    "#b5485d",
    "#5b6470",
    "#3aa6b9",
    "#a08a2c",
    "#7a5236",
    "#c77da0",
    "#4f7d2e",
    "#2f4b7c",
    "#b8b03e",
)
STYLE = {
    "svg.hashsalt": "duo",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
}


@dataclass(frozen=True)
class Bar:
    """A value. low, high: where most of its values lie."""

    label: str
    value: float
    low: float
    high: float
    colour: str = OTHER


@dataclass(frozen=True)
class Line:
    """A value for each x. low, high: where most of its values lie. strong: drawn above the others."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    strong: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One of several charts side by side."""

    title: str
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()


@dataclass(frozen=True)
class Span:
    """A box from start to end. The share `wasted` of its height has the colour of wasted work."""

    start: float
    end: float
    colour: str = OURS
    wasted: float = 0.0


@dataclass(frozen=True)
class Lane:
    """One row of a timeline. marks: moments, with a word for each."""

    label: str
    spans: Sequence[Span] = ()
    marks: Sequence[tuple[float, str]] = ()


def bars(path: Path, title: str, x_label: str, panels: Sequence[Panel]) -> None:
    """Draws horizontal bars with their spread, the first on top. A line marks 1."""
    rows = max(len(panel.bars) for panel in panels)
    with _figure(path, title, 4.6 * len(panels) + 2.4, 0.36 * rows + 1.2) as figure:
        for at, panel in zip(_axes(figure, panels), panels, strict=True):
            places = range(len(panel.bars))
            values = [bar.value for bar in panel.bars]
            at.barh(places, values, 0.66, color=[bar.colour for bar in panel.bars])
            errors = [[b.value - b.low for b in panel.bars], [b.high - b.value for b in panel.bars]]
            at.errorbar(values, places, xerr=errors, fmt="none", ecolor="#30343b", elinewidth=1, capsize=2.5)
            gap = 0.02 * max((b.high for b in panel.bars), default=1.0)
            for place, bar in zip(places, panel.bars, strict=True):
                at.text(max(bar.value, bar.high) + gap, place, f"{bar.value:.2f}", va="center", fontsize=9)
            at.set_yticks(places, [bar.label for bar in panel.bars])
            at.invert_yaxis()
            at.axvline(1.0, color="#30343b", linewidth=0.8, linestyle=":")
            at.grid(axis="x", color="#e6e8eb")
            at.set_xlabel(x_label)
            at.set_title(panel.title)


def lines(path: Path, title: str, x_label: str, y_label: str, panels: Sequence[Panel]) -> None:
    """Draws lines with the spread around them. A line marks 1."""
    with _figure(path, title, 4.6 * len(panels) + 2.6, 4.2) as figure:
        axes = _axes(figure, panels)
        labels = [line.label for line in panels[0].lines]
        for at, panel in zip(axes, panels, strict=True):
            for line in panel.lines:
                number = labels.index(line.label) if line.label in labels else 0
                colour = OURS if line.strong else CYCLE[number % len(CYCLE)]
                at.plot(
                    line.x, line.y, marker="o", markersize=4, color=colour, label=line.label,
                    linestyle="--" if line.dashed else "-", linewidth=2.4 if line.strong else 1.4,
                    zorder=5 if line.strong else 3,
                )  # fmt: skip
                at.fill_between(line.x, line.low, line.high, color=colour, alpha=0.12, linewidth=0)
            at.axhline(1.0, color="#30343b", linewidth=0.8, linestyle=":")
            at.grid(color="#e6e8eb")
            at.set_ylim(bottom=0)
            at.set_xlabel(x_label)
            at.set_title(panel.title)
        axes[0].set_ylabel(y_label)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=9)


def heat(
    path: Path, title: str, x_label: str, y_label: str, x: Sequence[str], y: Sequence[str],
    values: Sequence[Sequence[float]],
) -> None:  # fmt: skip
    """Draws a table of values, a row for each y. Values below and above 1 have different colours."""
    furthest = max(max(abs(v - 1) for row in values for v in row), 1e-9)
    with _figure(path, title, 0.75 * len(x) + 2.4, 0.5 * len(y) + 1.6) as figure:
        at = figure.subplots()
        at.imshow(values, cmap="RdBu", vmin=1 - furthest, vmax=1 + furthest, aspect="auto")
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                dark = abs(value - 1) > 0.65 * furthest
                at.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black", fontsize=9)
        at.set_xticks(range(len(x)), x)
        at.set_yticks(range(len(y)), y)
        at.set_xlabel(x_label)
        at.set_ylabel(y_label)
        at.spines[:].set_visible(False)


def timeline(path: Path, title: str, x_label: str, lanes: Sequence[Lane], legend: Sequence[tuple[str, str]]) -> None:
    """Draws what happened when: a row for each lane, the first on top. legend: colours and their meaning."""
    with _figure(path, title, 11.0, 0.62 * len(lanes) + 1.5) as figure:
        at = figure.subplots()
        for place, lane in enumerate(lanes):
            for span in lane.spans:
                kept, lost = 0.7 * (1 - span.wasted), 0.7 * span.wasted
                # The axis points down, so that the first lane is on top.
                _box(at, span, place + 0.35 - kept / 2, kept, span.colour)
                if lost:
                    _box(at, span, place - 0.35 + lost / 2, lost, BAD)
            for moment, word in lane.marks:
                at.plot([moment, moment], [place - 0.35, place + 0.1], color="#30343b", linewidth=0.9)
                at.text(moment, place + 0.4, word, ha="center", fontsize=8)
        at.set_yticks(range(len(lanes)), [lane.label for lane in lanes])
        at.set_ylim(len(lanes) - 0.4, -0.6)
        at.set_xlabel(x_label)
        at.grid(axis="x", color="#e6e8eb")
        handles = [Patch(color=colour, label=label) for colour, label in legend]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)


def _box(at: Axes, span: Span, middle: float, height: float, colour: str) -> None:
    width = span.end - span.start
    at.barh(middle, width, height, left=span.start, color=colour, edgecolor="white", linewidth=0.2)


def _axes(figure: Figure, panels: Sequence[Panel]) -> list[Axes]:
    axes: list[Axes] = list(figure.subplots(1, len(panels), squeeze=False)[0])
    return axes


@contextmanager
def _figure(path: Path, title: str, width: float, height: float) -> Iterator[Figure]:
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        yield figure
        # Without a date the same figures give the same file.
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
