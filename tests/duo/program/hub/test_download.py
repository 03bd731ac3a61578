"""Downloads from a server that speaks the hub's protocol: whole, broken off, wrong, and without a network."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from duo.errors import ModelError
from duo.program.hub import download
from duo.program.hub.choice import Source, Wanted
from duo.program.hub.download import Download, Hub
from tests.support.hub import FakeHub, checksum, serving_hub

BIG = random.Random(1).randbytes(200_000)
FILES = {"m-Q4_K_M.gguf": b"GGUF four", "m-Q8_0.gguf": BIG, "README.md": b"Hello"}
PARTS = {f"m-F16-0000{i}-of-00003.gguf": b"GGUF part %d" % i for i in (1, 2, 3)}
SHARDED = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "model-00001-of-00002.safetensors": b"one",
    "model-00002-of-00002.safetensors": b"two",
    "pytorch_model.bin": b"pickled",
}


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with serving_hub() as hub:
        hub.repositories["a/b"] = dict(FILES)
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def hub(server: FakeHub, cache: Path) -> Hub:
    return Hub(Source(server.url, cache))


def line_of(hub: Hub, asked: Wanted) -> str:
    """The error, which is one line."""
    with pytest.raises(ModelError) as error:
        hub.get(asked)
    assert "\n" not in str(error.value)
    return str(error.value)


def partial(cache: Path, content: bytes, length: int) -> Path:
    """What a start leaves that ends in the middle of a file."""
    part = cache / "models--a--b" / "blobs" / f"{checksum('m.gguf', content)}.duo-part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content[:length])
    return part


def test_a_gguf_by_its_quantisation(hub: Hub, server: FakeHub, cache: Path) -> None:
    path = hub.get(Wanted("a/b", "Q8_0"))
    assert (path.name, path.read_bytes()) == ("m-Q8_0.gguf", BIG)
    assert [file.name for file in path.parent.iterdir()] == ["m-Q8_0.gguf"]
    assert server.downloads("m-Q8_0.gguf") == [None]
    assert not list(cache.rglob("*.duo-part"))
    assert hub.get(Wanted("a/b")).read_bytes() == b"GGUF four"


def test_what_the_cache_has_is_not_downloaded_again(hub: Hub, server: FakeHub) -> None:
    path = hub.get(Wanted("a/b"))
    server.asked.clear()
    assert hub.get(Wanted("a/b")) == path
    assert [asked.path for asked in server.asked] == ["/api/models/a/b"]


def test_other_programs_of_the_hub_find_it(hub: Hub, server: FakeHub, cache: Path) -> None:
    import huggingface_hub

    path = hub.get(Wanted("a/b"))
    there = huggingface_hub.hf_hub_download("a/b", path.name, cache_dir=cache, local_files_only=True)
    assert Path(there) == path


def test_a_new_commit_is_downloaded(hub: Hub, server: FakeHub) -> None:
    hub.get(Wanted("a/b"))
    server.commit, server.repositories["a/b"]["m-Q4_K_M.gguf"] = "b" * 40, b"GGUF new"
    path = hub.get(Wanted("a/b"))
    assert (path.parent.name, path.read_bytes()) == ("b" * 40, b"GGUF new")


def test_all_parts_of_a_gguf(hub: Hub, server: FakeHub) -> None:
    server.repositories["a/b"] = dict(PARTS)
    path = hub.get(Wanted("a/b", "F16"))
    assert path.name == "m-F16-00001-of-00003.gguf"
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == PARTS


def test_a_checkpoint_with_an_index(hub: Hub, server: FakeHub) -> None:
    server.repositories["a/b"] = dict(SHARDED)
    path = hub.get(Wanted("a/b"))
    expected = {name: content for name, content in SHARDED.items() if name != "pytorch_model.bin"}
    assert {file.name: file.read_bytes() for file in path.iterdir()} == expected


def test_it_goes_on_where_the_connection_broke(hub: Hub, server: FakeHub) -> None:
    server.breaks["m-Q8_0.gguf"] = [70_000, 50_000]
    assert hub.get(Wanted("a/b", "Q8_0")).read_bytes() == BIG
    assert server.downloads("m-Q8_0.gguf") == [None, "bytes=70000-", "bytes=120000-"]


def test_it_goes_on_where_an_earlier_start_ended(hub: Hub, server: FakeHub, cache: Path, caplog: Any) -> None:
    partial(cache, BIG, 120_000)
    with caplog.at_level(logging.INFO, "duo"):
        assert hub.get(Wanted("a/b", "Q8_0")).read_bytes() == BIG
    assert server.downloads("m-Q8_0.gguf") == ["bytes=120000-"]
    assert "going on with m-Q8_0.gguf of a/b" in caplog.text


def test_it_says_where_it_broke_off(hub: Hub, server: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Download, name: str, part: Path, size: int, report: object) -> None:
        tries.append(part.stat().st_size)
        if not tries[-1]:
            part.write_bytes(BIG[:110_000])
        raise ConnectionResetError("reset by peer\nby peer")

    tries = list[int]()
    with monkeypatch.context() as changed:
        changed.setattr(Download, "_read_once", broken)
        changed.setattr(download, "PAUSE", 0)
        line = line_of(hub, Wanted("a/b", "Q8_0"))
    assert "broke off at 0.1 MB of 0.2 MB, the next start goes on there" in line and "peer" not in line
    assert tries == [0] + [110_000] * download.TRIES
    assert hub.get(Wanted("a/b", "Q8_0")).read_bytes() == BIG
    assert server.downloads("m-Q8_0.gguf") == ["bytes=110000-"]


def test_a_terminal_shows_how_far_it_is(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.get(Wanted("a/b", "Q4_K_M"))
    assert "Q4_K_M" not in capsys.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    hub.get(Wanted("a/b", "Q8_0"))
    shown = capsys.readouterr().err
    assert "m-Q8_0.gguf" in shown and "200.0" in shown


def test_a_wrong_checksum(hub: Hub, server: FakeHub, cache: Path) -> None:
    server.wrong["m-Q8_0.gguf"] = BIG[:-1] + b"?"
    assert "another size or checksum" in line_of(hub, Wanted("a/b", "Q8_0"))
    assert not list(cache.rglob("*.duo-part")) and not list(cache.rglob("m-Q8_0.gguf"))
    server.wrong.clear()
    assert hub.get(Wanted("a/b", "Q8_0")).read_bytes() == BIG


def test_a_wrong_checksum_of_a_small_file(hub: Hub, server: FakeHub) -> None:
    server.repositories["a/b"] = dict(SHARDED)
    server.wrong["tokenizer.json"] = b'{"a": 2}'
    assert "tokenizer.json came with another" in line_of(hub, Wanted("a/b"))


@pytest.mark.parametrize("content", [BIG + b"more", BIG[:-1]], ids=["too long", "too short"])
def test_a_wrong_size(hub: Hub, server: FakeHub, content: bytes) -> None:
    server.wrong["m-Q8_0.gguf"] = content
    line_of(hub, Wanted("a/b", "Q8_0"))
    server.wrong.clear()
    assert hub.get(Wanted("a/b", "Q8_0")).read_bytes() == BIG


def test_a_rest_that_fits_nothing_is_thrown_away(hub: Hub, server: FakeHub, cache: Path) -> None:
    """The first bytes are of another file, or were damaged on this disk."""
    part = partial(cache, BIG, 1000)
    part.write_bytes(b"?" * 1000)
    assert hub.get(Wanted("a/b", "Q8_0")).read_bytes() == BIG
    assert server.downloads("m-Q8_0.gguf") == ["bytes=1000-", None]


def test_a_rest_that_is_too_long(hub: Hub, server: FakeHub, cache: Path) -> None:
    part = partial(cache, BIG, 1000)
    part.write_bytes(BIG + b"more")
    assert hub.get(Wanted("a/b", "Q8_0")).read_bytes() == BIG


def test_no_network_but_a_cache(hub: Hub, server: FakeHub, cache: Path, caplog: Any) -> None:
    path = hub.get(Wanted("a/b", "Q8_0"))
    nowhere = Hub(Source("http://127.0.0.1:9", cache))
    with caplog.at_level(logging.INFO, "duo"):
        caplog.clear()
        assert nowhere.get(Wanted("a/b", "Q8_0")) == path
        assert nowhere.get(Wanted("a/b")) == path, "the only one that is there"
    assert len(caplog.records) == 2
    assert "m-Q8_0.gguf from the cache: http://127.0.0.1:9 cannot be reached" in caplog.text
    server.down = 503
    assert hub.get(Wanted("a/b", "Q8_0")) == path


def test_offline_asks_nobody(hub: Hub, server: FakeHub, cache: Path) -> None:
    server.repositories["a/b"] = dict(SHARDED)
    path = hub.get(Wanted("a/b"))
    server.asked.clear()
    assert Hub(Source(server.url, cache, offline=True)).get(Wanted("a/b")) == path
    assert not server.asked


def test_neither_network_nor_cache(hub: Hub, server: FakeHub, cache: Path) -> None:
    nowhere = Hub(Source("http://127.0.0.1:9", cache))
    assert "cannot be reached" in line_of(nowhere, Wanted("a/b"))
    hub.get(Wanted("a/b", "Q8_0"))
    line = line_of(nowhere, Wanted("a/b", "Q4_K_M"))
    assert "the cache does not have it; in the cache, a/b has no Q4_K_M, but Q8_0" in line


def test_a_part_of_a_checkpoint_in_the_cache_is_no_model(hub: Hub, server: FakeHub, cache: Path) -> None:
    server.repositories["a/b"] = dict(SHARDED)
    path = hub.get(Wanted("a/b"))
    (path / "model-00002-of-00002.safetensors").unlink()
    assert "lacks model-00002-of-00002.safetensors" in line_of(
        Hub(Source(server.url, cache, offline=True)), Wanted("a/b")
    )


def test_an_unknown_quantisation(hub: Hub) -> None:
    assert line_of(hub, Wanted("a/b", "Q2_K")) == "a/b has no Q2_K, but Q4_K_M, Q8_0"


def test_an_unknown_repository(hub: Hub) -> None:
    line = line_of(hub, Wanted("no/body"))
    assert "/no/body, or it is private: check the name, or set HF_TOKEN" in line


def test_a_gated_repository(hub: Hub, server: FakeHub, cache: Path) -> None:
    server.gated.add("a/b")
    assert "is gated: accept its terms" in line_of(hub, Wanted("a/b"))
    assert "is gated" in line_of(Hub(Source(server.url, cache, "hf_wrong")), Wanted("a/b"))
    assert Hub(Source(server.url, cache, "hf_right")).get(Wanted("a/b")).read_bytes() == b"GGUF four"
    elsewhere = [asked for asked in server.asked if asked.path.startswith("/apart/")]
    assert elsewhere and not any(asked.token for asked in elsewhere), "no other host sees the token"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (200, "does not answer a/b as a hub does: check HF_ENDPOINT"),
        (401, "/a/b is not for everyone (401): set HF_TOKEN"),
        (403, "/a/b is not for everyone (403): set HF_TOKEN"),
        (404, "answers 404 for a/b: try again later"),
        (429, "answers 429 for a/b: try again later"),
        (500, "answers 500 for a/b: try again later"),
    ],
)
def test_a_hub_that_refuses(hub: Hub, server: FakeHub, status: int, words: str) -> None:
    server.down = status
    line = line_of(hub, Wanted("a/b"))
    assert line.startswith("a/b: ") and words in line and line.endswith(", and the cache does not have it")


def test_a_hub_that_is_busy_is_asked_again(hub: Hub, server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0)
    server.refuses["m-Q8_0.gguf"] = [429, 503, 500]
    assert hub.get(Wanted("a/b", "Q8_0")).read_bytes() == BIG
    assert server.downloads("m-Q8_0.gguf") == [None] * 4
    server.refuses["m-Q4_K_M.gguf"] = [503] * 20
    assert "broke off at 0 bytes of 9 bytes" in line_of(hub, Wanted("a/b"))
    assert len(server.downloads("m-Q4_K_M.gguf")) == download.TRIES


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_stays_is_told_at_once(hub: Hub, server: FakeHub, status: int) -> None:
    server.refuses["m-Q8_0.gguf"] = [status] * 2
    assert str(status) in line_of(hub, Wanted("a/b", "Q8_0"))
    assert len(server.downloads("m-Q8_0.gguf")) == 1


def test_a_rest_that_the_hub_has_not_is_thrown_away(hub: Hub, server: FakeHub, cache: Path) -> None:
    partial(cache, BIG, 1000)
    server.refuses["m-Q8_0.gguf"] = [416]
    assert hub.get(Wanted("a/b", "Q8_0")).read_bytes() == BIG
    assert server.downloads("m-Q8_0.gguf") == ["bytes=1000-", None]


def test_an_endless_file_does_not_fill_the_disk(hub: Hub, server: FakeHub, cache: Path) -> None:
    server.endless.add("m-Q8_0.gguf")
    assert "another size or checksum" in line_of(hub, Wanted("a/b", "Q8_0"))
    assert not list(cache.rglob("*.duo-part"))


def test_a_full_disk(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "a/b needs 0.0 GB more" in line_of(hub, Wanted("a/b", "Q8_0"))
    assert hub.get(Wanted("a/b", "Q4_K_M")).is_file(), "there is room for a smaller one"


def test_a_disk_that_fills_meanwhile(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Download, "_read_once", full)
    assert "is full: make room" in line_of(hub, Wanted("a/b", "Q8_0"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_cache_that_cannot_be_written(hub: Hub, cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o500)
    assert "cannot be written" in line_of(hub, Wanted("a/b"))


def test_a_cache_that_is_a_file(hub: Hub, cache: Path) -> None:
    cache.write_text("not a folder")
    assert "cannot be written" in line_of(hub, Wanted("a/b"))
