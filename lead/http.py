"""The lead over HTTP: OpenAI's chat completions, llama_duo's messages, and what a person wants to look at.

A request goes three ways in order, each in a section of this file: *parse* (JSON to a `Question`; whatever is wrong
with it becomes one line in OpenAI's error object), *answer* (batches of pieces become text, for as long as the client
listens), *shape* (text and figures become the JSON of the API that was called).

The event loop shares the interpreter lock with the decode loop, so what runs once per batch is kept to the least: a
streamed chunk is one constant string before the text, the text, and one constant string after it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from duo.engines import Vocabulary
from duo.errors import BusyError, ContextError, DuoError, RequestError
from duo.sampling import SEED_BITS, SamplingParams
from lead import page
from lead.answers import Answer, Answerer, Piece, Question, Summary

BODY_LIMIT = 4 << 20
"""Bytes. More text than any context holds."""

DEFAULT_TEMPERATURE = 0.8

_RETRY_SECONDS = 1
_CLIENT_GONE = 499  # nginx's status for it; nobody is left to read it

log = logging.getLogger(__name__)
_dump = json.JSONEncoder(separators=(",", ":")).encode

T = TypeVar("T")


class LoadingError(DuoError):
    """The model is not there yet."""

    status = 503


class TooLargeError(DuoError):
    """A body over BODY_LIMIT."""

    status = 413


def create_app(answerer: Answerer) -> FastAPI:
    """The lead's HTTP side, ready for uvicorn."""
    # The generated documentation would say nothing: bodies are parsed below, for the sake of their error messages.
    app = FastAPI(title="duo lead", docs_url=None, redoc_url=None, openapi_url=None)

    async def loaded() -> None:
        if not answerer.ready:
            raise LoadingError("the model is still loading: try again in a moment, GET /health says when")

    answering = APIRouter(dependencies=[Depends(loaded)])

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok"}) if answerer.ready else _json({"status": "loading model"}, 503)

    @answering.get("/v1/models")
    async def models() -> Response:
        model = {"id": answerer.model, "object": "model", "created": answerer.created, "owned_by": "duo"}
        return _json({"object": "list", "data": [model]})

    @answering.get("/backs")
    async def backs() -> Response:
        return _json({"data": [asdict(back) for back in answerer.backs()]})

    @answering.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        asked = _parse(ChatRequest, await _body(request))
        answer = answerer.ask(asked.question(answerer.vocabulary))
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": answerer.model}
        if asked.stream:
            wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
            return EventStream(answer, _chunks(answer, head, wants_usage, bool(asked.accepted)))
        text = await _unless_gone(request.receive, answer, _text(answer))
        return Response(status_code=_CLIENT_GONE) if text is None else _json(_completion(head, text, answer.summary))

    @answering.post("/messages")
    async def messages(request: Request) -> Response:
        answer = answerer.ask(_parse(MessagesRequest, await _body(request)).question(answerer.vocabulary))
        text = await _unless_gone(request.receive, answer, _text(answer))
        return Response(status_code=_CLIENT_GONE) if text is None else _json({"content": {"text": text}})

    @answering.get("/slots")
    async def slots() -> Response:
        return _json([asdict(slot) for slot in answerer.slots()])

    app.include_router(answering)
    app.include_router(page.router)
    app.add_exception_handler(DuoError, _on_duo_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_unexpected)
    return app


# -- Parse: a body to a question -----------------------------------------------------------------------------------


def _joined(content: object) -> object:
    """A list of text parts as the text that they make together; anything else as it is, for the type to judge."""
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": str(kind)} if kind != "text":
                raise ValueError(f"a part of type {_short(kind)} cannot be read, only text can")
            case _:
                raise ValueError(f"{_short(part)} is not a text part")
    return "".join(texts)


Text = Annotated[str, BeforeValidator(_joined)]


