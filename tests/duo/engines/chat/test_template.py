"""What both runtimes' vocabularies do alike: the bytes of tokens, prompts as text, tools."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import transformers
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers.utils.chat_template_utils import render_jinja_template

from bench.harness.models import shipped
from duo.engines import Engine, EngineOptions, Vocabulary, load
from duo.engines.chat import template
from duo.engines.transformers.vocabulary import HFVocabulary
from duo.errors import RequestError

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather — now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
QUESTION: dict[str, Any] = {"role": "user", "content": "How is the weather in Köln?"}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
TURNS: list[dict[str, Any]] = [
    QUESTION,
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "rain"},
    {"role": "tool", "tool_call_id": "1", "content": "still rain"},
]
WRITES_TOOLS = (
    "{% if tools %}TOOLS{{ tools | tojson }}\n{% endif %}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for call in m.tool_calls or [] %}"
    "CALL {{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module", params=["transformers", "llamacpp"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    runtime = request.param
    engine = load(shipped("draft", runtime), runtime, EngineOptions(threads=1, context=64))
    yield engine
    engine.close()


@pytest.fixture
def vocabulary(engine: Engine) -> Vocabulary:
    return engine.vocabulary


def tokenizer_of(core: Tokenizer, template: str | None = None) -> Any:
    maker: Any = transformers.PreTrainedTokenizerFast
    made = maker(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


def test_bytes_of_tokens_make_up_the_text(vocabulary: Vocabulary) -> None:
    text = "naïve 日本 \n\tdef f(x):\r\n  return '🎉'"
    tokens = vocabulary.encode(text)
    assert b"".join(vocabulary.token_bytes(token) for token in tokens) == text.encode()
    assert [vocabulary.token_bytes(token) for token in vocabulary.eos] == [b""] * len(vocabulary.eos)
    (start,) = vocabulary.encode_rendered("<|im_start|>")
    assert vocabulary.token_bytes(start) == b""
    for token in (-1, vocabulary.size):
        with pytest.raises(ValueError, match="vocabulary"):
            vocabulary.token_bytes(token)


def test_a_conversation_is_its_rendered_prompt(vocabulary: Vocabulary) -> None:
    messages = [{"role": "system", "content": "Be brief."}, QUESTION]
    rendered = vocabulary.render(messages)
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow is the weather in Köln?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert vocabulary.chat(messages) == vocabulary.encode_rendered(rendered)
    assert vocabulary.encode("a\ud800b") == vocabulary.encode("a?b")


@pytest.mark.parametrize(
    ("around", "before"), [("$A", ""), ("<s> $A", "<s>"), ("[gMASK] <sop> $A", "[gMASK]<sop>"), ("<s> $A </s>", "<s>")]
)
def test_what_a_prompt_begins_with_is_there_once(around: str, before: str) -> None:
    """GLM's texts begin with two tokens, and so do rendered prompts. Some texts also end with one."""
    special = ["<s>", "</s>", "[gMASK]", "<sop>"]
    core = Tokenizer(models.BPE(vocab={message: i for i, message in enumerate("abc")}, merges=[]))
    core.add_special_tokens(special)
    core.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[(name, core.token_to_id(name)) for name in special if name in around]
    )
    vocabulary = HFVocabulary(tokenizer_of(core), core.get_vocab_size(), frozenset())
    tokens = vocabulary.encode("abc")
    assert tokens == core.encode("abc").ids
    assert vocabulary.encode(f"{before}abc") == tokens
    if before:
        assert vocabulary.encode(before * 2 + "abc") == vocabulary.encode_rendered(before) + tokens, (
            "two if two are written"
        )
    assert vocabulary.encode("") == core.encode("").ids


def test_the_chat_template_is_the_models_own(vocabulary: Vocabulary) -> None:
    assert "<|im_start|>" in vocabulary.chat_template and "add_generation_prompt" in vocabulary.chat_template
    none = HFVocabulary(tokenizer_of(Tokenizer(models.BPE())), 1, frozenset())
    assert none.chat_template == ""


def test_a_template_without_tools_does_not_lose_them(vocabulary: Vocabulary) -> None:
    prompt = vocabulary.render([QUESTION], [TOOL])
    system, rest = prompt.split("<|im_end|>", 1)
    assert system.startswith("<|im_start|>system\n") and json.dumps(TOOL, ensure_ascii=False) in system
    assert "<tool_call>" in system and rest == "\n" + vocabulary.render([QUESTION])
    begun = vocabulary.render([{"role": "system", "content": "Be brief."}, QUESTION], [TOOL])
    assert begun.startswith("<|im_start|>system\nBe brief.\n\n") and begun.count("system\n") == 1
    assert vocabulary.chat([QUESTION], [TOOL]) == vocabulary.encode_rendered(prompt)

    prompt = vocabulary.render(TURNS)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{call}\n{call}<|im_end|>" in prompt
    answers = "<tool_response>\nrain\n</tool_response>\n<tool_response>\nstill rain\n</tool_response>"
    assert f"<|im_start|>user\n{answers}<|im_end|>" in prompt


