"""Chat with a lead from a terminal, or pipe questions through it.

This one file needs only `requests` and `rich`, so you can copy it to the machine you sit at.
On a terminal it is a conversation. With standard input or output redirected it is a filter. Each line of input is then
a question. Answers go to standard output as plain text, everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

DEFAULT_URL = "http://127.0.0.1:5555"
KEY_VARIABLE = "DUO_API_KEY"
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 600.0
"""The first word may take long, because other answers come first."""
LOADING_POLL_SECONDS = 0.5
FRAMES_PER_SECOND = 10
HISTORY_LINES = 1000

COMMANDS = """\
:retry             ask the last question again
:new               forget the conversation
:tokens            show the last answer, with tokens that a back guessed in green
:stats             show speed and accepted guesses of the last answer and of the chat, and the backs
:system TEXT       use this system message from now on
:temperature T     use this temperature; 0 is greedy
:seed N            use this seed; it gives the same answer each time
:save FILE         write the conversation as JSON
:load FILE         continue a saved conversation
:help              show this list
:quit :exit        leave, as Ctrl-D does
:system, :temperature and :seed show their value if nothing follows, and forget it if `none` follows.
Commands may be shortened (:q, :temp). A line that ends with \\ continues on the next line, and so does all text
between two lines of \"\"\". Ctrl-C stops an answer; at the prompt it leaves."""

# The text of a model must not control the terminal.
_NO_CONTROL = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


class ChatError(Exception):
    """No answer comes. The message is one line for the user."""


class Lead:
    """A client of a lead's HTTP side.

    `ca`: a file with the certificate of the lead's authority. None means the authorities that this machine trusts.
    """

    def __init__(
        self, url: str, note: Callable[[str], None], api_key: str | None = None, ca: str | None = None
    ) -> None:
        url = url if "://" in url else f"http://{url}"
        self.url = url.rstrip("/").removesuffix("/v1")
        self._note = note
        self._session = requests.Session()
        # A lead is on this machine or near it. A proxy for the web would be in the way.
        self._session.trust_env = False
        if api_key:
            self._session.headers["Authorization"] = f"Bearer {api_key}"
        self._has_key = bool(api_key)
        if ca is not None:
            self._session.verify = ca

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

    def get(self, path: str) -> list[dict[str, Any]]:
        """Fetch a list from the lead. Raises ChatError."""
        response = self._call("GET", path)
        if response.status_code != 200:
            raise ChatError(_error(response)[0])
        try:
            data: list[dict[str, Any]] = response.json()["data"]
        except (ValueError, KeyError, TypeError):
            raise ChatError(f"what answers at {self.url} is not a lead") from None
        return data

    def answer(
        self,
        body: dict[str, Any],
        write: Callable[[str], None],
        think: Callable[[str], None],
        guessed: list[tuple[str, str]],
    ) -> dict[str, Any]:
        """Ask, pass the text to `write` and thinking to `think` as they come, return `finish_reason` and `timings`.

        `guessed` receives pairs of a piece of text and the back that guessed it, or "" if none did. Raises ChatError.
        """
        while True:
            with self._call("POST", "/v1/chat/completions", body) as response:
                if response.status_code == 200:
                    return _read(response, write, think, guessed)
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
            raise ChatError(
                f"no trusted connection to {self.url}: {_innermost(error)}; --tls-ca FILE names the authority that "
                "signed the lead's certificate"
            ) from None
        except requests.ConnectionError:
            raise ChatError(self._why_no_answer()) from None
        except (requests.RequestException, ValueError) as error:  # the latter: the URL cannot be one
            raise ChatError(f"{self.url}: {error}") from None
        if response.status_code == 401:
            wrong = "does not take this key" if self._has_key else "wants a key"
            raise ChatError(f"the lead at {self.url} {wrong}: give its own with --api-key KEY or in {KEY_VARIABLE}")
        return response

    def _why_no_answer(self) -> str:
        """Say why there was no response: nobody listens, or the port speaks TLS, or something else."""
        where = urlsplit(self.url)
        default = 443 if where.scheme == "https" else 80
        try:
            connection = socket.create_connection((where.hostname, where.port or default), CONNECT_SECONDS)
        except OSError:
            return f"no lead at {self.url}: start one there with duo-lead, or name another address (chat.py URL)"
        with connection:
            if where.scheme == "http" and _speaks_tls(connection):
                return f"what listens at {self.url} speaks TLS: try {self.url.replace('http', 'https', 1)}"
        return (
            f"what listens at {self.url} broke the connection: name the lead's port for clients (chat.py URL), or try "
            "again"
        )


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


