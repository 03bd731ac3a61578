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
    "`python -m lead`: serve the target model over HTTP, and take guesses from backs over gRPC. `python -m lead match` "
    "says which draft model fits; `python -m lead certs` makes certificates."
)
SLOTS = 4


def parser() -> Parser:
    p = Parser("lead", ABOUT)
    cli.add_model_flags(p, "target")
    group = p.add_argument_group("network")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on, for clients and for backs")
    group.add_argument("--port", type=values.port, default=5555, metavar="N", help="HTTP port for clients")
    group.add_argument("--back-port", type=values.port, default=5556, metavar="N", help="gRPC port for backs")
    group.add_argument("--announce", action="store_true", help="let backs with --lead auto find this lead (mDNS)")
    group.add_argument(
        "--cors-origin", "--cors-origins", action="append", default=[], metavar="ORIGIN",
        help="let pages from there ask in a browser, such as http://localhost:3000, or * for all (also several; "
        "default: none)",
    )  # fmt: skip
    group.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME",
        help="without a key, answer those too who call this host so, as a proxy before it may (also several; "
        "default: localhost, addresses and --host)",
    )  # fmt: skip
    _add_access_flags(p.add_argument_group("access"))
    _add_limit_flags(p.add_argument_group("limits"))
    group = p.add_argument_group("serving")
    group.add_argument(
        "--models", metavar="FILE",
        help="serve several models by name, from a YAML file with models: NAME: flags: -m MODEL (docs/serving.md)",
    )  # fmt: skip
    group.add_argument("-a", "--alias", metavar="NAME", help="name of the model for clients (default: its own)")
    group.add_argument("--metrics", action="store_true", help="serve GET /metrics for Prometheus")
    group.add_argument(
        "--slots", action=argparse.BooleanOptionalAction, default=True,
        help="serve GET /slots: what is being answered (default: yes)",
    )  # fmt: skip
    group.add_argument(
        "-np", "--parallel", type=_slots, default=SLOTS, metavar="N", help="slots: answers that are generated at once"
    )
    group.add_argument(
        "--queue", type=values.count, default=64, metavar="N",
        help="most questions that wait for a slot; more get a 503",
    )  # fmt: skip
    group.add_argument(
        "-cram", "--cache-ram", type=values.mib_or_auto, default="auto", metavar="N",
        help="MiB for prompts that left their slot, which are put back when they are asked again; 0: none, -1: no "
        "limit (default: a quarter of the free memory, at most 8192)",
    )  # fmt: skip
    group.add_argument(
        "--slot-save-path", metavar="FOLDER", default="",
        help="serve POST /slots/N: slots are saved to files in FOLDER, and restored from them",
    )  # fmt: skip
    _add_chat_flags(p.add_argument_group("conversations"))
    _add_sampling_flags(p.add_argument_group("sampling"))
    group = p.add_argument_group("speculation")
    group.add_argument(
        "--policy", choices=("tree", "chain"), default="tree",
        help="verify what pays and wait where that pays; or, for comparison, verify all that is there and never wait",
    )  # fmt: skip
    group.add_argument(
        "--draft-max", "--draft", "--draft-n", "--spec-draft-n-max", type=values.count, default=Limits().draft_max,
        metavar="N", help="most guesses of an answer verified in one forward pass; 0: none",
    )  # fmt: skip
    group.add_argument(
        "--draft-min", "--draft-n-min", "--spec-draft-n-min", type=values.count, default=Limits().draft_min,
        metavar="N", help="fewest guesses worth a forward pass with guesses",
    )  # fmt: skip
    group.add_argument(
        "--draft-p-min", "--spec-draft-p-min", type=values.probability, default=Limits().p_min, metavar="P",
        help="least probability of a guess that is verified",
    )  # fmt: skip
    cli.add_draft_model_flags(group)
    group.add_argument(
        "--exact", type=_mode, nargs="?", const="on", default="auto", metavar="{on,off,auto}",
        help="the same bits for the same text, with backs or none, however many answers: chains, and passes of one "
        "class of widths; auto: where that costs at most 3 %% by what was measured",
    )  # fmt: skip
    group = p.add_argument_group("console")
    group.add_argument(
        "--print-mode", "--print_mode", choices=("none", "accepted", "all"), default="accepted",
        help="show nothing, the text with accepted guesses in green, or rejected ones too",
    )  # fmt: skip
    cli.add_common_flags(p)
    return p


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
        help="thinking stays in the content (none), is told apart as reasoning_content (deepseek), or both "
        "(deepseek-legacy); auto: apart",
    )  # fmt: skip
    group.add_argument(
        "--reasoning-budget", type=_budget, default=default.reasoning_budget, metavar="N",
        help="most tokens of thinking in an answer, unless its request says; 0: the model does not think; -1: no limit "
        "(default: -1)",
    )  # fmt: skip


def _add_sampling_flags(group: argparse._ArgumentGroup) -> None:
    group.description = (
        "For requests that do not say. Without a flag, what the model's makers suggest counts: generation_config.json, "
        "or general.sampling in a GGUF. GET /props says where each value comes from."
    )
    for flags, name, what in (
        (
            ("--temp", "--temperature"),
            "temperature",
            f"temperature; 0: the likeliest token (the lead's own: {DEFAULT_TEMPERATURE})",
        ),
        (("--top-k",), "top_k", "only the N likeliest tokens; 0: all"),
        (("--top-p",), "top_p", "only the likeliest tokens that make up this probability; 1: all"),
        (("--min-p",), "min_p", "only tokens with this share of the likeliest one's probability; 0: all"),
        (("--repeat-penalty",), "repetition_penalty", "divides the scores of tokens that were there; 1: none"),
        (("--presence-penalty",), "presence_penalty", "taken from the scores of tokens of the answer; 0: none"),
        (("--frequency-penalty",), "frequency_penalty", "the same for each time that they were there; 0: none"),
    ):
        group.add_argument(*flags, dest=name, type=values.sampling(name), metavar="N", help=what)
    group.add_argument("-s", "--seed", type=values.seed, metavar="N", help="seed; -1: a random one each time")
    group.add_argument(
        "-n", "--predict", "--n-predict", dest="n_predict", type=values.limit, metavar="N",
        help="most tokens of an answer; -1: as many as the context holds",
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
        "On a loopback address nothing is needed. On any other a key and a token are, and those that are not given are "
        "made and printed. `python -m lead certs --help` says how to come by certificates."
    )
    group.add_argument(
        "--api-key", action="append", type=values.secret, metavar="KEY",
        help="what clients need (again, or with commas, for several)",
    )  # fmt: skip
    group.add_argument("--api-key-file", metavar="FILE", default="", help="file with API keys, one per line")
    group.add_argument(
        "--token", action="append", type=values.secret, metavar="TOKEN", help="what backs need (also several)"
    )
    group.add_argument("--token-file", metavar="FILE", default="", help="file with tokens, one per line")
    group.add_argument("--insecure", action="store_true", help="need neither, whatever the address")
    cli.add_tls_flags(group, "speak TLS on both ports: its", "take only backs with a certificate of this authority")


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
