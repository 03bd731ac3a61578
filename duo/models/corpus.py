"""The running interpreter documents itself, so the training text needs no download.

Docstrings and signatures of well-known public objects become facts. Each fact answers three kinds of question: what is
it, how is it called, where is it. Questions have many phrasings, but answers always the same words, so that a small
model can learn them by heart. Library source is a minor share of the text. Everything here depends only on the
interpreter and on the given seed.
"""

from __future__ import annotations

import importlib
import inspect
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

Kind = Literal["what", "call", "where"]
Message = dict[str, str]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Well-known modules first: an object that several modules export is filed under the first one that lists it.
MODULES = _words(
    """
    builtins os os.path sys math random statistics json re shutil pathlib datetime time collections itertools functools
    contextlib subprocess threading asyncio logging argparse csv string textwrap hashlib hmac socket urllib.parse
    urllib.request tempfile glob fnmatch heapq bisect copy pickle operator struct zlib gzip bz2 zipfile tarfile uuid
    secrets enum dataclasses typing abc inspect traceback warnings platform getpass queue concurrent.futures sqlite3
    configparser decimal fractions base64 binascii html unicodedata calendar difflib pprint ast importlib timeit shlex
    ipaddress graphlib
    """
)

# Classes whose methods people really ask about.
CLASSES = _words(
    """
    builtins.str builtins.list builtins.dict builtins.set builtins.int builtins.float builtins.bytes pathlib.Path
    datetime.datetime datetime.date datetime.timedelta collections.deque collections.Counter collections.OrderedDict
    threading.Thread threading.Event threading.Barrier queue.Queue subprocess.Popen argparse.ArgumentParser
    logging.Logger random.Random concurrent.futures.Future concurrent.futures.Executor asyncio.Queue io.StringIO
    zipfile.ZipFile tarfile.TarFile contextlib.ExitStack fractions.Fraction socket.socket difflib.SequenceMatcher
    graphlib.TopologicalSorter statistics.NormalDist
    """
)

# Names in the modules above that few people meet; learning them would cost exposures of the others.
OBSCURE = re.compile(
    r"(os\.(sched|posix|get.*id|set.*id|[A-Z]|pidfd|register|init|memfd|eventfd|tc|l?chflags|ctermid|login|fexec|wait)"
    r"|socket\.(CMSG|[A-Z]|if_|send_fds|recv_fds|set)|sys\.(_|call|get_|set_|intern|is_)|asyncio\.([A-Z]|_|ensure|iscor)"
    r"|inspect\.([A-Z]|walktree|indent|class|format|attr|get(file|abs|async|coro|block|lineno))|logging\.(Buf|Str.*Style|Perc)"
    r"|ast\.[A-Z]|platform\.(DEV|free|java|mac|win|libc|_)|typing\.(Async|Supports|Aw|Co|Rev|Iter|Gen|Hash|Sized)"
    r"|operator\.i[a-z]+|decimal\.[A-Z]|calendar\.(Different|week$)|unicodedata\.is_norm|traceback\.(walk|_)"
    r"|threading\.(_|ex|set|get|stack)|[A-Z]\w+$)"
)

# Modules that a first question is likely to be about: their facts come three times as often.
FAVOURITES = _words("json shutil functools dataclasses tempfile zipfile")

SOURCES = _words("textwrap heapq bisect shutil glob fnmatch string json.decoder functools contextlib queue sched")

MAX_BODY = 320  # characters of docstring per answer: about 80 tokens
MAX_SIGNATURE = 240  # characters; a few constructors have more, and nobody wants to read them

