"""Chat with a lead from a terminal, or pipe questions through it.

This one file needs only `requests` and `rich`, so you can copy it to the machine you sit at.
On a terminal it is a conversation. With standard input or output redirected it is a filter. Each line of input is then
a question. Answers go to standard output as plain text, everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import io
import json
import math
import os
import re
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

PORT = 5555
DEFAULT_URL = f"http://127.0.0.1:{PORT}"
KEY_VARIABLE = "DUO_API_KEY"
PROGRAM = "duo-chat" if Path(sys.argv[0]).stem == "duo-chat" else "chat.py"
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 600.0
"""The first word may take long, because other answers come first."""
LOADING_POLL_SECONDS = 0.5
THOUGHT_LINES, THOUGHT_CHARACTERS = 10, 4000
"""Of thinking that goes on, at most so much is shown."""
THOUGHT_STYLE = "dim italic"
CONTEXT_LINES = 40
"""So many lines before a line of code decide its colours: it may be within a string."""
LINE_CHARACTERS = 1000
"""So many characters before a word decide its style."""
HISTORY_LINES = 1000

COMMANDS = """\
:retry             ask the last question again
:new               forget the conversation
:tokens            show the last answer, with tokens that a back guessed in green
:thoughts          show what the model thought before the last answer
:stats             show what backs gain, the speed of the last answer and of the chat, and the backs
:system TEXT       use this system message from now on
:temperature T     use this temperature; 0 is greedy
:seed N            use this seed; it gives the same answer each time
:save FILE         write the conversation as JSON
:load FILE         continue a saved conversation
:key KEY           use this API key from now on; without KEY it is asked for, and not shown
:help              show this list
:quit :exit        leave, as Ctrl-D does
:system, :temperature and :seed show their value if nothing follows, and forget it if `none` follows.
Commands may be shortened (:q, :temp). A line that ends with \\ continues on the next line, and so does all text
between two lines of \"\"\". Ctrl-C stops an answer; at the prompt it leaves."""

# The text of a model must not control the terminal.
_NO_CONTROL = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


def clean(text: str) -> str:
    """The text without control characters, but with line breaks and tabs."""
    return text.translate(_NO_CONTROL)


class ChatError(Exception):
    """No answer comes. The message is one line for the user."""


class KeyNeededError(ChatError):
    """The lead wants another key."""


