"""The programs as their users meet them: refusals, bad input, signals, memory, and clients of other makers."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import openai
import psutil
import pytest
import requests

from bench.harness.models import shipped
from bench.harness.processes import ROOT, BackProcess, LeadProcess, Reply, wait_for
from bench.show.trace import load
from duo.v1 import duo_pb2 as pb
from duo.wire.messages import METHOD, VERSION

pytestmark = pytest.mark.slow

QUESTION = "What does os.path.join do?"
GREEDY = {"temperature": 0, "max_tokens": 60, "ignore_eos": True}


@pytest.fixture(scope="module")
def lead() -> Iterator[LeadProcess]:
    with LeadProcess("--threads", "1", "--allowed-host", "GPUbox") as it:
        it.ready()
        yield it


@pytest.fixture(scope="module")
def text(lead: LeadProcess) -> str:
    return lead.ask(QUESTION, **GREEDY).text


@pytest.mark.parametrize(("host", "status"), [("gpubox:8080", 200), ("localhost", 200), ("evil.example", 403)])
def test_names_by_which_it_may_be_called(lead: LeadProcess, host: str, status: int) -> None:
    """As behind a proxy that hands on what the client called it."""
    answer = requests.get(f"{lead.url}/v1/models", headers={"Host": host}, timeout=60)
    assert answer.status_code == status
    if status == 403:
        assert "--allowed-host" in answer.json()["error"]["message"]


def exchange(lead: LeadProcess, *messages: bytes) -> pb.LeadMessage:
    """Open a stream, say the messages, and return the refusal."""
    with grpc.insecure_channel(f"127.0.0.1:{lead.back_port}") as channel:
        done = threading.Event()

        def say() -> Iterator[bytes]:
            yield from messages
            done.wait()

        try:
            call: Any = channel.stream_stream(METHOD)
            for data in call(say(), timeout=60):
                answer = pb.LeadMessage.FromString(data)
                if answer.HasField("refusal"):
                    return answer
        finally:
            done.set()
    raise AssertionError("the lead ended the stream without a word")


def hello(lead: LeadProcess, **changes: object) -> bytes:
    """A Hello as a good back would say it, but for the changes."""
    from duo.engines import EngineOptions, load

    engine = load(shipped("draft", "llamacpp"), "llamacpp", EngineOptions(threads=1))
    fields: dict[str, object] = {
        "protocol_version": VERSION,
        "name": "impostor",
        "model": "m",
        "vocabulary_fingerprint": engine.vocabulary.fingerprint,
        "vocabulary_size": engine.vocabulary.size,
    }
    engine.close()
    return pb.BackMessage(hello=pb.Hello(**{**fields, **changes})).SerializeToString()  # type: ignore[arg-type]


class TestRefusals:
    """A back that cannot work here is told so in one line, both sides say so, and the answer under way goes on."""

    @pytest.mark.parametrize(
        ("changes", "reason", "words"),
        [
            ({"protocol_version": 99}, pb.Refusal.REASON_PROTOCOL_VERSION, "protocol version 99"),
            ({"vocabulary_fingerprint": "x"}, pb.Refusal.REASON_VOCABULARY, "tokens differ, the first is 0: "),
        ],
    )
    def test_hello(
        self, lead: LeadProcess, text: str, changes: dict[str, object], reason: pb.Refusal.Reason, words: str
    ) -> None:
        reply = Reply()
        answers: list[pb.LeadMessage] = []
        for _ in lead.stream(QUESTION, reply, **GREEDY):
            if not answers:
                nonsense = pb.BackMessage(meanings=pb.Meanings(meanings=[b"?"] * 100)).SerializeToString()
                answers.append(exchange(lead, hello(lead, **changes), nonsense))
        assert answers[0].refusal.reason == reason
        assert words in answers[0].refusal.message
        assert "\n" not in answers[0].refusal.message
        assert reply.text == text
        assert words in next(line for line in lead.log.splitlines() if "refused" in line and words in line)

    @pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"GET / HTTP/1.1", b"", b"\x0a\x02\x08\x01" * 10])
    def test_garbage(self, lead: LeadProcess, text: str, garbage: bytes) -> None:
        """As the first message, and after a good Hello."""
        reply = Reply()
        answers: list[pb.LeadMessage] = []
        for _ in lead.stream(QUESTION, reply, **GREEDY):
            if not answers:
                answers += [exchange(lead, garbage), exchange(lead, hello(lead), garbage)]
        assert all(answer.refusal.message and "\n" not in answer.refusal.message for answer in answers)
        assert reply.text == text
        wait_for(lambda: lead.backs() == [], "the impostor gone")

    def test_a_real_back_with_another_vocabulary(self, lead: LeadProcess, tmp_path: Path) -> None:
        """Its log has one line, however often it tries, and it stops when told."""
        model = other_vocabulary(tmp_path)
        with BackProcess(lead.back_port, "-m", str(model), "--threads", "1", "--name", "stranger") as stranger:
            stranger.says("refused by the lead")
            lead.has_backs(0)
            line = next(line for line in stranger.log.splitlines() if "refused" in line)
            assert "another vocabulary" in line
            assert "another vocabulary" in lead.log
            assert stranger.stop() == 0
            assert stranger.log.count("refused by the lead") == 1

    def test_something_else_on_the_lead_s_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            with BackProcess(port, "-m", shipped("draft", "llamacpp"), "--threads", "1") as lost:
                near, _ = silent.accept()
                near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                near.close()
                lost.says("no lead at")
                assert "Traceback" not in lost.log


def other_vocabulary(folder: Path) -> Path:
    """A draft whose token ids mean something else."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)


