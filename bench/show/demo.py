"""`make demo`: the same questions four times, with and without a back, and the same text each time.

A lead and a back with the shipped pair run as two processes, with a thread on a core each: two devices in one machine.
The back is there from the start, joins in the middle of an answer, or is killed in the middle of one.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.harness.delay_proxy import DelayProxy
from bench.harness.processes import ROOT, BackProcess, LeadProcess, Reply, halves
from lead.plan.ratio import Ratio
from lead.plan.speedup import Speedup, mean

QUESTIONS = (
    "What does shutil.copytree do?",
    "What arguments does json.dumps take?",
    "What does os.path.join do?",
    "What does subprocess.run do?",
    "How do I use itertools.groupby?",
    "What does collections.deque do?",
)
INTERRUPTED_QUESTION = 2
"""A back joins or dies during the answer to this question."""
INTERRUPT_AFTER = 60
"""It does so after this many characters of the answer."""


@dataclass(frozen=True)
class Row:
    """The answers to all questions, asked in one way."""

    name: str
    replies: Sequence[Reply]

    def sum(self, figure: str) -> float:
        """Of one of the timings, over all answers."""
        return sum(float(reply.timings[figure]) for reply in self.replies)

    @property
    def texts(self) -> Sequence[str]:
        return [reply.text for reply in self.replies]

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return 1000 * self.sum("predicted_n") / self.sum("predicted_ms")

    def over(self, other: Row) -> Ratio:
        """How many times as fast it was, from question to question."""
        ratio = Ratio()
        for mine, its in zip(self.replies, other.replies, strict=True):
            ratio.step(its.timings["predicted_ms"], mine.timings["predicted_ms"])
        return ratio

    def each_over(self, other: Row) -> Sequence[float]:
        """The same for each question."""
        pairs = zip(self.replies, other.replies, strict=True)
        return [its.timings["predicted_ms"] / mine.timings["predicted_ms"] for mine, its in pairs]

    @property
    def named(self) -> Speedup | None:
        """The speed-up that the lead names, of the answers for which it knows one."""
        found = [reply.timings["speedup"] for reply in self.replies if reply.timings["speedup"]]
        return mean([Speedup(it["times"], it["error"]) for it in found])


def ask(lead: LeadProcess, name: str, in_the_middle: Callable[[], None] | None = None) -> Row:
    """Asks all questions one after the other. Calls `in_the_middle` in the middle of one answer."""
    replies: list[Reply] = []
    for number, question in enumerate(QUESTIONS):
        reply = Reply()
        for _ in lead.stream(question, reply, temperature=0, max_tokens=256):
            if in_the_middle and number == INTERRUPTED_QUESTION and len(reply.text) >= INTERRUPT_AFTER:
                in_the_middle()
                in_the_middle = None
        replies.append(reply)
    if in_the_middle:
        raise RuntimeError("the answer was over before anything could happen in its middle")
    return Row(name, replies)


def rows(lead: LeadProcess, say: Callable[[str], None]) -> list[Row]:
    """The four rows of the table, in order."""
    cpus = halves()[1]
    say("asking without a back")
    lead.ask(QUESTIONS[0], temperature=0, max_tokens=32)  # a first answer sets things up
    table = [ask(lead, "no back")]
    with BackProcess(lead.back_port, "--threads", "1", "--name", "demo", cpus=cpus) as back:
        say("asking with a back")
        lead.has_backs(1)
        lead.ask(QUESTIONS[0], temperature=0, max_tokens=32)
        table.append(ask(lead, "with a back"))
        assert back.stop() == 0, back.log
    lead.has_backs(0)
    with (
        DelayProxy(lead.back_port) as proxy,
        BackProcess(proxy.port, "--threads", "1", "--name", "late", cpus=cpus) as back,
    ):
        say("asking, and a back joins in the middle")
        back.loaded()
        table.append(ask(lead, "back joins in the middle", proxy.open))
        back.joined()
        lead.has_backs(1)
        say("asking, and the back is killed in the middle")
        table.append(ask(lead, "back killed in the middle", lambda: back.send(signal.SIGKILL)))
    return table


def show(table: Sequence[Row], console: Console) -> bool:
    """Prints the table, and how much its figures scatter. Returns whether all texts are the same."""
    drawn = Table(title="The same questions, four times")
    for column in ("", "tokens", "tokens/s", "speed-up", "the lead says", "accepted", "same text"):
        drawn.add_column(column, justify="left" if not column else "right")
    first = table[0]
    for row in table:
        verified, accepted = row.sum("draft_n"), row.sum("draft_n_accepted")
        share = f"{accepted:.0f} of {verified:.0f} ({accepted / verified:.0%})" if verified else "-"
        same = "yes" if row.texts == first.texts else "NO"
        ratio, named = row.over(first), row.named
        times = f"{ratio.value:.2f} ± {ratio.value * ratio.error:.2f}" if row is not first else "1"
        says = f"{named.times:.2f} ± {named.error:.2f}" if named else "-"
        drawn.add_row(row.name, f"{row.sum('predicted_n'):.0f}", f"{row.speed:.1f}", times, says, share, same)
    console.print(drawn)
    each = sorted(table[1].each_over(first))
    console.print(
        f"± is the standard error over {len(each)} questions. Single questions with a back were {each[0]:.2f} to "
        f"{each[-1]:.2f} times as fast: one answer says little.",
        highlight=False,
        soft_wrap=True,
    )
    return all(row.texts == first.texts for row in table)


def add_flags(p: argparse.ArgumentParser) -> None:
    """It has no flags."""


def main(args: argparse.Namespace) -> int:
    console = Console()
    with LeadProcess("--threads", "1", "--print-mode", "none", cpus=halves()[0]) as lead:
        console.print("loading the target model")
        lead.ready()
        if not show(rows(lead, console.print), console):
            console.print("the texts differ: this should never happen", style="bold red")
            return 1
        if sys.stdin.isatty() and sys.stdout.isatty():
            with BackProcess(lead.back_port, "--threads", "1", "--name", "demo", cpus=halves()[1]):
                console.print("now ask something yourself; :q ends")
                lead.has_backs(1)
                subprocess.run([sys.executable, str(ROOT / "chat.py"), lead.url], check=False)
    return 0
