"""`python -m bench load`: several clients at once, with backs and without.

Each virtual user asks one question after the other for some seconds. The figures are those of the load test of Hugging
Face's text-generation-inference. They are requests and tokens per second, and acceleration, which is tokens per forward
pass of an answer. There are also percentiles of the latency and of the time to the first token. Every text is compared
with the answer to the same question asked alone. There is a lead without backs, one with backs, and perhaps one with a
draft model beside the target. They are asked in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench.harness.padding import model
from bench.harness.processes import BackProcess, LeadProcess, Reply, halves, pinned
from bench.load.allowed import Allowance, Allowed
from duo.errors import DuoError
from duo.program.prompts import Message
from duo.program.prompts import read as read_prompts
from duo.program.values import positive
from lead.match import prompts

MIN_ROUNDS_FOR_ERROR = 4
"""A ratio has an error from this many rounds on."""
TABLE_WIDTH = 170
"""Columns of the table, unless it goes to a terminal."""
RAMP_SECONDS = 1.0
"""The beginning of each measurement, which does not count: all prompts are read at once then."""


Ask = Callable[[int, Reply], Iterator[str]]
"""Asks the question of a number, and yields the text as it comes. The reply collects it."""


@dataclass(frozen=True)
class Sample:
    """One answer. Times are by `time.perf_counter`."""

    question: int
    asked: float
    first: float
    ended: float
    tokens: int
    accepted: int
    text: str

    def share(self, begin: float, end: float) -> float:
        """How many of its tokens came in this time, if they came evenly."""
        inside = min(self.ended, end) - max(self.first, begin)
        return self.tokens * max(0.0, inside) / max(1e-9, self.ended - self.first)


class Ratio(NamedTuple):
    """error: the standard error over rounds; None if there are too few."""

    value: float
    error: float | None

    def __str__(self) -> str:
        return f"{self.value:.2f}" + (f" ±{self.error:.2f}" if self.error is not None else "")


def _error(ratios: Sequence[float]) -> float | None:
    return statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) >= MIN_ROUNDS_FOR_ERROR else None


@dataclass
class Cell:
    """What a number of users got from one lead."""

    samples: list[Sample] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    """Of each measurement."""
    seconds: float = 0.0
    """Of all measurements."""
    requests: int = 0
    """Answers that ended in this time."""
    wrong: int = 0
    """Answers that differ from the same question asked alone."""
    allowed: list[Allowed] = field(default_factory=list)
    """For each measurement, what the cost of forward passes allowed in that round."""

    def add(self, samples: Sequence[Sample], begin: float, end: float, allowed: Allowed) -> None:
        """Adds a measurement from `begin` to `end`. Raises DuoError if the first one has no token."""
        tokens = sum(sample.share(begin, end) for sample in samples)
        if not tokens and not self.tokens:
            raise DuoError(f"no token came in {end - begin:.3g} seconds; measure longer (--seconds)")
        # Answers asked during the ramp waited for all prompts. They count only if there are no others.
        self.samples += [sample for sample in samples if sample.asked >= begin] or samples
        self.requests += sum(begin <= sample.ended <= end for sample in samples)
        self.seconds += end - begin
        self.tokens.append(tokens)
        self.allowed.append(allowed)

    @property
    def speed(self) -> float:
        return sum(self.tokens) / self.seconds

    def over(self, other: Cell) -> Ratio:
        """Its speed over the other's. The error leaves out differences between two processes."""
        return Ratio(self.speed / other.speed, _error(self._ratios(other)))

    def of_allowed(self, one: Cell, reading: Callable[[Allowed], float]) -> Ratio:
        """Its speed over that of one client, as a share of what the costs allow.

        reading: `Allowed.line` or `Allowed.apart`. The share is taken within rounds, for the machine's speed changes.
        """
        allowed = [reading(mine) / reading(its) for mine, its in zip(self.allowed, one.allowed, strict=True)]
        shares = self._ratios(one, allowed)
        return Ratio(statistics.fmean(shares), _error(shares))

    def _ratios(self, other: Cell, allowed: Sequence[float] = ()) -> list[float]:
        """The ratio of each round, without rounds in which the other got nothing."""
        rounds = zip(self.tokens, other.tokens, allowed or [1.0] * len(self.tokens), strict=True)
        return [mine / its / limit for mine, its, limit in rounds if its]

    @property
    def acceleration(self) -> float:
        tokens, accepted = sum(s.tokens for s in self.samples), sum(s.accepted for s in self.samples)
        return tokens / max(1, tokens - accepted)


