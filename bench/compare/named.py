"""`python -m bench figure`: the speed-up that the lead names, beside the one that is measured.

A lead answers the same questions with a back and without, in turns: off and on, then on and off, and so on. One answer
after each change does not count, because the lead then measures its target alone again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import requests
from rich.console import Console

from bench.compare.entrant import Setup
from bench.compare.options import add_model_flags
from bench.compare.run import models
from bench.harness import prompts
from bench.harness.processes import PATIENCE, BackProcess, LeadProcess
from bench.harness.prompts import Conversation
from duo.program import values
from lead.plan.ratio import Ratio

MAX_APART = 0.1
"""The two figures may differ by this share."""


def add_flags(p: argparse.ArgumentParser) -> None:
    add_model_flags(p)
    asked = p.add_argument_group("questions")
    asked.add_argument("--questions", type=values.positive, default=4, metavar="N", help="how many")
    asked.add_argument("--tokens", type=values.positive, default=96, metavar="N", help="tokens of each answer")
    asked.add_argument(
        "--rounds", type=values.positive, default=2, metavar="N", help="how often all are asked in both ways"
    )


def main(args: argparse.Namespace) -> int:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    trial = Trial(models(args), prompts.shipped(args.questions), args.tokens)
    try:
        trial.run(args.rounds, console.print)
    finally:
        trial.close()
    measured, named = trial.measured, trial.named
    console.print(f"measured: {measured.value:.3f} x (± {measured.error * measured.value:.3f})")
    console.print(f"the lead names: {named:.3f} x, and for single answers {trial.spread}")
    apart = named / measured.value - 1
    console.print(f"that is {apart:+.1%}, and {MAX_APART:.0%} is allowed")
    return int(abs(apart) > MAX_APART)


@dataclass(frozen=True)
class Answered:
    """Seconds of decoding, and what the lead says of it: times, and their standard error."""

    seconds: float
    times: float | None
    error: float = 0.0


class Trial:
    """A lead, and a back that comes and goes."""

    def __init__(self, setup: Setup, conversations: Sequence[Conversation], tokens: int) -> None:
        self._setup = setup
        self._questions = [[*it.before, {"role": "user", "content": it.turns[0]}] for it in conversations]
        self._tokens = tokens
        self._stack, self._back = ExitStack(), ExitStack()
        self._on = False
        self._answers: dict[bool, list[Answered]] = {False: [], True: []}

    def close(self) -> None:
        self._back.close()
        self._stack.close()

    def run(self, rounds: int, say: Any) -> None:
        engine = self._setup.runtime
        lead = LeadProcess(
            "-m", self._setup.target, "--engine", engine, "--threads", "1", "--print-mode", "none", "--cache-ram", "0",
            cpus=self._setup.lead_cpus,
        )  # fmt: skip
        self._lead = self._stack.enter_context(lead).ready()
        self._ask(0)  # sets things up
        for number in range(rounds):
            for on in (False, True) if number % 2 == 0 else (True, False):
                self._switch(on)
                found = [self._ask(question) for question in range(len(self._questions))]
                self._answers[on] += found
                speed = self._tokens * len(found) / sum(answer.seconds for answer in found)
                words = ", ".join(f"{it.times:.2f} ± {it.error:.2f}" if it.times else "none" for it in found)
                say(f"round {number + 1}, back {'on ' if on else 'off'}: {speed:.1f} tokens/s; the lead names {words}")
                if on and (lately := self._lead.speedup()):
                    say(f"  {lately['says']}")

    def _switch(self, on: bool) -> None:
        if on == self._on:
            return
        self._on = on
        if on:
            draft = ("-m", self._setup.draft, "--engine", self._setup.runtime, "--threads", "1")
            back = self._back.enter_context(BackProcess(self._lead.back_port, *draft, cpus=self._setup.back_cpus))
            back.joined()
        else:
            self._back.close()
        self._lead.has_backs(int(on))
        self._ask(0)

    def _ask(self, question: int) -> Answered:
        body = {"messages": self._questions[question], "max_tokens": self._tokens, "temperature": 0, "ignore_eos": True}
        # Not streamed, because reading a stream takes time on the measured cores.
        response = requests.post(f"{self._lead.url}/v1/chat/completions", json=body, timeout=20 * PATIENCE)
        response.raise_for_status()
        timings: dict[str, Any] = response.json()["timings"]
        named = timings["speedup"] or {"times": None, "error": 0.0}
        return Answered(timings["predicted_ms"] / 1000, named["times"], named["error"])

    @property
    def measured(self) -> Ratio:
        """Seconds without a back over those with one, question by question."""
        # In the same order in each turn, so the same questions meet.
        ratio = Ratio()
        for off, on in zip(self._answers[False], self._answers[True], strict=True):
            ratio.step(off.seconds, on.seconds)
        return ratio

    @property
    def named(self) -> float:
        """What the lead says, of all answers together."""
        known = [(it.times, it.seconds) for it in self._answers[True] if it.times is not None]
        return sum(times * seconds for times, seconds in known) / max(1e-9, sum(seconds for _, seconds in known))

    @property
    def spread(self) -> str:
        times = sorted(it.times for it in self._answers[True] if it.times is not None)
        return f"{times[0]:.2f} to {times[-1]:.2f}" if times else "nothing"
