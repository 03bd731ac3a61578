"""The contract of both model runtimes: rows in, logits out.

A *slot* holds one sequence. It has *committed tokens*, whose keys and values are in the KV cache. A tree of *rows*
hangs from the last committed token. A row is one token with a parent: another row of the slot, or the committed
sequence.

`forward` adds rows and returns their logits. Rows stay live, so later rows can hang from them. `commit` turns a path of
rows into committed tokens and forgets the others. Plain decoding, the verification of a draft tree, and a draft model
that grows its tree batch by batch all use these two calls. A forward pass can also read *chunks* of prompts.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from duo.engines.slot_copy import SlotCopy

ROOT = -1
"""The parent of a row that directly follows the last committed token of its slot."""

Logits = NDArray[np.float32]
"""Shape [rows, vocabulary size], or [vocabulary size] for one row."""


class InterruptedForwardError(Exception):
    """`Engine.interrupt` was called, and the forward pass was given up."""


class Row(NamedTuple):
    """One token for a forward pass.

    id: the caller's number for the row, at least 0, and unique among the live rows of all slots. parent: the id of a
    live row of the same slot, the id of an earlier row of the same call, or ROOT. padding: the row only makes the pass
    wider. It stands behind the other rows of its slot, its logits may be anything, and it is never committed.
    """

    id: int
    slot: int
    token: int
    parent: int = ROOT
    padding: bool = False


UNBOUNDED = sys.maxsize
"""A `Rollback.depth` without a limit."""


class Rollback(NamedTuple):
    """How far a model's memory goes back over rows that are dropped. It limits which guesses can be verified.

    Attention can drop the keys and values of any row. So its rows may branch, and any number of them may be dropped. A
    recurrent state has seen every row that ran. It goes back only over the end of a chain, and only some tokens.

    trees: rows of a slot may branch. Otherwise they are one chain, which comes in one `forward`; `commit` must follow
    before the slot's next rows. depth: how many rows of a slot `commit` can drop; 0: the model is served without
    guesses. replay: to drop rows, the engine restores a checkpoint and runs the kept rows again.
    """

    trees: bool
    depth: int
    replay: bool = False


TREES = Rollback(trees=True, depth=UNBOUNDED)
"""What attention allows: any rows, and any number dropped."""


class Chunk(NamedTuple):
    """Tokens of a prompt for a forward pass. They become committed tokens of a slot without rows.

    last: no further chunk of this prompt follows.
    """

    slot: int
    tokens: Sequence[int]
    last: bool = False


Objects = Sequence[Mapping[str, Any]]
"""JSON objects of OpenAI's API: messages, or tools."""

Variables = Mapping[str, Any]
"""Variables of a chat template, such as Qwen's enable_thinking."""

NO_VARIABLES: Variables = MappingProxyType({})
"""No variables for a chat template."""


class Vocabulary(Protocol):
    """The tokens of a model, and how it writes a conversation as a prompt."""

    @property
    def size(self) -> int:
        """Logits per row. Token ids are below it."""

    @property
    def fingerprint(self) -> str:
        """Equal for two models exactly if every token id means the same, in either runtime."""

    @property
    def meanings(self) -> Sequence[bytes]:
        """What each token means, by id: its bytes, or its name if it stands for no text. Empty for an id that only pads
        the logits. See `duo.engines.meaning`."""

    @property
    def eos(self) -> frozenset[int]:
        """The tokens that end an answer."""

    @property
    def chat_template(self) -> str:
        """The model's chat template, in Jinja's language; empty if it has none."""

    @property
    def fim_tokens(self) -> Mapping[str, int]:
        """The marks for code in the middle that the file names itself: prefix, suffix, middle, pad, repository, file.

        Only those that it names. Their names in the vocabulary say the same in most models.
        """

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that begins a prompt, with BOS if the model wants it.

        Special tokens may be written out in the text. If the text itself begins with BOS, it gets no second one.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens, without special tokens. Incomplete UTF-8 becomes U+FFFD."""

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a text from `render`. Special tokens are written out in it, and none is added."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that the token adds to a text; none for a special token."""

    def render(
        self, messages: Objects, tools: Objects = (), variables: Variables = NO_VARIABLES, continues: bool = False
    ) -> str:
        """The prompt of a conversation by the chat template, up to where the assistant's next answer begins.

        messages and tools are those of OpenAI's API: each message has `role` and `content`, and may have `tool_calls`,
        `tool_call_id`, `name` and `reasoning_content`. They are rewritten where the template wants another shape.
        variables: further variables of the template, such as Qwen's enable_thinking. continues: the prompt ends within
        the last message, which is the assistant's. Raises RequestError if the template does not accept them.
        """

    def chat(
        self, messages: Objects, tools: Objects = (), variables: Variables = NO_VARIABLES, continues: bool = False
    ) -> list[int]:
        """Token ids of a conversation as `render` writes it. Raises RequestError too."""
        rendered = self.render(messages, tools, variables, continues)
        return self.encode_rendered(rendered) if self.chat_template else self.encode(rendered)


