"""How much context memory holds: the choice, what a token takes, and what the system says is free."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_cpp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import back.__main__
import lead.flags
from bench.kinds import make
from duo.engines import EngineOptions, load, memory
from duo.engines.llamacpp import context_size, native
from duo.engines.llamacpp.context_size import bytes_per_token as of_gguf
from duo.engines.llamacpp.recurrent import States
from duo.engines.llamacpp.runtime import Model
from duo.engines.llamacpp.slots import SlotRuntime
from duo.engines.memory import CELLS, CLEARED, DRAFT_CELLS, GIB, USUAL, available, fit
from duo.engines.transformers.context_size import bytes_per_token as of_config
from duo.errors import ModelError
from duo.program import flags as cli
from duo.program import models

KIB = 1024


def chosen(**changes: Any) -> memory.Fit:
    usual: dict[str, Any] = {
        "name": "m", "asked": 0, "trained": 32_768, "slots": 4, "per_token": 16 * KIB, "free": 64 * GIB
    }  # fmt: skip
    return fit(**{**usual, **changes})


@pytest.mark.parametrize(
    ("changes", "context", "limit"),
    [
        ({}, 32_768, "all that the model was made for"),
        ({"trained": 512}, 512, "all that the model was made for"),
        ({"per_token": 0, "free": 0}, 32_768, "all that the model was made for"),
        ({"free": GIB}, 12_288, "for 1.0 GiB of memory are free"),
        ({"free": None}, USUAL, "not known"),
        ({"cleared": GIB}, 16_384, "loading slower"),
        ({"cleared": GIB, "per_token": 128 * KIB}, USUAL, "loading slower"),
        ({"cells": 65_536}, 16_384, "pass slower"),
        ({"cells": 65_536, "slots": 64}, USUAL, "pass slower"),
        ({"cleared": GIB, "per_token": 128 * KIB, "free": GIB}, 1536, "for 1.0 GiB of memory are free"),
        ({"asked": 30_000, "cleared": GIB, "cells": CELLS}, 30_000, "as asked for"),
        ({"asked": 30_000, "free": None}, 30_000, "as asked for"),
        ({"target": 2048}, 2048, "as many as the target has"),
        ({"target": 65_536}, 32_768, "all that the model was made for"),
        ({"target": 2048, "per_token": 0}, 2048, "all that the model was made for"),
        ({"target": 30_000, "cells": DRAFT_CELLS}, 8192, "pass slower"),
    ],
)
def test_the_choice(changes: dict[str, Any], context: int, limit: str) -> None:
    it = chosen(**changes)
    assert it.context == context
    assert limit in it.limit
    assert it.bytes == context * changes.get("slots", 4) * changes.get("per_token", 16 * KIB)


def test_what_memory_does_not_hold_is_refused() -> None:
    with pytest.raises(ModelError, match=r"m with a context of 32768 tokens in 4 slots needs 2\.0 GiB .* 1\.0 GiB are"):
        chosen(asked=32_768, free=GIB)
    with pytest.raises(ModelError, match=r"no room for a context in 4 slots: 256 tokens need 16 MiB .* 10 MiB are"):
        chosen(free=10 << 20)
    with pytest.raises(ModelError, match="0 MiB are free"):
        chosen(free=-5 * GIB)


def test_weights_that_the_system_can_read_again_forbid_no_context() -> None:
    """A file of 40 GiB runs slowly on a machine with 24."""
    it = chosen(free=24 * GIB, weights=40 * GIB)
    assert (it.context, "its weights take 40.0 GiB of the 24.0 GiB" in it.limit) == (USUAL, True)
    it = chosen(free=24 * GIB, weights=24 * GIB - (1 << 20))
    assert (it.context, "its weights take 24.0 GiB" in it.limit) == (USUAL, True)
    it = chosen(free=24 * GIB, weights=16 * GIB)
    assert (it.context, it.limit) == (32_768, "all that the model was made for")
    it = chosen(free=24 * GIB, weights=23 * GIB)
    assert (it.context, "for 1.0 GiB of memory are free" in it.limit) == (12_288, True)


def test_who_asks_for_a_context_beside_such_weights_gets_it_with_a_warning() -> None:
    it = chosen(asked=16_384, free=24 * GIB, weights=40 * GIB)
    assert it.context == 16_384
    assert "though its weights take 40.0 GiB" in it.line("m", 4)
    assert "-c" in it.line("m", 4)
    it = chosen(asked=16_384, free=24 * GIB, weights=16 * GIB)
    assert it.limit == "as asked for"
    with pytest.raises(ModelError, match=r"needs 2\.0 GiB .* 1\.5 GiB are free"):
        chosen(asked=32_768, free=3 * GIB // 2, weights=16 * GIB)


MIB = 1 << 20


class TestStates:
    """States of recurrent layers, 100 MiB each."""

    @pytest.mark.parametrize(
        ("given", "held"),
        [
            ({"draft_max": 3}, 4 * 4),
            ({"draft_max": 16}, 4 * 5),  # 2 GiB for snapshots
            ({"draft_max": 0}, 4),
            ({"drafts": True, "tree_rows": 100}, 4 + 16),
            ({"drafts": True, "tree_rows": 8}, 4 + 8),
        ],
    )
    def test_those_that_are_there_from_the_start(self, given: dict[str, Any], held: int) -> None:
        assert States(100 * MIB, True).resident_bytes(EngineOptions(slots=4, **given)) == held * 100 * MIB

    def test_no_snapshots_where_it_cannot_go_back(self) -> None:
        states = States(100 * MIB, False)
        assert states.resident_bytes(EngineOptions(slots=4, draft_max=8)) == 400 * MIB

    @pytest.mark.parametrize(
        ("size", "context", "count"),
        [
            (MIB, 5120, 4 * (1 + 10 + 3)),
            (100 * MIB, 512, 4 * (1 + 3)),  # each slot keeps three whatever they take
            (10 * MIB, 1 << 18, 4 + GIB / (10 * MIB)),
        ],
    )
    def test_copies_of_them(self, size: int, context: int, count: float) -> None:
        assert States(size, True).checkpoint_bytes(EngineOptions(slots=4), context) == count * size

    @pytest.mark.parametrize(("gpu_layers", "context"), [(0, 8704), (17, 20_480)])
    def test_a_context_leaves_room_for_them(
        self, gpu_layers: int, context: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """900 MiB of snapshots and 1,124 of copies leave 2,972 MiB of 4,996. Three quarters of that are for 256 KiB a
        token. With half of the layers on a GPU half of the snapshots is there, and the copies are not."""
        whole = {"n_ctx_train": 65_536, "n_layer": 32, "n_embd": 1, "n_head": 1, "n_head_kv": 1, "size": 0}
        for name, value in whole.items():
            monkeypatch.setattr(llama_cpp, f"llama_model_{name}", lambda model, value=value: value)
        monkeypatch.setattr(context_size, "metadata", lambda path: {})
        monkeypatch.setattr(context_size, "bytes_per_token", lambda *numbers: 256 * KIB)
        monkeypatch.setattr(context_size, "gpu_memory", lambda: 64 * GIB)
        monkeypatch.setattr(memory, "CLEARED", 64 * GIB)
        states, options = States(100 * MIB, True), EngineOptions(gpu_layers=gpu_layers, draft_max=8)
        assert (states.resident_bytes(options), states.checkpoint_bytes(options, 65_536)) == (900 * MIB, 1124 * MIB)
        it = context_size.choose(Path("m"), None, options, True, 4996 * MIB, states)
        assert it.context == context

    def test_they_forbid_no_context_that_is_asked_for(self) -> None:
        it = chosen(asked=16_384, free=3 * GIB // 2, copies=GIB)
        assert (it.context, "copies of its states" in it.limit) == (16_384, True)


@pytest.mark.parametrize(("kind", "drafts"), [("qwen35", False), ("mamba", False), ("lfm2", True)])
def test_states_of_a_model_are_counted_when_its_context_is_chosen(
    tmp_path: Path, kind: str, drafts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(kind, tmp_path).gguf
    assert path is not None
    told: list[int] = []
    fit = memory.fit

    def spied(*given: Any, **named: Any) -> memory.Fit:
        told.append(given[5])
        return fit(*given, **named)

    monkeypatch.setattr(memory, "fit", spied)
    monkeypatch.setattr(memory, "available", lambda: GIB)
    engine = load(str(path), "auto", EngineOptions(threads=1, slots=2, drafts=drafts, flash_attention="off"))
    assert isinstance(engine, SlotRuntime)
    states = engine.model.states
    assert states is not None and states.bytes > 0
    count = 2 + engine.capacity if drafts else 2 * (1 + engine.snapshots)
    assert told == [GIB - count * states.bytes]
    engine.close()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of a tiny model by runtime."""
    made = make("llama", tmp_path_factory.mktemp("shapes"))
    return {"llamacpp": str(made.gguf), "transformers": str(made.folder)}