def test_an_answer_continues_the_last_message(vocabulary: Vocabulary) -> None:
    turns = [QUESTION, {"role": "assistant", "content": "It rains, and "}]
    prompt = vocabulary.render(turns, continues=True)
    assert prompt == vocabulary.render([QUESTION]) + "It rains, and "
    assert vocabulary.chat(turns, continues=True) == vocabulary.encode_rendered(prompt)
    assert vocabulary.render(turns).endswith("It rains, and <|im_end|>\n<|im_start|>assistant\n")


def test_odd_calls_are_a_bad_request(vocabulary: Vocabulary) -> None:
    for message in ({"role": "assistant", "tool_calls": [{"id": "1"}]}, {"role": "assistant", "tool_calls": ["x"]}):
        with pytest.raises(RequestError) as caught:
            vocabulary.render([QUESTION, message])
        assert caught.value.param == "messages" and "\n" not in str(caught.value)
    broken = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": "{oops"}}]}
    assert '"arguments": {"arguments": "{oops"}' in vocabulary.render([QUESTION, broken])


def test_a_template_that_knows_tools_gets_them() -> None:
    core = Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1, "a": 2}, merges=[]))
    vocabulary = HFVocabulary(tokenizer_of(core, WRITES_TOOLS), 3, frozenset([1]))
    prompt = vocabulary.render(TURNS, [TOOL])
    first, *lines = prompt.splitlines()
    assert first.startswith("TOOLS") and json.loads(first.removeprefix("TOOLS")) == [TOOL]
    assert lines[1] == "[assistant]" + 2 * 'CALL weather{"city": "Köln"}', "arguments are no text in a text"
    assert lines[2] == "[tool]rain"
    assert vocabulary.render([QUESTION]) == "[user]How is the weather in Köln?\n[assistant]"
    bare = HFVocabulary(tokenizer_of(core), 3, frozenset([1]))
    assert bare.render([QUESTION], [TOOL]).endswith("\nuser: How is the weather in Köln?\nassistant:")
    assert json.dumps(TOOL, ensure_ascii=False) in bare.render([QUESTION], [TOOL])


def test_variables_reach_the_template_but_no_template_comes_with_them() -> None:
    core = Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1, "a": 2}, merges=[]))
    template = "{{ messages[0].content }}{% if enable_thinking is false %} without{% endif %}"
    vocabulary = HFVocabulary(tokenizer_of(core, template), 3, frozenset([1]))
    assert vocabulary.render([{"role": "user", "content": "a"}]) == "a"
    assert vocabulary.render([{"role": "user", "content": "a"}], (), {"enable_thinking": False}) == "a without"
    for name in ("chat_template", "tokenize", "messages"):
        with pytest.raises(RequestError, match=name) as caught:
            vocabulary.render([QUESTION], (), {name: "x"})
        assert caught.value.param == "chat_template_kwargs"


def test_no_name_that_the_runtimes_know_is_a_variable() -> None:
    """Updates of the runtimes may add variables; this test finds them."""
    theirs = {
        *inspect.signature(transformers.PreTrainedTokenizerFast.apply_chat_template).parameters,
        *inspect.signature(render_jinja_template).parameters,
        *inspect.signature(Jinja2ChatFormatter.__call__).parameters,
    }
    assert theirs - {"kwargs"} <= template.RUNTIME_VARIABLES


def test_bytes_of_a_vocabulary_like_sentencepieces() -> None:
    chunks = ["<s>", "</s>", "▁the", "é", "<0xE6>", "<0x0A>", "▁", "<tool>"]
    core = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(chunks)}, merges=[], byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    vocabulary = HFVocabulary(tokenizer_of(core), 10, frozenset([1]))
    found = [vocabulary.token_bytes(token) for token in range(10)]
    assert found == [b"", b"", b" the", "é".encode(), b"\xe6", b"\n", b" ", b"<tool>", b"", b""]


def test_many_threads_at_a_time(vocabulary: Vocabulary) -> None:
    """The event loop encodes and renders while the decode thread decodes."""
    texts = [f"{i} " + "What does shutil.copytree do? " * (1 + i % 7) for i in range(200)]
    expected = [vocabulary.encode(text) for text in texts]

    def both(text: str) -> tuple[list[int], str, list[int]]:
        tokens = vocabulary.encode(text)
        return tokens, vocabulary.decode(tokens), vocabulary.chat([{"role": "user", "content": text}], [TOOL])

    with ThreadPoolExecutor(8) as threads:
        for text, tokens, (encoded, decoded, _) in zip(texts, expected, threads.map(both, texts), strict=True):
            assert encoded == tokens and decoded == text
