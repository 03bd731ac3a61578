"""What the command lines of lead and back share: the flags for the model, logging, and how a program ends."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from duo import __version__
from duo import engines as runtimes
from duo.engines import Engine, EngineOptions
from duo.engines.conditions import conditions
from duo.engines.options import GPU_ALL, GPU_AUTO
from duo.errors import DuoError, ModelError
from duo.program.config import Parser
from duo.program.devices import ListDevices

SHIPPED = "shipped"
"""Names the shipped model where no model has to be given."""
LEAST_BATCH = 32
"""A tree of guesses must fit into one forward pass, whatever -b says of prompts."""
MAX_LAYERS = (1 << 31) - 1
"""What llama.cpp's number of layers holds."""
WORKERS = 4
GARBAGE = 20_000
"""New objects after which the collector looks for circles among them. Usual are 700, which is every few steps."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", argparse.SUPPRESS) or isinstance(action.default, bool):
            return action.help
        if action.help and "(default: " in action.help:
            return action.help  # 0 stands for what is said there
        return super()._get_help_string(action)


def parser(prog: str, description: str | None) -> Parser:
    """A command line whose flags may also stand in the environment and in a file."""
    return Parser(prog, description, Help)


def add_model_flags(parser: argparse.ArgumentParser, shipped: str) -> None:
    """-m and how to run it, in our spelling, llama_duo's and llama-server's."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m", "--model", metavar="MODEL",
        help=f"GGUF file or its folder, Hugging Face directory or hub id (default: the shipped {shipped})",
    )  # fmt: skip
    group.add_argument(
        "--engine", choices=("auto", "transformers", "llamacpp"), default="auto", help="runtime; auto: by the model"
    )
    group.add_argument("-t", "--threads", type=count_or_auto, metavar="N", default=0, help="CPU threads (default: all)")
    group.add_argument(
        "-c", "--ctx-size", "--n-ctx", "--n_ctx", dest="context", type=count, metavar="N", default=0,
        help="tokens of context of each slot, where llama-server's is that of all slots together (default: the "
        "model's own, as far as memory allows, and no more than 131,072 tokens in all slots; in llama.cpp 32,768 of a "
        "draft model, and 1 GiB on a CPU; 4,096 each in any case)",
    )  # fmt: skip
    group.add_argument(
        "-ngl", "--n-gpu-layers", "--gpu-layers", "--n_gpu_layers", dest="gpu_layers", type=gpu_layers, metavar="N",
        default="auto", help="layers on the GPU, auto or all (llama.cpp); auto: all, where it sees a GPU",
    )  # fmt: skip
    group.add_argument(
        "-fa", "--flash-attn", dest="flash_attention", choices=("on", "off", "auto"), default="auto",
        help="flash attention (llama.cpp); auto: on a CPU whichever is faster for the model, which is tried once",
    )  # fmt: skip
    group.add_argument(
        "-b", "--batch-size", "--batch_size", dest="batch", type=positive, metavar="N", default=512,
        help="most tokens of a prompt in one forward pass",
    )  # fmt: skip
    group.add_argument("--device", default="auto", metavar="D", help="torch device (transformers)")
    group.add_argument("--dtype", default="auto", metavar="T", help="torch dtype (transformers)")


def add_draft_model_flags(group: argparse._ArgumentGroup) -> None:
    """A draft model beside the target, in llama-server's spelling."""
    group.add_argument(
        "-md", "--model-draft", "--spec-draft-model", metavar="MODEL", default="",
        help="also run a draft model here, for where no back's guesses have come; shipped: the shipped draft. It has "
        "-c tokens of context too, but no more than the target, nor than it was made for",
    )  # fmt: skip
    group.add_argument(
        "-td", "--threads-draft", "--spec-draft-threads", type=count_or_auto, metavar="N", default=0,
        help="its CPU threads (default: as the target)",
    )  # fmt: skip
    group.add_argument(
        "-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft", "--spec-draft-ngl", dest="gpu_layers_draft",
        type=gpu_layers, metavar="N", default="auto", help="its layers on the GPU, as with -ngl",
    )  # fmt: skip
    group.add_argument("--device-draft", default="auto", metavar="D", help="its torch device (transformers)")


