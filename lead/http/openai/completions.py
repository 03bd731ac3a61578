"""POST /v1/completions: a text goes on. OpenAI's older form, with prompts as text or as tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, Field

from duo.engines import Vocabulary
from duo.errors import RequestError
from duo.sampling.json_schema import of_json_schema
from lead.api import Answer, Answerer, Piece, Question, Summary
from lead.http.errors import dump
from lead.http.observe import Relayed, Watch, ask_all, refusals
from lead.http.openai.chat import accepted
from lead.http.openai.fields import (
    DEFAULT_TEMPERATURE,
    MAX_CHOICES,
    MAX_SCORES,
    MAX_TOP_LOGPROBS,
    AnswerFields,
    with_seed,
)
from lead.http.openai.logprobs import TextLogprobs, prompt_logprobs, text_logprobs
from lead.http.openai.messages import ResponseFormat
from lead.http.openai.usage import Timings, Usage, timings, together, usage
from lead.http.options import Options
from lead.http.parsing import Cannot, parse, short
from lead.http.stream import events, head_of, respond

Tokens = list[Annotated[int, Field(ge=0)]]


def _prompts(value: object) -> object:
    """Any form of prompts as a list of texts and lists of tokens."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            value = [value]
        for i, item in enumerate(value):
            tokens = isinstance(item, list) and all(isinstance(t, int) and not isinstance(t, bool) for t in item)
            if not isinstance(item, str) and not tokens:
                raise ValueError(f"{short(item)} at {i} is neither a text nor a list of tokens")
            if tokens and any(not 0 <= token < 1 << 31 for token in item):
                raise ValueError(f"{short(item)} at {i} holds what is no token")
        return value
    raise ValueError(f"{short(value)} is neither a text, a list of texts, tokens nor a list of lists of tokens")


Prompts = Annotated[
    list[str | list[int]], BeforeValidator(_prompts, json_schema_input_type=str | list[str] | Tokens | list[Tokens])
]


