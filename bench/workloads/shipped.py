"""The same workloads for the shipped pair, which knows the Python library by heart and nothing else.

It cannot follow an instruction to rewrite or to quote. So its prompts hold what it is going to say, as those workloads
do: in full, with a small change, or between other things.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from duo.models import corpus
from duo.program.prompts import Conversation, Message

SEED = 7
MIN_CHARACTERS = 200
"""Answers that are shorter say little about speed."""
COUNT = 12
"""Conversations of each kind."""
OTHERS = 5
"""Other facts in a long prompt."""
CHANGED = ("whether", "new", "all", "and", "given", "is", "the")
"""Words of which one is left out of a text that is to be written again."""


def rewrite() -> Sequence[Conversation]:
    """The prompt has the answer, with one word changed."""
    return [Conversation([fact.question], _said(fact.question, _changed(fact.answer))) for fact in _facts("rewrite")]


def quote() -> Sequence[Conversation]:
    """A long conversation. Its first question is asked again, in other words."""
    found = []
    for number, fact in enumerate(_facts("quote")):
        others = _facts(f"quote {number}")[:OTHERS]
        before = [message for it in (fact, *others) for message in _said(it.question, it.answer[:MIN_CHARACTERS])]
        before[1] = {"role": "assistant", "content": fact.answer}
        found.append(Conversation([fact.again], before))
    return found


def json_() -> Sequence[Conversation]:
    """The prompt has records of several objects as JSON, one of which is asked for."""
    found = []
    for number, fact in enumerate(_facts("json")):
        records = [{"name": it.name, "help": it.answer} for it in (fact, *_facts(f"json {number}")[:3])]
        found.append(Conversation([f"{json.dumps(records, indent=1)}\n{fact.again}"]))
    return found


def chat() -> Sequence[Conversation]:
    """Short conversations, as the models were trained on."""
    rng = random.Random(SEED)
    found = []
    for messages in corpus.conversations(rng):
        turns = [message["content"] for message in messages if message["role"] == "user"]
        if len(turns) == 3:
            found.append(Conversation(turns))
        if len(found) == COUNT:
            break
    return found


class _Asked:
    """A fact, two ways to ask for it, and the answer."""

    def __init__(self, fact: corpus.Fact, rng: random.Random) -> None:
        self.name, self.answer = fact.name, fact.what
        first, second = rng.sample(corpus.WHAT, 2)
        self.question, self.again = (form.format(n=fact.name, s=fact.name) for form in (first, second))


def _facts(of: str) -> list[_Asked]:
    """Facts with long answers, others for each purpose."""
    rng = random.Random(f"{SEED} {of}")
    long = [fact for fact in corpus.facts() if len(fact.what) >= MIN_CHARACTERS]
    return [_Asked(fact, rng) for fact in rng.sample(long, COUNT)]


def _said(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _changed(text: str) -> str:
    """The text without one of its words, from the middle of it."""
    words = text.split(" ")
    middle = len(words) // 2
    at = next((i for i in range(middle, len(words)) if words[i] in CHANGED), middle)
    return " ".join([*words[:at], *words[at + 1 :]])
