"""The lead's command line."""

from __future__ import annotations

import argparse
from typing import get_args

from duo.engines.exact import decision
from duo.program import flags as cli
from duo.program import values
from duo.program.config import Parser
from duo.wire.messages import MIN_MESSAGE_BYTES
from lead.backs.admission import Admission
from lead.chat.conversation import ChatSettings, ReasoningFormat
from lead.chat.forms import FORMS
from lead.http.defaults import DEFAULT_TEMPERATURE, NAMES, SamplingFlags
from lead.http.edge import connections
from lead.http.site import BODY_LIMIT
from lead.plan.limits import Limits

ABOUT = (
    "`python -m lead`: runs the target, a large language model, and answers over HTTP. Backs (`python -m back`) are "
    "programs on other machines. They run a small model, the draft, and guess what the target will say. The lead "
    "checks their guesses, so its answers come sooner and stay the same. `python -m lead match` says which draft fits; "
    "`python -m lead certs` makes certificates."
)
SLOTS = 4
SOURCES = ("backs", "draft", "heads", "memory")
"""Who may guess."""
MEMORY_MAX = 64


def parser() -> Parser:
    p = Parser("lead", ABOUT)
    p.set_defaults(memory_shares=1)  # no flag: `lead.models.settings` says how many models share the memory
    cli.add_model_flags(p, "target")
    group = p.add_argument_group("network")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on, for clients and for backs")
    group.add_argument("--port", type=values.port, default=5555, metavar="N", help="HTTP port for clients")
    group.add_argument("--back-port", type=values.port, default=5556, metavar="N", help="gRPC port for backs")
    group.add_argument(
        "--announce", action="store_true", help="let backs with --lead auto find this lead without its address (mDNS)"
    )
    group.add_argument(
        "--cors-origin", "--cors-origins", action="append", default=[], metavar="ORIGIN",
        help="let web pages of this origin ask the lead, such as http://localhost:3000; * lets all of them. May be "
        "given several times (default: none)",
    )  # fmt: skip
    group.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME",
        help="a further name by which clients may call this machine, such as that of a proxy; of use without a key "
        "only. May be given several times (default: localhost, addresses and --host)",
    )  # fmt: skip
    _add_access_flags(p.add_argument_group("access"))
    _add_limit_flags(p.add_argument_group("limits"))
    group = p.add_argument_group("serving")
    group.add_argument(
        "--models", metavar="FILE",
        help="serve several models. The YAML file has their names and flags (docs/serving.md, examples/models.yaml)",
    )  # fmt: skip
    group.add_argument("-a", "--alias", metavar="NAME", help="name of the model for clients (default: its own)")
    group.add_argument("--metrics", action="store_true", help="serve GET /metrics for Prometheus")
    group.add_argument(
        "--slots", action=argparse.BooleanOptionalAction, default=True,
        help="serve GET /slots, which shows what is being answered (default: yes)",
    )  # fmt: skip
    group.add_argument(
        "-np",
        "--parallel",
        type=_slots,
        default=SLOTS,
        metavar="N",
        help="slots, which are places for answers: how many are generated at once",
    )
    group.add_argument(
        "--queue", type=values.count, default=64, metavar="N",
        help="how many questions may wait for a slot; further ones get an error (status 503)",
    )  # fmt: skip
    group.add_argument(
        "-cram", "--cache-ram", type=values.mib_or_auto, default="auto", metavar="N",
        help="MiB of memory for prompts that have left their slot, so that they need not be read again; 0: none, -1: "
        "no limit (default: a quarter of the free memory, at most 8192)",
    )  # fmt: skip
    group.add_argument(
        "--slot-save-path", metavar="FOLDER", default="",
        help="serve POST /slots/N, which saves slots to files in FOLDER and restores them",
    )  # fmt: skip
    group.add_argument(
        "--log-answers", metavar="FILE", default="",
        help="write prompts and answers to FILE, to train a draft with them (python -m duo.models.distil --from-log). "
        "It holds what people ask; only you can read it (default: nothing is written)",
    )  # fmt: skip
    _add_chat_flags(p.add_argument_group("conversations"))
    _add_sampling_flags(p.add_argument_group("sampling"))
    group = p.add_argument_group("speculation")
    group.add_argument(
        "--speculation", type=_sources, default=[*SOURCES], metavar="{auto,SOURCE,...}",
        help="who guesses: backs, draft (the draft model beside the target), heads (small networks over the "
        "target's own states), memory (text that was seen before); several with commas, or none (default: auto, all "
        "of them)",
    )  # fmt: skip
    group.add_argument(
        "--speculator", metavar="FOLDER", default="",
        help="a head for the target: Medusa, an MLP speculator or EAGLE-3, as safetensors; on transformers. shipped: "
        "the one for the target that comes with duo. A head that is part of the target is found without this flag",
    )  # fmt: skip
    group.add_argument(
        "--policy", choices=("tree", "chain"), default="tree",
        help="which guesses are checked. tree: those that save time. chain: all that are there, for comparison",
    )  # fmt: skip
    group.add_argument(
        "--draft-max", "--draft", "--draft-n", "--spec-draft-n-max", type=values.count, default=Limits().draft_max,
        metavar="N", help="how many guesses of an answer are checked at once, at most; 0: none",
    )  # fmt: skip
    group.add_argument(
        "--memory-max", "--spec-ngram-mod-n-max", type=values.count, default=MEMORY_MAX, metavar="N",
        help="the same for guesses that memory has made: a text that repeats itself for long is checked so many tokens "
        "at once",
    )  # fmt: skip
    group.add_argument(
        "--draft-min", "--draft-n-min", "--spec-draft-n-min", type=values.count, default=Limits().draft_min,
        metavar="N", help="how many guesses there must be before any is checked",
    )  # fmt: skip
    group.add_argument(
        "--draft-p-min", "--spec-draft-p-min", type=values.probability, default=Limits().p_min, metavar="P",
        help="how likely a guess must be to be checked, from 0 to 1",
    )  # fmt: skip
    cli.add_draft_model_flags(group)
    group.add_argument(
        "--exact", type=_mode, nargs="?", const="on", default="auto", metavar="{on,off,auto}",
        help="on: the text never depends on backs or on other answers, not even by rounding. off: rounding may "
        "change a word now and then, and it is faster. auto: on if that costs at most 3 %% of the speed "
        "(docs/exactness.md)",
    )  # fmt: skip
    group = p.add_argument_group("console")
    group.add_argument(
        "--print-mode", "--print_mode", choices=("none", "accepted", "all"), default="accepted",
        help="what the terminal shows. none: no text. accepted: the text, with right guesses in green. all: wrong "
        "guesses too, in red",
    )  # fmt: skip
    cli.add_common_flags(p)
    return p


