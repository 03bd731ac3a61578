"""The answers under way, as all connections to backs see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from duo.prefix import Prefix
from duo.sampling.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Entry:
    """A session as the backs hear of it. The prefix grows while it is sent."""

    session: int
    sampling: SamplingParams
    prompt_length: int
    prefix: Prefix
    backs: Sequence[str] = ()
    """Names of the backs that divide the drafting."""
    ends: Sequence[int] = ()
    """The tokens that end the answer."""


class Ledger(dict[int, Entry]):
    """The open sessions by id, oldest first.

    While `resting`, the backs hear that all sessions have ended, so that they do nothing.
    """

    resting = False
    says = ""
    """What backs bring, for people, since they were last laid to rest or taken up again; empty before that."""
