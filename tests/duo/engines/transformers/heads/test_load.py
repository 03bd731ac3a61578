"""Which folder holds which head."""

from __future__ import annotations

from pathlib import Path

import pytest

from duo.engines.transformers.engine import TransformersEngine
from duo.engines.transformers.heads import load
from duo.errors import ModelError
from tests.support import tiny_heads
from tests.support.reference import engine_of
from tests.support.tiny_transformers import LOGITS, SHAPE, make_model


def test_the_kind_is_found_by_the_config(engine: TransformersEngine, tmp_path: Path) -> None:
    paths = {
        "Medusa": tiny_heads.medusa(tmp_path / "medusa", 32, LOGITS, 1),
        "MLP": tiny_heads.mlp(tmp_path / "mlp", 32, LOGITS),
        "EAGLE-3": tiny_heads.eagle3(tmp_path / "eagle", 32, LOGITS, [0, 1, 2]),
    }
    for kind, path in paths.items():
        assert kind in load.load(engine, path).name


def test_a_head_beside_the_model_is_found(tmp_path: Path) -> None:
    import transformers

    folder = make_model(tmp_path, transformers.LlamaConfig(**SHAPE))
    tiny_heads.medusa(tmp_path / load.FOLDER, 32, LOGITS, 2)
    head = load.find(engine_of(folder))
    assert head is not None and head.name == "2 Medusa heads"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "holds no config.json"),
        ("[]", "is no JSON object"),
        ("{", "cannot be read"),
        ('{"architectures": ["LlamaForCausalLM"]}', "holds no head that is known here"),
        ('{"medusa_num_heads": 1}', "holds no .safetensors weights"),
    ],
)
def test_folders_that_hold_no_head(config: str | None, says: str, engine: TransformersEngine, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(ModelError, match=says):
        load.load(engine, str(tmp_path))


def test_a_damaged_head(engine: TransformersEngine, tmp_path: Path) -> None:
    path = tiny_heads.mlp(tmp_path, 32, LOGITS)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(ModelError, match="cannot be read"):
        load.load(engine, path)
    (tmp_path / "config.json").write_text('{"model_type": "mlp_speculator", "n_predict": "three"}', encoding="utf-8")
    with pytest.raises(ModelError):
        load.load(engine, path)
    with pytest.raises(ModelError, match="there is no folder"):
        load.load(engine, str(tmp_path / "away"))
