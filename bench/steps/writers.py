"""`python -m bench writers`: what each API adds to a streamed token, without sockets.

The writers of all APIs write the same answer, token by token, in turns. An answer may call a tool if the request offers
one: then each text is looked through for the beginning of a call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.harness.models import load_target, shipped
from duo.engines.base import Vocabulary
from duo.program.values import positive
from lead.api import Piece, Summary
from lead.chat.answer import AnswerReader
from lead.chat.conversation import ChatSettings
from lead.http.anthropic.fields import AnthropicRequest
from lead.http.anthropic.writer import MessageWriter
from lead.http.defaults import SamplingDefaults
from lead.http.errors import dump
from lead.http.openai.chat import ChatRequest
from lead.http.openai.completions import CompletionRequest
from lead.http.openai.writers import ChatWriter, Echo, TextWriter
from lead.http.responses.fields import ResponsesRequest
from lead.http.responses.writer import ResponseWriter
from lead.http.silent import SilentAnswer
from lead.http.stream import Writer, head_of

TEXT = 'The function "copytree" copies a whole folder: files, links and, if asked, what they point to.\n' * 40
SUMMARY = Summary("stop", 11, 4, 6, 0.5, 2.0, 3, 5, 3)
READ = {"name": "read", "description": "Reads a file."}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
MODEL = "model"

Maker = Callable[[Vocabulary, bool], Writer]
"""Makes a writer of an answer. True: to a request that offers a tool."""


class _NoAnswer(SilentAnswer):
    """In place of an answer whose prompt is not reported."""

    def __init__(self) -> None: ...


def _messages(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], "tools": tools, "stream": True}


def _chat(vocabulary: Vocabulary, tools: bool) -> Writer:
    offered = [{"type": "function", "function": {**READ, "parameters": SCHEMA}}] if tools else []
    asked = ChatRequest.model_validate(_messages(offered))
    prepared, _ = asked.ready(vocabulary, ChatSettings(), SamplingDefaults())
    start = f"data: {dump(head_of('chatcmpl', 'chat.completion.chunk', MODEL))[:-1]}"
    return ChatWriter(start, 0, asked, prepared.parser(), False, vocabulary, asked.style(prepared))


def _completions(vocabulary: Vocabulary, tools: bool) -> Writer:
    asked = CompletionRequest.model_validate({"prompt": "Hi", "stream": True})
    start = f"data: {dump(head_of('cmpl', 'text_completion', MODEL))[:-1]}"
    return TextWriter(start, 0, asked, Echo("", (), False), _NoAnswer(), False, vocabulary)


def _anthropic(vocabulary: Vocabulary, tools: bool) -> Writer:
    offered = [{**READ, "input_schema": SCHEMA}] if tools else []
    asked = AnthropicRequest.model_validate({**_messages(offered), "max_tokens": 5000})
    prepared, question = asked.ready(vocabulary, ChatSettings(), SamplingDefaults())
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL}
    reader = AnswerReader(prepared.parser())
    return MessageWriter(head, len(prepared.prompt), question.max_tokens, reader, asked.shows_thinking)


def _responses(vocabulary: Vocabulary, tools: bool) -> Writer:
    offered = [{"type": "function", **READ, "parameters": SCHEMA}] if tools else []
    asked = ResponsesRequest.model_validate({"input": "Hi", "tools": offered, "stream": True})
    prepared, question, entries = asked.ready(asked.items, vocabulary, ChatSettings(), SamplingDefaults())
    return ResponseWriter(asked, question, prepared.parser(), entries, MODEL, vocabulary, lambda writer: None)


MAKERS: Mapping[str, Maker] = {
    "chat": _chat,
    "completions": _completions,
    "Anthropic's messages": _anthropic,
    "Responses": _responses,
}


def took(writer: Writer, batches: Sequence[Sequence[Piece]]) -> tuple[float, float]:
    """Microseconds of this thread to write one token's text, and to begin and end the answer."""
    started = time.thread_time()
    writer.begin()
    begun = time.thread_time()
    for batch in batches:
        writer.batch(batch)
    written = time.thread_time()
    writer.end(SUMMARY)
    around = begun - started + time.thread_time() - written
    return 1e6 * (written - begun) / len(batches), 1e6 * around


def measure(vocabulary: Vocabulary, rounds: int, tools: bool) -> Mapping[str, tuple[float, float]]:
    """By API, as `took`: lower quartiles, because other work of the machine can only make a round slower."""
    tokens = vocabulary.encode_rendered(TEXT)
    batches = [[Piece(vocabulary.decode([token]), token=token)] for token in tokens]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in MAKERS}
    for _ in range(rounds):
        for name, maker in MAKERS.items():
            found[name].append(took(maker(vocabulary, tools), batches))
    return {
        name: (_quartile([one for one, _ in all]), _quartile([two for _, two in all])) for name, all in found.items()
    }


def _quartile(times: Sequence[float]) -> float:
    return quantiles(times, n=4)[0]


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--rounds", type=positive, default=40, help="rounds to measure")


def main(args: argparse.Namespace) -> int:
    engine = load_target(shipped("draft", "transformers"), "transformers")
    plain, offered = (measure(engine.vocabulary, args.rounds, tools) for tools in (False, True))
    engine.close()
    table = Table(title=f"What an API adds to a stream, lower quartile of {args.rounds} rounds, microseconds")
    for column in ("API", "token", "token, with a tool", "begin and end"):
        table.add_column(column, justify="left" if column == "API" else "right")
    for name, (token, around) in plain.items():
        with_tool = "" if name == "completions" else f"{offered[name][0]:.2f}"
        table.add_row(name, f"{token:.2f}", with_tool, f"{around:.0f}")
    Console().print(table)
    return 0