class _Body(BaseModel):
    # Strict: "0.7" is not a number. Fields that are not named here change nothing or are in _CANNOT.
    model_config = ConfigDict(strict=True, extra="ignore")


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text

    def plain(self) -> dict[str, str]:
        # OpenAI's newer word for system, which chat templates do not know.
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class _Asked(_Body):
    """What both APIs take. None, which many clients send, means the default everywhere."""

    messages: list[Message] = Field(min_length=1)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = Field(None, lt=1 << SEED_BITS)
    max_tokens: int | None = Field(None, ge=-1, lt=1 << 31)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    # llama-server's spelling too.
    repetition_penalty: float | None = Field(
        None, validation_alias=AliasChoices("repetition_penalty", "repeat_penalty")
    )
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None

    def sampling(self, temperature: float) -> SamplingParams:
        seed = self.seed
        return SamplingParams(
            temperature=temperature if self.temperature is None else self.temperature,
            top_k=0 if self.top_k in (None, -1) else self.top_k,  # other servers switch it off with -1
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={_token_id(key): bias for key, bias in (self.logit_bias or {}).items()},
            # A negative seed asks for a random one, as with llama-server.
            seed=secrets.randbits(63) if seed is None or seed < 0 else seed,
        )


class StreamOptions(_Body):
    include_usage: bool = False


class ChatRequest(_Asked):
    """Body of POST /v1/chat/completions. The model's name is not looked at: there is only one."""

    max_completion_tokens: int | None = Field(None, ge=-1, lt=1 << 31)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Ours: each chunk says which of its pieces had been guessed, and by whom.
    accepted: bool | None = None

    def question(self, vocabulary: Vocabulary) -> Question:
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        return Question(
            prompt=vocabulary.chat([message.plain() for message in self.messages]),
            sampling=self.sampling(DEFAULT_TEMPERATURE),
            max_tokens=_limit(name, limit),
            ignore_eos=bool(self.ignore_eos),
        )


class MessagesRequest(_Asked):
    """Body of POST /messages, llama_duo's API: greedy, unless the request says how to sample."""

    system: Text | None = None

    def question(self, vocabulary: Vocabulary) -> Question:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return Question(
            prompt=vocabulary.chat(system + [message.plain() for message in self.messages]),
            sampling=self.sampling(0.0 if self.seed is None else DEFAULT_TEMPERATURE),
            max_tokens=_limit("max_tokens", self.max_tokens),
            ignore_eos=bool(self.ignore_eos),
        )


# Fields that ask for what the lead cannot do: the values that ask for nothing, and what to say about all others. To
# ignore such a field would be to answer another question than the one that was asked.
_CANNOT: Mapping[str, tuple[Sequence[object], str]] = {
    "n": ((None, 1), "the lead gives one answer per request"),
    "stop": ((None, "", []), "stop strings are not supported"),
    "stop_sequences": ((None, []), "stop strings are not supported"),
    "logprobs": ((None, False), "log probabilities are not supported"),
    "top_logprobs": ((None, 0), "log probabilities are not supported"),
    "tools": ((None, []), "tools are not supported"),
    "tool_choice": ((None, "none", "auto"), "tools are not supported"),
    "functions": ((None, []), "functions are not supported"),
    "function_call": ((None, "none", "auto"), "functions are not supported"),
    "response_format": ((None, {"type": "text"}), "only the format text is supported"),
    "grammar": ((None, ""), "grammars are not supported"),
    "json_schema": ((None, {}), "JSON schemas are not supported"),
    "modalities": ((None, [], ["text"]), "only text is supported"),
    "audio": ((None,), "only text is supported"),
    "web_search_options": ((None,), "the lead searches nothing"),
}
_MESSAGE_CANNOT: Mapping[str, tuple[Sequence[object], str]] = {
    "tool_calls": ((None, []), "tools are not supported"),
    "function_call": ((None,), "functions are not supported"),
    "audio": ((None,), "only text is supported"),
}
_MESSAGES_API_CANNOT: Mapping[str, tuple[Sequence[object], str]] = {
    "stream": ((None, False), "/messages does not stream: use /v1/chat/completions"),
}

