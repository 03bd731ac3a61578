"""The timelines that --trace writes, and what `python -m bench trace` makes of them."""

from __future__ import annotations

import json
import logging
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.__main__ import main as bench
from bench.harness.processes import BackProcess, LeadProcess, wait_for
from bench.show.trace import Span, Timeline, common, load, summarise, total, union
from duo.errors import FileError
from duo.program import trace_file
from duo.program.trace_file import TraceFile
from duo.trace import UNTRACED, Trace

QUESTION = "What does shutil.copytree do?"


def record(it: Trace) -> None:
    it.span("decoder", "forward", 1.0, 1.25, rows=3, who="one\n")
    it.instant("backs", "guesses", 1.5, back="one")
    it.span("decoder", "verify", 1.25, 1.5)


def parsed(path: Path) -> list[dict[str, Any]]:
    """The events of a file that is whole."""
    events: list[dict[str, Any]] = json.loads(path.read_text())
    return events


class Word(str):
    """A text that may have weak references."""


class TestFile:
    def test_format(self, tmp_path: Path) -> None:
        """As Chrome's trace format wants it: complete events, instants, and names for rows. Times in microseconds."""
        path = tmp_path / "lead.json"
        with trace_file.of_lead(str(path)) as it:
            record(it)
            it.title("lead: big")
        events = parsed(path)
        assert {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "lead: big"}} in events
        rows = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
        assert set(rows) == {"decoder", "backs"}
        assert len(set(rows.values())) == 2
        forward, guesses, verify = (e for e in events if e["ph"] != "M")
        assert forward == {
            "name": "forward", "ph": "X", "pid": 1, "tid": rows["decoder"], "ts": 1e6, "dur": 250e3,
            "args": {"rows": 3, "who": "one\n"},
        }  # fmt: skip
        assert guesses == {
            "name": "guesses", "ph": "i", "s": "t", "pid": 1, "tid": rows["backs"], "ts": 1.5e6,
            "args": {"back": "one"},
        }  # fmt: skip
        assert (verify["ts"], verify["dur"], verify["args"]) == (1.25e6, 250e3, {})

    def test_a_span_ends_where_the_next_starts(self, tmp_path: Path) -> None:
        """To the nanosecond; viewers take an overlap of one for nesting gone wrong."""
        path, clock = tmp_path / "back.json", 123456.123456789
        with trace_file.of_back(str(path), "one") as it:
            it.clock(7654.321)
            for i in range(1000):
                it.span("drafter", "draft", clock + i / 7000, clock + (i + 1) / 7000)
        spans = [e for e in parsed(path) if e["ph"] == "X"]
        ends = [round(e["ts"] * 1000) + round(e["dur"] * 1000) for e in spans]
        assert ends[:-1] == [round(e["ts"] * 1000) for e in spans[1:]]

    def test_a_back_s_times_are_by_the_lead_s_clock(self, tmp_path: Path) -> None:
        """Those from before the clocks were compared as well."""
        path = tmp_path / "back.json"
        with trace_file.of_back(str(path), "one") as it:
            record(it)
            it.clock(ahead=100.0)
        assert [e["ts"] for e in parsed(path) if e["ph"] != "M"] == [101e6, 101.5e6, 101.25e6]
        assert Timeline(load(path)).aligned

    def test_without_a_lead_it_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "back.json"
        with trace_file.of_back(str(path), "one") as it:
            record(it)
        assert [e["ts"] for e in parsed(path) if e["ph"] != "M"] == [1e6, 1.5e6, 1.25e6]
        assert not Timeline(load(path)).aligned

    def test_rows_of_lead_and_backs_are_distinct(self, tmp_path: Path) -> None:
        numbers = set()
        for name in ("one", "two", "lead"):
            path = tmp_path / name
            with trace_file.of_lead(str(path)) if name == "lead" else trace_file.of_back(str(path), name) as it:
                record(it)
            (number,) = {event["pid"] for event in parsed(path)}
            numbers.add(number)
        assert len(numbers) == 3

    def test_it_is_written_as_time_goes_by_and_of_use_wherever_it_breaks_off(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trace_file, "WRITE_EVERY", 0.001)
        path = tmp_path / "lead.json"
        with trace_file.of_lead(str(path)) as it:
            record(it)
            wait_for(lambda: load(path)[-1]["name"] == "verify", "the last event in the file")
            text = path.read_text()
        with pytest.raises(ValueError, match="delimiter"):
            json.loads(text)
        whole = parsed(path)
        cut, lengths = tmp_path / "cut.json", set()
        for length in range(2, len(text) + 1):
            cut.write_text(text[:length])
            events = load(cut)
            assert events == whole[: len(events)]
            lengths.add(len(events))
        assert lengths == set(range(len(whole) + 1))

    def test_many_threads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trace_file, "WRITE_EVERY", 0.001)
        path = tmp_path / "lead.json"
        with trace_file.of_lead(str(path)) as it:

            def work(lane: str) -> None:
                for i in range(2000):
                    it.instant(lane, "tick", i)

            threads = [threading.Thread(target=work, args=(f"lane {i}",)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        ticks = [e for e in parsed(path) if e["name"] == "tick"]
        for row in {e["tid"] for e in ticks}:
            assert [e["ts"] for e in ticks if e["tid"] == row] == [i * 1e6 for i in range(2000)]
        assert len(ticks) == 8000

    @pytest.mark.parametrize("path", ["", "no/such/folder/x.json"])
    def test_what_cannot_be_written_is_one_clear_line(self, tmp_path: Path, path: str) -> None:
        for open_it in (trace_file.of_lead, lambda path: trace_file.of_back(path, "one")):
            with pytest.raises(FileError) as error:
                open_it(str(tmp_path / path))
            assert "\n" not in str(error.value)
            assert str(tmp_path / path) in str(error.value)
            assert "--trace" in str(error.value)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk to try")
    def test_a_full_disk(self) -> None:
        with pytest.raises(FileError, match="no space"):
            trace_file.of_lead("/dev/full")

    def test_a_file_that_takes_no_more(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The trace ends, with a word, keeps nothing more in memory, and nothing else ends."""
        monkeypatch.setattr(trace_file, "WRITE_EVERY", 0.001)
        pipe = tmp_path / "lead.json"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        it = TraceFile(str(pipe), "lead", 1, 0.0)
        os.close(reader)
        with caplog.at_level(logging.WARNING):
            record(it)
            wait_for(lambda: "the trace" in caplog.text, "a word of the trace's end")
            word = Word("one")
            kept = weakref.ref(word)
            for _ in range(3):
                it.instant("backs", "guesses", 1.0, back=word)
            del word
            it.close()
        assert caplog.text.count("the trace") == 1
        assert kept() is None

    def test_closed_it_keeps_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "lead.json"
        it = trace_file.of_lead(str(path))
        it.close()
        text = path.read_text()
        record(it)
        it.close()
        assert path.read_text() == text

    def test_untraced(self) -> None:
        assert trace_file.of_lead(None) is trace_file.of_back("", "one") is UNTRACED
        with UNTRACED as it:
            record(it)
            it.title("x")
            it.clock(1.0)
            assert not it.on


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda s: (float(s[0]), float(sum(s)))))


@given(spans, spans)
def test_time_in_common(one: list[Span], other: list[Span]) -> None:
    """As counted moment by moment."""

    def moments(them: list[Span]) -> set[int]:
        return {moment for start, end in them for moment in range(int(start), int(end))}

    assert total(one) == len(moments(one))
    assert moments(union(one)) == moments(one)
    assert moments(common(one, other)) == moments(one) & moments(other)


def events(title: str, *what: tuple[str, float, float, dict[str, int]]) -> list[dict[str, Any]]:
    named = {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": title}}
    return [
        named,
        *({"ph": "X", "name": n, "pid": 1, "tid": 1, "ts": s, "dur": e - s, "args": args} for n, s, e, args in what),
    ]


LEAD = events(
    "lead: big",
    ("answer", 1000, 2000, {}),
    ("prefill", 1000, 1100, {"prompt": 9, "tokens": 1}),
    ("verify", 1100, 1100, {}),
    ("forward", 1100, 1500, {"guesses": 4, "accepted": 1, "tokens": 2}),
    ("verify", 1500, 1500, {}),
    ("wait", 1500, 1550, {}),
    ("forward", 1600, 2000, {"guesses": 4, "accepted": 3, "tokens": 4}),
    ("verify", 2000, 2000, {}),
)
BACK = events(
    "back one: small",
    ("read", 500, 1050, {}),
    ("draft", 1050, 1200, {"rows": 2}),
    ("draft", 1400, 1700, {"rows": 3}),
    ("draft", 2500, 2700, {"rows": 5}),
    ("commit", 1600, 1600, {"expanded": 2}),
)


class TestSummary:
    def test_shares(self) -> None:
        summary = summarise([Timeline(BACK), Timeline(LEAD)])
        assert (summary.seconds, summary.tokens, summary.steps) == (0.001, 7, 3)
        lead, back = summary.lines
        assert (lead.title, lead.forward, lead.reading, lead.waiting) == ("lead", 0.8, 0.1, 0.05)
        assert (lead.rows, lead.lost, lead.overlap) == (8, 0.5, None)
        assert (back.title, back.forward, back.reading, back.waiting) == ("back one", 0.45, 0.05, 0.0)
        assert back.overlap == pytest.approx(0.35)
        assert (back.rows, back.lost) == (10, 0.8)

    @pytest.mark.parametrize("files", [[BACK], [LEAD, LEAD]])
    def test_one_lead(self, files: list[list[dict[str, Any]]]) -> None:
        with pytest.raises(FileError, match="of a lead"):
            summarise([Timeline(it) for it in files])

    @pytest.mark.parametrize("text", ["", "[1, 2]", '{"a": 1}', "hello\n", "\xff\xfe"])
    def test_what_is_no_trace(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
        path = tmp_path / "x.json"
        path.write_bytes(text.encode("latin-1"))
        assert bench(["trace", str(path)]) == FileError.exit_code
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert str(path) in error

    def test_merged(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The lead first, everyone with a number of its own, and nothing lost."""
        for name, it in (("lead", LEAD), ("back", BACK)):
            (tmp_path / name).write_text(json.dumps(it))
        merged = tmp_path / "merged.json"
        assert bench(["trace", str(tmp_path / "back"), str(tmp_path / "lead"), "-o", str(merged)]) == 0
        assert "80.0%" in capsys.readouterr().out
        both = json.loads(merged.read_text())["traceEvents"]
        assert [{**e, "pid": 1} for e in both] == LEAD + BACK
        assert [e["pid"] for e in both] == [1] * len(LEAD) + [2] * len(BACK)
        assert bench(["trace", str(tmp_path / "lead"), "-o", str(tmp_path)]) == FileError.exit_code


@pytest.mark.slow
def test_lead_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One answer, two programs, two files by one clock: the back drafts while the lead is in its forward passes."""
    files = {name: tmp_path / f"{name}.json" for name in ("lead", "back")}
    with LeadProcess("--threads", "1", "--trace", str(files["lead"])) as lead:
        lead.ready()
        with BackProcess(lead.back_port, "--threads", "1", "--name", "one", "--trace", str(files["back"])) as back:
            lead.has_backs(1)
            tokens = lead.ask(QUESTION, temperature=0, max_tokens=60, ignore_eos=True).usage["completion_tokens"]
            assert back.stop() == 0, back.log
        assert lead.stop() == 0, lead.log
    timelines = {name: Timeline(parsed(path)) for name, path in files.items()}
    of_lead, of_back = timelines["lead"], timelines["back"]
    assert of_lead.title.startswith("lead: ")
    assert of_back.title.startswith("back one: ")
    assert of_back.aligned
    forward, drafts = of_lead.spans("forward"), of_back.spans("draft")
    assert of_lead.sum("tokens", "forward", "prefill") == of_lead.sum("tokens", "commit") == tokens
    assert len(of_lead.spans("answer", "prefill")) == 2
    assert of_lead.sum("prompt", "prefill") > 0 == of_lead.sum("prompt", "forward")
    assert len(of_lead.spans("plan")) >= len(of_lead.spans("verify")) == len(forward) + 1
    assert total(common(drafts, forward)) > 0
    # What the lead got is what the back had sent, and later than that, give or take what the clocks are apart.
    sent = sorted(e["ts"] for e in of_back.events if e["name"] == "send")
    came = sorted(e["ts"] for e in of_lead.events if e["name"] == "guesses")
    assert 0 < len(came) <= len(sent)
    round_trip = min(e["args"]["round_trip_ms"] for e in of_back.events if e["name"] == "clock")
    assert came[0] >= sent[0] - round_trip * 1000
    summary = summarise(list(timelines.values()))
    assert summary.tokens == tokens
    for line in summary.lines:
        assert line.forward + line.reading + line.waiting <= 1
        assert line.rows > 0
        assert 0 <= (line.lost or 0) <= 1
    assert bench(["trace", *map(str, files.values()), "-o", str(tmp_path / "merged.json")]) == 0
    assert f"{tokens} tokens" in capsys.readouterr().out
