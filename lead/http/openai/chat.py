"""POST /v1/chat/completions: OpenAI's chat, with llama-server's timings and our own `accepted`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from duo.engines import Vocabulary
from duo.errors import RequestError
from lead.api import FinishReason, Piece, Question
from lead.http.defaults import SamplingDefaults
from lead.http.errors import dump
from lead.http.openai.fields import MAX_TOP_LOGPROBS, AnswerFields, with_seed
from lead.http.openai.logprobs import ChatLogprobs, chat_logprobs
from lead.http.openai.messages import Conversation, ResponseFormat
from lead.http.openai.tool_calls import CallParser
from lead.http.openai.tools import ToolCall, ToolFields
from lead.http.openai.usage import Timings, Usage, figures
from lead.http.openai.writers import ChatWriter
from lead.http.parsing import Cannot, parse
from lead.http.site import Site
from lead.http.stream import Envelope, events, head_of, respond


class ChatRequest(Conversation, ToolFields, AnswerFields):
    """Body of POST /v1/chat/completions."""

    max_completion_tokens: int | None = Field(None, ge=-1, lt=1 << 31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | None = Field(
        None, description="From llama-server: the same as a response_format of type json_schema."
    )

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

    def questions(self, vocabulary: Vocabulary, defaults: SamplingDefaults) -> list[Question]:
        """One for each of the `n` answers. Raises RequestError."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError(f"top_logprobs is {self.top_logprobs}: set logprobs to true as well", "top_logprobs")
        question = Question(
            prompt=vocabulary.chat(self.turns(), [tool.plain() for tool in self.offered()], self.variables),
            sampling=self.sampling(defaults, self.tool_grammar(self._schema())),
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            streamed=bool(self.stream),
            **self.ends(vocabulary),
        )
        return [with_seed(question, i) for i in range(self.n or 1)]

    def parser(self) -> CallParser | None:
        """Finds the calls in one answer, if it may hold any."""
        names = [tool.function.name for tool in self.offered()]
        return CallParser(names, self.parallel_tool_calls is not False, self.must_call) if names else None

    def _schema(self) -> Mapping[str, Any] | None:
        """The schema that the answer must follow, if any."""
        given = self.response_format.answer() if self.response_format is not None else None
        if given is not None and self.json_schema:
            raise RequestError("json_schema and response_format say the same: give one of them", "json_schema")
        return given or self.json_schema or given


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


class ChatCompletion(Envelope):
    object: Literal["chat.completion"]
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
        None, description="The chunk's text in pieces, each with the back that guessed it, or an empty name."
    )


class ChatChunk(Envelope):
    """One event of a streamed answer. `timings` are in the last event of each choice, and beside the usage."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: Usage | None = None
    timings: Timings | None = None


async def chat_completions(site: Site, request: Request) -> Response:
    vocabulary = site.answerer.info.vocabulary
    with site.refusals():
        asked = await parse(ChatRequest, request)
        # A thread, because a long prompt takes long to tokenise.
        questions = await asyncio.to_thread(asked.questions, vocabulary, site.defaults)
        answers = site.ask(questions)
    head = head_of("chatcmpl", "chat.completion.chunk" if asked.stream else "chat.completion", site.model)
    stream = None
    if asked.stream:
        start, logprobs = f"data: {dump(head)[:-1]}", bool(asked.logprobs)
        writers = [ChatWriter(start, i, asked, asked.parser(), logprobs, vocabulary) for i in range(len(answers))]
        stream = events(answers, writers, len(answers), start if asked.wants_usage else None)

    def body(told: Sequence[Sequence[Piece]]) -> Mapping[str, object]:
        choices = [
            {"index": i, **_choice(asked, pieces, answer.summary.finish_reason, vocabulary)}
            for i, (answer, pieces) in enumerate(zip(answers, told, strict=True))
        ]
        return {**head, "choices": choices, **figures([answer.summary for answer in answers], len(answers))}

    return await respond(request, answers, body, stream)


def _choice(
    asked: ChatRequest, pieces: Sequence[Piece], reason: FinishReason, vocabulary: Vocabulary
) -> dict[str, object]:
    """A whole answer. See `ChatChoice`."""
    text = "".join([piece.text for piece in pieces])
    message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
    parser = asked.parser()
    if parser:
        text, calls = parser.push(text)
        rest, more = parser.flush(reason)
        text, calls = text + rest, calls + more
        message["content"] = text or (None if calls else "")
        if calls:
            message["tool_calls"] = [call.shape() for call in calls]
    logprobs = {"content": chat_logprobs(pieces, vocabulary), "refusal": None} if asked.logprobs else None
    finish_reason = parser.finish_reason(reason) if parser else reason
    return {"message": message, "logprobs": logprobs, "finish_reason": finish_reason}
