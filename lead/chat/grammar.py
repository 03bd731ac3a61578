"""The grammar of an answer: calls in the model's own form, or JSON of a schema, after thinking."""

from __future__ import annotations

from duo.sampling.json_schema import json_rule, of_json_schema, of_lark
from lead.chat.conversation import Conversation
from lead.chat.forms import channels
from lead.chat.forms.form import Form
from lead.chat.forms.rules import Rules

_SPACES = "/[ \\n]{1,4}/?"


def grammar(asked: Conversation, form: Form, prompt: str = "") -> str:
    """The grammar of the answer; empty if the answer is free.

    With a schema, the answer is JSON of that schema or calls. The prompt's text says whether thinking comes before.
    Raises RequestError for schemas that are too complex.
    """
    tools = asked.tools if asked.choice != "none" else ()
    schema = None if asked.choice == "required" else asked.schema
    if asked.named:
        tools = [tool for tool in tools if tool.name == asked.named]
    elif asked.choice != "required" and schema is None:
        return ""
    thinking = _thinking(form, rules := Rules(form.marks), prompt)
    if schema is not None and not (tools or thinking or form.channels or form.around):
        return of_json_schema(schema)  # as it is where there is no conversation, so that it is compiled once
    answers = [_answer(form, rules, json_rule(schema))] if schema is not None else []
    if tools:
        # Clients that name a tool take one call of it.
        answers.append(form.writes(rules, tools, bool(asked.parallel) and not asked.named))
    start = f"{thinking} ({' | '.join(answers)})"
    return of_lark(f"start: {start}\n{rules}")


def _answer(form: Form, rules: Rules, json: str) -> str:
    """JSON as the answer itself."""
    rule = rules.rule(json)
    if form.channels:
        return f"{rules.text(f'{channels.CHANNEL}final{channels.MESSAGE}')} {rule}"
    if form.around:
        mark = rules.any_of([rules.text(mark) for mark in form.around])
        return f"{mark}? {rule} {mark}?"
    return rule


def _thinking(form: Form, rules: Rules, prompt: str) -> str:
    """Thinking before the answer, if the prompt began it or if the model may begin it."""
    if form.channels:
        start = rules.text(f"{channels.END}{channels.START}assistant")
        if form.thinking_open(prompt):
            return f"/(?s:.*)/ {start}"
        return f"({rules.text(channels.THINKS)} /(?s:.*)/ {start})?"
    if form.thinking_open(prompt):
        return f"{rules.until(form.thinking.close)} {_SPACES}"
    if not form.declared or form.thinking_done(prompt):
        return ""
    return f"({rules.text(form.thinking.open)} {rules.until(form.thinking.close)} {_SPACES})?"
