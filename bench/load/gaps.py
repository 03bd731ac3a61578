"""The shipped models with marks for code in the middle. They never learnt what the marks mean, but they answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

from bench.harness.models import Runtime, shipped
from duo.models.export import export

Which = Literal["target", "draft"]
MODELS: tuple[Which, ...] = ("target", "draft")
MARKS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def fillable(which: Which, runtime: Runtime, folder: Path) -> Path:
    """Writes a copy of a shipped model into the folder. Its last tokens are the marks.

    Both models have the same vocabulary, so their copies have it too. The result is what the runtime reads.
    """
    made = folder / which
    shutil.copytree(shipped(which, "transformers"), made)
    path = made / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    model = tokenizer["model"]
    names = {token: name for name, token in model["vocab"].items()}
    tokens = range(len(names) - len(MARKS), len(names))
    for token, mark in zip(tokens, MARKS, strict=True):
        del model["vocab"][names[token]]
        model["vocab"][mark] = token
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        tokenizer["added_tokens"].append({"id": token, "content": mark, "special": True, **plain})
    gone = {names[token] for token in tokens}
    model["merges"] = [merge for merge in model["merges"] if gone.isdisjoint(_tokens(merge))]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    if runtime == "transformers":
        return made
    export(made, file := folder / f"{which}.gguf")
    return file


def _tokens(merge: str | list[str]) -> tuple[str, str, str]:
    """Both halves of a merge, and what it makes of them. Older files write the halves as one text."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right, left + right