class Lead:
    """A client of a lead's HTTP side.

    `address`: a URL, or a host with a port or without. `ca`: a file with the certificate of the lead's authority. None
    means the authorities that this machine trusts.
    """

    def __init__(
        self, address: str, note: Callable[[str], None], api_key: str | None = None, ca: str | None = None
    ) -> None:
        self.url = _url(address)
        self._note = note
        self._session = requests.Session()
        # A lead is on this machine or near it. A proxy for the web would be in the way.
        self._session.trust_env = False
        self._has_key = False
        if api_key:
            self.use_key(api_key)
        if ca is not None:
            self._session.verify = ca

    def use_key(self, key: str) -> None:
        self._session.headers["Authorization"] = f"Bearer {key}"
        self._has_key = True

    def wait_until_ready(self) -> None:
        """Wait until the lead has loaded its model. Raises ChatError if there is no lead."""
        told = False
        while (response := self._call("GET", "/health")).status_code == 503:
            if not told:
                self._note(f"the lead at {self.url} is loading its model, waiting for it")
                told = True
            time.sleep(LOADING_POLL_SECONDS)
        if response.status_code != 200:
            other = f"what answers at {self.url} is not a lead (HTTP status {response.status_code})"
            raise ChatError(_error(response, other)[0])

    def get(self, path: str) -> dict[str, Any]:
        """Fetch an object with a list `data`. Raises ChatError."""
        response = self._call("GET", path)
        if response.status_code != 200:
            raise ChatError(_error(response)[0])
        with contextlib.suppress(ValueError, KeyError, TypeError):
            answer: dict[str, Any] = response.json()
            if isinstance(answer["data"], list):
                return answer
        raise ChatError(f"what answers at {self.url} is not a lead")

    def answer(self, body: dict[str, Any], answer: Answer) -> dict[str, Any]:
        """Ask, pass the answer on as it comes, return `finish_reason`, `timings` and `usage`. Raises ChatError."""
        while True:
            with self._call("POST", "/v1/chat/completions", body) as response:
                if response.status_code == 200:
                    with _as_a_lead_says_it(self.url):
                        return _read(response, answer)
                message, code = _error(response)
            if code != "model_loading":
                raise ChatError(message)
            # The lead was restarted during this chat.
            self.wait_until_ready()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        try:
            timeout = (CONNECT_SECONDS, SILENCE_SECONDS)
            response = self._session.request(
                method, self.url + path, json=body, timeout=timeout, stream=body is not None
            )
        except requests.ReadTimeout:
            raise ChatError(f"the lead at {self.url} has been silent for {SILENCE_SECONDS:.0f} s") from None
        except requests.exceptions.SSLError as error:
            raise ChatError(self._why_no_answer(_innermost(error))) from None
        except requests.ConnectionError:
            raise ChatError(self._why_no_answer()) from None
        except (requests.RequestException, ValueError) as error:  # the latter: the URL cannot be one
            raise ChatError(f"{self.url}: {error}") from None
        if response.status_code == 401:
            wrong = "does not take this key" if self._has_key else "wants a key"
            raise KeyNeededError(
                f"the lead at {self.url} {wrong}: give its own with --api-key KEY, in {KEY_VARIABLE}, or with :key"
            )
        return response

    def _why_no_answer(self, distrust: str = "") -> str:
        """Say why there was no response. `distrust`: what is wrong with TLS."""
        where = urlsplit(self.url)
        try:
            connection = socket.create_connection((where.hostname, where.port), CONNECT_SECONDS)
        except ConnectionRefusedError:
            return f"no lead at {self.url}: start one there (python -m lead), or name another address ({PROGRAM} HOST)"
        except TimeoutError:
            return f"nothing answers at {self.url}: check the address, and the firewall of that machine"
        except (socket.gaierror, UnicodeError):
            return f"there is no machine called {where.hostname}: check the name, or use its address"
        except OSError as error:
            return f"no way to {self.url}: {(error.strerror or str(error)).lower()}; check the address and the network"
        with connection:
            tls = _speaks_tls(connection)
        if tls and where.scheme == "http":
            return f"what listens at {self.url} speaks TLS: try {self.url.replace('http', 'https', 1)}"
        if distrust and not tls:
            return f"what listens at {self.url} does not speak TLS: try {self.url.replace('https', 'http', 1)}"
        if distrust:
            return (
                f"no trusted connection to {self.url}: {distrust}; --tls-ca FILE names the authority that signed the "
                "lead's certificate"
            )
        return (
            f"what listens at {self.url} broke the connection: name the lead's port for clients ({PROGRAM} HOST:PORT), "
            "or try again"
        )


def _url(address: str) -> str:
    """The URL of the lead at this address. A number is a port of this machine. Raises ChatError.

    Of an address copied from a browser or another client, the page and the endpoint are left out.
    """
    given = address.strip()
    if re.fullmatch(r":?\d+", given):
        given = f"127.0.0.1:{given.removeprefix(':')}"
    bare = given.count(":") > 1 and not set("[]/") & set(given)  # IPv6
    url = f"http://[{given}]" if bare else given if "://" in given else f"http://{given}"
    with contextlib.suppress(ValueError):
        where = urlsplit(url)
        host, port = where.hostname or "", PORT if where.port is None else where.port
        if where.scheme in _SCHEMES and port and host not in _SCHEMES and _HOST.fullmatch(host):
            host.partition("%")[0].encode("idna")  # raises UnicodeError for what cannot be a name
            netloc = where.netloc if where.port else f"{where.netloc.rstrip(':')}:{port}"
            return f"{where.scheme}://{netloc}{_PAGES.split(where.path)[0].rstrip('/')}"
    raise ChatError(f"{address!r} is no address of a lead: give HOST, HOST:PORT or a URL such as {DEFAULT_URL}")


_SCHEMES = ("http", "https")
_HOST = re.compile(r"[\w.:%-]+")
_PAGES = re.compile(r"/(?:v1|docs)(?:/|$)")


def _speaks_tls(connection: socket.socket) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The other side is only probed: it gets no data, so it may be anyone.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        context.wrap_socket(connection).close()
    except OSError:
        return False
    return True


def _innermost(error: BaseException) -> str:
    """The cause that three libraries have wrapped."""
    while isinstance(cause := error.__cause__ or error.__context__, Exception):
        error = cause
    return str(getattr(error, "verify_message", None) or getattr(error, "reason", None) or error)


