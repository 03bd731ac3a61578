"""Chat templates in the manner of today's models, and vocabularies that have them.

Each has the checks and the habits of its kind: what it raises, what it loses silently, what it wants as an object.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import transformers
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from tokenizers import Tokenizer, models

from duo.engines.base import Variables
from duo.engines.chat.calls import Copies
from duo.engines.chat.template import ChatVocabulary
from duo.engines.transformers.vocabulary import HFVocabulary

_BEGINS = "{% if add_generation_prompt %}"

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    f"{_BEGINS}<|im_start|>assistant\n{{% endif %}}"
)
LLAMA2 = """{% set rule = '' %}{% set rest = messages %}
{% if messages[0].role == 'system' %}{% set rule = '<<SYS>>' + messages[0].content + '<</SYS>>' %}
{% set rest = messages[1:] %}{% endif %}
{% for m in rest %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}
{% if m.role == 'user' %}[INST] {% if loop.first %}{{ rule }}{% endif %}{{ m.content.strip() }} [/INST]
{%- elif m.role == 'assistant' %} {{ m.content | trim }}</s>{% endif %}
{% endfor %}"""
LLAMA3 = """{% if messages[0].role == 'system' %}{% set rule = messages[0].content %}{% set rest = messages[1:] %}
{% else %}{% set rule = '' %}{% set rest = messages %}{% endif %}
<|start_header_id|>system<|end_header_id|>

{{ rule | trim }}<|eot_id|>
{%- if tools is not none and tools %}
{% if not rest %}{{ raise_exception('no first user message to put the tools in') }}{% endif %}
<|start_header_id|>user<|end_header_id|>

{% for t in tools %}{{ t | tojson(indent=4) }}
{% endfor %}{{ rest[0].content | trim }}<|eot_id|>{% set rest = rest[1:] %}{% endif %}
{%- for m in rest %}
{%- if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) -%}
<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content | trim }}<|eot_id|>
{%- elif 'tool_calls' in m %}
{% if m.tool_calls | length != 1 %}{{ raise_exception('only one call at once') }}{% endif -%}
<|start_header_id|>assistant<|end_header_id|>

{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}
{{- '<|eot_id|>' }}
{%- else -%}
<|start_header_id|>ipython<|end_header_id|>

{{ m.content | tojson if m.content is mapping else m.content }}<|eot_id|>
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
GEMMA = """{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for m in messages %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}
<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
_MISTRAL = """{% if messages[0].role == 'system' %}{% set rule = messages[0].content %}{% set rest = messages[1:] %}
{%- else %}{% set rule = '' %}{% set rest = messages %}{% endif %}
{%- set asked = rest | selectattr('role', 'equalto', 'user') | list %}
{%- set ns = namespace(at=0) %}
{%- for m in rest %}{% if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}
{%- if (m.role == 'user') != (ns.at % 2 == 0) %}{{ raise_exception('user and assistant must take turns') }}{% endif %}
{%- set ns.at = ns.at + 1 %}{% endif %}{% endfor %}
{%- for m in rest %}
{%- if m.role == 'user' %}
{%- if tools and m == asked[-1] %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- if loop.last and rule %}[INST] {{ rule }}