class TestBadInput:
    """One line on standard error that says what is wrong, and a fitting exit code."""

    @pytest.mark.parametrize("module", ["lead", "back"])
    @pytest.mark.parametrize("model", ["/no/such/model", "/no/such/model.gguf", __file__])
    def test_no_such_model(self, module: str, model: str) -> None:
        ports = ("--port", "0", "--back-port", "0") if module == "lead" else ()
        ended = run(module, "-m", model, *ports)
        assert ended.returncode == 1
        errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "Traceback" not in ended.stderr

    def test_not_a_gguf(self, tmp_path: Path) -> None:
        path = tmp_path / "broken.gguf"
        path.write_bytes(b"GGUF but not really")
        ended = run("back", "-m", str(path))
        assert ended.returncode == 1
        assert "error: " in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_a_draft_model_of_another_vocabulary(self, tmp_path: Path) -> None:
        ended = run("lead", "--model-draft", str(other_vocabulary(tmp_path)), "--port", "0", "--back-port", "0")
        assert ended.returncode == 1
        (error,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        assert "vocabulary" in error and "--model-draft" in error

    @pytest.mark.parametrize("flag", ["--port", "--back-port"])
    def test_port_in_use(self, lead: LeadProcess, flag: str) -> None:
        ports = {"--port": "0", "--back-port": "0"}
        ports[flag] = str(lead.port if flag == "--port" else lead.back_port)
        ended = run("lead", *(word for pair in ports.items() for word in pair))
        assert ended.returncode == 4
        error = next(line for line in ended.stderr.splitlines() if line.startswith("error: "))
        assert ports[flag] in error
        assert flag in error
        assert "Traceback" not in ended.stderr

    @pytest.mark.parametrize("module", ["lead", "back"])
    def test_trace_that_cannot_be_written(self, tmp_path: Path, module: str) -> None:
        """Said at once, and not when the model has been loaded."""
        ended = run(module, "--trace", str(tmp_path / "missing" / "x.json"))
        assert ended.returncode == 3
        assert ended.stderr.startswith("error: ")
        assert ended.stderr.count("\n") == 1
        assert "--trace" in ended.stderr

    @pytest.mark.parametrize(
        "arguments",
        [
            ("lead", "--port", "x"),
            ("lead", "-t", "-2"),
            ("back", "--lead", ""),
            ("back", "--lead", "host:port"),
            ("back", "-na", "no"),
            ("lead", "--policy", "x"),
        ],
    )
    def test_flags(self, arguments: tuple[str, ...]) -> None:
        ended = run(*arguments)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith(f"{arguments[0]}: error: ")
        assert arguments[1] in line

    def test_other_spellings(self) -> None:
        """llama_duo's and llama-server's flags are understood."""
        from back.__main__ import parser as back_parser
        from lead.flags import parser as lead_parser

        words = ["--n_ctx", "512", "--n_gpu_layers", "3", "--threads", "2", "--batch_size", "64", "--print_mode", "all"]
        args = lead_parser().parse_args(words)
        assert (args.context, args.gpu_layers, args.threads, args.batch, args.print_mode) == (512, 3, 2, 64, "all")
        args = lead_parser().parse_args(["--ctx-size", "512", "--n-gpu-layers", "3", "--batch-size", "64"])
        assert (args.context, args.gpu_layers, args.batch) == (512, 3, 64)
        assert lead_parser().parse_args(["--n-ctx", "7"]).context == 7
        for spelling in ("-na", "--n-ahead", "--n_ahead"):
            assert back_parser().parse_args([spelling, "5"]).n_ahead == 5

    def test_prompt_too_long(self, lead: LeadProcess, text: str) -> None:
        url = f"{lead.url}/v1/chat/completions"
        body = {"messages": [{"role": "user", "content": "word " * 20_000}]}
        response = requests.post(url, json=body, timeout=60)
        assert response.status_code == 400
        assert "context" in response.json()["error"]["message"]
        assert lead.ask(QUESTION, **GREEDY).text == text


def test_the_plain_asynchronous_chain(text: str, tmp_path: Path) -> None:
    """`--policy chain` on both sides: the same text, with guesses in one line, all verified, and never a wait."""
    files = [tmp_path / "lead.json", tmp_path / "back.json"]
    chain = ("--threads", "1", "--policy", "chain", "--trace")
    with LeadProcess(*chain, str(files[0])) as lead:
        lead.ready()
        assert lead.ask(QUESTION, **GREEDY).text == text
        with BackProcess(lead.back_port, *chain, str(files[1])) as back:
            lead.has_backs(1)

            def guessed_right() -> bool:
                reply = lead.ask(QUESTION, **GREEDY)
                assert reply.text == text
                return int(reply.timings["draft_n_accepted"]) > 0

            wait_for(guessed_right, "an answer with accepted guesses")
            assert back.stop() == 0
        assert lead.stop() == 0
    of_lead, of_back = map(load, files)
    assert not [event for event in of_lead if event["name"] == "wait"]
    drafts = [event["args"] for event in of_back if event["name"] == "draft"]
    # One place of each answer: of the last one it may not be known yet that it is over.
    assert drafts and all(draft["expanded"] == draft["sessions"] for draft in drafts)


class TestClients:
    """The real openai package, and a request as llama_duo sends it."""

    def test_openai(self, lead: LeadProcess, text: str) -> None:
        client = openai.OpenAI(base_url=f"{lead.url}/v1", api_key="none")
        model = client.models.list().data[0].id
        whole = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=60,
            extra_body={"ignore_eos": True},
        )
        assert whole.choices[0].message.content == text
        assert whole.choices[0].finish_reason == "length"
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 60
        pieces, usage = [], None
        for chunk in client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=60,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        ):
            pieces += [choice.delta.content or "" for choice in chunk.choices]
            usage = chunk.usage or usage
        assert "".join(pieces) == text
        assert usage is not None
        assert usage.completion_tokens == 60

    def test_a_seed_reproduces_an_answer(self, lead: LeadProcess) -> None:
        texts = [lead.ask(QUESTION, temperature=3.0, seed=seed, max_tokens=60).text for seed in (1, 1, 2)]
        assert texts[0] == texts[1] != texts[2]

    def test_llama_duo(self, lead: LeadProcess) -> None:
        body = {"system": "You are brief.", "max_tokens": 20, "messages": [{"role": "user", "content": QUESTION}]}
        answer = requests.post(f"{lead.url}/messages", json=body, timeout=60).json()
        assert isinstance(answer["content"]["text"], str)
        assert answer["content"]["text"]

    def test_second_turn_reuses_the_first(self, lead: LeadProcess) -> None:
        """Keys and values of the previous turn are not computed again."""
        first = [{"role": "user", "content": QUESTION}]
        answer = lead.ask(first, temperature=0, max_tokens=60).text
        turn = [
            *first,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "And in which module is it?"},
        ]
        second = lead.ask(turn, temperature=0, max_tokens=20)
        cached = second.usage["prompt_tokens_details"]["cached_tokens"]
        assert cached > second.usage["prompt_tokens"] / 2

    def test_a_client_that_goes_away_stops_its_answer(self, lead: LeadProcess, text: str) -> None:
        """The next answer comes at once, and is right."""
        for stream in (True, False):
            body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 900, "ignore_eos": True}
            with pytest.raises(requests.RequestException):  # noqa: PT012
                response = requests.post(
                    f"{lead.url}/v1/chat/completions", json={**body, "stream": stream}, stream=True, timeout=(10, 0.2)
                )
                for _ in response.iter_content(1):
                    response.close()
                    raise requests.ConnectionError("the client goes away")
        assert lead.ask(QUESTION, **GREEDY).text == text
        assert lead.log.count("(broken off)") >= 1


class TestSmallMachine:
    """A back on a GGUF, for a spare device that has little."""

    def test_no_torch_and_little_memory(self, lead: LeadProcess, tmp_path: Path) -> None:
        """It runs where torch cannot even be imported, and stays under 250 MB."""
        (tmp_path / "torch.py").write_text("raise ImportError('torch is not for this machine')\n")
        (tmp_path / "transformers.py").write_text("raise ImportError('nor is transformers')\n")
        model = shipped("draft", "llamacpp")
        with BackProcess(
            lead.back_port, "-m", model, "--threads", "1", environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"}
        ) as back:
            lead.has_backs(1)
            lead.ask(QUESTION, **{**GREEDY, "max_tokens": 400})
            assert psutil.Process(back.process.pid).memory_info().rss < 250e6
            assert "Traceback" not in back.log