def _read(response: requests.Response, answer: Answer) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    calls: dict[int, list[str]] = {}
    for event in _events(response):
        if "error" in event:
            raise ChatError(f"the lead ended the answer: {event['error']['message']}")
        for choice in event["choices"]:
            delta = choice["delta"]
            if thought := delta.get("reasoning_content"):
                answer.think(thought)
            if text := delta.get("content"):
                answer.write(text)
                answer.guessed += [(str(text), str(back)) for text, back in choice.get("accepted") or ()]
            for call in delta.get("tool_calls") or ():
                # The arguments may come in pieces.
                function = call.get("function") or {}
                known = calls.setdefault(call.get("index", 0), ["", ""])
                known[0] += function.get("name") or ""
                known[1] += function.get("arguments") or ""
            figures["finish_reason"] = choice.get("finish_reason") or figures.get("finish_reason")
        figures |= {name: event[name] for name in ("timings", "usage") if event.get(name)}
    for name, arguments in calls.values():
        answer.write(f"{chr(10) if answer.text else ''}[calls {name}({arguments})]\n")
    return figures


@contextlib.contextmanager
def _as_a_lead_says_it(url: str) -> Iterator[None]:
    """Within it, what has not the shape of a lead's answers is a ChatError."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError):
        raise ChatError(f"what answers at {url} is not a lead, or one of another version") from None


def _events(response: requests.Response) -> Iterator[dict[str, Any]]:
    """Yield server-sent events up to [DONE]. Raises ChatError if the stream ends before it."""
    # A line that is not JSON was cut too.
    with contextlib.suppress(requests.RequestException, ValueError):
        for line in response.iter_lines():
            if line.startswith(b"data:"):
                data = line.removeprefix(b"data:").decode("utf-8").strip()
                if data == "[DONE]":
                    return
                yield json.loads(data)
    raise ChatError("the connection to the lead broke in the middle of the answer")


def _error(response: requests.Response, other: str = "") -> tuple[str, str | None]:
    """Message and code of an error response. `other` is the message if the response has none."""
    try:
        error = response.json()["error"]
        return str(error["message"]), error.get("code")
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return other or f"the lead at {response.url} answered with HTTP status {response.status_code}", None


# -- Text on the screen --------------------------------------------------------------------------------------------


class Answer:
    """An answer as it comes. Keeps it, and writes it to standard output as it is.

    `cleaned`: write no control characters. `note`: says that there was thinking.
    """

    def __init__(self, cleaned: bool = False, note: Callable[[str], None] | None = None) -> None:
        self.text = self.thoughts = ""
        self.guessed: list[tuple[str, str]] = []
        """The text in pieces, each with the back that guessed it, or ""."""
        self._cleaned, self._note = cleaned, note
        self._thinks_since: float | None = None

    def think(self, text: str) -> None:
        if self._thinks_since is None:
            self._thinks_since = time.monotonic()
        self.thoughts += text

    def write(self, text: str) -> None:
        self.fold()
        self.text += text
        self._show(text)

    def fold(self) -> None:
        """One line takes the place of the thinking, if there was some."""
        if self._thinks_since is not None:
            seconds, self._thinks_since = time.monotonic() - self._thinks_since, None
            self._show_folded(f"thought for {seconds:.1f} s; :thoughts shows it")

    def end(self) -> None:
        """Show what was held back, and end the line."""
        self.fold()
        if self.text:
            print(flush=True)

    def _show(self, text: str) -> None:
        sys.stdout.write(clean(text) if self._cleaned else text)
        sys.stdout.flush()

    def _show_folded(self, line: str) -> None:
        if self._note is not None:
            self._note(f"\n{line}" if self.text else line)


class StyledAnswer(Answer):
    """Colours the Markdown of an answer. The cursor never goes back, so nothing that was shown is lost.

    Thinking is dim. Its last lines are shown while it goes on.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._styler = Styler(console.width)
        self._live: Live | None = None

    def think(self, text: str) -> None:
        super().think(text)
        if self._live is None:
            self._print(self._styler.end())
            self._live = Live(console=self._console, transient=True, get_renderable=self.last_thoughts)
            self._live.start()

    def end(self) -> None:
        self.fold()
        self._print(self._styler.end())

    def _show(self, text: str) -> None:
        self._styler.width = self._console.width
        self._print(self._styler.push(clean(text)))

    def _show_folded(self, line: str) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None
        self._print(Text(f"{line}\n", style="dim"))

    def last_thoughts(self) -> Text:
        text = Text(clean(self.thoughts[-THOUGHT_CHARACTERS:]), style=THOUGHT_STYLE)
        lines = text.wrap(self._console, self._console.width)
        return Text("\n").join(lines[-max(1, min(THOUGHT_LINES, self._console.height - 2)) :])

    def _print(self, text: Text) -> None:
        self._console.print(text, end="", soft_wrap=True)