def _read(
    response: requests.Response,
    write: Callable[[str], None],
    think: Callable[[str], None],
    guessed: list[tuple[str, str]],
) -> dict[str, Any]:
    figures: dict[str, Any] = {"finish_reason": None, "timings": {}}
    for event in _events(response):
        if "error" in event:
            raise ChatError(f"the lead ended the answer: {event['error']['message']}")
        for choice in event["choices"]:
            if thought := choice["delta"].get("reasoning_content"):
                think(thought)
            if text := choice["delta"].get("content"):
                write(text)
                guessed += [(str(text), str(back)) for text, back in choice.get("accepted") or ()]
            figures["finish_reason"] = choice["finish_reason"] or figures["finish_reason"]
        figures["timings"] = event.get("timings") or figures["timings"]
    return figures


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


class Plain:
    """Writes plain text to standard output. `clean`: drop control characters."""

    def __init__(self, clean: bool) -> None:
        self._clean = clean
        self._any = False

    def think(self, text: str) -> None:
        """Thinking is not shown: only the answer is wanted."""

    def write(self, text: str) -> None:
        self._any = True
        sys.stdout.write(text.translate(_NO_CONTROL) if self._clean else text)
        sys.stdout.flush()

    def end(self) -> None:
        if self._any:
            print(flush=True)


_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ITEM = re.compile(r"([-*+]|\d{1,9}[.)])\s")


def finished_blocks(text: str) -> int:
    """Count the characters of this Markdown that no later text can change.

    They end where the last block begins: after an empty line, at the margin, and outside fenced code. A further item of
    a list begins no block.
    """
    end, place, fence, blank, in_list = 0, 0, "", False, False
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # the line is not complete
        marks = _FENCE.match(line)
        if fence:
            if marks and marks[1].startswith(fence) and not line[marks.end() :].strip():
                fence = ""
        else:
            if blank and line[0] not in " \t\n" and not (in_list and _ITEM.match(line)):
                end, in_list = place, False
            fence = marks[1] if marks else ""
            in_list = in_list or bool(_ITEM.match(line))
        blank = not fence and not line.strip()
        place += len(line)
    return end


class _Tail:
    """Markdown that still grows. Shows as many of its last lines as fit on the screen."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(_markdown(self._text), options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from line
            yield Segment.line()


def _markdown(text: str) -> Markdown:
    # Links show their address, because the model could write a misleading text for it.
    return Markdown(text, hyperlinks=False)


class Rendered:
    """Renders Markdown as it comes. Finished blocks are printed once, only the growing block is drawn again."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._text = ""
        self._live = Live(console=console, transient=True, refresh_per_second=FRAMES_PER_SECOND)
        self._started = self._thinks = False

    def think(self, text: str) -> None:
        """Shows thinking as a quotation."""
        quoted = text.replace("\n", "\n> ")
        if not self._thinks:
            self._thinks, quoted = True, f"\n\n> {quoted}" if self._started else f"> {quoted}"
        self._write(quoted)

    def write(self, text: str) -> None:
        self._write(f"\n\n{text}" if self._thinks else text)
        self._thinks = False

    def _write(self, text: str) -> None:
        if not self._started:
            self._started = True
            self._live.start()
        self._text += text.translate(_NO_CONTROL)
        end = finished_blocks(self._text)
        done, self._text = self._text[:end], self._text[end:]
        self._live.update(_Tail(self._text))
        self._print(done)

    def end(self) -> None:
        if self._started:
            self._live.update(Text())
            self._live.stop()
            self._print(self._text)

    def _print(self, text: str) -> None:
        if text.strip():
            self._console.print(_markdown(text))
            self._console.print()


# -- Figures -------------------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """Token counts and times in milliseconds, of one answer or of a whole chat."""

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


# -- The conversation ----------------------------------------------------------------------------------------------


Turn = dict[str, str]


