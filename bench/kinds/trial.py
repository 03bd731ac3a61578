"""A tiny model served by duo: what it verifies, how far its logits are from transformers', and whether guesses show.

The reference is the transformers library alone: its `generate`, greedy and without speculation, and a plain forward
pass over the text that this gives. For the rest the lead's own decode loop runs here with a draft model beside the
target: the classes that a lead and its backs run, without processes and waits between them, so that every step has
guesses. Drafts are made once by the model itself, so that all guesses are right, and once by another random one, so
that hardly any is.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from bench.harness.models import Runtime
from bench.kinds.kind import SPREAD
from bench.kinds.plain import of_llamacpp
from bench.steps.ties import Walk, walk
from duo.draft.model import DraftModel
from duo.draft.policy import TREE
from duo.engines import Engine, EngineOptions, Row, load
from duo.engines.base import Rollback
from duo.engines.cost import CostCurve
from duo.engines.transformers.loading import first_line, quiet
from duo.errors import DuoError
from duo.sampling.params import SamplingParams
from duo.trace import Trace
from duo.wire.ledger import Ledger
from lead.decode.local_draft import LocalDraft
from lead.decode.loop import Decoder
from lead.decode.request import Request
from lead.decode.session import Step
from lead.plan.arrivals import DraftOffer
from lead.plan.limits import Limits
from lead.plan.speculation import Action, Expand
from lead.plan.tree import GuessTree
from lead.plan.verify_all import VerifyAll

QUESTION = "What does subprocess.run do, and what does it return?"
MORE = "And shutil?"
"""What is said next, after the answer."""
AHEAD = 5
"""Guesses of an answer in a forward pass, at most."""
EXPANSIONS = {"own": AHEAD, "other": 2}
"""Forward passes of the draft model before each of the target: wrong guesses need not be many."""
OPTIONS = EngineOptions(threads=1, context=448, slots=2, tree_rows=64, batch=96, flash_attention="off")
MODES = {"greedy": SamplingParams(temperature=0.0), "sampled": SamplingParams(temperature=0.8, seed=7)}

WRONG = 0.02 * SPREAD
"""Largest error of a logit that rounding explains: llama.cpp keeps keys and values, and takes GELU, in 16 bits."""

_COST = {1: 1.0, 8: 1.7}
"""Of a draft model: further rows are cheap, so it grows trees. Times measured here would mean nothing."""


@dataclass(frozen=True)
class Reference:
    """A text of transformers' own: the prompt, the tokens that follow, and the logits that gave each of these."""

    prompt: list[int]
    tokens: list[int]
    logits: NDArray[np.float32]


@dataclass
class Found:
    """What a trial found.

    refused: in duo's words. failed: an exception that is none of duo's own. error: the largest, of any logit. same: by
    what was compared, "same", a near tie, or a difference. accepted: guesses picked and verified, by whose they were.
    reread: tokens read for the next turn of the conversation, beside those that were new in it.
    """

    kind: str
    runtime: Runtime
    refused: str = ""
    failed: str = ""
    rollback: Rollback | None = None
    error: float = 0.0
    same: dict[str, str] = field(default_factory=dict)
    accepted: dict[str, tuple[int, int]] = field(default_factory=dict)
    reread: int = 0

    @property
    def right(self) -> bool:
        """Served, and nothing differs but by near ties."""
        return (
            not self.refused
            and not self.failed
            and self.error < WRONG
            and not any("differs" in it for it in self.same.values())
        )


