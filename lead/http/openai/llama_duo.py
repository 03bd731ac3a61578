"""POST /messages: llama_duo's API, for clients that were made for it."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from duo.engines import Vocabulary
from lead.api import Answerer, Question
from lead.http.observe import Watch, ask_all, refusals
from lead.http.openai.fields import DEFAULT_TEMPERATURE, SamplingFields
from lead.http.openai.messages import Message, Text
from lead.http.parsing import Cannot, parse
from lead.http.stream import respond


class MessagesRequest(SamplingFields):
    """Body of POST /messages: greedy, unless the request says how to sample."""

    messages: list[Message] = Field(min_length=1)
    system: Text | None = None

    cannot: ClassVar[Cannot] = {
        "stream": ((None, False), "/messages does not stream: use /v1/chat/completions"),
        "stop_sequences": ((None, []), "it is called stop here"),
        "n": ((None, 1), "/messages gives one answer: use /v1/chat/completions"),
        "tools": ((None, []), "/messages knows no tools: use /v1/chat/completions"),
    }

    def question(self, vocabulary: Vocabulary) -> Question:
        """Raises RequestError."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return Question(
            prompt=vocabulary.chat(system + [message.plain() for message in self.messages]),
            sampling=self.sampling(0.0 if self.seed is None else DEFAULT_TEMPERATURE),
            max_tokens=self.limit(),
            ignore_eos=bool(self.ignore_eos),
            stop=tuple(self.stop or ()),
            stop_names=self.stop_names(vocabulary),
            stop_tokens=tuple(self.stop_token_ids or ()),
        )


class MessageText(BaseModel):
    text: str


class MessagesResponse(BaseModel):
    content: MessageText


def router(answerer: Answerer, watch: Watch) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/messages")
    async def messages(request: Request) -> Response:
        with refusals(watch):
            asked = await parse(MessagesRequest, request)
            # Others are served while a long prompt is cut into tokens.
            question = await asyncio.to_thread(asked.question, answerer.vocabulary)
            answers = ask_all(answerer, [question], watch)
        return await respond(
            request, answers, lambda pieces: {"content": {"text": "".join([piece.text for piece in pieces[0]])}}
        )

    return routes
