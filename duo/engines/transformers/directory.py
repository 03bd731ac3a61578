"""Finds a model in the Hugging Face layout. It needs no torch, so a wrong path is reported at once."""

from __future__ import annotations

from pathlib import Path

from duo.errors import ModelError


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder holds a model that transformers can run."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def locate(model: str) -> tuple[str, str]:
    """The argument for from_pretrained, and the model's name. What looks like a path is never looked up on the hub.

    Raises ModelError.
    """
    path = Path(model).expanduser()
    if not model.strip():
        raise ModelError("no model is named: give a local directory or a hub id")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{model} holds no config.json: give the directory of a model in the Hugging Face layout")
        if not any(path.glob("*.safetensors")):
            raise ModelError(
                f"{model} holds no .safetensors weights (pickled ones can run code and are not read): convert them"
            )
        return str(path), path.resolve().name
    if path.suffix.lower() == ".gguf" and path.exists():
        raise ModelError(f"{model} is a GGUF file, which transformers does not read: leave --engine transformers away")
    if path.exists():
        raise ModelError(f"{model} is a file: give the directory that it lies in, or a .gguf file")
    if model.startswith(("/", "./", "../", "~")) or model.count("/") > 1:
        raise ModelError(f"there is no directory {model!r}: check the path")
    return model, model
