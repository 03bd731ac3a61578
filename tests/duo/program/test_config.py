"""Settings: a flag goes before a variable, a variable before the file, the file before the default."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

import back.__main__
import lead.flags
from duo import __version__
from duo.engines.options import GPU_ALL, GPU_AUTO
from duo.program.values import several

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A file with these settings; its name."""

    def put(text: str) -> str:
        path = tmp_path / "duo.yaml"
        path.write_text(text, errors="surrogateescape")
        return str(path)

    return put


def lead_args(*argv: str) -> argparse.Namespace:
    return lead.flags.parser().parse_args(list(argv))


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What the lead says of flags that it does not take: one line, and exit code 2."""
    with pytest.raises(SystemExit) as ended:
        lead_args(*argv)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_precedence(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lead_args().context == 0
    file = write("ctx-size: 100\nqueue: 7\nmodel: x.gguf\n")
    assert lead_args("--config", file).context == 100
    monkeypatch.setenv("DUO_LEAD_CTX_SIZE", "200")
    args = lead_args("--config", file)
    assert (args.context, args.queue, args.model) == (200, 7, "x.gguf")
    assert lead_args("--config", file, "-c", "300").context == 300
    assert lead_args("--config", file, "--n_ctx=400").context == 400


def test_the_file_may_be_named_in_the_environment(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUO_BACK_CONFIG", write("lead: strong:1234\nn_ahead: 3\ntls: true\n"))
    args = back.__main__.parser().parse_args([])
    assert (args.lead, args.n_ahead, args.tls) == ("strong:1234", 3, True)


def test_several_values(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("api-key: [one, two]\ncors-origin:\n- http://a\n- http://b\n")
    args = lead_args("--config", file)
    assert (args.api_key, args.cors_origin) == (["one", "two"], ["http://a", "http://b"])
    monkeypatch.setenv("DUO_LEAD_CORS_ORIGIN", "http://c, http://d")
    assert several(lead_args("--config", file).cors_origin) == ["http://c", "http://d"]
    monkeypatch.setenv("DUO_LEAD_API_KEY", "three")
    assert lead_args("--config", file).api_key == ["three"]
    assert lead_args("--config", file, "--api-key", "4", "--api-key", "5").api_key == ["4", "5"]


@pytest.mark.parametrize("word", ["false", "no", "off"])
def test_switches(write: Write, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    assert lead_args().slots
    file = write(f"slots: {word}\nmetrics: true\n")
    args = lead_args("--config", file)
    assert (args.slots, args.metrics) == (False, True)
    assert lead_args("--config", file, "--slots").slots
    monkeypatch.setenv("DUO_LEAD_SLOTS", "true")
    assert lead_args("--config", file).slots
    monkeypatch.setenv("DUO_LEAD_METRICS", word)
    assert not lead_args("--config", file).metrics


@pytest.mark.parametrize("word", ["on", "1", "yes", "True", "TRUE", "off", "0", "no", "False", "auto"])
def test_exact_was_a_switch_once(write: Write, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    mode = {"auto": "auto", "off": "off", "0": "off", "no": "off", "False": "off"}.get(word, "on")
    assert lead_args().exact == "auto" and lead_args("--exact").exact == "on"
    assert lead_args("--exact", word).exact == mode
    assert lead_args("--config", write(f"exact: {word}\n")).exact == mode
    monkeypatch.setenv("DUO_LEAD_EXACT", word)
    assert lead_args().exact == mode


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exact: perhaps\n", "'perhaps' is none of on, off and auto"),
        ("ctx-sise: 100\n", "there is no setting 'ctx-sise': did you mean ctx-size?"),
        ("zzz: 1\n", "there is no setting 'zzz': its keys are the long flags"),
        ("list-devices: true\n", "there is no setting 'list-devices'"),
        ("config: other.yaml\n", "there is no setting 'config'"),
        ("announce: [a]\n", "announce is a list: it must be true or false"),
        ("api-key: ''\n", "more than spaces and commas"),
        ("alias: caf\udce9\n", "it is not text in UTF-8"),
        ("[" * 5000, "recursion"),
        ("no-slots: true\n", "there is no setting 'no-slots': did you mean slots?"),
        ("- 1\n- 2\n", "YAML mapping"),
        ("queue:\n  length: 7\n", "queue holds settings of its own"),
        ("a: [\n", "line 2: expected the node content"),
        ("port: 99999\n", "'99999' is not a port"),
        ("port: [1, 2]\n", "port can't be set to a list"),
    ],
)
def test_what_is_wrong_with_a_file(capsys: pytest.CaptureFixture[str], write: Write, text: str, words: str) -> None:
    line = refusal(capsys, "--config", write(text))
    assert words in line
    assert "duo.yaml" in line or text.partition(":")[0] in line


def test_values_are_what_is_written(write: Write) -> None:
    """YAML's own `on` is a truth value, and 0x10 a number."""
    args = lead_args(
        "--config", write("flash-attn: on\nalias: yes\nmodel-draft:\nqueue: NULL\ntoken: 0x10\napi-key: 'null'\n")
    )
    assert (args.flash_attention, args.alias, args.model_draft, args.queue) == ("on", "yes", "", 64)
    assert (args.token, args.api_key) == (["0x10"], ["null"])


