"""Runs a model of the transformers library over one composed forward pass, and gives logits."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from duo.engines.base import Logits
from duo.engines.transformers import loading as hf
from duo.engines.transformers.arena import ArenaCache, Strip
from duo.engines.transformers.masks import Composed, Masks


class ModelRunner:
    """A model, and how it takes its input."""

    def __init__(self, model: Any, batch: int, sight: hf.Sight, device: torch.device) -> None:
        self.model = model
        self.form = sight.forms[0]
        """How the model takes its masks."""
        self.size = 0
        """Logits of a row."""
        self._sight = sight
        self._device = device
        # The input of a pass is written here, and torch sees it without a copy.
        self._numbers = np.zeros(3 * batch, dtype=np.int64)
        self._numbers_tensor = torch.from_numpy(self._numbers)
        parameters = inspect.signature(model.forward).parameters
        self._chooses = "logits_to_keep" in parameters
        """Whether the model computes logits of some rows alone if it is told which."""
        self._slices = "logits_to_keep" in inspect.signature(model.base_model.forward).parameters
        """Whether its inner layers slice their masks too, unless the rows are given one by one (Gemma 4)."""
        self._cache_name = "cache_params" if "cache_params" in parameters else "past_key_values"
        """What the model calls the cache."""

    def run(self, composed: Composed, strips: Sequence[Strip], masks: Masks, cache: ArenaCache) -> Logits:
        """One forward pass over the strips side by side. Returns logits [rows, size] of the rows alone."""
        width, wanted = len(composed.tokens), composed.wanted
        numbers = self._numbers[: 3 * width].reshape(3, width)
        numbers[0], numbers[1] = composed.tokens, composed.positions
        if len(strips) == 1:
            numbers[2] = strips[0].places
        with torch.inference_mode():
            on_device = self._numbers_tensor[: 3 * width].view(3, 1, width).to(self._device)
            input_ids, position_ids, where = on_device.unbind(0)
            attention_mask = self._mask(composed, numbers[1], strips, masks)
            if len(strips) == 1:
                cache.aim(strips[0], where[0])
            else:
                cache.aim_lanes(strips)
            options: dict[str, Any] = {self._cache_name: cache}
            module, chosen = self.model, None
            if not wanted:
                # The base model stops before the projection to the vocabulary.
                module = self.model.base_model
                if self._slices:
                    options["logits_to_keep"] = torch.arange(width, device=self._device)
            elif self._slices or wanted != list(range(width)):
                chosen = torch.tensor(wanted, device=self._device)
                if self._chooses:
                    options["logits_to_keep"] = chosen
            output = module(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=attention_mask,
                use_cache=True,
                **options,
            )
            if not wanted:
                return np.zeros((0, self.size), dtype=np.float32)
            logits = output.logits[0]
            if chosen is not None and not self._chooses:
                logits = logits[chosen]
            result: Logits = logits.to(device="cpu", dtype=torch.float32).numpy()
            return result

    def _mask(self, composed: Composed, positions: Any, strips: Sequence[Strip], masks: Masks) -> Any:
        """The attention masks, in the form that the model takes."""
        full = partial = masks.tensors(composed.masks)
        if not self._sight.window:
            return partial
        partial = masks.tensors(masks.windowed(composed.masks, positions, strips))
        if self.form != "by layer type":
            return partial
        kinds = {hf.FULL: full, hf.SLIDING: partial, hf.CHUNKED: partial}
        return dict.fromkeys(hf.STATEFUL_LAYERS) | kinds