Asked = TypeVar("Asked", ChatRequest, MessagesRequest)


def _parse(shape: type[Asked], body: bytes) -> Asked:
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError("the body must be a JSON object")
    _refuse(fields, _CANNOT)
    if shape is MessagesRequest:
        _refuse(fields, _MESSAGES_API_CANNOT)
    try:
        asked = shape.model_validate(fields)
    except ValidationError as error:
        raise _one_line(error) from None
    for index, message in enumerate(fields["messages"]):
        _refuse(message, _MESSAGE_CANNOT, f"messages[{index}].")
    return asked


def _refuse(fields: Mapping[str, object], cannot: Mapping[str, tuple[Sequence[object], str]], where: str = "") -> None:
    for name in fields.keys() & cannot.keys():
        harmless, why = cannot[name]
        if fields[name] not in harmless:
            raise RequestError(f"{where}{name} is {_short(fields[name])}: {why}", where + name)


def _one_line(error: ValidationError) -> RequestError:
    """The first thing that pydantic found, in the words of this project."""
    first = error.errors(include_url=False)[0]
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]).lstrip(".")
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return RequestError(f"{where} is missing", where)
    if first["type"] == "value_error":
        return RequestError(f"{where}: {what}", where)
    return RequestError(f"{where} is {_short(first['input'])}: {what[:1].lower()}{what[1:]}", where)


def _short(value: object) -> str:
    """A value as JSON, short enough for an error line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _token_id(key: str) -> int:
    # isdecimal alone takes other scripts' digits; nine digits are more than any vocabulary has.
    if not (key.isascii() and key.isdecimal() and len(key) <= 9):
        raise RequestError(f"logit_bias: {_short(key)} is not a token id", "logit_bias")
    return int(key)


def _limit(name: str, tokens: int | None) -> int | None:
    if tokens == 0:
        raise RequestError(f"{name} is 0: it must be at least 1, or -1 for no limit", name)
    return None if tokens == -1 else tokens


async def _body(request: Request) -> bytes:
    """The whole body. One that is too large is read to its end, though not kept: who still sends does not listen."""
    size, parts = 0, []
    async for part in request.stream():
        size += len(part)
        if size <= BODY_LIMIT:
            parts.append(part)
    if size > BODY_LIMIT:
        raise TooLargeError(f"the body has {size} bytes: at most {BODY_LIMIT} are taken")
    return b"".join(parts)


# -- Answer: for as long as the client listens ---------------------------------------------------------------------


async def _unless_gone(receive: Receive, answer: Answer, reading: Coroutine[Any, Any, T]) -> T | None:
    """What `reading` the answer gives, or None if the client goes away first. Either way the answer ends here."""
    reader = asyncio.ensure_future(reading)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((reader, leaving), return_when=asyncio.FIRST_COMPLETED)
        return reader.result() if reader.done() else None
    finally:
        answer.cancel()
        reader.cancel()
        leaving.cancel()
        await asyncio.gather(reader, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _text(answer: Answer) -> str:
    texts: list[str] = []
    async for batch in answer:
        texts += [piece.text for piece in batch]
    return "".join(texts)


class EventStream(StreamingResponse):
    """Server-sent events that end the answer when the client goes away, wherever the stream is at that moment."""

    def __init__(self, answer: Answer, events: AsyncGenerator[str, None]) -> None:
        # The headers keep proxies from collecting the chunks.
        super().__init__(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        self._answer, self._events = answer, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def pump() -> None:
            async with aclosing(self._events):
                await self.stream_response(send)

        await _unless_gone(receive, self._answer, pump())


async def _chunks(
    answer: Answer, head: Mapping[str, object], wants_usage: bool, accepted: bool
) -> AsyncGenerator[str, None]:
    """The answer as OpenAI's stream of chunks. The status is out already, so an error becomes an event.

    `accepted`: every choice with text also has `accepted`, a list of [text, name of the back that guessed it or ""].
    """
    base = {**head, "object": "chat.completion.chunk"}
    start = f"data: {_dump(base)[:-1]}"
    # OpenAI sends a null usage on all chunks but the last where usage is asked for.
    no_usage = ',"usage":null' if wants_usage else ""
    before = f'{start},"choices":[{{"index":0,"delta":{{"content":'
    after = f',"logprobs":null,"finish_reason":null}}]{no_usage}}}\n\n'
    yield before + '"","role":"assistant"}' + after
    try:
        async for batch in answer:
            text = "".join([piece.text for piece in batch])
            if text:
                yield before + _dump(text) + "}" + (_guessed(batch) if accepted else "") + after
        summary = answer.summary
    except DuoError as error:
        yield f"data: {_dump(_error(error))}\n\n"
        return
    except Exception:
        log.exception("an answer broke off")
        yield f"data: {_dump(_UNEXPECTED)}\n\n"
        return
    choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": summary.finish_reason}
    yield f'{start},"choices":[{_dump(choice)}]{no_usage},"timings":{_dump(_timings(summary))}}}\n\n'
    if wants_usage:
        yield f'{start},"choices":[],"usage":{_dump(_usage(summary))}}}\n\n'
    yield "data: [DONE]\n\n"


def _guessed(batch: Sequence[Piece]) -> str:
    return f',"accepted":{_dump([[p.text, p.backs[0] if p.backs else ""] for p in batch if p.text])}'


# -- Shape: JSON of the APIs ---------------------------------------------------------------------------------------


def _completion(head: Mapping[str, object], text: str, summary: Summary) -> dict[str, object]:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": summary.finish_reason}
    return {
        **head,
        "object": "chat.completion",
        "choices": [choice],
        "usage": _usage(summary),
        "timings": _timings(summary),
    }


def _usage(summary: Summary) -> dict[str, object]:
    """OpenAI's figures. Its predictions are guesses, so that is where accepted and rejected guesses belong."""
    return {
        "prompt_tokens": summary.prompt_tokens,
        "completion_tokens": summary.completion_tokens,
        "total_tokens": summary.prompt_tokens + summary.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": summary.cached_tokens},
        "completion_tokens_details": {
            "accepted_prediction_tokens": summary.accepted,
            "rejected_prediction_tokens": summary.drafted - summary.accepted,
        },
    }


