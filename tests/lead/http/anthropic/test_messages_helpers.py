"""What the vendor's client builds on the API: a loop that calls tools, objects for answers, its newer fields."""

from __future__ import annotations

from anthropic import Anthropic, beta_tool
from pydantic import BaseModel

from tests.support.anthropic import CALL, HI
from tests.support.http import ScriptedAnswerer, conversation


class Person(BaseModel):
    name: str
    age: int


def test_an_agent_calls_a_tool_and_goes_on(claude: Anthropic, answerer: ScriptedAnswerer) -> None:
    cities = []

    @beta_tool
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: Its name.
        """
        cities.append(city)
        return "rain"

    answerer.scripts = [[("Let me see.",), (CALL,)], [("It rains.",)]]
    runner = claude.beta.messages.tool_runner(
        model="any", max_tokens=100, tools=[weather], messages=[{"role": "user", "content": "How is it?"}]
    )
    first, last = list(runner)
    assert (first.stop_reason, last.stop_reason) == ("tool_use", "end_turn")
    assert [block.text for block in last.content if block.type == "text"] == ["It rains."]
    assert cities == ["Köln"]
    answerer.next_asked()
    _, said, result = answerer.next_asked().messages
    assert said["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Köln"}}
    assert (result["role"], result["content"]) == ("tool", "rain")


def test_an_answer_as_an_object(claude: Anthropic, answerer: ScriptedAnswerer) -> None:
    answerer.script = [('{"name": "Ada",',), (' "age": 36}',)]
    message = claude.messages.parse(model="any", max_tokens=100, messages=HI, output_format=Person)
    assert message.parsed_output == Person(name="Ada", age=36)
    assert answerer.next_asked().question.sampling.grammar


def test_fields_that_are_not_final_yet(claude: Anthropic, answerer: ScriptedAnswerer) -> None:
    """As agents send them: with a query and a header that say which of them are meant."""
    message = claude.beta.messages.create(
        model="any", max_tokens=100, betas=["context-management-2025-06-27"],
        messages=[{"role": "user", "content": "Hi"}],
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    )  # fmt: skip
    assert [block.text for block in message.content if block.type == "text"] == ["Hello, world!"]
    assert conversation(answerer.next_asked().question.prompt)["messages"][0]["content"] == "Be brief."
