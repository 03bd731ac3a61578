"""Chat with a lead from a terminal, or pipe questions through it.

One file that needs nothing of this project beside it, only `requests` and `rich`: copy it to the machine you sit at.
On a terminal it is a conversation. With standard input or output redirected it is a filter: a line in is a question,
its answer goes to standard output as plain text, and everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
from rich.console import Console
from rich.table import Table
from rich.text import Text

DEFAULT_URL = "http://127.0.0.1:5555"
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 600.0
"""An answer may wait for others before it, so the first word may take long."""
LOADING_POLL_SECONDS = 0.5

COMMANDS = """\
:new             forget the conversation
:stats           speed and accepted guesses of the last answer and of the chat, and the backs
:help            this list
:q :quit :exit   leave; Ctrl-D does too
Ctrl-C           stops an answer, and leaves at the prompt"""

# What a model says must not steer the terminal.
_NO_CONTROL = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


class ChatError(Exception):
    """Something that keeps an answer from coming; the message is one line for the person."""


class Lead:
    """A lead's HTTP side, as far as a chat needs it."""

    def __init__(self, url: str, note: Callable[[str], None]) -> None:
        url = url if "://" in url else f"http://{url}"
        self.url = url.rstrip("/").removesuffix("/v1")
        self._note = note
        self._session = requests.Session()
        # A lead is on this machine or near it: a proxy that is set for the web would only be in the way.
        self._session.trust_env = False

    def wait_until_ready(self) -> None:
        """Return when the lead has loaded its model. Raises ChatError where there is no lead."""
        told = False
        while (response := self._call("GET", "/health")).status_code == 503:
            if not told:
                self._note(f"the lead at {self.url} is loading its model, waiting for it")
                told = True
            time.sleep(LOADING_POLL_SECONDS)
        if response.status_code != 200:
            raise ChatError(f"what answers at {self.url} is not a lead (HTTP status {response.status_code})")

    def get(self, path: str) -> list[dict[str, Any]]:
        """The list that the lead has under `path`."""
        response = self._call("GET", path)
        if response.status_code != 200:
            raise ChatError(_error(response)[0])
        try:
            data: list[dict[str, Any]] = response.json()["data"]
        except (ValueError, KeyError, TypeError):
            raise ChatError(f"what answers at {self.url} is not a lead") from None
        return data

    def answer(self, body: dict[str, Any], write: Callable[[str], None]) -> dict[str, Any]:
        """Ask, hand the text to `write` as it comes, and return the answer's `finish_reason` and `timings`."""
        while True:
            with self._call("POST", "/v1/chat/completions", body) as response:
                if response.status_code == 200:
                    return _read(response, write)
                message, code = _error(response)
            if code != "model_loading":
                raise ChatError(message)
            # The lead was started again under a running chat.
            self.wait_until_ready()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        try:
            timeout = (CONNECT_SECONDS, SILENCE_SECONDS)
            return self._session.request(method, self.url + path, json=body, timeout=timeout, stream=body is not None)
        except requests.ReadTimeout:
            raise ChatError(f"the lead at {self.url} has been silent for {SILENCE_SECONDS:.0f} s") from None
        except requests.ConnectionError:
            raise ChatError(
                f"no lead at {self.url}: start one there with duo-lead, or name another address (chat.py URL)"
            ) from None
        except requests.RequestException as error:
            raise ChatError(f"{self.url}: {error}") from None


def _read(response: requests.Response, write: Callable[[str], None]) -> dict[str, Any]:
    figures: dict[str, Any] = {"finish_reason": None, "timings": {}}
    for event in _events(response):
        if "error" in event:
            raise ChatError(f"the lead ended the answer: {event['error']['message']}")
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                write(text)
            figures["finish_reason"] = choice["finish_reason"] or figures["finish_reason"]
        figures["timings"] = event.get("timings") or figures["timings"]
    return figures


def _events(response: requests.Response) -> Iterator[dict[str, Any]]:
    """Server-sent events up to [DONE]; a stream that ends before it has been cut."""
    # A line that is no JSON has been cut as well.
    with contextlib.suppress(requests.RequestException, ValueError):
        for line in response.iter_lines():
            if line.startswith(b"data:"):
                data = line.removeprefix(b"data:").decode("utf-8").strip()
                if data == "[DONE]":
                    return
                yield json.loads(data)
    raise ChatError("the connection to the lead broke in the middle of the answer")


def _error(response: requests.Response) -> tuple[str, str | None]:
    """Message and code of a response that is not the one that was asked for."""
    try:
        error = response.json()["error"]
        return str(error["message"]), error.get("code")
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return f"the lead at {response.url} answered with HTTP status {response.status_code}", None


@dataclass
class Figures:
    """What was generated, and how fast: of one answer, or summed over a chat."""

    answers: int = 0
    prompt: int = 0
    prompt_ms: float = 0.0
    tokens: int = 0
    decode_ms: float = 0.0
    drafted: int = 0
    accepted: int = 0

    def add(self, other: Figures) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @classmethod
    def of(cls, timings: dict[str, Any]) -> Figures:
        return cls(
            answers=1,
            prompt=timings.get("prompt_n", 0),
            prompt_ms=timings.get("prompt_ms", 0.0),
            tokens=timings.get("predicted_n", 0),
            decode_ms=timings.get("predicted_ms", 0.0),
            drafted=timings.get("draft_n", 0),
            accepted=timings.get("draft_n_accepted", 0),
        )

    def speed(self) -> str:
        return _per_second(self.tokens, self.decode_ms)

    def acceptance(self) -> str:
        if not self.drafted:
            return "no guesses"
        return f"{self.accepted} of {self.drafted} guesses accepted ({self.accepted / self.drafted:.0%})"


