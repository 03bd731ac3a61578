"""llama-server's endpoints about the server itself: tokens, chat template, settings, slots.

The shapes are llama-server's, for front ends made for it. Tokenizers and templates run in a thread, because a text may
be long and the event loop must go on.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, Field

import duo
from duo.engines.base import Vocabulary
from duo.errors import BusyError
from lead.answers.text import check_tokens
from lead.api import SlotState
from lead.chat.conversation import Conversation, ReasoningFormat
from lead.chat.prepare import form_for, rendered
from lead.http.defaults import NAMES, Origin
from lead.http.errors import SwitchedOffError, json_response
from lead.http.openai.messages import ConversationFields
from lead.http.openai.thinking import ThinkingFields
from lead.http.openai.tools import Tool
from lead.http.parsing import Cannot, ModelField, parse, short
from lead.http.site import Site

MAX_TOKEN = (1 << 31) - 1
Token = Annotated[int, Field(ge=0, le=MAX_TOKEN)]


def _parts(value: object) -> object:
    """Makes a list of a text. Accepts a list of texts and tokens as it is."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError(f"{short(value)} is neither a text nor a list of texts and tokens")
    for i, item in enumerate(value):
        token = isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= MAX_TOKEN
        if not isinstance(item, str) and not token:
            raise ValueError(f"{short(item)} at {i} is neither a text nor a token")
    return value


Parts = Annotated[list[str | int], BeforeValidator(_parts, json_schema_input_type=str | list[str | Token])]


class TokenizeRequest(ModelField):
    """Body of POST /tokenize. In a list, texts become tokens and tokens stay as they are."""

    content: Parts | None = None
    add_special: bool | None = Field(None, description="Begin like a prompt: with BOS, if the model wants one.")
    with_pieces: bool | None = Field(None, description="Also report what each token adds to a text.")

    cannot: ClassVar[Cannot] = {"parse_special": ((None, True), "special tokens are always read as such")}


class DetokenizeRequest(ModelField):
    """Body of POST /detokenize."""

    tokens: list[Token] | None = None


class TemplateRequest(ConversationFields, ThinkingFields, ModelField):
    """Body of POST /apply-template: a chat request. Its other fields change nothing."""

    tools: list[Tool] | None = None


class TokenPiece(BaseModel):
    """`piece` is what the token adds to a text: its bytes if they are only a part of a character, and nothing for a
    special token."""

    id: int
    piece: str | list[int]


class TokenizeResponse(BaseModel):
    tokens: list[int] | list[TokenPiece]


class DetokenizeResponse(BaseModel):
    content: str


class TemplateResponse(BaseModel):
    prompt: str


class DefaultSettings(BaseModel):
    """`params` are the defaults of a chat request."""

    id: int
    n_ctx: int
    speculative: bool
    is_processing: bool
    params: dict[str, Any]


class Modalities(BaseModel):
    vision: bool
    audio: bool


class Origins(BaseModel):
    """Where a default comes from: a flag of the lead, the model's makers, or the lead itself."""

    temperature: Origin
    top_k: Origin
    top_p: Origin
    min_p: Origin
    repeat_penalty: Origin
    presence_penalty: Origin
    frequency_penalty: Origin
    seed: Origin
    n_predict: Origin


class Props(BaseModel):
    """llama-server's settings, as far as they apply here. `model_path` is a name, because the lead tells no paths.
    `sampling_from` says where each default of sampling comes from. `exactness` says whether `--exact` is on, and what
    it costs. `tool_format`: how the model calls tools."""

    default_generation_settings: DefaultSettings
    sampling_from: Origins
    total_slots: int
    model_alias: str
    model_path: str
    n_ctx: int
    n_vocab: int
    chat_template: str
    modalities: Modalities
    endpoint_slots: bool
    endpoint_metrics: bool
    build_info: str
    runtime: str
    exactness: str
    tool_format: str
    reasoning_format: ReasoningFormat


