"""POST /v1/completions, OpenAI's older API: it continues a text. Prompts are texts or tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, Field

from duo.engines import Vocabulary
from duo.errors import RequestError
from duo.sampling.json_schema import of_json_schema
from lead.answers.fim import NO_GAPS, Form, Gap, form_of, plain_tokens, prompt_of
from lead.answers.text import check_tokens
from lead.api import Answer, Piece, Question
from lead.http.defaults import SamplingDefaults
from lead.http.errors import dump
from lead.http.openai.fields import (
    MAX_CHOICES,
    MAX_PROMPT_LOGPROBS,
    MAX_TOP_LOGPROBS,
    AnswerFields,
    with_seed,
)
from lead.http.openai.logprobs import TextLogprobs, prompt_logprobs, text_logprobs
from lead.http.openai.messages import FormFields
from lead.http.openai.usage import Timings, Usage, figures
from lead.http.openai.writers import Echo, TextWriter, chunk_style
from lead.http.parsing import own_names, parse, short
from lead.http.silent import told_of
from lead.http.site import Site
from lead.http.stream import Envelope, events, head_of, respond

Tokens = list[Annotated[int, Field(ge=0)]]


def _prompts(value: object) -> object:
    """Makes a list of texts and lists of tokens from any form of prompts."""
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


class CompletionRequest(FormFields, AnswerFields):
    """Body of POST /v1/completions. Each prompt gets `n` answers, in the order of the prompts."""

    prompt: Prompts = Field(min_length=1, max_length=MAX_CHOICES)
    echo: bool | None = Field(
        None, description="Repeat the prompt before the answer. With `logprobs`, report those of the prompt too."
    )
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    best_of: int | None = Field(None, description="Must be the same as n.")
    suffix: str | None = Field(
        None, description="What follows the answer, for models that fill gaps in code. The prompt stands before it."
    )

    may_be_silent: ClassVar[bool] = True

    def questions(self, vocabulary: Vocabulary, context: int, defaults: SamplingDefaults) -> list[Question]:
        """`n` questions for each prompt. context: tokens of a prompt and its answer. Raises RequestError."""
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
        if scored and self.suffix:
            raise RequestError("suffix: how likely a prompt is is told without a suffix", "suffix")
        form = self._form(vocabulary) if self.suffix else None
        prompts = [self._checked(prompt, vocabulary, form) for prompt in self.prompt]
        scores = sum(map(len, prompts)) * (1 + (self.logprobs or 0)) if scored else 0
        if scores > MAX_PROMPT_LOGPROBS:
            raise RequestError(
                f"{scores} log probabilities of prompts: at most {MAX_PROMPT_LOGPROBS} at a time", "logprobs"
            )
        schema = self.schema_asked()
        sampling = self.sampling(defaults, of_json_schema(schema) if schema is not None else "")
        question = Question(
            prompt=(),
            sampling=sampling,
            top_logprobs=self.logprobs,
            prompt_logprobs=scored,
            continues=True,
            streamed=bool(self.stream),
            **self.ends(vocabulary, defaults),
        )
        if form is not None:
            after = plain_tokens(self.suffix or "", vocabulary, form)
            prompts = [prompt_of(form, Gap(it, after), vocabulary, context, question.max_tokens) for it in prompts]
            if not question.ignore_eos:
                question = replace(question, stop_tokens=(*question.stop_tokens, *form.stops))
        return [with_seed(replace(question, prompt=tokens), i) for tokens in prompts for i in range(count)]

    def echoes(self, questions: Sequence[Question], vocabulary: Vocabulary) -> list[Echo]:
        """One for each question: what stands before its answer."""
        count, echoes = self.n or 1, list[Echo]()
        for i, question in enumerate(questions):
            text, scored = self.prompt[i // count], question.prompt_logprobs
            # Reported tokens must join to the reported text.
            if scored:
                text = vocabulary.decode(question.prompt)
            elif not isinstance(text, str):
                text = vocabulary.decode(text)
            echoes.append(Echo(text if self.echo else "", question.prompt, scored))
        return echoes

    def _form(self, vocabulary: Vocabulary) -> Form:
        if (form := form_of(vocabulary)) is None:
            raise RequestError(f"suffix is {short(self.suffix)}: {NO_GAPS}", "suffix")
        return form

    @staticmethod
    def _checked(prompt: str | list[int], vocabulary: Vocabulary, form: Form | None) -> list[int]:
        if isinstance(prompt, str):
            return plain_tokens(prompt, vocabulary, form, spaced=True) if form else vocabulary.encode(prompt)
        check_tokens(prompt, vocabulary, "prompt")
        return prompt


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    accepted: list[tuple[str, str]] | None = Field(
        None,
        description="In a stream: the chunk's text in pieces, each with the back that guessed it, or an empty name.",
    )


class Completion(Envelope):
    """An answer, or one event of a stream. A stream has usage and timings only at its end."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None
    timings: Timings | None = None


async def completions(site: Site, request: Request) -> Response:
    vocabulary = site.answerer.info.vocabulary
    with site.refusals():
        asked = await parse(CompletionRequest, request)
        with own_names(asked.grammar_of):
            # A thread, because a long prompt takes long to tokenise.
            questions = await asyncio.to_thread(asked.questions, vocabulary, site.answerer.info.context, site.defaults)
            echoes = await asyncio.to_thread(asked.echoes, questions, vocabulary)
            answers = told_of(site.ask(request, questions), asked.no_answer)
    head, per_prompt = head_of("cmpl", "text_completion", site.model), asked.n or 1
    stream = None
    if asked.stream:
        start, logprobs = f"data: {dump(head)[:-1]}", asked.logprobs is not None
        writers = [
            TextWriter(start, i, asked, echo, answer, logprobs, vocabulary)
            for i, (answer, echo) in enumerate(zip(answers, echoes, strict=True))
        ]
        stream = events(answers, writers, chunk_style(answers, per_prompt, start if asked.wants_usage else None))

    def body(told: Sequence[Sequence[Piece]]) -> Mapping[str, object]:
        choices = [
            {
                "index": i,
                "text": echo.text + "".join([piece.text for piece in pieces]),
                "logprobs": None if asked.logprobs is None else _logprobs(answer, pieces, echo, vocabulary),
                "finish_reason": answer.summary.finish_reason,
            }
            for i, (answer, pieces, echo) in enumerate(zip(answers, told, echoes, strict=True))
        ]
        return {**head, "choices": choices, **figures([answer.summary for answer in answers], per_prompt)}

    return await respond(request, answers, body, stream)


def _logprobs(
    answer: Answer, pieces: Sequence[Piece], echo: Echo, vocabulary: Vocabulary
) -> Mapping[str, Sequence[object]]:
    """Log probabilities of an answer, after those of its prompt if the prompt is scored. See `TextLogprobs`."""
    after = text_logprobs(pieces, vocabulary, len(echo.text), echo.scored)
    if not echo.scored:
        return after
    before = prompt_logprobs(echo.prompt, answer.prompt_logprobs, vocabulary)
    return {name: [*before[name], *after[name]] for name in after}