@dataclass
class Chat:
    """A conversation and its commands."""

    lead: Lead
    options: argparse.Namespace
    console: Console
    screen: Callable[[], Plain | Rendered]
    turns: list[Turn] = field(default_factory=list)
    guessed: list[tuple[str, str]] = field(default_factory=list)
    """The last answer in pieces, each with the back that guessed it, or ""."""
    last: Figures | None = None
    total: Figures = field(default_factory=Figures)

    def talk(self) -> int:
        """Talk on a terminal until the user leaves. Returns the exit code."""
        self.lead.wait_until_ready()
        model = self.lead.get("/v1/models")[0]["id"]
        self.note(f"talking to {model} at {self.lead.url}; :help lists the commands")
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
                elif line:
                    self.note(self.ask(line))
            except ChatError as error:
                self.console.print(Text(str(error).translate(_NO_CONTROL), style="red"), soft_wrap=True)
            except KeyboardInterrupt:
                self.note("stopped")

    def filter(self) -> int:
        """Answer the lines of standard input. Returns the exit code."""
        self.lead.wait_until_ready()
        for line in map(str.strip, sys.stdin):
            if line.startswith(":"):
                if self.command(line):
                    break
            elif line:
                self.ask(line)
        return 0

    def ask(self, question: str) -> str:
        """Ask, show the answer as it comes, and return a line of figures. Raises ChatError."""
        asked = {"role": "user", "content": question}
        body = {"messages": [*self._messages(), asked], "stream": True, "accepted": True}
        for name in ("temperature", "seed", "max_tokens"):
            if (value := getattr(self.options, name)) is not None:
                body[name] = value
        parts: list[str] = []
        guessed: list[tuple[str, str]] = []
        screen = self.screen()

        def write(text: str) -> None:
            parts.append(text)
            screen.write(text)

        def said() -> None:
            self.turns += [asked, {"role": "assistant", "content": "".join(parts)}]
            self.guessed = guessed

        try:
            figures = self.lead.answer(body, write, screen.think, guessed)
            said()
        except KeyboardInterrupt:
            # The user stopped because this was enough, so the partial answer stays. Without any text, and after any
            # other error, the conversation does not change.
            if parts:
                said()
            raise
        finally:
            screen.end()
        self.last = Figures.of(figures["timings"])
        self.total.add(self.last)
        cut = " · cut off at the limit" if figures["finish_reason"] == "length" else ""
        return f"{self.last.tokens} tokens · {self.last.speed()} · {self.last.acceptance()}{cut}"

    def _messages(self) -> list[Turn]:
        system = [{"role": "system", "content": self.options.system}] if self.options.system else []
        return [*system, *self.turns]

    def command(self, line: str) -> bool:
        """Run a line that begins with a colon. Returns True to leave. Raises ChatError."""
        word, _, value = line.partition(" ")
        value = value.strip()
        name = _command(word)
        if value and name not in _TAKE_VALUE:
            raise ChatError(f"{name} takes nothing after it, and not {value!r}")
        match name:
            case ":quit" | ":exit" | ":q":
                return True
            case ":new":
                self.turns.clear()
                self.note("a new conversation")
            case ":retry":
                self.retry()
            case ":tokens":
                self.tokens()
            case ":stats":
                self.stats()
            case ":system" | ":temperature" | ":seed":
                self.set(name.removeprefix(":"), value)
            case ":save":
                self.save(value)
            case ":load":
                self.load(value)
            case ":help":
                self.note(COMMANDS)
        return False

    def set(self, name: str, value: str) -> None:
        """Change an option, or show it if the value is empty."""
        if value:
            try:
                setattr(self.options, name, None if value.lower() == "none" else _SETTINGS[name](value))
            except argparse.ArgumentTypeError as error:
                raise ChatError(f":{name}: {error}") from None
        now = getattr(self.options, name)
        self.note(f"{name}: {'not set' if now is None else now}")

    def retry(self) -> None:
        if len(self.turns) < 2:
            raise ChatError("nothing has been asked that could be asked again")
        before = self.turns[-2:]
        del self.turns[-2:]
        kept = list(self.turns)
        try:
            self.note(self.ask(before[0]["content"]))
        except (ChatError, KeyboardInterrupt):
            if self.turns == kept:
                self.turns += before
            raise

    def tokens(self) -> None:
        if not self.guessed:
            raise ChatError("no answer whose guesses are known: ask something first")
        shown = Text()
        for text, back in self.guessed:
            shown.append(text.translate(_NO_CONTROL), style="green" if back else "")
        self.console.print(shown, soft_wrap=True)
        backs = sorted({back for _, back in self.guessed if back})
        count = sum(bool(back) for _, back in self.guessed)
        by = f": by {', '.join(backs)}".translate(_NO_CONTROL) if backs else ""
        self.note(f"{count} of {len(self.guessed)} pieces had been guessed{by}")

    def save(self, name: str) -> None:
        path = _path(":save", name)
        text = json.dumps({"messages": self._messages()}, ensure_ascii=False, indent=2)
        # The file is replaced as a whole, so a failure leaves the old one.
        new = path.with_name(path.name + ".new")
        try:
            new.write_text(text + "\n", encoding="utf-8")
            new.replace(path)
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
        self.guessed.clear()
        self.note(f"loaded {path}: {len(self.turns)} messages")

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
            table.add_row(*(Text(str(cell).translate(_NO_CONTROL)) for cell in cells))
        self.console.print(table)

    def note(self, text: str) -> None:
        self.console.print(Text(text, style="dim"), soft_wrap=True)


