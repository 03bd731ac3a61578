"""The layout of the code: who imports whom, what pure parts leave out, how long files are, where tests stand.

It reads the source with `ast` and imports nothing of the product. Each rule has its list of today's sins, which may
only shrink: an entry that is no longer a sin fails the test.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BELOW = {"chat": "", "duo": "", "lead": "duo", "back": "duo", "bench": "duo lead back chat"}
"""The other parts of the product that each part may import."""
PURE_OF_LEAD = ("lead.plan", "lead.simulation", "lead.models.registry", "lead.models.places")
PURE = ("duo.sampling", "duo.wire", "duo.draft", "duo.guesses", "duo.prefix", *PURE_OF_LEAD)
"""Modules and folders without a clock, a thread, a socket or a runtime. Time comes in as an argument."""
SHELLS = {"duo.draft.model"}
"""The impure modules in pure folders."""
OUTSIDE = {
    *("time", "datetime", "sched", "threading", "queue", "multiprocessing", "concurrent", "subprocess", "signal"),
    *("asyncio", "anyio", "socket", "ssl", "select", "selectors", "http", "urllib", "requests", "grpc", "uvicorn"),
    *("torch", "transformers", "llama_cpp"),
}
"""What no pure module may reach."""
MAX_LINES = 400
VENDOR = "lead/http/page/static/vendor/"
"""Libraries of others, as their packages ship them."""
LONG_ON_PURPOSE = {"chat.py"}
"""People copy this file to other machines, so it stays one file."""
FREE_TESTS = ("tests.programs", "tests.test_")
"""Tests that stand for no single module: of whole programs, and of the repository."""

UPWARD: set[str] = set()
IMPURE: set[str] = set()
CIRCLES: set[str] = set()
LONG: set[str] = set()
IMPORTED_TESTS: set[str] = set()
MISPLACED: set[str] = set()


def sources(*suffixes: str) -> list[Path]:
    """Files of product and tests, without generated code."""
    folders = [ROOT / part for part in (*BELOW, "tests")]
    found = [ROOT / "chat.py", *(path for folder in folders for path in folder.rglob("*") if path.suffix in suffixes)]
    return [path for path in found if path.parent != ROOT / "duo" / "v1"]


def module(path: Path) -> str:
    """The dotted name of a file; a package has its folder's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in sources(".py")}


def imports(path: Path) -> Iterator[str]:
    """All that a file imports, in functions and for types too.

    `from a import b` stands for the module `a.b` if there is one, else for `a`.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path} has a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in whole)


@cache
def all_imports() -> Mapping[str, set[str]]:
    """What each module imports. It takes seconds, so it is not made while tests are collected."""
    return {name: set(imports(path)) for name, path in MODULES.items()}


def top(name: str) -> str:
    return name.partition(".")[0]


def reached(start: str) -> set[str]:
    """What a module imports, and what these import, and so on."""
    found = {start}
    waiting = [start]
    while waiting:
        new = all_imports().get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def upward() -> Iterator[str]:
    """Imports of a part that does not lie below."""
    parts = {*BELOW, "tests", "examples"}
    for name, imported in all_imports().items():
        if (part := top(name)) in BELOW:
            allowed = {part, *BELOW[part].split()}
            yield from (f"{name}: {other}" for other in imported if top(other) in parts - allowed)


def impure() -> Iterator[str]:
    """Pure modules that reach a clock, a thread, a socket or a runtime, through whatever they import."""
    for name in all_imports():
        if name not in SHELLS and any(f"{name}.".startswith(f"{pure}.") for pure in PURE):
            outside = OUTSIDE.intersection(map(top, reached(name)))
            if outside:
                yield f"{name}: {', '.join(sorted(outside))}"


def circles() -> Iterator[str]:
    """Modules that reach each other."""
    reaches = {name: reached(name) for name in MODULES}
    rings = {frozenset(other for other in reaches[name] if name in reaches.get(other, ())) for name in MODULES}
    yield from (", ".join(sorted(ring)) for ring in rings if len(ring) > 1)


def long() -> Iterator[str]:
    """Files that nobody reads in one sitting."""
    for path in sources(".py", ".js", ".css", ".html"):
        name = str(path.relative_to(ROOT))
        if name in LONG_ON_PURPOSE or name.startswith(VENDOR):
            continue
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES:
            yield name


def is_test(name: str) -> bool:
    return top(name) == "tests" and ".test_" in name


def imported_tests() -> Iterator[str]:
    """Tests that import a test. What tests share stands in tests/support."""
    for name, imported in all_imports().items():
        yield from (f"{name}: {other}" for other in imported if is_test(name) and is_test(other))


def misplaced() -> Iterator[str]:
    """Tests that have no module. The tests of `a/b.py` are `tests/a/test_b.py` and `tests/a/test_b_something.py`.

    Those of the folder `a` as a whole are `tests/a/test_a.py`.
    """
    for name in filter(is_test, MODULES):
        folder, _, subject = name.removeprefix("tests.").rpartition(".test_")
        words = subject.split("_")
        begins = {"_".join(words[:count]) for count in range(1, len(words) + 1)}
        whole = folder in MODULES and folder.rpartition(".")[2] in begins
        if not (name.startswith(FREE_TESTS) or whole or any(f"{folder}.{begin}" in MODULES for begin in begins)):
            yield name


@pytest.mark.parametrize(
    ("rule", "sins"),
    [
        (upward, UPWARD),
        (impure, IMPURE),
        (circles, CIRCLES),
        (long, LONG),
        (imported_tests, IMPORTED_TESTS),
        (misplaced, MISPLACED),
    ],
)
def test_rules(rule: Callable[[], Iterator[str]], sins: Collection[str]) -> None:
    found = set(rule())
    assert not found - set(sins), f"new sins. The rule is about: {rule.__doc__}"
    assert not set(sins) - found, "no longer a sin: take it out of the list"


def test_the_rules_speak_of_modules_that_exist() -> None:
    assert {*BELOW, *PURE, *SHELLS} <= MODULES.keys()
    assert all((ROOT / name).is_file() for name in LONG_ON_PURPOSE)
