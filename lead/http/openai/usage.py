"""Figures of an answer: OpenAI's usage and llama-server's timings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from pydantic import BaseModel

from lead.api import Summary
from lead.plan.speedup import mean


class PromptDetails(BaseModel):
    cached_tokens: int


class CompletionDetails(BaseModel):
    """Accepted and rejected guesses: OpenAI calls them predictions."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int
    reasoning_tokens: int


class Usage(BaseModel):
    """OpenAI's figures. Each prompt counts once, however many answers it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TimesFaster(BaseModel):
    """`times` as fast as the target alone. `error`: its standard error."""

    times: float
    error: float


class Timings(BaseModel):
    """llama-server's figures. `prompt_n` counts the prompt tokens that were computed, `cache_n` the cached ones.
    `speedup` is ours; null while the speed of the target alone is not known."""

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
    speedup: TimesFaster | None


def usage(summary: Summary, thinking: int) -> dict[str, object]:
    """See `Usage`. `thinking`: tokens of thinking."""
    return {
        "prompt_tokens": summary.prompt_tokens,
        "completion_tokens": summary.completion_tokens,
        "total_tokens": summary.prompt_tokens + summary.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": summary.cached_tokens},
        "completion_tokens_details": {
            "accepted_prediction_tokens": summary.accepted,
            "rejected_prediction_tokens": summary.drafted - summary.accepted,
            "reasoning_tokens": thinking,
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
        "speedup": summary.speedup and asdict(summary.speedup),
    }


def figures(summaries: Sequence[Summary], per_prompt: int, thinking: int = 0) -> dict[str, object]:
    """`usage` and `timings` of a request with these answers, `per_prompt` for each prompt. `thinking`: tokens of
    thinking in all of them."""
    summary = _together(summaries, per_prompt)
    return {"usage": usage(summary, thinking), "timings": timings(summary)}


def _together(summaries: Sequence[Summary], per_prompt: int) -> Summary:
    """The sum of the answers' figures. A prompt counts once.

    Answers are generated side by side, so the longest one gives the decoding time.
    """
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
        speedup=mean([summary.speedup for summary in summaries]),
    )


def _share(of: float, by: float) -> float:
    return of / by if by > 0 else 0.0
