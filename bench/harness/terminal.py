"""A program on a terminal of its own, and its screen: for screenshots and for tests."""

from __future__ import annotations

import codecs
import io
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Self

import pyte
from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from bench.harness.processes import PATIENCE, python_path

COLUMNS, LINES = 110, 34
_READ_SECONDS = 0.1


_FACES = re.compile(r"@font-face \{.*?\}\n?", re.DOTALL)
"""The fonts that rich's pictures load from the internet. Without them the reader's own font is used."""


_GREY = (38, 2, 150, 150, 145)


class _Screen(pyte.Screen):
    """Shows dim text in grey, for pyte ignores it."""

    def select_graphic_rendition(self, *attributes: int, **options: Any) -> None:
        dim, rest = attributes[:1] == (2,), attributes[1:]
        super().select_graphic_rendition(*((*_GREY, *rest) if dim else attributes), **options)


class Terminal:
    """`python ARGUMENTS` on a pseudo-terminal. No key sends a signal. POSIX only.

    screen: pyte's screen with its present contents.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        columns: int = COLUMNS,
        lines: int = LINES,
        cpus: Collection[int] = (),
    ) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.screen = _Screen(columns, lines)
        self._stream = pyte.Stream(self.screen)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")}
        terminal = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": python_path(), "PYTHONUTF8": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**clean, **terminal, **(environment or {})},
            start_new_session=True,
        )
        os.close(theirs)
        if cpus and sys.platform == "linux":
            os.sched_setaffinity(self.process.pid, cpus)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def read(self) -> bytes:
        """Waits a moment for output, shows it on the screen, and returns it. Empty if the program is silent or gone."""
        if not select.select([self._ours], [], [], _READ_SECONDS)[0]:
            return b""
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # on Linux: the program has closed its side
            return b""
        self._stream.feed(self._decode(data))
        return data

    def until(self, condition: Callable[[str], bool], what: str, patience: float = PATIENCE) -> str:
        """Waits until the screen's text meets the condition, and returns it. Raises TimeoutError with the screen."""
        deadline = time.monotonic() + patience
        while not condition(text := self.text()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {patience:.0f} s in vain for {what}; the screen:\n{text}")
            self.read()
        return text

    @contextmanager
    def being_read(self) -> Iterator[None]:
        """Keeps reading in the background: a program blocks while its terminal is full."""
        done = threading.Event()

        def keep_reading() -> None:
            while not done.is_set():
                self.read()

        thread = threading.Thread(target=keep_reading)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def text(self) -> str:
        """All lines, without trailing spaces."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def svg(self, title: str) -> str:
        """A picture of the screen, taken once it has stopped changing."""
        while self.read():
            pass
        used = max((i for i, line in enumerate(self.screen.display, 1) if line.strip()), default=1)
        console = Console(
            record=True, width=self.screen.columns, file=io.StringIO(), force_terminal=True, color_system="truecolor",
            highlight=False,
        )  # fmt: skip
        for y in range(used):
            row = Text(no_wrap=True, overflow="crop")
            chars = (self.screen.buffer[y][x] for x in range(self.screen.columns))
            for style, run in groupby(chars, _style):
                row.append("".join(char.data for char in run), style)
            row.rstrip()
            console.print(row)
        return _FACES.sub("", console.export_svg(title=title, theme=MONOKAI))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + PATIENCE / 4
            # It may write much before it ends, and would block if nobody read.
            while self.process.poll() is None and time.monotonic() < deadline:
                self.read()
            if self.process.poll() is None:
                self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _style(char: Char) -> Style:
    """pyte's style as rich's. Most names of colours are the same."""

    def colour(name: str) -> str | None:
        if name == "default":
            return None
        if len(name) == 6 and all(c in "0123456789abcdefABCDEF" for c in name):
            return f"#{name}"
        name = name.replace("brown", "yellow")
        return f"bright_{name.removeprefix('bright')}" if name.startswith("bright") else name

    return Style(
        color=colour(char.fg),
        bgcolor=colour(char.bg),
        bold=char.bold,
        italic=char.italics,
        underline=char.underscore,
        reverse=char.reverse,
        strike=char.strikethrough,
    )
