"""Several clients at once, over real processes: each gets the text that it would get alone, and nobody is held up."""

from __future__ import annotations

import concurrent.futures
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import requests

from bench.harness.models import RUNTIMES, Runtime
from bench.harness.processes import BackProcess, LeadProcess, wait_for
from bench.load import chaos
from lead.match import prompts

pytestmark = pytest.mark.slow

CLIENTS = 8
TOKENS = 48
VARIANTS: Sequence[Mapping[str, Any]] = (
    {"temperature": 0},
    {"temperature": 0.8, "seed": 5},
    {"temperature": 1.0, "seed": 9, "top_p": 0.9},
    {"temperature": 0.7, "seed": 2, "repetition_penalty": 1.1},
)
QUESTIONS = [conversation.turns[0] for conversation in prompts.shipped(CLIENTS)]


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    it: Runtime = request.param
    return it


@pytest.fixture(scope="module")
def lead(runtime: Runtime) -> Iterator[LeadProcess]:
    with LeadProcess("--engine", runtime, "--threads", "1", "--parallel", str(CLIENTS), "--print-mode", "none") as lead:
        yield lead.ready()


def ask(lead: LeadProcess, client: int) -> str:
    return lead.ask(QUESTIONS[client], max_tokens=TOKENS, **VARIANTS[client % len(VARIANTS)]).text


def all_at_once(lead: LeadProcess) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(lambda client: ask(lead, client), range(CLIENTS)))


def slots(lead: LeadProcess) -> list[str]:
    """The state of each slot."""
    return [slot["state"] for slot in requests.get(f"{lead.url}/slots", timeout=10).json()]


def test_eight_clients_get_what_each_would_get_alone(lead: LeadProcess, runtime: Runtime) -> None:
    alone = [ask(lead, client) for client in range(CLIENTS)]
    assert all(alone)
    assert all_at_once(lead) == alone
    with BackProcess(lead.back_port, "--engine", "transformers", "--threads", "1", "--parallel", "4") as back:
        lead.has_backs(1)
        assert all_at_once(lead) == alone
        # For a target of a millisecond per token it is up to the machine whether any guess is worth verifying.
        assert lead.backs()[0]["drafted"] > 0 or runtime == "llamacpp"
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(ask, lead, client) for client in range(CLIENTS)]
            wait_for(lambda: slots(lead).count("answering") > 1, "answers under way")
            back.send(signal.SIGKILL)
            assert [one.result() for one in running] == alone
    lead.has_backs(0)


def test_who_leaves_frees_the_slot_and_too_many_are_told_to_come_again() -> None:
    endless = {"messages": [{"role": "user", "content": "hi"}], "ignore_eos": True, "stream": True}
    with LeadProcess("--threads", "1", "--parallel", "1", "--queue", "1", "--metrics", "--print-mode", "none") as lead:
        lead.ready()
        url = f"{lead.url}/v1/chat/completions"
        with (
            requests.post(url, json=endless, stream=True, timeout=60) as first,
            concurrent.futures.ThreadPoolExecutor(1) as pool,
        ):
            wait_for(lambda: slots(lead) == ["answering"], "the first answer")
            waits = pool.submit(lead.ask, QUESTIONS[0], temperature=0, max_tokens=4)
            wait_for(lambda: "duo_requests_deferred 1.0" in metrics(lead), "the next one in the queue")
            refused = requests.post(url, json=endless, timeout=60)
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) > 0
            assert "waiting" in refused.json()["error"]["message"]
            first.close()
            assert waits.result(60).finish_reason
        wait_for(lambda: slots(lead) == ["idle"], "the slot to be free")


def metrics(lead: LeadProcess) -> str:
    return requests.get(f"{lead.url}/metrics", timeout=10).text


@pytest.mark.timeout(600)
def test_half_a_minute_of_chaos_and_no_wrong_answer() -> None:
    toll = chaos.run("transformers", 25.0, 4, count=2, seed=3, say=print, deaths=1)
    assert toll.wrong == []
    assert toll.events["right answers"] > 0
    assert toll.events["leads killed"] and toll.events["backs killed"]
