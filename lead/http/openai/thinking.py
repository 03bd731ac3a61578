"""How a request of OpenAI's chat wants the model to think. Each server has names of its own for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lead.chat.conversation import UNLIMITED, ReasoningFormat, Thinking
from lead.http.parsing import Body, Options

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "default"]
"""OpenAI's words, then others'."""


class ReasoningOptions(Options):
    """OpenRouter's form."""

    effort: Effort | None = None
    enabled: bool | None = None
    max_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    exclude: bool | None = None


class ThinkingOptions(Options):
    """Anthropic's form, which DeepSeek and Z.ai take in OpenAI's chat as well."""

    type: Literal["enabled", "disabled", "adaptive", "auto"] | None = None
    budget_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None


class ThinkingFields(Body):
    """Whether to think, how long, and where to tell it. Where two names say the same, the first one counts."""

    reasoning_effort: Effort | None = Field(None, description="'none' switches thinking off, if the model can.")
    reasoning_format: ReasoningFormat | None = Field(
        None,
        description="From llama-server. none: thinking stays in the content. deepseek: it is `reasoning_content`. "
        "deepseek-legacy: both.",
    )
    include_reasoning: bool | None = Field(None, description="From vLLM: false leaves thinking out of the answer.")
    thinking_budget_tokens: int | None = Field(
        None, ge=-1, lt=1 << 31, description="From llama-server: most tokens of thinking. -1 means no limit."
    )
    reasoning_budget: int | None = Field(None, ge=-1, lt=1 << 31, description="The same.")
    thinking_budget: int | None = Field(None, ge=-1, lt=1 << 31, description="Qwen's name for it.")
    thinking_token_budget: int | None = Field(None, ge=-1, lt=1 << 31, description="vLLM's name for it.")
    enable_thinking: bool | None = Field(None, description="Qwen's switch.")
    reasoning: ReasoningOptions | None = None
    thinking: ThinkingOptions | None = None

    def thinks(self) -> Thinking:
        """What it says. What it does not say is up to the lead."""
        router, vendor = self.reasoning or ReasoningOptions(), self.thinking or ThinkingOptions()
        effort = self.reasoning_effort or router.effort or "default"
        switches = (
            self.enable_thinking,
            router.enabled,
            {"enabled": True, "disabled": False}.get(vendor.type or ""),
            None if effort in ("default", "minimal") else effort != "none",
        )
        budgets = (
            self.thinking_budget_tokens,
            self.reasoning_budget,
            self.thinking_budget,
            self.thinking_token_budget,
            router.max_tokens,
            vendor.budget_tokens,
        )
        budget = next((given for given in budgets if given is not None), None)
        return Thinking(
            enabled=next((given for given in switches if given is not None), None),
            effort="" if effort == "default" else effort,
            budget=UNLIMITED if budget == -1 else budget,
        )

    @property
    def tells_thinking(self) -> bool:
        """Whether thinking is a part of the answer."""
        return self.include_reasoning is not False and not (self.reasoning and self.reasoning.exclude)