@pytest.mark.parametrize("text", ["", "# queue: 7\n", "---\n"])
def test_a_file_may_be_empty(write: Write, text: str) -> None:
    assert lead_args("--config", write(text)).queue == 64


def test_llama_servers_words_for_leaving_it_open() -> None:
    args = lead_args("--ctx-size", "0", "--threads", "-1", "-np", "-1")
    assert (args.context, args.threads, args.parallel) == (0, 0, 4)


def test_what_is_wrong_elsewhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no-such.yaml" in refusal(capsys, "--config", "no-such.yaml")
    assert "unrecognized arguments: --ctx" in refusal(capsys, "--ctx", "5")
    assert "unrecognized arguments: one two" in refusal(capsys, "one", "two")
    monkeypatch.setenv("DUO_LEAD_PORT", "x")
    assert "--port: 'x' is not a port" in refusal(capsys)


@pytest.mark.parametrize(
    "flag", ["-ctk q8_0", "-cd 512", "-hx a/b", "-mdl x", "-ngla 3", "-ng 3", "-tx=3", "-vx", "-nx 10", "-f on", "-g"]
)
def test_an_unknown_flag_is_named(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    """-c has nothing to do with -ctk, nor -h with -hx: what is wrong is that there is no such flag."""
    words = flag.split(" ")
    line = refusal(capsys, "-c", "64", *words, "--port", "1")
    assert f"there is no flag {words[0].partition('=')[0]}" in line


def test_a_flag_with_its_number_in_one_word() -> None:
    args = lead_args("-c512", "-t2", "-b64")
    assert (args.context, args.threads, args.batch) == (512, 2, 64)


def test_a_mistyped_flag_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no flag --ctx-sizes, did you mean --ctx-size?" in refusal(capsys, "--ctx-sizes=5")


@pytest.mark.parametrize(
    ("word", "layers"), [("auto", GPU_AUTO), ("-1", GPU_AUTO), ("all", GPU_ALL), ("-2", GPU_ALL), ("0", 0), ("33", 33)]
)
def test_layers_on_the_gpu(word: str, layers: int) -> None:
    args = lead_args("-ngl", word, "-ngld", word)
    assert (args.gpu_layers, args.gpu_layers_draft) == (layers, layers)


def test_layers_on_the_gpu_are_auto_or_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert (lead_args().gpu_layers, lead_args().gpu_layers_draft) == (GPU_AUTO, GPU_AUTO)
    assert back.__main__.parser().parse_args([]).gpu_layers == GPU_AUTO
    for wrong in ("some", "4294967295", "2147483648"):
        assert f"'{wrong}' is not a number of layers, auto or all" in refusal(capsys, "-ngl", wrong)


@pytest.mark.parametrize(
    ("names", "dest"),
    [
        ("--draft-max --draft --draft-n --spec-draft-n-max", "draft_max"),
        ("--draft-min --draft-n-min --spec-draft-n-min", "draft_min"),
        ("--gpu-layers --n-gpu-layers", "gpu_layers"),
        ("--spec-draft-ngl --gpu-layers-draft", "gpu_layers_draft"),
        ("--spec-draft-threads --threads-draft", "threads_draft"),
    ],
)
def test_llama_servers_names_of_today_and_of_before(names: str, dest: str) -> None:
    assert [getattr(lead_args(name, "3"), dest) for name in names.split()] == [3] * len(names.split())


def test_a_variable_may_have_any_name_of_its_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    monkeypatch.setenv("DUO_LEAD_SPEC_DRAFT_N_MAX", "7")
    monkeypatch.setenv("DUO_LEAD_N_CTX", "256")
    args = lead_args("--config", write("draft-max: 5\n"))
    assert (args.draft_max, args.context) == (7, 256)
    assert lead_args("--draft-max", "6").draft_max == 6
    monkeypatch.setenv("DUO_LEAD_DRAFT_MAX", "7")
    assert lead_args().draft_max == 7
    monkeypatch.setenv("DUO_LEAD_DRAFT_MAX", "8")
    both = "DUO_LEAD_DRAFT_MAX and DUO_LEAD_SPEC_DRAFT_N_MAX are the same setting with different values"
    assert both in refusal(capsys)


def test_llama_servers_other_names() -> None:
    args = lead_args("--spec-draft-p-min", "0.25", "--spec-draft-model", "m.gguf", "--cors-origins", "*")
    assert (args.draft_p_min, args.model_draft, args.cors_origin) == (0.25, "m.gguf", ["*"])


@pytest.mark.parametrize("program", [lead.flags, back.__main__])
def test_help_is_complete(program: object) -> None:
    """Every flag with a word of what it does, in a group; and how to set it elsewhere."""
    parser = program.parser()  # type: ignore[attr-defined]
    lines = parser.format_help().splitlines()
    text = " ".join(" ".join(lines).split())
    assert f"DUO_{parser.prog.upper()}_CTX_SIZE" in text
    flags = [(line.strip(), below) for line, below in pairwise(lines) if line.startswith("  -")]
    assert all("  " in flag or below.startswith(" " * 10) for flag, below in flags)
    assert all(f"--{key}" in text for key in parser.keys)


def test_version_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, words in (("--version", f"duo {__version__}"), ("--list-devices", "--threads ")):
        with pytest.raises(SystemExit) as ended:
            lead_args(flag)
        assert not ended.value.code
        assert words in capsys.readouterr().out
