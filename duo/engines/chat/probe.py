"""Finds out what a chat template accepts: it renders small conversations and looks at what comes out.

A template is a program. Its text says little about what it does, and the model's name says nothing. A turn counts as
accepted if the template does not raise, and writes every text of the conversation in its order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from duo.engines.base import NO_VARIABLES, Variables
from duo.engines.chat.calls import Copies
from duo.engines.chat.traits import FILLER, Arguments, Beside, Empty, Ids, TemplateTraits
from duo.errors import ModelError

Template = Callable[[Copies, Copies | None, Variables], str]
"""A chat template: makes a prompt of messages and tools. Tools are None if there are none."""

# Words that no template holds.
_RULE, _ASK, _SAY, _MORE, _THINK = "qrulex", "qaskx", "qsayx", "qmorex", "qthinkx"
_NAME, _KEY, _VALUE, _RESULT = "qnamex", "qkeyx", "qvaluex", "qresultx"
_AGAIN = "qagainx"
_IDS: Mapping[Ids, str] = {
    "any": "call_q0123456789abcdef{0}",
    "nine": "qcall123{0}",
    "named": f"functions.{_NAME}:{{0}}",
}
_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {_KEY: {"type": "string", "description": "Anything."}},
            "required": [_KEY],
        },
    },
}
_THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")

Content = str | None | list[dict[str, str]]


def probed(template: Template) -> TemplateTraits:
    """What the template accepts. Raises ModelError if the template cannot be read."""
    probe = _Probe(template)
    probe.look_at_content()
    probe.look_at_turns()
    probe.look_at_tools()
    probe.look_at_thinking()
    return probe.traits


class _Probe:
    """Asks a template questions. `traits` holds the answers so far, and later questions respect them."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self.traits = TemplateTraits()

    def look_at_content(self) -> None:
        """Whether content is text or a list of parts, for each role."""
        for role, turns in (
            ("user", [_user(_ASK)]),
            ("assistant", [_user(_ASK), _assistant(_SAY), _user(_MORE)]),
            ("system", [_system(_RULE), _user(_ASK)]),
        ):
            if not self._writes(turns):
                self._keep_if(parts=self.traits.parts | {role}, turns=turns)

    def look_at_turns(self) -> None:
        """Which turns may follow each other."""
        rule, ask, say, more = _system(_RULE), _user(_ASK), _assistant(_SAY), _user(_MORE)
        if not self._writes([rule, ask]):
            self._set(system="none")
        elif not self._writes([rule, _system("qrule1x"), ask, say, _system("qrule2x"), more, _system("qrule3x")]):
            self._set(system="first")
        again = _assistant(_AGAIN)
        self._set(
            users_in_a_row=self._writes([ask, more]) and self._writes([ask, say, more, _user(_AGAIN)]),
            assistants_in_a_row=self._writes([ask, say, again, more]),
            assistant_first=self._writes([say, ask]),
            empty_user=self._writes([_user(""), say, more]),
            empty_assistant=self._writes([ask, _assistant(""), more]),
        )
        alone = [rule] if self.traits.system != "none" else []
        begun = [say] if self.traits.assistant_first else []
        self._set(needs_user=not all(self._writes([turn]) for turn in (*alone, *begun)))

    def look_at_tools(self) -> None:
        """Whether tools, calls and results are written, and in which form they must come."""
        tools = [dict(_TOOL)]
        if _NAME not in (self._written([_user(_ASK)], tools) or ""):
            return
        known = replace(self.traits, tools=True)
        beside: Sequence[Empty] = ("empty", "null", "absent")
        for ids, content, parts in product(_IDS, beside, (self.traits.parts, self.traits.parts | {"tool"})):
            self.traits = replace(known, ids=ids, content_beside_calls=content, parts=parts)
            if form := self._form_of_arguments(tools):
                self._set(arguments=form)
                break
        else:
            self.traits = replace(known, tools=False)
            return
        call, result = self._call(), self._result()
        # Some write tools into the first turn of the user, and nothing else of that turn.
        self._set(
            assistant_first=self.traits.assistant_first
            and self._writes([_assistant(_SAY), _user(_ASK)], tools)
            and self._writes([call, result, _user(_ASK)], tools),
            needs_user=self.traits.needs_user
            or not (self.traits.system == "none" or self._writes([_system(_RULE)], tools)),
        )
        self._set(
            calls_without_tools=self._writes([_user(_ASK), call, result]),
            parallel_calls=self._writes([_user(_ASK), self._call(1, 2), self._result(1), self._result(2)], tools),
            user_after_tool=self._writes([_user(_ASK), call, result, _user(_MORE)], tools),
        )
        self._set(text_beside_calls=self._text_beside_calls(tools))
        answered = {**self._call(), "tool_responses": [{"name": _NAME, "response": _RESULT}]}
        written = self._written([_user(_ASK), answered], tools) or ""
        # A template that prints whole messages does not mean it.
        self._set(results_beside_calls=_RESULT in written and "tool_responses" not in written)

    def _text_beside_calls(self, tools: Copies) -> Beside:
        before, call, said = [_user(_ASK)], self._call(), _assistant(_SAY)
        ways: Mapping[Beside, Sequence[Mapping[str, Any]]] = {
            "kept": [self._call(text=_SAY)],
            "split": [said, call],
            "parted": [said, _user("" if self.traits.empty_user else FILLER), call],
        }
        for way, turns in ways.items():
            history = [*before, *turns, self._result()]
            if self._writes(history, tools) and self._writes([*history, _assistant(_AGAIN), _user(_MORE)], tools):
                return way
        return "lost"

    def look_at_thinking(self) -> None:
        """Where the template reads thinking from."""
        tools = [dict(_TOOL)] if self.traits.tools else None
        for key in _THINKING_KEYS:
            thought = {"role": "assistant", key: _THINK, "content": self._content("assistant", _SAY)}
            histories = [[_user(_ASK), thought, _user(_MORE)], [_user(_ASK), thought]]
            if self.traits.tools:
                histories.append([_user(_ASK), {**self._call(), key: _THINK}, self._result()])
            if any(_THINK in (self._written(turns, tools) or "") for turns in histories):
                self._set(thinking=key)
                break
        if self.traits.thinking and self.traits.tools:
            turn = {**self._call(text=_SAY), self.traits.thinking: _THINK}
            self._set(thinking_beside_text=self._written([_user(_ASK), turn, self._result()], tools) is not None)

    def _form_of_arguments(self, tools: Copies) -> Arguments | None:
        """Which form the template writes well; None if it writes neither.

        Text is the better one where both are: what the model wrote is then what it reads again.
        """
        good: dict[Arguments, str] = {}
        given, before = json.dumps({_KEY: _VALUE}), self._written([_user(_ASK)], tools) or ""
        # An object that is printed as Python does, or a text that is quoted once more, is not meant to be.
        odd = ("None", f"'{_KEY}'", f"{_KEY}\\")
        forms: Sequence[Arguments] = ("object", "text")
        for form in forms:
            self._set(arguments=form)
            turns = [_user(_ASK), self._call(), self._result()]
            if self._writes(turns, tools) and self._writes([*turns, _assistant(_SAY), _user(_MORE)], tools):
                written = self._written(turns, tools) or ""
                if all(written.count(mark) <= before.count(mark) for mark in odd):
                    good[form] = written
        if given in good.get("text", "") and ("object" not in good or given in good["object"]):
            return "text"
        return "object" if "object" in good else None

    def _call(self, *numbers: int, text: str = "") -> dict[str, Any]:
        """A turn with calls. Without numbers, with one."""
        turn: dict[str, Any] = {"role": "assistant"}
        if text or self.traits.content_beside_calls == "empty":
            turn["content"] = self._content("assistant", text)
        elif self.traits.content_beside_calls == "null":
            turn["content"] = None
        turn["tool_calls"] = []
        for number in numbers or (0,):
            arguments: Any = {_KEY: f"{_VALUE}{number or ''}"}
            if self.traits.arguments == "text":
                arguments = json.dumps(arguments)
            function = {"name": _NAME, "arguments": arguments}
            turn["tool_calls"].append({"id": self._id(number), "type": "function", "function": function})
        return turn

    def _result(self, number: int = 0) -> dict[str, Any]:
        content = self._content("tool", f"{_RESULT}{number or ''}")
        return {"role": "tool", "content": content, "tool_call_id": self._id(number), "name": _NAME}

    def _id(self, number: int) -> str:
        return _IDS[self.traits.ids].format(number)

    def _content(self, role: str, text: str) -> Content:
        return [{"type": "text", "text": text}] if role in self.traits.parts else text

    def _writes(self, turns: Sequence[Mapping[str, Any]], tools: Copies | None = None) -> bool:
        """Whether all texts of the turns come out in their order."""
        written = self._written(turns, tools)
        if written is None:
            return False
        at = 0
        for text in _texts(turns):
            # The description of a tool holds some of these words, before or after.
            at = written.find(text, at)
            if at < 0:
                return False
            at += len(text)
        return True

    def _written(
        self, turns: Sequence[Mapping[str, Any]], tools: Copies | None = None, variables: Variables = NO_VARIABLES
    ) -> str | None:
        """What the template makes of the turns; None if it raises."""
        shaped = []
        for turn in turns:
            content = turn.get("content")
            if isinstance(content, str):
                turn = {**turn, "content": self._content(turn["role"], content)}
            shaped.append(dict(turn))
        try:
            return self._template(shaped, tools, variables)
        except ModelError:
            raise  # nobody can read this template
        except Exception:  # a template is a program from outside and may raise anything
            return None

    def _keep_if(self, parts: frozenset[str], turns: Sequence[Mapping[str, Any]]) -> None:
        before = self.traits
        self._set(parts=parts)
        if not self._writes(turns):
            self.traits = before

    def _set(self, **found: Any) -> None:
        self.traits = replace(self.traits, **found)


def _texts(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    """The words that must come out."""
    found = []
    for turn in turns:
        content = turn.get("content")
        found.append(content[0]["text"] if isinstance(content, list) else content or "")
        for call in turn.get("tool_calls") or ():
            arguments = call["function"]["arguments"]
            value = (json.loads(arguments) if isinstance(arguments, str) else arguments)[_KEY]
            found += [call["function"]["name"], value]
    return found


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}
