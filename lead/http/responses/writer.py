"""Writes a response: its items as they come, each with its events, and the whole at the end.

A response that is not streamed is written in the same way, and its events are dropped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from duo.engines.base import Vocabulary
from duo.errors import DuoError
from lead.api import Piece, Question, Summary
from lead.chat.answer import AnswerReader
from lead.chat.parser import AnswerParser
from lead.chat.parts import Call, Part, Text
from lead.http.errors import dump, error_of, named_event
from lead.http.openai.logprobs import chat_logprobs
from lead.http.responses.failure import blank, failing, new_id
from lead.http.responses.fields import ResponsesRequest
from lead.http.responses.items import sealed
from lead.http.responses.tools import ToolEntry

Kind = Literal["message", "reasoning"]
_PREFIXES: Mapping[str, str] = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}
_TEXTS: Mapping[Kind, str] = {"message": "output_text", "reasoning": "reasoning_text"}


class ResponseWriter:
    """A `lead.http.stream.Writer` for one response."""

    def __init__(
        self,
        asked: ResponsesRequest,
        question: Question,
        parser: AnswerParser,
        tools: Sequence[ToolEntry],
        model: str,
        vocabulary: Vocabulary,
        finished: Callable[[ResponseWriter], None],
    ) -> None:
        """`finished` hears of the end, when `body` is whole."""
        self.body = _opening(asked, question, model)
        """The response object, as far as it is."""
        self._reader, self._vocabulary, self._finished = AnswerReader(parser), vocabulary, finished
        self._tools = {entry.tool.name: entry for entry in tools}
        self._tells_thinking = asked.tells_thinking
        self._seals, self._logprobs = asked.wants_sealed_thinking, asked.wants_logprobs
        self._number = 0
        self._open: _OpenText | None = None
        self._blank = ""
        """White space that no item has yet: it may stand between items, where it says nothing."""
        self._pieces: list[Piece] = []
        """Pieces whose log probabilities are not told yet."""

    @property
    def id(self) -> str:
        return str(self.body["id"])

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items that are complete."""
        found: list[dict[str, Any]] = self.body["output"]
        return found

    def begin(self) -> str:
        return self._event("response.created", response=self.body) + self._event(
            "response.in_progress", response=self.body
        )

    def batch(self, pieces: Sequence[Piece]) -> str:
        if not self._logprobs:
            return self._take(self._reader.push(pieces))
        events = ""
        for piece in pieces:
            self._pieces.append(piece)
            events += self._take(self._reader.push([piece]))
        return events

    def end(self, summary: Summary) -> str:
        reason = summary.finish_reason
        events = self._take(self._reader.end(reason))
        cut = self._reader.finish_reason(reason) == "length"
        if self._open is None and not self.output:
            # An answer without text is a message all the same: clients look for one.
            events += self._text("message", "", always=True)
        events += self._close("incomplete" if cut else "completed")
        self.body |= {
            "status": "incomplete" if cut else "completed",
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": _usage(summary, self._reader.thinking_tokens),
        }
        self._finished(self)
        return events + self._event("response.incomplete" if cut else "response.completed", response=self.body)

    def failed(self, error: DuoError | None) -> str:
        """The events of an answer that broke off. None: nobody expected it."""
        events = failing(self.body, error_of(error), self._number)
        self.body = events[-1]["response"]
        return "".join(map(named_event, events))

    def _event(self, kind: str, **fields: object) -> str:
        event = named_event({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return event

    def _take(self, parts: Sequence[Part]) -> str:
        events = ""
        for part in parts:
            if isinstance(part, Text):
                events += self._text("message", part.text)
            elif isinstance(part, Call):
                events += self._call(part)
            elif self._tells_thinking:
                events += self._text("reasoning", part.text)
        return events

    def _text(self, kind: Kind, text: str, always: bool = False) -> str:
        """More text of a message, or of thinking."""
        events = ""
        if self._open is None or self._open.kind != kind:
            text, self._blank = self._blank + text, ""
            if not text.strip() and not always:
                self._blank = text
                return ""
            events = self._close("completed") + self._begin(kind)
        opened = self._open
        assert opened is not None
        if not text:
            return events
        opened.text.append(text)
        logprobs = opened.no_logprobs
        if self._logprobs and kind == "message":
            told = self._scores(text)
            opened.logprobs += told
            logprobs = f',"logprobs":{dump(told)}'
        number, self._number = self._number, self._number + 1
        return f'{events}{opened.before}{number},"delta":{dump(text)}{logprobs}}}\n\n'

    def _scores(self, text: str) -> list[dict[str, object]]:
        """Log probabilities of the tokens that this text ends with. Tokens of thinking and of calls are left out."""
        pieces, self._pieces = self._pieces, []
        length = 0
        for at in range(len(pieces) - 1, -1, -1):
            if length >= len(text):
                pieces = pieces[at + 1 :]
                break
            length += len(pieces[at].text)
        return chat_logprobs(pieces, self._vocabulary)

    def _begin(self, kind: Kind) -> str:
        index = len(self.output)
        opened = self._open = _OpenText(kind, new_id(_PREFIXES[kind]), index)
        part = opened.part()
        return self._event("response.output_item.added", output_index=index, item=opened.begun()) + self._event(
            "response.content_part.added", **opened.place, part=part
        )

    def _close(self, status: str) -> str:
        """The events that end the open text."""
        opened, self._open = self._open, None
        if opened is None:
            return ""
        text, part = "".join(opened.text), opened.part()
        item = opened.item(status, sealed(text) if self._seals and opened.kind == "reasoning" else None)
        self.output.append(item)
        beside = {"logprobs": opened.logprobs} if opened.kind == "message" else {}
        return (
            self._event(f"response.{_TEXTS[opened.kind]}.done", **opened.place, text=text, **beside)
            + self._event("response.content_part.done", **opened.place, part=part)
            + self._event("response.output_item.done", output_index=opened.index, item=item)
        )

    def _call(self, call: Call) -> str:
        events = self._close("completed")
        self._blank = ""
        index = len(self.output)
        item, key, given = _call_item(call, self._tools.get(call.name))
        self.output.append(item)
        place = {"item_id": item["id"], "output_index": index}
        name = "function_call_arguments" if key == "arguments" else "custom_tool_call_input"
        begun = {**item, "status": "in_progress", key: ""}
        events += self._event("response.output_item.added", output_index=index, item=begun)
        events += self._event(f"response.{name}.delta", **place, delta=given)
        events += self._event(f"response.{name}.done", **place, **{key: given})
        return events + self._event("response.output_item.done", output_index=index, item=item)


class _OpenText:
    """A message, or thinking, that is being written."""

    def __init__(self, kind: Kind, item_id: str, index: int) -> None:
        self.kind: Kind = kind
        self.id, self.index = item_id, index
        self.text: list[str] = []
        self.logprobs: list[dict[str, object]] = []
        self.place = {"item_id": item_id, "output_index": index, "content_index": 0}
        name = f"response.{_TEXTS[kind]}.delta"
        place = dump({"type": name, **self.place})[:-1]
        self.before = f'event: {name}\ndata: {place},"sequence_number":'
        """How every delta of it begins."""
        self.no_logprobs = ',"logprobs":[]' if kind == "message" else ""
        """How a delta ends that tells no log probabilities."""

    def begun(self) -> dict[str, Any]:
        """The item, before its first text."""
        return {**self.item("in_progress", None), "content": []}

    def part(self) -> dict[str, Any]:
        part: dict[str, Any] = {"type": _TEXTS[self.kind], "text": "".join(self.text)}
        return part | ({"annotations": [], "logprobs": self.logprobs} if self.kind == "message" else {})

    def item(self, status: str, sealed_thinking: str | None) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self.id, "type": self.kind, "status": status, "content": [self.part()]}
        if self.kind == "message":
            return item | {"role": "assistant"}
        return item | {"summary": []} | ({"encrypted_content": sealed_thinking} if sealed_thinking else {})


def _call_item(call: Call, entry: ToolEntry | None) -> tuple[dict[str, Any], str, str]:
    """The item of a call, the field that holds what it is called with, and that."""
    custom = entry is not None and entry.kind == "custom"
    kind, key = ("custom_tool_call", "input") if custom else ("function_call", "arguments")
    given = _input(call.arguments) if custom else call.arguments
    item: dict[str, Any] = {
        "id": new_id(_PREFIXES[kind]),
        "type": kind,
        "status": "completed" if call.whole else "incomplete",
        "call_id": call.id,
        "name": entry.name if entry is not None else call.name,
        key: given,
    }
    if entry is not None and entry.namespace:
        item["namespace"] = entry.namespace
    return item, key, given


def _input(arguments: str) -> str:
    """The text that a custom tool is called with. Arguments without it are the text."""
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    given = found.get("input") if isinstance(found, dict) else None
    return given if isinstance(given, str) else arguments


def _usage(summary: Summary, thinking: int) -> dict[str, object]:
    """See `lead.http.responses.shapes.ResponseUsage`. `thinking`: tokens of thinking."""
    return {
        "input_tokens": summary.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": summary.cached_tokens,
            "cache_write_tokens": summary.prompt_tokens - summary.cached_tokens,
        },
        "output_tokens": summary.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": thinking},
        "total_tokens": summary.prompt_tokens + summary.completion_tokens,
    }


def _opening(asked: ResponsesRequest, question: Question, model: str) -> dict[str, Any]:
    """The response object before its first item. See `lead.http.responses.shapes.Response`."""
    form = asked.text.format if asked.text is not None else None
    return {
        **blank(model),
        "instructions": asked.instructions,
        "max_output_tokens": question.max_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "metadata": asked.metadata or {},
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "prompt_cache_key": asked.prompt_cache_key,
        "reasoning": {"effort": asked.reasoning.effort if asked.reasoning is not None else None, "summary": None},
        "safety_identifier": asked.safety_identifier,
        "service_tier": "default",
        "store": asked.store is not False,
        "background": False,
        "temperature": question.sampling.temperature,
        "text": {"format": form.model_dump(by_alias=True, exclude_none=True) if form is not None else {"type": "text"}},
        "tool_choice": asked.tool_choice or "auto",
        "tools": asked.tools or [],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": question.sampling.top_p,
        "truncation": "disabled",
        "user": asked.user,
    }