_WIDE = r"\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff00-\uffe6\U0001f300-\U0001faff\U00020000-\U0003fffd"
"""Characters between which a line may be broken, as in Chinese."""
_WORD = re.compile(rf"[ \t]*(?:[{_WIDE}]|[^ \t\n{_WIDE}]*)[ \t]?")
"""With the spaces before it, and one after it."""
_WITHIN_WORD = re.compile(r"[^ \t\n]{2}")
_LINE = re.compile(r"[^\n]*")
_FENCE = re.compile(r"[ \t]*(?:(?:[-*+>]|\d{1,9}[.)])[ \t]+)*(`{3,}|~{3,})([^`\n]*)")
_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]")
_HEADING = re.compile(r" *#{1,6}[ \t]")
_STYLES = r"""(?ax)
    (?<![\\`])     (?P<cyan>  (`+)                    .*?  (?: (?<!`)\2(?!`)  | $)) |
    (?<![\\*_\w])  (?P<bold>  (\*\*|__) (?=[^\s*_])   .*?  (?: (?<!\s)\4      | $)) |
    (?<![\\*_\w])  (?P<italic>([*_])    (?=[^\s*_])   .*?  (?: (?<!\s)\6(?!\w)| $))"""
"""Styles within a line that still grows: what is not closed yet goes to its end."""