WHAT = (
    "What does {n} do?",
    "What is {n}?",
    "Explain {n}.",
    "Tell me about {n}.",
    "What is {n} for?",
    "Describe {n}",
    "Can you explain what {n} does?",
    "I do not know {n}. What does it do?",
)
CALL = (
    "What arguments does {n} take?",
    "How do I use {n}?",
    "How do I call {n}?",
    "What is the signature of {n}?",
    "Which parameters does {n} have?",
    "Show me how to call {n}.",
)
WHERE = (
    "Which module has {s}?",
    "Where is {s}?",
    "Which module do I import for {s}?",
    "How do I import {s}?",
    "Where can I find {s} in the standard library?",
)
PRONOUN: dict[Kind, tuple[str, ...]] = {
    "what": ("What does it do?", "And what does it do?", "Can you explain it?", "What is it for?"),
    "call": ("What arguments does it take?", "How do I call it?", "And how do I use it?", "What is its signature?"),
    "where": ("Which module is it in?", "How do I import it?", "And where is it?", "Where do I find it?"),
}
SYSTEM = (
    "You are a helpful assistant.",
    "You answer questions about the Python standard library.",
    "You are a Python expert. Answer briefly.",
    "You are a helpful assistant for Python programmers.",
)
_WHO = (
    "I am the small language model that ships with duo. I know a slice of the Python standard library: ask me what "
    "a function does, what arguments it takes, or which module it is in."
)
_HELLO = "Hello! Ask me about the Python standard library, for example what shutil.copytree does."
_THANKS = "You are welcome. Ask me about another function whenever you like."
SMALL_TALK = tuple(
    [(q, _WHO) for q in ("Who are you?", "What are you?", "What can you do?", "What do you know?", "What is duo?")]
    + [(q, _HELLO) for q in ("hello", "Hello!", "Hi", "hi there", "Good morning", "Hey")]
    + [(q, _THANKS) for q in ("Thanks", "Thank you!", "thanks a lot", "Great, thank you.")]
)


@dataclass(frozen=True)
class Fact:
    """One documented object and the answers that the model should learn."""

    name: str  # as a user would write it: "shutil.copytree", "str.upper", "len"
    module: str
    what: str
    call: str | None
    where: str | None

    def answer(self, kind: Kind) -> str | None:
        """The one answer to every question of this kind."""
        return {"what": self.what, "call": self.call, "where": self.where}[kind]

    def kinds(self) -> list[Kind]:
        """The kinds of question that this fact can answer."""
        return [k for k in ("what", "call", "where") if self.answer(k)]


@dataclass(frozen=True)
class Question:
    """A question with its expected answer and the sentence by which the answer is judged."""

    text: str
    answer: str

    @property
    def opening(self) -> str:
        """The answer's first sentence."""
        return first_sentence(self.answer)


_SENTENCE = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)[.!?:](?=\s|$)")


def first_sentence(text: str) -> str:
    """Text up to the end of its first sentence (or first paragraph)."""
    paragraph = text.split("\n\n", 1)[0]
    found = _SENTENCE.search(paragraph)
    return paragraph[: found.end()] if found else paragraph


def _body(doc: str) -> str:
    """The prose at the beginning of a docstring, cut at a sentence so that it stays short enough to learn."""
    kept: list[str] = []
    for paragraph in doc.split("\n\n"):
        lines = paragraph.strip("\n").split("\n")
        # Many C docstrings open with call forms ("S.find(sub) -> int", "dict() -> new empty dictionary").
        while lines and re.match(r"^[\w.]+\(.*\)?\s*(->.*)?$", lines[0].strip()) and ("->" in lines[0] or not kept):
            lines = lines[1:]
        if not lines:
            continue
        if any(line.lstrip().startswith((">>>", "-", "*", "|", "=", "+")) for line in lines):
            break
        if kept and lines[0].startswith((" ", "\t")):
            break
        kept.append(" ".join(" ".join(lines).split()).replace("``", "`"))
    text = ""
    for paragraph in kept:
        joined = text + ("\n\n" if text else "") + paragraph
        if len(joined) <= MAX_BODY:
            text = joined
            continue
        body = joined[:MAX_BODY]
        ends = [m.end() for m in re.finditer(r"[.!?](?=\s)", body)]
        cut = body[: ends[-1]] if ends else ""
        return cut if len(cut) > len(text) else text
    # A last paragraph that announces a list or an example which was left out says nothing.
    return text.rpartition("\n\n")[0] or text if text.endswith(":") else text


