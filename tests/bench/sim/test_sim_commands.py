"""The commands around the simulator: sweeps, plans, recordings, their calibration."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.__main__ import main
from bench.sim import calibration, cells, plan, recordings, sweep, typed, validate
from bench.sim.cells import Place, Speeds
from bench.sim.costs import Observed, Seen, Slower, observed, slower
from duo.errors import FileError
from lead.match import measured
from lead.simulation import curves, world
from lead.simulation.lead import Machine
from lead.simulation.replay import Recorded
from lead.simulation.world import TARGETS, Link

SMALL = ("--targets", "bf16", "--draft-ms", "15", "--round-trips", "5", "--acceptance", "0.8", "--tokens", "60")


class TestTyped:
    def test_a_curve(self) -> None:
        assert curves.points("1:65,2:72.5") == [(1, 65.0), (2, 72.5)]
        cost = curves.target_cost(curves.target_points("1:10,3:20"))
        assert [cost(rows) for rows in (1, 2, 3, 5)] == pytest.approx([0.01, 0.015, 0.02, 0.03])

    def test_a_lone_figure(self) -> None:
        assert curves.draft_cost(curves.points("8"))(1) == pytest.approx(0.008)
        with pytest.raises(argparse.ArgumentTypeError, match="what several do: type a curve such as 1:65,2:72"):
            curves.target_points("65")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("fast", "neither milliseconds nor a curve"),
            ("1:2:3", "neither milliseconds nor a curve"),
            ("2:65,4:91", "begins with 1 row"),
            ("1:65,1:70", "the rows rise"),
            ("1:65,2:0", "must be above 0"),
            ("1:65,2:nan", "must be above 0"),
        ],
    )
    def test_what_is_wrong_is_said(self, text: str, words: str) -> None:
        with pytest.raises(argparse.ArgumentTypeError, match=words):
            curves.points(text)

    @pytest.mark.parametrize("text", ["0", "1", "1.5", "much"])
    def test_a_share(self, text: str) -> None:
        with pytest.raises(argparse.ArgumentTypeError, match="between 0 and 1"):
            typed.share(text)


def test_a_curve_is_printed_as_it_is_typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[Any, ...]] = []

    def curve(given: argparse.Namespace, model: str, which: str) -> dict[int, float]:
        asked.append((given.threads, model, which))
        return {2: 0.0123, 1: 0.009, 8: 1.5}

    monkeypatch.setattr(measured, "curve", curve)
    assert main(["curve", "m.gguf", "--as", "target", "-t", "3"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == "1:9,2:12.3,8:1500"
    assert curves.points(printed) == [(1, 9.0), (2, 12.3), (8, 1500.0)]
    assert asked == [(3, "m.gguf", "target")]


class TestPlan:
    FIGURES = ("--target-ms", "1:65,2:72,4:91,8:132,16:181", "--tokens", "150")

    def test_it_says_what_to_expect_and_where_the_limit_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", *self.FIGURES, "--draft-ms", "30", "--round-trip", "10"]) == 0
        printed = capsys.readouterr().out
        for word in ("no back", "chain", "ours", "bound: free trees", "15.4", "The limit is here: "):
            assert word in printed
        for word in ("twice as fast", "no round trip", "one more back", "half as many wrong drafts (acceptance 0.88)"):
            assert word in printed

    def test_a_curve_of_the_draft(self) -> None:
        """The draft model beside the target falls behind by more tokens than a batch, and reads them at once."""
        parser = argparse.ArgumentParser()
        plan.add_flags(parser)
        flags = ("--target-ms", "1:65,2:72,4:91,8:132,16:181", "--draft-ms", "1:8,2:9,4:11,8:14", "--tokens", "1000")
        now = plan.figures(parser.parse_args(flags))
        assert now.machines[0].cost(8) == pytest.approx(0.014)
        assert now.machines[0].cost(3000) == pytest.approx(0.014 + 2992 * 0.00075)
        assert now.speed() > 1.5 / 0.065

    def test_backs_that_differ(self) -> None:
        costs = [world.drafting(0.008), world.drafting(0.03)]
        made = plan.machines(costs, [0.005], 0.0, 1)
        assert [it.cost(1) for it in made] == [0.008, 0.03]
        assert [it.link.round_trip for it in made] == [0.005, 0.005]
        assert plan.machines(costs[:1], [0.005], 0.0, 2) == [Machine(costs[0], Link(0.005))] * 2

    def test_figures_that_do_not_fit_together(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", *self.FIGURES, "--draft-ms", "8", "9", "--round-trip", "1", "2", "3"]) == 2
        assert capsys.readouterr().err == "error: --draft-ms has 2 figures for 3 backs: give one, or one for each\n"

    def test_a_recording_that_is_not_there(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        path = tmp_path / "none.jsonl"
        assert main(["plan", *self.FIGURES, "--draft-ms", "8", "--replay", str(path)]) == 3
        assert capsys.readouterr().err == f"error: cannot read {path}: no such file or directory\n"

    def test_where_the_target_is_the_limit(self) -> None:
        steep = curves.target_cost([(1, 10.0), (2, 90.0), (3, 200.0)])
        speeds = Speeds(100, 50, 40, 60, 100, 100, 100, 100)
        said = " ".join(plan.limits(speeds, steep, {"a": 100.0, "b": 101.0}))
        assert "The target is the limit: a forward pass over 2 tokens costs 9.0 times one over 1" in said

    def test_where_a_back_is_not_worth_it(self) -> None:
        speeds = Speeds(100, 50, 40, 60, 101, 101, 140, 150)
        said = plan.limits(speeds, TARGETS["bf16"], {"draft models twice as fast": 130.0, "no round trip": 101.0})
        assert said[0] == "The limit is here: draft models twice as fast would give 1.29 times as much."
        assert said[1] == "The other changes: no round trip 1.00 times."
        assert said[2].startswith("As things are, a back is not worth it")


class TestSweep:
    def test_a_cell_with_all_that_can_be_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        flags = ("--jitter", "2", "--away", "3:1", "--answers", "20:30", "--backs", "2", "--bursty", "--jobs", "1")
        curve = ("--draft-curve", "steep")
        assert main(["simulate", *SMALL, *flags, *curve, "--out", str(tmp_path)]) == 0
        printed = capsys.readouterr().out
        assert "bf16: geometric mean" in printed
        assert "2 equal backs over one, draft 15 and 30 ms: geometric mean" in printed
        whole = json.loads((tmp_path / "sweep.json").read_text())
        assert [cell["target"] for cell in whole["cells"]] == ["bf16"]
        assert "acceptance in bursts, steep draft curve, jitter 2 ms" in (tmp_path / "sweep.md").read_text()

    def test_nothing_depends_on_the_number_of_processes(self) -> None:
        args = argparse.ArgumentParser()
        sweep.add_flags(args)
        flags = args.parse_args([*SMALL[:4], "--round-trips", "1,5", "--acceptance", "0.7", "--tokens", "40", "--iid"])
        grid, console = sweep.places(flags), Console(quiet=True)
        conditions = sweep.Conditions.of(flags)
        assert sweep.sweep(conditions, grid, 1, console) == sweep.sweep(conditions, grid, 2, console)

    def test_the_verdict(self) -> None:
        good = Speeds(10, 8, 8, 9, 11.5, 12, 13, 14, 13.2)
        found = {
            Place("flat", draft, trip, "0.7"): replace(good, ours=ours)
            for draft, trip, ours in ((2, 1, 12.0), (2, 5, 9.0), (15, 1, 12.0))
        }
        lines = cells.verdict(found, independent=False, backs=2)
        assert lines[0] == (
            "flat: geometric mean 1.090 (wanted 1.18: MISSED), worst cell 0.900 (wanted 0.99: MISSED), "
            "1 of 3 cells under 0.99"
        )
        assert lines[2] == (
            "  0.900  flat, draft 2 ms, round trip 5 ms, acceptance 0.7: ours 9.0, best other 10.0 tokens/s"
        )
        assert lines[-1].startswith("2 equal backs over one, draft 15 and 30 ms: geometric mean 1.100 (wanted 1.08: r")
        wide = {place: replace(it, wide=it.ours * 1.2) for place, it in found.items()}
        bound = "one back whose batches take no longer for being wide, a bound for that: 1.200"
        assert cells.verdict(wide, independent=False, backs=2)[-1] == bound
        assert "wanted 0.97: MISSED" in cells.verdict(found, independent=True)[0]


def recording(count: int = 400, seed: int = 1) -> list[Recorded]:
    """A draft that is right as often as it says, and says 0.9 where it should say 0.45."""
    rng = random.Random(seed)
    tokens, guesses = [], []
    for _ in range(count):
        chance = rng.choice((0.2, 0.6, 0.9))
        right = rng.random() < (0.45 if chance == 0.9 else chance)
        guesses.append([(1, chance), (2, 0.05)])
        tokens.append(1 if right else 2 if rng.random() < 0.05 else 3)
    return [Recorded([7], tokens, guesses)]


class TestRecordings:
    def test_written_and_read(self, tmp_path: Path) -> None:
        path, made = tmp_path / "answers.jsonl", recording(20)
        recordings.write(path, made)
        assert recordings.read(path) == made

    @pytest.mark.parametrize("line", ["{", "[]", '{"prompt": [1], "tokens": [1], "guesses": []}', '{"prompt": 1}'])
    def test_a_line_that_is_none(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "answers.jsonl"
        path.write_text(f"\n{line}\n")
        with pytest.raises(FileError, match=r"answers.jsonl:2: "):
            recordings.read(path)

    def test_calibration(self) -> None:
        first, others = calibration.judged(recording(4000))
        assert (len(first), len(others)) == (4000, 4000)
        by_low = {b.low: b for b in calibration.bins([(it.claimed, it.right) for it in first])}
        assert by_low[0.9].right == pytest.approx(0.45, abs=0.04)
        corrected = calibration.bins([(it.corrected, it.right) for it in first])
        assert calibration.error(corrected) < 0.5 * calibration.error(list(by_low.values()))
        table = calibration.markdown(recording(100))
        assert "First guesses: 100, " in table
        assert "| 0.9 to 0.97 |" in table


class TestValidate:
    def test_a_file_that_is_no_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "results.json"
        path.write_text('{"command": "python -m bench simulate", "title": "", "answers": []}')
        assert main(["validate", str(path)]) == 3
        assert capsys.readouterr().err == f"error: {path}: not a results.json of `python -m bench compare`\n"

    @pytest.mark.parametrize(("setting", "both"), [("4 tokens", (4, 0.0)), ("12 tokens, floor 0.5", (12, 0.5))])
    def test_settings(self, setting: str, both: tuple[int, float]) -> None:
        assert validate.chosen(setting) == both

    @pytest.mark.parametrize("alone", [10.0, 9.95, 20.0])
    def test_the_target_alone_is_as_fast_as_in_the_run(self, alone: float) -> None:
        simulation = validate.Simulation(REST, {"none": ALONE, "ours": BOTH}, recording(60), alone)
        assert simulation.speed("none", 0.0, "") == pytest.approx(alone, rel=1e-6)
        assert (simulation.speed("ours", 0.001, "") or 0.0) > alone
        assert (simulation.speed("sync", 0.001, "4 tokens") or 0.0) > alone
        assert (simulation.speed("free-chain", 0.001, "") or 0.0) > (simulation.speed("sync", 0.0, "4 tokens") or 0.0)
        assert simulation.speed("llama-server", 0.001, "8 tokens") is None
        assert simulation.speed("chain", 0.001, "") is None, "its costs were not observed"

    def test_ours_is_held_against_the_others_as_well(self) -> None:
        found = [
            validate.Compared("here", "ours", 10.0, 1.9, 2.0),
            validate.Compared("here", "chain", 10.0, 1.5, 1.6, 1.2),
            validate.Compared("elsewhere", "chain", 10.0, 1.5, 1.6, 1.2),
        ]
        text = validate.markdown(found)
        assert "| here | plain asynchronous chain | 1.20 | 1.25 | 0.96 |" in text
        assert text.count("| 1.20 |") == 1, "only where ours was simulated too"

    def test_costs_at_work_are_read_from_traces(self) -> None:
        """Two steps of 100 ms, of which the first forward pass takes 90 and a draft beside it 6 ms; messages."""
        ms = 1000.0
        lead = [
            span("forward", 0, 90, rows=1), instant("commit", 95, length=10),
            span("draft", 95, 6, rows=2), span("rank", 101, 1), span("forward", 103, 88, rows=1),
            instant("guesses", 121.5), instant("commit", 195, length=12), span("forward", 196, 95, rows=1),
            instant("commit", 295, length=13), instant("guesses", 241.5),
        ]  # fmt: skip
        back = [instant("commit", 96, length=10), instant("send", 121), instant("commit", 195.8, length=12),
                instant("send", 241), span("draft", 100, 20, rows=2), span("rank", 120, 1)]  # fmt: skip
        seen = observed(scaled(lead, ms), scaled(back, ms), lambda rows: 0.1 * rows, lambda rows: 0.002 * rows)
        assert seen.target(1) == pytest.approx(0.9) and seen.own.slower and seen.draft.slower
        assert seen.own.slower(2) == pytest.approx(1.5) and seen.own.ranking == pytest.approx(0.0005)
        assert seen.draft.slower(2) == pytest.approx(5.0) and seen.draft.ranking == pytest.approx(0.0005)
        assert seen.overhead == pytest.approx(0.005)
        assert seen.round_trip == pytest.approx(0.0008 + 0.0005)
        assert observed(scaled(lead, ms), [], lambda rows: 0.1, lambda rows: 0.1).draft.slower is None
        with pytest.raises(ValueError, match="not answered"):
            observed([], [], lambda rows: 0.1, lambda rows: 0.1)

    def test_each_width_is_slower_by_a_factor_of_its_own(self) -> None:
        """One row takes 1.2 times as long as at rest, four rows 2 times. Two passes of 16 rows say nothing."""
        passes = [(1, 120.0)] * 5 + [(4, 400.0)] * 5 + [(16, 90.0)] * 2
        lead = [span("forward", 1000.0 * at, ms, rows=rows) for at, (rows, ms) in enumerate(passes)]
        seen = slower(scaled(lead, 1000.0), "forward", lambda rows: 0.1 if rows == 1 else 0.2)
        assert seen is not None
        assert [seen(rows) for rows in (1, 2, 4, 16)] == pytest.approx([1.2, 1.2 + 0.8 / 3, 2.0, 2.0])


def points(*seconds: float) -> Sequence[tuple[int, float]]:
    return list(zip((1, 2, 4, 8, 17), seconds, strict=False))


CURVE = dict(points(0.1, 0.1, 0.11, 0.12, 0.2))
REST = validate.Rest(world.curve(*CURVE.items()), world.curve(*points(0.002, 0.002, 0.003, 0.004)), CURVE)
ALONE = Observed(Slower([(1, 1.0)]), Seen(None, 0.0), Seen(None, 0.0), 0.001, 0.0)
BOTH = Observed(
    Slower([(1, 1.1), (4, 1.2)]), Seen(Slower([(1, 1.0)]), 1e-4), Seen(Slower([(1, 1.5)]), 1e-4), 0.002, 0.001
)


def span(name: str, start: float, lasts: float, **args: int) -> dict[str, Any]:
    return {"ph": "X", "name": name, "ts": start, "dur": lasts, "args": args}


def instant(name: str, at: float, **args: int) -> dict[str, Any]:
    return {"ph": "i", "name": name, "ts": at, "args": args}


def scaled(events: Sequence[dict[str, Any]], by: float) -> list[dict[str, Any]]:
    return [{**e, **{key: e[key] * by for key in ("ts", "dur") if key in e}} for e in events]
