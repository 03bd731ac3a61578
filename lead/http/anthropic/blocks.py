"""The messages of a request in Anthropic's form, and what they are in OpenAI's.

A message holds blocks. One message of the user may hold the results of several tools and a text. In OpenAI's form,
each of these is a message.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from lead.http.parsing import TAG, Body, short

CALL_ID = "toolu_"
"""How the ids of calls begin in this API. The rest is the id as the model and its template know it."""
HOSTED_TAG = f"{TAG}hosted"


def _listed(content: object) -> object:
    """Makes a block of a text. Leaves anything else for the type to judge."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _one_of(*kinds: str, hosted: Collection[str] = ()) -> BeforeValidator:
    """Raises ValueError for a block of another type. `hosted`: types that are taken, and say nothing to the model."""

    def check(block: object) -> object:
        match block:
            case {"type": str(kind)} if kind in kinds or kind in hosted:
                return block
            case {"type": "image"}:
                raise ValueError("an image cannot be read, only text can")
            case {"type": str(kind)}:
                raise ValueError(f"a block of type {short(kind)} cannot be read, only {', '.join(kinds)} can")
        raise ValueError(f"{short(block)} is no block: it has no type")

    return BeforeValidator(check)


def _tag(block: Any) -> str:
    return HOSTED_TAG if block["type"] in HOSTED else f"{TAG}{block['type']}"


class TextBlock(Body):
    type: Literal["text"]
    text: str

    @property
    def words(self) -> str:
        """The block as a text for the model."""
        return self.text


Texts = Annotated[
    list[Annotated[TextBlock, _one_of("text")]],
    Field(fail_fast=True),
    BeforeValidator(_listed, json_schema_input_type=str | list[TextBlock]),
]
"""A text, or blocks of text."""


def lines(texts: list[TextBlock]) -> str:
    """The blocks as one text. OpenAI's parts are joined in the same way."""
    return "\n".join([block.text for block in texts])


class PlainSource(Body):
    type: Literal["text"]
    data: str

    @property
    def words(self) -> str:
        return self.data


class PartsSource(Body):
    type: Literal["content"]
    content: Texts

    @property
    def words(self) -> str:
        return lines(self.content)


class DocumentBlock(Body):
    """A document. Only text can be read."""

    type: Literal["document"]
    source: Annotated[
        Annotated[PlainSource, Tag("type=text")] | Annotated[PartsSource, Tag("type=content")],
        Discriminator(_tag),
        _one_of("text", "content"),
    ]
    title: str | None = None
    context: str | None = None

    @property
    def words(self) -> str:
        return "\n".join([text for text in (self.title, self.context, self.source.words) if text])


class SearchResultBlock(Body):
    """Something that the client's own search has found."""

    type: Literal["search_result"]
    title: str
    source: str
    content: Texts

    @property
    def words(self) -> str:
        return "\n".join([self.title, self.source, lines(self.content)])


class ToolReferenceBlock(Body):
    """A tool that the client's own search has found. The model knows all tools from the start."""

    type: Literal["tool_reference"]
    tool_name: str

    @property
    def words(self) -> str:
        return self.tool_name


class ThinkingBlock(Body):
    """What the model thought. Any signature is taken."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Body):
    """Thinking that only another server can read. The model does not see it."""

    type: Literal["redacted_thinking"]
    data: str


class CompactionBlock(Body):
    """A summary of what was said before. null: there is none."""

    type: Literal["compaction"]
    content: str | None = None


class ToolUseBlock(Body):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]

    def openai(self) -> dict[str, Any]:
        """The call in OpenAI's form."""
        arguments = json.dumps(self.input, ensure_ascii=False)
        return {"id": _known(self.id), "type": "function", "function": {"name": self.name, "arguments": arguments}}


Said = Annotated[
    Annotated[TextBlock, Tag("type=text")]
    | Annotated[DocumentBlock, Tag("type=document")]
    | Annotated[SearchResultBlock, Tag("type=search_result")]
    | Annotated[ToolReferenceBlock, Tag("type=tool_reference")],
    Discriminator(_tag),
    _one_of("text", "document", "search_result", "tool_reference"),
]
Results = Annotated[
    list[Said], Field(fail_fast=True), BeforeValidator(_listed, json_schema_input_type=str | list[Said])
]


