"""Prompts for code in the middle: what stands before a gap and after it, in the form that a model was trained with.

The form follows from the tokens of the vocabulary, by their names. A GGUF may also say which tokens they are. The name
of the model says nothing here. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

from duo.engines.base import Vocabulary
from duo.prefix import common_length

NO_GAPS = "the vocabulary of this model has no tokens for code in the middle; take a model that was made to fill gaps"
"""Why a gap is not filled."""
SUFFIX_SHARE = 0.25
"""Share of the room that the text after the gap gets, if both texts need more. llama-server divides a batch alike."""
ANSWER_SHARE = 0.25
"""Most of the context that is left for the answer."""
USUAL_ANSWER = 512
"""Tokens that are left for an answer without a limit."""

_APART = "\u263a"
"""A character that tokenizers with spaces write as bytes, so that it joins with nothing."""
_CUTS = 4
"""How often a text is looked through for names of special tokens. What is left of one by then stays."""


class Names(NamedTuple):
    """What the marks of a form are called. The first name of each that a vocabulary has counts.

    middle: empty if the answer follows the second text at once. suffix_first: the text after the gap comes first.
    repository, file: they begin a repository and each of its files. title: of a file, where there is no such token.
    ends: tokens that end an answer, beside those of the model.
    """

    prefix: Sequence[str]
    suffix: Sequence[str]
    middle: Sequence[str]
    suffix_first: bool = False
    repository: Sequence[str] = ()
    file: Sequence[str] = ()
    title: str = "# {}\n"
    ends: Sequence[str] = ()


_TEXT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|cursor|>")

FORMS = (
    # Qwen, CodeGemma, Granite 4 and others.
    Names(
        ("<|fim_prefix|>",), ("<|fim_suffix|>",), ("<|fim_middle|>",),
        repository=("<|repo_name|>", "<|reponame|>"), file=("<|file_sep|>", "<|file_separator|>", "<|filename|>"),
        ends=("<|fim_pad|>", *_TEXT_ENDS),
    ),
    # StarCoder, SantaCoder, StableCode, Granite 3.
    Names(
        ("<fim_prefix>", "<fim-prefix>"), ("<fim_suffix>", "<fim-suffix>"), ("<fim_middle>", "<fim-middle>"),
        repository=("<repo_name>", "<reponame>"), file=("<file_sep>", "<filename>"),
        ends=("<fim_pad>", "<fim-pad>", *_TEXT_ENDS),
    ),
    # DeepSeek.
    Names(
        ("<\uff5cfim\u2581begin\uff5c>",), ("<\uff5cfim\u2581hole\uff5c>",), ("<\uff5cfim\u2581end\uff5c>",),
        ends=("<|EOT|>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    ),
    # CodeLlama.
    Names(
        ("\u2581<PRE>", "<PRE>"), ("\u2581<SUF>", "<SUF>"), ("\u2581<MID>", "<MID>"), ends=("\u2581<EOT>", "<EOT>")
    ),
    # GLM.
    Names(("<|code_prefix|>",), ("<|code_suffix|>",), ("<|code_middle|>",), ends=_TEXT_ENDS),
    # Seed-Coder.
    Names(("<[fim-prefix]>",), ("<[fim-suffix]>",), ("<[fim-middle]>",), suffix_first=True),
    # Codestral.
    Names(("[PREFIX]",), ("[SUFFIX]",), (), suffix_first=True, title="+++++ {}\n"),
)  # fmt: skip
"""In the order in which they are looked for."""

_known: MutableMapping[Vocabulary, Form | None] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Form:
    """The marks of a vocabulary. `middle`, `repository` and `file` are None if it has none."""

    prefix: int
    suffix: int
    middle: int | None
    suffix_first: bool = False
    repository: int | None = None
    file: int | None = None
    title: str = "# {}\n"
    ends: frozenset[int] = frozenset()

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that end an answer: no text of a gap has one of them."""
        marks = (self.prefix, self.suffix, self.middle, self.repository, self.file)
        return self.ends.union(mark for mark in marks if mark is not None)


@dataclass(frozen=True, slots=True)
class Gap:
    """What is around the text that is asked for. `before` and `after` are tokens. extra: names and texts of other
    files, the most important one last."""

    before: Sequence[int]
    after: Sequence[int]
    extra: Sequence[tuple[str, str]] = ()


def form_of(vocabulary: Vocabulary) -> Form | None:
    """The form of a vocabulary, or None if it has none. The first time takes a look at every token."""
    if vocabulary not in _known:
        _known[vocabulary] = _find(vocabulary)
    return _known[vocabulary]


def prompt_of(form: Form, gap: Gap, vocabulary: Vocabulary, context: int, max_tokens: int | None) -> list[int]:
    """The prompt of a gap. context: tokens of prompt and answer together. max_tokens: of the answer, if it is known.

    What does not fit is left out. Other files go first, from the first one on. Then the text before the gap loses its
    beginning, and the text after it its end.
    """
    begin = _begin(vocabulary)
    answer = min(USUAL_ANSWER if max_tokens is None else max_tokens, int(ANSWER_SHARE * context))
    room = max(0, context - answer - len(begin) - 4)
    before, after = cut(gap.before, gap.after, room)
    middle = [form.middle] if form.middle is not None else []
    files = _files(form, gap.extra, vocabulary, room - len(before) - len(after))
    one, other = [form.prefix, *before], [form.suffix, *after]
    parts = (other, one) if form.suffix_first else (one, other)
    return [*begin, *files, *parts[0], *parts[1], *middle]


