"""Tiny GGUF models with random weights, written here, and llama.cpp engines over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from duo.engines import EngineOptions
from duo.engines.llamacpp.engine import LlamaCppEngine
from duo.engines.llamacpp.runtime import Model

CHATML = (
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MERGES = ["t h", "th e", "Ġ the", "Ġ a", "i n", "e r", "Ġ ?", "Ġ ."]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PADDING = ["[PAD0]", "[PAD1]"]
WIDTH = 64
WINDOW = 4


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, by byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


TOKENS = byte_alphabet() + [merge.replace(" ", "") for merge in MERGES] + SPECIAL + PADDING
SIZE = len(TOKENS)
START, END = TOKENS.index("<|im_start|>"), TOKENS.index("<|im_end|>")


def write(
    path: Path,
    architecture: str,
    tensors: Mapping[str, tuple[int, ...]],
    describe: Callable[[gguf.GGUFWriter], None],
    template: str | None = CHATML,
    bos: bool = False,
) -> Path:
    generator = np.random.default_rng(7)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    describe(writer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    kinds = gguf.TokenType
    plain = [int(kinds.NORMAL)] * (SIZE - len(SPECIAL) - len(PADDING))
    writer.add_token_types(plain + [int(kinds.CONTROL)] * len(SPECIAL) + [int(kinds.UNUSED)] * len(PADDING))
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(bos)
    if bos:
        writer.add_bos_token_id(TOKENS.index("<|endoftext|>"))
    if template is not None:
        writer.add_chat_template(template)
    for name, shape in tensors.items():
        values = np.ones(shape) if len(shape) == 1 else generator.standard_normal(shape) / shape[-1] ** 0.5
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def attention(writer: gguf.GGUFWriter) -> None:
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)


def windowed(writer: gguf.GGUFWriter) -> None:
    attention(writer)
    writer.add_sliding_window(WINDOW)


def encoder(writer: gguf.GGUFWriter) -> None:
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.add_token_type_count(2)


def decoder_tensors(extra: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (SIZE, WIDTH),
        "output_norm.weight": (WIDTH,),
        "output.weight": (SIZE, WIDTH),
    }
    for layer in range(2):
        parts: dict[str, tuple[int, ...]] = {
            "attn_norm": (WIDTH,),
            "ffn_norm": (WIDTH,),
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH // 2, WIDTH),
            "attn_v": (WIDTH // 2, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (2 * WIDTH, WIDTH),
            "ffn_up": (2 * WIDTH, WIDTH),
            "ffn_down": (WIDTH, 2 * WIDTH),
            **dict.fromkeys(extra, (WIDTH,)),
        }
        tensors |= {f"blk.{layer}.{name}.weight": shape for name, shape in parts.items()}
    return tensors


def encoder_tensors() -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (SIZE, WIDTH),
        "position_embd.weight": (512, WIDTH),
        "token_types.weight": (2, WIDTH),
        "token_embd_norm.weight": (WIDTH,),
        "token_embd_norm.bias": (WIDTH,),
    }
    for layer in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"blk.{layer}.{name}.weight"] = (WIDTH, WIDTH)
            tensors[f"blk.{layer}.{name}.bias"] = (WIDTH,)
        for name in ("attn_output_norm", "layer_output_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = (WIDTH,)
            tensors[f"blk.{layer}.{name}.bias"] = (WIDTH,)
        tensors[f"blk.{layer}.ffn_up.weight"] = (2 * WIDTH, WIDTH)
        tensors[f"blk.{layer}.ffn_up.bias"] = (2 * WIDTH,)
        tensors[f"blk.{layer}.ffn_down.weight"] = (WIDTH, 2 * WIDTH)
        tensors[f"blk.{layer}.ffn_down.bias"] = (WIDTH,)
    return tensors


def open_engine(path: Path, **given: Any) -> LlamaCppEngine:
    options = EngineOptions(threads=1, **{"flash_attention": "off", **given})
    return LlamaCppEngine(Model(path, options, lambda share: None), options)
