"""Models and their processes: what happens when both change at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.models_front import scene


def test_a_model_that_is_put_away_before_its_load_begins(tmp_path: Path) -> None:
    async def run() -> None:
        async with scene(tmp_path, "models: {alpha: {}}") as it:
            it.pool.want("alpha")
            it.pool.put_away("alpha")
            await it.until(lambda: it.pool.entries["alpha"].status == "unloaded")
            await it.load("alpha")
            assert (await it.chat("alpha")).status_code == 200

    asyncio.run(run())
