"""Wrong requests: one line each, which names the field."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from anthropic.types import message_count_tokens_params as claude_count_params
from anthropic.types import message_create_params as claude_params
from anthropic.types.beta import message_create_params as claude_beta_params
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import input_token_count_params as count_params
from openai.types.responses import response_create_params as response_params

from lead.http.anthropic.fields import AnthropicCountRequest, AnthropicRequest
from lead.http.endpoints import ENDPOINTS
from lead.http.openai.chat import ChatRequest
from lead.http.openai.completions import CompletionRequest
from lead.http.openai.infill import InfillRequest
from lead.http.openai.llama_duo import MessagesRequest
from lead.http.parsing import MISSPELT, Body, ModelField, names_of
from lead.http.responses.fields import CountRequest, ResponsesRequest
from tests.support.api import CHAT, HI, error_of, post
from tests.support.http import ScriptedAnswerer

IMAGE = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:"}}]
CALL: dict[str, Any] = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def batched(names: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Few enough that each is looked at."""
    return (names[start : start + most] for start in range(0, len(names), most))


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def bad_tool() -> dict[str, Any]:
    return {"function": {"name": "b", "parameters": {"type": "object", "properties": {"x": {"type": "nothing"}}}}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    # What the lead cannot do.
    ({"functions": [{}]}, "functions", "use tools"),
    ({"function_call": {"name": "f"}}, "function_call", "use tools"),
    ({"modalities": ["text", "audio"]}, "modalities", "text"),
    ({"add_generation_prompt": False}, "add_generation_prompt", "a turn of its own"),
    ({"continue_final_message": True}, "continue_final_message", "the last message is the user's"),
    ({"audio": {"voice": "alloy"}}, "audio", "text"),
    ({"grammar": "root ::= x"}, "grammar", "response_format"),
    ({"guided_regex": "a+"}, "guided_regex", "response_format"),
    ({"messages": [{"role": "user", "content": IMAGE}]}, "messages[0].content", "image_url"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", "not a text part"),
    ({"messages": [{"role": "user", "content": [7]}]}, "messages[0].content", "7"),
    (
        {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "No."}]}]},
        "messages[0].content",
        "ref",
    ),
    ({"messages": [{"role": "user", "refusal": "No."}]}, "messages[0]", "content is missing"),
    ({"messages": [{"role": "assistant", "refusal": 7}]}, "messages[0].refusal", "7"),
    ({"messages": [{"role": "user", "tool_calls": [CALL]}]}, "messages[0]", "assistant's"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
        "messages[0].tool_calls[0].function",
        "missing",
    ),
    (
        {"messages": [*HI, {"role": "assistant", "tool_calls": [CALL, {"function": {"name": ""}}]}]},
        "messages[1].tool_calls[1].function.name",
        "at least 1",
    ),
    ({"messages": [*HI, {"role": "assistant", "tool_calls": {"id": "1"}}]}, "messages[1].tool_calls", "list"),
    ({"messages": [*HI, {"role": "assistant", "tool_calls": [CALL]}]}, "messages[1].tool_calls", "send their results"),
    ({"messages": [*HI, {"role": "assistant", "content": IMAGE}]}, "messages[1].content", "image_url"),
    # Tools.
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
    ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].type", "custom tool"),
    ({"tools": [tool("two words")]}, "tools[0].function.name", "two words"),
    ({"tools": [tool("a"), tool("a")]}, "tools", "two have the name"),
    *[
        (
            {"tools": [tool("a"), {"function": {"name": "b", "parameters": {"type": kind}}}]},
            "tools[1].function.parameters",
            f'tool "b" are of type {json.dumps(kind)}: parameters must be of type object',
        )
        for kind in ("string", ["string", "null"], 7)
    ],
    ({"tool_choice": "required"}, "tool_choice", "no tools"),
    ({"tools": [tool("a")], "tool_choice": "perhaps"}, "tool_choice", "perhaps"),
    ({"tools": [tool("a")], "tool_choice": {"name": "a"}}, "tool_choice", "neither"),
    ({"tools": [tool("a")], "tool_choice": {"type": "custom", "custom": {"name": "a"}}}, "tool_choice", "custom tool"),
    ({"tools": [tool("a")], "tool_choice": allowed("auto", "b")}, "tool_choice", '"b"'),
    ({"tools": [tool("a")], "tool_choice": allowed("auto")}, "tool_choice", "names no tools"),
    ({"tools": [tool("a")], "tool_choice": allowed("never", "a")}, "tool_choice", "neither"),
    ({"tools": [tool("a")], "tool_choice": {"type": "function", "function": {"name": "b"}}}, "tool_choice", "no tool"),
    # Structure.
    ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "missing"),
    ({"response_format": {"type": "json_object"}, "json_schema": {"type": "object"}}, "json_schema", "one of them"),
    ({"json_schema": {"type": "nothing"}}, "json_schema", "nothing"),
    ({"tools": [bad_tool()], "tool_choice": "required"}, "tools", "nothing"),
    # How many, and where to end.
    ({"n": 0}, "n", "n is 0"),
    ({"n": 129}, "n", "128"),
    ({"n": "2"}, "n", '"2"'),
    ({"stop": 5}, "stop", "5"),
    ({"stop": ["a", ""]}, "stop[1]", '""'),
    ({"stop": ["a"] * 33}, "stop", "32"),
    ({"stop": "a" * 257}, "stop[0]", "256"),
    ({"stop_token_ids": 7}, "stop_token_ids", "7"),
    ({"stop_token_ids": ["7"]}, "stop_token_ids[0]", '"7"'),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "-1"),
    ({"stop_token_ids": [1 << 31]}, "stop_token_ids[0]", "2147483648"),
    ({"stop_token_ids": [1] * 33}, "stop_token_ids", "32"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
    ({"logprobs": 1}, "logprobs", "1"),
    # Thinking.
    ({"reasoning_effort": "much"}, "reasoning_effort", "much"),
    ({"reasoning_format": "xml"}, "reasoning_format", "xml"),
    ({"thinking_budget_tokens": -2}, "thinking_budget_tokens", "-2"),
    ({"thinking": {"type": "maybe"}}, "thinking.type", "maybe"),
    ({"reasoning": {"max_tokens": "7"}}, "reasoning.max_tokens", "7"),
    # Wrong types.
    ({"messages": "Hi"}, "messages", "list"),
    ({"messages": ["Hi"]}, "messages[0]", "Hi"),
    ({"messages": [{"role": "user"}]}, "messages[0]", "content is missing"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role", "missing"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0]", "content is missing"),
    ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role", "robot"),
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": None}, "messages", "list"),
    ({"temperature": "hot"}, "temperature", "hot"),
    ({"temperature": True}, "temperature", "true"),
    ({"top_k": 2.5}, "top_k", "2.5"),
    ({"seed": "7"}, "seed", '"7"'),
    ({"max_tokens": [1]}, "max_tokens", "[1]"),
    ({"stream": "yes"}, "stream", "yes"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "1"),
    ({"ignore_eos": 0}, "ignore_eos", "0"),
    ({"logit_bias": [1]}, "logit_bias", "[1]"),
    ({"logit_bias": {"1": "x"}}, "logit_bias.1", "x"),
    ({"logit_bias": {"one": 1}}, "logit_bias", "one"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "-1"),
    ({"logit_bias": {"٣": 1}}, "logit_bias", "٣"),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "not a token id"),
    # Out of range.
    ({"temperature": -0.1}, "temperature", "-0.1"),
    ({"top_p": -0.1}, "top_p", "top_p is -0.1"),
    ({"top_p": 1.5}, "top_p", "1.5"),
    ({"top_k": -2}, "top_k", "-2"),
    ({"min_p": 2}, "min_p", "2"),
    ({"repeat_penalty": 0}, "repeat_penalty", "0"),
    ({"presence_penalty": 1e9}, "presence_penalty", "1000000000"),
    ({"seed": 1 << 64}, "seed", str(1 << 64)),
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "at least 1"),
    ({"max_tokens": -2}, "max_tokens", "-2"),
    ({"max_tokens": 1 << 31}, "max_tokens", str(1 << 31)),
]


