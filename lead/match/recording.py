"""What a target answers, and what a draft model would have guessed along these answers.

The draft model reads the target's own tokens. At every place it ranks what comes next, as a back would have done. So
the policy that grows trees can be replayed on the record.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from duo.draft.model import IMPOSSIBLE
from duo.draft.policy import CHILDREN, MIN_PROBABILITY
from duo.draft.scaling import Scale, Sharpness
from duo.engines import ROOT, Engine, Row
from duo.engines.answering import Asked, answers
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from lead.simulation.replay import Recorded

SLOT = 0
ROWS = 32
"""Most tokens of an answer that the draft model reads in one forward pass."""

Prompt = tuple[Sequence[int], SamplingParams]
"""The tokens of a prompt, and how its answer is sampled."""


def answered(
    target: Engine, prompts: Sequence[Prompt], count: int, progress: Callable[[int], None] = lambda done: None
) -> list[list[int]]:
    """The target's answers, at most `count` tokens each. As many at once as it has slots.

    progress: called with the number of answers that are done.
    """
    made: dict[int, list[int]] = {}
    for answer in answers(target, (Asked(prompt, params, count, target.vocabulary.eos) for prompt, params in prompts)):
        made[answer.number] = answer.tokens
        progress(len(made))
    return [made[number] for number in range(len(prompts))]


def along(
    draft: Engine, scale: Scale, sharpness: Sharpness, prompt: Sequence[int], tokens: Sequence[int],
    params: SamplingParams, size: int, differing: Collection[int] = (),
) -> Recorded:  # fmt: skip
    """What the draft model guesses at each place of an answer. `scale` and `sharpness` learn along the way.

    size: of the target's vocabulary. differing: tokens with another meaning for the draft model. It does not guess
    these. Those that it lacks it reads as the end of a line, as a back does.
    """
    own = draft.vocabulary.size
    differing = [token for token in differing if token < own]
    unsayable = [*range(size, own), *differing]
    lacking = {token for token in differing if not draft.vocabulary.meanings[token]}

    def as_read(some: Sequence[int]) -> list[int]:
        if not lacking and max(some) < own:
            return list(some)
        line_end = next(reversed(draft.vocabulary.encode_rendered("\n")), 0)
        return [line_end if token >= own or token in lacking else token for token in some]

    sampler, guesses = Sampler(params, prompt), []
    draft.truncate(SLOT, 0)
    if prompt[:-1]:
        draft.extend(SLOT, as_read(prompt[:-1]))
    read = as_read([prompt[-1], *tokens[:-1]])
    width = ROWS if draft.rollback.trees else min(ROWS, draft.rollback.depth + 1)
    for start in range(0, len(read), width):
        rows = [Row(i, SLOT, token, i - 1 if i else ROOT) for i, token in enumerate(read[start : start + width])]
        for place, logits in enumerate(draft.forward(rows), start):
            logits[unsayable] = IMPOSSIBLE
            ranked = sampler.rank(logits, tokens[:place], CHILDREN, scale.value, sharpness.value)
            if params.temperature:
                picks = sampler.picks(logits, tokens[:place], Sharpness.CANDIDATES)
                sharpness.outcome(picks, tokens[place])
            guesses.append(ranked)
            # Learned from what a back would have sent.
            sent = ranked[:1] + [guess for guess in ranked[1:] if guess[1] >= MIN_PROBABILITY]
            picked = [token for token, _ in sent]
            scale.outcome([p for _, p in sent], picked.index(tokens[place]) if tokens[place] in picked else None)
        draft.commit(SLOT, [row.id for row in rows])
    return Recorded(list(prompt), list(tokens), guesses)
