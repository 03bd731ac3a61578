"""From a conversation to what the model is asked: prompt, grammar, and how its answer is taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from duo.engines.base import Vocabulary
from duo.engines.chat.template import PLAIN_TURNS
from duo.errors import RequestError
from duo.sampling.thinking import ThinkingLimit
from lead.api import ThinkingMarks
from lead.chat.conversation import ChatSettings, Conversation, ReasoningFormat, Thinking, Tool
from lead.chat.forms import Form, channels, form_of
from lead.chat.forms.schemas import NO_PARAMETERS
from lead.chat.grammar import grammar
from lead.chat.parser import AnswerParser, parser_for
from lead.chat.thinking import ThinkingVariables, decided, limited


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conversation, ready to be asked.

    grammar: what the answer must follow; empty if it is free. marks: special tokens that the parser needs to see, with
    their names. Their names are then a part of the answer's text. begun: the answer begins within thinking. thinking:
    the limit on thinking, if there is one. reasoning_format: 'auto' means 'deepseek'. turns: how turns begin in the
    text, for a model that has no token for their end.
    """

    prompt: Sequence[int]
    grammar: str
    conversation: Conversation
    form: Form
    begun: bool = False
    thinking: ThinkingLimit | None = None
    reasoning_format: ReasoningFormat = "auto"
    turns: Sequence[str] = ()

    @property
    def marks(self) -> Mapping[int, str]:
        """Without tools, those of calls mean nothing. Then they are no text, like any special token."""
        if self.form.channels or (self.conversation.tools and self.conversation.choice != "none"):
            return self.form.marks
        thinking = "".join(self.form.thinking)
        return {token: name for token, name in self.form.marks.items() if name in thinking}

    @property
    def thinking_marks(self) -> tuple[str, str]:
        """How the model writes where thinking begins and ends."""
        return self.form.thinking

    def fields(self) -> dict[str, Any]:
        """What it says, as fields of a `Question`. The grammar is a field of its sampling."""
        return {
            "prompt": self.prompt,
            "marks": self.marks,
            "thinking": self.thinking,
            "thinking_marks": ThinkingMarks(
                [self.form.thinking.open], closing_marks(self.form), self.begun, self.form.declared
            ),
            "continues": _goes_on(self.conversation),
            "turns": self.turns,
        }

    def parser(self) -> AnswerParser:
        """A new parser, for one answer."""
        asked = self.conversation
        return parser_for(
            self.form,
            () if asked.choice == "none" else asked.tools,
            parallel=asked.parallel is not False,
            must_call=asked.choice == "required",
            thinking_open=self.begun,
            keep_thinking=self.reasoning_format == "none",
        )


def prepare(asked: Conversation, vocabulary: Vocabulary, settings: ChatSettings) -> Prepared:
    """Makes a prompt of the conversation. Takes long for a long one. Raises RequestError."""
    check(asked)
    model = _known(vocabulary, settings.tool_format)
    text = rendered(asked, vocabulary, settings)
    begun = model.form.thinking_open(text) or _within_thinking(asked)
    return Prepared(
        vocabulary.encode_rendered(text) if vocabulary.chat_template else vocabulary.encode(text),
        grammar(asked, model.form, model.form.thinking.open if begun else text),
        asked,
        model.form,
        begun,
        model.limit(decided(asked.thinking, settings.reasoning_budget), begun),
        settings.reasoning_format,
        () if vocabulary.chat_template else PLAIN_TURNS,
    )


def rendered(asked: Conversation, vocabulary: Vocabulary, settings: ChatSettings) -> str:
    """The prompt as text. Raises RequestError."""
    model = _known(vocabulary, settings.tool_format)
    thinking = decided(asked.thinking, settings.reasoning_budget)
    offered = [] if asked.choice == "none" else [described(tool) for tool in asked.tools]
    variables = {**model.variables.of(thinking, vocabulary), **asked.variables}
    return vocabulary.render(asked.messages, offered, variables, asked.continues)


def _goes_on(asked: Conversation) -> bool:
    """Whether the answer continues a text. A last message without any counts as not there."""
    last = asked.messages[-1] if asked.continues and asked.messages else {}
    return bool(last.get("content") or last.get("reasoning_content"))


def _within_thinking(asked: Conversation) -> bool:
    """Whether the answer continues a message that has nothing but thinking yet."""
    last = asked.messages[-1] if asked.continues and asked.messages else {}
    return bool(last.get("reasoning_content") and not last.get("content"))


def closing_marks(form: Form) -> Sequence[str]:
    """Marks of which each ends thinking."""
    return [channels.END, channels.START] if form.channels else [form.thinking.close]


def form_for(vocabulary: Vocabulary, settings: ChatSettings) -> Form:
    """How the model writes calls and thinking. The first time takes a while for a large vocabulary."""
    return _known(vocabulary, settings.tool_format).form


def check(asked: Conversation) -> None:
    """Raises RequestError for tools that contradict each other."""
    names = [tool.name for tool in asked.tools]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RequestError(f'tools: two have the name "{twice[0]}"', "tools")
    if not names and asked.choice == "required":
        raise RequestError("tool_choice asks for a call, but there are no tools", "tool_choice")
    if asked.named and asked.named not in names:
        raise RequestError(f'tool_choice: no tool has the name "{asked.named}"', "tool_choice")


def described(tool: Tool) -> dict[str, Any]:
    """The tool as chat templates take it, with every field."""
    described = {"name": tool.name, "description": tool.description, "parameters": tool.parameters or NO_PARAMETERS}
    return {"type": "function", "function": described}


class _Known:
    """What is known of one model's conversations. It must not hold the vocabulary, whose death is its own."""

    def __init__(self, vocabulary: Vocabulary, tool_format: str) -> None:
        self.form = form_of(vocabulary, tool_format)
        self.variables = ThinkingVariables(vocabulary.chat_template)
        ending, after = (channels.TURNS, channels.NEXT) if self.form.channels else (self.form.thinking.close, ())
        self._ending = tuple(vocabulary.encode_rendered(ending))
        # Of the name of a channel, the first token is enough.
        self._next = tuple(vocabulary.encode_rendered(name)[0] for name in after)

    def limit(self, thinking: Thinking, begun: bool) -> ThinkingLimit | None:
        """The limit on thinking, if there is one and the model thinks."""
        form = self.form
        if not limited(thinking) or not self._ending or not (form.declared or begun):
            return None
        budget, opens = thinking.budget or 0, [form.thinking.open]
        return ThinkingLimit(budget, begun, opens, closing_marks(form), self._ending, form.marks, self._next)


_all_known: WeakKeyDictionary[Vocabulary, dict[str, _Known]] = WeakKeyDictionary()


def _known(vocabulary: Vocabulary, tool_format: str) -> _Known:
    known = _all_known.setdefault(vocabulary, {})
    if tool_format not in known:
        known[tool_format] = _Known(vocabulary, tool_format)
    return known[tool_format]
