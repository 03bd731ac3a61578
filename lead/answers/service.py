"""Answers questions: prompts in, pieces of text out, between the event loop and the decode loop.

All of it runs in the event loop, but for what the decoder calls, which hands over to the event loop at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from itertools import count

from duo.errors import BusyError, ContextError, DuoError, FileError, RequestError
from duo.program.answer_log import AnswerLog
from duo.sampling.json_schema import of_json_object
from duo.wire.messages import MAX_BIASES
from lead.answers.answer import RunningAnswer
from lead.answers.handover import Handover
from lead.answers.slot_files import SlotFiles, SlotFolder
from lead.answers.text import check_tokens
from lead.api import Benefit, CacheView, ModelInfo, Observer, Question, SlotView
from lead.backs.server import Backs
from lead.decode.loop import Decoder
from lead.decode.request import Request
from lead.target import Target

log = logging.getLogger("lead")

QUEUE = 64
"""Most questions that wait for a slot, unless more are allowed."""


class Service:
    """The lead without its sockets: a loaded model, its decode loop and its backs."""

    def __init__(
        self,
        loaded: Target,
        decoder: Decoder,
        backs: Backs,
        observers: Sequence[Observer],
        queue: int = QUEUE,
        files: SlotFolder | None = None,
        answer_log: AnswerLog | None = None,
    ) -> None:
        """Starts the decoder. `queue`: most questions that wait. `files`: where slots are saved.
        `answer_log`: keeps answers."""
        self._engine, self._speculation = loaded.engine, loaded.speculation
        self._decoder = decoder
        self._observers = observers
        self._queue = queue
        self._answer_log = answer_log
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._handover = Handover(self._in_event_loop, backs.count)
        self.backs = backs
        self.slot_files = SlotFiles(decoder, files)
        """Saves and restores slots."""
        engine = loaded.engine
        self.info = ModelInfo(
            engine.name, int(time.time()), engine.runtime, engine.context, engine.vocabulary,
            loaded.speculation.speculates, loaded.exactness, engine.slots + queue, engine.sampling,
        )  # fmt: skip
        decoder.start(lambda: self._in_event_loop(backs.changed), self._stepped)
        # The first grammar of a large vocabulary takes a second, which the event loop should not.
        self._warming = asyncio.ensure_future(asyncio.to_thread(decoder.grammars.check, of_json_object()))

    async def stop(self) -> None:
        """Stop after the current forward pass. Answers under way end unfinished."""
        await asyncio.gather(self._warming, return_exceptions=True)
        await asyncio.to_thread(self._decoder.stop)
        await self.backs.stop()
        if self._answer_log is not None:
            self._answer_log.close()

    def ask(self, question: Question) -> RunningAnswer:
        """See `lead.api.Answerer.ask`."""
        vocabulary, context = self._engine.vocabulary, self._engine.context
        check_tokens(question.sampling.logit_bias, vocabulary, "logit_bias")
        if len(question.sampling.logit_bias) > MAX_BIASES:
            raise RequestError(f"logit_bias names {len(question.sampling.logit_bias)} tokens, at most {MAX_BIASES} are "
                               "taken", "logit_bias")  # fmt: skip
        check_tokens(question.stop_tokens, vocabulary, "stop_token_ids")
        prompt = question.prompt
        if not prompt:
            raise RequestError("the prompt is empty: give at least one token")
        if not 0 <= min(prompt) <= max(prompt) < vocabulary.size:
            raise RequestError(f"prompt: a token is not in the vocabulary of {vocabulary.size}", "prompt")
        if len(prompt) >= context:
            raise ContextError(
                f"the prompt has {len(prompt)} tokens and the context holds {context}: "
                "shorten the conversation or start the lead with a larger --ctx-size"
            )
        if question.sampling.grammar:
            if question.ignore_eos:
                raise RequestError("ignore_eos: an answer that follows a form ends where the form does", "ignore_eos")
            self._decoder.grammars.check(question.sampling.grammar)
        if self._decoder.room <= -self._queue:
            raise BusyError(f"{self._queue} questions are waiting already: try again later")
        room = context - len(prompt)
        named = [token for token, name in question.stop_names.items() if name in question.stop]
        request = Request(
            prompt=prompt,
            sampling=question.sampling,
            max_tokens=room if question.max_tokens is None else min(question.max_tokens, room),
            ignore_eos=question.ignore_eos,
            stop_tokens=frozenset([*question.stop_tokens, *named]),
            thinking=question.thinking,
            on_step=lambda step: self._handover.step(answer, step),
            on_end=lambda error: self._ended(request, answer, error),
            top_logprobs=question.top_logprobs,
            owner=question.owner,
            prompt_logprobs=[] if question.prompt_logprobs else None,
        )
        answer = RunningAnswer(
            next(self._numbers), request, question, self._engine, self._observers,
            lambda: self._decoder.cancel(request), lambda: self._speculation.speedup(request.gain),
        )  # fmt: skip
        self._decoder.submit(request)
        return answer

    @property
    def cache(self) -> CacheView:
        """See `lead.api.Answerer.cache`."""
        swap = self._decoder.slots.swap
        return CacheView(len(swap.cache), swap.cache.bytes, swap.counts.hits, swap.counts.tokens)

    @property
    def benefit(self) -> Benefit | None:
        """See `lead.api.Answerer.benefit`."""
        return self._speculation.benefit

    @property
    def waiting(self) -> int:
        """Questions that wait for a slot."""
        return self._decoder.waiting

    def slots(self) -> Sequence[SlotView]:
        """What each slot is doing."""
        views = [SlotView(slot, "idle") for slot in range(self._engine.slots)]
        now = time.perf_counter()
        for request in self._decoder.running:
            tokens = len(request.session.completion)
            reading = request.status == "reading"
            views[request.slot.id] = SlotView(
                id=request.slot.id,
                state="reading" if reading else "answering",
                prompt_tokens=len(request.prompt),
                prompt_read=request.read_tokens if reading else len(request.prompt),
                completion_tokens=tokens,
                tokens_per_second=0.0 if reading else tokens / max(1e-9, now - request.answering),
            )
        return views

    def _ended(self, request: Request, answer: RunningAnswer, error: DuoError | None) -> None:
        """An answer is over. Called from the decoder's thread."""
        self._handover.end(answer, error)
        if self._answer_log is not None and error is None and request.session.completion:
            # Also what was given up on the way: the tokens are the target's own.
            prompt, completion = request.prompt, list(request.session.completion)
            self._in_event_loop(lambda: self._keep(prompt, completion))

    def _keep(self, prompt: Sequence[int], completion: Sequence[int]) -> None:
        try:
            if self._answer_log is not None:
                self._answer_log.add(prompt, completion)
        except FileError as error:
            log.warning("answers are not logged any more: %s", error)
            self._answer_log = None

    def _in_event_loop(self, call: Callable[[], None]) -> None:
        """Run it there. Called from the decoder's thread."""
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the event loop is closed: the program ends

    def _stepped(self) -> None:
        """Tokens were committed: hand over their text, and tell the backs. Called from the decoder's thread."""
        self._handover.stepped()
        if self.backs.any and not self._speculation.resting:
            self._in_event_loop(self.backs.changed)
