"""POST /v1/chat/completions: OpenAI's chat, with llama-server's figures and words of its own about guesses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from duo.engines import Vocabulary
from duo.errors import RequestError
from lead.api import Answer, Answerer, Piece, Question, Summary
from lead.http.errors import dump
from lead.http.observe import Watch, ask_all, refusals
from lead.http.openai.fields import DEFAULT_TEMPERATURE, MAX_TOP_LOGPROBS, AnswerFields, with_seed
from lead.http.openai.logprobs import ChatLogprobs, chat_logprobs
from lead.http.openai.messages import Conversation, ResponseFormat
from lead.http.openai.tool_calls import Call, CallParser
from lead.http.openai.tools import ToolCall, ToolFields
from lead.http.openai.usage import Timings, Usage, timings, together, usage
from lead.http.options import Options
from lead.http.parsing import Cannot, parse
from lead.http.stream import events, head_of, respond

# -- What is asked -------------------------------------------------------------------------------------------------


class ChatRequest(Conversation, ToolFields, AnswerFields):
    """Body of POST /v1/chat/completions."""

    max_completion_tokens: int | None = Field(None, ge=-1, lt=1 << 31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | None = Field(None, description="llama-server's: the same as a response_format.")

    limits: ClassVar[Sequence[str]] = ("n_predict", "max_completion_tokens", "max_tokens")
    cannot: ClassVar[Cannot] = {
        **Conversation.cannot,
        **AnswerFields.cannot,
        "functions": ((None, []), "functions are not supported, use tools"),
        "function_call": ((None, "none", "auto"), "functions are not supported, use tools and tool_choice"),
        "modalities": ((None, [], ["text"]), "only text is supported"),
        "audio": ((None,), "only text is supported"),
        "web_search_options": ((None,), "the lead searches nothing"),
    }

    def question(self, vocabulary: Vocabulary) -> Question:
        """Raises RequestError."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError(f"top_logprobs is {self.top_logprobs}: set logprobs to true as well", "top_logprobs")
        return Question(
            prompt=vocabulary.chat(self.turns(), [tool.plain() for tool in self.offered()], self.variables),
            sampling=self.sampling(DEFAULT_TEMPERATURE, self.tool_grammar(self._answer())),
            max_tokens=self.limit(),
            ignore_eos=bool(self.ignore_eos),
            stop=tuple(self.stop or ()),
            stop_names=self.stop_names(vocabulary),
            stop_tokens=tuple(self.stop_token_ids or ()),
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            streamed=bool(self.stream),
        )

    def parser(self) -> CallParser | None:
        """Of one answer, where there may be calls in it."""
        names = [tool.function.name for tool in self.offered()]
        return CallParser(names, self.parallel_tool_calls is not False, self.must_call) if names else None

    def _answer(self) -> Mapping[str, Any] | None:
        given = self.response_format.answer() if self.response_format is not None else None
        if given is not None and self.json_schema:
            raise RequestError("json_schema and response_format say the same: give one of them", "json_schema")
        return given or self.json_schema or given


# -- What is answered ----------------------------------------------------------------------------------------------


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings


class CallDelta(ToolCall):
    index: int


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    accepted: list[tuple[str, str]] | None = Field(
        None, description="The chunk's text in pieces, each with the back that guessed it, or nothing."
    )