{{ m.content }}[/INST]{% else %}[INST] {{ m.content }}[/INST]{% endif %}
{%- elif m.tool_calls %}[TOOL_CALLS] [
{%- for c in m.tool_calls %}
{%- if c.id is not defined or c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- (c.function | tojson)[:-1] }}, "id": "{{ c.id }}"}{{ '' if loop.last else ', ' }}
{%- endfor %}]</s>
{%- elif m.role == 'assistant' %} {{ m.content | trim }}</s>
{%- elif m.role == 'tool' %}
{%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}{{ raise_exception('not nine') }}{% endif %}
[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]
{%- else %}{{ raise_exception('only user and assistant roles') }}{% endif %}
{%- endfor %}"""
MISTRAL = _MISTRAL.replace("loop.last and rule", "loop.first and rule")
"""The system's text comes in the first turn. Mistral's own puts it into the last one."""
QWEN3 = """{% if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}<tools>{% for t in tools %}
{{ t | tojson }}{% endfor %}
</tools><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
{% set ns = namespace(query=messages | length - 1, found=false) %}
{% for m in messages[::-1] %}{% set i = messages | length - 1 - loop.index0 %}
{% if not ns.found and m.role == 'user' and not m.content.startswith('<tool_response>') %}
{% set ns.found = true %}{% set ns.query = i %}{% endif %}{% endfor %}
{% for m in messages %}{% set content = m.content if m.content is string else '' %}
{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}
<|im_start|>{{ m.role }}
{{ content }}<|im_end|>
{% elif m.role == 'assistant' %}{% set thought = '' %}
{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}
{% elif '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1] %}
{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
<|im_start|>assistant
{% if loop.index0 > ns.query and (loop.last or thought) %}<think>
{{ thought.strip('\\n') }}
</think>

{% endif %}{{ content }}
{%- for c in m.tool_calls or [] %}

<tool_call>
{"name": "{{ c.function.name }}", "arguments": {% if c.function.arguments is string %}{{ c.function.arguments }}
{%- else %}{{ c.function.arguments | tojson }}{% endif %}}
</tool_call>{% endfor %}<|im_end|>
{% elif m.role == 'tool' %}
{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}

<tool_response>
{{ content }}
</tool_response>{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>
{% endif %}{% endif %}{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
QWEN35 = """{% macro text(content) %}{% if content is string %}{{ content }}{% else %}
{%- for part in content or [] %}{{ part.text }}{% endfor %}{% endif %}{% endmacro %}
{% if not messages %}{{ raise_exception('No messages') }}{% endif %}
{% if tools %}<|im_start|>system
{% for t in tools %}{{ t | tojson }}
{% endfor %}{% if messages[0].role == 'system' %}{{ text(messages[0].content) }}{% endif %}<|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ text(messages[0].content) }}<|im_end|>
{% endif %}
{% set ns = namespace(query=-1) %}
{% for m in messages %}{% if m.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor %}
{% if ns.query < 0 %}{{ raise_exception('No user query found in messages') }}{% endif %}
{% for m in messages %}
{% if m.role == 'system' %}{% if not loop.first %}{{ raise_exception('System must be first') }}{% endif %}
{% elif m.role == 'user' %}<|im_start|>user
{{ text(m.content) }}<|im_end|>
{% elif m.role == 'assistant' %}<|im_start|>assistant
{% if loop.index0 > ns.query %}<think>
{{ m.reasoning_content or '' }}
</think>

{% endif %}{{ text(m.content) | trim }}{% for c in m.tool_calls or [] %}

<tool_call>
<function={{ c.function.name }}>
{% for name, value in c.function.arguments | items %}
<parameter={{ name }}>
{{ value if value is string else value | tojson }}
</parameter>
{% endfor %}
</function>
</tool_call>{% endfor %}<|im_end|>
{% elif m.role == 'tool' %}<|im_start|>user
<tool_response>
{{ text(m.content) }}
</tool_response><|im_end|>
{% else %}{{ raise_exception('Unexpected message role') }}{% endif %}{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% if enable_thinking is defined and enable_thinking is false %}
</think>

{% endif %}{% endif %}"""
DEEPSEEK = """{% set ns = namespace(rule='', first=true, tool=false) %}
{%- for m in messages %}{% if m.role == 'system' %}{% set ns.rule = ns.rule + m.content + '\\n\\n' %}{% endif %}
{%- endfor %}{{ ns.rule }}{% if tools %}## Tools{% for t in tools %}
{{ t.function.name }}: {{ t.function.description }} {{ t.function.parameters | tojson }}{% endfor %}{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}<|User|>{{ m.content }}
{%- elif m.role == 'assistant' and m.tool_calls is defined and m.content is none %}<|Assistant|><|calls|>
{%- for c in m.tool_calls %}{{ '<|call|>' + c.function.name + '<|sep|>' + c.function.arguments + '<|/call|>' }}
{%- endfor %}<|/calls|><|end|>
{%- elif m.role == 'assistant' and m.content is not none %}
{%- set content = m.content.split('</think>')[-1] %}<|Assistant|>{{ content }}<|end|>
{%- elif m.role == 'tool' %}<|output|>{{ m.content }}<|/output|>{% endif %}
{%- endfor %}{% if add_generation_prompt %}<|Assistant|><think>
{% endif %}"""
PHI4 = """{% for m in messages %}{% if m.role == 'system' and 'tools' in m and m.tools is not none -%}
<|system|>{{ m.content }}<|tool|>{{ m.tools }}<|/tool|><|end|>
{%- else -%}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% else %}<|endoftext|>{% endif %}"""
COMMAND_R = """{% macro number(id) %}{% set ns = namespace(n=0, at=-1) %}{% for m in messages %}
{%- for c in m.tool_calls or [] %}{% if c.id == id %}{% set ns.at = ns.n %}{% endif %}{% set ns.n = ns.n + 1 %}
{%- endfor %}{% endfor %}{{ ns.at }}{% endmacro %}
{%- set seen = namespace(ids=[]) %}<|SYSTEM|>
{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}
{%- for t in tools or [] %}{"name": "{{ t.function.name }}", "parameters": {{ t.function.parameters | tojson }}}
{%- endfor %}<|END|>
{%- for m in messages %}
{%- if m.role == 'system' and not loop.first %}<|SYSTEM|>{{ m.content }}<|END|>
{%- elif m.role == 'user' %}<|USER|>{{ m.content }}<|END|>
{%- elif m.role == 'assistant' %}<|CHATBOT|>{% if m.tool_calls %}
{%- if m.reasoning_content %}<|START_THINKING|>{{ m.reasoning_content }}<|END_THINKING|>{% endif %}<|START_ACTION|>[
{%- for c in m.tool_calls %}{"tool_call_id": "{{ number(c.id) }}", "tool": "{{ c.function.name }}", "parameters": {{
c.function.arguments | tojson }}}{{ '' if loop.last else ', ' }}{% endfor %}]<|END_ACTION|><|END|>
{%- else %}{{ m.content }}<|END|>{% endif %}
{%- elif m.role == 'tool' and m.tool_call_id not in seen.ids %}<|SYSTEM|><|START_TOOL_RESULT|>[
{{ number(m.tool_call_id) }}: {{ m.content | tojson }}
{%- for other in messages[loop.index0 + 1:] %}{% if other.role == 'tool' %}, {{ number(other.tool_call_id) }}: {{
other.content | tojson }}{% set seen.ids = seen.ids + [other.tool_call_id] %}
{%- else %}{% break %}{% endif %}{% endfor %}
]<|END_TOOL_RESULT|><|END|>{% endif %}
{%- endfor %}{% if add_generation_prompt %}<|CHATBOT|>{% endif %}"""
GLM = """[gMASK]<sop>{% if tools %}<|system|>
<tools>{% for t in tools %}
{{ t | tojson(ensure_ascii=False) }}{% endfor %}
</tools>{% endif %}
{%- set ns = namespace(user=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.user = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}<|user|>
{{ m.content }}{{ '/nothink' if enable_thinking is defined and not enable_thinking else '' }}
{%- elif m.role == 'assistant' %}<|assistant|>
{% if loop.index0 > ns.user and m.reasoning_content %}<think>{{ m.reasoning_content }}</think>
{%- else %}<think></think>{% endif %}{% if m.content %}
{{ m.content.strip() }}{% endif %}
{%- for c in m.tool_calls or [] %}
<tool_call>{{ c.function.name }}
{% for k, v in c.function.arguments.items() %}<arg_key>{{ k }}</arg_key>
<arg_value>{{ v if v is string else v | tojson }}</arg_value>
{% endfor %}</tool_call>{% endfor %}
{%- elif m.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|observation|>{% endif %}
<tool_response>
{{ m.content }}
</tool_response>
{%- elif m.role == 'system' %}<|system|>
{{ m.content }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>
{% endif %}"""
GPT_OSS = """<|start|>system<|message|>Reasoning: {{ reasoning_effort or 'medium' }}<|end|>
{%- if messages[0].role in ['system', 'developer'] %}{% set rule = messages[0].content %}{% set rest = messages[1:] %}
{%- else %}{% set rule = '' %}{% set rest = messages %}{% endif %}
{%- if rule or tools %}<|start|>developer<|message|>{{ rule }}
{%- for t in tools or [] %}
type {{ t.function.name }} = {{ t.function.parameters | tojson }}{% endfor %}<|end|>{% endif %}
{%- set last = namespace(name=none) %}
{%- for m in rest %}
{%- if m.role == 'assistant' %}
{%- if 'content' in m and ('<|channel|>analysis' in m.content or '<|channel|>final' in m.content) %}
{{ raise_exception('use the thinking field, no channels') }}{% endif %}
{%- if 'tool_calls' in m %}
{%- if m.content and m.thinking %}{{ raise_exception('not both content and thinking beside calls') }}
{%- elif m.content or m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.content or m.thinking }}<|end|>
{%- endif %}
{%- set c = m.tool_calls[0].function %}<|start|>assistant to=functions.{{ c.name }}<|channel|>commentary<|message|>{{
c.arguments | tojson }}<|call|>{% set last.name = c.name %}
{%- elif loop.last and not add_generation_prompt %}
{%- if 'thinking' in m %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}
<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>
{%- else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% set last.name = none %}{% endif %}
{%- elif m.role == 'tool' %}
{%- if last.name is none %}{{ raise_exception('a result without a call') }}{% endif %}
<|start|>functions.{{ last.name }} to=assistant<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>
{%- elif m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""
KIMI = """{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{% endif %}
{%- for m in messages %}{% set name = m.name or m.role %}
<|im_{{ 'system' if m.role in ['system', 'tool'] else m.role }}|>{{ name }}<|im_middle|>
{%- if m.role == 'assistant' and m.tool_calls %}{{ m.content or '' }}<|calls|>
{%- for c in m.tool_calls %}<|call|>{{ c.id }}<|args|>{% if c.function.arguments is string %}{{ c.function.arguments }}
{%- else %}{{ c.function.arguments | tojson }}{% endif %}<|/call|>{% endfor %}<|/calls|>
{%- elif m.role == 'tool' %}## Return of {{ m.tool_call_id }}
{{ m.content }}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}
{%- if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"""
GEMMA4 = """{% macro value(v) %}{% if v is string %}<|"|>{{ v }}<|"|>{% else %}{{ v | tojson }}{% endif %}{% endmacro %}
{%- set ns = namespace(last='') %}{% set rest = messages %}
{%- if tools or messages[0].role == 'system' %}<|turn>system
{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set rest = messages[1:] %}{% endif %}
{%- for t in tools or [] %}<|tool>declaration:{{ t.function.name }}<tool|>{% endfor %}<turn|>
{% endif %}
{%- for m in rest %}{% if not (ns.last == 'response' and m.tool_calls) %}<|turn>
{{- 'model' if m.role == 'assistant' else m.role }}
{% endif %}{% set ns.last = '' %}
{%- for c in m.tool_calls or [] %}<|tool_call>call:{{ c.function.name }}{
{%- if c.function.arguments is mapping %}
{%- for k, v in c.function.arguments | dictsort %}{{ '' if loop.first else ',' }}{{ k }}:{{ value(v) }}{% endfor %}
{%- else %}{{ c.function.arguments }}{% endif %}}<tool_call|>{% endfor %}
{%- for r in m.tool_responses or [] %}<|tool_response>response:{{ r.name }}{value:{{ value(r.response) }}}
{{- '<tool_response|>' }}{% set ns.last = 'response' %}{% endfor %}
{{- m.content | trim if m.content is string }}
{%- if not (m.tool_responses and not m.content) %}<turn|>
{% endif %}{% endfor %}
{%- if add_generation_prompt and ns.last != 'response' %}<|turn>model
{% endif %}"""
VISION = """{% for m in messages %}<|{{ m.role }}|>{% for part in m['content'] %}
{%- if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<end>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
"""Content as a list of parts. Of a text it writes nothing."""
STRICT = """{% for m in messages %}
{% if not m.content %}{{ raise_exception('content is empty') }}{% endif %}
{% if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role') }}{% endif %}
{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}{% endif %}
{% if not loop.first and m.role == messages[loop.index0 - 1].role %}{{ raise_exception('twice') }}{% endif %}
{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""
"""Raises for nearly everything."""

TEMPLATES: Mapping[str, str] = {
    "chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "gemma": GEMMA, "gemma4": GEMMA4, "mistral": MISTRAL,
    "qwen3": QWEN3, "qwen35": QWEN35, "deepseek": DEEPSEEK, "phi4": PHI4, "command-r": COMMAND_R, "glm": GLM,
    "gpt-oss": GPT_OSS, "kimi": KIMI, "vision": VISION, "strict": STRICT,
}  # fmt: skip


class TemplateVocabulary(ChatVocabulary):
    """A chat template as llama.cpp's vocabularies render it, without a model. Its tokens are bytes."""

    size = 256
    eos: frozenset[int] = frozenset()
    meanings = ()

    def __init__(self, template: str) -> None:
        self._text = template
        self._ending = {
            begins: Jinja2ChatFormatter(template, bos_token="", eos_token="</s>", add_generation_prompt=begins)
            for begins in (True, False)
        }
        self.rendered = 0
        """How often the template ran."""

    @property
    def chat_template(self) -> str:
        return self._text

    def decode(self, tokens: Any) -> str:
        return bytes(tokens).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])

    def _tokenize(self, text: str, add_special: bool) -> list[int]:
        return list(text.encode(errors="replace"))

    def _apply(self, messages: Copies, tools: Copies | None, variables: Variables, begins: bool) -> str:
        self.rendered += 1
        given: Any = messages
        return str(self._ending[begins](messages=given, tools=tools, **variables).prompt)  # type: ignore[arg-type]


@cache
def of_llamacpp(name: str) -> TemplateVocabulary:
    return TemplateVocabulary(TEMPLATES[name])


@cache
def of_transformers(name: str) -> HFVocabulary:
    core = Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1, "a": 2}, merges=[]))
    maker: Any = transformers.PreTrainedTokenizerFast
    tokenizer = maker(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATES[name]
    return HFVocabulary(tokenizer, 3, frozenset([1]))
