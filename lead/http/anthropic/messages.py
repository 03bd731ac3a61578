"""POST /v1/messages and POST /v1/messages/count_tokens: Anthropic's Messages API."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence

from fastapi import Request
from fastapi.responses import Response

from lead.api import Piece
from lead.chat.answer import AnswerReader, whole
from lead.chat.prepare import prepare
from lead.http.anthropic.errors import new_request_id
from lead.http.anthropic.fields import AnthropicCountRequest, AnthropicRequest
from lead.http.anthropic.shapes import content, stopped, usage_of
from lead.http.anthropic.writer import STYLE, MessageWriter
from lead.http.errors import json_response
from lead.http.parsing import own_names, parse
from lead.http.silent import told_of
from lead.http.site import Site
from lead.http.stream import events, respond


async def messages(site: Site, request: Request) -> Response:
    with site.refusals():
        asked = await parse(AnthropicRequest, request)
        with own_names(asked.grammar_of):
            # A thread, because a long prompt takes long to tokenise.
            vocabulary, options = site.answerer.info.vocabulary, site.options
            prepared, question = await asyncio.to_thread(asked.ready, vocabulary, options.chat, site.defaults)
            answers = told_of(site.ask(request, [question]), asked.no_answer)
    head = {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": site.model}
    limit = 0 if asked.no_answer else question.max_tokens
    stream = None
    if asked.stream:
        reader = AnswerReader(prepared.parser())
        writer = MessageWriter(head, len(prepared.prompt), limit, reader, asked.shows_thinking)
        stream = events(answers, [writer], STYLE)

    def body(told: Sequence[Sequence[Piece]]) -> Mapping[str, object]:
        summary = answers[0].summary
        answer = whole(prepared.parser(), told[0], summary.finish_reason)
        return {
            **head,
            "content": content(answer.parts, asked.shows_thinking),
            **stopped(answer.finish_reason, summary, limit),
            "usage": usage_of(summary, answer.thinking_tokens),
        }

    return _named(await respond(request, answers, body, stream))


async def count_tokens(site: Site, request: Request) -> Response:
    with site.refusals():
        asked = await parse(AnthropicCountRequest, request)
        with own_names(asked.grammar_of):
            vocabulary = site.answerer.info.vocabulary
            prepared = await asyncio.to_thread(lambda: prepare(asked.conversation(), vocabulary, site.options.chat))
    return _named(json_response({"input_tokens": len(prepared.prompt)}))


def _named(response: Response) -> Response:
    """With the id of the request where clients look for it."""
    response.headers["request-id"] = new_request_id()
    return response
