"""Slots in files, so that what they hold outlives a restart. llama-server has the same (`--slot-save-path`).

A file has the format of safetensors. Its header says which model the slot belongs to, and how it is served. A file is
written under another name first, and takes its name when it is complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duo.engines.memory import available
from duo.engines.slot_copy import SlotCopy
from duo.errors import DuoError, RequestError, first_line
from lead.api import SlotFile
from lead.decode.loop import Decoder

FORMAT = "1"
"""Of what is in a file. Files of another format are refused."""
MAX_NAME_BYTES = 200
_FORBIDDEN = frozenset('/\\:*?"<>|')
_TOKENS = "tokens"
_BLOCK = "memory "
"""How the names of a slot's arrays begin in a file."""


class StorageError(DuoError):
    """A slot cannot be written to its file."""

    status = 507


@dataclass(frozen=True, slots=True)
class SlotFolder:
    """Where slots are saved. conditions: what must be the same for a file to be taken, by names for people."""

    path: Path
    conditions: Mapping[str, str]


class SlotFiles:
    """Saves slots of a decoder and restores them. For the event loop: files are written and read in other threads."""

    def __init__(self, decoder: Decoder, folder: SlotFolder | None) -> None:
        self._decoder = decoder
        self._folder = folder

    async def save(self, slot: int, filename: str) -> SlotFile:
        """See `lead.api.Answerer.save_slot`."""
        started = time.perf_counter()
        folder, path = self._at(filename)
        tokens, copy = await asyncio.wrap_future(self._decoder.call(lambda: self._decoder.slots.save(slot)))
        if not tokens:
            raise RequestError(f"slot {slot} holds nothing")
        written = await asyncio.to_thread(write, path, tokens, copy, folder.conditions)
        return SlotFile(len(tokens), written, time.perf_counter() - started)

    async def restore(self, slot: int, filename: str) -> SlotFile:
        """See `lead.api.Answerer.restore_slot`."""
        started = time.perf_counter()
        folder, path = self._at(filename)
        tokens, copy, size = await asyncio.to_thread(read, path, folder.conditions)
        call = self._decoder.call(lambda: self._decoder.slots.restore(slot, tokens, copy))
        return SlotFile(await asyncio.wrap_future(call), size, time.perf_counter() - started)

    async def erase(self, slot: int) -> int:
        """See `lead.api.Answerer.erase_slot`."""
        return await asyncio.wrap_future(self._decoder.call(lambda: self._decoder.slots.erase(slot)))

    def _at(self, filename: str) -> tuple[SlotFolder, Path]:
        if self._folder is None:
            raise RequestError("the lead was started without --slot-save-path")
        return self._folder, self._folder.path / check_name(filename)


def check_name(name: str) -> str:
    """The name of a file in the folder, and of nothing outside of it. Raises RequestError."""
    if not name or len(name.encode("utf-8", errors="replace")) > MAX_NAME_BYTES:
        raise RequestError(f"filename: it must have 1 to {MAX_NAME_BYTES} bytes", "filename")
    if name[0] in ". " or name[-1] in ". " or not name.isprintable() or _FORBIDDEN.intersection(name):
        raise RequestError("filename: give a plain name, without a folder, signs of a shell or a dot first", "filename")
    return name


def write(path: Path, tokens: list[int], copy: SlotCopy, conditions: Mapping[str, str]) -> int:
    """Write a slot. Returns the bytes of the file. Raises StorageError."""
    from safetensors.numpy import save_file

    arrays: dict[str, NDArray[Any]] = {_BLOCK + name: array for name, array in copy.arrays.items()}
    arrays[_TOKENS] = np.array(tokens, dtype=np.int32)
    more = {"notes": copy.notes, "lengths": None if copy.lengths is None else list(copy.lengths)}
    header = {**conditions, "format": FORMAT, "more": json.dumps(more)}
    header["digest"] = _digest(header["more"], arrays)
    draft = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        save_file(arrays, draft, header)
        with draft.open("rb+") as written:
            os.fsync(written.fileno())
        size = draft.stat().st_size
        draft.replace(path)
    except Exception as error:  # of the system, or of the library
        raise StorageError(f"the slot cannot be saved as {path.name}: {first_line(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return size


def read(path: Path, conditions: Mapping[str, str]) -> tuple[list[int], SlotCopy, int]:
    """A slot from a file: its tokens, its memory, and the bytes of the file. Raises RequestError."""
    from safetensors import safe_open

    if not path.is_file():
        raise RequestError(f"filename: there is no file {path.name}", "filename")
    size, free = path.stat().st_size, available()
    if free is not None and size > free:
        raise RequestError(f"filename: {path.name} is larger than the memory that is free", "filename")
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            _check(path.name, header, conditions)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["digest"] != _digest(header["more"], arrays):
            raise ValueError("its content has changed")
        more = json.loads(header["more"])
        tokens = [int(token) for token in arrays.pop(_TOKENS)]
        memory = {name.removeprefix(_BLOCK): array for name, array in arrays.items()}
        return tokens, SlotCopy(len(tokens), memory, dict(more["notes"]), more["lengths"]), size
    except RequestError:
        raise
    except Exception as error:  # a file from anywhere may break the library in any way
        raise RequestError(f"filename: {path.name} is damaged: {first_line(error)}", "filename") from error


def _check(name: str, header: Mapping[str, str], conditions: Mapping[str, str]) -> None:
    """Raises RequestError if the slot is not of this model, served in this way."""
    if header.get("format") != FORMAT:
        raise RequestError(f"filename: {name} is no slot of this version", "filename")
    for what, wanted in conditions.items():
        if header.get(what) != wanted:
            raise RequestError(f"filename: {name} is the slot of another model or way to serve: {what} differs",
                               "filename")  # fmt: skip


def _digest(more: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.blake2b(more.encode(), digest_size=32)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