@pytest.mark.parametrize(("fields", "param", "fragment"), WRONG)
def test_wrong_requests(
    url: str, answerer: ScriptedAnswerer, fields: dict[str, Any], param: str, fragment: str
) -> None:
    error = error_of(post(url, **{"messages": HI, **fields}), 400)
    assert error["param"] == param
    assert fragment in error["message"] and len(error["message"]) < 250
    assert answerer.asked.empty()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"hello",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"a"}],"temperature":NaN}',
        b'{"messages":[{"role":"user","content":"a"}],"seed":' + b"9" * 5000 + b"}",
    ],
)
def test_bodies_that_are_no_json_object(url: str, answerer: ScriptedAnswerer, raw: bytes) -> None:
    assert "JSON" in error_of(post(url, raw=raw), 400)["message"]


def test_a_long_value_makes_a_short_message(url: str, answerer: ScriptedAnswerer) -> None:
    assert len(error_of(post(url, messages=HI, temperature="x" * 100_000), 400)["message"]) < 250


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("tool_choise", "tool_choice"),
        ("chat_template_kwarg", "chat_template_kwargs"),
        ("reasoning_efort", "reasoning_effort"),
        ("Temperature", "temperature"),
    ],
)
def test_misspelt_fields_are_refused(url: str, answerer: ScriptedAnswerer, name: str, meant: str) -> None:
    fields: dict[str, Any] = {"messages": HI, name: None}
    error = error_of(post(url, **fields), 400)
    assert error["param"] == name and name in error["message"] and f"did you mean {meant}?" in error["message"]
    assert answerer.asked.empty()