def run(ask: Ask, users: int, questions: int, seconds: float, first: int) -> tuple[list[Sample], float, float]:
    """Lets users ask at once for `seconds` after the ramp, beginning with question `first`.

    Returns the answers, and when the time that counts begins and ends.
    """
    samples: list[Sample] = []
    numbers, lock = count(first), threading.Lock()
    begin = time.perf_counter()
    end = begin + RAMP_SECONDS + seconds

    def user() -> None:
        while (asked := time.perf_counter()) < end:
            with lock:
                question = next(numbers) % questions
            reply, at = Reply(), 0.0
            for _ in ask(question, reply):
                at = at or time.perf_counter()
            ended = time.perf_counter()
            tokens, accepted = int(reply.timings["predicted_n"]), int(reply.timings["draft_n_accepted"])
            samples.append(Sample(question, asked, at or ended, ended, tokens, accepted, reply.text))

    threads = [threading.Thread(target=user) for _ in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return samples, begin + RAMP_SECONDS, end


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--vu", type=_users, default=[1, 2, 4, 8], metavar="N,...", help="virtual users (default: 1,2,4,8)")
    p.add_argument("--data", type=Path, metavar="FILE", help="questions: JSONL with `turns` or `messages` on each line")
    p.add_argument("--questions", type=positive, metavar="N", help="use the first N questions (default: all)")
    p.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    p.add_argument("--rounds", type=positive, default=6, help="measurements of each lead and number of users")
    p.add_argument("--max-tokens", type=positive, default=128, help="tokens of each answer")
    p.add_argument("--temperature", type=float, default=0.0)
    p.add_argument("--engine", choices=("transformers", "llamacpp"), default="transformers", help="of the shipped pair")
    p.add_argument("--size", metavar="SIZE", help="pad the target to this, such as 0.3B or 0.3B-q8_0")
    p.add_argument(
        "-fa", "--flash-attn", choices=("on", "off", "auto"), default="auto", help="of the leads (llama.cpp)"
    )
    p.add_argument("--backs", type=positive, default=1, help="backs of the lead with backs")
    p.add_argument("--draft-beside", action="store_true", help="also a lead with a draft model beside its target")
    p.add_argument(
        "--again", action="store_true", help="also a second lead without backs, to see how much two equal leads differ"
    )
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write the figures as JSON")


def _users(text: str) -> list[int]:
    try:
        return [positive(part) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or several with commas between them") from None


@contextlib.contextmanager
def leads(
    args: argparse.Namespace, target: str, cores: tuple[list[int], list[int]]
) -> Iterator[dict[str, LeadProcess]]:
    """Leads that are ready: one without backs, one with backs, and those that flags ask for. One is asked at a time."""
    near, far = cores
    flags = ("--engine", args.engine, "--threads", "1", "--parallel", str(max(args.vu)))
    of_lead = ("-m", target, "--flash-attn", args.flash_attn, "--queue", "1024", "--print-mode", "none")
    ways: dict[str, tuple[str, ...]] = {"no back": (), "with backs": ()}
    if args.again:
        ways["no back, again"] = ()
    if args.draft_beside:
        ways["draft beside"] = ("--model-draft", "shipped")
    with contextlib.ExitStack() as stack:
        ready = {
            name: stack.enter_context(LeadProcess(*flags, *of_lead, *way, cpus=near)).ready()
            for name, way in ways.items()
        }
        lead = ready["with backs"]
        for number in range(args.backs):
            stack.enter_context(BackProcess(lead.back_port, *flags, "--name", f"back-{number + 1}", cpus=far))
        lead.has_backs(args.backs)
        yield ready


def main(args: argparse.Namespace) -> int:
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    conversations = (read_prompts(args.data) if args.data else prompts.shipped())[: args.questions]
    questions = [[*c.before, {"role": "user", "content": c.turns[0]}] for c in conversations]
    near, far = halves()
    target = model("target", args.size, args.engine)
    with pinned(near):
        allowance = Allowance(target, args.engine, args.vu, args.flash_attn)
    cells: dict[tuple[str, int], Cell] = {}
    # The clients must not disturb the lead.
    with contextlib.closing(allowance), leads(args, target, (near, far)) as ready, pinned(far):
        asks = {name: _asker(lead, questions, args) for name, lead in ready.items()}
        alone: dict[int, str] = {}
        for name, ask in asks.items():
            for number in range(len(questions)):
                reply = Reply()
                for _ in ask(number, reply):
                    pass
                if alone.setdefault(number, reply.text) != reply.text:
                    cells.setdefault((name, min(args.vu)), Cell()).wrong += 1
        for round_ in range(args.rounds):
            with pinned(near):
                allowed = allowance.measure()
            for users in args.vu:
                for name in list(asks)[:: 1 if round_ % 2 else -1]:
                    console.print(f"round {round_ + 1} of {args.rounds}: {users} at once, {name}", style="dim")
                    samples, begin, end = run(asks[name], users, len(questions), args.seconds, round_ * 7)
                    cell = cells.setdefault((name, users), Cell())
                    cell.add(samples, begin, end, allowed[users])
                    cell.wrong += sum(sample.text != alone[sample.question] for sample in samples)
    console.print(_table(cells))
    if args.output:
        args.output.write_text(json.dumps(_figures(cells), indent=1))
    wrong = sum(cell.wrong for cell in cells.values())
    console.print(f"{wrong} answers that are not what the same question gives alone")
    return 1 if wrong else 0


def _asker(lead: LeadProcess, questions: Sequence[Sequence[Message]], args: argparse.Namespace) -> Ask:
    options = {"temperature": args.temperature, "max_tokens": args.max_tokens}
    return lambda number, reply: lead.stream(questions[number], reply, seed=number, **options)


def _figures(cells: dict[tuple[str, int], Cell]) -> list[dict[str, object]]:
    one = cells["no back", min(users for _, users in cells)]
    figures: list[dict[str, object]] = []
    for (name, users), cell in sorted(cells.items(), key=lambda item: (item[0][1], item[0][0])):
        latencies = [s.ended - s.asked for s in cell.samples]
        firsts = [s.first - s.asked for s in cell.samples]
        figures.append(
            {
                "users": users,
                "lead": name,
                "requests_per_second": cell.requests / cell.seconds,
                "tokens_per_second": cell.speed,
                "acceleration": cell.acceleration,
                "of_one_client": cell.over(one),
                "of_allowed": cell.of_allowed(one, lambda it: it.line),
                "of_allowed_apart": cell.of_allowed(one, lambda it: it.apart),
                "of_no_back": cell.over(cells["no back", users]),
                "latency": [percentile(latencies, p) for p in (0.5, 0.9, 0.99)],
                "first_token": [percentile(firsts, p) for p in (0.5, 0.9, 0.99)],
                "tokens": statistics.mean(s.tokens for s in cell.samples),
                "wrong": cell.wrong,
            }
        )
    return figures


def _table(cells: dict[tuple[str, int], Cell]) -> Table:
    table = Table(title="Several clients at once")
    heads = ("users", "", "req/s", "tok/s", "accel.", "x one", "of allowed", "apart", "x no back",
             "p50 p90 p99, s", "first token, s")  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if not head else "right")
    for row in _figures(cells):
        latency, first = row["latency"], row["first_token"]
        assert isinstance(latency, list) and isinstance(first, list)
        table.add_row(
            str(row["users"]), str(row["lead"]), f"{row['requests_per_second']:.2f}", f"{row['tokens_per_second']:.1f}",
            f"{row['acceleration']:.2f}", str(row["of_one_client"]), str(row["of_allowed"]),
            str(row["of_allowed_apart"]), str(row["of_no_back"]),
            " ".join(f"{v:.2f}" for v in latency), " ".join(f"{v:.3f}" for v in first),
        )  # fmt: skip
    return table
