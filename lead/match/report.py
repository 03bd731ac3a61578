"""What `python -m lead match` says: the table, what was measured and assumed, and the commands to run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from duo.installing import Programs
from duo.program.models import SHIPPED
from lead.match.expect import HELPS, Expected
from lead.simulation import curves

BESIDE = 1.03
"""A draft model beside the target as well is advised if it gives this many times what the back alone gives."""


@dataclass(frozen=True)
class Tried:
    """A draft model. reason: why it cannot be used; empty if it can. difference: of the vocabularies, in words.

    seconds: of its forward passes by rows.
    """

    model: str
    reason: str = ""
    difference: str = ""
    seconds: Mapping[int, float] | None = None
    expected: Expected | None = None


@dataclass(frozen=True)
class Run:
    """What was measured and assumed of all of them. seconds: of the target's forward passes by rows.

    programs: how they are started. flags: how models were run, in words of a command line.
    """

    target: str
    seconds: Mapping[int, float]
    answers: int
    tokens: int
    prompts: str
    temperature: float
    round_trip_ms: float
    given: bool
    """The costs of the draft models were given, and not measured."""
    programs: Programs
    flags: Sequence[str] = ()
    same_machine: bool = False


def ordered(tried: Sequence[Tried]) -> list[Tried]:
    """Best first; those that cannot be used last."""
    return sorted(tried, key=lambda it: -it.expected.best if it.expected is not None else 1.0)


def table(tried: Sequence[Tried]) -> Table:
    made = Table()
    for name in ("draft", "vocabulary", "first guess right", "a token", "expected speed", "with -md too"):
        made.add_column(name, justify="left" if name in ("draft", "vocabulary") else "right", overflow="fold")
    for it in tried:
        if it.expected is None or it.seconds is None:
            made.add_row(escape(it.model), "cannot draft", "", "", "", "")
            continue
        found = it.expected
        made.add_row(
            escape(it.model), it.difference, f"{found.acceptance:.0%}", f"{1000 * it.seconds[1]:.3g} ms",
            f"{found.times:.2f} x (± {found.error:.2f})", f"{found.beside:.2f} x",
        )  # fmt: skip
    return made


def said(run: Run, tried: Sequence[Tried]) -> Iterator[str]:
    """The lines after the table."""
    yield from (f"{it.model} cannot draft: {it.reason}" for it in tried if it.reason)
    best = next((it for it in tried if it.expected is not None), None)
    alone = f", {best.expected.alone:.1f} tokens/s alone" if best is not None and best.expected is not None else ""
    yield f"Measured: {run.target} takes {curves.typed(run.seconds)} (rows:ms){alone}. It gave {run.answers} answers"
    yield (
        f"to {run.prompts}, {run.tokens} tokens in all, {_sampled(run.temperature)}. Each draft model read these "
        "answers, and said at every place what it would have guessed."
    )
    if run.same_machine:
        costs = "run on this machine, beside the target; how much both slow each other down was measured"
    else:
        costs = "are as fast on their own machine as they are on this one; the two machines do not slow each other down"
    if run.given:
        costs = "cost what --draft-ms says; the two machines do not slow each other down"
    yield f"Assumed: the draft models {costs}; a round trip takes {run.round_trip_ms:g} ms; one question at a time."
    if best is not None and best.expected is not None:
        yield from _shares(best.model, best.expected)
    yield from _advice(run, best)


def _shares(model: str, found: Expected) -> Iterator[str]:
    """What the figures hold beside the draft model's guesses."""
    if found.together is not None:
        target, draft = found.together.target[1], found.together.draft[1]
        yield (
            f"While both compute, a pass of the target takes {target:.2f} times as long, "
            f"and one of {model} {draft:.2f} times."
        )
    yield (
        "Counted in all: guesses from memory, which need no draft model. Without any draft model they give "
        f"{found.memory:.2f} x."
    )


def _sampled(temperature: float) -> str:
    return f"at temperature {temperature:g}" if temperature else "greedy"


def _advice(run: Run, best: Tried | None) -> Iterator[str]:
    lead = [*run.programs.lead, *_named(run.target), *run.flags]
    if best is None or best.expected is None:
        yield (
            "None of these can draft for it. Use a draft of the same family (docs/pairs.md), or none: "
            f"{shlex.join(lead)}"
        )
        return
    if not best.expected.helps:
        yield (
            f"None of these helps: all stay below {HELPS} x what the lead gives without them. The lead would let them "
            "rest. Run it alone: "
            f"{shlex.join(lead)}"
        )
        return
    if best.expected.times < 1.0:
        yield "A back with it would make answers slower. Run it in the lead alone:"
        yield f"    {shlex.join([*lead, '-md', best.model])}"
        return
    beside = ("-md", best.model) if best.expected.beside >= BESIDE * best.expected.times else ()
    # Where its costs were given, the draft runs on another kind of machine, and these flags were not for that one.
    back = [*run.programs.back, *_named(best.model), *(() if run.given else run.flags)]
    yield "Run:"
    yield f"    {shlex.join([*lead, '--host', '0.0.0.0', *beside])}"
    yield f"    {shlex.join([*back, '--lead', 'HOST:5556', '--token', 'TOKEN'])}"
    yield "The lead prints HOST and TOKEN when it starts."


def _named(model: str) -> tuple[str, ...]:
    return ("-m", model) if model != SHIPPED else ()