class Styler:
    """Colours Markdown as it comes, and breaks its lines between words.

    It adds styles, line breaks, and an indent after a break. It takes nothing away. So every character of an answer
    comes out, in order, whatever the answer is: marks of Markdown, HTML, tables, addresses of links. Lines of code are
    left to the terminal to break, because such a line can still be copied as one.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._held = ""
        """Text that waits for the end of its word, or of its line of code."""
        self._line = ""
        """What was shown of the line."""
        self._column = self._indent = 0
        self._cut = False
        """Whether the last word goes on."""
        self._fence = ""
        """The mark that began the code that the text is in."""
        self._syntax = Syntax("", "")
        self._code: deque[str] = deque(maxlen=CONTEXT_LINES)

    def push(self, text: str) -> Text:
        """Take more text. Returns what can be shown by now."""
        shown = Text()
        for at in range(0, len(text), LINE_CHARACTERS):
            self._held += text[at : at + LINE_CHARACTERS]
            while unit := self._next():
                if unit == "\n":
                    self._end_line()
                    shown.append(unit)
                else:
                    self._show(unit, shown)
                self._held = self._held[len(unit) :]
        return shown

    def end(self) -> Text:
        """Returns the rest, with the end of its line. What is pushed afterwards is another text."""
        shown = self.push("\n" if self._held or self._line else "")
        self._fence = ""
        return shown

    def _next(self) -> str:
        """A line break, a word or a line of code, if it is complete. Of what is longer than a line, a part."""
        if self._held.startswith("\n"):
            return "\n"
        whole = self._fence or _FENCE.match(self._line + self._held)
        found = (_LINE if whole else _WORD).match(self._held)
        unit = found[0] if found else ""
        if len(unit) > self.width > 0:
            return unit[: self.width]
        ended = len(unit) < len(self._held) or (not whole and unit.strip(" \t") and unit[-1] in " \t")
        return unit if ended else ""

    def _show(self, unit: str, shown: Text) -> None:
        length = cell_len(unit.expandtabs())
        if (
            not (self._fence or self._cut)
            and unit.strip()
            and length
            and self._indent < self._column > self.width - length
        ):
            # A narrow screen has no room for much indent.
            self._column = self._indent if self._indent + length <= self.width else 0
            shown.append("\n" + " " * self._column)
        shown.append_text(self._styled(self._line + unit)[len(self._line) :])
        self._line = (self._line + unit)[-LINE_CHARACTERS:]
        self._column += length
        if _ITEM.fullmatch(self._line):
            self._indent = self._column
        if self._column > self.width > 0:
            self._column = (self._column - 1) % self.width + 1  # the terminal has broken the line
        self._cut = len(unit) == self.width and _WITHIN_WORD.match(self._held, self.width - 1) is not None

    def _end_line(self) -> None:
        if self._fence:
            self._code.append(f"{self._line}\n")
            if self._closes(self._line):
                self._fence = ""
        elif opening := _FENCE.fullmatch(self._line):
            self._fence, language = opening[1], opening[2].partition(" ")[0].strip()
            self._syntax = Syntax("", language, theme="ansi_dark", tab_size=0)  # which leaves tabs as they are
            self._code.clear()
        self._line, self._column, self._indent, self._cut = "", 0, 0, False

    def _closes(self, line: str) -> bool:
        mark = line.strip(" \t>")
        return mark.startswith(self._fence) and set(mark) == {self._fence[0]}

    def _styled(self, line: str) -> Text:
        """The line so far, with what can be known of its styles."""
        if self._fence:
            before = "".join(self._code)
            if self._syntax.lexer is not None and not self._closes(line):
                coloured = self._syntax.highlight(f"{before}{line}\n")
                if coloured.plain == f"{before}{line}\n":
                    return coloured[len(before) : -1]
            return Text(line, "cyan")
        text = Text(line, "bold" if _HEADING.match(line) else "italic" if line.lstrip().startswith(">") else "")
        text.highlight_regex(_STYLES)
        return text


# -- Figures -------------------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """Token counts and times in milliseconds, of one answer or of a whole chat."""

    answers: int = 0
    thinking: int = 0
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
    def of(cls, timings: dict[str, Any], usage: dict[str, Any]) -> Figures:
        thinking = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
        return cls(1, thinking, *(timings.get(name, 0) for name in _TIMINGS))

    def speed(self) -> str:
        return _per_second(self.tokens, self.decode_ms)

    def generated(self) -> str:
        return f"{self.tokens} tokens" + (f", {self.thinking} of them thinking" if self.thinking else "")

    def acceptance(self) -> str:
        if not self.drafted:
            return "no guesses"
        return f"{self.accepted} of {self.drafted} guesses accepted ({self.accepted / self.drafted:.0%})"


_TIMINGS = ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "draft_n", "draft_n_accepted")


def _times(speedup: dict[str, Any]) -> str:
    """How many times faster the lead is with its backs, and how sure that is. Empty if it is not known."""
    times, error = speedup.get("times"), speedup.get("error")
    if times is None:
        return ""
    sure = "" if error is None else f" (± {error:.{1 if error >= 0.05 else 2}f})"
    return f"{times:.{2 if error is not None and error < 0.05 else 1}f} x with backs{sure}"


def _per_second(count: int, ms: float) -> str:
    return f"{1e3 * count / ms:.1f} tokens/s" if ms > 0 else "- tokens/s"


# -- The conversation ----------------------------------------------------------------------------------------------


Turn = dict[str, str]


@dataclass
class Chat:
    """A conversation and its commands."""

    lead: Lead
    options: argparse.Namespace
    console: Console
    new_answer: Callable[[], Answer]
    turns: list[Turn] = field(default_factory=list)
    answer: Answer | None = None
    """The last one."""
    last: Figures | None = None
    total: Figures = field(default_factory=Figures)

    def talk(self) -> int:
        """Talk on a terminal until the user leaves. Returns the exit code."""
        self.lead.wait_until_ready()
        try:
            self.greet()
        except KeyNeededError as error:
            self.complain(error)
        while True:
            try:
                line = typed()
            except (EOFError, KeyboardInterrupt):
                print()
                return 0
            try:
                if line.startswith(":"):
                    if self.command(line):
                        return 0
                elif (word := line.partition(" ")[0]) in ELSEWHERE:
                    self.note(f"{word} is {ELSEWHERE[word]} here; :help lists the commands")
                elif line:
                    self.report(self.ask(line))
            except ChatError as error:
                self.complain(error)
            except KeyboardInterrupt:
                self.note("stopped")

    def greet(self) -> None:
        with _as_a_lead_says_it(self.lead.url):
            models = [model["id"] for model in self.lead.get("/v1/models")["data"]]
            first = models[0]
        if len(models) > 1 and self.options.model is None:
            self.options.model = first
            self.note(f"this lead has {', '.join(models)}: --model chooses")
        self.note(f"talking to {self.options.model or first} at {self.lead.url}; :help lists the commands")

    def filter(self) -> int:
        """Answer the lines of standard input. Returns the exit code."""
        self.lead.wait_until_ready()
        asked = failed = 0
        try:
            for line in filter(None, map(str.strip, sys.stdin)):
                if line.startswith(":"):
                    if self.command(line):
                        break
                    continue
                asked += 1
                try:
                    self.ask(line)
                except KeyNeededError:
                    raise  # others would fail too
                except ChatError as error:
                    failed += 1
                    self.note(f"{PROGRAM}: question {asked}: {error}")
        finally:
            if failed:
                self.note(f"{PROGRAM}: {failed} of {asked} questions failed")
        return 1 if failed else 0

    def ask(self, question: str) -> str:
        """Ask, show the answer as it comes, and return a line of figures. Raises ChatError."""
        asked = {"role": "user", "content": question}
        body: dict[str, Any] = {"messages": [*self._messages(), asked], "stream": True, "accepted": True}
        body["stream_options"] = {"include_usage": True}
        for name in ("model", "temperature", "seed", "max_tokens"):
            if (value := getattr(self.options, name)) is not None:
                body[name] = value
        answer = self.new_answer()
        try:
            figures = self.lead.answer(body, answer)
        except KeyboardInterrupt:
            # The user stopped because this was enough, so the partial answer stays. Without any text, and after any
            # other error, the conversation does not change.
            if answer.text:
                self._keep(asked, answer)
            raise
        finally:
            answer.end()
        self._keep(asked, answer)
        with _as_a_lead_says_it(self.lead.url):
            timings = figures.get("timings") or {}
            last = Figures.of(timings, figures.get("usage") or {})
            self.total.add(last)
            parts = (_times(timings.get("speedup") or {}), last.speed(), last.generated(), last.acceptance())
            self.last = last
        cut = " · cut off at the limit" if figures.get("finish_reason") == "length" else ""
        return " · ".join(filter(None, parts)) + cut

    def _keep(self, asked: Turn, answer: Answer) -> None:
        self.turns += [asked, {"role": "assistant", "content": answer.text}]
        self.answer = answer

    def report(self, figures: str) -> None:
        """Say the figures of an answer, and why backs rest, if they do."""
        self.note(figures)
        with contextlib.suppress(ChatError), _as_a_lead_says_it(self.lead.url):  # the answer is there
            self._rest(self.lead.get("/backs"))

    def _rest(self, backs: dict[str, Any]) -> None:
        if (speedup := backs.get("speedup") or {}).get("state") == "resting":
            self.note(speedup.get("says") or "resting: the target is faster without backs")

    def _messages(self) -> list[Turn]:
        system = [{"role": "system", "content": self.options.system}] if self.options.system else []
        return [*system, *self.turns]

    def command(self, line: str) -> bool:
        """Run a line that begins with a colon. Returns True to leave. Raises ChatError."""
        word, _, value = line.partition(" ")
        value = value.strip()
        name = _command(word)
        if value and name not in _WITH_VALUE and name not in _SETTINGS:
            raise ChatError(f"{name} takes nothing after it, and not {value!r}")
        if name in _SETTINGS:
            self.set(name, value)
        elif name in _WITH_VALUE:
            _WITH_VALUE[name](self, value)
        elif name in _ALONE:
            _ALONE[name](self)
        return name in _LEAVE

    def new(self) -> None:
        self.turns.clear()
        self.note("a new conversation")

    def set(self, command: str, value: str) -> None:
        """Change an option, or show it if the value is empty."""
        name = command.removeprefix(":")
        if value:
            try:
                setattr(self.options, name, None if value.lower() == "none" else _SETTINGS[command](value))
            except argparse.ArgumentTypeError as error:
                raise ChatError(f"{command}: {error}") from None
        now = getattr(self.options, name)
        self.note(f"{name}: {'not set' if now is None else now}")

    def retry(self) -> None:
        if len(self.turns) < 2:
            raise ChatError("nothing has been asked that could be asked again")
        before = self.turns[-2:]
        del self.turns[-2:]
        kept = list(self.turns)
        try:
            self.report(self.ask(before[0]["content"]))
        except (ChatError, KeyboardInterrupt):
            if self.turns == kept:
                self.turns += before
            raise

    def tokens(self) -> None:
        pieces = self.answer.guessed if self.answer else []
        if not pieces:
            raise ChatError("no answer whose guesses are known: ask something first")
        shown = Text()
        for text, back in pieces:
            shown.append(clean(text), style="green" if back else "")
        self.console.print(shown, soft_wrap=True)
        backs = sorted({back for _, back in pieces if back})
        count = sum(bool(back) for _, back in pieces)
        by = f": by {', '.join(backs)}" if backs else ""
        self.note(f"{count} of {len(pieces)} pieces had been guessed{by}")

    def thoughts(self) -> None:
        if self.answer is None or not self.answer.thoughts:
            raise ChatError("no thinking before the last answer")
        self.console.print(Text(clean(self.answer.thoughts), style=THOUGHT_STYLE), soft_wrap=True)

    def key(self, value: str) -> None:
        if not value and not sys.stdin.isatty():
            raise ChatError(":key needs a key")
        try:
            self.lead.use_key(_key(value or getpass.getpass("key: ").strip()))
        except argparse.ArgumentTypeError as error:
            raise ChatError(f":key: {error}") from None
        except EOFError:
            raise ChatError("the key stays as it was") from None
        self.greet()

    def save(self, name: str) -> None:
        path = _path(":save", name)
        text = json.dumps({"messages": self._messages()}, ensure_ascii=False, indent=2)
        try:
            file = path.resolve()  # a link stays one
            # A file is replaced as a whole, so a failure leaves the old one. A device is not.
            new = file if file.exists() and not file.is_file() else file.with_name(file.name + ".new")
            new.write_text(text + "\n", encoding="utf-8")
            if new != file:
                new.replace(file)
        except OSError as error:
            raise ChatError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
        self.note(f"saved to {path}: {len(self.turns)} messages")

    def load(self, name: str) -> None:
        path = _path(":load", name)
        try:
            messages = _conversation(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ChatError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
        except (ValueError, RecursionError):
            raise ChatError(
                f"{path} is not a saved conversation: JSON with messages, of user and assistant in turns"
            ) from None
        self.options.system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else None
        self.turns[:] = messages
        self.answer = None
        self.note(f"loaded {path}: {len(self.turns)} messages")

    def stats(self) -> None:
        with _as_a_lead_says_it(self.lead.url):
            self._stats(self.lead.get("/backs"))

    def _stats(self, backs: dict[str, Any]) -> None:
        speedup = backs.get("speedup") or {}
        if times := _times(speedup):
            self.note(f"{times}: {speedup['with_backs']:.1f} tokens/s with them, {speedup['alone']:.1f} without")
        self._rest(backs)
        if self.last is None:
            self.note("no answer yet")
        else:
            table = _table("", "last answer", "this chat")
            for name, show in _STATS:
                table.add_row(name, show(self.last), show(self.total))
            self.console.print(table)
        if not backs["data"]:
            self.note("no back is connected")
            return
        table = _table("back", "model", "state", "round trip", "guesses", "accepted")
        for back in backs["data"]:
            trip = back["round_trip_ms"]
            shown = "-" if trip is None else f"{trip:.1f} ms"
            cells = (back["name"], back["model"], back["state"], shown, back["drafted"], back["accepted"])
            table.add_row(*(Text(clean(str(cell))) for cell in cells))
        self.console.print(table)

    def note(self, text: str) -> None:
        self.console.print(Text(clean(text), style="dim"), soft_wrap=True)

    def complain(self, error: Exception) -> None:
        self.console.print(Text(clean(str(error)), style="red"), soft_wrap=True)


ELSEWHERE = {
    "/bye": ":quit", "/exit": ":quit", "/quit": ":quit", "/?": ":help", "/help": ":help", "/clear": ":new",
    "/regen": ":retry", "/save": ":save FILE", "/load": ":load FILE", "/show": ":stats",
    "/set": ":system, :temperature or :seed",
}  # fmt: skip
"""What people type in Ollama and llama-cli, and what does it here."""


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


_LEAVE = (":quit", ":exit", ":q")
_ALONE: dict[str, Callable[[Chat], None]] = {
    ":new": Chat.new, ":retry": Chat.retry, ":tokens": Chat.tokens, ":thoughts": Chat.thoughts, ":stats": Chat.stats,
    ":help": lambda chat: chat.note(COMMANDS),
}  # fmt: skip
_WITH_VALUE: dict[str, Callable[[Chat, str], None]] = {":key": Chat.key, ":save": Chat.save, ":load": Chat.load}
_SETTINGS: dict[str, Callable[[str], object]] = {":system": str, ":temperature": _temperature, ":seed": _whole}
NAMES = sorted((*_LEAVE, *_ALONE, *_WITH_VALUE, *_SETTINGS))


def _command(word: str) -> str:
    """The command of this name, or the only command that begins with it. Raises ChatError."""
    word = word.lower()
    if word in NAMES:
        return word
    matching = [name for name in NAMES if name.startswith(word)] if len(word) > 1 else []
    if len(matching) > 1:
        raise ChatError(f"{word} may be {' or '.join(matching)}")
    if not matching:
        raise ChatError(f"no command {word}: :help lists them")
    return matching[0]


def _path(command: str, name: str) -> Path:
    if not name:
        raise ChatError(f"{command} needs the name of a file")
    return Path(name).expanduser()


def _conversation(saved: Any) -> list[Turn]:
    """The messages of a saved conversation. Raises ValueError if it cannot be continued."""
    messages = saved.get("messages") if isinstance(saved, dict) else saved
    if not isinstance(messages, list):
        raise ValueError
    turns: list[Turn] = []
    for message in messages:
        match message:
            case {"role": "system" | "user" | "assistant" as role, "content": str(content)}:
                turns.append({"role": role, "content": content})
            case _:
                raise ValueError
    roles = [turn["role"] for turn in turns]
    said = roles[1:] if roles[:1] == ["system"] else roles
    if said != ["user", "assistant"] * (len(said) // 2):
        raise ValueError
    return turns


def typed() -> str:
    """Read one input, which may have several lines. Raises EOFError and KeyboardInterrupt to leave."""
    line = input("> ").strip()
    readline = sys.modules.get("readline")
    if readline and line.lower().startswith(":k") and (last := readline.get_current_history_length()):
        readline.remove_history_item(last - 1)  # a key is not for the history
    if line.startswith('"""'):
        lines = [line[3:]]
        while not lines[-1].endswith('"""'):
            lines.append(input(". ").rstrip())
        lines[-1] = lines[-1][:-3]
        return "\n".join(lines).strip()
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1].rstrip()
        lines.append(input(". ").rstrip())
    return "\n".join(lines).strip()


