"""The file of `--models`: what it means, and the one line for what makes no sense."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

import lead.flags
from lead.models import settings
from lead.models.settings import Settings


def read(tmp_path: Path, text: str, *flags: str) -> Settings:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    parser = lead.flags.parser()
    args = parser.parse_args(["--models", str(path), *flags])
    return settings.read(str(path), args, parser, lead.flags.parser())


def test_all_keys(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        max_loaded: 2
        globalTTL: 600
        healthCheckTimeout: 300
        hooks: {on_startup: {preload: [gpt-4o]}}
        models:
          coder:
            flags: |
              -m /models/coder.gguf  # the large one
              --ctx-size 4096 --exact
            aliases: [gpt-4o, o3]
            ttl: 60
            name: Coder
            description: writes code
            env: [CUDA_VISIBLE_DEVICES=1, EMPTY=]
          7: {flags: [-m, "/a b/c", -np, 2], ttl: -1, unlisted: true}
          bare:
        """,
        "--parallel", "8", "--queue", "5",
    )  # fmt: skip
    coder, seven, bare = found.models
    assert (found.max_loaded, found.load_seconds, found.preload) == (2, 300, ("coder",))
    assert (coder.name, coder.aliases, coder.ttl) == ("coder", ("gpt-4o", "o3"), 60)
    assert (coder.title, coder.description, coder.env) == (
        "Coder", "writes code", {"CUDA_VISIBLE_DEVICES": "1", "EMPTY": ""}
    )  # fmt: skip
    assert (coder.args.model, coder.args.context, coder.args.exact) == ("/models/coder.gguf", 4096, "on")
    assert (coder.args.parallel, coder.args.queue) == (8, 5), "flags of the lead hold for all its models"
    assert (seven.name, seven.args.model, seven.args.parallel) == ("7", "/a b/c", 2)
    assert (seven.ttl, seven.unlisted) == (600, True)
    assert (bare.args.model, bare.args.context, bare.ttl) == (None, 0, 600)
    assert found.find("o3") is coder and found.find("bare") is bare and found.find("x") is None


@pytest.mark.parametrize(("most", "shares"), [(1, 1), (2, 2), (5, 3)])
def test_models_that_are_loaded_together_share_the_memory(tmp_path: Path, most: int, shares: int) -> None:
    found = read(tmp_path, f"models: {{a: , b: , c: }}\nmax_loaded: {most}")
    assert [model.args.memory_shares for model in found.models] == [shares] * 3


