"""A back that guesses at random and claims to be sure: `python -m bench.compare.badback`.

It speaks the protocol, and loads the draft model for its vocabulary alone. After every commit it sends a chain.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from duo.engines import EngineOptions, load
from duo.guesses import Expansion
from duo.prefix import Prefix, extend_hash
from duo.wire.back_side import BackSide
from duo.wire.messages import METHOD, Begun, CommittedTokens, Ended, Identity, Welcomed

CHAIN_LENGTH = 8
CLAIMED_PROBABILITY = 0.95


def chain(prefix: Prefix, vocabulary: int, rng: random.Random) -> list[Expansion]:
    """A chain of random tokens after the prefix."""
    found: list[Expansion] = []
    at = prefix.hash
    for length in range(len(prefix), len(prefix) + CHAIN_LENGTH):
        token = rng.randrange(vocabulary)
        found.append(Expansion(length, at, [token], [CLAIMED_PROBABILITY]))
        at = extend_hash(at, token)
    return found


def guess(
    address: str, me: Identity, chain_after: Callable[[Prefix], Sequence[Expansion]], begun: Callable[[Any], None]
) -> None:
    """Joins the lead at `address`, and sends `chain_after(prefix)` after each commit.

    It ends with the lead's stream, or when the call is cancelled. begun: gets the call.
    """
    side = BackSide(me, time.perf_counter())
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    outbox.put(side.hello([]))
    prefixes: dict[int, Prefix] = {}

    with grpc.insecure_channel(address) as channel, contextlib.ExitStack() as ending:
        ending.callback(outbox.put, None)
        stream: Any = channel.stream_stream(METHOD)
        call = stream(iter(outbox.get, None), wait_for_ready=True)
        begun(call)
        for data in call:
            event = side.receive(data, time.perf_counter())
            if isinstance(event, Welcomed):
                print(f"joined the lead as {event.name}", flush=True)
            elif isinstance(event, Begun):
                prefixes[event.session] = Prefix()
            elif isinstance(event, Ended):
                prefixes.pop(event.session, None)
            elif isinstance(event, CommittedTokens) and (prefix := prefixes.get(event.session)) is not None:
                prefix.extend(event.tokens)
                if not event.more:
                    for message in side.guesses({event.session: chain_after(prefix)}):
                        outbox.put(message)
            for message in side.send(time.perf_counter()):
                outbox.put(message)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--lead", required=True)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--engine", choices=("auto", "transformers", "llamacpp"), default="auto")
    args = p.parse_args(argv)
    engine = load(args.model, args.engine, EngineOptions(threads=1))
    vocabulary = engine.vocabulary
    me = Identity("random", engine.name, vocabulary.fingerprint, vocabulary.size)
    engine.close()
    rng = random.Random(1)
    guess(args.lead, me, lambda prefix: chain(prefix, vocabulary.size, rng), lambda call: None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