def _timings(summary: Summary) -> dict[str, object]:
    """llama-server's figures. prompt_n counts the prompt tokens that were really processed, not the cached ones."""
    processed = summary.prompt_tokens - summary.cached_tokens
    return {
        "prompt_n": processed,
        "prompt_ms": 1e3 * summary.prompt_seconds,
        "prompt_per_second": _rate(processed, summary.prompt_seconds),
        "predicted_n": summary.completion_tokens,
        "predicted_ms": 1e3 * summary.decode_seconds,
        "predicted_per_second": _rate(summary.completion_tokens, summary.decode_seconds),
        "draft_n": summary.drafted,
        "draft_n_accepted": summary.accepted,
    }


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_dump(content), status, headers, media_type="application/json")


_CODES: Mapping[type[DuoError], str] = {
    ContextError: "context_length_exceeded",  # OpenAI's; clients know it
    LoadingError: "model_loading",
    BusyError: "busy",
}


def _error_object(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, object]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _error(error: DuoError) -> dict[str, object]:
    return _error_object(error.status, str(error), getattr(error, "param", None), _CODES.get(type(error)))


_UNEXPECTED = _error_object(500, "the lead failed in a way it does not know: its log says more")


async def _on_duo_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DuoError)
    # 503 passes by itself, and clients that know the header come again.
    headers = {"Retry-After": str(_RETRY_SECONDS)} if error.status == 503 else None
    return _json(_error(error), error.status, headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What the router finds by itself, such as 404 and 405."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    if error.headers and "Allow" in error.headers:
        message += f", use {error.headers['Allow']}"
    return _json(_error_object(error.status_code, message), error.status_code, error.headers)


async def _on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the exception again when this response is out, and the server logs it with its traceback.
    return _json(_UNEXPECTED, 500)
