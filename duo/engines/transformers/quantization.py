"""Quantised checkpoints: the package and device that each method needs, checked before any weight is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from duo.errors import ModelError


class Method(NamedTuple):
    """What a quantisation method needs.

    packages: names to import, and names to install; accelerate comes on top. devices: torch's device types that it runs
    on; empty: any. dense: on other devices, or without its kernels, the library can dequantise the weights.
    """

    label: str
    packages: Mapping[str, str] = {}
    devices: tuple[str, ...] = ()
    dense: bool = False


METHODS: Mapping[str, Method] = {
    "fp8": Method("FP8", devices=("cuda", "xpu"), dense=True),
    "mxfp8": Method("MXFP8", devices=("cuda", "xpu"), dense=True),
    "fbgemm_fp8": Method("FP8 (fbgemm)", {"fbgemm_gpu": "fbgemm-gpu"}, ("cuda", "xpu")),
    "mxfp4": Method("MXFP4", devices=("cuda", "xpu"), dense=True),
    "compressed-tensors": Method(
        "compressed-tensors", {"compressed_tensors": "compressed-tensors"}, ("cuda", "xpu"), dense=True
    ),
    "awq": Method("AWQ", {"gptqmodel": "gptqmodel"}),
    "gptq": Method("GPTQ", {"optimum": "optimum", "gptqmodel": "gptqmodel"}),
    "auto-round": Method("AutoRound", {"auto_round": "auto-round"}),
    "bitsandbytes": Method("bitsandbytes", {"bitsandbytes": "bitsandbytes"}),
    "torchao": Method("torchao", {"torchao": "torchao"}),
    "hqq": Method("HQQ", {"hqq": "hqq"}),
    "quanto": Method("quanto", {"optimum.quanto": "optimum-quanto"}),
    "aqlm": Method("AQLM", {"aqlm": "aqlm"}),
    "eetq": Method("EETQ", {"kernels": "kernels"}, ("cuda",)),
    "nvfp4": Method("NVFP4", {"kernels": "kernels"}, ("cuda",)),
    "bitnet": Method("BitNet"),
}
"""Methods by the `quant_method` of a config.json. For others, the library tries what it can."""

ACCELERATE = {"accelerate": "accelerate"}


def settings(config: Any) -> dict[str, Any]:
    """The model's `quantization_config`; empty if its weights are not quantised."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return {}
    return dict(found) if isinstance(found, Mapping) else dict(found.to_dict())


def method_of(given: Mapping[str, Any]) -> str:
    named = str(given.get("quant_method") or "")
    if not named and (given.get("load_in_4bit") or given.get("load_in_8bit")):
        return "bitsandbytes"
    return "bitsandbytes" if named.startswith("bitsandbytes") else named


def installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


class Treatment(NamedTuple):
    """quantised: the checkpoint is quantised. dense: its weights are not, once the library has read them."""

    quantised: bool
    dense: bool


def prepare(config: Any, device: torch.device, name: str, has: Callable[[str], bool] = installed) -> Treatment:
    """How the library treats the checkpoint's weights. Raises ModelError if a package or the device is missing.

    If the method's kernels do not run on the device, the config is changed so that the library dequantises the weights.
    """
    given = settings(config)
    if not given:
        return Treatment(quantised=False, dense=True)
    key = method_of(given)
    method = METHODS.get(key, Method(key or "an unnamed method"))
    missing = [pip for module, pip in {**ACCELERATE, **method.packages}.items() if not has(module)]
    if missing:
        raise ModelError(
            f"{name} is quantised with {method.label}, which needs {' and '.join(missing)}: "
            f"pip install {' '.join(missing)}, or use a GGUF of this model"
        )
    if method.devices and device.type not in method.devices:
        if not method.dense:
            raise ModelError(
                f"{name} is quantised with {method.label}, which runs on {' or '.join(method.devices)} and not on "
                f"{device.type}: use such a device, or a GGUF of this model"
            )
        config.quantization_config = {**given, "dequantize": True}
        return Treatment(quantised=True, dense=True)
    return Treatment(quantised=True, dense=False)
