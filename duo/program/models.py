"""Loads the model that the flags of a program name."""

from __future__ import annotations

import argparse
import gc
import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from duo import engines as runtimes
from duo.engines import Engine, EngineOptions, threads
from duo.engines.conditions import conditions, fingerprint, model_files, stamps
from duo.engines.options import GPU_AUTO
from duo.errors import ModelError
from duo.program.hub import ollama
from duo.program.hub.choice import Source, Wanted, is_repository, wanted

SHIPPED = "shipped"
"""As a value of --model-draft and --speculator: the draft model, or the head, that ships with the project."""

MIN_BATCH = 32
"""A tree of guesses must fit into one forward pass, even if -b asks for less."""

GC_THRESHOLD = 20_000
"""New objects before the garbage collector runs. Python's 700 are reached every few decode steps."""


def located(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with paths where they name models of the hub or of Ollama. It may download them. Raises ModelError.

    What it returns can be given to it again.
    """
    found = argparse.Namespace(**vars(args))
    source = Source(token=args.hf_token or None, offline=args.offline)
    found.model, name = _path("-m", args.model, "-hf", args.hf_repo, args.hf_file, source, args.engine)
    found.model_name = name or getattr(args, "model_name", "")
    found.hf_repo = found.hf_file = ""
    if "model_draft" in args:
        found.model_draft, name = _path("-md", args.model_draft, "-hfd", args.hf_repo_draft, "", source, "auto")
        found.model_name_draft = name or getattr(args, "model_name_draft", "")
        found.hf_repo_draft = ""
    if getattr(args, "speculator", ""):
        found.speculator = _speculator(args.speculator, source)
    return found


def _speculator(speculator: str, source: Source) -> str:
    """Where a head lies."""
    if speculator == SHIPPED:
        from duo import models

        return str(models.SPECULATOR)
    return _path("--speculator", speculator, "", "", "", source, "transformers")[0]


def _path(
    flag: str, model: str, hub_flag: str, repository: str, file: str, source: Source, runtime: str
) -> tuple[str, str]:
    """Where a model lies, and what to call it; no name if its file says that."""
    if repository or file:
        if model:
            raise ModelError(f"{flag} {model} and {hub_flag} {repository} name two models: leave one out")
        if not repository:
            raise ModelError(f"--hf-file {file}: -hf names its repository")
        return _of_hub(hub_flag, wanted(repository, file), source, runtime)
    if not model or model == SHIPPED or Path(model).expanduser().exists():
        return model, ""
    if (name := ollama.parse(model)) is not None and (blob := ollama.blob(name)) is not None:
        logging.getLogger("duo").info("%s is Ollama's: %s", model, blob)
        return str(blob), model
    if "://" in model:
        try:
            asked = wanted(model)
        except ModelError:
            raise ModelError(
                f"{flag} {model}: download the file first, or name a model of the hub, user/repo"
            ) from None
        return _of_hub(flag, asked, source, runtime)
    if is_repository(model.partition(":")[0]):
        try:
            return _of_hub(flag, wanted(model), source, runtime)
        except ModelError as error:
            raise ModelError(f"there is no file or folder {model} here, and as a model of the hub: {error}") from error
    if name is not None:
        raise ModelError(f"{flag} {ollama.advice(model, name)}")
    return model, ""


def _of_hub(flag: str, asked: Wanted, source: Source, runtime: str) -> tuple[str, str]:
    """The same of a model of the hub, which is downloaded."""
    if find_spec("huggingface_hub") is None:
        raise ModelError(f"{flag} needs the package huggingface_hub, which is not installed: pip install "
                         "huggingface_hub")  # fmt: skip
    from duo.program.hub.download import Hub

    path = Hub(source).get(asked, *_kinds(runtime))
    return str(path), asked.repository if path.is_dir() else ""


def _kinds(runtime: str) -> tuple[bool, bool]:
    """Whether to look for GGUF files, and for checkpoints. Where both run, a repository decides."""
    if runtime != "auto":
        return runtime == "llamacpp", runtime == "transformers"
    # Without llama.cpp, the safetensors of a repository with both can still be run.
    return find_spec("llama_cpp") is not None or find_spec("torch") is None, True


def load_engine(
    args: argparse.Namespace,
    shipped: Literal["target", "draft"],
    tree_rows: int,
    slots: int,
    chains: bool = False,
    trial: bool = False,
) -> Engine:
    """Load the model that the flags name, with a progress bar on standard error.

    tree_rows: capacity for guesses, over all slots. chains, trial: see `EngineOptions`. Raises ModelError.
    """
    options = replace(
        _options(args, shipped), batch=max(args.batch, MIN_BATCH, 2 * slots), slots=slots, tree_rows=tree_rows,
        drafts=shipped == "draft", target_context=getattr(args, "target_context", 0),
        draft_max=getattr(args, "draft_max", EngineOptions().draft_max), chains=chains, trial=trial,
    )  # fmt: skip
    model = args.model or shipped_path(shipped, args.engine)
    name = options.name or model.rstrip("/").rpartition("/")[2] or model
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        logging.getLogger("duo").info("loading %s", name)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task(escape(f"loading {name}"), total=1.0)
        engine = runtimes.load(model, args.engine, options, lambda share: bar.update(task, completed=share))
    if engine.runtime == "llamacpp" and options.gpu_layers not in (0, GPU_AUTO) and not _gpu_layers(options):
        logging.getLogger("duo").warning("llama.cpp sees no GPU here: all of %s runs on the CPU, whatever -ngl", name)
    if engine.note and shipped == "draft":  # `lead.target` logs that of a target, once it knows whether guesses pay
        logging.getLogger("duo").info("%s", engine.note)
    # A million objects of the runtime stay for ever. The collector need not look at them during a decode step.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
    return engine


def speed(args: argparse.Namespace, shipped: Literal["target", "draft"]) -> list[object]:
    """All that changes the speed, or the bits, of the model that the flags name."""
    model, runtime = _model(args, shipped)
    options = _options(args, shipped)
    if runtime == "llamacpp" and find_spec("llama_cpp"):
        options = replace(options, gpu_layers=_gpu_layers(options))
    return conditions(model, runtime, options)


def identity(args: argparse.Namespace, shipped: Literal["target", "draft"]) -> str:
    """Identifies the content of the model that the flags name, wherever its files lie."""
    return fingerprint(model_files(*_model(args, shipped)))


def size(args: argparse.Namespace, shipped: Literal["target", "draft"]) -> int:
    """Bytes of the model's files; 0 if they are not on this disk."""
    return sum(size for _, size, _ in stamps(model_files(*_model(args, shipped))))


def _model(args: argparse.Namespace, shipped: Literal["target", "draft"]) -> tuple[str, str]:
    """The path of the model that the flags name, and its runtime. Raises ModelError."""
    model = args.model or shipped_path(shipped, args.engine)
    return model, runtimes.runtime_of(model) if args.engine == "auto" else args.engine


def _gpu_layers(options: EngineOptions) -> int:
    """How many layers llama.cpp puts on a GPU of this machine."""
    from duo.engines.llamacpp import native

    return native.gpu_layers(options.gpu_layers)


def _threads(args: argparse.Namespace, shipped: Literal["target", "draft"]) -> int:
    """How many threads compute, unless a flag says. PyTorch has one number for all models of a process."""
    small = not args.threads and _model(args, shipped)[1] == "llamacpp"
    return args.threads or threads.usual(size(args, shipped) if small else 0)


def _options(args: argparse.Namespace, shipped: Literal["target", "draft"]) -> EngineOptions:
    """How the flags ask to run the model."""
    return EngineOptions(
        threads=_threads(args, shipped), context=args.context, gpu_layers=args.gpu_layers,
        device=args.device, dtype=args.dtype,
        flash_attention=args.flash_attention, name=getattr(args, "model_name", "") or "",
    )  # fmt: skip


def shipped_path(which: Literal["target", "draft"], runtime: str) -> str:
    """Path of a shipped model for the runtime. For llama.cpp it is converted to GGUF once. Raises ModelError."""
    from duo import models

    if runtime == "llamacpp" or (runtime == "auto" and find_spec("torch") is None and find_spec("llama_cpp")):
        if find_spec("gguf") is None:
            raise ModelError("making a GGUF of the shipped model needs the package gguf: pip install gguf")
        from duo.models.export import cached_gguf

        return str(cached_gguf(which))
    return str(models.TARGET if which == "target" else models.DRAFT)
