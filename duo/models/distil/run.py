"""What a run of distillation keeps in its folder, so that another start goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from duo.errors import FileError
from duo.models.distil.lessons import Shelf

STATE = "distil"
"""The folder in --out for all but the draft itself."""


@dataclass(frozen=True)
class Plan:
    """What must be the same when a run goes on. target: a path or an id of the hub. layers, width: of the draft."""

    target: str
    layers: int
    width: int
    seed: int


@dataclass
class Run:
    """A run in the folder `out`. asked, logged: prompts and logged answers that are done. answering: seconds used."""

    out: Path
    plan: Plan
    asked: int = 0
    logged: int = 0
    answering: float = 0.0

    @property
    def _folder(self) -> Path:
        return self.out / STATE

    @property
    def shelf(self) -> Shelf:
        """What the draft learns from."""
        return Shelf(self._folder / "answers")

    @property
    def held(self) -> Shelf:
        """Greedy answers that the draft does not learn from. It is judged by them."""
        return Shelf(self._folder / "held")

    @property
    def training(self) -> Path:
        """The file of a trainer's state."""
        return self._folder / "training.safetensors"

    def save(self) -> None:
        """Raises FileError."""
        path = self._folder / "run.json"
        fields = {"plan": asdict(self.plan), "asked": self.asked, "logged": self.logged, "answering": self.answering}
        try:
            part = path.with_suffix(".part")
            part.write_text(json.dumps(fields), "utf-8")
            part.replace(path)
        except OSError as error:
            raise FileError(f"cannot write {path}: {error.strerror}") from error


def begin(out: Path, plan: Plan) -> Run:
    """The run in this folder, which goes on, or a new one. Raises FileError if the folder holds something else."""
    path = out / STATE / "run.json"
    try:
        if path.is_file():
            fields = json.loads(path.read_text("utf-8"))
            before = Plan(**fields["plan"])
            if before != plan:
                raise FileError(f"{out} holds a draft of {before.target}, made with other flags: take another --out")
            return Run(out, plan, int(fields["asked"]), int(fields["logged"]), float(fields["answering"]))
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileError(f"{out} is there, and this program did not make it: take another --out")
        path.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} is damaged: take another --out") from error
    except OSError as error:
        raise FileError(f"cannot use {out}: {error.strerror}") from error
    run = Run(out, plan)
    run.save()
    return run