def _per_second(count: int, ms: float) -> str:
    return f"{1e3 * count / ms:.1f} tokens/s" if ms > 0 else "- tokens/s"


@dataclass
class Chat:
    """A conversation, and what its commands show."""

    lead: Lead
    options: argparse.Namespace
    console: Console
    turns: list[dict[str, str]] = field(default_factory=list)
    last: Figures | None = None
    total: Figures = field(default_factory=Figures)

    def talk(self) -> int:
        """On a terminal: until the person leaves."""
        self.lead.wait_until_ready()
        model = self.lead.get("/v1/models")[0]["id"]
        self.note(f"talking to {model} at {self.lead.url}; :help lists the commands")
        while True:
            try:
                line = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return 0
            try:
                if line.startswith(":"):
                    if self.command(line):
                        return 0
                elif line:
                    self.note(self.ask(line, lambda text: text.translate(_NO_CONTROL)))
            except ChatError as error:
                self.console.print(Text(str(error), style="red"), soft_wrap=True)
            except KeyboardInterrupt:
                self.note("stopped")

    def filter(self) -> int:
        """Redirected: until the questions end."""
        self.lead.wait_until_ready()
        for line in map(str.strip, sys.stdin):
            if line.startswith(":"):
                if self.command(line):
                    break
            elif line:
                self.ask(line, str)
        return 0

    def ask(self, question: str, shown: Callable[[str], str]) -> str:
        """Put a question and print the answer as it comes; returns a line about it."""
        options = self.options
        asked = {"role": "user", "content": question}
        system = [{"role": "system", "content": options.system}] if options.system else []
        body = {"messages": [*system, *self.turns, asked], "stream": True}
        for name in ("temperature", "seed", "max_tokens"):
            if (value := getattr(options, name)) is not None:
                body[name] = value
        parts: list[str] = []

        def write(text: str) -> None:
            parts.append(text)
            sys.stdout.write(shown(text))
            sys.stdout.flush()

        try:
            figures = self.lead.answer(body, write)
            self._end(asked, parts)
        except KeyboardInterrupt:
            # What was said stays said: the person stopped because it was enough.
            self._end(asked, parts)
            raise
        except ChatError:
            # An answer that broke off is asked for again, so the conversation is as it was before.
            if parts:
                print(flush=True)
            raise
        self.last = Figures.of(figures["timings"])
        self.total.add(self.last)
        cut = " · cut off at the limit" if figures["finish_reason"] == "length" else ""
        return f"{self.last.tokens} tokens · {self.last.speed()} · {self.last.acceptance()}{cut}"

    def _end(self, asked: dict[str, str], parts: list[str]) -> None:
        print(flush=True)
        self.turns += [asked, {"role": "assistant", "content": "".join(parts)}]

    def command(self, line: str) -> bool:
        """Do what a line that begins with a colon says; True to leave."""
        match line.lower():
            case ":q" | ":quit" | ":exit":
                return True
            case ":new":
                self.turns.clear()
                self.note("a new conversation")
            case ":stats":
                self.stats()
            case ":help":
                self.note(COMMANDS)
            case _:
                raise ChatError(f"no command {line}: :help lists them")
        return False

    def stats(self) -> None:
        if self.last is None:
            self.note("no answer yet")
        else:
            table = _table("", "last answer", "this chat")
            for name, show in _STATS:
                table.add_row(name, show(self.last), show(self.total))
            self.console.print(table)
        backs = self.lead.get("/backs")
        if not backs:
            self.note("no back is connected")
            return
        table = _table("back", "model", "state", "round trip", "guesses", "accepted")
        for back in backs:
            trip = back["round_trip_ms"]
            shown = "-" if trip is None else f"{trip:.1f} ms"
            cells = (back["name"], back["model"], back["state"], shown, back["drafted"], back["accepted"])
            table.add_row(*(Text(str(cell)) for cell in cells))
        self.console.print(table)

    def note(self, text: str) -> None:
        self.console.print(Text(text, style="dim"), soft_wrap=True)


_STATS: Sequence[tuple[str, Callable[[Figures], str]]] = (
    ("answers", lambda figures: str(figures.answers)),
    ("prompt read", lambda figures: f"{figures.prompt} tokens, {_per_second(figures.prompt, figures.prompt_ms)}"),
    ("generated", lambda figures: f"{figures.tokens} tokens, {figures.speed()}"),
    ("guesses", Figures.acceptance),
)


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="chat.py",
        description="Chat with a lead. With standard input redirected, each line of it is a question, and the answers "
        "go to standard output.",
        epilog=f"in the chat:\n{COMMANDS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", nargs="?", default=DEFAULT_URL, help="the lead's (default %(default)s)")
    parser.add_argument("--system", metavar="TEXT", help="system message at the head of every conversation")
    parser.add_argument("--temperature", metavar="T", type=float, help="0 is greedy (default: the lead's, 0.8)")
    parser.add_argument("--seed", metavar="N", type=int, help="the same answer each time (default: a random one)")
    parser.add_argument("--max-tokens", metavar="N", type=int, help="end an answer there (default: no limit)")
    options = parser.parse_args(argv)

    for stream in (sys.stdin, sys.stdout):
        # A character that the terminal's encoding lacks is no reason to end.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    console = Console(stderr=not interactive, highlight=False)
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  gives input() editing and history where there is one
    chat = Chat(Lead(options.url, lambda text: chat.note(text)), options, console)
    try:
        return chat.talk() if interactive else chat.filter()
    except ChatError as error:
        print(f"chat.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the answers has gone. Python would complain once more on closing standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
