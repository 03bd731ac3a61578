"""Log probabilities in the forms of OpenAI's two APIs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from duo.engines import Vocabulary
from duo.sampling.logprobs import Logprobs
from lead.answers.text import TextStream
from lead.api import Piece

MIN_LOGPROB = -9999.0
"""JSON has no infinity. OpenAI writes this instead."""


class TopLogprob(BaseModel):
    """`bytes` are what the token adds to the text. A token alone may be only a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log probabilities of the model itself, before temperature and everything else."""

    content: list[TokenLogprob]
    refusal: None = None


class TextLogprobs(BaseModel):
    """The older form: four lists of equal length. The first token of a prompt has no probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


def chat_logprobs(pieces: Sequence[Piece], vocabulary: Vocabulary) -> list[dict[str, object]]:
    """The `content` of ChatLogprobs, without tokens that end the answer."""

    def entry(token: int, logprob: float) -> dict[str, object]:
        text = vocabulary.token_bytes(token)
        shown = text.decode("utf-8", errors="replace")
        return {"token": shown, "logprob": max(logprob, MIN_LOGPROB), "bytes": list(text)}

    return [
        {
            **entry(piece.token, piece.logprobs.picked),
            "top_logprobs": [entry(token, logprob) for token, logprob in piece.logprobs.top],
        }
        for piece in pieces
        if piece.token is not None and piece.logprobs is not None and piece.token not in vocabulary.eos
    ]


def text_logprobs(
    pieces: Sequence[Piece], vocabulary: Vocabulary, offset: int, ends: bool = False
) -> dict[str, list[object]]:
    """TextLogprobs of pieces, which begin at character `offset` of the client's text.

    `ends`: include tokens that end the answer.
    """
    found = _no_logprobs()
    for piece in pieces:
        if piece.token is not None and piece.logprobs is not None and (ends or piece.token not in vocabulary.eos):
            _add(found, piece.token, piece.logprobs, offset, vocabulary)
        offset += len(piece.text)
    return found


def prompt_logprobs(
    prompt: Sequence[int], chances: Sequence[Logprobs], vocabulary: Vocabulary
) -> dict[str, list[object]]:
    """TextLogprobs of a whole prompt. `chances` has one entry for each token but the first."""
    found, text, offset = _no_logprobs(), TextStream(vocabulary.decode), 0
    for token, chance in zip(prompt, (None, *chances), strict=True):
        _add(found, token, chance, offset, vocabulary)
        offset += len(text.push(token))
    return found


def _no_logprobs() -> dict[str, list[object]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _add(
    found: Mapping[str, list[object]], token: int, chance: Logprobs | None, offset: int, vocabulary: Vocabulary
) -> None:
    def spelled(token: int) -> str:
        text = vocabulary.token_bytes(token)
        try:
            return text.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in text)

    picked: float | None = None
    top: dict[str, float] | None = None
    if chance is not None:
        picked = max(chance.picked, MIN_LOGPROB)
        top = {}
        for other, logprob in chance.top:
            # If tokens are spelled alike, the likeliest one counts.
            top.setdefault(spelled(other), max(logprob, MIN_LOGPROB))
    found["tokens"].append(spelled(token))
    found["token_logprobs"].append(picked)
    found["top_logprobs"].append(top)
    found["text_offset"].append(offset)
