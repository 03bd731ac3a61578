"""POST /v1/responses: OpenAI's Responses API, and what it remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from fastapi import Request
from fastapi.responses import Response

from duo.errors import RequestError
from lead.api import Piece
from lead.chat.prepare import prepare
from lead.http.errors import NotFoundError, PreviousResponseError, dump, json_response
from lead.http.parsing import parse
from lead.http.responses.fields import AskedFields, CountRequest, ResponsesRequest
from lead.http.responses.items import Item, Reference, items_of
from lead.http.responses.memory import ITEM_BYTES, Kept, Memory
from lead.http.responses.writer import ResponseWriter
from lead.http.site import Site
from lead.http.stream import StreamStyle, events, respond


async def create(site: Site, request: Request) -> Response:
    vocabulary = site.answerer.info.vocabulary
    with site.refusals():
        asked = await parse(ResponsesRequest, request)
        items, remembered = _items(asked, site.memory)
        # A thread, because a long prompt takes long to tokenise.
        prepared, question, tools = await asyncio.to_thread(
            asked.ready, items, vocabulary, site.options.chat, site.defaults
        )
        answers = site.ask([question])
    given = remembered + len(await request.body())

    def finished(writer: ResponseWriter) -> None:
        if asked.store is not False:
            site.memory.keep(writer.id, _kept(items, given, writer))

    writer = ResponseWriter(asked, question, prepared.parser(), tools, site.model, vocabulary, finished)

    def body(told: Sequence[Sequence[Piece]]) -> Mapping[str, object]:
        writer.batch(told[0])
        writer.end(answers[0].summary)
        return writer.body

    stream = events(answers, [writer], StreamStyle(writer.failed, lambda: "")) if asked.stream else None
    return await respond(request, answers, body, stream)


async def input_tokens(site: Site, request: Request) -> Response:
    """How many tokens the prompt of a request has."""
    vocabulary = site.answerer.info.vocabulary
    with site.refusals():
        asked = await parse(CountRequest, request)
        items, _ = _items(asked, site.memory)
        conversation = asked.conversation(items, asked.entries(items))
        prepared = await asyncio.to_thread(prepare, conversation, vocabulary, site.options.chat)
    return json_response({"object": "response.input_tokens", "input_tokens": len(prepared.prompt)})


async def get(site: Site, request: Request) -> Response:
    name = request.path_params["response_id"]
    if request.query_params.get("stream", "false").lower() not in ("false", "0"):
        raise RequestError("stream: a response that is over is not streamed again", "stream")
    kept = site.memory.find(name)
    if kept is None:
        raise _unknown(name)
    return Response(kept.body, media_type="application/json")


async def delete(site: Site, request: Request) -> Response:
    name = request.path_params["response_id"]
    if not site.memory.forget(name):
        raise _unknown(name)
    return json_response({"id": name, "object": "response", "deleted": True})


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"the lead remembers no response {name[:100]!r}: it keeps the last ones, and none for ever")


def _items(asked: AskedFields, memory: Memory) -> tuple[list[Item], int]:
    """All items, with those of earlier responses, and about how many bytes the latter take. Raises DuoError."""
    given, previous = _known(asked.items, memory), asked.previous_response_id
    if previous is None:
        return given, 0
    kept = memory.find(previous)
    if kept is None:
        raise PreviousResponseError(
            f"previous_response_id: the lead remembers no response {previous[:100]!r}, send the whole conversation"
        )
    return [*kept.items, *given], kept.size


def _known(items: Sequence[Item], memory: Memory) -> list[Item]:
    """The items, with those that references stand for. Raises NotFoundError."""
    found: list[Item] = []
    for item in items:
        if isinstance(item, Reference):
            known = memory.item(item.id)
            if known is None:
                raise NotFoundError(f"input: the lead remembers no item {item.id[:100]!r}, send the item", "input")
            item = known
        found.append(item)
    return found


def _kept(items: Sequence[Item], given: int, writer: ResponseWriter) -> Kept:
    """What to remember. `given`: bytes of what the client has sent."""
    made = items_of(writer.output)
    body = dump(writer.body)
    return Kept((*items, *made), len(made), body, given + len(body) + ITEM_BYTES * (len(items) + len(made)))
