"""Training heads for the shipped target, for seconds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from duo import models
from duo.engines import EngineOptions
from duo.engines.transformers.engine import TransformersEngine
from duo.engines.transformers.heads.load import load
from duo.models import corpus, train_heads


@pytest.mark.slow
def test_heads_are_trained_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_heads.main(["--out", str(tmp_path), "--minutes", "0.1", "--questions", "1"]) == 0
    said = capsys.readouterr().out
    for kind in train_heads.KINDS:
        assert re.search(rf"{kind}: 1\.\d\d tokens per pass, [0-3]\.\d\d MB", said)
        assert (tmp_path / kind / "config.json").is_file()


def test_no_time_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_heads.main(["--out", str(tmp_path), "--minutes", "0"])
    assert "must be more than 0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shipped_head_is_worth_it() -> None:
    engine = TransformersEngine(str(models.TARGET), EngineOptions(threads=1, context=1024), lambda share: None)
    asked = [[{"role": "user", "content": it.text}] for it in corpus.questions(3, seed=1)]
    head = load(engine, str(models.SPECULATOR))
    prompts = [engine.vocabulary.chat(messages) for messages in asked]
    assert train_heads.tokens_per_pass(engine, head, prompts) > 1.8
