"""What Ollama leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from duo.program.hub.ollama import Name

DIGEST = "0123456789abcdef" * 4


def pulled(place: Path, name: Name, digest: str = f"sha256:{DIGEST}") -> Path:
    """What `ollama pull` leaves in a folder. Returns the blob."""
    manifest = place / "manifests" / name.host / name.owner / name.name / name.tag
    manifest.parent.mkdir(parents=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": f"sha256:{'f' * 64}", "size": 1},
        {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 4},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    found = place / "blobs" / f"sha256-{DIGEST}"
    found.parent.mkdir()
    found.write_bytes(b"GGUF")
    return found
