"""The workloads by name, and what is asked in each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.workloads import shipped, texts
from duo.errors import DuoError
from duo.program.prompts import Conversation
from lead.match import prompts

QUESTIONS = "questions"


class UnknownWorkloadError(DuoError):
    """No workload has this name."""

    exit_code = 2


def _of_texts(asked: Sequence[tuple[str, str]]) -> Callable[[], Sequence[Conversation]]:
    return lambda: [Conversation([f"{what}\n\n{text}"]) for what, text in asked]


GENERAL: Mapping[str, Callable[[], Sequence[Conversation]]] = {
    QUESTIONS: prompts.general,
    "rewrite": _of_texts(texts.REWRITE),
    "quote": _of_texts(texts.QUOTE),
    "json": _of_texts(texts.JSON),
    "chat": lambda: [Conversation(turns) for turns in texts.CHAT],
}
"""For models that know the world."""
SHIPPED: Mapping[str, Callable[[], Sequence[Conversation]]] = {
    QUESTIONS: prompts.shipped,
    "rewrite": shipped.rewrite,
    "quote": shipped.quote,
    "json": shipped.json_,
    "chat": shipped.chat,
}
"""For the shipped pair."""
NAMES = tuple(GENERAL)


def chosen(names: str) -> list[str]:
    """The workloads of a list with commas, or all of them. Raises UnknownWorkloadError."""
    if names == "all":
        return [*NAMES]
    wanted = [name for name in (part.strip() for part in names.split(",")) if name]
    if strange := [name for name in wanted if name not in NAMES]:
        raise UnknownWorkloadError(f"no workload is called {strange[0]!r}: there are {', '.join(NAMES)}, and all")
    return [name for name in NAMES if name in wanted]


def conversations(name: str, shipped_pair: bool) -> Sequence[Conversation]:
    """What is asked. shipped_pair: the target is the shipped one, or that one padded."""
    return (SHIPPED if shipped_pair else GENERAL)[name]()
