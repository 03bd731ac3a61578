"""What the command lines of lead and back share: the flags for the model, logging, and how a program ends."""

from __future__ import annotations

import argparse

from duo import __version__
from duo.program.config import Parser
from duo.program.devices import ListDevices
from duo.program.models import SHIPPED
from duo.program.values import count, count_or_auto, gpu_layers, positive


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