def of_draft_model(args: argparse.Namespace, context: int) -> argparse.Namespace:
    """The flags of the draft model beside the target, as `load_engine` and `speed` take them.

    context: tokens that each slot of the target has.
    """
    changed = {
        "model": None if args.model_draft == SHIPPED else args.model_draft,
        # A shipped model runs on either: on the target's, so that one runtime is enough.
        "engine": args.engine if args.model_draft == SHIPPED else "auto",
        "threads": args.threads_draft or args.threads,
        "gpu_layers": args.gpu_layers_draft,
        "device": args.device_draft,
        # -c is for both. What the target has may be more than this one was trained with.
        "target_context": context,
    }
    return argparse.Namespace(**{**vars(args), **changed})


def add_tls_flags(group: argparse._ArgumentGroup, whose: str, ca: str) -> None:
    """A certificate, its key, and whom to trust: what for is the program's to say."""
    group.add_argument("--tls-cert", metavar="FILE", default="", help=f"{whose} certificate, PEM")
    group.add_argument("--tls-key", metavar="FILE", default="", help="and its key, PEM")
    group.add_argument("--tls-ca", metavar="FILE", default="", help=ca)


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("about this program")
    group.add_argument(
        "--trace",
        metavar="FILE",
        help="write a timeline of what it does to FILE (for ui.perfetto.dev, chrome://tracing)",
    )
    group.add_argument("-v", "--verbose", action="store_true", help="log more")
    group.add_argument("--list-devices", action=ListDevices, help="print what a model can run on here, and exit")
    group.add_argument("--version", action="version", version=f"duo {__version__}")


def positive(text: str) -> int:
    """For argparse: a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def secret(text: str) -> str:
    """For argparse: a key or token, as it fits into a header."""
    if not text.strip(" ,") or not all("!" <= character <= "~" for character in text.replace(" ", "")):
        raise argparse.ArgumentTypeError("a key or token is ASCII, more than spaces and commas, and has no line breaks")
    return text


def seconds(text: str) -> float:
    """For argparse: more than 0 seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds over 0")
    return value


def count(text: str) -> int:
    """For argparse: a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def count_or_auto(text: str) -> int:
    """For argparse: as `count`; 0 leaves it to the program, and so does -1, which is llama-server's word for that."""
    return 0 if text == "-1" else count(text)


def gpu_layers(text: str) -> int:
    """For argparse: how many layers, or llama-server's auto (also -1) and all (also -2)."""
    words = {"auto": GPU_AUTO, "-1": GPU_AUTO, "all": GPU_ALL, "-2": GPU_ALL}
    if text in words:
        return words[text]
    if not text.isdecimal() or int(text) > MAX_LAYERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of layers, auto or all")
    return int(text)


def probability(text: str) -> float:
    """For argparse: from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a probability (0 to 1)")
    return value


def port(text: str) -> int:
    """For argparse: a port; 0 lets the system choose one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def several(given: Sequence[str]) -> list[str]:
    """Of a flag that may be given again: several in one are separated by commas, as with llama-server."""
    return [one.strip() for text in given for one in text.split(",") if one.strip()]


