"""Tiny models with random weights in the Hugging Face layout, made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

LOGITS = 272  # more than the tokenizer defines, as in models that pad their vocabulary
SHAPE: dict[str, Any] = {
    "vocab_size": LOGITS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,  # large, so that a wrong mask or position shows in the logits
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
ALL_HEADS = {**SHAPE, "num_key_value_heads": 4}
GPT2: dict[str, Any] = {
    "vocab_size": LOGITS,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 96,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE),
    "qwen2, upper layer sliding": lambda: transformers.Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=6, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, head_dim=8),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=8),
    "gemma2": lambda: transformers.Gemma2Config(**SHAPE, sliding_window=8, head_dim=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SHAPE, sliding_window=8, head_dim=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
    "phi": lambda: transformers.PhiConfig(**ALL_HEADS),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(**{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}),
    "mixtral": lambda: transformers.MixtralConfig(**SHAPE, num_local_experts=4),
    "llama4": lambda: transformers.Llama4TextConfig(
        **SHAPE,
        head_dim=8,
        intermediate_size_mlp=64,
        num_local_experts=2,
        attention_chunk_size=8,
        no_rope_layers=[1, 0],
        layer_types=["chunked_attention", "full_attention"],
    ),
    "gpt-oss": lambda: transformers.GptOssConfig(**SHAPE, head_dim=8, num_local_experts=4, sliding_window=8),
}


def make_tokenizer(bos: bool = False, template: str | None = None) -> Any:
    """Byte-level BPE with a few merges and two special tokens. bos: texts begin with the first of these."""
    messages = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ["th", "the", "Ġthe", "é"]
    vocabulary = {
        text: id for id, text in enumerate(["<s>", "</s>", *messages, *(m for m in merged if m not in messages)])
    }
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e"), ("Ġ", "the")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    maker: Any = transformers.PreTrainedTokenizerFast
    made = maker(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


def make_model(folder: Path, config: Any, tokenizer: Any = None) -> str:
    torch.manual_seed(0)
    maker: Any = transformers.AutoModelForCausalLM
    maker.from_config(config).save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return str(folder)