def cut(before: Sequence[int], after: Sequence[int], room: int) -> tuple[Sequence[int], Sequence[int]]:
    """The end of one text and the beginning of the other, with at most `room` tokens together.

    The text after the gap has a quarter, and more if the other one needs less.
    """
    most_after = max(int(SUFFIX_SHARE * room), room - len(before))
    after = after[:most_after]
    return before[max(0, len(before) - (room - len(after))) :], after


def plain_tokens(text: str, vocabulary: Vocabulary, form: Form, spaced: bool = False) -> list[int]:
    """Token ids of a text of somebody's file. The names of special tokens in it are text like any other.

    spaced: the text may begin with a space of the tokenizer's, as some have it before the first word.
    """
    tokens: list[int] = []
    for part in _harmless(text, vocabulary, form):
        tokens += vocabulary.encode_rendered(part) if spaced else _without_space(part, vocabulary)
        spaced = False
    return tokens


def _harmless(text: str, vocabulary: Vocabulary, form: Form) -> Sequence[str]:
    """The text in parts, cut within each name of a special token, so that no part has one."""
    parts = [text]
    for _ in range(_CUTS):
        found = set[int]().union(*(vocabulary.encode_rendered(part) for part in parts))
        special = [token for token in found if token in form.stops or not vocabulary.token_bytes(token)]
        names = [name for token in special if len(name := _name(vocabulary, token)) > 1]
        if not names:
            break
        pattern = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
        parts = [piece for part in parts for piece in _cut_within(pattern, part)]
    return parts


def _cut_within(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """The text cut after the first character of each match."""
    start = 0
    for match in pattern.finditer(text):
        yield text[start : match.start() + 1]
        start = match.start() + 1
    yield text[start:]


def _without_space(text: str, vocabulary: Vocabulary) -> list[int]:
    if not text:
        return []
    first = vocabulary.encode_rendered("a")[:1]
    if not first or not vocabulary.token_bytes(first[0]).startswith(b" "):
        return vocabulary.encode_rendered(text)
    before = vocabulary.encode_rendered(_APART)
    tokens = vocabulary.encode_rendered(_APART + text)
    return tokens[len(before) :] if tokens[: len(before)] == before else vocabulary.encode_rendered(text)


def _files(form: Form, extra: Sequence[tuple[str, str]], vocabulary: Vocabulary, room: int) -> list[int]:
    """Other files as the beginning of a prompt: as many of the last ones as fit into `room` tokens."""
    if not extra:
        return []
    # Without a name, the file with the gap has an empty title.
    own = [form.file, *plain_tokens("\n", vocabulary, form)] if form.file is not None else []
    head = [form.repository, *plain_tokens("repository\n", vocabulary, form)] if form.repository is not None else []
    room -= len(own) + len(head)
    files: list[list[int]] = []
    for name, text in reversed(extra):
        if form.file is not None:
            file = [form.file, *plain_tokens(f"{name}\n{text}", vocabulary, form)]
        else:
            file = plain_tokens(form.title.format(name) + text + "\n", vocabulary, form)
        room -= len(file)
        if room < 0:
            break
        files.insert(0, file)
    return [*head, *(token for file in files for token in file), *own] if files else []


def _find(vocabulary: Vocabulary) -> Form | None:
    ids = _ids(vocabulary)
    for names in FORMS:
        prefix, suffix, middle = (_first(ids, each) for each in (names.prefix, names.suffix, names.middle))
        if prefix is not None and suffix is not None and (middle is not None or not names.middle):
            ends = frozenset(ids[name] for name in names.ends if name in ids)
            repository, file = _first(ids, names.repository), _first(ids, names.file)
            return Form(prefix, suffix, middle, names.suffix_first, repository, file, names.title, ends)
    told = vocabulary.fim_tokens
    if not {"prefix", "suffix", "middle"} <= told.keys():
        return None
    return Form(
        told["prefix"], told["suffix"], told["middle"], repository=told.get("repository"), file=told.get("file"),
        ends=frozenset(id for role, id in told.items() if role == "pad"),
    )  # fmt: skip


def _begin(vocabulary: Vocabulary) -> list[int]:
    """What the tokenizer puts before each text."""
    around = vocabulary.encode("")
    return around[: common_length(around, vocabulary.encode("a"))]


def _ids(vocabulary: Vocabulary) -> Mapping[str, int]:
    """The ids of all names that a form may have."""
    wanted = {name.encode() for form in FORMS for part in form if not isinstance(part, bool | str) for name in part}
    found: dict[str, int] = {}
    for token, meaning in enumerate(vocabulary.meanings):
        if meaning[:1] == b" ":
            meaning = "\u2581".encode() + meaning[1:]  # CodeLlama's names begin with a space in some files
        if meaning in wanted:
            found.setdefault(meaning.decode(), token)
    return found


def _first(ids: Mapping[str, int], names: Sequence[str]) -> int | None:
    return next((ids[name] for name in names if name in ids), None)


def _name(vocabulary: Vocabulary, token: int) -> str:
    return vocabulary.meanings[token].decode("utf-8", errors="replace")