def in_url(host: str) -> str:
    """The host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def load_engine(
    args: argparse.Namespace,
    shipped: Literal["target", "draft"],
    tree_rows: int,
    slots: int,
    chains: bool = False,
    trial: bool = False,
) -> Engine:
    """Load what the flags name, with a progress bar on standard error, for so many sessions at once, and room for trees
    of that many rows in all.

    chains, trial: see `EngineOptions`. Raises ModelError.
    """
    options = replace(
        _options(args), batch=max(args.batch, LEAST_BATCH, 2 * slots), slots=slots, tree_rows=tree_rows,
        drafts=shipped == "draft", target_context=getattr(args, "target_context", 0),
        draft_max=getattr(args, "draft_max", EngineOptions().draft_max), chains=chains, trial=trial,
    )  # fmt: skip
    model = args.model or _shipped(shipped, args.engine)
    name = os.path.basename(model.rstrip("/")) or model
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        logging.getLogger("duo").info("loading %s", name)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task(f"loading {name}", total=1.0)
        engine = runtimes.load(model, args.engine, options, lambda share: bar.update(task, completed=share))
    if engine.runtime == "llamacpp" and options.gpu_layers not in (0, GPU_AUTO) and not _gpu_layers(options):
        logging.getLogger("duo").warning("llama.cpp sees no GPU here: all of %s runs on the CPU, whatever -ngl", name)
    if engine.note and shipped == "draft":  # of a target it is told when it is known whether it verifies guesses
        logging.getLogger("duo").info("%s", engine.note)
    # A million objects of the runtime are here to stay: the collector need not look at them in the middle of a step.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, *gc.get_threshold()[1:])
    return engine


def speed(args: argparse.Namespace, shipped: Literal["target", "draft"]) -> list[object]:
    """All that changes how fast the model is that the flags name, and its bits."""
    model = args.model or _shipped(shipped, args.engine)
    runtime = runtimes.runtime_of(model) if args.engine == "auto" else args.engine
    options = _options(args)
    if runtime == "llamacpp" and find_spec("llama_cpp"):
        options = replace(options, gpu_layers=_gpu_layers(options))
    return conditions(model, runtime, options)


def _gpu_layers(options: EngineOptions) -> int:
    """What llama.cpp makes of -ngl on this machine."""
    from duo.engines.llamacpp import native

    return native.gpu_layers(options.gpu_layers)


def _options(args: argparse.Namespace) -> EngineOptions:
    """What the flags of a model say of how to run it."""
    return EngineOptions(
        threads=args.threads, context=args.context, gpu_layers=args.gpu_layers, device=args.device, dtype=args.dtype,
        flash_attention=args.flash_attention,
    )  # fmt: skip


def _shipped(which: Literal["target", "draft"], runtime: str) -> str:
    """Path of a shipped model for the runtime: as it is, or as a GGUF made from it once."""
    from duo import models

    if runtime == "llamacpp" or (runtime == "auto" and find_spec("torch") is None and find_spec("llama_cpp")):
        if find_spec("gguf") is None:
            raise ModelError("making a GGUF of the shipped model needs the package gguf: pip install gguf")
        from duo.models.export import cached_gguf

        return str(cached_gguf(which))
    return str(models.TARGET if which == "target" else models.DRAFT)


def run(program: Callable[[], Coroutine[Any, Any, None]], verbose: bool) -> int:
    """Run a program to its end; returns its exit code. Errors that a person can mend are one line."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for noisy in ("httpx", "asyncio", "uvicorn", "grpc", "urllib3", "filelock", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        asyncio.run(_until_stopped(program))
    except DuoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _workers() -> ThreadPoolExecutor:
    """Threads for what would hold up everybody else, all of them from the start: if their number grows, it leaks."""
    pool = ThreadPoolExecutor(WORKERS, "worker")
    together = threading.Barrier(WORKERS)
    for _ in range(WORKERS):
        pool.submit(together.wait)
    return pool


async def _until_stopped(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the program; Ctrl-C and SIGTERM cancel it, which is its clean end. A second one kills.

    A program that was cancelled has closed all that it had open, and the process ends with it: a thread may still be
    loading a model, which takes minutes and cannot be interrupted.
    """
    task = asyncio.ensure_future(program())
    loop = asyncio.get_running_loop()
    loop.set_default_executor(_workers())
    stopping = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