class Engine(Protocol):
    """A loaded model. It is not thread-safe: one thread calls everything but `interrupt`."""

    @property
    def name(self) -> str:
        """The model's name for people and for `/v1/models`."""

    @property
    def runtime(self) -> str:
        """'transformers' or 'llamacpp'."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def context(self) -> int:
        """Tokens that a slot holds, its rows included."""

    @property
    def slots(self) -> int:
        """Sequences that the engine holds at once."""

    @property
    def batch(self) -> int:
        """Most rows and tokens of chunks in one `forward`."""

    @property
    def capacity(self) -> int:
        """Most rows that may be live at once, over all slots. It may be less than was asked for."""

    @property
    def note(self) -> str:
        """A line for the start of the program: what the model can verify, and what memory it takes. May be empty."""

    @property
    def sampling(self) -> Mapping[str, float]:
        """Fields of `SamplingParams` that the model's makers suggest. See `duo.engines.suggested`."""

    @property
    def rollback(self) -> Rollback:
        """How far slots go back over rows that are dropped."""

    @property
    def mixes(self) -> bool:
        """Whether chunks should be read in passes that have rows.

        If not, the runtime would split such a pass, and each part would read all weights. Then chunks go alone.
        """

    @property
    def neighbours(self) -> bool:
        """Whether only adjacent slots share a pass. If there is a gap between them, the runtime computes two passes."""

    @property
    def spacing(self) -> int:
        """A slot can be cut only to lengths about this many tokens apart, and to the ends of prompts. 1: to any."""

    def length(self, slot: int) -> int:
        """Committed tokens of the slot."""

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Prefill: append committed tokens to the slot, in batches. Forgets the slot's rows first.

        Raises ContextError if the tokens do not fit.
        """

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        """Run the model over rows, parents before children. Returns logits of shape [len(rows), vocabulary size].

        `logits[i]` predicts the token after `rows[i]`. The caller may write into the array, and the next call may reuse
        it. Each chunk is first appended to the committed tokens of its slot; a slot gets at most one.
        Raises ContextError if rows or chunks do not fit, and InterruptedForwardError if the pass was given up. Then
        everything is as before the call.
        """

    def interrupt(self) -> None:
        """Called from another thread: the result of the running `forward` is not wanted any more.

        The pass may end early or run to its end. If none is running, nothing happens.
        """

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        """Turn the rows of `path` into committed tokens. The rows in `rest` stay live; the slot's others are forgotten.

        path: a chain of row ids from the committed sequence downwards; may be empty. rest: ids of rows below the end of
        the path, each with its parent.
        """

    def restorable(self, slot: int, length: int) -> int:
        """How many tokens `truncate` to `length` would leave.

        With attention it leaves `length` tokens. A recurrent model goes back to its last checkpoint before.
        """

    def truncate(self, slot: int, length: int) -> int:
        """Cut the slot to at most `length` committed tokens, and forget its rows.

        Returns how many tokens are left: `restorable(slot, length)`.
        """

    def share(self, source: int, target: int, length: int) -> int:
        """Give `target` the first `length` committed tokens of `source`, or fewer, without computing them again.

        What `target` held before is forgotten. Later changes of one slot do not affect the other. Returns how many
        tokens `target` has: `restorable(source, length)`.
        """

    @property
    def unsavable(self) -> str:
        """Why slots cannot be saved; empty if they can."""

    @property
    def layout(self) -> str:
        """What the memory of slots is made of. Only an engine of the same model and layout takes a copy."""

    def copy_bytes(self, slot: int) -> int:
        """About how many bytes a copy of the slot takes."""

    def save(self, slot: int) -> SlotCopy:
        """A copy of what the slot holds, in the memory of the host. Forgets the slot's rows.

        Raises ContextError if the runtime cannot give it, as of all slots if `unsavable` says why.
        """

    def restore(self, slot: int, copy: SlotCopy, tokens: Sequence[int]) -> int:
        """Let the slot hold what a copy says, with the same bits. tokens: what the copied slot held.

        What the slot held before is forgotten. Returns how many tokens it has, which may be fewer than were copied.
        Raises ContextError if the copy does not fit, or is not of this layout. The slot is empty then.
        """

    def close(self) -> None:
        """Give the memory back. The engine is not used afterwards."""
