"""POST /messages: llama_duo's API, for its clients."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from duo.engines import Vocabulary
from lead.api import Question
from lead.http.defaults import SamplingDefaults
from lead.http.openai.fields import SamplingFields, other_forms
from lead.http.openai.messages import Messages, Text
from lead.http.parsing import Cannot, parse
from lead.http.site import Site
from lead.http.stream import respond


class MessagesRequest(SamplingFields):
    """Body of POST /messages. Greedy, unless the request says how to sample."""

    messages: Messages
    system: Text | None = None

    cannot: ClassVar[Cannot] = {
        "stream": ((None, False), "/messages does not stream: use /v1/chat/completions"),
        **other_forms("/messages gives plain text: use /v1/chat/completions with response_format"),
        "n": ((None, 1), "/messages gives one answer: use /v1/chat/completions"),
        "tools": ((None, []), "/messages knows no tools: use /v1/chat/completions"),
    }

    def question(self, vocabulary: Vocabulary, defaults: SamplingDefaults) -> Question:
        """Raises RequestError."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return Question(
            prompt=vocabulary.chat(system + [message.plain() for message in self.messages]),
            sampling=self.sampling(defaults.greedy() if self.seed is None else defaults),
            **self.ends(vocabulary, defaults),
        )


class MessageText(BaseModel):
    text: str


class MessagesResponse(BaseModel):
    content: MessageText


async def messages(site: Site, request: Request) -> Response:
    with site.refusals():
        asked = await parse(MessagesRequest, request)
        # A thread, because a long prompt takes long to tokenise.
        question = await asyncio.to_thread(asked.question, site.answerer.info.vocabulary, site.defaults)
        answers = site.ask(request, [question])
    return await respond(
        request, answers, lambda told: {"content": {"text": "".join([piece.text for piece in told[0]])}}
    )
