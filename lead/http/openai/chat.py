"""POST /v1/chat/completions: OpenAI's chat, with llama-server's timings and our own `accepted`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from duo.engines import Vocabulary
from duo.errors import RequestError
from lead.api import Piece, Question, Summary
from lead.chat.answer import AnswerReader
from lead.chat.conversation import ChatSettings, Conversation
from lead.chat.prepare import Prepared, prepare
from lead.http.defaults import SamplingDefaults
from lead.http.errors import dump
from lead.http.openai.deltas import Deltas, ThinkingStyle
from lead.http.openai.fields import MAX_TOP_LOGPROBS, AnswerFields, with_seed
from lead.http.openai.logprobs import ChatLogprobs, chat_logprobs
from lead.http.openai.messages import ConversationFields, FormFields
from lead.http.openai.thinking import ThinkingFields
from lead.http.openai.tools import ToolCall, ToolFields, call_shape
from lead.http.openai.usage import Timings, Usage, figures
from lead.http.openai.writers import ChatWriter, chunk_style
from lead.http.parsing import Cannot, own_names, parse
from lead.http.site import Site
from lead.http.stream import Envelope, events, head_of, respond


class ChatRequest(ConversationFields, ToolFields, ThinkingFields, FormFields, AnswerFields):
    """Body of POST /v1/chat/completions."""

    max_completion_tokens: int | None = Field(None, ge=-1, lt=1 << 31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    limits: ClassVar[Sequence[str]] = ("n_predict", "max_completion_tokens", "max_tokens")
    cannot: ClassVar[Cannot] = {
        "functions": ((None, []), "functions are not supported, use tools"),
        "function_call": ((None, "none", "auto"), "functions are not supported, use tools and tool_choice"),
        "modalities": ((None, [], ["text"]), "only text is supported"),
        "audio": ((None,), "only text is supported"),
        "web_search_options": ((None,), "the lead searches nothing"),
    }

    def conversation(self) -> Conversation:
        """What the model is asked. Raises RequestError."""
        return Conversation(
            self.turns(),
            **self.asked(),
            schema=self.schema_asked(),
            variables=self.variables,
            thinking=self.thinks(),
            continues=self.continues,
        )

    @property
    def grammar_of(self) -> str:
        """The field that asks for an answer of some form. Raises RequestError."""
        return "tools" if self.asked()["choice"] == "required" else super().grammar_of

    def questions(self, prepared: Prepared, vocabulary: Vocabulary, defaults: SamplingDefaults) -> list[Question]:
        """One for each of the `n` answers. Raises RequestError."""
        question = Question(
            sampling=self.sampling(defaults, prepared.grammar),
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            streamed=bool(self.stream),
            **prepared.fields(),
            **self.ends(vocabulary, defaults),
        )
        return [with_seed(question, i) for i in range(self.n or 1)]

    def ready(
        self, vocabulary: Vocabulary, settings: ChatSettings, defaults: SamplingDefaults
    ) -> tuple[Prepared, list[Question]]:
        """The conversation and its questions. Raises RequestError."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError(f"top_logprobs is {self.top_logprobs}: set logprobs to true as well", "top_logprobs")
        if self.reasoning_format is not None:
            settings = replace(settings, reasoning_format=self.reasoning_format)
        prepared = prepare(self.conversation(), vocabulary, settings)
        return prepared, self.questions(prepared, vocabulary, defaults)

    def style(self, prepared: Prepared) -> ThinkingStyle:
        """Where thinking is told."""
        if not self.tells_thinking:
            return ThinkingStyle(apart=False)
        return ThinkingStyle(marks=prepared.thinking_marks if prepared.reasoning_format == "deepseek-legacy" else None)


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: str | None = Field(None, description="What the model thought before it answered.")
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
    reasoning_content: str | None = None
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
        with own_names(asked.grammar_of):
            # A thread, because a long prompt takes long to tokenise.
            prepared, questions = await asyncio.to_thread(asked.ready, vocabulary, site.options.chat, site.defaults)
            answers = site.ask(request, questions)
    head = head_of("chatcmpl", "chat.completion.chunk" if asked.stream else "chat.completion", site.model)
    stream = None
    if asked.stream:
        start, logprobs = f"data: {dump(head)[:-1]}", bool(asked.logprobs)
        style = asked.style(prepared)
        writers = [
            ChatWriter(start, i, asked, prepared.parser(), logprobs, vocabulary, style) for i in range(len(answers))
        ]

        def thinking() -> int:
            return sum(writer.thinking_tokens for writer in writers)

        usage_start = start if asked.wants_usage else None
        stream = events(answers, writers, chunk_style(answers, len(answers), usage_start, thinking))

    def body(told: Sequence[Sequence[Piece]]) -> Mapping[str, object]:
        readers = [AnswerReader(prepared.parser()) for _ in answers]
        choices = [
            {"index": i, **_choice(asked, reader, asked.style(prepared), pieces, answer.summary, vocabulary)}
            for i, (answer, reader, pieces) in enumerate(zip(answers, readers, told, strict=True))
        ]
        thinking = sum(reader.thinking_tokens for reader in readers)
        return {**head, "choices": choices, **figures([answer.summary for answer in answers], len(answers), thinking)}

    return await respond(request, answers, body, stream)


def _choice(
    asked: ChatRequest,
    reader: AnswerReader,
    style: ThinkingStyle,
    pieces: Sequence[Piece],
    summary: Summary,
    vocabulary: Vocabulary,
) -> dict[str, object]:
    """A whole answer. See `ChatChoice`."""
    deltas = Deltas(style)
    found = deltas.of([*reader.push(pieces), *reader.end(summary.finish_reason)])
    text = "".join([delta.content for delta in found]) + deltas.end()
    reasoning = "".join([delta.reasoning for delta in found])
    calls = [call for delta in found for call in delta.calls]
    message: dict[str, object] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [call_shape(call) for call in calls]
    logprobs = {"content": chat_logprobs(pieces, vocabulary), "refusal": None} if asked.logprobs else None
    return {"message": message, "logprobs": logprobs, "finish_reason": reader.finish_reason(summary.finish_reason)}