def _sources(text: str) -> list[str]:
    """For argparse: names of sources, or auto or none."""
    names = {"auto": [*SOURCES], "none": []}.get(text, text.split(","))
    if (strange := next((name for name in names if name not in SOURCES), None)) is not None:
        known = ", ".join(SOURCES)
        raise argparse.ArgumentTypeError(f"{strange!r} is no source of guesses: there are {known}, auto and none")
    return names


def _budget(text: str) -> int | None:
    """For argparse: tokens of thinking, or -1 for no limit, as in llama-server."""
    return None if text == "-1" else values.count(text)


def _add_chat_flags(group: argparse._ArgumentGroup) -> None:
    default = ChatSettings()
    group.add_argument(
        "--tool-format", choices=("auto", *FORMS), default=default.tool_format, metavar="NAME",
        help=f"form in which the model calls tools: {', '.join(FORMS)} (default: by its template and vocabulary)",
    )  # fmt: skip
    group.add_argument(
        "--reasoning-format", choices=get_args(ReasoningFormat), default=default.reasoning_format,
        help="where clients find what the model thinks. none: in the text. deepseek: apart, in reasoning_content. "
        "deepseek-legacy: both. auto: apart",
    )  # fmt: skip
    group.add_argument(
        "--reasoning-budget", type=_budget, default=default.reasoning_budget, metavar="N",
        help="how many tokens the model may think before it answers, where a request does not say; 0: none, -1: no "
        "limit (default: -1)",
    )  # fmt: skip


