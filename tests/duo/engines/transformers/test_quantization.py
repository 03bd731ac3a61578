"""Quantised checkpoints: what each method needs, and those that become plain weights on a CPU, for real."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bench.kinds import checkpoint, vocabulary
from bench.kinds.kind import Kind
from duo.engines.base import ROOT, Row
from duo.engines.transformers import quantization
from duo.errors import ModelError
from tests.support.reference import engine_of

CONFIGS: Mapping[str, dict[str, Any]] = {
    "FP8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "AWQ": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    "GPTQ": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    "MXFP4": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    "bitsandbytes": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "FP8 (fbgemm)": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
}
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def config_of(label: str) -> Any:
    config: Any = transformers.PreTrainedConfig()
    config.quantization_config = dict(CONFIGS[label])
    return config


@pytest.mark.parametrize("label", CONFIGS)
def test_each_missing_package_is_named(label: str) -> None:
    method = quantization.METHODS[quantization.method_of(CONFIGS[label])]
    assert method.label == label
    needed = {**quantization.ACCELERATE, **method.packages}
    for absent, pip in needed.items():
        with pytest.raises(ModelError) as caught:
            quantization.prepare(config_of(label), GPU, "m", functools.partial(operator.ne, absent))
        said = str(caught.value)
        assert "\n" not in said and f"pip install {pip}" in said and f"quantised with {label}" in said
        assert all(other not in said.split("pip install")[1] for other in needed.values() if other != pip)


@pytest.mark.parametrize("label", CONFIGS)
def test_devices(label: str) -> None:
    """All run on a GPU. On a CPU they run, are dequantised, or say that they need a GPU."""
    on_gpu = config_of(label)
    assert quantization.prepare(on_gpu, GPU, "m", lambda module: True) == (True, False)
    assert on_gpu.quantization_config == CONFIGS[label]
    on_cpu = config_of(label)
    if label == "FP8 (fbgemm)":
        with pytest.raises(ModelError, match="runs on cuda or xpu and not on cpu"):
            quantization.prepare(on_cpu, CPU, "m", lambda module: True)
        return
    quantised, plain = quantization.prepare(on_cpu, CPU, "m", lambda module: True)
    assert quantised and plain is (label in {"FP8", "compressed-tensors", "MXFP4"})
    assert on_cpu.quantization_config.get("dequantize", False) is plain


def test_a_model_without_its_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused before the library reads the weights."""
    vocabulary.write(tmp_path)
    checkpoint.write(LLAMA, tmp_path, seed=1)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": CONFIGS["AWQ"]}))
    monkeypatch.setattr(quantization, "find_spec", lambda module: None)
    with pytest.raises(ModelError, match="is quantised with AWQ, which needs accelerate and gptqmodel") as caught:
        engine_of(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_plain_models_need_nothing() -> None:
    assert quantization.prepare(transformers.PreTrainedConfig(), CPU, "m", lambda module: False) == (False, True)


def quantise_fp8(weights: dict[str, torch.Tensor], block: int) -> dict[str, torch.Tensor]:
    """Quantised tensors to write. `weights` gets the numbers that they stand for."""
    written = dict(weights)
    for name, tensor in weights.items():
        if "proj" in name:
            rows, columns = tensor.shape
            blocks = tensor.reshape(rows // block, block, columns // block, block)
            scale = blocks.abs().amax((1, 3)) / 448
            small = (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
            written |= {name: small, f"{name}_scale_inv": scale}
            weights[name] = (small.float().reshape(blocks.shape) * scale[:, None, :, None]).reshape(rows, columns)
    return written


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def quantise_mxfp4(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same for the experts of gpt-oss, in groups of 32 whose scale is a power of two."""
    written = dict(weights)
    for name, tensor in weights.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            turned = tensor.transpose(1, 2)
            groups = turned.reshape(*turned.shape[:2], -1, 32)
            exponent = torch.floor(torch.log2(groups.abs().amax(-1) / 6)) + 1
            codes = ((groups / 2 ** exponent[..., None])[..., None] - FP4).abs().argmin(-1)
            del written[name]
            packed = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
            written |= {f"{name}_blocks": packed, f"{name}_scales": (exponent + 127).to(torch.uint8)}
            restored = (FP4[codes] * 2 ** exponent[..., None]).reshape(turned.shape)
            weights[name] = restored.transpose(1, 2).contiguous()
    return written


LLAMA = Kind("llama", "attention", "llama", {"num_hidden_layers": 2})
GPT_OSS = Kind(
    "gpt-oss",
    "sinks",
    "gpt_oss",
    {
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("label", ["FP8", "MXFP4"])
def test_quantised_on_a_cpu(label: str, dtype: str, tmp_path: Path) -> None:
    """Logits are those of the weights that the quantised ones stand for."""
    vocabulary.write(tmp_path)
    checkpoint.write(LLAMA if label == "FP8" else GPT_OSS, tmp_path, seed=1)
    stands_for = load_file(tmp_path / "model.safetensors")
    written = quantise_fp8(stands_for, 32) if label == "FP8" else quantise_mxfp4(stands_for)
    maker: Any = transformers.AutoModelForCausalLM
    plain = maker.from_pretrained(tmp_path, dtype=torch.float32)
    plain.load_state_dict(stands_for)
    save_file(written, tmp_path / "model.safetensors", {"format": "pt"})
    path = tmp_path / "config.json"
    settings = {**CONFIGS[label], "weight_block_size": [32, 32]} if label == "FP8" else CONFIGS[label]
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
    engine = engine_of(str(tmp_path), dtype=dtype)
    tokens = [(7 * i + 3) % 300 for i in range(20)]
    engine.extend(0, tokens[:10])
    got = engine.forward([Row(i, 0, tokens[i], i - 1 if i > 10 else ROOT) for i in range(10, 20)])
    with torch.inference_mode():
        wanted = plain(torch.tensor([tokens])).logits[0, 10:].numpy()
        # In bfloat16 a near tie between experts may fall the other way. Most rows are close.
    error = abs(got - wanted).max(1) / abs(wanted).max()
    assert sorted(error)[5] < (1e-4 if dtype == "float32" else 0.1)
    assert dtype == "bfloat16" or error.max() < 1e-4
