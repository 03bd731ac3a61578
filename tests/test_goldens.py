"""What the programs say to the outside, as it was written down: command lines, the HTTP document, figures, names.

A change on purpose: `python -m tests.test_goldens --update`, then read the difference. Sentences have files of their
own (`*.prose.txt`), so that a plainer sentence does not look like another flag or field.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from fastapi.testclient import TestClient

import back.__main__
import bench.__main__
import chat
import lead.__main__
from bench.harness.processes import BackProcess, LeadProcess
from bench.show.trace import load
from lead.api import BackView, Benefit, Tally
from lead.http.app import create_app
from lead.http.info.metrics import Metrics
from lead.http.site import Options
from tests.support.http import SUMMARY, ScriptedAnswerer

FOLDER = Path(__file__).with_name("goldens")

PROGRAMS = {"lead": lead.__main__.main, "back": back.__main__.main, "chat": chat.main}
PLANS = {
    "one-back": "--target-ms 1:65,2:72,4:91,8:132,16:181 --draft-ms 30 --round-trip 10 --tokens 150",
    "two-backs": "--target-ms 1:24,2:46,4:46,8:88,16:130 --draft-ms 8 15 --round-trip 5 --jitter 2 --tokens 150",
}
SIMULATIONS = {
    "varying": "--targets flat,bf16 --draft-ms 8 --round-trips 1,10 --acceptance 0.8 --tokens 150 --jobs 1",
    "iid": "--targets Q8_0 --draft-ms 2 --round-trips 5 --acceptance 0.9 --tokens 150 --jobs 1 --iid",
    "answers": "--targets bf16 --draft-ms 15 --round-trips 5 --acceptance 0.7 --tokens 150 --jobs 1 "
    "--bursty --jitter 2 --away 3:1 --answers 20:30 --backs 2",
}
DIGITS = 9
"""Of simulated figures. Processors may round the last ones otherwise."""
PROSE = ("description", "summary")
"""Keys of the HTTP document whose text is prose."""


def run(main: Callable[[list[str]], int], *arguments: str) -> str:
    """What a program prints on a terminal of 100 columns, on a machine that is called `host`."""
    out = io.StringIO()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DUO_")} | {"COLUMNS": "100"}
    with (
        patch.dict(os.environ, environment, clear=True),
        patch("socket.gethostname", return_value="host"),
        contextlib.redirect_stdout(out),
    ):
        try:
            code: object = main([*arguments])
        except SystemExit as end:
            code = end.code
    assert not code, f"{arguments}: exit code {code}"
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def flags_of(program: str) -> str:
    """Of its help text: the usage, the groups, and each flag with its names, metavar, choices and short default."""
    usage, _, rest = help_of(program).partition("\n\n")
    kept = [" ".join(usage.split())]
    for line in re.sub(r"\n {10,}", "  ", rest).splitlines():
        if re.match(r"\w[^.]*:$", line):
            kept += ["", line]
        elif found := re.match(r"  ?(-.*?|[A-Z]+)(   *.*)?$", line):
            kept.append(found[1])
        if line.startswith("  "):
            kept += [f"    (default: {word})" for word in re.findall(r"\(default: +(\S+)\)", line)]
    return "\n".join(kept) + "\n"


def http_document() -> Any:
    document = TestClient(create_app(ScriptedAnswerer(), Options(metrics=True))).get("/openapi.json").json()
    del document["info"]["version"]
    return document


def fields(node: Any) -> Any:
    """The document without its prose."""
    if isinstance(node, list):
        return [fields(item) for item in node]
    if isinstance(node, dict):
        return {k: fields(v) for k, v in node.items() if not (k in PROSE and isinstance(v, str))}
    return node


def sentences(node: Any, where: str = "") -> Iterator[str]:
    """Its prose alone, each with its place."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if key in PROSE and isinstance(value, str):
            yield f"{where}/{key}: {' '.join(value.split())}"
        else:
            yield from sentences(value, f"{where}/{key}")


def planned(arguments: str) -> str:
    return run(bench.__main__.main, "plan", *arguments.split())