def _add_sampling_flags(group: argparse._ArgumentGroup) -> None:
    group.description = (
        "How words are chosen, where a request does not say. Without a flag the lead uses what the model's makers "
        "suggest, in generation_config.json or in the GGUF file. GET /props says where each value comes from."
    )
    for flags, name, what in (
        (
            ("--temp", "--temperature"),
            "temperature",
            f"how random the choice is; 0: always the likeliest token (without any suggestion: {DEFAULT_TEMPERATURE})",
        ),
        (("--top-k",), "top_k", "choose among the N likeliest tokens; 0: among all"),
        (("--top-p",), "top_p", "choose among the likeliest tokens that have this probability together; 1: among all"),
        (
            ("--min-p",),
            "min_p",
            "choose among tokens with at least this share of the likeliest one's probability; 0: among all",
        ),
        (("--repeat-penalty",), "repetition_penalty", "make tokens less likely that were there before; 1: off"),
        (("--presence-penalty",), "presence_penalty", "make tokens less likely that are in the answer; 0: off"),
        (("--frequency-penalty",), "frequency_penalty", "the same, again for each time that they are there; 0: off"),
    ):
        group.add_argument(*flags, dest=name, type=values.sampling(name), metavar="N", help=what)
    group.add_argument(
        "-s",
        "--seed",
        type=values.seed,
        metavar="N",
        help="number from which all random choices follow; -1: another one each time",
    )
    group.add_argument(
        "-n", "--predict", "--n-predict", dest="n_predict", type=values.limit, metavar="N",
        help="how many tokens an answer may have; -1: as many as fit the context",
    )  # fmt: skip


def sampling_flags(args: argparse.Namespace) -> SamplingFlags:
    """What the flags say for requests that do not say how to sample."""
    given = {name: getattr(args, name) for name in NAMES}
    return SamplingFlags({name: value for name, value in given.items() if value is not None}, args.seed, args.n_predict)


def _mode(text: str) -> decision.Mode:
    """For argparse: of --exact, which was a switch once and may be one in a file."""
    word = text.lower()
    if word in ("on", "true", "yes", "1"):
        return "on"
    if word in ("off", "false", "no", "0"):
        return "off"
    if word == "auto":
        return "auto"
    raise argparse.ArgumentTypeError(f"{text!r} is none of on, off and auto")


def _slots(text: str) -> int:
    """For argparse: -1, which with llama-server leaves it to the server, or how many."""
    return SLOTS if text == "-1" else values.positive(text)


def _add_access_flags(group: argparse._ArgumentGroup) -> None:
    group.description = (
        "On 127.0.0.1, where only this machine can ask, nothing is needed. With another --host, clients need a key and "
        "backs need a token. The lead makes what is not given, prints it, and keeps it for the next start. "
        "`python -m lead certs --help` says how to make certificates."
    )
    group.add_argument(
        "--api-key", action="append", type=values.secret, metavar="KEY",
        help="key that clients must give; several with commas",
    )  # fmt: skip
    group.add_argument("--api-key-file", metavar="FILE", default="", help="file with API keys, one per line")
    group.add_argument(
        "--token",
        action="append",
        type=values.secret,
        metavar="TOKEN",
        help="token that backs must give; several with commas",
    )
    group.add_argument("--token-file", metavar="FILE", default="", help="file with tokens, one per line")
    group.add_argument(
        "--new-secrets", action="store_true", help="make another key and another token, and keep these from now on"
    )
    group.add_argument("--insecure", action="store_true", help="ask for no key and no token, whatever the address")
    cli.add_tls_flags(
        group, "encrypt both ports with TLS: the lead's", "take only backs with a certificate of this authority, PEM"
    )


def _message_bytes(text: str) -> int:
    """For argparse: bytes that a proper message of a back fits into."""
    value = values.positive(text)
    if value < MIN_MESSAGE_BYTES:
        raise argparse.ArgumentTypeError(f"{text} is too few: messages of a back need up to {MIN_MESSAGE_BYTES}")
    return value


def _add_limit_flags(group: argparse._ArgumentGroup) -> None:
    http, admission = connections.Limits(), Admission()
    for flag, kind, default, what in (
        ("--max-body", values.positive, BODY_LIMIT, "bytes in the body of a request"),
        ("--max-connections", values.positive, http.connections, "HTTP connections"),
        ("--max-connections-per-address", values.positive, http.per_address, "HTTP connections of one client"),
        ("--head-timeout", values.seconds, http.head_seconds, "seconds for the head of a request to arrive"),
        ("--body-timeout", values.seconds, http.body_seconds, "seconds for its body to arrive"),
        ("--keep-alive", values.positive, 15, "seconds that an idle HTTP connection is kept"),
        ("--max-backs", values.positive, admission.backs, "backs"),
        ("--max-message", _message_bytes, admission.message_bytes, "bytes in a message of a back"),
        (
            "--max-guesses",
            values.positive,
            admission.guesses,
            "guesses of a back in a second, on average; the rest is dropped",
        ),
    ):
        group.add_argument(flag, type=kind, default=default, metavar="N", help=f"most {what}")
