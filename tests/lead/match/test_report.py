"""What `lead match` prints."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console

from duo.installing import programs
from lead.match.expect import Expected, Together
from lead.match.report import Run, Tried, ordered, said, table

RUN = Run(
    "big.gguf", {1: 0.1, 2: 0.12}, 24, 1500, "everyday requests", 0.0, 1.0, given=False, programs=programs("lead")
)
GOOD = Tried("good one.gguf", "", "the same", {1: 0.002}, Expected(2.14, 0.1, 10.0, 2.5, 0.71, 1.2))
FAIR = Tried("fair.gguf", "", "3 of 9 tokens differ", {1: 0.001}, Expected(1.4, 0.1, 10.0, 1.4, 0.5))
USELESS = Tried("useless.gguf", "", "the same", {1: 0.2}, Expected(0.99, 0.01, 10.0, 0.97, 0.1))
BESIDE_ONLY = Tried("beside.gguf", "", "the same", {1: 0.01}, Expected(0.98, 0.1, 10.0, 1.8, 0.5))
OTHER = Tried("other.gguf", "it has another vocabulary: 5 of 9 tokens differ")


def printed(*tried: Tried) -> str:
    out = StringIO()
    Console(file=out, width=160).print(table(tried))
    return out.getvalue()


def test_best_first_and_what_cannot_be_used_last() -> None:
    assert ordered([OTHER, USELESS, FAIR, GOOD]) == [GOOD, FAIR, USELESS, OTHER]


def test_the_best_is_that_of_the_better_way_to_use_it() -> None:
    found = ordered([FAIR, BESIDE_ONLY])
    assert found == [BESIDE_ONLY, FAIR]
    text = "\n".join(said(RUN, found))
    assert "A back with it would make answers slower" in text
    assert "    python -m lead -m big.gguf -md beside.gguf" in text and "-m back" not in text


def test_the_table_says_all_figures() -> None:
    text = printed(GOOD, OTHER)
    for words in (
        "good one.gguf",
        "the same",
        "71%",
        "2 ms",
        "2.14 x (± 0.10)",
        "2.50 x",
        "other.gguf",
        "cannot draft",
    ):
        assert words in text


def test_what_was_measured_and_assumed_and_what_to_run() -> None:
    text = "\n".join(said(RUN, [GOOD, OTHER]))
    assert "other.gguf cannot draft: it has another vocabulary: 5 of 9 tokens differ\n" in text
    assert "Measured: big.gguf takes 1:100,2:120 (rows:ms), 10.0 tokens/s alone. It gave 24 answers" in text
    assert "to everyday requests, 1500 tokens in all, greedy" in text
    assert "Assumed: the draft models are as fast on their own machine as they are on this one" in text
    assert "a round trip takes 1 ms" in text and "Without any draft model they give 1.20 x." in text
    assert "    python -m lead -m big.gguf --host 0.0.0.0 -md 'good one.gguf'\n" in text
    assert "    python -m back -m 'good one.gguf' --lead HOST:5556 --token TOKEN\n" in text
    assert "-md" not in "\n".join(said(RUN, [FAIR])), "it would give no more"
    assert "cost what --draft-ms says" in "\n".join(said(replace(RUN, given=True), [GOOD]))
    assert GOOD.expected is not None
    slow = replace(GOOD, expected=replace(GOOD.expected, together=Together({1: 1.1, 2: 1.2}, {1: 1.3})))
    text = "\n".join(said(replace(RUN, same_machine=True), [slow]))
    assert "how much both slow each other down was measured" in text
    assert "a pass of the target takes 1.10 times as long, and one of good one.gguf 1.30 times." in text


def test_where_none_helps_or_none_can_draft() -> None:
    assert list(said(RUN, [USELESS, OTHER]))[-1] == (
        "None of these helps: all stay below 1.03 x what the lead gives without them. The lead would let them rest. "
        "Run it alone: python -m lead -m big.gguf"
    )
    assert list(said(RUN, [OTHER]))[-1].startswith("None of these can draft for it. Use a draft of the same family")


def test_the_commands_run_models_as_they_were_measured() -> None:
    run = replace(RUN, target="shipped", programs=programs("/usr/bin/duo-lead"), flags=("-t", "3", "-ngl", "all"))
    lines = list(said(run, [replace(GOOD, model="shipped")]))
    assert "    duo-lead -t 3 -ngl all --host 0.0.0.0 -md shipped" in lines
    assert "    duo-back -t 3 -ngl all --lead HOST:5556 --token TOKEN" in lines
    assert "    duo-back --lead HOST:5556 --token TOKEN" in said(
        replace(run, given=True), [replace(GOOD, model="shipped")]
    )
    assert list(said(run, [USELESS]))[-1].endswith("Run it alone: duo-lead -t 3 -ngl all")


def test_brackets_in_names_are_shown() -> None:
    """rich would take them for styles: [v1] vanished, and [/v1] ended the program."""
    named = replace(GOOD, model="models[/v1]/draft[q8].gguf")
    other = replace(OTHER, model="[red]other.gguf")
    shown = printed(named, other)
    assert "models[/v1]/draft[q8].gguf" in shown and "[red]other.gguf" in shown
