"""Other clients with a lead: each asks something that its users ask.

    python examples/clients.py [--url BASE_URL] [NAME ...]

The names are those of packages: litellm, langchain-openai, instructor, pydantic-ai. A client that is not installed is
left out. Every answer must follow a schema or call a tool, so any model can give it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

from openai import OpenAI
from pydantic import BaseModel, Field

DEFAULT_URL = "http://127.0.0.1:5555/v1"
QUESTION = "What does shutil.copytree do?"
SEED = 7


class Module(BaseModel):
    """A module of the standard library."""

    name: str = Field(max_length=16)
    kind: Literal["files", "text", "network"]
    functions: int = Field(ge=1, le=99)


def look_up(name: str) -> str:
    """Looks a function up in the documentation."""
    return f"{name} copies a directory."


LOOK_UP: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a function up in the documentation.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 16}},
            "required": ["name"],
            "additionalProperties": False,
        },
    },
}


def with_litellm(url: str) -> None:
    import litellm

    asked: dict[str, Any] = {"model": "openai/any", "api_base": url, "api_key": "none"}
    question = [{"role": "user", "content": QUESTION}]
    whole = litellm.completion(**asked, messages=question, temperature=0, max_tokens=24)
    streamed = litellm.completion(**asked, messages=question, temperature=0, max_tokens=24, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" for chunk in streamed])
    print("the same whole and streamed:", text == whole.choices[0].message.content)
    called = litellm.completion(
        **asked, messages=question, seed=SEED, tools=[LOOK_UP], tool_choice="required", parallel_tool_calls=False
    )
    (call,) = called.choices[0].message.tool_calls
    print("a call:", call.function.name, sorted(json.loads(call.function.arguments)))
    response = litellm.responses(**asked, input=QUESTION, temperature=0, max_output_tokens=24)
    print("a response:", response.status, response.output[0].content[0].text == text)
    again = litellm.responses(**asked, input="Again?", previous_response_id=response.id, max_output_tokens=8)
    print("a response after it:", again.usage.input_tokens > response.usage.input_tokens)


def with_langchain(url: str) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.utils.function_calling import convert_to_openai_tool
    from langchain_openai import ChatOpenAI

    for responses in (False, True):
        model = ChatOpenAI(
            model="any", base_url=url, api_key="none", temperature=0, seed=None, max_retries=0, max_tokens=40,
            use_responses_api=responses,
        )  # fmt: skip
        print("with the Responses API:" if responses else "with chat:")
        text = model.invoke(QUESTION).text
        streamed = "".join([chunk.text for chunk in model.stream(QUESTION)])
        print("  the same whole and streamed:", bool(text) and streamed == text)
        module = model.with_structured_output(Module, method="json_schema").invoke("Describe shutil.")
        print("  a type:", type(module).__name__)
        called = model.bind_tools([convert_to_openai_tool(LOOK_UP)], tool_choice="required").invoke(QUESTION)
        (call,) = called.tool_calls
        history = [HumanMessage(QUESTION), called, ToolMessage(look_up(**call["args"]), tool_call_id=call["id"])]
        print("  a call, and an answer to its result:", call["name"], bool(model.invoke(history).text))


def with_instructor(url: str) -> None:
    import instructor

    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    modes = (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.RESPONSES_TOOLS)
    for mode in modes:
        patched = instructor.from_openai(client, mode=mode)
        message: Any = {"role": "user", "content": "Describe shutil."}
        module = patched.create(model="any", response_model=Module, messages=[message], max_retries=1)
        print(f"a type by {mode.name}:", type(module).__name__)


def with_pydantic_ai(url: str) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=url, api_key="none")
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        model = kind("any", provider=provider)
        result = Agent(model, output_type=Module).run_sync("Describe shutil.", model_settings={"max_tokens": 200})
        print(f"a type by {kind.__name__}:", type(result.output).__name__)
        text = Agent(model, instructions="Be brief").run_sync(QUESTION, model_settings={"max_tokens": 40}).output
        print("  text:", bool(text))


CLIENTS: dict[str, tuple[str, Callable[[str], None]]] = {
    "litellm": ("litellm", with_litellm),
    "langchain-openai": ("langchain_openai", with_langchain),
    "instructor": ("instructor", with_instructor),
    "pydantic-ai": ("pydantic_ai", with_pydantic_ai),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Other clients with a lead.")
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CLIENTS))
    asked = parser.parse_args()
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask GitHub for prices
    if unknown := set(asked.names) - CLIENTS.keys():
        parser.error(f"there is no client {sorted(unknown)[0]!r}: choose among {', '.join(CLIENTS)}")
    for name, (package, ask) in CLIENTS.items():
        if asked.names and name not in asked.names:
            continue
        if find_spec(package) is None:
            print(f"{name}: not installed")
            continue
        print(f"{name}:")
        ask(asked.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
