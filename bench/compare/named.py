"""`python -m bench figure`: the speed-up that the lead names, beside the one that is measured.

Two leads answer the same questions on the same core, one with a back and one without. They answer each question in
turn, and take turns in who is first. So a machine that becomes slower does so for both. Both guess from memory, but
not from an earlier round: it had the same questions, and people ask new ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import requests
from rich.console import Console

from bench.compare.entrant import Setup
from bench.compare.options import add_model_flags
from bench.compare.run import models
from bench.harness.processes import PATIENCE, BackProcess, LeadProcess
from duo.program import values
from duo.program.prompts import Conversation
from lead.http import owner
from lead.match import prompts
from lead.plan.ratio import Ratio

MAX_APART = 0.1
"""The two figures may differ by this share."""


def add_flags(p: argparse.ArgumentParser) -> None:
    add_model_flags(p)
    asked = p.add_argument_group("questions")
    asked.add_argument("--questions", type=values.positive, default=4, metavar="N", help="how many")
    asked.add_argument("--tokens", type=values.positive, default=96, metavar="N", help="tokens of each answer")
    asked.add_argument("--rounds", type=values.positive, default=2, metavar="N", help="how often all are asked")


def main(args: argparse.Namespace) -> int:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    trial = Trial(models(args), prompts.shipped(args.questions), args.tokens)
    trial.run(args.rounds, console.print)
    measured, named = trial.compared.measured, trial.compared.named
    console.print(f"measured: {measured.value:.3f} x (± {measured.error * measured.value:.3f})")
    console.print(f"the lead names: {named:.3f} x, and for single answers {trial.compared.spread}")
    apart = named / measured.value - 1
    console.print(f"that is {apart:+.1%}, and {MAX_APART:.0%} is allowed")
    return int(abs(apart) > MAX_APART)


@dataclass(frozen=True)
class Answered:
    """Seconds of decoding, and what the lead says of it: times, and their standard error."""

    seconds: float
    times: float | None
    error: float = 0.0


@dataclass
class Comparison:
    """Answers without a back and with one, to the same questions."""

    off: list[Answered] = field(default_factory=list)
    on: list[Answered] = field(default_factory=list)

    @property
    def measured(self) -> Ratio:
        """Seconds without a back over those with one, question by question."""
        ratio = Ratio()
        for off, on in zip(self.off, self.on, strict=True):
            ratio.step(off.seconds, on.seconds)
        return ratio

    @property
    def named(self) -> float:
        """What the lead says, of all answers together."""
        known = [(it.times, it.seconds) for it in self.on if it.times is not None]
        return sum(times * seconds for times, seconds in known) / max(1e-9, sum(seconds for _, seconds in known))

    @property
    def spread(self) -> str:
        times = sorted(it.times for it in self.on if it.times is not None)
        return f"{times[0]:.2f} to {times[-1]:.2f}" if times else "nothing"


class Trial:
    """Two leads, and a back at one of them."""

    def __init__(self, setup: Setup, conversations: Sequence[Conversation], tokens: int) -> None:
        self._setup = setup
        self._questions = [[*it.before, {"role": "user", "content": it.turns[0]}] for it in conversations]
        self._tokens = tokens
        self.compared = Comparison()

    def run(self, rounds: int, say: Callable[[str], None]) -> None:
        with ExitStack() as stack:
            leads = {on: stack.enter_context(self._new_lead()).ready() for on in (False, True)}
            draft = ("-m", self._setup.draft, "--engine", self._setup.runtime, "--threads", "1")
            back = BackProcess(leads[True].back_port, *draft, cpus=self._setup.back_cpus)
            stack.enter_context(back).joined()
            for lead in leads.values():
                self._ask(lead, 0, "first")  # sets things up, and the target is measured alone
            number = 0
            for round_ in range(rounds):
                for question in range(len(self._questions)):
                    order = ((False, True), (True, False))[number % 2]
                    found = {on: self._ask(leads[on], question, str(round_)) for on in order}
                    number += 1
                    off, it = found[False].seconds, found[True]
                    self.compared.off.append(found[False])
                    self.compared.on.append(it)
                    named = f"{it.times:.2f} ± {it.error:.2f}" if it.times else "nothing"
                    say(f"question {question + 1}: {self._tokens / off:.1f} tokens/s without a back, "
                        f"{off / it.seconds:.2f} x with one; the lead names {named}")  # fmt: skip
            if lately := leads[True].speedup():
                say(f"the lead, of the last minutes: {lately['says']}")

    def _new_lead(self) -> LeadProcess:
        return LeadProcess(
            "-m", self._setup.target, "--engine", self._setup.runtime, "--threads", "1", "--print-mode", "none",
            "--cache-ram", "0", cpus=self._setup.lead_cpus,
        )  # fmt: skip

    def _ask(self, lead: LeadProcess, question: int, whose: str) -> Answered:
        """whose: memory guesses from what was said to the same owner."""
        body = {"messages": self._questions[question], "max_tokens": self._tokens, "temperature": 0, "ignore_eos": True}
        # Not streamed, because reading a stream takes time on the measured cores.
        url, headers = f"{lead.url}/v1/chat/completions", {owner.HEADER: whose}
        response = requests.post(url, json=body, headers=headers, timeout=20 * PATIENCE)
        response.raise_for_status()
        timings: dict[str, Any] = response.json()["timings"]
        named = timings["speedup"] or {"times": None, "error": 0.0}
        return Answered(timings["predicted_ms"] / 1000, named["times"], named["error"])
