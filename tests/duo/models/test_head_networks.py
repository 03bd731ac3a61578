"""Heads as they are trained: each loss is that of the guesses which the head makes when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from duo.engines.base import Logits
from duo.engines.heads import Tip
from duo.engines.transformers.heads.load import load
from duo.models.train_heads import KINDS, read, save
from tests.support.reference import engine_of
from tests.support.tiny_transformers import LOGITS, SHAPE, make_model

TEXT = [(11 * i + 5) % 200 for i in range(14)]
PLACE = 10
"""The token whose guesses are compared."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    sizes = {**SHAPE, "num_hidden_layers": 4, "rms_norm_eps": 1e-5}
    return make_model(tmp_path_factory.mktemp("target"), transformers.LlamaConfig(**sizes))


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_the_guesses(kind: str, folder: str, tmp_path: Path) -> None:
    maker: Any = transformers.LlamaForCausalLM
    target = maker.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.arange(0, LOGITS, 2)
    torch.manual_seed(1)
    network = KINDS[kind](target, ids)
    with torch.no_grad():
        for weight in network.parameters():
            # Numbers that bfloat16 has, for the file holds these.
            weight.copy_((weight + 0.1 * torch.randn(weight.shape)).to(torch.bfloat16).float())
    save(network, tmp_path)
    weights = torch.zeros(1, len(TEXT))
    weights[0, PLACE] = 1.0
    text = read(target, torch.tensor([TEXT]), weights, network.layers)
    with torch.no_grad():
        losses = [float(loss) for loss in network.losses(text, 3)]

    engine = engine_of(folder)
    head = load(engine, str(tmp_path))
    thinks = text.logits[0, PLACE - 1].double()
    known = ids if kind == "eagle3" else torch.arange(LOGITS)
    for ahead, loss in enumerate(losses):
        engine.truncate(0, 0)
        tokens = TEXT[: PLACE - ahead]
        engine.extend(0, tokens[:-1])
        logits: Logits = head.begin([Tip(0, tokens)])[0]
        for token in TEXT[PLACE - ahead : PLACE]:
            logits = head.step({0: token})[0]
        guessed = torch.from_numpy(logits)[known].double().log_softmax(-1)
        assert loss == pytest.approx(float(-(thinks[known].softmax(-1) * guessed).sum()), abs=1e-3)
