"""`python -m bench screenshots`: pictures for docs/ of the page, the lead's console and chat.py at work.

A lead and a back serve the shipped pair on free ports. The console and the chat run on terminals of their own, whose
screens become SVG files. The page becomes a PNG file, taken by Chromium; what its lead says is scripted, because the
shipped pair writes no tables and calls no tools (`bench.show.page_scene`).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from rich.console import Console

from bench.harness.processes import PATIENCE, ROOT, BackProcess, free_port, halves
from bench.harness.terminal import Terminal
from bench.show import page_scene

QUESTIONS = ("What does shutil.copytree do?", "How do I use itertools.groupby?", "What does collections.deque do?")
MIN_TOKENS = 120
"""The console's picture is taken when each answer has this many tokens."""


@contextmanager
def _asked(url: str) -> Iterator[None]:
    """Keeps all questions being answered meanwhile."""
    stop = threading.Event()

    def ask(question: str) -> None:
        body = {
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        with requests.post(f"{url}/v1/chat/completions", json=body, stream=True, timeout=PATIENCE) as response:
            for _ in response.iter_lines():
                if stop.is_set():
                    return

    threads = [threading.Thread(target=ask, args=(question,)) for question in QUESTIONS]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _console(lead: Terminal, url: str) -> str:
    def under_way(screen: str) -> bool:
        rows = [line.split() for line in screen.splitlines()]
        busy = [row for row in rows if len(row) == 5 and row[1] == "answering"]
        return len(busy) == len(QUESTIONS) and all(int(row[3]) >= MIN_TOKENS for row in busy)

    with _asked(url):
        lead.until(under_way, "answers under way")
        return lead.svg("python -m lead")


def _chat(url: str) -> str:
    with tempfile.TemporaryDirectory() as state:
        arguments = [str(ROOT / "chat.py"), url, "--temperature", "0", "--max-tokens", "300"]
        with Terminal(arguments, {"XDG_STATE_HOME": state}, columns=100, lines=44) as chat:
            chat.until(lambda screen: screen.rstrip().endswith("\n>"), "the prompt")
            chat.type(f"{QUESTIONS[0]}\n")
            chat.until(lambda screen: "tokens/s" in screen and screen.rstrip().endswith("\n>"), "an answer")
            chat.type(":tokens\n")
            chat.until(lambda screen: "had been guessed" in screen, "the guesses")
            chat.type(":stats\n")
            chat.until(lambda screen: "round trip" in screen and screen.rstrip().endswith("\n>"), "the figures")
            return chat.svg("python chat.py")


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("-o", "--output", type=Path, default=Path("docs"), metavar="FOLDER", help="where to write them")


def main(args: argparse.Namespace) -> int:
    """Writes page.png, console.svg and chat.svg into the folder."""
    folder: Path = args.output
    say = Console().print
    folder.mkdir(parents=True, exist_ok=True)
    port, back_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    lead_command = ["-m", "lead", "--threads", "1", "--port", str(port), "--back-port", str(back_port)]
    with (
        Terminal(lead_command, cpus=halves()[0]) as lead,
        BackProcess(back_port, "--threads", "1", "--name", "attic", cpus=halves()[1]) as back,
    ):
        # The lead blocks if nobody reads its terminal.
        lead.until(lambda screen: "slots busy" in screen, "the live view")
        back.joined()
        lead.until(lambda screen: "attic" in screen, "the back")
        (folder / "console.svg").write_text(_console(lead, url), encoding="utf-8")
        say(f"{folder / 'console.svg'}")
        with lead.being_read():
            (folder / "chat.svg").write_text(_chat(url), encoding="utf-8")
            say(f"{folder / 'chat.svg'}")
    page_scene.picture(folder / "page.png")
    say(f"{folder / 'page.png'}")
    return 0
