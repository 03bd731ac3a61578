"""Prompts of conversations by a model's chat template, for the vocabularies of both runtimes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

from duo.engines import meaning
from duo.engines.base import NO_VARIABLES, Objects, Variables, Vocabulary
from duo.engines.chat import tools as _tools
from duo.engines.chat.tools import Copies
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
    def _apply(self, messages: Copies, tools: Copies | None, variables: Variables) -> str:
        """What the model's template makes of these. Raises ModelError if it cannot be read, and whatever a template
        raises."""

    def render(self, messages: Objects, tools: Objects = (), variables: Variables = NO_VARIABLES) -> str:
        # A request over the network must not bring its own template, nor say how to use this one.
        if taken := sorted(RUNTIME_VARIABLES & set(variables)):
            raise RequestError(f"chat_template_kwargs: {taken[0]} is not for requests to say", "chat_template_kwargs")
        try:
            if not _tools.concern(messages, tools):
                return self._written([dict(message) for message in messages], None, variables)
            if self.chat_template and self._knows_tools:
                return self._written(_tools.structured(messages), [dict(tool) for tool in tools] or None, variables)
            return self._written(_tools.plain(messages, tools), None, variables)
        except ModelError:
            raise  # an unreadable template is the model's fault, not the request's
        except KeyError as error:
            raise RequestError(f"a message lacks {error}", param="messages") from error
        except Exception as error:  # a template is a program from outside and may raise anything
            raise RequestError(f"the model's chat template refuses: {first_line(error)}", param="messages") from error

    def _written(self, messages: Copies, tools: Copies | None, variables: Variables = NO_VARIABLES) -> str:
        if self.chat_template:
            return self._apply(messages, tools, variables)
        return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"

    @cached_property
    def _knows_tools(self) -> bool:
        return _tools.knows_tools(self._written)