class ToolResultBlock(Body):
    """What a tool has returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Results | None = None
    is_error: bool | None = None

    def openai(self) -> dict[str, Any]:
        """The message of the tool in OpenAI's form, which has no place for `is_error`."""
        content = "\n".join([block.words for block in self.content or ()])
        if self.is_error and not content.lower().startswith("error"):
            content = f"Error: {content}"
        return {"role": "tool", "tool_call_id": _known(self.tool_use_id), "content": content}


class HostedBlock(Body):
    """What the vendor's own tools did. A conversation that began there goes on without it."""

    type: Literal[
        "server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result",
        "bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result",
        "mcp_tool_use", "mcp_tool_result", "mcp_tool_listing", "advisor_tool_result", "fallback",
    ]  # fmt: skip


HOSTED = get_args(HostedBlock.model_fields["type"].annotation)
_KINDS = (
    "text", "document", "search_result", "thinking", "redacted_thinking", "compaction", "tool_use", "tool_result",
)  # fmt: skip


Block = Annotated[
    Annotated[TextBlock, Tag("type=text")]
    | Annotated[DocumentBlock, Tag("type=document")]
    | Annotated[SearchResultBlock, Tag("type=search_result")]
    | Annotated[ThinkingBlock, Tag("type=thinking")]
    | Annotated[RedactedThinkingBlock, Tag("type=redacted_thinking")]
    | Annotated[CompactionBlock, Tag("type=compaction")]
    | Annotated[ToolUseBlock, Tag("type=tool_use")]
    | Annotated[ToolResultBlock, Tag("type=tool_result")]
    | Annotated[HostedBlock, Tag(HOSTED_TAG)],
    Discriminator(_tag),
    _one_of(*_KINDS, hosted=HOSTED),
]
Blocks = Annotated[
    list[Block], Field(fail_fast=True), BeforeValidator(_listed, json_schema_input_type=str | list[Block])
]

_OF_ROLE = {
    "user": (TextBlock, DocumentBlock, SearchResultBlock, ToolResultBlock),
    "assistant": (TextBlock, ThinkingBlock, RedactedThinkingBlock, CompactionBlock, ToolUseBlock, HostedBlock),
    "system": (TextBlock,),
}


class Turn(Body):
    """One message. The last one may be the assistant's: the answer then continues it."""

    role: Literal["user", "assistant", "system"]
    content: Blocks

    @model_validator(mode="after")
    def _of_role(self) -> Turn:
        for i, block in enumerate(self.content):
            if not isinstance(block, _OF_ROLE[self.role]):
                raise ValueError(f"content[{i}] is of type {block.type}, which no message of the {self.role} has")
        return self

    @property
    def calls(self) -> list[ToolUseBlock]:
        return [block for block in self.content if isinstance(block, ToolUseBlock)]

    def openai(self) -> list[dict[str, Any]]:
        """The messages in OpenAI's form. Results of tools come first: they belong to the calls before them."""
        if self.role == "assistant":
            return [self._answer()]
        results = [block.openai() for block in self.content if isinstance(block, ToolResultBlock)]
        said = [
            block.words for block in self.content if isinstance(block, (TextBlock, DocumentBlock, SearchResultBlock))
        ]
        message = {"role": self.role, "content": "\n".join(said)}
        return [*results, message] if said or not results else results

    def _answer(self) -> dict[str, Any]:
        # Calls and thinking stood between the texts of an answer. So the texts are joined as they are.
        summaries = [block.content or "" for block in self.content if isinstance(block, CompactionBlock)]
        said = "".join([block.text for block in self.content if isinstance(block, TextBlock)])
        text = "\n\n".join([part for part in (*summaries, said) if part])
        thinking = "".join([block.thinking for block in self.content if isinstance(block, ThinkingBlock)])
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["reasoning_content"] = thinking
        if self.calls:
            message["tool_calls"] = [block.openai() for block in self.calls]
        return message


def _known(call_id: str) -> str:
    """The id as the lead made it, or another server's."""
    return call_id.removeprefix(CALL_ID) or call_id
