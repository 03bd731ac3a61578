"""Flags that the command lines of lead and back share."""

from __future__ import annotations

import argparse

from duo import __version__
from duo.program.devices import ListDevices
from duo.program.models import SHIPPED
from duo.program.values import count, count_or_auto, gpu_layers, positive


def add_model_flags(parser: argparse.ArgumentParser, shipped: str) -> argparse._ArgumentGroup:
    """Returns their group. Adds -m and how to run the model, also in the spellings of llama_duo and llama-server."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m", "--model", metavar="MODEL",
        help=f"GGUF file or its folder, Hugging Face directory or hub id, a model of Ollama's on this disk "
        f"(default: the shipped {shipped})",
    )  # fmt: skip
    add_hub_flags(group)
    add_runtime_flags(group)
    return group


def add_runtime_flags(group: argparse._ArgumentGroup) -> None:
    """Add how to run a model."""
    group.add_argument(
        "--engine", choices=("auto", "transformers", "llamacpp"), default="auto", help="runtime; auto: by the model"
    )
    group.add_argument("-t", "--threads", type=count_or_auto, metavar="N", default=0, help="CPU threads (default: all)")
    group.add_argument(
        "-c", "--ctx-size", "--n-ctx", "--n_ctx", dest="context", type=count, metavar="N", default=0,
        help="tokens of context of each slot; llama-server counts all slots together (default: the model's own, as far "
        "as memory allows, up to 131,072 tokens in all slots; in llama.cpp up to 32,768 of a draft model, and up to "
        "1 GiB on a CPU; but at least 4,096 each)",
    )  # fmt: skip
    group.add_argument(
        "-ngl", "--n-gpu-layers", "--gpu-layers", "--n_gpu_layers", dest="gpu_layers", type=gpu_layers, metavar="N",
        default="auto", help="layers on the GPU, auto or all (llama.cpp); auto: all, if it sees a GPU",
    )  # fmt: skip
    group.add_argument(
        "-fa", "--flash-attn", dest="flash_attention", choices=("on", "off", "auto"), default="auto",
        help="flash attention (llama.cpp); auto: on a CPU both ways are tried once, and the faster one is used",
    )  # fmt: skip
    group.add_argument(
        "-b", "--batch-size", "--batch_size", dest="batch", type=positive, metavar="N", default=512,
        help="maximum tokens of a prompt in one forward pass",
    )  # fmt: skip
    group.add_argument("--device", default="auto", metavar="D", help="torch device (transformers)")
    group.add_argument("--dtype", default="auto", metavar="T", help="torch dtype (transformers)")


def add_hub_flags(group: argparse._ArgumentGroup) -> None:
    """Add what llama-server has for models of the Hugging Face hub."""
    group.add_argument(
        "-hf", "-hfr", "--hf-repo", metavar="REPO", default="",
        help="instead of -m: user/repo[:quant] of the Hugging Face hub, downloaded once; of GGUF files Q4_K_M, else "
        "Q8_0, else the first one (HF_ENDPOINT, HF_TOKEN and HF_HUB_CACHE count)",
    )  # fmt: skip
    group.add_argument("-hff", "--hf-file", metavar="FILE", default="", help="the GGUF file of -hf, by its name there")
    add_hub_access_flags(group)


def add_hub_access_flags(group: argparse._ArgumentGroup) -> None:
    """Add how models of the hub are reached."""
    group.add_argument(
        "-hft", "--hf-token", metavar="TOKEN", default="", help="token for gated repositories (default: HF_TOKEN)"
    )
    group.add_argument("--offline", action="store_true", help="take models of the hub from the cache only")


def add_draft_model_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags for a local draft model, also in the spellings of llama-server."""
    group.add_argument(
        "-md", "--model-draft", "--spec-draft-model", metavar="MODEL", default="",
        help="also run a draft model here, for places without guesses of a back; shipped: the shipped draft. Its "
        "context is -c too, but at most that of the target and what it was made for",
    )  # fmt: skip
    group.add_argument(
        "-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf", metavar="REPO", default="",
        help="instead of -md: its user/repo[:quant], as with -hf",
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
    """The flags of the local draft model in the form that `load_engine` and `speed` take.

    context: tokens in each slot of the target.
    """
    changed = {
        "model": None if args.model_draft == SHIPPED else args.model_draft,
        "model_name": getattr(args, "model_name_draft", ""),
        # A shipped model runs on both runtimes. That of the target saves loading a second one.
        "engine": args.engine if args.model_draft == SHIPPED else "auto",
        "threads": args.threads_draft or args.threads,
        "gpu_layers": args.gpu_layers_draft,
        "device": args.device_draft,
        # -c is for both models. The context of the target may exceed what the draft was trained with.
        "target_context": context,
    }
    return argparse.Namespace(**{**vars(args), **changed})


def add_tls_flags(group: argparse._ArgumentGroup, whose: str, ca: str) -> None:
    """Add certificate, key and authority. `whose` and `ca` say in the help what they are for."""
    group.add_argument("--tls-cert", metavar="FILE", default="", help=f"{whose} certificate, PEM")
    group.add_argument("--tls-key", metavar="FILE", default="", help="and its key, PEM")
    group.add_argument("--tls-ca", metavar="FILE", default="", help=ca)


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("about this program")
    group.add_argument(
        "--trace", metavar="FILE", help="write a timeline of its work to FILE (for ui.perfetto.dev, chrome://tracing)"
    )
    group.add_argument("-v", "--verbose", action="store_true", help="log more")
    group.add_argument("--list-devices", action=ListDevices, help="print what a model can run on here, and exit")
    group.add_argument("--version", action="version", version=f"duo {__version__}")