@contextlib.contextmanager
def history() -> Iterator[None]:
    """Line editing and history at the prompt, if Python has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(state, "duo", "chat_history").expanduser()
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(HISTORY_LINES)
        # The chat also works without history.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Only the user may read the questions.
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            readline.write_history_file(path)


_STATS: Sequence[tuple[str, Callable[[Figures], str]]] = (
    ("answers", lambda figures: str(figures.answers)),
    ("prompt read", lambda figures: f"{figures.prompt} tokens, {_per_second(figures.prompt, figures.prompt_ms)}"),
    ("generated", lambda figures: f"{figures.generated()}, {figures.speed()}"),
    ("guesses", Figures.acceptance),
)


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _key(text: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        raise argparse.ArgumentTypeError("a key is printable ASCII without spaces around it")
    return text


def _file(name: str) -> str:
    if not Path(name).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {name}")
    return name


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Chat with a lead. If standard input is redirected, each of its lines is a question. Answers go "
        "to standard output.",
        epilog=f"in the chat:\n{COMMANDS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "address", metavar="HOST", nargs="?", default=DEFAULT_URL,
        help=f"where the lead is: HOST, HOST:PORT or a URL; without a port it is {PORT} (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--model", metavar="NAME", help="which model answers, if the lead has several (default: its first)"
    )
    parser.add_argument("--system", metavar="TEXT", help="system message at the start of every conversation")
    parser.add_argument("--temperature", metavar="T", type=_temperature, help="0 is greedy (default: the lead's, 0.8)")
    parser.add_argument("--seed", metavar="N", type=_whole, help="the same answer each time (default: a random one)")
    parser.add_argument("--max-tokens", metavar="N", type=_whole, help="end an answer there (default: no limit)")
    parser.add_argument(
        "--api-key", metavar="KEY", type=_key, default=os.environ.get(KEY_VARIABLE) or None,
        help=f"key of the lead (default: the environment variable {KEY_VARIABLE})",
    )  # fmt: skip
    parser.add_argument("--tls-ca", metavar="FILE", type=_file, help="certificate of the authority behind an https URL")
    parser.add_argument("--plain", action="store_true", help="print the text as it comes, without colours")
    options = parser.parse_args(argv)

    if sys.stdin is None or sys.stdout is None:
        parser.error("standard input and output have to be open")
    for stream in (sys.stdin, sys.stdout):
        # The terminal's encoding may lack a character of the answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    console = Console(stderr=not interactive, highlight=False)
    styled = interactive and not options.plain and not console.is_dumb_terminal

    def new_answer() -> Answer:
        if styled:
            return StyledAnswer(console)
        # Only a terminal can be steered by control characters. A file gets what the model wrote.
        return Answer(sys.stdout.isatty(), chat.note if interactive else None)

    try:
        lead = Lead(options.address, lambda text: chat.note(text), options.api_key, options.tls_ca)
        chat = Chat(lead, options, console, new_answer)
        if not interactive:
            return chat.filter()
        with history():
            return chat.talk()
    except ChatError as error:
        print(f"{PROGRAM}: {clean(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # Python would report it again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # its reader is gone
            print(f"{PROGRAM}: cannot write answers: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
