"""The devices of this machine that can run a model, for `--list-devices`."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from duo.engines import threads


class ListDevices(argparse.Action):
    """An argparse action that prints the devices and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=settings.get("help"))

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(*devices(), sep="\n")
        parser.exit()


def devices() -> Iterator[str]:
    """Yield a line per device. It begins with the flag that chooses the device."""
    yield f"{'--threads ' + str(threads.usual()):22} CPU: {_processor()}"
    yield from _of_torch() if find_spec("torch") else ["(transformers: torch is not installed)"]
    yield from _of_llama() if find_spec("llama_cpp") else ["(llama.cpp: llama-cpp-python is not installed)"]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _of_torch() -> Iterator[str]:
    import torch

    yield f"{'--device cpu':22} transformers: torch {torch.__version__}"
    for index in range(torch.cuda.device_count()):
        one = torch.cuda.get_device_properties(index)
        yield f"{f'--device cuda:{index}':22} transformers: {one.name}, {one.total_memory / 2**30:.1f} GiB"
    if torch.backends.mps.is_available():
        yield f"{'--device mps':22} transformers: Apple GPU"


def _of_llama() -> Iterator[str]:
    from duo.engines.llamacpp.devices import devices as found

    for device in found():
        flag = "--n-gpu-layers N" if device.gpu else "--n-gpu-layers 0"
        yield f"{flag:22} llama.cpp: {device.name}, {device.description}"