class TestDrafts:
    """How much context a draft model takes. The tiny model was made for 512 tokens."""

    @pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
    @pytest.mark.parametrize(
        ("asked", "target", "context"),
        [(None, 200, 200), (None, 100_000, 512), ("300", 300, 300), ("100000", 100_000, 512)],
    )
    def test_beside_a_target(
        self, engine: str, asked: str | None, target: int, context: int, shapes: dict[str, str]
    ) -> None:
        """It needs no more than the target has. It may have been trained with less than -c asks for."""
        flags = ["-t", "1", "-fa", "off", "-md", shapes[engine], *(["-c", asked] if asked else [])]
        args = cli.of_draft_model(lead.flags.parser().parse_args(flags), target)
        draft = models.load_engine(args, "draft", 8, 1)
        assert (draft.runtime, draft.context) == (engine, context)
        draft.close()

    def test_in_llama_cpp_a_small_one_takes_few_cells(self, shapes: dict[str, str], monkeypatch: Any) -> None:
        monkeypatch.setattr(llama_cpp, "llama_model_n_ctx_train", lambda model: 1 << 20)
        of: dict[str, int] = {}
        for which, parser in (("draft", back.__main__.parser()), ("target", lead.flags.parser())):
            args = parser.parse_args(["-m", shapes["llamacpp"], "-t", "1", "-fa", "off"])
            loaded = models.load_engine(args, "draft" if which == "draft" else "target", 8, 2)
            of[which] = loaded.context
            loaded.close()
        assert of == {"draft": DRAFT_CELLS // 2, "target": CELLS // 2}


class TestWhereLayersRun:
    """Half of a model on a GPU leaves half of its weights, and of its keys and values, to the memory of the CPU."""

    @pytest.mark.parametrize(
        ("gpu_layers", "on_cpu"), [(0, 30), (1, 30), (2, 29), (30, 1), (31, 0), (native.ALL_LAYERS, 0)]
    )
    def test_how_many_stay_on_the_cpu(self, gpu_layers: int, on_cpu: int) -> None:
        assert context_size.layers_on_cpu(gpu_layers, 30) == on_cpu

    @pytest.fixture
    def model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """32 GiB of weights in 32 layers, 1 MiB a token, trained with 65,536."""
        for name, value in {
            "n_ctx_train": 65_536, "n_layer": 32, "n_embd": 1, "n_head": 1, "n_head_kv": 1, "size": 32 * GIB
        }.items():  # fmt: skip
            monkeypatch.setattr(llama_cpp, f"llama_model_{name}", lambda model, value=value: value)
        monkeypatch.setattr(context_size, "metadata", lambda path: {})
        monkeypatch.setattr(context_size, "bytes_per_token", lambda *numbers: 1 << 20)

    @pytest.mark.usefixtures("model")
    @pytest.mark.parametrize(
        ("gpu_layers", "free", "gpu", "asked", "context"),
        [
            (0, 48 * GIB, None, 0, 4096),  # 16 GiB left, 12 of them for the context; USUAL for it clears its memory
            (17, 20 * GIB, 64 * GIB, 0, 4096),
            (17, 20 * GIB, 64 * GIB, 30_000, 30_000),  # half of the weights and half of the cache in 20 GiB
            (17, 20 * GIB, 2 * GIB, 0, 3072),
            (33, GIB, 64 * GIB, 0, 49_152),
        ],
    )
    def test_each_has_what_its_layers_need(
        self, gpu_layers: int, free: int, gpu: int | None, asked: int, context: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(context_size, "gpu_memory", lambda: gpu)
        options = EngineOptions(gpu_layers=gpu_layers, context=asked)
        it = context_size.choose(Path("m.gguf"), None, options, cells=True, before=free)
        assert (it.context, it.bytes) == (context, context << 20)

    @pytest.mark.usefixtures("model")
    def test_half_of_the_weights_do_not_fill_the_memory_of_the_other_half(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(context_size, "gpu_memory", lambda: 64 * GIB)
        it = context_size.choose(Path("m.gguf"), None, EngineOptions(gpu_layers=17), cells=True, before=24 * GIB)
        assert "weights" not in it.limit


@given(
    trained=st.integers(256, 1 << 20),
    slots=st.integers(1, 64),
    per_token=st.integers(1, 1 << 20),
    free=st.integers(1 << 28, 1 << 42),
)
def test_the_choice_fits_and_is_no_smaller_than_before_where_memory_allows(
    trained: int, slots: int, per_token: int, free: int
) -> None:
    try:
        it = chosen(trained=trained, slots=slots, per_token=per_token, free=free, cleared=CLEARED, cells=CELLS)
    except ModelError:
        assert int(free * memory.FREE_SHARE) < 257 * per_token * slots
        return
    assert 0 < it.context <= trained
    assert it.bytes <= free * memory.FREE_SHARE
    usual = min(trained, USUAL)
    assert it.context >= usual or (it.context + 256) * per_token * slots > free * memory.FREE_SHARE


@pytest.mark.parametrize(
    ("header", "layers", "heads_kv", "per_token"),
    [
        ({}, 30, 3, 30 * 3 * (64 + 64) * 2),
        ({"attention.head_count_kv": 1, "attention.key_length": 256, "attention.value_length": 256}, 18, 1, 18 * 1024),
        ({"attention.head_count_kv": [0, 0, 2, 0]}, 4, 0, 2 * 128 * 2),
        ({"attention.head_count_kv": 2, "full_attention_interval": 4}, 8, 2, 2 * 2 * 128 * 2),
        ({"attention.head_count_kv": 1, "attention.key_length": 576, "attention.key_length_mla": 192}, 2, 1, 2 * 1152),
        ({"attention.head_count_kv": 1, "attention.shared_kv_layers": 10}, 30, 1, 20 * 128 * 2),
        ({"attention.head_count_kv": 1, "attention.key_length": 64, "attention.key_length_swa": 96}, 1, 1, 160 * 2),
        ({"attention.head_count_kv": 1, "attention.key_length": [64, 96]}, 2, 1, 2 * 160 * 2),
    ],
)
def test_bytes_of_a_token_in_llama_cpp(header: dict[str, Any], layers: int, heads_kv: int, per_token: int) -> None:
    assert of_gguf(header, layers, 576, 9, heads_kv) == per_token


@pytest.mark.parametrize(
    ("config", "per_token"),
    [
        ({"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}, 46_080),
        ({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}, 2 * 4 * 32 * 4),
        ({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "head_dim": 8}, 2 * 4 * 16 * 4),
        (
            {
                "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 64,
                "layer_types": ["linear_attention", "conv", "full_attention"],
            },
            4 * 32 * 4,
        ),
        (
            {
                "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 64, "qk_nope_head_dim": 16,
                "qk_rope_head_dim": 8, "v_head_dim": 12,
            },
            2 * 36 * 4,
        ),
    ],
)  # fmt: skip
def test_bytes_of_a_token_in_transformers(config: dict[str, Any], per_token: int) -> None:
    assert of_config(SimpleNamespace(**config), 4, 3) == per_token + 12


@pytest.mark.parametrize(
    "kind", ["llama", "gemma3", "gpt-oss", "deepseek2", "qwen35", "lfm2", "jamba", "kimi-linear", "granitehybrid"]
)
def test_llama_cpp_stores_so_many_bytes_of_a_token(tmp_path: Path, kind: str) -> None:
    """A saved sequence grows with each token by the token's bytes, and by its position and sequence."""
    path = make(kind, tmp_path).gguf
    assert path is not None
    model = Model(path, EngineOptions(threads=1), lambda share: None)
    context = native.make_context(path, model.handle, EngineOptions(threads=1), 256, 16, 1)
    sizes = []
    for count in (2, 6):  # fewer than a window holds: what is outside of it would not be written
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        native.Batch(16).decode(context, [5] * count, list(range(count)), [(0,)] * count, slice(0))
        sizes.append(llama_cpp.llama_state_seq_get_size(context, 0))
    llama_cpp.llama_free(context)
    seen = (sizes[1] - sizes[0]) / 4
    assert 0 <= seen - model.fit.bytes / model.context <= 32


class TestAvailable:
    @staticmethod
    def system(root: Path, free: int) -> None:
        (root / "proc/self").mkdir(parents=True, exist_ok=True)
        (root / "proc/meminfo").write_text(f"MemTotal: 9999999 kB\nMemAvailable: {free // 1024} kB\n")

    @staticmethod
    def group(folder: Path, limit: str, used: int, file: int, old: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
        for name, text in zip(names, (limit, str(used)), strict=True):
            (folder / name).write_text(f"{text}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{'total_' if old else ''}inactive_file {file}\n")

    def test_the_system_alone(self, tmp_path: Path) -> None:
        self.system(tmp_path, 5 * GIB)
        assert available(tmp_path) == 5 * GIB

    @pytest.mark.parametrize(
        ("limit", "used", "file", "free"),
        [(str(4 * GIB), 3 * GIB, GIB, 2 * GIB), ("max", 3 * GIB, 0, 5 * GIB), (str(GIB), 2 * GIB, 0, 0)],
    )
    def test_a_control_group(self, tmp_path: Path, limit: str, used: int, file: int, free: int) -> None:
        self.system(tmp_path, 5 * GIB)
        (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
        self.group(tmp_path / "sys/fs/cgroup/a/b", limit, used, file)
        assert available(tmp_path) == free

    def test_one_above_it_and_a_container_that_sees_its_own_as_the_root(self, tmp_path: Path) -> None:
        self.system(tmp_path, 5 * GIB)
        (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
        self.group(tmp_path / "sys/fs/cgroup/a/b", "max", 0, 0)
        self.group(tmp_path / "sys/fs/cgroup/a", str(3 * GIB), GIB, 0)
        assert available(tmp_path) == 2 * GIB
        self.group(tmp_path / "sys/fs/cgroup", str(2 * GIB), GIB, 0)
        assert available(tmp_path) == GIB

    def test_the_first_kind_of_control_groups(self, tmp_path: Path) -> None:
        self.system(tmp_path, 5 * GIB)
        (tmp_path / "proc/self/cgroup").write_text("5:cpu:/\n4:memory:/x\n0::/\n")
        self.group(tmp_path / "sys/fs/cgroup/memory/x", str(3 * GIB), GIB, GIB // 2, old=True)
        assert available(tmp_path) == 2.5 * GIB

    def test_this_machine(self) -> None:
        assert (available() or 0) > 1 << 20
