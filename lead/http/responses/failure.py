"""How a stream of the Responses API ends with an error, and the response object of which nothing is known yet."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


def blank(model: str) -> dict[str, Any]:
    """A response that has just begun, to a request that says nothing. See `lead.http.responses.shapes.Response`."""
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "model": model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "usage": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "background": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
    }


def failing(response: Mapping[str, Any], error: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """The last events of a stream that ends with an error.

    response: as far as it is. error: OpenAI's error object. number: that of the first of these events.
    """
    told = {**error["error"], "code": error["error"]["code"] or "server_error"}
    brief = {"code": told["code"], "message": told["message"]}
    return [
        # Clients differ in which of the two they hear, and where they look for the words.
        {"type": "error", "sequence_number": number, **brief, "param": told["param"], "error": told},
        {
            "type": "response.failed",
            "sequence_number": number + 1,
            "response": {**response, "status": "failed", "error": brief},
        },
    ]
