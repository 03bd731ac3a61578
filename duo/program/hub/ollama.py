"""Models that Ollama has downloaded, and what to write instead of its names.

Ollama keeps a model's GGUF as a blob. A manifest for each name and tag says which one it is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HOST, OWNER, TAG = "registry.ollama.ai", "library", "latest"
"""What Ollama puts where a name leaves it out."""
HUB_HOSTS = ("hf.co", "huggingface.co")
_MODEL = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_WORD = r"[A-Za-z0-9][\w.-]*"
_NAME = re.compile(
    rf"(?:(?P<host>{_WORD})/)??(?:(?P<owner>{_WORD})/)?(?P<name>{_WORD})(?::(?P<tag>{_WORD}))?", re.ASCII
)
_MAX_MANIFEST = 1 << 20


class Name(NamedTuple):
    """A name of Ollama's, in full."""

    host: str
    owner: str
    name: str
    tag: str

    @property
    def short(self) -> str:
        """The name as Ollama shows it."""
        host = "" if self.host == HOST else f"{self.host}/"
        owner = "" if self.owner == OWNER and not host else f"{self.owner}/"
        return f"{host}{owner}{self.name}:{self.tag}"

    @property
    def of_the_hub(self) -> bool:
        """Whether Ollama takes it from the Hugging Face hub."""
        return self.host in HUB_HOSTS


def parse(text: str) -> Name | None:
    """The parts of a name that can only be Ollama's: it has a tag, or a host. None for anything else."""
    match = _NAME.fullmatch(text)
    if match is None or (match["tag"] is None and "." not in (match["host"] or "")):
        return None
    if match["name"].lower().endswith((".gguf", ".safetensors")):
        return None
    return Name(match["host"] or HOST, match["owner"] or OWNER, match["name"], match["tag"] or TAG)


def folders() -> list[Path]:
    """Where Ollama keeps models: where its variable says, in the home folder, or where its service runs."""
    given = os.environ.get("OLLAMA_MODELS")
    places = [Path(given)] if given else []
    return [*places, Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]


def names(place: Path) -> list[Name]:
    """All models of one of Ollama's folders; none if it cannot be read."""
    manifests = place / "manifests"
    try:
        found = [file.relative_to(manifests).parts for file in sorted(manifests.glob("*/*/*/*")) if file.is_file()]
    except OSError:
        return []
    return [Name(*parts) for parts in found]


def blob(name: Name, places: Sequence[Path] | None = None) -> Path | None:
    """The GGUF of a model that Ollama has on this disk; None if it has none that can be read."""
    for place in folders() if places is None else places:
        try:
            manifest = place / "manifests" / name.host / name.owner / name.name / name.tag
            with manifest.open("rb") as file:
                layers = json.loads(file.read(_MAX_MANIFEST))["layers"]
            digest = next(layer["digest"] for layer in layers if layer["mediaType"] == _MODEL)
            match = _DIGEST.fullmatch(digest)
            found = place / "blobs" / f"sha256-{match[1]}" if match else None
            if found is not None and os.access(found, os.R_OK):
                return found
        except (OSError, ValueError, KeyError, TypeError, StopIteration):
            continue
    return None


def advice(text: str, name: Name) -> str:
    """What to write instead of a name of Ollama's that is not on this disk."""
    tag = "" if name.tag == TAG else f":{name.tag}"
    if name.of_the_hub:
        return f"{text} is Ollama's way to name a model of the hub: write -hf {name.owner}/{name.name}{tag}"
    if name.owner != OWNER:
        return f"{text} is no file, and Ollama has no such model here that can be read: ollama pull {text} first"
    return (
        f"{text} is a name of Ollama's, and Ollama has no such model here that can be read: write -hf user/repo:quant "
        f"for a GGUF of the hub (https://huggingface.co/models?search={name.name}+gguf), or ollama pull {text} first"
    )