@pytest.mark.parametrize(
    ("path", "fields", "place", "meant"),
    [
        (CHAT, {"messages": HI, "stream_options": {"include_usages": True}}, "stream_options.include_usages", "usage"),
        (CHAT, {"messages": HI, "reasoning": {"efort": "low"}}, "reasoning.efort", "effort"),
        (CHAT, {"messages": HI, "thinking": {"budget_token": 5}}, "thinking.budget_token", "budget_tokens"),
        (
            CHAT,
            {"messages": HI, "response_format": {"type": "json_schema", "json_schema": {"shema": {}}}},
            "response_format.json_schema.shema",
            "schema",
        ),
        ("/v1/responses", {"input": "Hi", "reasoning": {"sumary": "auto"}}, "reasoning.sumary", "summary"),
        ("/v1/responses", {"input": "Hi", "text": {"formats": {}}}, "text.formats", "format"),
        (
            "/v1/responses",
            {"input": "Hi", "text": {"format": {"type": "text", "stricts": True}}},
            "text.format.stricts",
            "strict",
        ),
    ],
)
def test_misspelt_options_are_refused_with_their_place(
    url: str, answerer: ScriptedAnswerer, path: str, fields: dict[str, Any], place: str, meant: str
) -> None:
    error = error_of(post(url, path, **fields), 400)
    assert error["param"] == place and place in error["message"] and meant in error["message"]
    assert answerer.asked.empty()


def test_a_misspelt_option_of_anthropics(url: str, answerer: ScriptedAnswerer) -> None:
    fields: dict[str, Any] = {"messages": HI, "max_tokens": 5, "output_config": {"efforts": "low"}}
    response = post(url, "/v1/messages", **fields)
    assert response.status_code == 400
    assert response.json()["error"]["message"].endswith('no field "output_config.efforts": did you mean effort?')


