"""Trees over recurrent draft models in llama.cpp, on tiny models."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import llama_cpp
import pytest

from bench.harness.processes import wait_for
from duo.engines import EngineOptions, Row
from duo.engines.base import InterruptedForwardError
from duo.engines.llamacpp import slots as slots_module
from duo.engines.llamacpp.runtime import Model
from duo.engines.llamacpp.states import StateTreeEngine
from tests.support.gguf_kinds import RECURRENT, WINDOWED, marked, open_truth, path_of
from tests.support.interrupting import interrupting
from tests.support.llamacpp_books import assert_states_agree
from tests.support.mirror import TreeMirror


@pytest.mark.parametrize("kind", [*marked(RECURRENT), WINDOWED])
def test_random_trees_of_a_draft_model_agree_with_reading_all_anew(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "SPACING", 16)
    path = path_of(kind, folder)
    truth = open_truth(path)
    options = EngineOptions(threads=1, context=96, slots=2, tree_rows=24, batch=32, drafts=True)
    engine = StateTreeEngine(Model(path, options, lambda share: None), options)
    TreeMirror(engine, truth, seed=1, check=partial(assert_states_agree, engine)).play(150, 96, 24, 8)
    engine.close()
    truth.engine.close()


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_tree_whose_decode_fails_leaves_no_trace(kind: str, folder: Path) -> None:
    path = path_of(kind, folder)
    truth = open_truth(path)
    options = EngineOptions(threads=1, context=96, slots=2, tree_rows=24, batch=32, drafts=True)
    engine = StateTreeEngine(Model(path, options, lambda share: None), options)
    engine.extend(0, [1, 2, 3])
    engine.extend(1, [4] * 10)
    engine.forward([Row(0, 0, 4), Row(1, 0, 5, 0), Row(2, 1, 6)])
    tree = [Row(3, 0, 6, 1), Row(4, 0, 7, 0), Row(5, 0, 8, 3), Row(6, 0, 9, 3), Row(7, 1, 3, 2)]
    stop = llama_cpp.ggml_abort_callback(lambda data: True)
    llama_cpp.llama_set_abort_callback(engine.llama, stop, None)
    with pytest.raises(InterruptedForwardError):
        engine.forward(tree)
    llama_cpp.llama_set_abort_callback(engine.llama, llama_cpp.ggml_abort_callback(), None)
    assert_states_agree(engine)
    logits = engine.forward(tree)
    for i, path_to in enumerate(([4, 5, 6], [4, 7], [4, 5, 6, 8], [4, 5, 6, 9])):
        truth.check(logits[i], [1, 2, 3, *path_to])
    truth.check(logits[4], [4] * 10 + [6, 3])
    engine.close()
    truth.engine.close()


def test_drafting_can_be_interrupted_between_decodes(folder: Path) -> None:
    path = path_of("qwen35", folder)
    truth = open_truth(path)
    options = EngineOptions(threads=1, context=96, tree_rows=24, batch=32, drafts=True)
    engine = StateTreeEngine(Model(path, options, lambda share: None), options)
    engine.interrupt()  # while nothing is under way: nothing happens
    engine.extend(0, [1, 2, 3])
    tree = [Row(0, 0, 4), Row(1, 0, 5, 0), Row(2, 0, 6, 0)]
    with interrupting(engine):

        def given_up() -> bool:
            try:
                engine.forward(tree)
            except InterruptedForwardError:
                assert_states_agree(engine)
                return True
            engine.commit(0, ())
            return False

        wait_for(given_up, "a forward pass that is given up")
    truth.check(engine.forward(tree)[2], [1, 2, 3, 4, 6])
    engine.close()
    truth.engine.close()