class CompletionRequest(AnswerFields):
    """Body of POST /v1/completions. Several prompts have `n` answers each, in their order."""

    prompt: Prompts = Field(min_length=1, max_length=MAX_CHOICES)
    echo: bool | None = Field(None, description="The prompt before the answer; with `logprobs`, how likely it is too.")
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    best_of: int | None = Field(None, description="Only the same as n.")
    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | None = Field(None, description="llama-server's: the answer is JSON of this schema.")

    cannot: ClassVar[Cannot] = {
        **AnswerFields.cannot,
        "suffix": ((None, ""), "the lead does not fill gaps"),
    }

    def questions(self, vocabulary: Vocabulary) -> list[Question]:
        """`n` for each prompt. Raises RequestError."""
        count = self.n or 1
        if self.best_of is not None and self.best_of != count:
            raise RequestError(f"best_of is {self.best_of}: it must be the same as n, which is {count}", "best_of")
        if count * len(self.prompt) > MAX_CHOICES:
            raise RequestError(
                f"{len(self.prompt)} prompts with {count} answers each: at most {MAX_CHOICES} in all", "n"
            )
        scored = bool(self.echo) and self.logprobs is not None
        if scored and count > 1:
            raise RequestError(f"n is {count}: how likely a prompt is is told with one answer", "n")
        prompts = [self._checked(prompt, vocabulary) for prompt in self.prompt]
        scores = sum(map(len, prompts)) * (1 + (self.logprobs or 0)) if scored else 0
        if scores > MAX_SCORES:
            raise RequestError(f"{scores} log probabilities of prompts: at most {MAX_SCORES} at a time", "logprobs")
        schema = self.response_format.answer() if self.response_format is not None else self.json_schema or None
        sampling = self.sampling(DEFAULT_TEMPERATURE, of_json_schema(schema) if schema is not None else "")
        names = self.stop_names(vocabulary)
        return [
            with_seed(
                Question(
                    prompt=tokens,
                    sampling=sampling,
                    max_tokens=1 if self.silent else self.limit(),
                    ignore_eos=bool(self.ignore_eos),
                    stop=tuple(self.stop or ()),
                    stop_names=names,
                    stop_tokens=tuple(self.stop_token_ids or ()),
                    top_logprobs=self.logprobs,
                    prompt_logprobs=scored,
                    continues=True,
                    streamed=bool(self.stream),
                ),
                i,
            )
            for tokens in prompts
            for i in range(count)
        ]

    @property
    def silent(self) -> bool:
        """Whether only the prompt is asked for, and no answer. One token is made, and not told."""
        return self.no_answer

    def echoes(self, questions: Sequence[Question], vocabulary: Vocabulary) -> list[_Echo]:
        """What stands before each answer."""
        count, echoes = self.n or 1, list[_Echo]()
        for i, question in enumerate(questions):
            text, scored = self.prompt[i // count], question.prompt_logprobs
            # The text that belongs to the tokens, which where they are told must be the one that they make.
            if scored or not isinstance(text, str):
                text = vocabulary.decode(question.prompt)
            echoes.append(_Echo(text if self.echo else "", question.prompt, scored))
        return echoes

    @staticmethod
    def _checked(prompt: str | list[int], vocabulary: Vocabulary) -> list[int]:
        if isinstance(prompt, str):
            return vocabulary.encode(prompt)
        if strange := [token for token in prompt if token >= vocabulary.size]:
            raise RequestError(f"prompt: no token {strange[0]} in a vocabulary of {vocabulary.size}", "prompt")
        return prompt


class _Echo(NamedTuple):
    """What stands before an answer, and of which tokens it is made. `scored`: it is told how likely they are. Then the
    token that ends the answer is told as well: programs that score texts leave out the last one."""

    text: str
    prompt: Sequence[int]
    scored: bool


class _Silent(Relayed):
    """An answer of which nothing is told."""

    @property
    def summary(self) -> Summary:
        return replace(super().summary, completion_tokens=0, finish_reason="length")

    async def __aiter__(self) -> AsyncIterator[Sequence[Piece]]:
        async for _ in self._answer:
            yield ()


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    accepted: list[tuple[str, str]] | None = Field(
        None, description="In a stream: the chunk's text in pieces, each with the back that guessed it, or nothing."
    )


class Completion(BaseModel):
    """An answer, or one event of a streamed one: that has usage and timings only at its end."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    timings: Timings | None = None


def router(answerer: Answerer, options: Options, watch: Watch) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/completions")
    @routes.post("/completions")
    async def completions(request: Request) -> Response:
        vocabulary = answerer.vocabulary
        with refusals(watch):
            asked = await parse(CompletionRequest, request)
            # Others are served while a long prompt is cut into tokens.
            questions = await asyncio.to_thread(asked.questions, vocabulary)
            echoes = await asyncio.to_thread(asked.echoes, questions, vocabulary)
            answers = ask_all(answerer, questions, watch)
        if asked.silent:
            answers = [_Silent(answer) for answer in answers]
        head = head_of("cmpl", "text_completion", options.alias or answerer.model)
        stream = None
        if asked.stream:
            start = f"data: {dump(head)[:-1]}"
            writers = [
                TextWriter(start, i, asked, echo, answer, vocabulary)
                for i, (answer, echo) in enumerate(zip(answers, echoes, strict=True))
            ]
            stream = events(answers, writers, asked.n or 1, start if asked.wants_usage else None)
        return await respond(
            request, answers, lambda pieces: _completion(head, asked, answers, pieces, echoes, vocabulary), stream
        )

    return routes


def _completion(
    head: Mapping[str, object],
    asked: CompletionRequest,
    answers: Sequence[Answer],
    pieces: Sequence[Sequence[Piece]],
    echoes: Sequence[_Echo],
    vocabulary: Vocabulary,
) -> dict[str, object]:
    def logprobs(answer: Answer, told: Sequence[Piece], echo: _Echo) -> dict[str, list[object]] | None:
        if asked.logprobs is None:
            return None
        after = text_logprobs(told, vocabulary, len(echo.text), echo.scored)
        if not echo.scored:
            return after
        before = prompt_logprobs(echo.prompt, answer.prompt_logprobs, vocabulary)
        return {name: [*before[name], *after[name]] for name in after}

    choices = [
        {
            "index": index,
            "text": echo.text + "".join([piece.text for piece in told]),
            "logprobs": logprobs(answer, told, echo),
            "finish_reason": answer.summary.finish_reason,
        }
        for index, (answer, told, echo) in enumerate(zip(answers, pieces, echoes, strict=True))
    ]
    summary = together([answer.summary for answer in answers], asked.n or 1)
    return {**head, "choices": choices, "usage": usage(summary), "timings": timings(summary)}


class TextWriter:
    """Writes one answer as chunks."""

    def __init__(
        self, start: str, index: int, asked: CompletionRequest, echo: _Echo, answer: Answer, vocabulary: Vocabulary
    ) -> None:
        self._no_usage = ',"usage":null' if asked.wants_usage else ""
        self._start, self._index, self._vocabulary = start, index, vocabulary
        self._echo, self._answer, self._begun = echo, answer, not echo.scored
        self._before = f'{start},"choices":[{{"index":{index},"text":'
        self._after = f',"logprobs":null,"finish_reason":null}}]{self._no_usage}}}\n\n'
        self._logprobs, self._accepted = asked.logprobs is not None, bool(asked.accepted)
        self._offset = len(echo.text)

    def begin(self) -> str:
        echo = self._echo
        return self._before + dump(echo.text) + self._after if echo.text and not echo.scored else ""

    def batch(self, pieces: Sequence[Piece]) -> str:
        if self._begun:
            return self._told(pieces)
        # How likely the prompt is is known by now.
        self._begun = True
        chances = prompt_logprobs(self._echo.prompt, self._answer.prompt_logprobs, self._vocabulary)
        choice = {"index": self._index, "text": self._echo.text, "logprobs": chances, "finish_reason": None}
        return self._chunk(choice) + self._told(pieces)

    def _told(self, pieces: Sequence[Piece]) -> str:
        if not pieces:
            return ""
        text = "".join([piece.text for piece in pieces])
        if not (self._logprobs or self._accepted):
            return self._before + dump(text) + self._after if text else ""
        choice: dict[str, object] = {"index": self._index, "text": text, "logprobs": None, "finish_reason": None}
        if self._logprobs:
            choice["logprobs"] = text_logprobs(pieces, self._vocabulary, self._offset, self._echo.scored)
            self._offset += len(text)
        if self._accepted:
            choice["accepted"] = accepted(pieces, text, 0)[0]
        return self._chunk(choice) if text or self._logprobs else ""

    def _chunk(self, choice: Mapping[str, object]) -> str:
        return f'{self._start},"choices":[{dump(choice)}]{self._no_usage}}}\n\n'

    def end(self, summary: Summary) -> str:
        choice = {"index": self._index, "text": "", "logprobs": None, "finish_reason": summary.finish_reason}
        figures = f'"timings":{dump(timings(summary))}'
        return f'{self._start},"choices":[{dump(choice)}]{self._no_usage},{figures}}}\n\n'
