"""What chat.py shows of a lead besides text: thinking, calls, what backs gain; and how it finds the lead."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import chat
from bench.harness.terminal import Terminal
from tests.support.chat import CHAT, pipe
from tests.support.fake_lead import FakeLead, serving

THOUGHTS = [{"reasoning_content": "Let me\nsee\x1b[2J. "}, {"reasoning_content": "<b>It</b> is two."}]
SPEEDUP = {
    "times": 2.1, "error": 0.08, "with_backs": 41.2, "alone": 19.6, "state": "with", "trial_in_tokens": None,
}  # fmt: skip
SAYS = "resting: 19.6 tokens/s without backs, 18.9 with them; next trial in 180 tokens"
RESTING = {**SPEEDUP, "times": 0.964, "error": 0.02, "with_backs": 18.9, "state": "resting", "says": SAYS}


@pytest.fixture
def fake() -> FakeLead:
    return FakeLead()


@pytest.fixture
def address(fake: FakeLead) -> Iterator[str]:
    with serving(fake) as url:
        yield url


@pytest.fixture
def here(address: str, state: Path) -> Iterator[Terminal]:
    """chat.py on a terminal, at the prompt."""
    with Terminal([str(CHAT), address], {"XDG_STATE_HOME": str(state)}, columns=160, lines=24) as terminal:
        at_the_prompt(terminal)
        yield terminal


def at_the_prompt(here: Terminal, text: str = "") -> str:
    return here.until(lambda screen: text in screen and screen.rstrip().endswith("\n>"), f"{text!r} and the prompt")


def lines(screen: str) -> list[str]:
    return [line for line in screen.splitlines() if line]


# -- Thinking ------------------------------------------------------------------------------------------------------


def test_thinking_is_folded_when_it_has_ended(fake: FakeLead, here: Terminal) -> None:
    fake.deltas, fake.thinking = [*THOUGHTS, {"content": "Two."}], 4
    here.type("1+1?\n")
    screen = at_the_prompt(here, "tokens/s")
    assert re.search(
        r"\n> 1\+1\?\nthought for \d+\.\d s; :thoughts shows it\nTwo\.\n"
        r"3\.0 tokens/s · 6 tokens, 4 of them thinking · 3 of 5 guesses accepted \(60%\)\n>",
        screen,
    ), screen
    here.type(":thou\n")
    screen = at_the_prompt(here, "It")
    assert lines(screen)[-3:] == ["Let me", "see[2J. <b>It</b> is two.", ">"]
    here.type("two?\n")
    at_the_prompt(here, "two?")
    # Thinking is no part of the conversation.
    assert [turn["content"] for turn in fake.asked[1]["messages"]] == ["1+1?", "Two.", "two?"]


def test_no_thinking_to_show(here: Terminal) -> None:
    here.type(":thoughts\n")
    at_the_prompt(here, "no thinking before the last answer")


def test_thinking_while_it_goes_on() -> None:
    """Its last lines are shown dim, below what was there. They go when it has ended."""
    import io

    from rich.console import Console

    out = io.StringIO()
    answer = chat.StyledAnswer(Console(file=out, width=40, height=12, force_terminal=True, color_system="standard"))
    answer.think("".join(f"thought {number}\n" for number in range(50)) + "the last \x1b[2J")
    shown = answer.last_thoughts()
    assert shown.plain.split("\n")[-2:] == ["thought 49", "the last [2J"]
    assert 1 < len(shown.plain.split("\n")) <= 10
    answer.write("Two.")
    answer.think("again")
    answer.write("Three.")
    answer.end()
    text = out.getvalue()
    assert "\x1b[2;3m" in text and "\x1b[2J" not in text
    # Folded twice, and the cursor is visible again.
    assert text.count(":thoughts shows it") == 2 and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert answer.text == "Two.Three." and text.index("Two.") < text.index("Three.")


def test_thinking_without_colours(fake: FakeLead, address: str, state: Path) -> None:
    fake.deltas = [*THOUGHTS, {"content": "Two."}]
    with Terminal([str(CHAT), address, "--plain"], {"XDG_STATE_HOME": str(state)}) as here:
        at_the_prompt(here)
        here.type("1+1?\n")
        screen = at_the_prompt(here, "tokens/s")
    assert "see" not in screen and ":thoughts shows it\nTwo.\n3.0" in screen


# -- Calls ---------------------------------------------------------------------------------------------------------


def test_calls_are_shown(fake: FakeLead, here: Terminal) -> None:
    fake.deltas = [
        {"content": None, "tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"at":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ' "<b>"}'}}]},
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "stop", "arguments": "{}"}}]},
    ]
    fake.finish_reason = "tool_calls"
    here.type("look!\n")
    screen = at_the_prompt(here, "tokens/s")
    assert '> look!\n[calls look({"at": "<b>"})]\n\n[calls stop({})]\n3.0 tokens/s' in screen


def test_calls_behind_a_pipe(fake: FakeLead, address: str) -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    fake.deltas = [{"content": "Wait."}, {"tool_calls": [call]}]
    assert pipe(address, questions="one\n").stdout == "Wait.\n[calls f({})]\n\n"


# -- What backs gain -----------------------------------------------------------------------------------------------


def test_the_speed_up_comes_first(fake: FakeLead, here: Terminal) -> None:
    fake.timings["speedup"] = {"times": 2.1, "error": 0.08}
    fake.speedup = SPEEDUP
    here.type("one\n")
    screen = at_the_prompt(here, "tokens/s")
    assert lines(screen)[-2].startswith("2.1 x with backs (± 0.1) · 3.0 tokens/s · 6 tokens · 3 of 5 guesses")
    here.type(":stats\n")
    screen = at_the_prompt(here, "no back is connected")
    assert "> :stats\n2.1 x with backs (± 0.1): 41.2 tokens/s with them, 19.6 without\n" in screen


def test_why_backs_rest(fake: FakeLead, here: Terminal) -> None:
    fake.timings["speedup"], fake.speedup = {"times": 0.964, "error": 0.02}, RESTING
    here.type("one\n")
    screen = at_the_prompt(here, "resting")
    assert lines(screen)[-3].startswith("0.96 x with backs (± 0.02) · 3.0 tokens/s")
    assert lines(screen)[-2] == SAYS
    here.type(":stats\n")
    assert at_the_prompt(here, "no back is connected").count(SAYS) == 2


@pytest.mark.parametrize("speedup", [None, {"times": None, "error": None, "state": "measuring"}])
def test_what_is_not_known_is_not_said(fake: FakeLead, here: Terminal, speedup: dict[str, object] | None) -> None:
    fake.timings["speedup"], fake.speedup = None, speedup
    here.type("one\n")
    screen = at_the_prompt(here, "tokens/s")
    here.type(":stats\n")
    screen = at_the_prompt(here, "no back is connected")
    assert "x with backs" not in screen and "\n3.0 tokens/s" in screen


# -- Where the lead is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("192.168.1.20", "http://192.168.1.20:5555"),
        ("attic", "http://attic:5555"),
        ("attic.local:8080/", "http://attic.local:8080"),
        ("::1", "http://[::1]:5555"),
        ("[fe80::1]", "http://[fe80::1]:5555"),
        ("[::1]:80/v1", "http://[::1]:80"),
        ("https://attic", "https://attic:5555"),
        ("https://attic:443/v1/", "https://attic:443"),
        ("http://attic/duo/v1", "http://attic:5555/duo"),
        ("http://attic:5555/#a-conversation", "http://attic:5555"),
        ("attic/v1/chat/completions", "http://attic:5555"),
        ("http://attic/duo/docs?x=1", "http://attic:5555/duo"),
        ("fe80::1%eth0", "http://[fe80::1%eth0]:5555"),
        (" attic\n", "http://attic:5555"),
        ("8080", "http://127.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        (chat.DEFAULT_URL, "http://127.0.0.1:5555"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert chat.Lead(address, print).url == url


NO_ADDRESSES = (
    "", "http://", "attic:port", "ftp://attic", "[::1", "::1]", "attic:99999", "attic:0", "a b", "*", "a..b",
    "http:/attic",
)  # fmt: skip


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_no_addresses(address: str) -> None:
    with pytest.raises(chat.ChatError, match="is no address of a lead: give HOST, HOST:PORT or a URL such as http"):
        chat.Lead(address, print)


def test_no_address_is_one_line() -> None:
    run = pipe("attic:port")
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert run.stderr.startswith("chat.py: 'attic:port' is no address of a lead: ")


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (socket.gaierror(-2, "Name or service not known"), "there is no machine called attic: check the name"),
        (ConnectionRefusedError(), "no lead at http://attic:5555: start one there"),
        (TimeoutError(), "nothing answers at http://attic:5555: check the address, and the firewall"),
        (OSError(101, "Network is unreachable"), "no way to http://attic:5555: network is unreachable; check"),
    ],
)
def test_why_there_is_no_lead(monkeypatch: pytest.MonkeyPatch, failure: OSError, says: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(chat.ChatError, match=re.escape(says)):
        chat.Lead("attic", print).wait_until_ready()


def test_tls_where_there_is_none(address: str) -> None:
    run = pipe(address.replace("http", "https"), questions="one\n")
    wrong = f"chat.py: what listens at {address.replace('http', 'https')} does not speak TLS: try {address}\n"
    assert (run.returncode, run.stderr) == (1, wrong)


# -- Keys ----------------------------------------------------------------------------------------------------------


def test_another_key_while_it_runs(fake: FakeLead, here: Terminal, state: Path) -> None:
    """It is neither in the history nor, if it is asked for, on the screen."""
    fake.key = "the-secret"
    here.type("one\n")
    at_the_prompt(here, "wants a key: give its own with --api-key KEY, in DUO_API_KEY, or with :key")
    here.type(":key wrong-secret\n")
    at_the_prompt(here, "does not take this key")
    here.type(":KEY ü\n")
    at_the_prompt(here, ":key: a key is printable ASCII without spaces around it")
    here.type(":k\n")
    here.until(lambda screen: screen.endswith("key:") or "\nkey:" in screen, "the question for the key")
    here.type("the-secret\n")
    screen = at_the_prompt(here, "talking to fake at")
    assert "the-secret" not in screen
    here.type("one\n")
    at_the_prompt(here, "tokens/s")
    here.type(":q\n")
    here.process.wait()
    history = (state / "duo" / "chat_history").read_text("utf-8")
    assert "secret" not in history and ":k" not in history.lower() and "one" in history


def test_a_lead_that_wants_a_key_from_the_start(fake: FakeLead, address: str, state: Path) -> None:
    fake.key = "right"
    with Terminal([str(CHAT), address], {"XDG_STATE_HOME": str(state), "DUO_API_KEY": ""}) as here:
        at_the_prompt(here, "or with :key")
        here.type(":key right\n")
        at_the_prompt(here, "talking to fake at")


def test_a_key_behind_a_pipe(fake: FakeLead, address: str) -> None:
    fake.key = "right"
    assert pipe(address, questions=":key right\none\n").stdout == "Hello\n"
    run = pipe(address, questions=":key\n")
    assert (run.returncode, run.stderr) == (1, "chat.py: :key needs a key\n")


# -- Habits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed", "ours"), [("/bye", ":quit"), ("/?", ":help"), ("/set parameter seed 1", ":system,")])
def test_habits_of_other_programs(fake: FakeLead, here: Terminal, typed: str, ours: str) -> None:
    here.type(f"{typed}\n")
    at_the_prompt(here, f"{typed.split()[0]} is {ours}")
    assert fake.asked == []


def test_every_command_that_a_hint_names_exists() -> None:
    named = {command for hint in chat.ELSEWHERE.values() for command in re.findall(r":[a-z]+", hint)}
    assert named <= set(chat.NAMES)
    assert {f":{name}" for name in re.findall(r"^:(\w+)", chat.COMMANDS, re.MULTILINE)} <= set(chat.NAMES)
    assert all(name in chat.COMMANDS for name in chat.NAMES)
    here = Path(chat.__file__).read_text("utf-8")
    assert "python -m lead" in here and "duo-lead" not in here


def test_a_question_may_begin_with_a_slash(fake: FakeLead, address: str) -> None:
    assert pipe(address, questions="/bye\n/etc/hosts?\n").stdout == "Hello\n" * 2


def test_names_of_the_lead_do_not_steer_the_terminal(fake: FakeLead, here: Terminal) -> None:
    fake.speedup = {**RESTING, "says": "resting\x1b]0;title\x07"}
    here.type("one\n")
    at_the_prompt(here, "resting]0;title")
