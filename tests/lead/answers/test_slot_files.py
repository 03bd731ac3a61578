"""Slots in files: they come back as they were, and what is no such file is refused in one line."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from duo.engines.slot_copy import SlotCopy
from duo.errors import BusyError, RequestError
from lead.answers.slot_files import SlotFiles, SlotFolder, StorageError, check_name, read, write
from tests.support.loop import GREEDY, Asked, Loop

CONDITIONS = {"weights": "abc", "layout": "cells"}
TOKENS = [3, 1 << 18, 0]
COPY = SlotCopy(
    3,
    {"0": np.arange(200, dtype=np.uint8), "state 1": np.zeros(0, dtype=np.uint8), "states": np.ones((2, 3))},
    {"read": 2, "tensors": {"a": ["torch.float32", [1, 2]]}},
    [1, 3],
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "slot.bin"
    assert write(path, TOKENS, COPY, CONDITIONS) == path.stat().st_size
    return path


def test_a_slot_comes_back(file: Path) -> None:
    tokens, copy, size = read(file, CONDITIONS)
    assert (tokens, copy.length, copy.notes, copy.lengths) == (TOKENS, 3, COPY.notes, [1, 3])
    assert copy.arrays.keys() == COPY.arrays.keys() and size == file.stat().st_size
    for name, array in COPY.arrays.items():
        np.testing.assert_array_equal(copy.arrays[name], array)
    assert list(file.parent.iterdir()) == [file], "no draft is left"


@pytest.mark.parametrize("what", list(CONDITIONS))
def test_another_model_or_way_to_serve(file: Path, what: str) -> None:
    with pytest.raises(RequestError, match=f"{what} differs"):
        read(file, {**CONDITIONS, what: "other"})


def damaged(whole: bytes) -> Iterator[bytes]:
    dice = random.Random(4)
    yield b""
    yield b"GGUF" * 40
    yield bytes(len(whole))
    yield whole + b"x"
    for _ in range(60):
        yield whole[: dice.randrange(len(whole))]
    for _ in range(200):
        at = dice.randrange(len(whole))
        yield whole[:at] + bytes([whole[at] ^ (1 << dice.randrange(8))]) + whole[at + 1 :]


def test_damaged_files(file: Path) -> None:
    for content in damaged(file.read_bytes()):
        file.write_bytes(content)
        with pytest.raises(RequestError) as raised:
            read(file, CONDITIONS)
        assert raised.value.param == "filename" and "\n" not in str(raised.value)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(RequestError, match="there is no file"):
            read(path, CONDITIONS)


def test_a_file_that_cannot_be_written(tmp_path: Path, file: Path) -> None:
    with pytest.raises(StorageError, match="cannot be saved as x"):
        write(tmp_path / "none" / "x", TOKENS, COPY, CONDITIONS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        write(tmp_path / "folder", TOKENS, COPY, CONDITIONS)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "slot.bin"}, "no draft is left"
    assert read(file, CONDITIONS)[0] == TOKENS


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", ".hidden", "a\0b", "a\nb", "c:x", "x" * 201, "x.", " x",
     "\ud800", "ü" * 101],
)  # fmt: skip
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(RequestError) as raised:
        check_name(name)
    assert raised.value.param == "filename"


@pytest.mark.parametrize("name", ["slot.bin", "größe", "a..b", "my slot-1_2"])
def test_names_that_are_taken(name: str) -> None:
    assert check_name(name) == name


def test_actions_run_in_the_loop(tmp_path: Path) -> None:
    loop = Loop(2)
    asked = loop.ask(Asked([5, 6, 7, 8], GREEDY, 4))
    loop.finish()
    files = SlotFiles(loop.decoder, SlotFolder(tmp_path, CONDITIONS))

    async def all_of_it() -> None:
        async def turning() -> None:
            while True:
                loop.turn()
                await asyncio.sleep(0)

        turns = asyncio.ensure_future(turning())
        saved = await files.save(0, "one")
        assert saved.tokens == 4 + len(asked.tokens) - 1 and saved.bytes == (tmp_path / "one").stat().st_size
        assert await files.erase(0) == saved.tokens
        with pytest.raises(RequestError, match="slot 0 holds nothing"):
            await files.save(0, "two")
        restored = await files.restore(1, "one")
        assert (restored.tokens, restored.bytes) == (saved.tokens, saved.bytes)
        with pytest.raises(RequestError):
            await files.save(0, "../one")
        turns.cancel()

    asyncio.run(all_of_it())
    assert loop.engine.length(1) == 4 + len(asked.tokens) - 1
    loop.ask(Asked([9] * 80, GREEDY, 4))
    loop.turn()
    busy = loop.decoder.running[0].slot.id
    waiting = loop.decoder.call(lambda: loop.decoder.slots.save(busy))
    loop.turn()
    with pytest.raises(BusyError):
        waiting.result(0)
    loop.finish()