def simulated(arguments: str) -> str:
    """What a sweep prints, and its cells to the digit."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        printed = run(bench.__main__.main, "simulate", *arguments.split(), "--out", folder)
        cells = json.loads((Path(folder) / "sweep.json").read_text("utf-8"))["cells"]
    return printed + as_json(cells)


def rounded(node: Any) -> Any:
    if isinstance(node, float):
        return float(f"{node:.{DIGITS}g}")
    if isinstance(node, list):
        return [rounded(item) for item in node]
    return {k: rounded(v) for k, v in node.items()} if isinstance(node, dict) else node


def as_json(node: Any) -> str:
    return json.dumps(rounded(node), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def metric_names() -> str:
    """Names, types and labels of all series, after an answer with a back's guesses and a refused request."""
    answerer = ScriptedAnswerer()
    answerer.summary = replace(SUMMARY, backs={"mac": Tally(5, 3)})
    answerer.views = [BackView("mac", "draft", "drafting", 1.5, 5, 3)]
    answerer.benefit = Benefit(2.1, 0.1, 41.2, 19.6, "with")
    metrics = Metrics(answerer)
    answerer.observers = [metrics]
    client = TestClient(create_app(answerer, Options(metrics=True), metrics))
    assert client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}]}).is_success
    assert client.post("/v1/chat/completions", json={}).status_code == 400
    kept: dict[str, None] = {}
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("# TYPE "):
            kept[line.removeprefix("# TYPE ")] = None
        elif not line.startswith("#"):
            series = line.rpartition(" ")[0]
            kept["    " + re.sub(r'(?<!le)="[^"]*"', "", series)] = None
    return "".join(f"{line}\n" for line in kept)


Names = dict[str, dict[str, list[list[str]]]]
"""By lane and event: the names of its details, in each of its forms."""


def traced(path: Path) -> Names:
    """The names in a trace."""
    lanes: dict[int, str] = {}
    found: Names = {}
    for event in load(path):
        if event["name"] == "thread_name":
            lanes[event["tid"]] = event["args"]["name"]
        elif event["ph"] != "M":
            forms = found.setdefault(lanes[event["tid"]], {}).setdefault(event["name"], [])
            if (details := sorted(event["args"])) not in forms:
                forms.append(details)
    return found


def traces() -> Mapping[str, Names]:
    """The names that a lead with a draft model and a back write down while they answer."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, f"{name}.json") for name in ("lead", "back")}
        flags = {name: ("--threads", "1", "--trace", str(path)) for name, path in paths.items()}
        with LeadProcess(*flags["lead"], "--model-draft", "shipped") as lead:
            lead.ready()
            lead.ask("What does os.path.join do?", temperature=0, max_tokens=30, ignore_eos=True)
            with BackProcess(lead.back_port, *flags["back"]) as back:
                lead.has_backs(1)
                for seed in range(3):
                    lead.ask("What does shutil.copytree do?", seed=seed, max_tokens=60, ignore_eos=True)
                back.stop()
            lead.stop()
        return {name: traced(path) for name, path in paths.items()}


def help_of(program: str) -> str:
    return run(PROGRAMS[program], "--help")


def http_prose() -> str:
    return "".join(f"{line}\n" for line in sorted(sentences(http_document())))


QUICK: dict[str, Callable[[], str]] = {
    "openapi.json": lambda: as_json(fields(http_document())),
    "openapi.prose.txt": http_prose,
    "metrics.txt": metric_names,
    **{f"{program}.help.prose.txt": partial(help_of, program) for program in PROGRAMS},
    **{f"{program}.flags.txt": partial(flags_of, program) for program in PROGRAMS},
    **{f"plan.{name}.txt": partial(planned, arguments) for name, arguments in PLANS.items()},
    **{f"simulate.{name}.txt": partial(simulated, arguments) for name, arguments in SIMULATIONS.items()},
}
"""What makes each golden, but the one of traces, which depends on how fast the machine is."""


@pytest.mark.parametrize("name", QUICK)
def test_goldens(name: str) -> None:
    if name.startswith(tuple(PROGRAMS)) and sys.version_info[:2] != (3, 11):
        pytest.skip("argparse of other Python versions lays help texts out otherwise")
    golden, now = (FOLDER / name).read_text("utf-8"), QUICK[name]()
    if golden != now:
        lines = difflib.unified_diff(golden.splitlines(), now.splitlines(), f"goldens/{name}", "now", lineterm="")
        pytest.fail("\n".join(["if this is on purpose: python -m tests.test_goldens --update", *lines]), pytrace=False)


@pytest.mark.slow
def test_names_in_traces() -> None:
    """A run shows these names and no others. What `sometimes` names happens only on a slow, or a fast, machine."""
    golden = json.loads((FOLDER / "trace.json").read_text("utf-8"))
    for program, lanes in traces().items():
        known = golden[program]
        now = {(lane, event) for lane, events in lanes.items() for event in events}
        assert now >= {(lane, event) for lane in known for event in known[lane]} - set(map(tuple, golden["sometimes"]))
        for lane, event in now:
            assert all(form in known[lane][event] for form in lanes[lane][event]), f"{program}, {lane}, {event}"


def update() -> None:
    """Write all but trace.json, which is edited by hand."""
    for name, make in QUICK.items():
        (FOLDER / name).write_text(make(), "utf-8")


if __name__ == "__main__":
    assert sys.argv[1:] == ["--update"], "python -m tests.test_goldens --update"
    update()
