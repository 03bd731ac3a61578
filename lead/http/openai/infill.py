"""POST /infill, llama-server's endpoint for code in the middle. Editors ask it for what they show at the cursor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from duo.engines import Vocabulary
from lead.answers.fim import NO_GAPS, Form, Gap, form_of, plain_tokens, prompt_of
from lead.api import Piece, Question, Summary
from lead.http.defaults import SamplingDefaults
from lead.http.errors import UnsupportedError, dump, error_of
from lead.http.openai.fields import SamplingFields, other_forms
from lead.http.openai.usage import Timings, timings
from lead.http.parsing import Body, Cannot, parse
from lead.http.silent import told_of
from lead.http.site import Site
from lead.http.stream import StreamStyle, events, respond

MAX_FILES = 256
"""Most other files of a request."""
MAX_NAME = 1024
"""Characters of a file's name, and of a path in `response_fields`."""


class OtherFile(Body):
    """A file, or a part of one, that belongs to the code with the gap."""

    text: str
    filename: Annotated[str, Field(max_length=MAX_NAME)] | None = None


class InfillRequest(SamplingFields):
    """Body of POST /infill. All texts are plain: names of special tokens in them mean nothing."""

    input_prefix: str | None = Field(None, description="What stands before the gap.")
    input_suffix: str | None = Field(None, description="What follows it.")
    input_extra: list[OtherFile] | None = Field(
        None, max_length=MAX_FILES, description="Other files, the most important one last."
    )
    prompt: str | None = Field(None, description="Stands between `input_prefix` and the gap.")
    stream: bool | None = None
    response_fields: list[Annotated[str, Field(max_length=MAX_NAME)]] | None = Field(
        None, max_length=64, description="Only these fields of the answer, such as `timings/prompt_n`, by their paths."
    )

    cannot: ClassVar[Cannot] = {
        **other_forms("/infill gives plain text: use /v1/completions with suffix and response_format"),
        "n_probs": ((None, 0), "/infill tells no log probabilities: use /v1/completions with suffix and logprobs"),
        "n": ((None, 1), "/infill gives one answer: use /v1/completions with suffix"),
    }
    may_be_silent: ClassVar[bool] = True

    def question(self, form: Form, vocabulary: Vocabulary, context: int, defaults: SamplingDefaults) -> Question:
        """Slow: it tokenises. Raises RequestError."""
        ends = self.ends(vocabulary, defaults)
        if not ends["ignore_eos"]:
            ends["stop_tokens"] += tuple(form.stops)
        gap = Gap(
            plain_tokens((self.input_prefix or "") + (self.prompt or ""), vocabulary, form, spaced=True),
            plain_tokens(self.input_suffix or "", vocabulary, form),
            [(file.filename or "", file.text) for file in self.input_extra or ()],
        )
        return Question(
            prompt=prompt_of(form, gap, vocabulary, context, ends["max_tokens"]),
            sampling=self.sampling(defaults),
            continues=True,
            streamed=bool(self.stream),
            **ends,
        )


class Infill(BaseModel):
    """An answer, or one event of a stream. The figures come with `stop`. With `response_fields` all else is left out.

    tokens_predicted, tokens_evaluated, tokens_cached: of the answer, of the prompt, and what the slot holds at the end.
    stop_type: what ended the answer: the model, its limit, or a stop string.
    """

    index: int | None = None
    content: str | None = None
    stop: bool | None = None
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None
    model: str | None = None
    truncated: bool | None = None
    stop_type: Literal["none", "eos", "limit", "word"] | None = None
    stopping_word: str | None = None
    tokens_cached: int | None = None
    timings: Timings | None = None


async def infill(site: Site, request: Request) -> Response:
    info = site.answerer.info
    with site.refusals():
        asked = await parse(InfillRequest, request)
        form = await asyncio.to_thread(form_of, info.vocabulary)
        if form is None:
            raise UnsupportedError(f"/infill: {NO_GAPS}")
        question = await asyncio.to_thread(asked.question, form, info.vocabulary, info.context, site.defaults)
        answers = told_of(site.ask(request, [question]), asked.no_answer)

    def body(told: Sequence[Sequence[Piece]]) -> Mapping[str, object]:
        text = "".join([piece.text for piece in told[0]])
        return chosen(_whole(text, site.model, answers[0].summary), asked.response_fields)

    writer = _Writer(site.model, len(question.prompt))
    stream = events(answers, [writer], _STYLE) if asked.stream else None
    return await respond(request, answers, body, stream)


def chosen(body: Mapping[str, Any], paths: Sequence[str] | None) -> Mapping[str, object]:
    """The fields with these paths, each under its path. All fields if there are no paths."""
    if not paths:
        return body
    found: dict[str, object] = {}
    for path in paths:
        at: Any = body
        for step in path.split("/"):
            at = at.get(step) if isinstance(at, Mapping) else None
        if at is not None:
            found[path] = at
    return found


def _whole(text: str, model: str, summary: Summary) -> Mapping[str, object]:
    """See `Infill`."""
    word = "" if summary.finish_reason == "length" else summary.stop_string
    stop_type = "limit" if summary.finish_reason == "length" else "word" if word else "eos"
    return {
        "index": 0,
        "content": text,
        "stop": True,
        "model": model,
        "tokens_predicted": summary.completion_tokens,
        "tokens_evaluated": summary.prompt_tokens,
        "truncated": False,
        "stop_type": stop_type,
        "stopping_word": word,
        "tokens_cached": summary.prompt_tokens + summary.completion_tokens,
        "timings": timings(summary),
    }


class _Writer:
    """Writes the answer as events. The last one has no text, and says how it ended."""

    def __init__(self, model: str, prompt: int) -> None:
        self._model, self._prompt = model, prompt
        self._count = 0

    def begin(self) -> str:
        return ""

    def batch(self, pieces: Sequence[Piece]) -> str:
        self._count += len(pieces)
        text = "".join([piece.text for piece in pieces])
        figures = {"tokens_predicted": self._count, "tokens_evaluated": self._prompt}
        return f"data: {dump({'index': 0, 'content': text, 'stop': False, **figures})}\n\n" if text else ""

    def end(self, summary: Summary) -> str:
        return f"data: {dump(_whole('', self._model, summary))}\n\n"


_STYLE = StreamStyle(lambda error: f"data: {dump(error_of(error))}\n\n", lambda: "")