class ChatChunk(BaseModel):
    """One event of a streamed answer. `timings` are on the last one of each choice, and beside the usage."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    timings: Timings | None = None


def router(answerer: Answerer, options: Options, watch: Watch) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions")
    @routes.post("/chat/completions", include_in_schema=False)
    async def chat_completions(request: Request) -> Response:
        with refusals(watch):
            asked = await parse(ChatRequest, request)
            # Others are served while a long prompt is cut into tokens.
            question = await asyncio.to_thread(asked.question, answerer.vocabulary)
            count = asked.n or 1
            answers = ask_all(answerer, [with_seed(question, i) for i in range(count)], watch)
        shape = "chat.completion.chunk" if asked.stream else "chat.completion"
        head = head_of("chatcmpl", shape, options.alias or answerer.model)
        stream = None
        if asked.stream:
            start = f"data: {dump(head)[:-1]}"
            writers = [ChatWriter(start, i, asked, answerer.vocabulary) for i in range(count)]
            stream = events(answers, writers, count, start if asked.wants_usage else None)
        return await respond(
            request, answers, lambda pieces: _completion(head, asked, answers, pieces, answerer.vocabulary), stream
        )

    return routes


def _completion(
    head: Mapping[str, object],
    asked: ChatRequest,
    answers: Sequence[Answer],
    pieces: Sequence[Sequence[Piece]],
    vocabulary: Vocabulary,
) -> dict[str, object]:
    choices = []
    for index, (answer, told) in enumerate(zip(answers, pieces, strict=True)):
        text, reason = "".join([piece.text for piece in told]), answer.summary.finish_reason
        message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
        if parser := asked.parser():
            text, calls = parser.push(text)
            rest, more = parser.flush(reason)
            text, calls = text + rest, calls + more
            message["content"] = text or (None if calls else "")
            if calls:
                message["tool_calls"] = [call.shape() for call in calls]
        logprobs = {"content": chat_logprobs(told, vocabulary), "refusal": None} if asked.logprobs else None
        finish_reason = parser.finish_reason(reason) if parser else reason
        choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish_reason})
    summary = together([answer.summary for answer in answers], len(answers))
    figures = {"usage": usage(summary), "timings": timings(summary)}
    return {**head, "choices": choices, **figures}


class ChatWriter:
    """Writes one answer as chunks."""

    def __init__(self, start: str, index: int, asked: ChatRequest, vocabulary: Vocabulary) -> None:
        # OpenAI sends a null usage on all chunks but the last where usage is asked for.
        self._no_usage = ',"usage":null' if asked.wants_usage else ""
        self._start, self._index, self._vocabulary = start, index, vocabulary
        self._before = f'{start},"choices":[{{"index":{index},"delta":{{"content":'
        self._after = f'}},"logprobs":null,"finish_reason":null}}]{self._no_usage}}}\n\n'
        self._parser = asked.parser()
        self._logprobs, self._accepted = bool(asked.logprobs), bool(asked.accepted)
        self._plain = not (self._parser or self._logprobs or self._accepted)
        self._calls = 0
        self._pieces: list[Piece] = []
        """Of which no chunk has told yet."""

    def begin(self) -> str:
        return self._before + '"","role":"assistant"' + self._after

    def batch(self, pieces: Sequence[Piece]) -> str:
        text = "".join([piece.text for piece in pieces])
        if self._plain:
            return self._before + dump(text) + self._after if text else ""
        self._pieces += pieces
        calls: list[Call] = []
        if self._parser:
            text, calls = self._parser.push(text)
        return self._chunk(text, calls) if text or calls else ""

    def end(self, summary: Summary) -> str:
        reason = summary.finish_reason
        text, calls = self._parser.flush(reason) if self._parser else ("", [])
        # Tokens without text, as one that ends the answer, have log probabilities too.
        rest = self._chunk(text, calls) if text or calls or (self._logprobs and self._pieces) else ""
        finish_reason = self._parser.finish_reason(reason) if self._parser else reason
        choice = {"index": self._index, "delta": {}, "logprobs": None, "finish_reason": finish_reason}
        figures = f'"timings":{dump(timings(summary))}'
        return f'{rest}{self._start},"choices":[{dump(choice)}]{self._no_usage},{figures}}}\n\n'

    def _chunk(self, text: str, calls: Sequence[Call]) -> str:
        delta: dict[str, object] = {"content": text} if text or not calls else {}
        if calls:
            delta["tool_calls"] = [{"index": self._calls + i, **call.shape()} for i, call in enumerate(calls)]
            self._calls += len(calls)
        choice: dict[str, object] = {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None}
        pieces, self._pieces = self._pieces, []
        if self._logprobs:
            choice["logprobs"] = {"content": chat_logprobs(pieces, self._vocabulary), "refusal": None}
        if self._accepted:
            choice["accepted"], self._pieces = accepted(pieces, text, len(self._parser.held) if self._parser else 0)
        if self._logprobs:
            # They are told; only what guessed the text that is held back is not.
            self._pieces = [Piece(piece.text, piece.backs) for piece in self._pieces]
        return f'{self._start},"choices":[{dump(choice)}]{self._no_usage}}}\n\n'


def accepted(pieces: Sequence[Piece], text: str, held: int) -> tuple[list[list[str]], list[Piece]]:
    """Who guessed the text of a chunk: `[[text, back or ""], ...]`, which together are `text`, the beginning of what
    the pieces say; and of the pieces what makes up the last `held` characters, for a later chunk."""
    told: list[list[str]] = []
    left = len(text)
    for piece in pieces:
        shown, left = piece.text[:left], left - min(left, len(piece.text))
        if shown:
            told.append([shown, piece.backs[0] if piece.backs else ""])
    if "".join(shown for shown, _ in told) != text:
        told = [[text, ""]]  # a call was between
    later: list[Piece] = []
    for piece in reversed(pieces):
        if held > 0 and piece.text:
            later.append(Piece(piece.text[-held:], piece.backs))
            held -= len(piece.text)
    return told, later[::-1]