class Slot(BaseModel):
    """The place of one answer. `prompt_read` of its `prompt_tokens` are in the cache by now."""

    id: int
    n_ctx: int
    speculative: bool
    is_processing: bool
    state: SlotState
    prompt_tokens: int
    prompt_read: int
    completion_tokens: int
    tokens_per_second: float


async def tokenize(site: Site, request: Request) -> Response:
    asked = await parse(TokenizeRequest, request)
    return json_response({"tokens": await asyncio.to_thread(_tokens, asked, site.answerer.info.vocabulary)})


async def detokenize(site: Site, request: Request) -> Response:
    asked = await parse(DetokenizeRequest, request)
    tokens, vocabulary = asked.tokens or [], site.answerer.info.vocabulary
    check_tokens(tokens, vocabulary, "tokens")
    return json_response({"content": await asyncio.to_thread(vocabulary.decode, tokens)})


async def apply_template(site: Site, request: Request) -> Response:
    asked = await parse(TemplateRequest, request)
    tools = [tool.known() for tool in asked.tools or ()]
    given = Conversation(
        asked.turns(), tools, variables=asked.variables, thinking=asked.thinks(), continues=asked.continues
    )
    vocabulary = site.answerer.info.vocabulary
    return json_response({"prompt": await asyncio.to_thread(rendered, given, vocabulary, site.options.chat)})


async def props(site: Site, request: Request) -> Response:
    info, options, defaults = site.answerer.info, site.options, site.defaults
    form = await asyncio.to_thread(form_for, info.vocabulary, options.chat)
    params = {_LLAMA_NAMES.get(name, name): getattr(defaults.params, name) for name in NAMES}
    params |= {"seed": -1 if defaults.seed is None else defaults.seed, "n_predict": defaults.max_tokens or -1}
    settings = {
        "default_generation_settings": {
            "id": 0,
            "n_ctx": info.context,
            "speculative": info.speculates,
            "is_processing": False,
            "params": {**params, "ignore_eos": False, "stream": False, "stop": []},
        },
        "sampling_from": {_LLAMA_NAMES.get(name, name): origin for name, origin in defaults.origins.items()},
        "total_slots": len(site.answerer.slots()),
        "model_alias": site.model,
        "model_path": info.name,
        "n_ctx": info.context,
        "n_vocab": info.vocabulary.size,
        "chat_template": info.vocabulary.chat_template,
        "modalities": {"vision": False, "audio": False},
        "endpoint_slots": options.slots,
        "endpoint_metrics": options.metrics,
        "build_info": f"duo {duo.__version__}",
        "runtime": info.runtime,
        "exactness": info.exactness,
        "tool_format": form.name,
        "reasoning_format": options.chat.reasoning_format,
    }
    return json_response(settings)


async def slots(site: Site, request: Request) -> Response:
    if not site.options.slots:
        raise SwitchedOffError("GET /slots is switched off: start the lead with --slots")
    views = site.answerer.slots()
    # Any value, as in llama-server: health checks ask this way.
    if request.query_params.get("fail_on_no_slot") and all(view.state != "idle" for view in views):
        raise BusyError("no slot is idle: try again later")
    info = site.answerer.info
    shared = {"n_ctx": info.context, "speculative": info.speculates}
    return json_response([{**shared, "is_processing": view.state != "idle", **asdict(view)} for view in views])


def _tokens(asked: TokenizeRequest, vocabulary: Vocabulary) -> list[Any]:
    tokens: list[int] = []
    for index, part in enumerate(asked.content or ()):
        if isinstance(part, int):
            check_tokens([part], vocabulary, f"content[{index}]")
            tokens.append(part)
        else:
            # Only the first part begins the prompt.
            special = asked.add_special and index == 0
            tokens += vocabulary.encode(part) if special else vocabulary.encode_rendered(part)
    if not asked.with_pieces:
        return tokens
    return [{"id": token, "piece": _piece(vocabulary.token_bytes(token))} for token in tokens]


def _piece(piece: bytes) -> str | list[int]:
    """The token's text, or its bytes if they are only a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


_LLAMA_NAMES = {"repetition_penalty": "repeat_penalty", "max_tokens": "n_predict"}
"""llama-server's names, where they are others than ours."""
