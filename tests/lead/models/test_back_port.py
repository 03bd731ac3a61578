"""Backs go to the model whose vocabulary they have, wait while it is not loaded, and move."""

from __future__ import annotations

import asyncio

import pytest

from lead.models import back_port, places
from tests.support.http import PATIENCE
from tests.support.models_backs import VOCABULARIES, Stream, joined, port_of


def test_a_back_waits_for_its_model() -> None:
    async def run() -> None:
        async with port_of("counter", "speller") as (models, port):
            stream = Stream("mini", "numbers")
            async with joined(port, stream) as serving:
                await stream.until("wait")
                assert stream.side.waits and not stream.side.welcomed
                assert [back.name for back in port.held()] == ["mini"]
                await models.load("counter", "numbers")
                await stream.until("wait", "welcome")
                assert stream.side.welcomed and not port.held()
                assert [back.name for back in models.leads["counter"].view()] == ["mini"]
                # When the model is put away the stream ends, and a new one waits again.
                await models.put_away("counter")
                await asyncio.wait_for(serving, PATIENCE)
            again = Stream("mini", "numbers")
            async with joined(port, again):
                await again.until("wait")

    asyncio.run(run())


def test_a_back_that_waits_stays_alive_by_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_port, "PING_EVERY", 0.01)
    monkeypatch.setattr("duo.wire.pings.PING_EVERY", 0.01)

    async def run() -> None:
        async with port_of("counter") as (_, port):
            stream = Stream("mini", "numbers")
            async with joined(port, stream):
                async with asyncio.timeout(PATIENCE):
                    while stream.heard.count("ping") < 3:
                        stream.changed.clear()
                        await stream.changed.wait()
                assert stream.heard.count("wait") == 1

    asyncio.run(run())


def test_a_back_that_is_gone_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duo.wire.messages.LOST_AFTER", 0.0)

    async def run() -> None:
        async with port_of("counter") as (_, port):
            async with joined(port, Stream("mini", "numbers")) as serving:
                await asyncio.wait_for(serving, PATIENCE)
            assert not port.held()

    asyncio.run(run())


def test_nearly_the_same_vocabulary_is_compared_by_the_model_s_lead() -> None:
    async def run() -> None:
        async with port_of("counter") as (models, port):
            await models.load("counter", "numbers")
            stream = Stream("mini", "nearly")
            async with joined(port, stream):
                await stream.until("compare", "welcome")

    asyncio.run(run())


def test_a_back_that_looks_for_a_model_waits_until_there_is_a_vocabulary_to_show() -> None:
    async def run() -> None:
        async with port_of("counter") as (models, port):
            stream = Stream("mini", "letters", looks=True)
            async with joined(port, stream) as serving:
                await stream.until("wait")
                await models.load("counter", "numbers")
                await stream.until("wait", "refusal")
                await asyncio.wait_for(serving, PATIENCE)
            assert stream.side.target is not None and stream.side.target.resembles(VOCABULARIES["numbers"])
            again = Stream("mini", "letters")
            async with joined(port, again):
                await again.until("compare")

    asyncio.run(run())


def test_of_two_models_it_goes_to_the_one_of_its_vocabulary() -> None:
    async def run() -> None:
        async with port_of("speller", "counter") as (models, port):
            await models.load("speller", "letters")
            await models.load("counter", "numbers")
            stream = Stream("mini", "numbers")
            async with joined(port, stream):
                await stream.until("welcome")
                assert len(models.leads["counter"].view()) == 1

    asyncio.run(run())


def test_a_vocabulary_of_no_model_is_refused_once_all_have_been_tried() -> None:
    async def run() -> None:
        async with port_of("counter", "speller") as (models, port):
            await models.load("counter", "numbers")
            tried = Stream("mini", "letters")
            async with joined(port, tried) as serving:
                await tried.until("compare")
                await asyncio.wait_for(serving, PATIENCE)
            waiting = Stream("mini", "letters")
            async with joined(port, waiting):
                await waiting.until("wait")
            await models.load("speller", "nearly")
            for _ in range(2):  # tried once more, and then it is known
                last = Stream("mini", "letters")
                async with joined(port, last) as serving:
                    await asyncio.wait_for(serving, PATIENCE)
            assert "of no model here" in last.refused

    asyncio.run(run())


def test_more_backs_than_are_allowed() -> None:
    async def run() -> None:
        async with port_of("counter", most=1) as (_, port):
            first = Stream("mini", "numbers")
            async with joined(port, first):
                await first.until("wait")
                second = Stream("maxi", "numbers")
                async with joined(port, second):
                    await second.until("refusal")

    asyncio.run(run())


def test_garbage_gets_one_line() -> None:
    async def run() -> None:
        async with port_of("counter") as (_, port):
            garbage = Stream("mini", "numbers", hello=b"\xff\xff")
            async with joined(port, garbage):
                await garbage.until("refusal")

    asyncio.run(run())


def test_a_back_moves_to_the_model_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_port, "REBALANCE_SECONDS", 0.01)
    monkeypatch.setattr(places, "MOVE_AFTER", 0.0)

    async def run() -> None:
        async with port_of("counter", "adder") as (models, port):
            await models.load("counter", "numbers")
            stream = Stream("mini", "numbers")
            async with joined(port, stream) as serving:
                await stream.until("welcome")
                await models.load("adder", "numbers")
                models.entries["adder"].active = 1
                await asyncio.wait_for(serving, PATIENCE)
            again = Stream("mini", "numbers")
            async with joined(port, again):
                await again.until("welcome")
                assert len(models.leads["adder"].view()) == 1

    asyncio.run(run())
