"""Parts of answers that several APIs share: figures and log probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import BaseModel

from duo.engines import Vocabulary
from lead.answers.text import TextStream
from lead.api import Piece, Summary
from lead.decode.session import Logprobs

LEAST_LOGPROB = -9999.0
"""JSON has no infinity; OpenAI says this instead."""


class PromptDetails(BaseModel):
    cached_tokens: int


class CompletionDetails(BaseModel):
    """OpenAI's predictions are guesses, so that is where accepted and rejected guesses belong."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(BaseModel):
    """OpenAI's figures. Each prompt counts once, however many answers it had."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Timings(BaseModel):
    """llama-server's figures. prompt_n counts the prompt tokens that were really processed, cache_n the others."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    draft_n: int
    draft_n_accepted: int


def usage(summary: Summary) -> dict[str, object]:
    """See `Usage`."""
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


def timings(summary: Summary) -> dict[str, object]:
    """See `Timings`."""
    processed = summary.prompt_tokens - summary.cached_tokens
    return {
        "cache_n": summary.cached_tokens,
        "prompt_n": processed,
        "prompt_ms": 1e3 * summary.prompt_seconds,
        "prompt_per_token_ms": 1e3 * _share(summary.prompt_seconds, processed),
        "prompt_per_second": _share(processed, summary.prompt_seconds),
        "predicted_n": summary.completion_tokens,
        "predicted_ms": 1e3 * summary.decode_seconds,
        "predicted_per_token_ms": 1e3 * _share(summary.decode_seconds, summary.completion_tokens),
        "predicted_per_second": _share(summary.completion_tokens, summary.decode_seconds),
        "draft_n": summary.drafted,
        "draft_n_accepted": summary.accepted,
    }


def together(summaries: Sequence[Summary], per_prompt: int) -> Summary:
    """The figures of a request whose answers come `per_prompt` for each prompt. A prompt counts once; decoding took as
    long as its longest answer, for they are generated side by side."""
    if len(summaries) == 1:
        return summaries[0]
    firsts = summaries[::per_prompt]
    return replace(
        summaries[0],
        prompt_tokens=sum(summary.prompt_tokens for summary in firsts),
        cached_tokens=sum(summary.cached_tokens for summary in firsts),
        completion_tokens=sum(summary.completion_tokens for summary in summaries),
        prompt_seconds=sum(summary.prompt_seconds for summary in firsts),
        decode_seconds=max(summary.decode_seconds for summary in summaries),
        drafted=sum(summary.drafted for summary in summaries),
        accepted=sum(summary.accepted for summary in summaries),
    )


def _share(of: float, by: float) -> float:
    return of / by if by > 0 else 0.0


# -- Log probabilities ---------------------------------------------------------------------------------------------


class TopLogprob(BaseModel):
    """`bytes`: what the token adds to the text; a token alone may be no whole character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of the model's own probabilities, before temperature and all else."""

    content: list[TokenLogprob]
    refusal: None = None


class TextLogprobs(BaseModel):
    """The older form: four lists of equal length. Nothing is known of how likely the first token of a prompt is."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


def chat_logprobs(pieces: Sequence[Piece], vocabulary: Vocabulary) -> list[dict[str, object]]:
    """The `content` of ChatLogprobs. Tokens that end an answer are not a part of it."""

    def entry(token: int, logprob: float) -> dict[str, object]:
        text = vocabulary.token_bytes(token)
        shown = text.decode("utf-8", errors="replace")
        return {"token": shown, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(text)}

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
    """TextLogprobs of pieces whose text begins at character `offset` of what the client is given. `ends`: tokens that
    end an answer are counted too."""
    found = _no_logprobs()
    for piece in pieces:
        if piece.token is not None and piece.logprobs is not None and (ends or piece.token not in vocabulary.eos):
            _add(found, piece.token, piece.logprobs, offset, vocabulary)
        offset += len(piece.text)
    return found


def prompt_logprobs(
    prompt: Sequence[int], chances: Sequence[Logprobs], vocabulary: Vocabulary
) -> dict[str, list[object]]:
    """TextLogprobs of the tokens of a prompt, which are all there; `chances` are of all but the first."""
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
        picked = max(chance.picked, LEAST_LOGPROB)
        top = {}
        for other, logprob in chance.top:
            # Some tokens are spelled alike: the likeliest of these counts.
            top.setdefault(spelled(other), max(logprob, LEAST_LOGPROB))
    found["tokens"].append(spelled(token))
    found["token_logprobs"].append(picked)
    found["top_logprobs"].append(top)
    found["text_offset"].append(offset)
