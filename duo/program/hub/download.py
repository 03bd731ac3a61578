"""Brings the files of a model from the Hugging Face hub into the cache that all programs of the hub share.

The library does what it can: addresses, tokens, retries, and the layout of the cache. Three things it does not do are
here. A file that broke off goes on at the next start. Checksums are compared. And without a network the cache serves.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.file_download import HfFileMetadata, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from duo.errors import ModelError, first_line
from duo.program.hub.choice import INDEX, Choice, Source, Wanted, choose, shards

log = logging.getLogger("duo")

SECONDS = 10.0
"""To wait for the hub's answer to a short question."""
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_CHUNK = 1 << 20
PARTIAL = 206
"""The status of an answer that begins in the middle of a file."""
FINAL = (401, 403, 404)
"""Statuses that will be the same at the next try."""
BEYOND_END = 416
"""The status of an answer that would begin after the end of the file."""
TRIES, PAUSE = 5, 0.5
"""How often in a row a download may bring nothing, and half the seconds before it is tried again. They double."""


class Hub:
    """A source of models. Its methods raise ModelError with one line."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._cache = source.cache or Path(constants.HF_HUB_CACHE)

    def get(self, asked: Wanted, ggufs: bool = True, checkpoints: bool = True) -> Path:
        """The file or folder to load, with all that belongs to it. See `choose` for the arguments."""
        if self._source.offline:
            return self._cached(asked, ggufs, checkpoints, "--offline")
        try:
            info = huggingface_hub.HfApi(endpoint=self._source.endpoint, token=self._source.token).model_info(
                asked.repository, timeout=SECONDS
            )
            names = [file.rfilename for file in info.siblings or ()]
            if info.sha is None:
                raise ModelError(f"{self._where} names no commit of {asked.repository}: is HF_ENDPOINT a hub?")
        except ModelError:
            raise
        except Exception as error:  # the network may do anything
            return self._cached(asked, ggufs, checkpoints, self._reason(error, asked.repository))
        choice = choose(names, asked, ggufs, checkpoints)
        download = Download(self._source, self._cache, asked.repository, info.sha)
        with self._explained(asked.repository):
            choice = self._whole(download, choice, names)
            folder = download.bring(choice.files)
        return folder / choice.first if choice.first else folder

    def _whole(self, download: Download, choice: Choice, names: Sequence[str]) -> Choice:
        """The choice with the weights that its index lists."""
        if INDEX not in choice.files:
            return choice
        index = download.bring([INDEX]) / INDEX
        return Choice([*choice.files, *shards(_json(index), names, download.repository)])

    def _cached(self, asked: Wanted, ggufs: bool, checkpoints: bool, reason: str) -> Path:
        """The same out of the cache alone. reason: why."""
        folder = self._snapshot(asked.repository)
        files = sorted(folder.rglob("*")) if folder is not None else []
        names = [file.relative_to(folder).as_posix() for file in files if folder is not None and file.is_file()]
        try:
            choice = choose(names, asked, ggufs, checkpoints)
            if folder is not None and INDEX in choice.files:
                shards(_json(folder / INDEX), names, asked.repository)
        except ModelError as error:
            there = f"; in the cache, {error}" if names else ""
            raise ModelError(f"{asked}: {reason}, and the cache does not have it{there}") from None
        assert folder is not None
        log.info("%s from the cache: %s", choice.first or asked.repository, reason)
        return folder / choice.first if choice.first else folder

    def _snapshot(self, repository: str) -> Path | None:
        """The folder of the cache that holds the newest state of a repository."""
        try:
            found: str | None = huggingface_hub.snapshot_download(
                repository, cache_dir=self._cache, local_files_only=True
            )
        except errors.LocalEntryNotFoundError as error:
            # The library knows of files that are missing. We may not need them.
            found = getattr(error, "snapshot_path", None)
        except (OSError, ValueError):
            return None
        return Path(found) if found else None

    @property
    def _where(self) -> str:
        return (self._source.endpoint or constants.ENDPOINT).removeprefix("https://")

    @contextmanager
    def _explained(self, repository: str) -> Iterator[None]:
        """Turns whatever goes wrong into a line."""
        try:
            yield
        except ModelError:
            raise
        except Exception as error:  # the network and the disk may do anything
            raise ModelError(self._reason(error, repository)) from error

    def _reason(self, error: Exception, repository: str) -> str:
        """What an exception of the library means, without a full stop."""
        log.debug("the hub: %s", first_line(error))
        page = f"{self._where}/{repository}"
        status = _status(error)
        if isinstance(error, errors.GatedRepoError):
            return f"{page} is gated: accept its terms on its page, and set HF_TOKEN to a token of yours"
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"there is no {page}, or it is private: check the name, or set HF_TOKEN"
        if isinstance(error, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set"
        if status in (401, 403):
            return f"{page} is not for everyone ({status}): set HF_TOKEN to a token that may read it"
        if status:
            return f"{self._where} answers {status} for {repository}: try again later"
        if isinstance(error, json.JSONDecodeError):
            return f"{self._where} does not answer {repository} as a hub does: check HF_ENDPOINT, and any proxy"
        if isinstance(error, ValueError):
            return f"{repository} is no name of a model of the hub, which is user/repo"
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return f"the disk of {self._cache} is full: make room, or let HF_HUB_CACHE name another folder"
        if isinstance(error, OSError) and error.errno is not None:
            return f"the cache {self._cache} cannot be written: {(error.strerror or str(error)).lower()}"
        return f"{self._where} cannot be reached: check the network, and HF_ENDPOINT if it is set"


class Download:
    """The files of one commit of a repository."""

    def __init__(self, source: Source, cache: Path, repository: str, commit: str) -> None:
        self.repository = repository
        self._source, self._cache, self._commit = source, cache, commit
        self._name = repo_folder_name(repo_id=repository, repo_type="model")

    def bring(self, names: Sequence[str]) -> Path:
        """Download what the cache lacks of these files. Returns the folder of all of them."""
        missing = {name: self._metadata(name) for name in names if not self._has(name)}
        self._check_room(missing)
        for name, metadata in missing.items():
            self._one(name, metadata)
            self._link(name)
        self._remember()
        return self._folder

    @property
    def _folder(self) -> Path:
        return self._cache / self._name / "snapshots" / self._commit

    def _has(self, name: str) -> bool:
        return isinstance(
            huggingface_hub.try_to_load_from_cache(self.repository, name, cache_dir=self._cache, revision=self._commit),
            str,
        )

    def _url(self, name: str) -> str:
        return huggingface_hub.hf_hub_url(self.repository, name, revision=self._commit, endpoint=self._source.endpoint)

    def _metadata(self, name: str) -> HfFileMetadata:
        return huggingface_hub.get_hf_file_metadata(
            self._url(name), token=self._source.token, timeout=SECONDS, endpoint=self._source.endpoint
        )

    def _blob(self, etag: str) -> Path:
        """Where the cache keeps the content of this checksum."""
        return self._cache / self._name / "blobs" / etag

    def _check_room(self, files: dict[str, HfFileMetadata]) -> None:
        """Raises ModelError if the disk has no room for the rest of the files."""
        rest = 0
        for metadata in files.values():
            blob = self._blob(metadata.etag or "")
            there = blob if blob.is_file() else _part(blob)
            rest += max(0, (metadata.size or 0) - (there.stat().st_size if there.is_file() else 0))
        disk = next(folder for folder in (self._cache, *self._cache.absolute().parents) if folder.exists())
        if rest > (free := shutil.disk_usage(disk).free):
            raise ModelError(
                f"{self.repository} needs {rest / 1e9:.1f} GB more and the disk of {self._cache} has {free / 1e9:.1f}: "
                "make room, or let HF_HUB_CACHE name another folder"
            )

    def _one(self, name: str, metadata: HfFileMetadata) -> None:
        """Put the content of a file into the cache."""
        etag, size = metadata.etag or "", metadata.size or 0
        checked = _SHA256.fullmatch(etag) or _SHA1.fullmatch(etag)
        if not checked or size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            # Mirrors may know no checksums. And the hub gives out such large files by another protocol only, which
            # compares checksums itself.
            return
        blob = self._blob(etag)
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock = self._cache / ".locks" / self._name / f"{etag}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(str(lock)):
            if not blob.exists():
                self._fill(name, _part(blob), etag, size)
                _part(blob).replace(blob)

    def _fill(self, name: str, part: Path, etag: str, size: int) -> None:
        """Download a file to `part`, from where an earlier try broke off. Raises ModelError."""
        begun = _size(part)
        if begun > size:
            part.unlink()
            begun = 0
        log.info("%s %s of %s: %s", "going on with" if begun else "downloading", name, self.repository, _amount(size))
        with _bar(name, size) as report:
            self._read(name, part, size, report)
        if _size(part) == size and _checksum(part, etag) == etag:
            return
        part.unlink()
        if begun:
            log.warning("%s has another checksum than %s says: downloading it again", name, self.repository)
            self._fill(name, part, etag, size)
            return
        raise ModelError(
            f"{name} came with another size or checksum than {self.repository} says, and was thrown away: try again, "
            "or ask who runs the hub or the proxy"
        )

    def _read(self, name: str, part: Path, size: int, report: Callable[[int], None]) -> None:
        """Read until `part` is as long as it should be, or longer. What breaks off is asked for again."""
        part.touch()
        idle = 0
        while (before := _size(part)) < size:
            try:
                self._read_once(name, part, size, report)
            except Exception as error:  # the network may do anything
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                status = _status(error)
                if status == BEYOND_END:
                    break
                idle = 0 if _size(part) > before else idle + 1
                if idle >= TRIES or status in FINAL:
                    log.debug("the hub: %s", first_line(error))
                    answered = f" (the hub answers {status})" if status else ""
                    raise ModelError(
                        f"{name} of {self.repository} broke off at {_amount(_size(part))} of {_amount(size)}, the "
                        f"next start goes on there{answered}"
                    ) from error
                if idle:
                    time.sleep(PAUSE * 2**idle)
            else:
                if _size(part) < size:
                    break  # the hub thinks that this is all

    def _read_once(self, name: str, part: Path, size: int, report: Callable[[int], None]) -> None:
        """Read on, at most a block beyond the size: a server that never ends shall not fill the disk."""
        begin = _size(part)
        headers = build_hf_headers(token=self._source.token) | {"Accept-Encoding": "identity"}
        if begin:
            headers["Range"] = f"bytes={begin}-"
        stream = huggingface_hub.get_session().stream("GET", self._url(name), headers=headers, timeout=SECONDS)
        with stream as response, part.open("ab") as file:
            hf_raise_for_status(response)
            if begin and response.status_code != PARTIAL:
                file.truncate(0)  # the server sends all of it
            for block in response.iter_bytes():
                file.write(block)
                report(file.tell())
                if file.tell() > size:
                    break

    def _link(self, name: str) -> None:
        """Give the content its name in the snapshot. Downloads nothing if the content is there."""
        huggingface_hub.hf_hub_download(
            self.repository, name, revision=self._commit, cache_dir=self._cache, token=self._source.token,
            endpoint=self._source.endpoint,
        )  # fmt: skip

    def _remember(self) -> None:
        """Note the commit as the newest one, for starts without a network."""
        reference = self._cache / self._name / "refs" / constants.DEFAULT_REVISION
        if reference.is_file() and reference.read_text(encoding="utf-8") == self._commit:
            return
        reference.parent.mkdir(parents=True, exist_ok=True)
        fresh = reference.with_suffix(".new")
        fresh.write_text(self._commit, encoding="utf-8")
        fresh.replace(reference)


@contextmanager
def _bar(name: str, size: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, if that is a terminal. Yields what takes the bytes so far."""
    terminal = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task(name.rpartition("/")[2], total=size)
        yield lambda done: bar.update(task, completed=done)


def _status(error: Exception) -> int:
    """The HTTP status that an exception of the library stands for; 0 if it stands for none."""
    status: int = getattr(getattr(error, "response", None), "status_code", 0)
    return status


def _part(blob: Path) -> Path:
    """Where a file lies until it is whole. The library's own names for such files are others."""
    return blob.with_name(f"{blob.name}.duo-part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _checksum(path: Path, etag: str) -> str:
    """The file's SHA-256, or git's SHA-1 if the checksum to compare with is one."""
    with path.open("rb") as file:
        if len(etag) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        git = hashlib.sha1(f"blob {_size(path)}\0".encode(), usedforsecurity=False)
        while block := file.read(_CHUNK):
            git.update(block)
        return git.hexdigest()


def _amount(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size} bytes"


def _json(path: Path) -> dict[str, object]:
    """An object in a file. Raises ModelError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be read: {first_line(error)}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path.name} holds no JSON object")
    return found
