"""What both model runtimes look like from outside: rows in, logits out.

A *slot* holds one sequence: its committed tokens, whose keys and values are in the KV cache, and a tree of uncommitted
*rows* that hangs from the last committed token. A row is one token with a parent: another row of the slot or the
committed sequence itself. `forward` adds rows and returns their logits; rows stay, so that later rows can hang from
them; `commit` turns a path of rows into committed tokens and forgets the rest. The verification of a draft tree, a
draft model that grows its tree batch by batch, and plain decoding are all the same three calls. Pieces of prompts can
be read in the same forward passes.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

ROOT = -1
"""Parent of a row that follows the slot's last committed token directly."""

Logits = NDArray[np.float32]
"""Shape [rows, vocabulary size], or [vocabulary size] for one row."""


class InterruptedForwardError(Exception):
    """A forward pass was given up because `Engine.interrupt` was called."""


class Row(NamedTuple):
    """One token for a forward pass.

    `id` is the caller's name for the row, unique among the engine's live rows (of all slots), >= 0; `parent` is the id
    of a live row of the same slot, of an earlier row of the same call, or ROOT.
    """

    id: int
    slot: int
    token: int
    parent: int = ROOT


UNBOUNDED = sys.maxsize
"""A `Rollback.depth` without a bound."""


class Rollback(NamedTuple):
    """How far a model's memory goes back over rows that are not kept. It bounds what may be verified.

    Attention drops the keys and values of any row. So its rows may branch, and nothing bounds how many are dropped. A
    recurrent state has seen every row that ran. It goes back over the end of one chain, by a bounded number of tokens.

    trees: whether rows of a slot may branch. If not, the live rows of a slot form one chain, that chain comes in one
    `forward`, and `commit` is called for the slot before its next rows. depth: how many rows of a slot `commit` can
    drop; 0: the model is served without guesses. replay: whether dropping rows runs the kept ones again, from a
    checkpoint.
    """

    trees: bool
    depth: int
    replay: bool = False


TREES = Rollback(trees=True, depth=UNBOUNDED)
"""What attention allows."""


class Chunk(NamedTuple):
    """Tokens of a prompt for a forward pass: they become committed tokens of a slot that has no rows."""

    slot: int
    tokens: Sequence[int]


NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})
"""Of a chat template, beside the messages and tools."""


class Vocabulary(Protocol):
    """The tokens of a model, and its way to write a conversation as a prompt."""

    @property
    def size(self) -> int:
        """Number of logits per row. Token ids are below it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for two models if and only if every token id means the same, whatever their runtimes."""
        ...

    @property
    def meanings(self) -> Sequence[bytes]:
        """What each token means, by id: its bytes, or its name if it stands for no text; empty where an id only pads
        the logits. See `duo.engines.meaning`."""
        ...

    @property
    def eos(self) -> frozenset[int]:
        """The tokens that end an answer."""
        ...

    @property
    def chat_template(self) -> str:
        """The model's own chat template, in Jinja's language; empty where it has none."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, as the model expects a prompt to begin (with BOS where the model wants one).

        Special tokens that are written out are read as such. A text that begins with what the tokenizer puts before
        each text does not get it twice.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the tokens, special tokens left out; incomplete UTF-8 becomes U+FFFD."""
        ...

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of text that `render` gave: special tokens are written out in it, and none is added."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """What the token adds to a text, as bytes; nothing for a special token."""
        ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> str:
        """The prompt of a conversation by the model's chat template, up to where the assistant's next answer begins.

        `messages` and `tools` as in OpenAI's API: `role` and `content` each, perhaps `tool_calls` and `tool_call_id`.
        `variables`: further ones of the template, such as Qwen's enable_thinking.
        Raises RequestError if the template does not accept them.
        """
        ...

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> list[int]:
        """Token ids of a conversation as `render` writes it. Raises RequestError as that does."""
        rendered = self.render(messages, tools, variables)
        return self.encode_rendered(rendered) if self.chat_template else self.encode(rendered)


class Engine(Protocol):
    """A loaded model. Not thread-safe: one thread calls it."""

    @property
    def name(self) -> str:
        """The model's name for people and for `/v1/models`."""
        ...

    @property
    def runtime(self) -> str:
        """'transformers' or 'llamacpp'."""
        ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def context(self) -> int:
        """Tokens that one slot holds, rows included."""
        ...

    @property
    def slots(self) -> int:
        """How many sequences it holds."""
        ...

    @property
    def batch(self) -> int:
        """Most rows and tokens of pieces that one `forward` takes."""
        ...

    @property
    def capacity(self) -> int:
        """How many rows may be live at once, over all slots. It may be less than was asked for."""
        ...

    @property
    def note(self) -> str:
        """A line for the start, about what this model can verify and what that takes; empty: nothing to say."""
        ...

    @property
    def rollback(self) -> Rollback:
        """How far slots go back over rows that are not kept."""
        ...

    @property
    def mixes(self) -> bool:
        """Whether pieces are best read in the passes that have rows.

        If not, the runtime would split such a pass, and each part would read all weights. So pieces go alone.
        """
        ...

    @property
    def neighbours(self) -> bool:
        """Whether only slots side by side share a pass. With a gap between them the runtime computes two."""
        ...

    @property
    def spacing(self) -> int:
        """Tokens between two lengths that a slot can be cut to, roughly, and not where a prompt ends; 1: to any."""
        ...

    def length(self, slot: int) -> int:
        """Number of committed tokens in the slot."""
        ...

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Prefill: append committed tokens to the slot, in batches. Forgets the slot's rows first.

        Raises ContextError if they do not fit.
        """
        ...

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        """Run the model over the rows, parents before children, and return logits of shape [len(rows), size].

        `logits[i]` predicts the token after `rows[i]`. The next call may reuse the array, and the caller may
        write into it. Each piece, at most one of a slot, is appended to what its slot has committed; rows of that slot
        come after it.
        Raises ContextError if a path does not fit the context or there is no room left for rows, and
        InterruptedForwardError if it was interrupted; in both cases none of the rows and pieces is there.
        """
        ...

    def interrupt(self) -> None:
        """Called from another thread: what the `forward` under way computes is not wanted any more.

        It may end early, or run to its end as if nothing had been said; where none is under way nothing happens.
        """
        ...

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        """Commit the rows of `path` (a chain from the committed sequence downwards; may be empty).

        Of the slot's other rows those in `rest` stay, all others are forgotten. `rest` holds descendants of the end of
        the path and is closed under parents down to there.
        """
        ...

    def restorable(self, slot: int, length: int) -> int:
        """How many tokens `truncate` to `length` would leave.

        All of them where the model has attention only. A recurrent model goes back to the last checkpoint before.
        """
        ...

    def truncate(self, slot: int, length: int) -> int:
        """Cut the committed sequence to at most its first `length` tokens and forget all rows of the slot.

        Returns how many tokens are left: `restorable(slot, length)`.
        """
        ...

    def share(self, source: int, target: int, length: int) -> int:
        """Let `target`'s committed sequence be at most the first `length` tokens of `source`'s, without computing them
        again. What it held before, and its rows, are forgotten. What becomes of either slot later does not touch the
        other. Returns how many tokens `target` holds now: `restorable(source, length)`."""
        ...

    def close(self) -> None:
        """Give the memory back. The engine is not used afterwards."""
        ...
