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
        help=f"the model: a GGUF file, a folder with a model, a name on the Hugging Face hub (user/repo or "
        f"user/repo:QUANT), or the name of a model that Ollama has downloaded (default: the {shipped} that comes with "
        "duo)",
    )  # fmt: skip
    add_hub_flags(group)
    add_runtime_flags(group)
    return group


def add_runtime_flags(group: argparse._ArgumentGroup) -> None:
    """Add how to run a model."""
    group.add_argument(
        "--engine",
        choices=("auto", "transformers", "llamacpp"),
        default="auto",
        help="the library that runs the model; auto: by its files",
    )
    group.add_argument(
        "-t", "--threads", type=count_or_auto, metavar="N", default=0,
        help="CPU threads (default: one for each core; from four cores on, one less)",
    )  # fmt: skip
    group.add_argument(
        "-c", "--ctx-size", "--n-ctx", "--n_ctx", dest="context", type=count, metavar="N", default=0,
        help="tokens that fit into each slot: a question and its answer. llama-server counts all slots together "
        "(default: what the model was made for and memory allows, at most 131,072 in all slots and at least 4,096 in "
        "each. With llama.cpp at most 32,768 for a draft, and at most 1 GiB on a CPU)",
    )  # fmt: skip
    group.add_argument(
        "-ngl", "--n-gpu-layers", "--gpu-layers", "--n_gpu_layers", dest="gpu_layers", type=gpu_layers, metavar="N",
        default="auto", help="layers of the model on the graphics card (llama.cpp): a number, auto or all. auto: "
        "all, if there is a card",
    )  # fmt: skip
    group.add_argument(
        "-fa", "--flash-attn", dest="flash_attention", choices=("on", "off", "auto"), default="auto",
        help="another way to compute attention (llama.cpp). auto: on a CPU both ways are tried once, and the faster "
        "one is used",
    )  # fmt: skip
    group.add_argument(
        "-b", "--batch-size", "--batch_size", dest="batch", type=positive, metavar="N", default=512,
        help="how many tokens of a prompt are read at once, at most",
    )  # fmt: skip
    group.add_argument(
        "--device", default="auto", metavar="D", help="where transformers computes: cpu, cuda, cuda:1, mps"
    )
    group.add_argument(
        "--dtype",
        default="auto",
        metavar="T",
        help="numbers that transformers computes with: float32, bfloat16, float16",
    )


def add_hub_flags(group: argparse._ArgumentGroup) -> None:
    """Add what llama-server has for models of the Hugging Face hub."""
    group.add_argument(
        "-hf", "-hfr", "--hf-repo", metavar="REPO", default="",
        help="instead of -m: a model of the Hugging Face hub, user/repo or user/repo:QUANT. It is downloaded once. "
        "Without QUANT, Q4_K_M is taken, else Q8_0, else the first file. The variables HF_ENDPOINT, HF_TOKEN and "
        "HF_HUB_CACHE count",
    )  # fmt: skip
    group.add_argument(
        "-hff", "--hf-file", metavar="FILE", default="", help="which GGUF file of -hf, by its name there"
    )
    add_hub_access_flags(group)


def add_hub_access_flags(group: argparse._ArgumentGroup) -> None:
    """Add how models of the hub are reached."""
    group.add_argument(
        "-hft",
        "--hf-token",
        metavar="TOKEN",
        default="",
        help="token of the hub, for models that need one (default: HF_TOKEN)",
    )
    group.add_argument(
        "--offline", action="store_true", help="download nothing: use models of the hub that are here already"
    )


def add_draft_model_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags for a local draft model, also in the spellings of llama-server."""
    group.add_argument(
        "-md", "--model-draft", "--spec-draft-model", metavar="MODEL", default="",
        help="run a draft in the lead as well, for where no guesses of a back have come. shipped: the draft that comes "
        "with duo. -c holds for it too",
    )  # fmt: skip
    group.add_argument(
        "-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf", metavar="REPO", default="",
        help="instead of -md: a draft of the Hugging Face hub, as with -hf",
    )  # fmt: skip
    group.add_argument(
        "-td", "--threads-draft", "--spec-draft-threads", type=count_or_auto, metavar="N", default=0,
        help="CPU threads of the draft (default: as the target)",
    )  # fmt: skip
    group.add_argument(
        "-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft", "--spec-draft-ngl", dest="gpu_layers_draft",
        type=gpu_layers, metavar="N", default="auto", help="layers of the draft on the graphics card, as with -ngl",
    )  # fmt: skip
    group.add_argument("--device-draft", default="auto", metavar="D", help="where transformers computes the draft")


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
    group.add_argument("--tls-key", metavar="FILE", default="", help="the key of that certificate, PEM")
    group.add_argument("--tls-ca", metavar="FILE", default="", help=ca)


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("about this program")
    group.add_argument("--trace", metavar="FILE", help="write a timeline of the work to FILE; ui.perfetto.dev shows it")
    group.add_argument(
        "-v", "--verbose", action="store_true", help="log more, with the words of the libraries when something fails"
    )
    group.add_argument(
        "--list-devices",
        action=ListDevices,
        help="list processors and graphics cards that can run a model here, and exit",
    )
    group.add_argument("--version", action="version", version=f"duo {__version__}")
