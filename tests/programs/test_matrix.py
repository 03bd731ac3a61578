"""The text is the target's own, whatever happens to the backs: real processes, both engines on both sides.

Every cell asks a lead for an answer while something happens to its backs, and compares the text with the one that the
same lead gives alone. Where they differ, the difference must be a near tie, proved from the logits. Most cells
run the shipped pair; a few run SmolLM2 and Gemma, which draft for themselves.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from bench.harness.decoding import chat_prompt
from bench.harness.delay_proxy import DelayProxy
from bench.harness.models import RUNTIMES, Runtime, shipped
from bench.harness.near_ties import TOLERANCE, Walk, first_difference, walk
from bench.harness.processes import BackProcess, LeadProcess, Reply, wait_for
from bench.harness.real import NAMES, Name
from duo.engines import Engine, EngineOptions, load
from duo.sampling.params import SamplingParams
from duo.wire.messages import Identity
from tests.support.knowing_back import Knowing, knowing_back
from tests.support.real_models import real_model

pytestmark = pytest.mark.slow

QUESTION = "What does subprocess.run do?"
TOKENS = 110
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.8, "seed": 11},
}


def fields(mode: str, tokens: int = TOKENS) -> dict[str, Any]:
    return {"max_tokens": tokens, "ignore_eos": True, **MODES[mode]}


@dataclass
class Alone:
    """A lead of one engine, and what it says with no back."""

    runtime: Runtime
    lead: LeadProcess
    engine: Engine
    texts: dict[str, str] = field(default_factory=dict)
    until_30: dict[str, int] = field(default_factory=dict)
    """Characters of the first 30 tokens."""
    walks: dict[str, Walk] = field(default_factory=dict)

    def check(self, mode: str, text: str) -> None:
        """The text is the reference, or parts from it at a near tie."""
        if text == self.texts[mode]:
            return
        at = first_difference(self.engine, self.walks[mode], text)
        assert at is not None, "the lead alone parts from its own engine"
        gap = self.walks[mode].gaps[at]
        assert gap < TOLERANCE[self.runtime], f"differs at token {at}, where the gap is {gap}:\n{text}"


def back(port: int, runtime: Runtime, name: str = "one") -> BackProcess:
    return BackProcess(port, "-m", shipped("draft", runtime), "--threads", "1", "--name", name)


@pytest.fixture(scope="module", params=RUNTIMES)
def alone(request: pytest.FixtureRequest) -> Iterator[Alone]:
    runtime: Runtime = request.param
    model = shipped("target", runtime)
    with LeadProcess("-m", model, "--threads", "1") as lead:
        engine = load(model, runtime, EngineOptions(threads=1))
        it = Alone(runtime, lead.ready(), engine)
        prompt = chat_prompt(engine, QUESTION)
        for mode in MODES:
            it.walks[mode] = walk(engine, prompt, SamplingParams(**MODES[mode]), TOKENS)
            it.texts[mode] = lead.ask(QUESTION, **fields(mode)).text
            it.until_30[mode] = len(lead.ask(QUESTION, **{**fields(mode), "max_tokens": 30}).text)
            it.check(mode, engine.vocabulary.decode(it.walks[mode].tokens))
            assert len(it.texts[mode]) > it.until_30[mode] > 30
        yield it
        engine.close()


def ask(
    lead: LeadProcess, mode: str, at: int = -1, event: Callable[[], None] | None = None, tokens: int = TOKENS
) -> Reply:
    """One answer; `event` happens when `at` characters of it have come."""
    reply = Reply()
    for _ in lead.stream(QUESTION, reply, **fields(mode, tokens)):
        if event is not None and len(reply.text) >= at:
            event()
            event = None
    assert event is None, "the answer was over before anything happened"
    assert reply.usage["completion_tokens"] == tokens
    return reply


def answers_with_guesses(alone: Alone, lead: LeadProcess, mode: str, drafts: Runtime) -> None:
    """Answers until some guess was accepted, if there need be one.

    How many come in time depends on the machine. The draft model in transformers may be slower than the target in
    llama.cpp, and then nothing is verified.
    """

    def guessed_right() -> bool:
        reply = ask(lead, mode)
        alone.check(mode, reply.text)
        count: int = reply.usage["completion_tokens_details"]["accepted_prediction_tokens"]
        return count > 0

    if (alone.runtime, drafts) == ("llamacpp", "transformers"):
        guessed_right()
    else:
        wait_for(guessed_right, "an answer with accepted guesses")


@pytest.mark.parametrize("runtime", RUNTIMES)
class TestOneBack:
    """Cells with one back of either engine. One back lives through both modes, for it takes seconds to start."""

    def test_from_the_start_and_stopped_at_token_30(self, alone: Alone, runtime: Runtime) -> None:
        with back(alone.lead.back_port, runtime) as one:
            alone.lead.has_backs(1)
            for mode in MODES:
                answers_with_guesses(alone, alone.lead, mode, runtime)
            for mode in MODES:
                reply = ask(alone.lead, mode, alone.until_30[mode], lambda: one.send(signal.SIGSTOP))
                alone.check(mode, reply.text)
                alone.lead.has_backs(0)  # shown as silent
                one.send(signal.SIGCONT)
                alone.lead.has_backs(1)
                alone.check(mode, ask(alone.lead, mode).text)
        alone.lead.has_backs(0)

    def test_joins_at_token_30_is_killed_at_token_30_and_started_again(self, alone: Alone, runtime: Runtime) -> None:
        """The second one joins, and dies, in answers of the other mode than the first one."""
        for first, second in (("greedy", "sampled"), ("sampled", "greedy")):
            with DelayProxy(alone.lead.back_port) as gate, back(gate.port, runtime) as late:
                late.loaded()
                alone.check(first, ask(alone.lead, first, alone.until_30[first], gate.open).text)
                late.joined()
                alone.lead.has_backs(1)
                alone.check(first, ask(alone.lead, first).text)
                alone.check(second, ask(alone.lead, second, alone.until_30[second], late.kill).text)
            alone.lead.has_backs(0)


def test_two_backs_of_different_engines(alone: Alone) -> None:
    """The one in llama.cpp is killed in a sampled answer, the one in transformers in a greedy one."""
    with (
        back(alone.lead.back_port, "transformers", "one") as one,
        back(alone.lead.back_port, "llamacpp", "two"),
        back(alone.lead.back_port, "llamacpp", "three") as three,
    ):
        alone.lead.has_backs(3)
        assert {b["name"] for b in alone.lead.backs()} == {"one", "two", "three"}
        for mode in MODES:
            alone.check(mode, ask(alone.lead, mode).text)
        alone.check("sampled", ask(alone.lead, "sampled", alone.until_30["sampled"], three.kill).text)
        alone.lead.has_backs(2)
        alone.check("greedy", ask(alone.lead, "greedy", alone.until_30["greedy"], one.kill).text)
        alone.lead.has_backs(1)
        for mode in MODES:
            alone.check(mode, ask(alone.lead, mode).text)
    alone.lead.has_backs(0)


def test_lead_restarted_under_living_backs(alone: Alone) -> None:
    """A lead of its own, killed in the middle of an answer; the backs find the next one by themselves."""
    arguments = ("-m", shipped("target", alone.runtime), "--threads", "1")
    with LeadProcess(*arguments) as first:
        first.ready()
        with back(first.back_port, "transformers", "one") as one, back(first.back_port, "llamacpp", "two") as two:
            first.has_backs(2)
            alone.check("greedy", first.ask(QUESTION, **fields("greedy")).text)
            with pytest.raises(Exception, match=r"(?i)connection|closed|ended|incomplete|prematurely"):
                ask(first, "sampled", alone.until_30["sampled"], first.kill)
            for b in (one, two):
                b.says("lost the lead")
            with LeadProcess(*arguments, port=first.port, back_port=first.back_port) as second:
                second.ready()
                second.has_backs(2)
                for mode in MODES:
                    reply = second.ask(QUESTION, **fields(mode))
                    alone.check(mode, reply.text)
                wait_for(lambda: all(b["state"] in ("waiting", "resting") for b in second.backs()), "both backs there")


@pytest.mark.parametrize("drafts", RUNTIMES)
def test_a_draft_model_beside_the_target(alone: Alone, drafts: Runtime) -> None:
    """With no back, with one that joins, and with one that is killed."""
    arguments = ("-m", shipped("target", alone.runtime), "--threads", "1")
    with LeadProcess(*arguments, "--model-draft", shipped("draft", drafts)) as lead:
        lead.ready()
        for mode in MODES:
            answers_with_guesses(alone, lead, mode, drafts)
            with back(lead.back_port, "llamacpp", "lead") as one:
                lead.has_backs(1)
                assert [b["name"] for b in lead.backs()] == ["lead-2"], "its own draft model has that name"
                alone.check(mode, ask(lead, mode).text)
                alone.check(mode, ask(lead, mode, alone.until_30[mode], one.kill).text)
            lead.has_backs(0)
            alone.check(mode, ask(lead, mode).text)


REAL_TOKENS = 16


@dataclass
class RealAlone:
    """A lead with a real model that promises the same bits, and what it says with no back."""

    runtime: Runtime
    draft: str
    lead: LeadProcess
    texts: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module", params=[(name, runtime) for name in NAMES for runtime in RUNTIMES], ids="-".join)
def real_alone(request: pytest.FixtureRequest) -> Iterator[RealAlone]:
    name: Name
    runtime: Runtime
    name, runtime = request.param
    size = ("--threads", "1", "-c", "512", "-np", "1", "--draft-max", "4")
    # All guesses that come are verified, whether that pays on this machine or not.
    with LeadProcess("-m", str(real_model(name, runtime)), *size, "--exact", "on", "--policy", "chain") as lead:
        it = RealAlone(runtime, str(real_model(name, "llamacpp")), lead.ready())
        for mode in MODES:
            it.texts[mode] = ask(lead, mode, tokens=REAL_TOKENS).text
            assert len(it.texts[mode]) > REAL_TOKENS
        yield it


def test_a_real_model_with_a_back_that_joins_hangs_and_dies(real_alone: RealAlone) -> None:
    """The GGUF drafts for both runtimes: nearly every guess that comes in time is right."""
    lead = real_alone.lead
    middle = {mode: len(text) // 3 for mode, text in real_alone.texts.items()}

    def answer(mode: str, event: Callable[[], None] | None = None) -> int:
        reply = ask(lead, mode, middle[mode], event, REAL_TOKENS)
        assert reply.text == real_alone.texts[mode]
        accepted: int = reply.usage["completion_tokens_details"]["accepted_prediction_tokens"]
        return accepted

    with (
        DelayProxy(lead.back_port) as gate,
        BackProcess(gate.port, "-m", real_alone.draft, "--threads", "1", "-c", "512", "-np", "1") as one,
    ):
        one.loaded()
        answer("greedy", gate.open)
        one.joined()
        lead.has_backs(1)
        if real_alone.runtime == "transformers":
            # A slower target with a quicker draft: there some guess is accepted, sooner or later.
            wait_for(lambda: answer("greedy") > 0, "an answer with accepted guesses")
        answer("sampled", lambda: one.send(signal.SIGSTOP))
        lead.has_backs(0)  # shown as silent
        one.send(signal.SIGCONT)
        lead.has_backs(1)
        answer("sampled", one.kill)
    lead.has_backs(0)


def test_a_real_model_with_a_back_that_knows_the_answer(real_alone: RealAlone) -> None:
    """Guesses are verified however fast the target is, right ones and wrong ones, and change nothing."""
    lead = real_alone.lead
    engine = load(real_alone.draft, "llamacpp", EngineOptions(threads=1, context=64))
    vocabulary = engine.vocabulary
    me = Identity("knowing", engine.name, vocabulary.fingerprint, vocabulary.size)
    knowing = Knowing(vocabulary.size, wrong=5)
    knowing.prompt_length = len(chat_prompt(engine, QUESTION))
    answers = {mode: vocabulary.encode_rendered(text) for mode, text in real_alone.texts.items()}
    engine.close()

    def verified(mode: str) -> bool:
        knowing.answer = answers[mode]
        reply = ask(lead, mode, tokens=REAL_TOKENS)
        assert reply.text == real_alone.texts[mode]
        of = reply.usage["completion_tokens_details"]
        return bool(of["accepted_prediction_tokens"] > 1 and of["rejected_prediction_tokens"] > 1)

    with knowing_back(lead.back_port, me, knowing):
        lead.has_backs(1)
        for mode in MODES:
            wait_for(partial(verified, mode), "an answer with accepted and rejected guesses")
    lead.has_backs(0)