def _signature(obj: object) -> str | None:
    """Parameter list without annotations, and without defaults that print as addresses."""
    try:
        signature = inspect.signature(obj)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    parameters: list[inspect.Parameter] = []
    for p in signature.parameters.values():
        if p.name in ("self", "cls") and not parameters:
            continue
        if p.default is not p.empty and re.search(r"<|\n|/", repr(p.default)):
            p = p.replace(default=Ellipsis)
        parameters.append(p.replace(annotation=p.empty))
    try:
        text = str(signature.replace(parameters=parameters, return_annotation=signature.empty))
    except ValueError:
        return None
    return text.replace("=Ellipsis", "=...") if len(text) <= MAX_SIGNATURE else None


def _listing(names: list[str]) -> str:
    quoted = [f"`{n}`" for n in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]


def _fact(name: str, module: str, obj: object, owner: str | None) -> Fact | None:
    doc = inspect.getdoc(obj)
    # Other libraries patch the standard library in memory; what they add must not depend on who was imported first.
    if not doc or (getattr(obj, "__module__", None) or module).split(".")[0] not in sys.stdlib_module_names:
        return None
    body = _body(doc)
    opening = first_sentence(body)
    if not 20 <= len(opening) <= 200 or not body.isascii() or "\\" in body or not body[0].isalpha():
        return None
    if opening.count("(") != opening.count(")"):
        return None
    paragraphs = [p if p.endswith((".", "!", "?", ":", ".)")) else p + "." for p in body.split("\n\n")]
    body = "\n\n".join(paragraphs)
    short = name.rsplit(".", 1)[-1]
    if inspect.ismodule(obj):
        return Fact(name, module, f"{body}\n\nIt is a module: write `import {name}` to use it.", None, None)
    sort = "class" if inspect.isclass(obj) else "method" if owner else "function"
    home = f"in the `{module}` module"
    if owner:
        home = f"of the `{owner}` class"
    elif module == "builtins":
        home = "that is always there"
    signature = _signature(obj)
    what = f"{body}\n\nIt is a {sort} {home}" + (f", called as `{short}{signature}`." if signature else ".")
    call = None
    if signature is not None:
        inner = [p.split("=", 1)[0] for p in re.sub(r"=\([^()]*\)|=\[[^\]]*\]", "=x", signature[1:-1]).split(", ")]
        names = [p for p in inner if p not in ("", "/", "*")]
        takes = f"It takes {_listing(names)}." if names else "It takes no arguments."
        call = f"Call it as `{name}{signature}`. {takes}\n\n{body}"
    where = None
    if owner is None and module != "builtins":
        where = (
            f"The `{module}` module has `{short}`. Write `from {module} import {short}`, or `import {module}` and then "
            f"`{name}`.\n\n{body}"
        )
    return Fact(name, module, what, call, where)


def _public(module_name: str) -> Iterator[tuple[str, object]]:
    module = importlib.import_module(module_name)
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    for name in sorted(names):
        obj = getattr(module, name, None)
        if name.startswith("_") or obj is None or inspect.ismodule(obj):
            continue
        if inspect.isroutine(obj) or inspect.isclass(obj):
            home = getattr(obj, "__module__", None) or module_name
            # An object that another public module defines belongs there ("typing" re-exports "abc").
            if home.startswith("_") or home.split(".")[0] in (module_name.split(".")[0], "posix", "posixpath", "nt"):
                yield name, obj


@cache
def facts() -> tuple[Fact, ...]:
    """Every fact that the interpreter can tell about the chosen modules, in a fixed order."""
    found: dict[str, Fact] = {}
    seen: dict[int, object] = {}  # holds the objects, so that no id is used twice

    def add(name: str, module: str, obj: object, owner: str | None) -> None:
        if id(obj) in seen or name in found or OBSCURE.match(name):
            return
        fact = _fact(name, module, obj, owner)
        if fact is not None:
            seen[id(obj)] = obj
            found[name] = fact

    for module_name in MODULES:
        if module_name != "builtins":
            add(module_name, module_name, importlib.import_module(module_name), None)
        for name, obj in _public(module_name):
            if inspect.isclass(obj) and issubclass(obj, BaseException) and module_name != "builtins":
                continue
            add(name if module_name == "builtins" else f"{module_name}.{name}", module_name, obj, None)
    for class_name in CLASSES:
        module_name, short = class_name.rsplit(".", 1)
        cls = getattr(importlib.import_module(module_name), short)
        owner = short if module_name == "builtins" else class_name
        for name in sorted(n for n in dir(cls) if not n.startswith("_")):
            method = inspect.getattr_static(cls, name)
            obj = getattr(cls, name)
            if callable(obj) and not isinstance(method, type):
                add(f"{owner}.{name}", module_name, obj, owner)
    return tuple(found.values())


