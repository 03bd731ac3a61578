"""The scene of docs/console.svg: the lead's own console, and scripted answers. To be run on a terminal.

One answer is complete, with a table. Two are under way: one writes code, the other calls a tool. The back rests.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import Any, cast

from bench.show import scene
from duo.program.run import run
from lead.api import Answerer, BackView, Benefit, ModelInfo, Piece, SlotView, Speedup, Summary, Tally
from lead.console.console import Console


class _Answerer:
    """What the console asks of a lead."""

    info = ModelInfo(scene.MODEL, 0, "transformers", 4096, cast(Any, None), True, "", 64)
    benefit: Benefit = scene.RESTING
    waiting = 0

    def slots(self) -> Sequence[SlotView]:
        return [
            SlotView(0, "idle"),
            SlotView(1, "answering", 48, 48, 39, 18.9),
            SlotView(2, "answering", 163, 163, 41, 19.4),
        ]

    def backs(self) -> Sequence[BackView]:
        return [BackView(scene.BACK, scene.DRAFT, "resting", 1.3, 2937, 2203)]


def pieces(text: str, thought: bool = False, backs: bool = True) -> list[Piece]:
    words = scene.guessed(text)
    return [Piece(word, (back,) if back and backs else (), token=0, thought=thought) for word, back in words]


async def main() -> None:
    """Until it is stopped."""
    console = Console("accepted")
    console.watch(cast(Answerer, _Answerer()))
    console.first_text(1, 0.1)
    console.pieces(1, [*pieces(scene.THOUGHTS, thought=True), *pieces(scene.TABLE)])
    tally = Tally(96, 74)
    found = Summary("stop", 48, 17, 118, 0.4, 2.86, 44, 96, 74, backs={scene.BACK: tally},
                    speedup=Speedup(scene.TIMES, scene.ERROR))  # fmt: skip
    console.finished(1, found)
    console.first_text(2, 0.1)
    console.pieces(2, [*pieces(scene.THOUGHTS, thought=True), *pieces(f"For example:{scene.CODE}")])
    console.first_text(3, 0.1)
    call = f'<tool_call>\n{{"name": "{scene.TOOL}", "arguments": {scene.ARGUMENTS}}}\n</tool_call>'
    console.pieces(3, pieces(call, backs=False))
    logging.getLogger("lead").info("backs: %s", scene.RESTING.says)
    try:
        await asyncio.Event().wait()
    finally:
        await console.stop()


if __name__ == "__main__":
    sys.exit(run(main, verbose=False))