def test_variables_and_the_file_of_config_hold_for_all_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUO_LEAD_CTX_SIZE", "256")
    config = tmp_path / "lead.yaml"
    config.write_text("parallel: 3\n")
    (model,) = read(tmp_path, "models: {a: {flags: -np 2}}", "--config", str(config)).models
    assert (model.args.context, model.args.parallel) == (256, 2)


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        ("models: {a: {tll: 5}}", [], ["models: a:", "'tll'", "did you mean ttl?"]),
        ("model: {a: {}}", [], ["'model'", "did you mean models?"]),
        ("models: {a: {cmd: llama-server}}", [], ["models: a: cmd", "llama-swap", "flags"]),
        ("models: {a: }\ngroups: {x: {}}", [], ["groups", "llama-swap", "max_loaded"]),
        ("models: {a: {ttl: soon}}", [], ["models: a: ttl is 'soon'", "seconds"]),
        ("models: {a: {ttl: -5}}", [], ["models: a: ttl is -5"]),
        ("models: {a: {ttl: true}}", [], ["models: a: ttl is True"]),
        ("models: {a: {ttl: .nan}}", [], ["models: a: ttl is nan"]),
        ("models: {a: {flags: --ctx-sizes 5}}", [], ["models: a: flags", "--ctx-sizes", "did you mean --ctx-size?"]),
        ("models: {a: {flags: --ctx-size few}}", [], ["models: a: flags", "'few'"]),
        ("models: {a: {flags: --port 5}}", [], ["models: a: flags", "--port", "command line"]),
        ("models: {a: {flags: --api-key x}}", [], ["models: a: flags", "--api-key"]),
        ("models: {a: {flags: -a x}}", [], ["models: a: flags", "--alias", "the name in the file"]),
        ("models: {a: {flags: --models x}}", [], ["models: a: flags", "--models"]),
        ("models: {a: {flags: --help}}", [], ["models: a: flags", "--help"]),
        ("models: {a: {flags: '-m \"x'}}", [], ["models: a: flags", "quotation"]),
        ("models: {a: {flags: 5}}", [], ["models: a: flags is 5", "list"]),
        ("models: {a: {flags: {m: x}}}", [], ["models: a: flags"]),
        ("models: {a: {aliases: b}}", [], ["models: a: aliases is 'b'", "list"]),
        ("models: {a: {aliases: [b]}, b: {}}", [], ["models: a: aliases: b is a name of b"]),
        ("models: {a: {aliases: [c]}, b: {aliases: [c]}}", [], ["models: b: aliases: c is a name of a"]),
        ("models: {a: {env: [X]}}", [], ["models: a: env has 'X'", "NAME=value"]),
        ("models: {a: {unlisted: 1}}", [], ["models: a: unlisted is 1", "true or false"]),
        ("models: {a: {name: [x]}}", [], ["models: a: name is"]),
        ("models: {a: 5}", [], ["models: a is 5"]),
        ("models: {}", [], ["models is empty"]),
        ("models: [a]", [], ["models is ['a']"]),
        ("- a", [], ["models"]),
        ("", [], ["models"]),
        ("models: {a: {}, a: {}}", [], ["line 1", "a is there already"]),
        ("models: {a: {}\n  b", [], ["models.yaml", "line"]),
        ("models: {a: }\nmax_loaded: 0", [], ["max_loaded is 0"]),
        ("models: {a: }\nmax_loaded: two", [], ["max_loaded is 'two'"]),
        ("models: {a: }\nhooks: {on_startup: {preload: [b]}}", [], ["preload names b"]),
        ("models: {a: , b: }\nhooks: {on_startup: {preload: [a, b]}}", [], ["names 2 models", "max_loaded is 1"]),
        ("models: {a: }\nhooks: {onstartup: {}}", [], ["hooks:", "did you mean on_startup?"]),
        ("models: {a: }", ["-m", "x"], ["--model", "--models"]),
        ("models: {a: }", ["--alias", "x"], ["--alias", "--models"]),
        ("models: {a: }", ["--trace", "x"], ["--trace", "--models"]),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong_and_where(
    text: str, flags: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read(tmp_path, text, *flags)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert flags or "models.yaml" in line


@pytest.mark.parametrize("key", settings.LLAMA_SWAPS)
def test_the_page_has_what_is_said_of_llama_swaps_keys(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(lead.__file__).parents[1] / "docs" / "serving.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("|") and f"`{key}`" in line.split("|")[1]]
    for text in (f"models: {{a: {{{key}: x}}}}", f"models: {{a: }}\n{key}: x"):
        with pytest.raises(SystemExit):
            read(tmp_path, text)
        told = row.split("|")[2].strip()
        assert f"{key} is a key of llama-swap that a lead has not: {told}" in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = lead.flags.parser()
    with pytest.raises(SystemExit):
        settings.read(str(tmp_path / "no.yaml"), parser.parse_args([]), parser, lead.flags.parser())
    assert "no.yaml: no such file" in capsys.readouterr().err


def test_merges_of_yaml_spare_macros(tmp_path: Path) -> None:
    found = read(tmp_path, "models:\n  a: &usual {ttl: 5}\n  b: {<<: *usual, aliases: [c]}\n")
    assert [model.ttl for model in found.models] == [5, 5]


def test_the_examples_can_be_read(tmp_path: Path) -> None:
    examples = Path(lead.__file__).parents[1] / "examples"
    (target,) = read(tmp_path, (examples / "models.yaml").read_text()).models
    assert (target.ttl, target.args.context) == (600, 1024)
    commented = (examples / "models.yaml").read_text().replace("\n  # ", "\n  ")
    assert [model.name for model in read(tmp_path, commented).models] == ["target", "coder"]


def test_the_example_for_llama_swap_has_flags_of_a_lead() -> None:
    examples = Path(lead.__file__).parents[1] / "examples"
    for model in yaml.safe_load((examples / "llama-swap.yaml").read_text())["models"].values():
        program, *words = shlex.split(model["cmd"].replace("${PORT}", "5800"))
        assert program == "duo-lead"
        assert lead.flags.parser().parse_args(words).port == 5800


def test_settings_survive_the_way_to_a_process() -> None:
    """As JSON: so every flag has a value that JSON knows."""
    args = lead.flags.parser().parse_args([])
    assert json.loads(json.dumps(vars(args))) == vars(args)