_NAMES = (
    ":exit", ":help", ":load", ":new", ":q", ":quit", ":retry", ":save", ":seed", ":stats", ":system", ":temperature",
    ":tokens",
)  # fmt: skip
_TAKE_VALUE = {":system", ":temperature", ":seed", ":save", ":load"}


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


_SETTINGS: dict[str, Callable[[str], object]] = {"system": str, "temperature": _temperature, "seed": _whole}


def _command(word: str) -> str:
    """The command of this name, or the only command that begins with it. Raises ChatError."""
    word = word.lower()
    if word in _NAMES:
        return word
    matching = [name for name in _NAMES if name.startswith(word)] if len(word) > 1 else []
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
    ("generated", lambda figures: f"{figures.tokens} tokens, {figures.speed()}"),
    ("guesses", Figures.acceptance),
)


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _key(text: str) -> str:
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise argparse.ArgumentTypeError("a key is printable ASCII without spaces around it")
    return text


def _file(name: str) -> str:
    if not Path(name).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {name}")
    return name


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="chat.py",
        description="Chat with a lead. If standard input is redirected, each of its lines is a question. Answers go "
        "to standard output.",
        epilog=f"in the chat:\n{COMMANDS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", nargs="?", default=DEFAULT_URL, help="of the lead (default %(default)s)")
    parser.add_argument("--system", metavar="TEXT", help="system message at the start of every conversation")
    parser.add_argument("--temperature", metavar="T", type=_temperature, help="0 is greedy (default: the lead's, 0.8)")
    parser.add_argument("--seed", metavar="N", type=_whole, help="the same answer each time (default: a random one)")
    parser.add_argument("--max-tokens", metavar="N", type=_whole, help="end an answer there (default: no limit)")
    parser.add_argument(
        "--api-key", metavar="KEY", type=_key, default=os.environ.get(KEY_VARIABLE) or None,
        help=f"key of the lead (default: the environment variable {KEY_VARIABLE})",
    )  # fmt: skip
    parser.add_argument("--tls-ca", metavar="FILE", type=_file, help="certificate of the authority behind an https URL")
    parser.add_argument("--plain", action="store_true", help="print the text as it comes, without rendering Markdown")
    options = parser.parse_args(argv)

    for stream in (sys.stdin, sys.stdout):
        # The terminal's encoding may lack a character of the answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    console = Console(stderr=not interactive, highlight=False)
    rendered = interactive and not options.plain and not console.is_dumb_terminal
    lead = Lead(options.url, lambda text: chat.note(text), options.api_key, options.tls_ca)
    chat = Chat(lead, options, console, lambda: Rendered(console) if rendered else Plain(clean=interactive))
    try:
        if not interactive:
            return chat.filter()
        with history():
            return chat.talk()
    except ChatError as error:
        print(f"chat.py: {str(error).translate(_NO_CONTROL)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the output is gone. Python would report that again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
