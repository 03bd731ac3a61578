"""What transformers can be given, by its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from duo.engines.transformers.directory import locate
from duo.errors import ModelError


def test_a_gguf_file_is_for_the_other_runtime(tmp_path: Path) -> None:
    file = tmp_path / "m.GGUF"
    file.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="which transformers does not read: leave --engine transformers away"):
        locate(str(file))