def test_what_is_open_stays_open(url: str, answerer: ScriptedAnswerer, caplog: pytest.LogCaptureFixture) -> None:
    """Schemas and messages hold names of the client's own. Unknown options are logged."""
    caplog.set_level("INFO", "lead.http")
    schema = {"type": "object", "properties": {"strictt": {"type": "string"}}, "titel": "a"}
    fields: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hi", "contents": 1}],
        "stream_options": {"of_this_option": True},
        "chat_template_kwargs": {"messagess": 1},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    }
    assert post(url, **fields).status_code == 200
    assert any("stream_options.of_this_option" in record.getMessage() for record in caplog.records)


LLAMA_SERVER = """
    temperature dynatemp_range dynatemp_exponent top_k top_p min_p n_predict n_indent n_keep n_cmpl n_cache_reuse
    n_discard stream stop typical_p repeat_penalty repeat_last_n presence_penalty frequency_penalty dry_multiplier
    dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers xtc_probability xtc_threshold mirostat
    mirostat_tau mirostat_eta grammar grammar_lazy grammar_triggers preserved_tokens json_schema seed ignore_eos
    logit_bias n_probs min_keep t_max_predict_ms id_slot cache_prompt return_tokens return_progress samplers
    post_sampling_probs response_fields lora backend_sampling timings_per_token verbose top_n_sigma adaptive_target
    adaptive_decay chat_template_kwargs reasoning_format reasoning_in_content thinking_forced_open parse_tool_calls
    parallel_tool_calls tool_choice tools add_generation_prompt chat_format generation_prompt chat_parser
    speculative.n_max speculative.n_min speculative.p_min continue_final_message reasoning_budget_tokens
    reasoning_budget_message thinking_budget_tokens verbose sse_ping_interval stream_options max_completion_tokens n
    dry_penalty_last_n grammar_type cache_prompt speculative.type speculative.ngram_size_n speculative.ngram_size_m
    speculative.ngram_min_hits
"""
WEBUI = """
    preset dynatemp_low dynatemp_high dynatemp_exponent smoothing_factor smoothing_curve min_p top_k typical_p
    xtc_threshold xtc_probability epsilon_cutoff eta_cutoff tfs top_a top_n_sigma adaptive_target adaptive_decay
    dry_multiplier dry_allowed_length dry_base repetition_penalty frequency_penalty presence_penalty
    encoder_repetition_penalty no_repeat_ngram_size repetition_penalty_range frequency_penalty_range penalty_alpha
    guidance_scale mirostat_mode mirostat_tau mirostat_eta prompt_lookup_num_tokens max_tokens_second do_sample
    dynamic_temperature temperature_last auto_max_new_tokens ban_eos_token add_bos_token enable_thinking
    reasoning_effort skip_special_tokens static_cache truncation_length seed sampler_priority custom_token_bans
    negative_prompt dry_sequence_breakers grammar_string user mode instruction_template instruction_template_str
    character bot_name name1 context greeting name2 user_bio user_name chat_template_str chat_instruct_command
    continue_
"""


# Of its protocol.py, for chat and for completions, in August 2026.
VLLM = """
    frequency_penalty logit_bias top_logprobs max_tokens n presence_penalty response_format seed stop stream
    stream_options temperature top_p tools tool_choice reasoning_effort thinking_token_budget include_reasoning
    parallel_tool_calls user use_beam_search top_k min_p repetition_penalty watermarking length_penalty stop_token_ids
    include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens
    truncate_prompt_tokens truncation_side prompt_logprobs logprob_token_ids allowed_token_ids bad_words
    add_generation_prompt continue_final_message add_special_tokens documents chat_template chat_template_kwargs
    media_io_kwargs mm_processor_kwargs structured_outputs priority request_id session_id return_tokens_as_token_ids
    return_token_ids routed_experts_prompt_start return_token_offsets return_prompt_text return_mm_kwargs cache_salt
    kv_transfer_params ec_transfer_params vllm_xargs repetition_detection stream_interval prompt_embeds echo suffix
    enable_response_messages previous_input_messages previous_response
"""


