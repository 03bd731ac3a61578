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
    texts: Sequence[str]
    tokens: int
    seconds: float
    drafted: int
    accepted: int


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
    return Row(
        name,
        [reply.text for reply in replies],
        sum(reply.timings["predicted_n"] for reply in replies),
        sum(reply.timings["predicted_ms"] for reply in replies) / 1000,
        sum(reply.timings["draft_n"] for reply in replies),
        sum(reply.timings["draft_n_accepted"] for reply in replies),
    )


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
    """Prints the table. Returns whether all texts are the same."""
    drawn = Table(title="The same questions, four times")
    for column in ("", "tokens", "tokens/s", "speed-up", "accepted", "same text"):
        drawn.add_column(column, justify="left" if not column else "right")
    first = table[0]
    for row in table:
        speed = row.tokens / row.seconds
        share = f"{row.accepted} of {row.drafted} ({row.accepted / row.drafted:.0%})" if row.drafted else "-"
        same = "yes" if row.texts == first.texts else "NO"
        ratio = speed / (first.tokens / first.seconds)
        drawn.add_row(row.name, str(row.tokens), f"{speed:.1f}", f"{ratio:.2f}", share, same)
    console.print(drawn)
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
