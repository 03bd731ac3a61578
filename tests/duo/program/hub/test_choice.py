"""Which files of a repository make a model."""

from __future__ import annotations

import pytest

from duo.errors import ModelError
from duo.program.hub.choice import Wanted, choose, shards, wanted

GGUFS = [
    "README.md",
    "config.json",
    "imatrix.gguf",
    "mmproj-F16.gguf",
    "m-IQ4_NL.gguf",
    "m-Q4_K_M.gguf",
    "m-Q8_0.gguf",
    "m-UD-Q4_K_XL.gguf",
    "BF16/m-BF16-00001-of-00002.gguf",
    "BF16/m-BF16-00002-of-00002.gguf",
    "F32/m-F32-00001-of-00002.gguf",
]
"""The second part of F32 is not there yet."""
CHECKPOINT = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "consolidated.safetensors",
    "pytorch_model.bin",
    "tokenizer.json",
    "tokenizer.model",
    "chat_template.jinja",
    "onnx/model.json",
    "original/tokenizer.model",
    "training_args.bin",
    "additional_chat_templates/tools.jinja",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", Wanted("a/b")),
        ("a/b:Q4_0", Wanted("a/b", "Q4_0")),
        (" unsloth/Qwen3.5-9B-GGUF:UD-Q4_K_XL", Wanted("unsloth/Qwen3.5-9B-GGUF", "UD-Q4_K_XL")),
        ("https://huggingface.co/a/b", Wanted("a/b")),
        ("https://huggingface.co/a/b:Q4_0", Wanted("a/b", "Q4_0")),
        ("https://hf.co/a/b/tree/main/", Wanted("a/b")),
        ("https://huggingface.co/a/b/blob/main/c/d.gguf", Wanted("a/b", "", "c/d.gguf")),
        ("https://huggingface.co/a/b/resolve/main/d.gguf?download=true", Wanted("a/b", "", "d.gguf")),
    ],
)
def test_names(text: str, expected: Wanted) -> None:
    assert wanted(text) == expected


NO_PAGES = ("https://huggingface.co/a", "https://huggingface.co/a/b/tree/dev", "https://example.com/a/b")


@pytest.mark.parametrize("text", ["b", "a/b/c", "/b", "a/", "a b/c", "../b", "", "a\n/b", "ä/b", *NO_PAGES])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ModelError, match="user/repo") as error:
        wanted(text)
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    ("quant", "first", "count"),
    [
        ("", "m-Q4_K_M.gguf", 1),
        ("q8_0", "m-Q8_0.gguf", 1),
        ("UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf", 1),
        ("Q4_K_XL", "m-UD-Q4_K_XL.gguf", 1),
        ("Q4_NL", "m-IQ4_NL.gguf", 1),
        ("BF16", "BF16/m-BF16-00001-of-00002.gguf", 2),
    ],
)
def test_a_gguf_by_its_quantisation(quant: str, first: str, count: int) -> None:
    choice = choose(GGUFS, Wanted("a/b", quant))
    assert (choice.first, len(choice.files)) == (first, count)
    assert choice.files[0] == first


def test_a_whole_word_goes_before_a_part_of_one() -> None:
    assert choose(["a-IQ4_0.gguf", "b-Q4_0.gguf"], Wanted("a/b", "Q4_0")).first == "b-Q4_0.gguf"


def test_the_default_is_llama_servers() -> None:
    assert choose(["m-BF16.gguf", "m-Q8_0.gguf"], Wanted("a/b")).first == "m-Q8_0.gguf"
    assert choose(["m-Q6_K.gguf", "m-Q5_0.gguf"], Wanted("a/b")).first == "m-Q5_0.gguf"


def test_an_unknown_quantisation_lists_what_there_is() -> None:
    with pytest.raises(ModelError, match=r"a/b has no Q3_K_S, but BF16, IQ4_NL, Q4_K_M, Q8_0, UD-Q4_K_XL$"):
        choose(GGUFS, Wanted("a/b", "Q3_K_S"))
    with pytest.raises(ModelError, match=r"but MXFP4_MOE, plain.gguf$"):
        choose(["m.MXFP4_MOE.gguf", "plain.gguf"], Wanted("a/b", "Q3_K_S"))
    with pytest.raises(ModelError, match="and 8 more"):
        choose([f"m-{i:02}.gguf" for i in range(20)], Wanted("a/b", "Q4_0"))


def test_a_file_by_its_name() -> None:
    assert choose(GGUFS, Wanted("a/b", file="M-Q8_0.gguf")).files == ["m-Q8_0.gguf"]
    parts = choose(GGUFS, Wanted("a/b", file="BF16/m-BF16-00001-of-00002.gguf")).files
    assert len(parts) == 2
    with pytest.raises(ModelError, match=r"--hf-file x.gguf: .* it has BF16/"):
        choose(GGUFS, Wanted("a/b", file="x.gguf"))
    with pytest.raises(ModelError, match="no GGUF files"):
        choose(CHECKPOINT, Wanted("a/b", file="config.json"))


def test_a_checkpoint_without_what_nobody_reads() -> None:
    choice = choose(CHECKPOINT, Wanted("a/b"))
    assert choice.first == ""
    assert set(choice.files) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
    }


def test_the_runtime_chooses_in_a_repository_with_both() -> None:
    both = [*GGUFS, "model.safetensors"]
    assert choose(both, Wanted("a/b")).first == "m-Q4_K_M.gguf"
    assert choose(both, Wanted("a/b"), ggufs=False).first == ""
    assert "model.safetensors" in choose(both, Wanted("a/b"), ggufs=False).files


@pytest.mark.parametrize(
    ("names", "asked", "ggufs", "checkpoints", "words"),
    [
        (CHECKPOINT, Wanted("a/b", "Q4_0"), True, True, "leave :Q4_0 out"),
        (CHECKPOINT, Wanted("a/b", "Q4_0"), False, True, "which this runtime does not read"),
        (CHECKPOINT, Wanted("a/b"), True, False, "leave --engine out"),
        (GGUFS, Wanted("a/b"), False, True, "leave --engine out"),
        (["config.json", "pytorch_model.bin"], Wanted("a/b"), True, True, "pickled weights only"),
        (["mmproj-F16.gguf"], Wanted("a/b"), True, True, "none is a whole model"),
        (["m-00002-of-00002.gguf"], Wanted("a/b"), True, True, "none is a whole model"),
        (["README.md"], Wanted("a/b"), True, True, "neither GGUF nor safetensors"),
        ([], Wanted("a/b"), False, True, "no safetensors"),
        (["config.json", "adapter_model.safetensors"], Wanted("a/b"), True, True, "neither GGUF nor safetensors"),
    ],
)
def test_nothing_to_load(names: list[str], asked: Wanted, ggufs: bool, checkpoints: bool, words: str) -> None:
    with pytest.raises(ModelError) as error:
        choose(names, asked, ggufs, checkpoints)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_shards() -> None:
    names = ["a.safetensors", "b.safetensors", "c.safetensors"]
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}
    assert shards(index, names, "a/b") == ["a.safetensors", "b.safetensors"]
    listings: list[object] = [None, {}, ["a.safetensors"], {"x": 1}]
    for listing in listings:
        with pytest.raises(ModelError, match="lists no files"):
            shards({"weight_map": listing}, names, "a/b")
    for strange in ("../../a.safetensors", "d.safetensors", "a.bin"):
        with pytest.raises(ModelError, match="lacks"):
            shards({"weight_map": {"x": strange}}, [*names, "a.bin"], "a/b")