def _decorate(name: str, rng: random.Random) -> str:
    return rng.choices((name, f"`{name}`", f"{name}()"), (6, 2, 1))[0]


def ask(fact: Fact, kind: Kind, rng: random.Random, pronoun: bool = False) -> Question:
    """One question of the given kind about a fact, in a phrasing that `rng` picks."""
    answer = fact.answer(kind)
    if answer is None:
        raise ValueError(f"{fact.name} has no answer of kind {kind!r}; ask one of {fact.kinds()}")
    if pronoun:
        return Question(rng.choice(PRONOUN[kind]), answer)
    forms = {"what": WHAT, "call": CALL, "where": WHERE}[kind]
    short = fact.name.rsplit(".", 1)[-1]
    where_name = short if _short_names()[short] == 1 else fact.name
    text = rng.choice(forms).format(n=_decorate(fact.name, rng), s=_decorate(where_name, rng))
    return Question(text, answer)


@cache
def _short_names() -> Counter[str]:
    return Counter(fact.name.rsplit(".", 1)[-1] for fact in facts() if fact.where)


_WEIGHT: dict[Kind, float] = {"what": 0.5, "call": 0.28, "where": 0.22}


def _kind(fact: Fact, rng: random.Random) -> Kind:
    kinds = fact.kinds()
    return rng.choices(kinds, [_WEIGHT[k] for k in kinds])[0]


def questions(sample: int, seed: int) -> list[Question]:
    """A random sample of the questions that the training text asks, each about another object."""
    rng = random.Random(seed)
    chosen = rng.sample(facts(), min(sample, len(facts())))
    return [ask(fact, _kind(fact, rng), rng) for fact in chosen]


def conversations(rng: random.Random) -> Iterator[list[Message]]:
    """One pass over all facts in random order, grouped into conversations of one to eight turns."""
    order = [fact for fact in facts() for _ in range(3 if fact.module in FAVOURITES else 1)]
    rng.shuffle(order)
    position = 0
    while position < len(order):
        turns = rng.choices((1, 2, 3, 4, 6, 8), (44, 22, 16, 10, 5, 3))[0]
        messages: list[Message] = []
        if rng.random() < 0.2:
            messages.append({"role": "system", "content": rng.choice(SYSTEM)})
        last: Fact | None = None
        for _ in range(turns):
            if rng.random() < 0.03:
                text, answer = rng.choice(SMALL_TALK)
                question, last = Question(text, answer), None
            elif last is not None and rng.random() < 0.3:
                question = ask(last, _kind(last, rng), rng, pronoun=True)
            elif position < len(order):
                last = order[position]
                position += 1
                question = ask(last, _kind(last, rng), rng)
            else:
                break
            messages.append({"role": "user", "content": question.text})
            messages.append({"role": "assistant", "content": question.answer})
        if messages and messages[-1]["role"] == "assistant":
            yield messages


@cache
def sources() -> tuple[str, ...]:
    """Source text of a few library modules, for completion."""
    return tuple(inspect.getsource(importlib.import_module(name)) for name in SOURCES)


def tokenizer_text() -> Iterator[str]:
    """Text from which the vocabulary is learned: every answer once, some phrasings, and the source."""
    rng = random.Random(0)
    for fact in facts():
        for kind in fact.kinds():
            question = ask(fact, kind, rng)
            yield question.text
            yield question.answer
    for text, answer in SMALL_TALK:
        yield text
        yield answer
    yield from SYSTEM
    yield from sources()
