"""Prompts of conversations by a model's chat template, for the vocabularies of both runtimes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

from duo.engines import meaning
from duo.engines.base import NO_VARIABLES, Objects, Variables, Vocabulary
from duo.engines.chat.calls import Copies
from duo.engines.chat.ending import continued
from duo.engines.chat.probe import probed
from duo.engines.chat.rewrite import plainest, rewritten
from duo.engines.chat.traits import TemplateTraits
from duo.errors import ModelError, RequestError, first_line
from duo.prefix import common_length

RUNTIME_VARIABLES = frozenset(
    {
        "add_generation_prompt", "bos_token", "chat_template", "continue_final_message", "conversation",
        "conversations", "documents", "eos_token", "function_call", "functions", "max_length", "messages", "padding",
        "raise_exception", "return_assistant_tokens_mask", "return_dict", "return_tensors", "sanitize_control_tokens",
        "self", "strftime_now", "tokenize", "tokenizer_kwargs", "tool_choice", "tools", "truncation",
    }
)  # fmt: skip
"""Variables that the templating of transformers and llama-cpp-python takes for itself. Requests may not set them."""


PLAIN_TURNS = ("\nuser:", "\nassistant:", "\nsystem:", "\ntool:")
"""How turns begin in the prompt of a model without a chat template."""


class ChatVocabulary(Vocabulary, ABC):
    """The part of a vocabulary that is about conversations, and how prompts begin."""

    @cached_property
    def fingerprint(self) -> str:
        return meaning.fingerprint(self.meanings)

    @property
    def fim_tokens(self) -> Mapping[str, int]:
        return {}

    def encode(self, text: str) -> list[int]:
        tokens, added = self._tokenize(text, add_special=True), self._added
        # A prompt that was rendered by a template already has BOS written out.
        return tokens[len(added) :] if tokens[: 2 * len(added)] == added * 2 else tokens

    def encode_rendered(self, text: str) -> list[int]:
        # A template writes BOS itself where the model wants one, so nothing is added.
        return self._tokenize(text, add_special=False)

    @cached_property
    def _added(self) -> list[int]:
        """What the tokenizer puts before each text: BOS, several tokens such as GLM's `[gMASK]<sop>`, or none."""
        around = self._tokenize("", add_special=True)  # it may also put something after a text
        return around[: common_length(around, self._tokenize("a", add_special=True))]

    @abstractmethod
    def _tokenize(self, text: str, add_special: bool) -> list[int]:
        """Token ids of a text. add_special: with the tokens that the tokenizer adds around it."""

    @abstractmethod
    def _apply(self, messages: Copies, tools: Copies | None, variables: Variables, begins: bool) -> str:
        """What the model's template makes of these. begins: an answer begins at the end of the prompt.

        Raises ModelError if the template cannot be read, and whatever a template raises.
        """

    @cached_property
    def traits(self) -> TemplateTraits:
        """What the chat template accepts."""
        return probed(self._written) if self.chat_template else TemplateTraits()

    def render(
        self, messages: Objects, tools: Objects = (), variables: Variables = NO_VARIABLES, continues: bool = False
    ) -> str:
        # A request over the network must not bring its own template, nor say how to use this one.
        if taken := sorted(RUNTIME_VARIABLES & set(variables)):
            raise RequestError(f"chat_template_kwargs: {taken[0]} is not for requests to say", "chat_template_kwargs")
        if continues:
            return continued(messages, lambda given, begins: self._rendered(given, tools, variables, begins))
        return self._rendered(messages, tools, variables)

    def _rendered(self, messages: Objects, tools: Objects, variables: Variables, begins: bool = True) -> str:
        """The prompt of a conversation, in the shape that suits the template, or else in the plainest one."""
        turns, known = rewritten(messages, tools, self.traits)
        try:
            return self._written(turns, known, variables, begins)
        except ModelError:
            raise  # an unreadable template is the model's fault, not the request's
        except Exception:  # a template is a program from outside and may raise anything
            plain = plainest(messages, tools, self.traits)
        try:
            return self._written(plain, None, variables, begins)
        except Exception as error:
            raise RequestError(f"the model's chat template refuses: {first_line(error)}", param="messages") from error

    def _written(
        self, messages: Copies, tools: Copies | None, variables: Variables = NO_VARIABLES, begins: bool = True
    ) -> str:
        if self.chat_template:
            return self._apply(messages, tools, variables, begins)
        written = "".join(f"{message['role']}: {message['content']}\n" for message in messages)
        return written + "assistant:" if begins else written
