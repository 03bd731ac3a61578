"""Lets the draft model learn what the target gave, in a fixed time, and goes on where it was stopped."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from duo.errors import FileError
from duo.models.distil.lessons import Lesson

BATCH = 2048
"""Tokens of a step, filled up ones included."""
RATE = 1e-3
SAVE_SECONDS = 60.0
WEIGHTS, OPTIMIZER = "weights.", "optimizer."


class Progress(NamedTuple):
    """share: of the time, from 0 to 1. loss: mean of the last steps, in nats. right: share of first guesses."""

    share: float
    loss: float
    right: float


class Trainer:
    """A draft model, its optimizer, and its place in the time it has."""

    def __init__(
        self, model: Any, lessons: Sequence[Lesson], seconds: float, file: Path, seed: int, table: bool = False
    ) -> None:
        """file: where its state is kept, for another start. table: whether the table of tokens learns as well.

        The table of a model that was cut is the target's own. It would take most of the time, and gain little. Raises
        FileError if the state is damaged.
        """
        self.model, self._lessons, self._seconds, self._file, self._seed = model, lessons, seconds, file, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(self.device).train()
        tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
        self._trained = {
            name: tensor
            for name, tensor in model.named_parameters()
            if table or not any(tensor is one for one in tables)
        }
        for tensor in model.parameters():
            tensor.requires_grad_(False)
        for tensor in self._trained.values():
            tensor.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(list(self._trained.values()), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
        self.used = 0.0
        """Seconds."""
        self._steps = 0
        if file.exists():
            self._load()

    def run(self, progress: Callable[[Progress], None]) -> None:
        """Train until the time is over. Another thread may raise KeyboardInterrupt in it; then save."""
        source = self._batches()
        clock = saved = time.monotonic()
        loss = right = 0.0
        while self.used < self._seconds:
            now_loss, now_right = self._step(next(source))
            kept = 0.98 if loss else 0.0
            loss, right = kept * loss + (1 - kept) * now_loss, kept * right + (1 - kept) * now_right
            now = time.monotonic()
            self.used, clock = self.used + now - clock, now
            self._steps += 1
            progress(Progress(min(1.0, self.used / self._seconds), loss, right))
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = clock = time.monotonic()

    def _batches(self) -> Iterator[list[Lesson]]:
        """Lessons of like length together, in an order that differs from round to round."""
        rng = random.Random(f"{self._seed}/{self._steps}")
        ordered = sorted(self._lessons, key=lambda it: len(it.tokens))
        groups: list[list[Lesson]] = [[]]
        for lesson in ordered:
            if groups[-1] and len(lesson.tokens) * (len(groups[-1]) + 1) > BATCH:
                groups.append([])
            groups[-1].append(lesson)
        while True:
            rng.shuffle(groups)
            yield from groups

    def _step(self, lessons: Sequence[Lesson]) -> tuple[float, float]:
        rate = RATE * min(1.0, (self._steps + 1) / 20) * 0.5 * (1 + math.cos(math.pi * self.used / self._seconds))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss, right = self._loss(lessons)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self._trained.values()), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), right

    def _loss(self, lessons: Sequence[Lesson]) -> tuple[torch.Tensor, float]:
        """The divergence from the target, and how often the draft's first guess is the target's."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits = self._logits(lessons)
        logits = logits.float()
        top = torch.from_numpy(np.concatenate([it.top for it in lessons])).long().to(self.device)
        chances = torch.from_numpy(np.concatenate([it.chances for it in lessons])).float().to(self.device)
        given = logits.gather(1, top) - logits.logsumexp(1, keepdim=True)
        rest = (1 - chances.sum(1)).clamp(min=0)
        left = (1 - given.exp().sum(1)).clamp(min=1e-4)
        loss = -(chances * given).sum(1) - rest * left.log()
        return loss.mean(), float((logits.detach().argmax(1) == top[:, 0]).float().mean())

    def _logits(self, lessons: Sequence[Lesson]) -> torch.Tensor:
        """Of all places of the answers, one below the other."""
        longest = max(len(it.tokens) for it in lessons)
        ids = torch.zeros(len(lessons), longest, dtype=torch.long)
        wanted = torch.zeros(len(lessons), longest, dtype=torch.bool)
        for row, lesson in enumerate(lessons):
            ids[row, : len(lesson.tokens)] = torch.from_numpy(lesson.tokens.astype("int64"))
            wanted[row, lesson.start - 1 : len(lesson.tokens) - 1] = True
        wanted = wanted.to(self.device)

        def only_wanted(_: Any, hidden: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (hidden[0][wanted][None],)

        # What fills up a row stands behind it, so no place of it sees that.
        with self.model.get_output_embeddings().register_forward_pre_hook(only_wanted):
            found: torch.Tensor = self.model(input_ids=ids.to(self.device), use_cache=False).logits[0]
        return found

    @torch.inference_mode()
    def right(self, lessons: Sequence[Lesson]) -> float:
        """How often the draft's first guess is the next token of these answers. 0 if there are none."""
        agreed = 0
        for lesson in lessons:
            guesses = self._logits([lesson]).argmax(1).cpu().numpy()
            agreed += int((guesses == lesson.tokens[lesson.start :]).sum())
        return agreed / max(1, sum(it.size for it in lessons))

    def save(self) -> None:
        """Write the state. Raises FileError."""
        tensors = {WEIGHTS + name: tensor.detach().cpu().contiguous() for name, tensor in self._trained.items()}
        for number, values in self._optimizer.state_dict()["state"].items():
            tensors |= {f"{OPTIMIZER}{number}.{key}": value.detach().cpu() for key, value in values.items()}
        part = self._file.with_suffix(".part")
        try:
            save_file(tensors, part, {"place": json.dumps([self.used, self._steps])})
            part.replace(self._file)
        except (OSError, SafetensorError) as error:
            part.unlink(missing_ok=True)
            raise FileError(f"cannot write {self._file}: {error}") from error

    def _load(self) -> None:
        try:
            with safe_open(self._file, "pt") as file:
                self.used, self._steps = json.loads(file.metadata()["place"])
            tensors = load_file(self._file)
            states: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith(WEIGHTS):
                    self._trained[name.removeprefix(WEIGHTS)].data.copy_(tensor)
                else:
                    number, _, key = name.removeprefix(OPTIMIZER).partition(".")
                    states.setdefault(int(number), {})[key] = tensor
            groups = self._optimizer.state_dict()["param_groups"]
            self._optimizer.load_state_dict({"state": states, "param_groups": groups})
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise FileError(f"{self._file} is of another run, or damaged: delete it, and start again") from error
