"""POST /v1/responses: OpenAI's Responses API, and what it remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from fastapi import Request
from fastapi.responses import Response

from duo.errors import RequestError
from lead.api import Piece
from lead.http.errors import NotFoundError, PreviousResponseError, dump, json_response
from lead.http.owner import owner_of
from lead.http.parsing import own_names, parse
from lead.http.responses.fields import AskedFields, CountRequest, ResponsesRequest
from lead.http.responses.items import Item, Reference, items_of
from lead.http.responses.memory import Kept, Memory, Turn, bytes_of, items_in
from lead.http.responses.writer import ResponseWriter
from lead.http.site import Site
from lead.http.stream import StreamStyle, events, respond


async def create(site: Site, request: Request) -> Response:
    vocabulary = site.answerer.info.vocabulary
    with site.refusals():
        asked = await parse(ResponsesRequest, request)
        owner = owner_of(request.scope)
        before, given = _given(asked, site.memory, owner)
        items, stored = [*items_in(before), *given], asked.store is not False
        with own_names(asked.grammar_of, "input"):
            # A thread, because a long prompt takes long to tokenise.
            prepared, question, tools = await asyncio.to_thread(
                asked.ready, items, vocabulary, site.options.chat, site.defaults
            )
            text = await asyncio.to_thread(bytes_of, given) if stored else 0
            answers = site.ask(request, [question])

    def finished(writer: ResponseWriter) -> None:
        if stored:
            site.memory.keep(writer.id, _kept(before, given, text, writer, owner))

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
        before, given = _given(asked, site.memory, owner_of(request.scope))
        items = [*items_in(before), *given]
        with own_names(asked.grammar_of, "input"):
            prepared, _ = await asyncio.to_thread(asked.prepared, items, vocabulary, site.options.chat)
    return json_response({"object": "response.input_tokens", "input_tokens": len(prepared.prompt)})


async def get(site: Site, request: Request) -> Response:
    name = request.path_params["response_id"]
    if request.query_params.get("stream", "false").lower() not in ("false", "0"):
        raise RequestError("stream: a response that is over is not streamed again", "stream")
    kept = site.memory.find(name, owner_of(request.scope))
    if kept is None:
        raise _unknown(name)
    return Response(kept.body, media_type="application/json")


async def delete(site: Site, request: Request) -> Response:
    name = request.path_params["response_id"]
    if not site.memory.forget(name, owner_of(request.scope)):
        raise _unknown(name)
    return json_response({"id": name, "object": "response", "deleted": True})


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"the lead remembers no response {name[:100]!r}: it keeps the last ones, and none for ever")


def _given(asked: AskedFields, memory: Memory, owner: str) -> tuple[Sequence[Turn], list[Item]]:
    """The turns that the request goes on from, and its own items, with those that references stand for.

    Raises DuoError.
    """
    before: Sequence[Turn] = ()
    if (previous := asked.previous_response_id) is not None:
        if (kept := memory.find(previous, owner)) is None:
            raise PreviousResponseError(
                f"previous_response_id: the lead remembers no response {previous[:100]!r}, send the whole conversation"
            )
        before = kept.turns
    there = {item.id for item in items_in(before)}
    found: list[Item] = []
    for item in asked.items:
        if isinstance(item, Reference):
            if item.id in there:
                raise RequestError(f"input: the item {item.id[:100]!r} is there twice, refer to it once", "input")
            there.add(item.id)
            item = _known(item, memory, owner)
        found.append(item)
    return before, found


def _known(reference: Reference, memory: Memory, owner: str) -> Item:
    known = memory.item(reference.id, owner)
    if known is None:
        raise NotFoundError(f"input: the lead remembers no item {reference.id[:100]!r}, send the item", "input")
    return known


def _kept(before: Sequence[Turn], given: Sequence[Item], text: int, writer: ResponseWriter, owner: str) -> Kept:
    """What to remember. `text`: bytes of the given items."""
    made = items_of(writer.output)
    turn = Turn((*given, *made), len(made), text + bytes_of(made))
    return Kept((*before, turn), dump(writer.body), owner)