def reference(folder: Path, prompt: Sequence[int], count: int) -> Reference:
    """`count` tokens after the prompt."""
    loader: Any = AutoModelForCausalLM
    with quiet(), torch.inference_mode():
        model: Any = loader.from_pretrained(folder, dtype=torch.float32).eval()
        model.generation_config.eos_token_id = None
        ids = torch.tensor([prompt])
        given = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count)
        logits = model(given, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return Reference(list(prompt), given[0, len(prompt) :].tolist(), logits.numpy())


def attempt(kind: str, runtime: Runtime, model: Path, other: Path, folder: Path | None, count: int) -> Found:
    """Serve `model` with `runtime`, answers of `count` tokens. `other`: the same kind with other weights, for drafts.
    `folder`: the model as transformers reads it; None: it does not, and llama.cpp's own plain decode is the reference.
    """
    found = Found(kind, runtime)
    try:
        with _loaded(model, runtime) as target:
            found.rollback = target.rollback
            prompt = target.vocabulary.chat([{"role": "user", "content": QUESTION}])
            texts = {mode: walk(target, prompt, params, count) for mode, params in MODES.items()}
            greedy = texts["greedy"]
            known = reference(folder, prompt, count) if folder is not None else _plain(model, prompt, greedy.tokens)
            found.error = _error(target, known)
            found.same["generate"] = _compare(known.tokens, greedy, 2 * found.error) if folder is not None else ""
            for whose, path in {"own": model, "other": other}.items():
                with _loaded(path, runtime) as draft:
                    _speculate(found, target, draft, whose, prompt, texts)
    except DuoError as error:
        found.refused = str(error)
    except Exception as error:  # a fault of ours or of the runtime's: the other kinds are tried all the same
        traceback.print_exc()
        found.failed = f"{type(error).__name__}: {first_line(error)}"
    return found


def _plain(model: Path, prompt: Sequence[int], tokens: Sequence[int]) -> Reference:
    logits = of_llamacpp(model, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
    return Reference(list(prompt), list(tokens), logits)


@contextmanager
def _loaded(model: Path, runtime: Runtime) -> Iterator[Engine]:
    engine = load(str(model), runtime, OPTIONS)
    try:
        yield engine
    finally:
        engine.close()


def _error(engine: Engine, known: Reference) -> float:
    """The largest difference of a logit, over passes of one row and over chains."""
    longest = 1 + min(AHEAD, engine.rollback.depth)
    engine.truncate(0, 0)
    engine.extend(0, known.prompt[:-1])
    tokens = [known.prompt[-1], *known.tokens[:-1]]
    error, at = 0.0, 0
    while at < len(tokens):
        width = min(1 if at < len(tokens) // 2 else longest, len(tokens) - at)
        rows = [Row(i, 0, token, i - 1) for i, token in enumerate(tokens[at : at + width])]
        error = max(error, float(np.abs(engine.forward(rows) - known.logits[at : at + width]).max()))
        engine.commit(0, range(width))
        at += width
    return error


def _compare(tokens: Sequence[int], alone: Walk, tie: float) -> str:
    """Whether the tokens are those of the walk. A difference where two scores are closer than `tie` is a near tie."""
    if list(tokens) == list(alone.tokens):
        return "same"
    at = next(i for i, (a, b) in enumerate(zip(tokens, alone.tokens, strict=True)) if a != b)
    gap = alone.gaps[at]
    return f"near tie at {at} ({gap:.1g})" if gap < tie else f"differs at {at} ({gap:.1g})"


class _DraftsFirst(VerifyAll):
    """Has the draft model beside the target expand its tree so many times before each step, and verifies all."""

    def __init__(self, limits: Limits, expansions: int) -> None:
        super().__init__(limits)
        self._expansions = expansions
        self._drafted = 0

    def next(
        self, trees: Sequence[GuessTree], now: float, own: DraftOffer | None = None, room: int | None = None
    ) -> Action:
        if own is not None and self._drafted < self._expansions:
            self._drafted += 1
            return Expand([[] for _ in trees])
        self._drafted = 0
        return super().next(trees, now, own, room)


@dataclass
class _Lead:
    """A lead's decode loop in this thread, with a draft model beside the target."""

    target: Engine
    draft: Engine
    expansions: int

    def __post_init__(self) -> None:
        rollback = self.target.rollback
        limits = Limits(draft_max=AHEAD, rows=1 + AHEAD, rollback=rollback)
        model = DraftModel(self.draft, CostCurve(dict(_COST)), AHEAD, TREE, Trace(), "decoder")
        schedule = _DraftsFirst(limits, self.expansions)
        self._decoder = Decoder(self.target, Ledger(), schedule, Trace(), LocalDraft(model))

    def ask(self, *asked: tuple[Sequence[int], SamplingParams, int]) -> list[tuple[list[int], Request]]:
        """Answers to prompts, of so many tokens, all at the same time. Raises what one of them ended with."""
        errors: list[DuoError | None] = []
        answers = [self._submit(*each, errors.append) for each in asked]
        while len(errors) < len(asked):
            self._decoder.turn()
        for error in errors:
            if error is not None:
                raise error
        return answers

    def _submit(
        self, prompt: Sequence[int], params: SamplingParams, count: int, on_end: Callable[[DuoError | None], None]
    ) -> tuple[list[int], Request]:
        tokens: list[int] = []

        def take(step: Step) -> None:
            tokens.extend(done.token for done in step.committed)

        request = Request(list(prompt), params, count, True, take, on_end)
        self._decoder.submit(request)
        return tokens, request


def _speculate(
    found: Found, target: Engine, draft: Engine, whose: str, prompt: Sequence[int], alone: dict[str, Walk]
) -> None:
    """With the model's own drafts: one answer after the other, and then the next turn of the last conversation. With
    those of other weights: both answers at the same time."""
    for slot in range(target.slots):
        target.truncate(slot, 0)
    lead = _Lead(target, draft, EXPANSIONS[whose])
    asked = [(prompt, params, len(alone[mode].tokens)) for mode, params in MODES.items()]
    answers = [answer for each in asked for answer in lead.ask(each)] if whose == "own" else lead.ask(*asked)
    for mode, (tokens, _) in zip(MODES, answers, strict=True):
        found.same[f"{mode}, {whose} drafts"] = _compare(tokens, alone[mode], 2 * found.error)
    totals = [request.session.total for _, request in answers]
    found.accepted[whose] = (sum(total.accepted for total in totals), sum(total.drafted for total in totals))
    if whose != "own":
        return
    more = target.vocabulary.encode(MORE)
    (tokens, _), params = answers[-1], asked[-1][1]
    longer = [*prompt, *tokens, *more]
    ((again, request),) = lead.ask((longer, params, len(tokens) // 2))
    # The last token of an answer has not been read, nor is the last of a prompt read with it.
    found.reread = len(longer) - 1 - request.cached_tokens - len(more)
    found.same["next turn"] = _compare(again, walk(target, longer, params, len(again)), 2 * found.error)
