"""The comparison: its statistics, its turns, its prompts and its own schedules; and once, in small, the whole of it."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import pytest

from bench.__main__ import main
from bench.compare import badback, entrants, figures, report, timeline, trial
from bench.compare.figures import Record, Spread
from bench.compare.names import LABELS
from bench.compare.schedules import Answer, Schedule, Setting
from bench.compare.speculate import ChainDraft, Decoded, Target, free, synchronous
from bench.compare.trial import Plan, Trial
from bench.harness import prompts
from bench.harness.delay_proxy import DelayProxy
from bench.harness.prompts import Conversation, Question
from bench.show import charts
from duo.draft.policy import CHAIN, TREE
from duo.draft.scaling import Scale, Sharpness
from duo.engines.cost import CostCurve
from duo.errors import FileError
from duo.prefix import Prefix
from duo.sampling.params import SamplingParams
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.tree import GuessTree
from tests.support.fakes import CheckedEngine, FakeModel

# --- statistics


def record(
    schedule: str, speed: float, round_: int = 0, question: int = 0, trip: float = 0.0, **more: object
) -> Record:
    fields: dict[str, object] = {
        "group": 0, "schedule": schedule, "networked": schedule in ("ours", "chain"), "temperature": 0.0,
        "round_trip": trip, "round": round_, "question": question, "tokens": 100, "seconds": 100 / speed,
        "drafted": 10, "accepted": 5, **more,
    }  # fmt: skip
    return Record(**fields)  # type: ignore[arg-type]


def test_spread() -> None:
    assert Spread.of([]) is None
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 1)
    assert Spread.of([5, 1, 2, 3, 4]) == Spread(3, 2, 4, 5)


def test_speed_ups_are_measured_on_the_same_question_in_the_same_round() -> None:
    """A machine that is half as fast in the second round changes no ratio."""
    records = [
        record(name, speed / (1 + round_) * (1 + question), round_, question)
        for name, speed in (("none", 10.0), ("ours", 30.0), ("sync", 20.0))
        for round_ in range(2)
        for question in range(3)
    ]
    made = figures.rows(records, 0.0, 0.0)
    assert [row.schedule for row in made] == ["ours", "sync", "none"]
    assert [row.speed_up.median for row in made] == pytest.approx([3.0, 2.0, 1.0])
    assert all(row.speed_up.high - row.speed_up.low < 1e-9 for row in made)
    overs = [row.ours_over.median for row in made if row.ours_over is not None]
    assert overs == pytest.approx([1.5, 3.0])


def test_what_the_network_does_not_concern_counts_for_every_round_trip() -> None:
    records = [record("none", 10, trip=0), record("none", 8, trip=20), record("sync", 16, trip=20)]
    records += [record("ours", 30, trip=0), record("ours", 12, trip=20)]
    assert figures.configurations(records) == [(0.0, 0.0), (0.0, 20.0)]
    near, far = (figures.speed_ups(records, 0.0, trip) for trip in (0.0, 20.0))
    assert near["ours"] == {(0, 0, 0): 3.0} and far["ours"] == {(0, 0, 0): 1.5}
    # By the target alone in its own block.
    assert near["sync"] == far["sync"] == {(0, 0, 0): 2.0}


def test_groups_of_a_run_do_not_mix() -> None:
    records = [record("none", 10), record("none", 5, group=1), record("sync", 10, group=1)]
    assert figures.speed_ups(records, 0.0, 0.0)["sync"] == {(1, 0, 0): 2.0}


def test_best_setting() -> None:
    speeds = {Setting(4): [10.0, 12.0, 90.0], Setting(2): [12.0, 12.0], Setting(8, 0.5): [11.0]}
    assert figures.best(speeds) == Setting(2)


def test_texts_that_differ() -> None:
    records = [record("ours", 1, same=True), record("chain", 1, same=False), record("x", 1, same=False, own=False)]
    assert figures.different_texts(records) == ["chain"]


# --- turns


class Scripted(Schedule):
    """A schedule whose speed depends on its setting alone."""

    def __init__(self, name: str, lengths: Sequence[int] = (), floors: Sequence[float] = (), far: bool = False) -> None:
        super().__init__(name)
        self.lengths, self.floors, self.networked = lengths, floors, far
        self.asked: list[int] = []
        self.trips: list[float] = []

    def at(self, round_trip: float) -> None:
        self.trips.append(round_trip)

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        self.asked.append(seed)
        speed = 10 - abs(self.setting.length - 4) - 10 * abs(self.setting.floor - 0.3)
        return Answer("text", n, n / speed, 0, 0)


QUESTIONS = [Question([{"role": "user", "content": str(i)}], [i]) for i in range(3)]


def test_a_pilot_finds_the_best_setting() -> None:
    schedule = Scripted("sync", (1, 2, 4, 8), (0.1, 0.3, 0.6))
    trial.tune(schedule, QUESTIONS, Plan(64, 1, [0.0], [0.0]), 0.0, lambda words: None)
    assert schedule.setting == Setting(4, 0.3)


def test_turns() -> None:
    schedules = [Scripted("none"), Scripted("sync", (1, 4)), Scripted("ours", far=True)]
    plan = Plan(16, 4, [0.0, 0.8], [0.0, 20.0])
    blocks = list(Trial(schedules, QUESTIONS, plan, lambda words: None).run())
    assert len(blocks) == 2 * 4 * 2
    records = [r for block in blocks for r in block]
    count = {s.name: sum(r.schedule == s.name for r in records) for s in schedules}
    # All that the network concerns, and the measure of all things, at every round trip; the others in every round.
    assert count == {"none": 48, "sync": 24, "ours": 48}
    assert {(r.round_trip, r.setting) for r in records if r.schedule == "sync"} == {
        (0.0, "4 tokens"),
        (20.0, "4 tokens"),
    }
    assert schedules[2].trips[:2] == [0.0, 0.02]
    assert all(r.same for r in records if r.schedule != "none")


def test_nobody_is_always_first() -> None:
    assert [trial.rotated("abc", by)[0] for by in range(4)] == ["a", "b", "c", "a"]


# --- who competes


def test_who_competes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DUO_LLAMA_SERVER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names, left_out = entrants.chosen(None, False, "llamacpp")
    assert "llama-server" not in names and "no llama-server" in left_out[0]
    assert "assisted" not in names and "random-back" not in names
    assert entrants.chosen("ours", False, "transformers") == (["none", "ours"], [])
    assert "late-back" in entrants.chosen(None, True, "transformers")[0]
    with pytest.raises(entrants.UnknownScheduleError, match="'ous'"):
        entrants.chosen("none,ous", False, "llamacpp")
    assert {*entrants.KINDS, *entrants.MAKERS} == set(LABELS)


def test_groups_fit_into_memory() -> None:
    names = ["none", "ours", "chain", "sync", "both-cores"]
    sizes = {"none": 2.0, "ours": 2.0, "chain": 2.0, "sync": 0.0, "both-cores": 2.0}
    assert entrants.groups(names, sizes, 100) == [names]
    assert entrants.groups(names, sizes, 6) == [["none", "ours", "chain", "sync"], ["none", "ours", "both-cores"]]
    assert entrants.groups(["none"], sizes, 1) == [["none"]]


# --- prompts


def test_prompts_of_both_forms(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    lines = [{"question_id": 81, "turns": ["one", "two"]}, {"messages": [*said, {"role": "user", "content": "c"}]}]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert prompts.read(file) == [Conversation(["one", "two"]), Conversation(["c"], said)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no prompts in it"),
        ("{}", ":1: neither `turns` nor `messages`"),
        ('{"turns": ["a"]}\nnonsense', ":2: not JSON"),
        ('{"turns": [1]}', ":1: `turns` must be"),
        ('{"messages": [{"role": "system", "content": "s"}]}', ":1: `messages` must be"),
    ],
)
def test_prompts_that_cannot_be_used(tmp_path: Path, text: str, error: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(FileError, match=error):
        prompts.read(file)


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--prompts", str(tmp_path / "none.jsonl")]) == 3
    assert capsys.readouterr().err.startswith("error: cannot read ")


def test_later_turns_come_with_the_answers_before_them() -> None:
    asked: list[int] = []

    def answer(messages: Sequence[prompts.Message]) -> str:
        asked.append(len(messages))
        return "an answer"

    talks = [Conversation(["a", "b"]), Conversation(["long" * 9]), Conversation(["c"])]
    found, too_long = prompts.questions(talks, 4, 30, lambda ms: [0] * sum(len(m["content"]) for m in ms), answer)
    assert too_long == 1 and asked == [1]
    assert [[m["content"] for m in q.messages] for q in found] == [["a"], ["a", "an answer", "b"], ["c"]]


def test_prompts_are_taken_from_all_over_the_file() -> None:
    assert prompts.spread(range(480), 6) == [0, 80, 160, 240, 320, 400]
    assert prompts.spread([1, 2], 6) == [1, 2]


# --- schedules of our own


class OneSlot(CheckedEngine):
    batch = 512


def target() -> Target:
    return Target(OneSlot(FakeModel()))  # type: ignore[arg-type]


def alone(prompt: list[int], n: int, params: SamplingParams) -> list[int]:
    """What the target says by itself."""
    drafts = ChainDraft(OneSlot(FakeModel(1.0)))  # type: ignore[arg-type]
    return synchronous(target(), drafts, prompt, n, params, 1, 2.0).tokens


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("length", "floor"), [(1, 0.0), (4, 0.0), (12, 0.3)])
def test_synchronous_speculation_changes_no_token(temperature: float, length: int, floor: float) -> None:
    it, drafts = target(), ChainDraft(OneSlot(FakeModel(0.3)))  # type: ignore[arg-type]
    for seed in range(3):
        params = SamplingParams(temperature=temperature, seed=seed)
        prompt = [1, 2, 3, seed]
        decoded = synchronous(it, drafts, prompt, 40, params, length, floor)
        assert decoded.tokens == alone(prompt, 40, params)
        assert 0 < decoded.accepted <= decoded.drafted


@pytest.mark.parametrize("policy", [CHAIN, TREE])
def test_free_drafts_change_no_token_and_take_no_time(policy: object) -> None:
    clock = iter(range(100_000))
    planner = Planner(CostCurve({1: 1.0, 16: 1.1}), Limits())
    draft = OneSlot(FakeModel(0.3))
    decoded: Decoded = free(
        target(), draft, Scale(), Sharpness(), planner, [1, 2, 3], 40, SamplingParams(seed=3),  # type: ignore[arg-type]
        policy, lambda: float(next(clock)),  # type: ignore[arg-type]
    )  # fmt: skip
    assert decoded.tokens == alone([1, 2, 3], 40, SamplingParams(seed=3))
    assert decoded.accepted > 10


def test_a_bad_back_makes_sense_to_the_lead() -> None:
    prefix = Prefix([1, 2, 3])
    tree = GuessTree(len(prefix), prefix.hash)
    assert all(tree.merge(e, "bad") for e in badback.chain(prefix, 100, random.Random(1)))
    assert len(tree) == badback.LENGTH


# --- the gate


def test_a_gate_is_late_and_loses_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, DelayProxy(listening.getsockname()[1], 0.02) as gate:
        gate.open()
        near = socket.create_connection(("127.0.0.1", gate.port))
        far = listening.accept()[0]
        near.settimeout(30)
        far.settimeout(30)

        def echo() -> None:
            while data := far.recv(65536):
                far.sendall(data)
            far.close()

        threading.Thread(target=echo, daemon=True).start()
        times = []
        for _ in range(5):
            started = time.perf_counter()
            near.sendall(b"ping")
            assert near.recv(4) == b"ping"
            times.append(time.perf_counter() - started)
        assert 0.04 <= median(times) < 0.2
        # Much at once is as late as little: it is not the throughput that is limited.
        much = bytes(range(256)) * 8192
        sender = threading.Thread(target=near.sendall, args=(much,))
        sender.start()
        back = b""
        while len(back) < len(much):
            back += near.recv(65536)
        sender.join()
        assert back == much
        near.shutdown(socket.SHUT_WR)
        assert near.recv(1) == b""
        near.close()


# --- what comes out


def is_svg(path: Path) -> bool:
    return ElementTree.parse(path).getroot().tag.endswith("svg")


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


@pytest.mark.slow
def test_a_small_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes: texts are the same, figures and pictures are there."""
    flags = ["--only", "none,ours,sync-remote", "--questions", "1", "--tokens", "16", "--rounds", "1"]
    flags += ["--temperature", "0.8", "--round-trip", "2", "--out", str(tmp_path)]
    assert main(["compare", *flags]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    answers = {answer["schedule"]: answer for answer in results["answers"]}
    assert set(answers) == {"none", "ours", "sync-remote"}
    assert all(answer["tokens"] == 16 and answer["seconds"] > 0 for answer in answers.values())
    assert answers["ours"]["same"] and answers["sync-remote"]["same"]
    assert "| **ours** |" in capsys.readouterr().out
    assert is_svg(tmp_path / "speedup.svg") and is_svg(tmp_path / "timeline.svg")