@pytest.mark.parametrize(
    ("params", "shape"),
    [
        (chat_params.CompletionCreateParamsBase, ChatRequest),
        (text_params.CompletionCreateParamsBase, CompletionRequest),
        (response_params.ResponseCreateParamsBase, ResponsesRequest),
        (count_params.InputTokenCountParams, CountRequest),
        (claude_params.MessageCreateParamsBase, AnthropicRequest),
        (claude_beta_params.MessageCreateParamsBase, AnthropicRequest),
        (claude_count_params.MessageCountTokensParams, AnthropicCountRequest),
    ],
)
def test_fields_of_the_vendors_own_clients_are_no_misspellings(params: Any, shape: type[Body]) -> None:
    """The names are those of the clients that are installed here."""
    theirs = {name for base in params.__mro__ for name in getattr(base, "__annotations__", {})}
    assert {"model", "messages"} & theirs and len(theirs) > 5
    names = names_of(shape)
    for name in theirs - {*names.known, *names.cannot, *names.vendors}:
        assert not difflib.get_close_matches(name, names.known, 1, MISSPELT), name


@pytest.mark.parametrize("names", [LLAMA_SERVER, WEBUI, VLLM], ids=["llama-server", "text-generation-webui", "vllm"])
def test_fields_of_other_servers_are_no_misspellings(url: str, answerer: ScriptedAnswerer, names: str) -> None:
    """null means the default everywhere. Those that the lead cannot do take it too."""
    for shape, fields in (("/v1/chat/completions", {"messages": HI}), ("/v1/completions", {"prompt": "Hi"})):
        for few in batched(names.split(), 20):
            asked: dict[str, Any] = {**dict.fromkeys(few), **fields}
            response = post(url, shape, **asked)
            assert response.status_code == 200, response.text


def test_unknown_fields_are_taken_and_named_once(
    url: str, answerer: ScriptedAnswerer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lead.http")
    fields: dict[str, Any] = {
        "messages": HI,
        "safety_identifier": "me",
        "models": ["a"],
        "cache_prompt": True,
        "\n": 1,
        "of_this_test": {},
    }
    for _ in range(2):
        assert post(url, **fields).status_code == 200
    said = [record.getMessage() for record in caplog.records if record.name == "lead.http"]
    assert sum("of_this_test" in line for line in said) == 1 and not any("\n" in line for line in said)


@pytest.mark.parametrize("shape", [it.asked for it in ENDPOINTS if it.asked is not None])
def test_every_request_may_name_a_model(shape: type[Body]) -> None:
    """With several models, the name says who is asked, in every body that is handed on."""
    assert issubclass(shape, ModelField)


@pytest.mark.parametrize("shape", [ChatRequest, CompletionRequest, InfillRequest, MessagesRequest, ResponsesRequest])
def test_what_is_refused_names_no_field_that_is_not_there(shape: type[Body]) -> None:
    """What a class above refuses, a request below may know, and only then others are sent there."""
    names = names_of(shape)
    assert not set(names.cannot) & set(names.known)
    assert {"mirostat", "min_tokens", "dry_multiplier", "stop_sequences", "guided_json", "grammar"} <= set(names.cannot)
    assert "models" in names.vendors
    for name, (_, why) in names.cannot.items():
        for field in ("response_format", "logprobs"):
            there = field in names.known or "/v1/" in why
            assert there or field not in why.replace("top_logprobs", ""), name


def test_very_many_unknown_fields_take_no_time(url: str, answerer: ScriptedAnswerer) -> None:
    fields: dict[str, Any] = {f"temperature{number:0100}": number for number in range(20_000)}
    assert post(url, messages=HI, **fields).status_code == 200
