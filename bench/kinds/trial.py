"""A trial of a tiny model: what it verifies, how exact its logits are, and whether guesses change its text.

The reference is the transformers library alone: its greedy `generate` without speculation, and a plain forward pass
over that text. Then the lead's own decode loop runs here with a draft model beside the target. It has the classes of a
lead and its backs, but no processes and no waits, so every step has guesses. Once the model drafts for itself, and all
guesses are right. Once another random model drafts, and hardly any guess is right.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from bench.harness.decoding import Asked, LeadLoop, chat_prompt
from bench.harness.models import Runtime
from bench.harness.near_ties import Walk, walk
from bench.kinds.kind import SPREAD
from bench.kinds.plain import of_llamacpp
from duo.draft.model import DraftModel
from duo.draft.policy import TREE
from duo.engines import Engine, EngineOptions, Row, load
from duo.engines.base import Rollback
from duo.engines.cost import CostCurve
from duo.engines.transformers.loading import quiet
from duo.errors import DuoError, first_line
from duo.sampling.params import SamplingParams
from duo.trace import Trace
from lead.decode.local_draft import LocalDraft
from lead.plan.arrivals import DraftOffer
from lead.plan.limits import Limits
from lead.plan.speculation import Action, Expand
from lead.plan.tree import GuessTree
from lead.plan.verify_all import VerifyAll

QUESTION = "What does subprocess.run do, and what does it return?"
NEXT_QUESTION = "And shutil?"
"""The next turn of the conversation."""
AHEAD = 5
"""Guesses of an answer in a forward pass, at most."""
EXPANSIONS = {"own": AHEAD, "other": 2}
"""The draft model's forward passes before each one of the target. A few wrong guesses are enough."""
OPTIONS = EngineOptions(threads=1, context=448, slots=2, tree_rows=64, batch=96, flash_attention="off")
MODES = {"greedy": SamplingParams(temperature=0.0), "sampled": SamplingParams(temperature=0.8, seed=7)}

MAX_ERROR = 0.02 * SPREAD
"""The largest error of a logit that rounding explains. llama.cpp has keys, values and GELU in 16 bits."""

_COST = {1: 1.0, 8: 1.7}
"""A draft model's cost by rows. More rows are cheap, so it grows trees. Measured times would mean nothing here."""


@dataclass(frozen=True)
class Reference:
    """A text by transformers. logits: shape [tokens, vocabulary size], a row for each token that follows the prompt."""

    prompt: list[int]
    tokens: list[int]
    logits: NDArray[np.float32]


@dataclass
class Found:
    """What a trial found.

    refused: why duo refuses the model. failed: any other exception. error: the largest error of a logit. same: by
    what was compared, "same", a near tie, or a difference. accepted: by whose drafts, guesses accepted and verified.
    reread: old tokens that the next turn of the conversation read again.
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
        """Whether it is served, and nothing differs but near ties."""
        return (
            not self.refused
            and not self.failed
            and self.error < MAX_ERROR
            and not any("differs" in it for it in self.same.values())
        )


def reference(folder: Path, prompt: Sequence[int], count: int) -> Reference:
    """The `count` tokens that transformers generates after the prompt."""
    loader: Any = AutoModelForCausalLM
    with quiet(), torch.inference_mode():
        model: Any = loader.from_pretrained(folder, dtype=torch.float32).eval()
        model.generation_config.eos_token_id = None
        ids = torch.tensor([prompt])
        given = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count)
        logits = model(given, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return Reference(list(prompt), given[0, len(prompt) :].tolist(), logits.numpy())


def attempt(kind: str, runtime: Runtime, model: Path, other: Path, folder: Path | None, count: int) -> Found:
    """Serves `model` with `runtime`, and compares answers of `count` tokens.

    other: the same kind with other weights, for drafts. folder: the model for transformers; None: transformers does
    not know it, and llama.cpp's plain decode is the reference.
    """
    found = Found(kind, runtime)
    try:
        with _loaded(model, runtime) as target:
            found.rollback = target.rollback
            prompt = chat_prompt(target, QUESTION)
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
    except Exception as error:  # our bug or the runtime's: the other kinds are still tried
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
    """The largest error of a logit, in passes of one row and in chains."""
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
    """Compares the tokens with the walk. A difference between scores closer than `tie` is a near tie."""
    if list(tokens) == list(alone.tokens):
        return "same"
    at = next(i for i, (a, b) in enumerate(zip(tokens, alone.tokens, strict=True)) if a != b)
    gap = alone.gaps[at]
    return f"near tie at {at} ({gap:.1g})" if gap < tie else f"differs at {at} ({gap:.1g})"


class _DraftsFirst(VerifyAll):
    """Lets the draft model beside the target draft `expansions` times before each step. It verifies all guesses."""

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


def _lead(target: Engine, draft: Engine, expansions: int) -> LeadLoop:
    """A lead's decode loop with a draft model beside the target."""
    limits = Limits(draft_max=AHEAD, rows=1 + AHEAD, rollback=target.rollback)
    model = DraftModel(draft, CostCurve(dict(_COST)), AHEAD, TREE, Trace(), "decoder")
    return LeadLoop(target, _DraftsFirst(limits, expansions), LocalDraft(model))


def _speculate(
    found: Found, target: Engine, draft: Engine, whose: str, prompt: Sequence[int], alone: dict[str, Walk]
) -> None:
    """Answers with drafts, and compares with the walks in `alone`.

    With the model's own drafts, answers come one after the other, and then the next turn of the last conversation. With
    drafts of other weights, both answers are asked at the same time.
    """
    for slot in range(target.slots):
        target.truncate(slot, 0)
    lead = _lead(target, draft, EXPANSIONS[whose])
    asked = [Asked(prompt, params, len(alone[mode].tokens)) for mode, params in MODES.items()]
    answers = [answer for each in asked for answer in lead.ask([each])] if whose == "own" else lead.ask(asked)
    for mode, answer in zip(MODES, answers, strict=True):
        found.same[f"{mode}, {whose} drafts"] = _compare(answer.tokens, alone[mode], 2 * found.error)
    totals = [answer.request.session.total for answer in answers]
    found.accepted[whose] = (sum(total.accepted for total in totals), sum(total.drafted for total in totals))
    if whose != "own":
        return
    more = target.vocabulary.encode(NEXT_QUESTION)
    tokens, params = answers[-1].tokens, asked[-1].params
    longer = [*prompt, *tokens, *more]
    (again,) = lead.ask([Asked(longer, params, len(tokens) // 2)])
    # The last token of an answer has not been read, nor is the last of a prompt read with it.
    found.reread = len(longer) - 1 - again.request.cached_tokens - len(more)
    found.same["next turn"] = _compare(again.tokens, walk(target, longer, params, len(again.tokens)), 2 * found.error)
