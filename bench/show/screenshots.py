"""`python -m bench screenshots`: pictures for docs/ of the page, the lead's console and chat.py at work.

The programs are real. What their lead says is scripted (`bench.show.scene`), because the shipped pair does not think,
writes no tables and calls no tools. Console and chat run on terminals of their own, whose screens become SVG files. The
page becomes a PNG file, taken by Chromium.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

from bench.harness.processes import ROOT
from bench.harness.scripted_lead import ScriptedLead, serving
from bench.harness.terminal import Terminal
from bench.show import page_scene, scene


def console() -> str:
    with Terminal(["-m", "bench.show.console_scene"], lines=46) as lead:
        lead.until(lambda screen: scene.TOOL in screen and scene.RESTING.says in screen, "the answers")
        return lead.svg("python -m lead")


def _answering() -> ScriptedLead:
    """A lead that thinks, and whose back helps."""
    lead = ScriptedLead()
    lead.states["/v1/models"] = {"object": "list", "data": [{"id": scene.MODEL}]}
    lead.states["/backs"] = {"data": [page_scene.back(1.0)], "speedup": page_scene.speedup(1.0)}
    text = scene.TABLE + scene.CODE
    lead.script = [{"reasoning_content": scene.THOUGHTS}, {"content": text, "accepted": scene.guessed(text)}]
    lead.usage = {"completion_tokens_details": {"reasoning_tokens": 14}}
    figures = page_scene.timings(scene.TIMES, 41.2, 118, 96, 74)
    lead.pause = 0.8  # it thinks for so long
    lead.timings = {**figures, "prompt_n": 31, "prompt_ms": 240.0, "predicted_ms": 2864.0}
    return lead


def chat() -> str:
    with tempfile.TemporaryDirectory() as state, serving(_answering()) as url:
        arguments = [str(ROOT / "chat.py"), url]
        with Terminal(arguments, {"XDG_STATE_HOME": state}, columns=120, lines=44) as terminal:
            terminal.until(lambda screen: screen.rstrip().endswith("\n>"), "the prompt")
            terminal.type(f"{scene.DIFFERENCE}\n")
            terminal.until(lambda screen: "tokens/s" in screen and screen.rstrip().endswith("\n>"), "an answer")
            terminal.type(":thoughts\n")
            terminal.until(lambda screen: scene.THOUGHTS in screen and screen.rstrip().endswith("\n>"), "the thoughts")
            terminal.type(":stats\n")
            terminal.until(lambda screen: "round trip" in screen and screen.rstrip().endswith("\n>"), "the figures")
            return terminal.svg("python chat.py")


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("-o", "--output", type=Path, default=Path("docs"), metavar="FOLDER", help="where to write them")


def main(args: argparse.Namespace) -> int:
    """Writes console.svg, chat.svg and page.png into the folder."""
    folder: Path = args.output
    say = Console().print
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in {"console.svg": console, "chat.svg": chat}.items():
        (folder / name).write_text(picture(), encoding="utf-8")
        say(f"{folder / name}")
    page_scene.picture(folder / "page.png")
    say(f"{folder / 'page.png'}")
    return 0
